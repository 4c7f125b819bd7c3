"""What buys less noise a second in a short training? One change at a time, on 15 architectures of the shipped report.

python experiments/benchmarks/noise_per_second.py run DATA --storage URL [--until 11:30] [--workers N]
python experiments/benchmarks/noise_per_second.py report DATA RECORDS.jsonl OUT.json

DATA is `scenes`, or the folder that `photographs.py split` made. `run` evaluates what the store does not know, one
evaluation after the other, and records each at once: stopped, the same command goes on; about 2 CPU hours on either.
--supernet FILE takes inherited weights in, once for each file: one that was trained longer is another file.

`report` reads an exported ledger. For every change: Kendall's tau with the reference (one training of each, and the
mean of two), the noise between two trainings of one architecture and the share of it that all architectures have in
common (which no ranking feels), CPU seconds, and the noise that is left after as many seconds as one plain training
takes. Two trainings of half the length are one evaluation here, their mean.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from evaluators.datasets import SegmentationDataset
from evaluators.datasets.named import dataset_named
from evaluators.named import scorer_named
from evaluators.proxy import REFERENCE
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.photographs import run, shipped_architectures, time_of_today
from experiments.store.ledger import read_records
from experiments.store.records import Record
from experiments.trust.standing import shipped_reports
from experiments.workers.recorded import Want
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig

COUNT = 15
PLAIN = "proxy-short"
CHANGES = {
    "scenes": ("+common", "+average", "+all-pixels", "+half"),
    "photographs": ("+common", "+half"),
}
"""Photographs average weights and score all pixels by default."""
RESAMPLES = 2000
Floats = NDArray[np.float64]


def architectures() -> tuple[TopFormerConfig, ...]:
    """T, S, B and every third of the others, as the report has them: half of these are of about equal latency."""
    others = [arch for arch in shipped_architectures() if arch not in ANCHORS.values()]
    return (*ANCHORS.values(), *others[::3])[:COUNT]


def fidelities(dataset: SegmentationDataset, supernets: Sequence[str]) -> tuple[str, ...]:
    """What is compared: the plain one first, then each change, then inherited weights."""
    changes = CHANGES["scenes" if dataset.name == "scenes" else "photographs"]
    return (PLAIN, *(f"{PLAIN}{change}" for change in changes), *(f"supernet:{file}" for file in supernets))


def replicates_of(name: str) -> int:
    """Two evaluations of each; of halves, which count as one by twos, four; inherited weights have no noise."""
    return 1 if name.startswith("supernet:") else 4 if name.endswith("+half") else 2


def wants(data: str, supernets: Sequence[str]) -> Iterator[Want]:
    """All of one replicate before the next, so that a run that is cut off has compared all changes once."""
    dataset = dataset_named(data)
    named = [(name, scorer_named(name, REFERENCE, dataset)) for name in fidelities(dataset, supernets)]
    task = Task(num_classes=dataset.num_classes)
    for replicate in range(4):
        for arch in architectures():
            for name, scorer in named:
                if replicate < replicates_of(name):
                    yield Want(scorer=scorer, candidate=Candidate(arch=arch, task=task), replicate=replicate)


def by_reference(data: str, records: Mapping[str, Mapping[str, list[Record]]]) -> dict[str, float]:
    """What the reference says of each architecture, by key: the shipped report on scenes, the ledger on photographs."""
    if dataset_named(data).name == "scenes":
        (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
        return {one.key: float(np.mean(one.values[report.reference])) for one in report.ranked}
    found = records.get(REFERENCE.name, {})
    return {key: float(np.mean([one.judge_miou_pct for one in every])) for key, every in found.items()}


def measured(
    evaluations: Mapping[str, Sequence[Record]], truth: Mapping[str, float], *, per_evaluation: int
) -> dict[str, Any]:
    """What one fidelity is worth; an evaluation is the mean of so many trainings."""
    keys = [arch.key for arch in architectures() if arch.key in truth]
    whole = [key for key in keys if len(evaluations.get(key, ())) >= 2 * per_evaluation]
    single = [key for key in keys if len(evaluations.get(key, ())) >= per_evaluation]
    found: dict[str, Any] = {"architectures": len(single), "repeated": len(whole)}
    if len(single) < 3:
        return found

    def values(names: Sequence[str], start: int, stop: int) -> Floats:
        return np.array([np.mean([one.value for one in evaluations[name][start:stop]]) for name in names])

    reference = np.array([truth[name] for name in single])
    found["tau_of_one"] = with_interval(values(single, 0, per_evaluation), reference)
    cpu = [one.accuracy.cpu_seconds for name in single for one in evaluations[name] if one.accuracy]
    seconds = per_evaluation * float(np.mean([one for one in cpu if one is not None]))
    found["cpu_seconds"] = round(seconds, 1)
    if len(whole) < 3:
        return found
    first, second = (values(whole, at * per_evaluation, (at + 1) * per_evaluation) for at in (0, 1))
    difference = first - second
    felt = float(difference.std(ddof=1)) / math.sqrt(2)  # what all have in common falls out
    spread = float(((first + second) / 2).std(ddof=1))
    found |= {
        "tau_of_two": with_interval((first + second) / 2, np.array([truth[name] for name in whole])),
        "tau_between_the_two": round(float(kendalltau(first, second).statistic), 3),
        "noise_pct": round(float(np.sqrt((difference**2).mean() / 2)), 3),
        "noise_that_ranks_pct": round(felt, 3),
        "spread_pct": round(spread, 3),
        "noise_to_spread": round(felt / spread, 3) if spread else None,
    }
    found["noise_to_spread_times_root_of_seconds"] = round(felt / spread * math.sqrt(seconds), 3) if spread else None
    return found


def with_interval(values: Floats, reference: Floats) -> list[float]:
    """Tau, and the ends of its 90 % interval by resampling architectures."""
    rng = np.random.default_rng(0)
    some = rng.integers(0, len(values), (RESAMPLES, len(values)))
    drawn = np.array([kendalltau(values[one], reference[one]).statistic for one in some])
    low, high = np.nanpercentile(drawn, [5, 95])
    return [round(float(one), 3) for one in (kendalltau(values, reference).statistic, low, high)]


def report(data: str, ledger: Path, out: Path | None, supernets: Sequence[str]) -> None:
    dataset = dataset_named(data)
    scorers = {name: scorer_named(name, REFERENCE, dataset) for name in fidelities(dataset, supernets)}
    reference = scorer_named(REFERENCE.name, REFERENCE, dataset)
    wanted = {scorer.fingerprint: name for name, scorer in (*scorers.items(), (REFERENCE.name, reference))}
    records: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(read_records(ledger), key=lambda one: one.record.replicate):
        if one.record.evaluator in wanted and one.record.value is not None:
            records[wanted[one.record.evaluator]][one.candidate.arch.key].append(one.record)
    truth = by_reference(data, records)
    found = {
        name: measured(records.get(name, {}), truth, per_evaluation=2 if name.endswith("+half") else 1)
        for name in scorers
    }
    known = {
        "dataset": dataset.name,
        "architectures": len(architectures()),
        "by_the_reference": sum(arch.key in truth for arch in architectures()),
    }
    keep({**known, "resamples": RESAMPLES, "seed": 0, "fidelities": found}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data")
    running.add_argument("--storage", required=True)
    running.add_argument("--workers", type=int, default=1)
    running.add_argument("--until", help="a time of today; no evaluation begins after it")
    reporting = commands.add_parser("report")
    reporting.add_argument("data")
    reporting.add_argument("records", type=Path)
    reporting.add_argument("out", type=Path, nargs="?")
    for one in (running, reporting):
        one.add_argument("--supernet", action="append", default=[], help="weights to inherit; again for others")
    asked = parser.parse_args()
    if asked.command == "report":
        report(asked.data, asked.records, asked.out, asked.supernet)
        return
    run(list(wants(asked.data, asked.supernet)), asked.storage, workers=asked.workers, until=time_of_today(asked.until))


if __name__ == "__main__":
    main()

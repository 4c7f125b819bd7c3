"""Which sampler needs the fewest evaluations? On the surrogate of recorded evaluations.

`python experiments/benchmarks/samplers.py run RECORDS.csv.gz RUNS.jsonl [--samplers auto,nsga2] [--seeds 10]` runs
searches of the `pyramid` space within the latency of B, of 200 evaluations each (random search: 1,000), and adds a
line for each to RUNS.jsonl; those that are there are not run again. `NAME` is the tool's own loop with this sampler:
the gate before the ask, no duplicates. `optuna:NAME` is Optuna's sampler as its documentation shows it: a study of two
directions, the budget as a constraint, one ask at a time, all defaults.

`python experiments/benchmarks/samplers.py report RUNS.jsonl OUT.json OUT.png` compares them (also RUNS.jsonl.gz).

What a sampler sees is the surrogate's mIoU with noise, the same for an architecture whoever asks; what counts is the
hypervolume of the values without noise, of all architectures within the budget that were evaluated.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import torch
from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from evaluators.base import Metrics
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.surrogate import TABLE, Floats, Point, Recorded, Surrogate, compiled, space_searched
from experiments.front.pareto import hypervolume
from experiments.search.gate import Limits
from experiments.search.guided import Guide
from experiments.search.samplers import next_batch
from experiments.store.records import Record, Trial
from experiments.study_config import SearchSection
from latency_lut.table import LatencyTable, find_table
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate

EVALUATIONS = 200
RANDOM_EVALUATIONS = 1000
BATCH = 8
PLACES = (25, 50, 100, 200)
NOISE_PCT = 0.5
"""Standard deviation between trainings; the reference recipe's was measured as 0.63 points."""
WORST_MIOU_PCT = 20.0
"""With B's latency, the corner from which hypervolumes are measured."""
PLAIN = {
    "nsga2": NSGAIISampler,
    "nsga3": NSGAIIISampler,
    "tpe": TPESampler,
    "gp": GPSampler,
    "random": RandomSampler,
}


class Truth:
    """The surrogate, the table and the budget."""

    def __init__(self, records: Path) -> None:
        self.space = space_searched()
        self.table: LatencyTable = find_table(TABLE)
        self.surrogate = Surrogate.fit(Recorded.read(records))
        base = Candidate(arch=ANCHORS["base"], task=self.space.task)
        self.max_ms = self.table.estimate(candidate_blocks(base)).total_ms

    def miou_pct(self, points: Sequence[Point]) -> Floats:
        return self.surrogate.predict(points)

    def seen_pct(self, point: Mapping[str, int | str], key: str) -> float:
        digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        return float(self.miou_pct([dict(point)])[0] + np.random.default_rng(digest).normal(0, NOISE_PCT))

    @functools.cached_property
    def guide(self) -> Guide:
        return Guide(self.space, compiled(), max_ms=self.max_ms)


def ours(truth: Truth, sampler: str, seed: int, evaluations: int, spent: list[float]) -> Iterator[tuple[Point, float]]:
    """The tool's loop, without a store and without training."""
    limits = Limits(
        why_not=lambda _: None,
        latency=lambda candidate: truth.table.estimate(candidate_blocks(candidate)),
        max_ms=truth.max_ms,
    )
    size = 100 if sampler == "random" else BATCH  # it learns nothing between batches
    trials: list[Trial] = []
    search = SearchSection(trials=evaluations, batch_size=size, sampler=sampler, seed=seed, anchors=[])
    for batch in range(-(-evaluations // size)):
        proposals, statistics = next_batch(
            truth.space,
            trials,
            search,
            batch=batch,
            size=size,
            limits=limits,
            guide=lambda: truth.guide,
            fidelity="surrogate",
        )
        spent[0] += statistics.sampler_seconds
        for one in proposals:
            seen = truth.seen_pct(one.point, one.candidate.key)
            record = Record(
                candidate_key=one.candidate.key,
                evaluator="surrogate",
                fidelity="surrogate",
                replicate=0,
                status="complete",
                metrics=Metrics(
                    miou_pct=seen, per_class_iou_pct=(), pixel_accuracy_pct=0.0, train_loss=None, seconds=0.0
                ),
                reason=None,
                seconds=0.0,
            )
            trials.append(
                Trial(
                    number=len(trials),
                    batch=batch,
                    candidate=one.candidate,
                    point=one.point,
                    origin=one.origin,
                    anchor=None,
                    latency=one.latency,
                    state="complete",
                    record=record,
                    from_cache=False,
                    weights=None,
                    weights_sha256=None,
                )
            )
            yield dict(one.point), one.latency.total_ms


def plain(truth: Truth, sampler: str, seed: int, evaluations: int, spent: list[float]) -> Iterator[tuple[Point, float]]:
    """Optuna as its documentation shows it."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = PLAIN[sampler](seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=made)
    for _ in range(evaluations):
        started = time.perf_counter()
        trial = study.ask()
        candidate = truth.space.suggest(trial)
        spent[0] += time.perf_counter() - started
        point = truth.space.encode(candidate)
        ms = truth.table.estimate(candidate_blocks(candidate)).total_ms
        trial.set_constraint("over_ms", ms - truth.max_ms)
        values = truth.seen_pct(point, candidate.key), ms
        started = time.perf_counter()
        study.tell(trial, values)
        spent[0] += time.perf_counter() - started
        yield dict(point), ms


def searched(truth: Truth, name: str, seed: int) -> dict[str, Any]:
    """One search: hypervolume after every evaluation."""
    kind, _, sampler = name.rpartition(":")
    evaluations = RANDOM_EVALUATIONS if name == "random" else EVALUATIONS
    spent = [0.0]
    random.seed(seed)
    found = list((plain if kind else ours)(truth, sampler, seed, evaluations, spent))
    miou_pct = truth.miou_pct([point for point, _ in found])
    pairs = [(ms, float(value)) for (_, ms), value in zip(found, miou_pct, strict=True)]
    reference = truth.max_ms, WORST_MIOU_PCT
    steps = [*range(1, EVALUATIONS + 1), *range(EVALUATIONS + 50, evaluations + 1, 50)]
    return {
        "sampler": name,
        "seed": seed,
        "evaluations": steps,
        "hypervolume": [round(hypervolume(pairs[:n], reference), 2) for n in steps],
        "repeated": len(found) - len({json.dumps(point, sort_keys=True) for point, _ in found}),
        "over_budget": sum(ms > truth.max_ms for ms, _ in pairs),
        "sampler_seconds_per_evaluation": round(spent[0] / evaluations, 4),
    }


_TRUTH: list[Truth] = []


def begin(records: Path) -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _TRUTH.append(Truth(records))


def one_run(job: tuple[str, int]) -> dict[str, Any]:
    return searched(_TRUTH[0], *job)


def run(records: Path, out: Path, names: Sequence[str], seeds: int, workers: int) -> None:
    there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["sampler"], line["seed"]) for line in there}
    jobs = [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in done]
    compiled()  # before the processes are forked
    with multiprocessing.get_context("fork").Pool(workers, begin, (records,)) as pool:
        for line in pool.imap_unordered(one_run, jobs):
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line["sampler"], line["seed"], line["hypervolume"][-1], line["sampler_seconds_per_evaluation"])


def report(runs: Path, out: Path, figure: Path) -> None:
    text = gzip.decompress(runs.read_bytes()).decode() if runs.suffix == ".gz" else runs.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(line["sampler"], []).append(line)
    goal = median(line["hypervolume"][-1] for line in by_name["random"])
    content = {
        "noise_pct": NOISE_PCT,
        "random_search_1000_hypervolume_median": goal,
        "samplers": {name: judged(found, goal) for name, found in sorted(by_name.items())},
    }
    keep(content, out)
    draw(by_name, goal, figure)


def judged(lines: Sequence[Mapping[str, Any]], goal: float) -> dict[str, Any]:
    reached = [
        next((n for n, hv in zip(x["evaluations"], x["hypervolume"], strict=True) if hv >= goal), None) for x in lines
    ]
    at = {n: sorted(line["hypervolume"][n - 1] for line in lines) for n in PLACES}
    middle = median([n if n is not None else math.inf for n in reached])
    return {
        "seeds": len(lines),
        "hypervolume_median": {n: median(values) for n, values in at.items()},
        "hypervolume_range": {n: [values[0], values[-1]] for n, values in at.items()},
        "evaluations_to_reach_random_search_1000_median": middle if math.isfinite(middle) else None,
        "seeds_that_reached_it": sum(n is not None for n in reached),
        "repeated": sum(line["repeated"] for line in lines),
        "over_budget": sum(line["over_budget"] for line in lines),
        "sampler_seconds_per_evaluation": round(median(x["sampler_seconds_per_evaluation"] for x in lines), 3),
    }


def draw(by_name: Mapping[str, Sequence[Mapping[str, Any]]], goal: float, path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    chart, axes = pyplot.subplots(figsize=(9, 5.5))
    for name, lines in sorted(
        by_name.items(), key=lambda item: -median(x["hypervolume"][EVALUATIONS - 1] for x in item[1])
    ):
        values = np.array([line["hypervolume"][:EVALUATIONS] for line in lines])
        steps = np.arange(1, EVALUATIONS + 1)
        style = "--" if ":" in name else "-"
        (drawn,) = axes.plot(steps, np.median(values, 0), style, label=f"{name} ({len(lines)} seeds)")
        axes.fill_between(steps, values.min(0), values.max(0), color=drawn.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(goal, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("random search after 1,000", (EVALUATIONS, goal), ha="right", va="bottom")
    axes.set(xlabel="evaluations", ylabel="hypervolume (ms x points of mIoU)", xlim=(0, EVALUATIONS))
    low = min(line["hypervolume"][9] for lines in by_name.values() for line in lines)
    axes.set_ylim(bottom=low)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    chart.tight_layout()
    chart.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("run")
    one.add_argument("records", type=Path)
    one.add_argument("runs", type=Path)
    one.add_argument(
        "--samplers", default="auto,nsga2,nsga3,tpe,random," + ",".join(f"optuna:{name}" for name in PLAIN)
    )
    one.add_argument("--seeds", type=int, default=10)
    one.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    two = parts.add_parser("report")
    for name in ("runs", "out", "figure"):
        two.add_argument(name, type=Path)
    asked = parser.parse_args()
    if asked.part == "run":
        run(asked.records, asked.runs, asked.samplers.split(","), asked.seeds, asked.workers)
    else:
        report(asked.runs, asked.out, asked.figure)


if __name__ == "__main__":
    main()

"""What does a study cost beside its evaluations? `python experiments/benchmarks/overhead.py OUT.json [--trials 400]`

Per trial of an evaluation that does nothing, by 4 local processes and on Ray with as many, in one study: from the end
of its second batch, when every process has started, to its end. The sampler's own time, which the study records batch
by batch, is taken off and given beside it. And how long the front of 100,000 stored trials takes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from evaluators.base import Metrics
from experiments.benchmarks.evidence import keep
from experiments.front.lookup import at_rung
from experiments.front.pareto import front
from experiments.search.study import Event, run_study
from experiments.store.records import BatchStatistics, Proposal, Record, Study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.workers.pool import Pool, worker_pool
from experiments.workers.ray import LOCAL, Resources, ray_pool
from latency_lut.table import LatencyTable, find_table
from search_space import SearchSpace
from topformer.blocks import candidate_blocks
from topformer.config import Candidate

STUDY = """
name = "overhead"
space = {{ preset = "pyramid" }}
[task]
num_classes = 59
[latency]
table = "snapdragon865-a77-1core-fp32"
[evaluator]
recipe = "proxy-short"
[search]
trials = {trials}
batch_size = {batch}
sampler = "random"
"""
PROCESSES = 4
BATCH = 40
WARM_UP = 2 * BATCH
STORED = 100_000
READINGS = 5


@dataclass(frozen=True)
class Nothing:
    """An evaluation that takes no time."""

    fingerprint: str = "nothing-1"
    fidelity: str = "nothing"

    def why_not(self, _: Candidate) -> str | None:
        return None

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics:
        return Metrics(
            miou_pct=int(candidate.key[:4], 16) / 655.36,
            per_class_iou_pct=(50.0,) * 59,
            pixel_accuracy_pct=0.0,
            train_loss=None,
            seconds=0.0,
            cpu_seconds=0.0,
        )


def pool(kind: str) -> AbstractContextManager[Pool]:
    return worker_pool(PROCESSES) if kind == "local" else ray_pool(LOCAL, PROCESSES, Resources(cpus=0.5))


def overhead(kind: str, trials: int) -> dict[str, float]:
    """What each trial costs after the first two batches."""
    config = StudyConfig.from_toml(STUDY.format(trials=WARM_UP + trials, batch=BATCH), where="benchmark")
    settled: list[float] = []

    def note(event: Event) -> None:
        if event.trial is not None:
            settled.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/o.db", create=True) as store:
        started = time.perf_counter()
        run_study(config, store, evaluator=Nothing(), elsewhere=pool(kind), report=note)
        sampler_s = sum(batch.sampler_seconds for batch in store.batches(config.name)[WARM_UP // BATCH :])
    return {
        "trials": trials,
        "ms_a_trial": round(1000 * (settled[-1] - settled[WARM_UP - 1] - sampler_s) / trials, 2),
        "sampler_ms_a_trial": round(1000 * sampler_s / trials, 2),
        f"first_{WARM_UP}_trials_s": round(settled[WARM_UP - 1] - started, 2),
    }


def stored_front(count: int) -> dict[str, float]:
    """Seconds to open a store, and to read its front, of a study of so many trials."""
    config = StudyConfig.from_toml(STUDY.format(trials=count, batch=BATCH), where="benchmark")
    space, table, rng = config.search_space(), find_table(config.latency.table), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/o.db"
        with Store.open(url, create=True) as store:
            study = Study(
                config=config,
                evaluator="n",
                fidelity="nothing",
                table_text=table.text,
                created=datetime.now(UTC).isoformat(),
                finished=None,
            )
            trials = distinct(space, table, count, rng)
            batches = [BatchStatistics(asked=count, invalid=0, over_budget=0, duplicates=0, sampler_seconds=0.0)]
            store.add_study(study, batches=batches, trials=((i, 0, *one, False) for i, one in enumerate(trials)))
        queries = []
        for _ in range(READINGS):
            started = time.perf_counter()
            with Store.open(url, read_only=True) as store:
                study, leading = at_rung(store, "overhead", None, every=False)
                members = front(leading, fidelity="nothing")
            queries.append(time.perf_counter() - started)
        command = [sys.executable, "-m", "experiments", "front", study.name, "--storage", url, "--json"]
        started = time.perf_counter()
        listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        command_s = time.perf_counter() - started
        assert [row["trial"] for row in listed] == [trial.number for trial in members]
        return {
            "trials": count,
            "front_s": round(median(queries), 3),
            "front_longest_s": round(max(queries), 3),
            "command_with_start_s": round(command_s, 3),
            "members": len(members),
        }


def distinct(
    space: SearchSpace, table: LatencyTable, count: int, rng: random.Random
) -> Iterator[tuple[Proposal, Record]]:
    """Random architectures, each once, with random mIoUs."""
    there: set[str] = set()
    while len(there) < count:
        candidate = space.sample(rng)
        if candidate.key in there:
            continue
        there.add(candidate.key)
        latency = table.estimate(candidate_blocks(candidate))
        record = Record(
            candidate_key=candidate.key,
            evaluator="n",
            fidelity="nothing",
            replicate=0,
            status="complete",
            metrics=Metrics(
                miou_pct=rng.uniform(20, 50),
                per_class_iou_pct=(50.0,) * 59,
                pixel_accuracy_pct=60.0,
                train_loss=None,
                seconds=0.0,
            ),
            reason=None,
            seconds=0.0,
        )
        point = space.encode(candidate)
        yield Proposal(candidate=candidate, point=point, origin="sampler", anchor=None, latency=latency), record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--stored", type=int, default=STORED)
    asked = parser.parse_args()
    content = {
        "processes": PROCESSES,
        "local": overhead("local", asked.trials),
        "ray": overhead("ray", asked.trials),
        "front_of_stored_trials": stored_front(asked.stored),
    }
    keep(content, asked.out)


if __name__ == "__main__":
    main()

"""A surrogate of recorded evaluations, to compare samplers on: an architecture's mIoU in a millisecond.

`python experiments/benchmarks/surrogate.py record SUPERNET OUT.csv.gz --storage URL [--count 1050] [--workers 2]`
evaluates architectures of the `pyramid` space that are no slower than B by inherited weights on `scenes`, and keeps
them in a compact file: 600 at random, evenly over the latencies, and the others as children of the best so far, so that
the surrogate also knows what good architectures look like; no sampler of the tool takes part. It resumes.

`python experiments/benchmarks/surrogate.py judge RECORDS.csv.gz OUT.json` fits it to four fifths and says how well it
ranks and predicts the last fifth.

The surrogate is a mean of small neural networks, another kind of model than the Gaussian processes of the samplers.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import kendalltau

from evaluators.base import Evaluator
from evaluators.compiled import CompiledTable
from evaluators.datasets.scenes import Scenes
from evaluators.supernet import SupernetEvaluator
from experiments.benchmarks.evidence import keep
from experiments.search.guided import Guide
from experiments.search.schedule import promoted
from experiments.store.records import Record
from experiments.store.store import Store
from experiments.workers.pool import worker_pool
from experiments.workers.recorded import recorded
from latency_lut.table import find_table
from search_space import SearchSpace, preset
from topformer.config import ANCHORS, Candidate, Task
from topformer.writing import write_whole

TABLE = "snapdragon865-a77-1core-fp32"
AT_RANDOM = 600
GENERATION = 90
PARENTS = 60
MEMBERS = 8
HIDDEN = 96
STEPS = 1200

Floats = NDArray[np.float64]
Point = dict[str, int | str]


def space_searched() -> SearchSpace:
    return preset("pyramid", task=Task(num_classes=59))


@functools.cache
def guide() -> Guide:
    """For its features and fast latencies only."""
    space = space_searched()
    return Guide(space, compiled(), max_ms=None)


@functools.cache
def compiled() -> CompiledTable:
    return CompiledTable(find_table(TABLE), space_searched())


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What was evaluated, in the order in which it was."""

    points: list[Point]
    latency_ms: Floats
    miou_pct: Floats
    cpu_seconds: Floats

    def part(self, indices: Sequence[int]) -> Recorded:
        return Recorded(
            points=[self.points[i] for i in indices],
            latency_ms=self.latency_ms[list(indices)],
            miou_pct=self.miou_pct[list(indices)],
            cpu_seconds=self.cpu_seconds[list(indices)],
        )

    @classmethod
    def read(cls, path: Path) -> Recorded:
        with gzip.open(path, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        knobs = space_searched().knobs
        kinds = {knob.name: {str(choice): choice for choice in knob.choices} for knob in knobs}
        points = [{name: kinds[name][row[name]] for name in kinds} for row in rows]
        columns = (np.array([float(row[name]) for row in rows]) for name in ("miou_pct", "cpu_seconds"))
        miou_pct, cpu_seconds = columns
        return cls(points=points, latency_ms=latencies(points), miou_pct=miou_pct, cpu_seconds=cpu_seconds)


@dataclass(frozen=True)
class Surrogate:
    """mIoU in per cent of points of the space."""

    networks: tuple[torch.nn.Module, ...]
    mean: float
    spread: float

    @classmethod
    def fit(cls, recorded: Recorded, *, seed: int = 0) -> Surrogate:
        features = torch.tensor(features_of(recorded.points), dtype=torch.float32)
        mean, spread = float(recorded.miou_pct.mean()), float(recorded.miou_pct.std())
        wanted = torch.tensor((recorded.miou_pct - mean) / spread, dtype=torch.float32)
        networks = tuple(_network(features, wanted, seed=seed * MEMBERS + member) for member in range(MEMBERS))
        return cls(networks, mean, spread)

    @torch.inference_mode()
    def predict(self, points: Sequence[Point]) -> Floats:
        features = torch.tensor(features_of(points), dtype=torch.float32)
        found = torch.stack([network(features)[:, 0] for network in self.networks]).mean(0)
        return self.mean + self.spread * found.numpy().astype(np.float64)


def _network(features: torch.Tensor, wanted: torch.Tensor, *, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(features.shape[1], HIDDEN),
            torch.nn.SiLU(),
            torch.nn.Linear(HIDDEN, HIDDEN),
            torch.nn.SiLU(),
            torch.nn.Linear(HIDDEN, 1),
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(features), (128,))
            loss = torch.nn.functional.mse_loss(network(features[rows])[:, 0], wanted[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def features_of(points: Sequence[Point]) -> Floats:
    indices = guide()._indices(points)
    return guide().features(indices, guide().latency_ms(indices))


def latencies(points: Sequence[Point]) -> Floats:
    return guide().latency_ms(guide()._indices(points))


def record(file: Path, out: Path, *, storage: str, count: int, workers: int) -> None:
    """Evaluate `count` architectures, or go on, and write them."""
    space, evaluator = space_searched(), SupernetEvaluator(file, Scenes())
    wanted = at_random(space, evaluator)
    with Store.open(storage, create=True) as store:
        records: list[Record] = []
        while True:
            wants = [(evaluator, one, 0) for one in wanted[len(records) : count]]
            records += recorded_by(wants, store, workers=workers, what="evaluating")
            if len(records) >= count:
                break
            wanted += children(space, evaluator, wanted, records, seed=len(wanted))
    points = [space.encode(candidate) for candidate in wanted[:count]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*points[0], "miou_pct", "cpu_seconds"])
    for point, found in zip(points, records, strict=True):
        if (metrics := found.accuracy) is not None:
            writer.writerow([*point.values(), f"{metrics.miou_pct:.3f}", f"{metrics.cpu_seconds:.2f}"])
    write_whole(out, gzip.compress(text.getvalue().encode(), mtime=0))


def at_random(space: SearchSpace, evaluator: Evaluator) -> list[Candidate]:
    """Evenly over the logarithm of the latency: random ones crowd in the middle."""
    rng = random.Random(0)
    drawn = within(
        [one for one in (space.sample(rng) for _ in range(12 * AT_RANDOM)) if evaluator.why_not(one) is None]
    )
    ms = np.log(latencies([space.encode(one) for one in drawn]))
    cells = np.linspace(np.quantile(ms, 0.001), np.quantile(ms, 0.999), 21)
    by_cell: dict[int, list[Candidate]] = {}
    for one, cell in zip(drawn, np.digitize(ms, cells), strict=True):
        by_cell.setdefault(int(cell), []).append(one)
    chosen: dict[str, Candidate] = {}
    while len(chosen) < AT_RANDOM:  # in turn from every cell
        for cell in sorted(by_cell):
            if by_cell[cell] and len(chosen) < AT_RANDOM:
                one = by_cell[cell].pop()
                chosen.setdefault(one.key, one)
    found = list(chosen.values())
    rng.shuffle(found)
    return found


def within(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that are no slower than B."""
    space = space_searched()
    base = Candidate(arch=ANCHORS["base"], task=space.task)
    *ms, most = latencies([space.encode(one) for one in (*candidates, base)])
    return [one for one, at in zip(candidates, ms, strict=True) if at <= most]


def children(
    space: SearchSpace, evaluator: Evaluator, known: Sequence[Candidate], records: Sequence[Record], *, seed: int
) -> list[Candidate]:
    """Crossed or changed in one knob, of parents that are best by fronts."""
    rng = random.Random(seed)
    ms = latencies([space.encode(one) for one in known])
    done = [(float(at), one.value, i) for i, (at, one) in enumerate(zip(ms, records, strict=True)) if one.value]
    best = [done[i][2] for i in promoted([(at, value) for at, value, _ in done], PARENTS)]
    there = {one.key for one in known}
    made: list[Candidate] = []
    while len(made) < GENERATION:
        a, b = (known[i] for i in rng.sample(best, 2))
        child = space.crossover(a, b, rng)
        if rng.random() < 0.7:
            child = rng.choice(space.neighbours(child))
        if child.key not in there and evaluator.why_not(child) is None and within([child]):
            there.add(child.key)
            made.append(child)
    return made


def recorded_by(
    wants: Sequence[tuple[Evaluator, Candidate, int]], store: Store, *, workers: int, what: str
) -> list[Record]:
    """Of every (evaluator, candidate, replicate), from the store where it is known; with a bar."""
    with worker_pool(workers) as pool, Progress() as progress:
        bar = progress.add_task(what, total=len(wants))
        return recorded(wants, store, pool, tell=lambda done, _: progress.update(bar, completed=done))


def judge(path: Path, *, seed: int = 0) -> dict[str, object]:
    """How well the surrogate does on a fifth that it has not seen."""
    recorded = Recorded.read(path)
    order = np.random.default_rng(seed).permutation(len(recorded.points))
    held_out = order[: len(order) // 5]
    surrogate = Surrogate.fit(recorded.part(order[len(held_out) :].tolist()), seed=seed)
    unseen = recorded.part(held_out.tolist())
    errors = surrogate.predict(unseen.points) - unseen.miou_pct
    band = abs(unseen.latency_ms / np.median(unseen.latency_ms) - 1) <= 0.15
    found = surrogate.predict(unseen.points)
    return {
        "records": len(recorded.points),
        "held_out": len(held_out),
        "kendall_tau": round(float(kendalltau(found, unseen.miou_pct).statistic), 3),
        "kendall_tau_within_15_pct_of_the_median_latency": round(
            float(kendalltau(found[band], unseen.miou_pct[band]).statistic), 3
        ),
        "of_which": int(band.sum()),
        "error_pct_of_miou_standard_deviation": round(float(errors.std()), 3),
        "error_pct_of_miou_mean": round(float(errors.mean()), 3),
        "miou_pct_standard_deviation": round(float(unseen.miou_pct.std()), 2),
        "cpu_seconds_an_evaluation": round(float(recorded.cpu_seconds.mean()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("record")
    one.add_argument("supernet", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--storage", required=True)
    one.add_argument("--count", type=int, default=1050)
    one.add_argument("--workers", type=int, default=2)
    two = parts.add_parser("judge")
    two.add_argument("records", type=Path)
    two.add_argument("out", type=Path)
    asked = parser.parse_args()
    if asked.part == "record":
        record(asked.supernet, asked.out, storage=asked.storage, count=asked.count, workers=asked.workers)
        return
    keep(judge(asked.records), asked.out)


if __name__ == "__main__":
    main()

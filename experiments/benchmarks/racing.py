"""What does racing buy? Seeds where networks cannot be told apart, against seeds for all and for the top half.

python experiments/benchmarks/racing.py experiments/results/search/racing.json [--repetitions 1000] [--workers 2]

No training: true mIoUs and latencies are those of recorded networks (shrunk by their noise) or drawn; a training adds a
residual of recorded repeated trainings, resampled. Every way of spending trainings is judged by the same test, that of
`front`: two networks are decided where their means differ by more than 90 % of such differences do by noise, which each
way has to estimate. The questions are

* all pairs: how many are decided, and how many of these wrongly;
* the front: of how many networks it is decided whether they are on it, and how many of these wrongly. One is off it
  where one of no more latency is decidedly better, on it where it is decidedly better than all of these;
* a budget: how many points of true mIoU the best lacks, under the latency of each network in turn, and how often it is
  the right one.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks.evidence import keep
from experiments.export.study_file import read_archive
from experiments.front.confidence import REPORT_FREEDOM, race_noise_pct, told_apart
from experiments.search.racing import in_race, next_trainings
from experiments.search.schedule import promoted
from experiments.store.ledger import read_records
from experiments.trust.standing import shipped_reports

RESULTS = Path(__file__).parents[1] / "results"
MOST = 8
"""Trainings that a race may give one network."""
BATCH = 4
"""Trainings that are chosen together."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What the trainings of a set are drawn from."""

    ms: Floats
    truth: Floats
    residuals: Floats
    """Of recorded repeated trainings, in points."""

    @property
    def noise_pct(self) -> float:
        return deviation(self.residuals)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Latencies, mIoUs without what noise adds to their spread, and residuals."""

    scenes: Networks
    confirmed: Networks
    photographs: Networks


def deviation(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def residuals(repeated: Sequence[Sequence[float]]) -> Floats:
    """Differences of repeated trainings from their mean, scaled by what the mean takes off their spread."""
    parts = [(np.array(one) - np.mean(one)) * math.sqrt(len(one) / (len(one) - 1)) for one in repeated if len(one) > 1]
    return np.concatenate(parts)


def shrunk(mious: Sequence[float], noise_pct: float) -> Floats:
    """True values spread as much less than recorded ones as the noise adds."""
    found = np.array(mious, float)
    share = math.sqrt(max(1 - noise_pct**2 / float(found.var(ddof=1)), 0.0))
    return np.asarray(found.mean() + (found - found.mean()) * share)


@functools.cache
def recorded() -> Recorded:
    """Of the shipped report, the found networks, a study's confirmed trials, and the ledger of photographs."""
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    found = json.loads((RESULTS / "search/found_front.json").read_text())["anchors"]
    repeated = [one.values[report.reference] for one in report.members if report.reference in one.values]
    repeated += [entry["miou_pct_by_seed"] for group in found.values() for entry in group.values()]
    of_scenes = residuals(repeated)
    ranked = [one for one in report.ranked if one.latency_ms is not None]
    ms = np.array([one.latency_ms for one in ranked], float)
    archive = read_archive(RESULTS / "search/found.zip")
    known = {one.candidate_key: one.value for one in archive.confirmations if one.value is not None}
    kept = [one for one in archive.trials if one.candidate_key in known]
    photographs: dict[str, list[float]] = defaultdict(list)
    for one in read_records(RESULTS / "photographs/records.jsonl"):
        if one.record.fidelity == "reference" and one.record.value is not None:
            photographs[one.candidate.arch.key].append(one.record.value)
    of_photographs = residuals(list(photographs.values()))
    there = [index for index, one in enumerate(ranked) if one.key in photographs]
    return Recorded(
        scenes=Networks(
            ms=ms,
            truth=shrunk([fmean(one.values[report.reference]) for one in ranked], deviation(of_scenes)),
            residuals=of_scenes,
        ),
        confirmed=Networks(
            ms=np.array([one.latency_ms for one in kept]),
            truth=shrunk([known[one.candidate_key] or 0.0 for one in kept], deviation(of_scenes)),
            residuals=of_scenes,
        ),
        photographs=Networks(
            ms=ms[there],
            truth=shrunk([photographs[ranked[index].key][0] for index in there], deviation(of_photographs)),
            residuals=of_photographs,
        ),
    )


def some(networks: Networks, rng: np.random.Generator, *, count: int) -> Networks:
    chosen = rng.choice(len(networks.ms), count, replace=False)
    return Networks(ms=networks.ms[chosen], truth=networks.truth[chosen], residuals=networks.residuals)


def drawn(rng: np.random.Generator, *, count: int, spread: float) -> Networks:
    of = recorded().photographs.residuals
    return Networks(ms=rng.uniform(20, 100, count), truth=rng.normal(40, spread * deviation(of), count), residuals=of)


SETS: Mapping[str, Callable[[np.random.Generator], Networks]] = {
    "scenes, 12 of 40": lambda rng: some(recorded().scenes, rng, count=12),
    "scenes, the 27 that a study confirmed": lambda rng: recorded().confirmed,
    "photographs, 12 of 40": lambda rng: some(recorded().photographs, rng, count=12),
    "12 drawn, spread of twice the noise": lambda rng: drawn(rng, count=12, spread=2),
    "12 drawn, spread of four times the noise": lambda rng: drawn(rng, count=12, spread=4),
}


class Trainings:
    """mIoUs of networks, in the order in which each is trained again: the same for every way of spending them."""

    def __init__(self, networks: Networks, rng: np.random.Generator, *, most: int) -> None:
        self.ms = networks.ms
        self.mious = networks.truth[:, None] + rng.choice(networks.residuals, (len(networks.ms), most))
        freedom = REPORT_FREEDOM
        self.known_pct = networks.noise_pct * math.sqrt(rng.chisquare(freedom) / freedom)  # as a report would say it

    def means(self, counts: NDArray[np.int64]) -> Floats:
        return np.array([self.mious[index, :count].mean() for index, count in enumerate(counts)])

    def noise_pct(self, counts: NDArray[np.int64]) -> float:
        values = [self.mious[index, :count].tolist() for index, count in enumerate(counts)]
        noise_pct = race_noise_pct(values, known_pct=self.known_pct)
        assert noise_pct is not None
        return noise_pct


def equal(trainings: Trainings, replicates: int) -> NDArray[np.int64]:
    return np.full(len(trainings.ms), replicates)


def top_half(trainings: Trainings, replicates: int) -> NDArray[np.int64]:
    """One training of each, then the better half, front by front, up to so many."""
    counts = np.ones(len(trainings.ms), np.int64)
    points = list(zip(trainings.ms.tolist(), trainings.mious[:, 0].tolist(), strict=True))
    counts[list(promoted(points, len(points) // 2))] = replicates
    return counts


def raced(trainings: Trainings, budget: int, *, batch: int) -> NDArray[np.int64]:
    """As `search` does it."""
    counts = np.ones(len(trainings.ms), np.int64)
    while (room := min(batch, budget - int(counts.sum()))) > 0:
        chosen = next_trainings(
            trainings.ms,
            trainings.means(counts),
            counts.astype(float),
            noise_pct=trainings.noise_pct(counts),
            most=MOST,
            count=room,
        )
        if not chosen:
            break
        for one in chosen:
            counts[one] += 1
    return counts


def judged(networks: Networks, trainings: Trainings, counts: NDArray[np.int64]) -> dict[str, float]:
    """What is known after these trainings, and how much of it is wrong."""
    miou, noise_pct = trainings.means(counts), trainings.noise_pct(counts)
    many, ms, truth = counts.astype(float), networks.ms, networks.truth
    apart = np.triu(told_apart(miou, many, noise_pct=noise_pct), 1)
    wrong = apart & (np.sign(miou[:, None] - miou) != np.sign(truth[:, None] - truth))
    off = ~in_race(ms, miou, many, noise_pct=noise_pct)
    rivals = (ms[None, :] <= ms[:, None]) & ~np.eye(len(ms), dtype=bool)
    whole = apart | apart.T
    on = ((whole & (miou[:, None] > miou)) | ~rivals).all(axis=1)
    really = ~(rivals & (truth[None, :] > truth[:, None])).any(axis=1)
    lost, right = [], []
    for budget in ms:
        within = np.flatnonzero(ms <= budget)
        best = within[miou[within].argmax()]
        lost.append(truth[within].max() - truth[best])
        right.append(lost[-1] == 0)
    return {
        "trainings": float(counts.sum()),
        "pairs_decided": float(apart.sum()),
        "pairs_wrong": float(wrong.sum()),
        "networks_settled": float((on | off).sum()),
        "networks_wrong": float((on & ~really).sum() + (off & really).sum()),
        "best_lost_pct": float(np.mean(lost)),
        "best_right": float(np.mean(right)),
    }


def ways(count: int) -> dict[str, Callable[[Trainings], NDArray[np.int64]]]:
    """How trainings are spent on so many networks."""
    found: dict[str, Callable[[Trainings], NDArray[np.int64]]] = {"once": partial(equal, replicates=1)}
    for replicates in (2, 3, 4, 5):
        found[f"equal x{replicates}"] = partial(equal, replicates=replicates)
    for replicates in (3, 5):
        found[f"top half x{replicates}"] = partial(top_half, replicates=replicates)
        budget = count + (count // 2) * (replicates - 1)
        found[f"racing, as many as top half x{replicates}"] = partial(raced, budget=budget, batch=BATCH)
    for of in (3, 4, 5):
        found[f"racing, half of x{of}"] = partial(raced, budget=math.ceil(count * of / 2), batch=BATCH)
    for batch in (1, 8):
        found[f"racing, half of x4, {batch} at once"] = partial(raced, budget=2 * count, batch=batch)
    return found


def repetition(name: str, number: int, *, among: str = "") -> dict[str, dict[str, float]]:
    """What every way finds of one draw of a set."""
    rng = np.random.default_rng([number, *name.encode()])
    networks = SETS[name](rng)
    trainings = Trainings(networks, rng, most=MOST)
    return {
        way: judged(networks, trainings, spend(trainings))
        for way, spend in ways(len(networks.ms)).items()
        if among in way
    }


def summarised(name: str, found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, object]:
    """Means over repetitions; wrong ones as shares of the decided."""
    networks = SETS[name](np.random.default_rng(0))
    rows = {}
    for way in found[0]:
        mean = {key: float(np.mean([one[way][key] for one in found])) for key in found[0][way]}
        rows[way] = {
            "trainings": round(mean["trainings"], 1),
            "pairs_decided": round(mean["pairs_decided"], 2),
            "pairs_wrong_pct": round(100 * mean["pairs_wrong"] / max(mean["pairs_decided"], 1e-9), 2),
            "networks_settled": round(mean["networks_settled"], 2),
            "networks_wrong_pct": round(100 * mean["networks_wrong"] / max(mean["networks_settled"], 1e-9), 2),
            "best_lost_pct": round(mean["best_lost_pct"], 3),
            "best_right_pct": round(100 * mean["best_right"], 1),
        }
    count = len(networks.ms)
    return {
        "networks": count,
        "pairs": count * (count - 1) // 2,
        "noise_pct": round(networks.noise_pct, 3),
        "ways": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", help="sets whose names have this in them")
    parser.add_argument("--ways", default="", help="ways of spending trainings whose names have this in them")
    asked = parser.parse_args()
    found = {}
    with ProcessPoolExecutor(asked.workers) as pool:
        for name in SETS:
            if asked.only is None or asked.only in name:
                every = list(
                    pool.map(partial(repetition, name, among=asked.ways), range(asked.repetitions), chunksize=10)
                )
                found[name] = summarised(name, every)
                print(name, json.dumps(found[name], indent=1), flush=True)
    keep({"repetitions": asked.repetitions, "seed": "set and repetition", "most": MOST, "sets": found}, asked.out)


if __name__ == "__main__":
    main()

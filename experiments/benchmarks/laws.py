"""Do laws of mIoU by size foretell larger networks? `python experiments/benchmarks/laws.py OUT.json`

For each of the recorded sets: architectures are drawn anew with replacement, ten times; a law is fitted without the
largest third of them, and its 90 % interval for the mean mIoU of that third is held against what was recorded. Beside
it stands a straight line in the logarithm of size. At last a fit to 1,000 records with 1,000 bootstraps is timed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.evidence import keep
from experiments.benchmarks.surrogate import Recorded
from experiments.scaling.laws import Points, fit
from experiments.scaling.points import points_of
from latency_lut import tables
from latency_lut.table import find_table

RESULTS = Path(__file__).parents[1] / "results"
SPLITS, BOOTSTRAPS = 10, 1000


def judged(points: Points, *, seed: int = 1) -> dict[str, Any]:
    """How often the interval holds the mean of the largest third, its width, and squared errors beside a line's."""
    rng = np.random.default_rng(seed)
    rows, forms = [], Counter[str]()
    for split in range(SPLITS):
        drawn = rng.integers(0, len(points.size), len(points.size))
        drawn = drawn[np.argsort(points.size[drawn], kind="stable")]
        cut = len(drawn) - len(drawn) // 3
        smaller, larger = _part(points, drawn[:cut]), drawn[cut:]
        law = fit(smaller, bootstraps=BOOTSTRAPS, seed=split)
        line = fit(smaller, form="line", bootstraps=100, seed=split)
        size, group, truth = points.size[larger], points.group[larger], float(points.score_pct[larger].mean())
        mean, low, high = law.mean_interval(size, group, seed=split)
        plain = float(line.mean(size, group).mean())
        rows.append((low <= truth <= high, high - low, (mean - truth) ** 2, (plain - truth) ** 2))
        forms[law.form] += 1
    inside, width, squared, of_line = np.array(rows, dtype=float).T
    return {
        "points": len(points.size),
        "sizes": [float(points.size.min()), float(points.size.max())],
        "inside": int(inside.sum()),
        "splits": SPLITS,
        "mean_width_pct": round(float(width.mean()), 2),
        "mean_squared_error": round(float(squared.mean()), 3),
        "mean_squared_error_of_line": round(float(of_line.mean()), 3),
        "forms": dict(forms),
    }


def _part(points: Points, chosen: np.ndarray) -> Points:
    return Points(
        size=points.size[chosen], score_pct=points.score_pct[chosen], group=points.group[chosen], groups=points.groups
    )


def supernet_records() -> Points:
    """mIoU by inherited weights of 1,050 architectures, by latency, grouped by injected scales."""
    found = Recorded.read(RESULTS / "search/supernet-1050.csv.gz")
    labels = [str(point["injected_strides"]) for point in found.points]
    names = sorted(set(labels))
    group = np.array([names.index(label) for label in labels])
    return Points(size=found.latency_ms, score_pct=found.miou_pct, group=group, groups=tuple(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    prices = find_table(tables.SNAPDRAGON_865)
    supernet = supernet_records()
    photographs = str(RESULTS / "photographs/records.jsonl")
    sets = {
        "supernet on scenes, by latency": supernet,
        "reference on scenes, by multiply-adds": points_of("pyramid-scenes", "macs_g", prices=prices).points,
        "reference on photographs, by multiply-adds": points_of(
            photographs, "macs_g", fidelity="reference", prices=prices
        ).points,
    }
    found = {name: judged(points) for name, points in sets.items()}
    began = time.process_time()
    fit(_part(supernet, np.arange(1000)), bootstraps=1000)
    keep({"seed": 1, "bootstraps": BOOTSTRAPS, "sets": found, "fit_1000_cpu_s": time.process_time() - began}, asked.out)


if __name__ == "__main__":
    main()

"""Is the end of a training known when half is done? `python experiments/benchmarks/curves.py RECORDS.jsonl OUT.json`

Every training is foretold from its first tenths by those of other architectures of the same recipe: how often the 90 %
interval holds the final mIoU, how wide it is, and how far off; beside it the last score plus the mean gain, with an
interval made alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.benchmarks.evidence import keep
from experiments.scaling.curves import Curves, by_mean_gain, curves_of, foretold
from experiments.store.ledger import read_records

FIDELITIES = ("reference", "proxy-short")
TENTHS = (3, 5, 7)


def judged(known: Curves, tenths: int) -> dict[str, dict[str, float]]:
    every: dict[str, list[tuple[float, float, float]]] = {"foretold": [], "last score plus mean gain": []}
    for number, truth in enumerate(known.final_pct):
        rest = known.without(int(known.arch[number]))
        curve, loss = known.miou_pct[number, :tenths].tolist(), known.loss[number, :tenths].tolist()
        for name, end in zip(every, (foretold(rest, curve, loss), by_mean_gain(rest, curve, loss)), strict=True):
            inside = end.low_pct <= truth <= end.high_pct
            every[name].append((float(inside), (end.high_pct - end.low_pct) / 2, abs(truth - end.mean_pct)))
    means = {name: np.mean(rows, axis=0) for name, rows in every.items()}
    return {
        name: {
            "inside_pct": round(100 * float(one[0]), 1),
            "half_width_pct": round(float(one[1]), 2),
            "mean_error_pct": round(float(one[2]), 2),
        }
        for name, one in means.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    evaluations = read_records(asked.records)
    found = {}
    for fidelity in FIDELITIES:
        known = curves_of(evaluations, fidelity=fidelity)
        found[fidelity] = {
            "trainings": len(known.final_pct),
            "architectures": len(np.unique(known.arch)),
            "spread_pct": round(float(known.final_pct.std()), 2),
            "after_tenths": {tenths: judged(known, tenths) for tenths in TENTHS},
        }
    keep({"found": found}, asked.out)


if __name__ == "__main__":
    main()

"""Which of the paper's orderings hold on photographs? The reference trained three times, judged on images apart.

python experiments/benchmarks/photograph_orderings.py experiments/results/photographs/records.jsonl OUT.json

For every ordering that the paper states and whose two architectures were trained: the difference of the means over
seeds of the mIoU on the images by which nothing is chosen, its 90 % interval by resampling seeds and blocks of
neighbouring images together, and what the shipped report on drawn scenes says. What was not trained is listed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.trust import NEARLY_EQUAL_PCT, Ordering, published_orderings
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.photograph_ranking import counts, miou_pct
from experiments.benchmarks.photographs import ORDERINGS
from experiments.store.ledger import read_records
from experiments.trust.standing import shipped_reports

RESAMPLES = 2000


def compared(ordering: Ordering, first: list[np.ndarray], second: list[np.ndarray]) -> dict[str, Any]:
    """From (blocks, classes, 3) counts of each training of the two."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        blocks = rng.integers(0, len(first[0]), len(first[0]))
        means = [
            np.mean([miou_pct(seeds[one][blocks]) for one in rng.integers(0, len(seeds), len(seeds))])
            for seeds in (first, second)
        ]
        drawn.append(means[0] - means[1])
    low, high = np.percentile(drawn, [5, 95])
    difference = np.mean([miou_pct(one) for one in first]) - np.mean([miou_pct(one) for one in second])
    return {
        "ordering": ordering.name,
        "relation": ordering.relation,
        "published_pct": ordering.published_pct,
        "trainings": [len(first), len(second)],
        "difference_pct": round(float(difference), 2),
        "interval_90": [round(float(low), 2), round(float(high), 2)],
        "verdict": verdict(ordering, float(low), float(high)),
    }


def verdict(ordering: Ordering, low: float, high: float) -> str:
    if ordering.relation == "nearly equal":
        inside = low >= -NEARLY_EQUAL_PCT and high <= NEARLY_EQUAL_PCT
        outside = low > NEARLY_EQUAL_PCT or high < -NEARLY_EQUAL_PCT
        return "reproduced" if inside else "inverted" if outside else "undecided"
    return "reproduced" if low > 0 else "inverted" if high < 0 else "undecided"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    judged: dict[str, list[np.ndarray]] = defaultdict(list)
    wanted = {arch.key for arch in ORDERINGS}
    for one in read_records(asked.records):
        if one.record.fidelity == "reference" and one.record.accuracy and one.candidate.arch.key in wanted:
            judged[one.candidate.arch.key].append(counts(one.record.accuracy.judge_blocks))
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    on_scenes = {one.ordering: one for one in report.decisions if one.fidelity == report.reference}
    rows, untried = [], []
    for ordering in published_orderings():
        first, second = judged.get(ordering.first.key), judged.get(ordering.second.key)
        if not first or not second:
            untried.append(ordering.name)
            continue
        row = compared(ordering, first, second)
        if said := on_scenes.get(ordering.name):
            row["on_scenes"] = {
                "difference_pct": round(said.difference_pct, 2),
                "margin_pct": round(said.margin_pct, 2),
                "verdict": said.verdict,
            }
        rows.append(row)
    keep({"resamples": RESAMPLES, "seed": 0, "orderings": rows, "not_tried": untried}, asked.out)


if __name__ == "__main__":
    main()

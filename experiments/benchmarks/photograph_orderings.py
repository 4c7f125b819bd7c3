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

from evaluators.trust import published_orderings
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.photographs import ORDERINGS
from experiments.paper.accuracy import RESAMPLES, Training, decided, training_of
from experiments.store.ledger import read_records
from experiments.trust.standing import shipped_reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    judged: dict[str, list[Training]] = defaultdict(list)
    wanted = {arch.key for arch in ORDERINGS}
    for one in read_records(asked.records):
        training = training_of(one.record)
        if one.record.fidelity == "reference" and training and one.candidate.arch.key in wanted:
            judged[one.candidate.arch.key].append(training)
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    on_scenes = {one.ordering: one for one in report.decisions if one.fidelity == report.reference}
    rows, untried = [], []
    for ordering in published_orderings():
        first, second = judged.get(ordering.first.key), judged.get(ordering.second.key)
        if not first or not second:
            untried.append(ordering.name)
            continue
        row = decided(ordering, first, second, noise_pct=None).as_dict()
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

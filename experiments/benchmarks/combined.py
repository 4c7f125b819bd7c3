"""Does a prediction from several cheap fidelities beat one from the architecture alone? Each left out in turn.

python experiments/benchmarks/combined.py OUT.json [RECORDS.jsonl]

For every architecture the predictor is fitted anew to all others, its amounts, too, and predicts the reference's mIoU
of the one. Beside it, on the same labels: the same process with nothing but counting and the architecture, which no
cheap fidelity has told anything; and ridge regression on the architecture and multiply-adds, whose interval is widened
or narrowed until it covers the same share. Differences with 90 % intervals by resampling architectures. On
`scenes` by the shipped trust report; with RECORDS also on photographs, judged by images by which nothing was chosen.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from evaluators.baselines import Floats, ridge
from evaluators.combined import Known, Part, Predictor
from experiments.benchmarks.evidence import keep
from experiments.store.ledger import read_records
from experiments.trust.standing import TrustReport, shipped_reports
from topformer.config import Candidate, Task, TopFormerConfig

RESAMPLES = 2000


def left_out(known: Sequence[Known], task: Task, fidelities: Sequence[str]) -> tuple[Floats, Floats]:
    """What a predictor that never saw an architecture says of it, for each of them, and half its 90 % interval."""
    parts = [Part(name=one, fidelity=one, evaluator="0" * 16) for one in fidelities]
    said = []
    for number, one in enumerate(known):
        others = [*known[:number], *known[number + 1 :]]
        fitted = Predictor.fit(others, task=task, parts=parts, report="", reference="", reference_evaluator="")
        arch = TopFormerConfig.from_dict(one.architecture)
        said.append(fitted.predict(Candidate(arch=arch, task=task), one.values))
    return np.array([one.value for one in said]), np.array([one.high - one.value for one in said])


def compared(known: Sequence[Known], task: Task, fidelities: Sequence[str], band: Sequence[bool]) -> dict[str, Any]:
    labels = np.array([one.label_pct for one in known])
    means, margins = left_out(known, task, fidelities)
    blind, blind_margins = left_out([replace(one, values=(0.0,)) for one in known], task, ["none"])
    candidates = [Candidate(arch=TopFormerConfig.from_dict(one.architecture), task=task) for one in known]
    by_ridge = ridge(candidates, list(labels))
    errors, of_blind, of_ridge = (np.abs(one - labels) for one in (means, blind, by_ridge))
    covered = float(np.mean(errors <= margins))
    return {
        "architectures": len(known),
        "fidelities": list(fidelities),
        "combined": row(means, labels, band) | {"covered": covered, "half_width_pct": float(margins.mean())},
        "without fidelities": row(blind, labels, band)
        | {"covered": float(np.mean(of_blind <= blind_margins)), "half_width_pct": float(blind_margins.mean())},
        "ridge": row(by_ridge, labels, band) | {"half_width_pct": float(np.quantile(of_ridge, covered))},
        "combined minus ridge": difference(errors - of_ridge),
        "combined minus without fidelities": difference(errors - of_blind),
    }


def difference(errors: Floats) -> dict[str, Any]:
    """Of absolute errors in points, with its 90 % interval over architectures."""
    drawn = np.random.default_rng(0).integers(0, len(errors), (RESAMPLES, len(errors)))
    low, high = np.percentile(errors[drawn].mean(axis=1), [5, 95])
    return {"mean_pct": float(errors.mean()), "interval_90": [float(low), float(high)]}


def row(predicted: Floats, labels: Floats, band: Sequence[bool]) -> dict[str, float]:
    inside = np.array(band)
    return {
        "mean_absolute_error_pct": float(np.abs(predicted - labels).mean()),
        "tau": float(kendalltau(predicted, labels).statistic),
        "tau_at_equal_latency": float(kendalltau(predicted[inside], labels[inside]).statistic),
    }


def on_scenes(report: TrustReport) -> dict[str, Any]:
    fidelities = [one.fidelity for one in report.fidelities if not one.zero_cost]
    known = [
        Known(
            architecture=one.architecture,
            values=tuple(one.values[fidelity][0] for fidelity in fidelities),
            label_pct=float(np.mean(one.values[report.reference])),
        )
        for one in report.ranked
    ]
    height, width = report.image_size
    task = Task(image_size=(height, width), num_classes=report.num_classes)
    return compared(known, task, fidelities, [report.in_band(one) for one in report.ranked])


def on_photographs(report: TrustReport, records: Path) -> dict[str, Any]:
    """Every fidelity that has evaluated all architectures of the report, but for what is counted."""
    values: Mapping[str, dict[str, float]] = defaultdict(dict)
    for one in read_records(records):
        judged, value = one.record.judge_miou_pct, one.record.value
        if one.record.replicate == 0 and value is not None:
            values[one.record.fidelity][one.candidate.arch.key] = value if judged is None else judged
    keys = [one.key for one in report.ranked]
    counted = {one.fidelity for one in report.fidelities if one.zero_cost} | {"reference"}
    fidelities = sorted(name for name, found in values.items() if name not in counted and found.keys() >= set(keys))
    known = [
        Known(
            architecture=one.architecture,
            values=tuple(values[fidelity][one.key] for fidelity in fidelities),
            label_pct=values["reference"][one.key],
        )
        for one in report.ranked
    ]
    task = Task(image_size=(360, 480), num_classes=11)
    return compared(known, task, fidelities, [report.in_band(one) for one in report.ranked])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("records", type=Path, nargs="?")
    asked = parser.parse_args()
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    found = {"resamples": RESAMPLES, "seed": 0, "scenes": on_scenes(report)}
    if asked.records:
        found["photographs"] = on_photographs(report, asked.records)
    keep(found, asked.out)


if __name__ == "__main__":
    main()

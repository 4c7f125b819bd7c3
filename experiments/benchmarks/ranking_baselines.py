"""What does a trained fidelity add to rules that train nothing? Recomputed from the shipped records of `scenes`.

python experiments/benchmarks/ranking_baselines.py experiments/results/trust/records.jsonl OUT.json

Kendall's tau-b with the reference, its partial tau given the best rule that needs no label (more injected scales first,
then more multiply-adds), 90 % intervals by resampling architectures, and the tau that a perfect ranker would reach
against one training of the reference, by its noise.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from evaluators.baselines import MACS, SCALES_THEN_MACS, rules
from evaluators.trust import replicate_noise
from experiments.benchmarks.evidence import keep
from experiments.trust.standing import shipped_reports
from topformer.config import TINY, Candidate, Task, TopFormerConfig

RESAMPLES = 2000
DRAWS = 2000
Floats = NDArray[np.float64]


def tau(a: Floats, b: Floats) -> float:
    return float(kendalltau(a, b).statistic)


def same_order(a: Floats, b: Floats) -> bool:
    """Whether one tells no more than the other, or nothing at all."""
    return len(set(a)) == 1 or tau(a, b) > 1 - 1e-9


def partial_tau(reference: Floats, values: Floats, given: Floats) -> float:
    """Kendall's partial rank correlation; not a number where the rule gives all or none of the order."""
    xy, xz, yz = tau(reference, values), tau(reference, given), tau(values, given)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 0 else math.nan


def ceiling(reference: Floats, noise_pct: float, rng: np.random.Generator) -> float:
    """Mean tau of the true order with one training of each, true mIoUs spreading as much less as the noise adds."""
    shrunk = math.sqrt(max(1 - noise_pct**2 / float(reference.var(ddof=1)), 0))
    truth = reference.mean() + (reference - reference.mean()) * shrunk
    return float(np.mean([tau(truth, truth + rng.normal(0, noise_pct, len(truth))) for _ in range(DRAWS)]))


def interval(drawn: Sequence[float]) -> list[float]:
    known = np.array(drawn)[np.isfinite(drawn)]
    return [round(float(value), 3) for value in np.percentile(known, [5, 95])]


def compared(columns: Mapping[str, Floats], reference: Floats, rule: str, noise_pct: float) -> dict[str, object]:
    """Of some architectures: a row for each predictor."""
    rng = np.random.default_rng(0)
    count = len(reference)
    drawn = [(some, reference[some]) for some in rng.integers(0, count, (RESAMPLES, count))]
    rows = predictors(columns, reference, rule, drawn)
    return {"architectures": count, "ceiling": round(ceiling(reference, noise_pct, rng), 3), "predictors": rows}


def predictors(
    columns: Mapping[str, Floats], reference: Floats, rule: str, drawn: Sequence[tuple[NDArray[np.int64], Floats]]
) -> dict[str, dict[str, object]]:
    """A row for each predictor, with intervals over draws: some of the architectures, and the reference's values of
    these. What orders as the rule does, or not at all, has no row."""
    rows: dict[str, dict[str, object]] = {}
    given = columns[rule]
    for name, values in columns.items():
        if name != rule and same_order(values, given):
            continue
        row: dict[str, object] = {
            "tau": round(tau(reference, values), 3),
            "interval_90": interval([tau(truth, values[some]) for some, truth in drawn]),
        }
        if name != rule:
            row["partial_tau"] = round(partial_tau(reference, values, given), 3)
            row["partial_interval_90"] = interval(
                [partial_tau(truth, values[some], given[some]) for some, truth in drawn]
            )
        rows[name] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    asked = parser.parse_args()
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in asked.records.read_text().splitlines():
        record = json.loads(line)
        metrics = record["metrics"]
        key = TopFormerConfig.from_dict(record["architecture"]).key
        values[key, record["fidelity"]].append(metrics.get("miou_pct", metrics.get("value")))
    ranked = report.ranked
    archs = [TopFormerConfig.from_dict(one.architecture) for one in ranked]
    reference = np.array([np.mean(values[arch.key, report.reference]) for arch in archs])
    noise_pct = replicate_noise([values[arch.key, report.reference] for arch in archs])
    assert noise_pct is not None
    task = Task(image_size=(512, 512), num_classes=report.num_classes)
    counted = rules([Candidate(arch=arch, task=task) for arch in archs])
    scales = np.array([len(arch.injected_strides) for arch in archs], float)
    rule = "injected scales, then MACs"
    columns = {rule: counted[SCALES_THEN_MACS], "injected scales": scales, MACS: counted[MACS]}
    for one in report.fidelities:
        columns[one.fidelity] = np.array([values[arch.key, one.fidelity][0] for arch in archs])
    in_band = np.array([report.in_band(one) for one in ranked])
    of_tiny = np.array([arch.injected_strides == TINY.injected_strides for arch in archs])
    everything = np.ones(len(archs), bool)
    sets = {"all": everything, "band": in_band, "scales of T": of_tiny, "scales of T, band": of_tiny & in_band}
    keep(
        {
            "report": report.name,
            "reference": report.reference,
            "noise_pct": round(noise_pct, 3),
            "rule": rule,
            "resamples": RESAMPLES,
            "seed": 0,
            "over": {
                name: compared(
                    {column: found[chosen] for column, found in columns.items()}, reference[chosen], rule, noise_pct
                )
                for name, chosen in sets.items()
            },
        },
        asked.out,
    )


if __name__ == "__main__":
    main()

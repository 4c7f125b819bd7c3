r"""Does any order of architectures hold on photographs? The reference there, judged, beside all that is cheaper.

    python experiments/benchmarks/photograph_ranking.py experiments/results/photographs/records.jsonl OUT.json \
        --plot docs/photographs.png

Kendall's tau-b with the reference's mIoU on the images by which nothing is chosen, over those architectures of the
shipped report that are known there: of evaluations on photographs, of those on drawn scenes, and of rules that train
nothing. 90 % intervals resample architectures, and the judging images by their blocks of neighbours.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evaluators.baselines import MACS, SCALES_THEN_MACS, rules
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.ranking_baselines import RESAMPLES, Floats, predictors
from experiments.paper.accuracy import miou_of_blocks, pixel_counts
from experiments.store.ledger import read_records
from experiments.store.records import Record
from experiments.trust.standing import shipped_reports
from topformer.config import TINY, Candidate, Task, TopFormerConfig

RULE = "injected scales, then MACs"
SIZE = (512, 512)


def agreement(columns: Mapping[str, Floats], judged: list[np.ndarray], chosen: np.ndarray) -> dict[str, object]:
    """Of the chosen architectures: a row for each column."""
    rng = np.random.default_rng(0)
    members = np.flatnonzero(chosen)
    reference = np.array([miou_of_blocks(judged[one]) for one in members])
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(0, len(members), len(members))
        parts = rng.integers(0, len(judged[0]), len(judged[0]))
        drawn.append((some, np.array([miou_of_blocks(judged[one][parts]) for one in members])[some]))
    rows = predictors({name: column[members] for name, column in columns.items()}, reference, RULE, drawn)
    return {"architectures": len(members), "spread_pct": round(float(np.std(reference, ddof=1)), 2), "predictors": rows}


def draw(scenes: Floats, photographs: Floats, scales: Floats, path: Path) -> None:
    """Each architecture's reference mIoU on drawn scenes and on photographs, by its number of injected scales."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for count in sorted(set(scales)):
        chosen = scales == count
        axes.scatter(scenes[chosen], photographs[chosen], label=f"{count:.0f} injected scales")
    axes.set_xlabel("mIoU on drawn scenes, reference, per cent")
    axes.set_ylabel("mIoU on photographs, reference, judged, per cent")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    found: dict[str, dict[str, Record]] = {}
    for one in read_records(asked.records):
        if one.record.replicate == 0:
            found.setdefault(one.candidate.arch.key, {})[one.record.fidelity] = one.record
    cheap = sorted({name for records in found.values() for name in records} - {"reference"})
    ranked = [one for one in report.ranked if {"reference", *cheap} <= found.get(one.key, {}).keys()]
    archs = [TopFormerConfig.from_dict(one.architecture) for one in ranked]
    task = Task(image_size=SIZE, num_classes=report.num_classes)
    counted = rules([Candidate(arch=arch, task=task) for arch in archs])
    scales = np.array([len(arch.injected_strides) for arch in archs], float)
    columns = {RULE: counted[SCALES_THEN_MACS], "injected scales": scales, MACS: counted[MACS]}
    columns |= {f"photographs, {name}": np.array([found[one.key][name].value for one in ranked]) for name in cheap}
    for name in (report.reference, *(one.fidelity for one in report.fidelities if not one.zero_cost)):
        columns[f"scenes, {name}"] = np.array([np.mean(one.values[name]) for one in ranked])
    references = [found[one.key]["reference"].accuracy for one in ranked]
    columns["photographs, reference by pick"] = np.array([one.miou_pct for one in references if one])
    blocks_of_each = [one.judge_blocks for one in references if one]
    assert all(blocks_of_each), "evaluations on photographs are scored in blocks"
    judged = [pixel_counts(blocks) for blocks in blocks_of_each if blocks]
    if asked.plot is not None:
        drawn, real = columns[f"scenes, {report.reference}"], np.array([miou_of_blocks(blocks) for blocks in judged])
        draw(drawn, real, scales, asked.plot)
    of_tiny = np.array([arch.injected_strides == TINY.injected_strides for arch in archs])
    in_band = np.array([report.in_band(one) for one in ranked])
    sets = {
        "all": np.ones(len(archs), bool),
        "band": in_band,
        "scales of T": of_tiny,
        "scales of T, band": of_tiny & in_band,
    }
    keep(
        {
            "architectures_of": report.name,
            "known": len(ranked),
            "rule": RULE,
            "replicates": 1,
            "resamples": RESAMPLES,
            "seed": 0,
            "over": {name: agreement(columns, judged, chosen) for name, chosen in sets.items() if chosen.sum() > 3},
        },
        asked.out,
    )


if __name__ == "__main__":
    main()

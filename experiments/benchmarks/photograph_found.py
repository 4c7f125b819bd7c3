r"""Is what searches found better than T, S and B on photographs? Trained by the reference, judged on images apart.

    python experiments/benchmarks/photograph_found.py experiments/results/photographs/records.jsonl OUT.json \
        --table OUT.md --plot docs/photographs_found.png [--study NAME --storage URL [--fidelity LABEL]]

For T, S and B, each network that the search on drawn scenes found to be no slower or faster, and, of a study of
photographs, the best no slower than each: the mIoU of every training on the images by which nothing is chosen, and the
difference from its anchor with a 90 % interval, which resamples seeds and blocks of neighbouring images. Latencies and
the intervals of their differences are the shipped table's, for 59 classes. What is not trained yet is listed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from evaluators.proxy import REFERENCE
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.photographs import found_on_photographs, found_on_scenes
from experiments.paper.accuracy import RESAMPLES, Training, on_classes, resampled, training_of
from experiments.store.ledger import read_records
from latency_lut import tables
from latency_lut.table import LatencyTable, find_table
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, Task
from topformer.writing import write_whole

CLASSES = 59
"""What latencies are of: the shipped table has heads for this number of classes, not for the photographs' 11."""
Identity = tuple[str, tuple[int, int]]
MARKS = {"anchor": ("*", "tab:red"), "scenes": ("o", "tab:blue"), "photographs": ("s", "tab:green")}
"""How networks are drawn, by where they were found."""


def networks(on_photographs: Mapping[str, Candidate]) -> list[dict[str, Any]]:
    """Every network of the comparison: its name, where it was found, its anchor, itself on its image size."""
    rows: list[dict[str, Any]] = [
        {"name": name, "found_on": "anchor", "beside": name, "candidate": anchor_of(name)} for name in ANCHORS
    ]
    for found_on, found in (("scenes", found_on_scenes()), ("photographs", on_photographs)):
        for name, one in found.items():
            rows.append({"name": name, "found_on": found_on, "beside": name.split()[-1], "candidate": one})
    return rows


def anchor_of(name: str) -> Candidate:
    return Candidate(arch=ANCHORS[name], task=Task())


def identity(candidate: Candidate) -> tuple[str, tuple[int, int]]:
    """What tells networks apart whatever the data set: the architecture's key and the image size."""
    return candidate.arch.key, candidate.task.image_size


def judged_trainings(records: Path, keys: Collection[Identity]) -> dict[Identity, list[Training]]:
    """Every training by the reference that was judged, by `identity`.

    Raises `SystemExit` where references of several data sets would be mixed.
    """
    judged: dict[Identity, list[Training]] = defaultdict(list)
    evaluators = set()
    for one in read_records(records):
        training = training_of(one.record)
        key = identity(one.candidate)
        if one.record.fidelity == REFERENCE.name and training and training.judged and key in keys:
            judged[key].append(training)
            evaluators.add(one.record.evaluator)
    if len(evaluators) > 1:
        raise SystemExit(f"{records} has references of several data sets: {', '.join(sorted(evaluators))}.")
    return judged


def measured(
    row: Mapping[str, Any], judged: Mapping[Identity, Sequence[Training]], table: LatencyTable
) -> dict[str, Any]:
    """What is known of a network, beside its anchor."""
    own, anchor = row["candidate"], anchor_of(row["beside"])
    blocks, beside = (candidate_blocks(on_classes(one, CLASSES)) for one in (own, anchor))
    trainings, of_anchor = judged[identity(own)], judged.get(identity(anchor), ())
    mious = [one.miou_pct for one in trainings]
    found = {
        "name": row["name"],
        "found_on": row["found_on"],
        "image_size": list(own.task.image_size),
        "latency_ms": round(table.estimate(blocks).total_ms, 2),
        "judge_miou_pct_by_seed": [round(one, 2) for one in mious],
        "judge_miou_pct": round(fmean(mious), 2),
    }
    if row["found_on"] != "anchor":
        slower = table.difference(blocks, beside)
        found["latency_difference_ms"] = [round(one, 2) for one in (slower.delta_ms, slower.low_ms, slower.high_ms)]
        if min(len(trainings), len(of_anchor)) > 1:  # of one training each no interval is known
            mean = fmean(mious) - fmean(one.miou_pct for one in of_anchor)
            ends = resampled(trainings, of_anchor)
            found["judge_difference_pct"] = [round(one, 2) for one in (mean, *ends)]
    return {**found, "architecture": own.arch.as_dict()}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each network."""
    lines = [
        "| network | found on | latency, ms | mIoU on `judge`, % | minus its anchor, points (90 %) | ms (90 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = ", ".join(f"{one:.1f}" for one in row["judge_miou_pct_by_seed"])
        words = [row["name"], "" if row["found_on"] == "anchor" else row["found_on"], f"{row['latency_ms']:.1f}"]
        words.append(f"{row['judge_miou_pct']:.1f} ({seeds})")
        for key in ("judge_difference_pct", "latency_difference_ms"):
            mean, low, high = row.get(key, (None, None, None))
            words.append("" if mean is None else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join((*lines, ""))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Latency and judged mIoU of every network: seeds pale, means bold."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        mark, color = MARKS[row["found_on"]]
        seeds = row["judge_miou_pct_by_seed"]
        axes.plot([row["latency_ms"]] * len(seeds), seeds, mark, color=color, alpha=0.3, markersize=5)
        axes.plot(row["latency_ms"], row["judge_miou_pct"], mark, color=color, markersize=10)
        if row["found_on"] == "anchor":
            place = (row["latency_ms"], row["judge_miou_pct"])
            axes.annotate(row["name"], place, xytext=(6, -12), textcoords="offset points")
    for found_on in dict.fromkeys(row["found_on"] for row in rows):
        mark, color = MARKS[found_on]
        axes.plot([], [], mark, color=color, label="T, S, B" if found_on == "anchor" else f"found on {found_on}")
    axes.set_xlabel("latency, ms (Snapdragon 865, estimated)")
    axes.set_ylabel("mIoU on photographs apart, % (reference, from scratch)")
    axes.margins(0.1)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--study", help="a study of photographs")
    parser.add_argument("--storage", help="where the study is")
    parser.add_argument("--fidelity", help="by which its networks are the best; by default the last confirmation")
    asked = parser.parse_args()
    if (asked.study is None) != (asked.storage is None):
        parser.error("--study and --storage go together")
    of_study = found_on_photographs(asked.storage, asked.study, asked.fidelity) if asked.study else {}
    every = networks(of_study)
    judged = judged_trainings(asked.records, {identity(row["candidate"]) for row in every})
    table = find_table(tables.SNAPDRAGON_865)
    rows = [measured(row, judged, table) for row in every if identity(row["candidate"]) in judged]
    untrained = [f"{row['name']} ({row['found_on']})" for row in every if identity(row["candidate"]) not in judged]
    evidence = {
        "records": str(asked.records),
        "study": asked.study,
        "latency_table": table.name,
        "resamples": RESAMPLES,
        "seed": 0,
        "not_trained": untrained,
        "networks": rows,
    }
    keep(evidence, asked.out)
    if asked.table is not None:
        write_whole(asked.table, as_table(rows).encode())
    if asked.plot is not None:
        draw(rows, asked.plot)


if __name__ == "__main__":
    main()

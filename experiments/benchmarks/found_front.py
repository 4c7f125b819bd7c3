"""Is what a search finds better than T, S and B? `python experiments/benchmarks/found_front.py STUDY OUT.json OUT.png`

Takes from a study, for each anchor, the architecture of highest mIoU that is no slower, and that of highest mIoU among
those at least 15 % faster, both as the study's own fidelity or that of a confirmation (--fidelity) has it; trains them
and the anchors from scratch by the reference recipe, with five seeds each; and gives the paired differences with 90 %
intervals. Trainings are kept in the study's store (or in that of --storage-out): stopped, it goes on; and what an
OUT.json that is there has of the same recipe and seeds is not trained again. With --known-only it trains nothing, and
names what it leaves out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
from scipy.stats import t as student

from evaluators.base import Evaluator
from evaluators.named import evaluator_named
from evaluators.proxy import REFERENCE
from experiments import DEFAULT_URL
from experiments.benchmarks.evidence import keep
from experiments.benchmarks.surrogate import recorded_by
from experiments.front.lookup import at_rung
from experiments.front.pareto import evaluated
from experiments.search.assembly import dataset_of
from experiments.store.records import Study, Trial
from experiments.store.store import Store
from experiments.workers.recorded import Want
from topformer.blocks import candidate_blocks
from topformer.config import TopFormerConfig

FASTER = 0.85
CONFIDENCE = 0.9


def chosen(trials: Sequence[Trial], *, fidelity: str) -> dict[str, dict[str, Trial]]:
    """By anchor: the anchor itself, the better one and the faster one, where the study has found such."""
    done = evaluated(trials, fidelity=fidelity)
    found: dict[str, dict[str, Trial]] = {}
    for anchor in (trial for trial in done if trial.anchor):
        others = [trial for trial in done if not trial.anchor]
        at_most = [one for one in others if one.latency.total_ms <= anchor.latency.total_ms]
        faster = [
            one
            for one in others
            if one.latency.total_ms <= FASTER * anchor.latency.total_ms and _miou(one) >= _miou(anchor)
        ]
        entry = {"anchor": anchor}
        if at_most:
            entry["better"] = max(at_most, key=_miou)
        if faster:
            entry["faster"] = max(faster, key=_miou)
        found[str(anchor.anchor)] = entry
    return found


def _miou(trial: Trial) -> float:
    return trial.miou_pct or 0.0


def trained(
    trials: Mapping[str, Trial], evaluator: Evaluator, store: Store, *, seeds: int, workers: int
) -> dict[str, list[float]]:
    """mIoU in per cent of every seed, by candidate."""
    wants = [
        Want(scorer=evaluator, candidate=trial.candidate, replicate=seed)
        for trial in trials.values()
        for seed in range(seeds)
    ]
    records = recorded_by(wants, store, workers=workers, what="training")
    mious = iter([float(record.value or 0.0) for record in records])
    return {key: [next(mious) for _ in range(seeds)] for key in trials}


def measured_before(
    out: Path, trials: Mapping[str, Trial], evaluator: Evaluator, *, seeds: int
) -> dict[str, list[float]]:
    """What an earlier result has of these trials, by candidate."""
    earlier = json.loads(out.read_text()) if out.exists() else {}
    if (earlier.get("evaluator"), earlier.get("seeds")) != (evaluator.fingerprint, seeds):
        return {}
    mious = {
        TopFormerConfig.from_dict(entry["architecture"]): entry["miou_pct_by_seed"]
        for group in earlier["anchors"].values()
        for entry in group.values()
    }
    return {key: mious[trial.candidate.arch] for key, trial in trials.items() if trial.candidate.arch in mious}


def is_trained(trial: Trial, evaluator: Evaluator, store: Store, *, seeds: int) -> bool:
    return all(store.find_record(trial.candidate.key, evaluator.fingerprint, seed) for seed in range(seeds))


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Mean difference of the first from the second, seed by seed, and its interval by Student's t."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    half = (
        float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
        * stdev(differences)
        / math.sqrt(len(differences))
    )
    mean = fmean(differences)
    return {"mean": round(mean, 3), "low": round(mean - half, 3), "high": round(mean + half, 3)}


def judged(study: Study, groups: Mapping[str, Mapping[str, Trial]], mious: Mapping[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, group in groups.items():
        anchor = group["anchor"]
        found[name] = {}
        for role, trial in group.items():
            entry: dict[str, Any] = {
                "trial": trial.number,
                "architecture": trial.candidate.arch.as_dict(),
                "image_size": list(trial.candidate.task.image_size),
                "latency_ms": trial.latency.total_ms,
                "miou_pct_by_seed": [round(value, 3) for value in mious[trial.candidate.key]],
                "study_miou_pct": trial.miou_pct,
            }
            if role != "anchor":
                slower = study.table.difference(candidate_blocks(trial.candidate), candidate_blocks(anchor.candidate))
                entry["latency_difference_ms"] = [slower.delta_ms, slower.low_ms, slower.high_ms]
                entry["miou_difference_pct"] = paired(mious[trial.candidate.key], mious[anchor.candidate.key])
            found[name][role] = entry
    return found


def draw(found: Mapping[str, Any], path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    chart, axes = pyplot.subplots(figsize=(8, 5))
    marks = {"anchor": ("*", "tab:red"), "better": ("o", "tab:blue"), "faster": ("s", "tab:green")}
    for name, group in found.items():
        for role, entry in group.items():
            mark, color = marks[role]
            values = entry["miou_pct_by_seed"]
            axes.plot([entry["latency_ms"]] * len(values), values, mark, color=color, alpha=0.3, markersize=5)
            axes.plot(entry["latency_ms"], fmean(values), mark, color=color, markersize=12 if role == "anchor" else 9)
            if role == "anchor":
                axes.annotate(name, (entry["latency_ms"], fmean(values)), xytext=(6, -12), textcoords="offset points")
    for role, label in (("anchor", "T, S, B"), ("better", "found: best no slower"), ("faster", "found: 15 % faster")):
        axes.plot([], [], marks[role][0], color=marks[role][1], label=label)
    axes.set(xlabel="latency, ms (Snapdragon 865, estimated)", ylabel="mIoU, % (reference recipe, from scratch)")
    axes.margins(0.1)
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    chart.tight_layout()
    chart.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("out", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--storage", default=DEFAULT_URL)
    parser.add_argument("--storage-out")
    parser.add_argument("--fidelity")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--known-only", action="store_true")
    asked = parser.parse_args()
    with Store.open(asked.storage, read_only=True) as store:
        study, members = at_rung(store, asked.study, asked.fidelity)
        groups = chosen(members, fidelity=study.fidelity)
    dataset = dataset_of(study.config)
    evaluator = evaluator_named(REFERENCE.name, dataset)
    trials = {trial.candidate.key: trial for group in groups.values() for trial in group.values()}
    before = measured_before(asked.out, trials, evaluator, seeds=asked.seeds)
    left_out = []
    with Store.open(asked.storage_out or asked.storage, create=True) as store:
        missing = {key: trial for key, trial in trials.items() if key not in before}
        if asked.known_only:
            left_out = [
                key for key, trial in missing.items() if not is_trained(trial, evaluator, store, seeds=asked.seeds)
            ]
            missing = {key: trial for key, trial in missing.items() if key not in left_out}
            groups = {
                name: {role: trial for role, trial in group.items() if trial.candidate.key not in left_out}
                for name, group in groups.items()
            }
        mious = before | trained(missing, evaluator, store, seeds=asked.seeds, workers=asked.workers)
    found = judged(study, groups, mious)
    content = {
        "study": study.name,
        "chosen_by": study.fidelity,
        "evaluator": evaluator.fingerprint,
        "seeds": asked.seeds,
        "not_trained": [f"trial {trials[key].number}" for key in left_out],
        "anchors": found,
    }
    keep(content, asked.out)
    draw(found, asked.figure)


if __name__ == "__main__":
    main()

"""Which sizes and scores does a study, a trust report, a file of records or a table of numbers hold?"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

import numpy as np

from experiments.front.lookup import at_rung
from experiments.front.pareto import evaluated
from experiments.scaling.laws import Points
from experiments.store.ledger import read_records
from experiments.store.store import Store
from experiments.trust.standing import find_report, shipped_reports, stored_reports
from latency_lut.table import LatencyTable
from topformer.blocks import candidate_blocks, total
from topformer.config import Candidate, Task, TopFormerConfig
from topformer.errors import UserError, unknown_name
from topformer.reading import file_text

Axis = Literal["latency_ms", "macs_g", "params_m", "image_px", "images", "iterations"]
AXES: tuple[Axis, ...] = get_args(Axis)
UNITS: Mapping[Axis, str] = {
    "latency_ms": "ms",
    "macs_g": "G",
    "params_m": "M",
    "image_px": "px",
    "images": "images",
    "iterations": "iterations",
}
OF_TRAININGS: tuple[Axis, ...] = ("images", "iterations")
"""What a record does not say of the training that it is of."""
MOST_POINTS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Points, and what they are of."""

    points: Points
    axis: Axis
    about: str
    """Whose scores, by which fidelity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    candidate: Candidate
    score_pct: float


def points_of(
    name: str,
    axis: str,
    *,
    fidelity: str | None = None,
    prices: LatencyTable,
    store: Store | None = None,
    grouped: bool = True,
) -> Source:
    """From a study of the store, a trust report, records (.jsonl), or a table (.csv) with columns AXIS and miou_pct.

    Architectures are grouped by the scales that they inject, a table by its column `group`, unless `grouped` is off.
    Raises `UserError` for a name, axis or fidelity that is not there.
    """
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    known: Axis = next(one for one in AXES if one == axis)
    if name.endswith(".csv"):
        return _of_table(Path(name), known, grouped=grouped)
    if known in OF_TRAININGS:
        raise UserError(
            f"a record does not say of how many {axis} its training was; write a .csv with columns {axis} and miou_pct."
        )
    if name.endswith(".jsonl"):
        scored, about = _of_records(Path(name), fidelity)
    elif store is not None and name in {study.name for study in store.studies()}:
        study, trials = at_rung(store, name, fidelity)
        done = evaluated(trials, fidelity=study.fidelity)
        scored = [_Scored(candidate=one.candidate, score_pct=one.miou_pct or 0.0) for one in done]
        about = f"{len(scored)} trials of study {name} by {study.fidelity}"
    elif name in (one.name for one in (*(stored_reports(store) if store else ()), *shipped_reports())):
        scored, about = _of_report(name, fidelity, store)
    else:
        raise UserError(
            f"no study, trust report or file {name[:100]!r}; a file's name ends in .jsonl (records) or .csv (a table)."
        )
    sizes = np.array([_size(one.candidate, known, prices) for one in scored], dtype=np.float64)
    labels = ["-".join(map(str, one.candidate.arch.injected_strides)) if grouped else "all" for one in scored]
    return Source(
        points=_grouped(sizes, np.array([one.score_pct for one in scored], dtype=np.float64), labels),
        axis=known,
        about=about,
    )


def _of_records(path: Path, fidelity: str | None) -> tuple[list[_Scored], str]:
    every = [one for one in read_records(path) if one.record.accuracy is not None]
    names = sorted({one.record.fidelity for one in every})
    if fidelity is None and len(names) == 1:
        (fidelity,) = names
    if fidelity is None or fidelity not in names:
        asked = "has several" if fidelity is None else f"has no {fidelity!r}"
        raise UserError(f"{path} {asked}; name one with --fidelity: {', '.join(names) or 'it has no mIoU at all'}.")
    values: dict[str, list[float]] = {}
    candidates: dict[str, Candidate] = {}
    evaluators = {one.record.evaluator for one in every if one.record.fidelity == fidelity}
    if len(evaluators) > 1:
        raise UserError(f"{path} has {fidelity} of {len(evaluators)} data sets or versions; keep those of one.")
    for one in every:
        found = one.record.accuracy
        if one.record.fidelity == fidelity and found is not None:
            candidates[one.candidate.key] = one.candidate
            score = found.miou_pct if found.judge_miou_pct is None else found.judge_miou_pct
            values.setdefault(one.candidate.key, []).append(score)
    scored = [_Scored(candidate=candidates[key], score_pct=fmean(of_one)) for key, of_one in values.items()]
    return scored, f"{len(scored)} networks of {path.name} by {fidelity}"


def _of_report(name: str, fidelity: str | None, store: Store | None) -> tuple[list[_Scored], str]:
    report = find_report(name, store)
    fidelity = fidelity or report.reference
    known = (report.reference, *(one.fidelity for one in report.fidelities))
    if fidelity not in known:
        raise unknown_name("fidelity", fidelity, known)
    task = Task(image_size=(report.image_size[0], report.image_size[1]), num_classes=report.num_classes)
    scored = [
        _Scored(
            candidate=Candidate(arch=TopFormerConfig.from_dict(one.architecture), task=task),
            score_pct=fmean(one.values[fidelity]),
        )
        for one in report.ranked
    ]
    return scored, f"{len(scored)} networks of trust report {name} by {fidelity}"


def _of_table(path: Path, axis: Axis, *, grouped: bool) -> Source:
    rows = csv.DictReader(io.StringIO(file_text(path, "the table")))
    columns = tuple(rows.fieldnames or ())
    if missing := [column for column in (axis, "miou_pct") if column not in columns]:
        raise UserError(f"{path} lacks the column {missing[0]}; it has {', '.join(columns[:20]) or 'none'}.")
    sizes, scores, labels = [], [], []
    for number, row in enumerate(rows, start=2):
        if number > MOST_POINTS:
            raise UserError(f"{path} has more than {MOST_POINTS:,} rows; take some of them.")
        try:
            sizes.append(float(row[axis]))
            scores.append(float(row["miou_pct"]))
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {number}: {axis} and miou_pct must be numbers.") from None
        labels.append(row.get("group") or "all" if grouped else "all")
    return Source(
        points=_grouped(np.array(sizes), np.array(scores), labels), axis=axis, about=f"{len(sizes)} rows of {path.name}"
    )


def _grouped(sizes: np.ndarray, scores: np.ndarray, labels: Iterable[str]) -> Points:
    """The commonest group first."""
    listed = list(labels)
    names = sorted(set(listed), key=lambda name: (-listed.count(name), name))
    return Points(
        size=sizes,
        score_pct=scores,
        group=np.array([names.index(one) for one in listed], dtype=np.int64),
        groups=tuple(names),
    )


def _size(candidate: Candidate, axis: Axis, prices: LatencyTable) -> float:
    return _SIZES[axis](candidate, prices)


_SIZES: Mapping[Axis, Callable[[Candidate, LatencyTable], float]] = {
    "latency_ms": lambda one, prices: prices.estimate(candidate_blocks(one)).total_ms,
    "macs_g": lambda one, _: total(block.cost for block in candidate_blocks(one)).macs / 1e9,
    "params_m": lambda one, _: sum(block.parameters for block in candidate_blocks(one)) / 1e6,
    "image_px": lambda one, _: float(one.task.image_size[0] * one.task.image_size[1]) ** 0.5,
}

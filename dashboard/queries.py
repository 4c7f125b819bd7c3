"""From the store to views and data frames; reads only.

Raises `UserError`, in one sentence, for a store that is missing, foreign or damaged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pandas as pd

from experiments import DEFAULT_URL
from experiments.front.pareto import evaluated
from experiments.store.records import Study, Trial
from experiments.store.store import Store, store_if_any
from experiments.views.front import FrontView, front_view
from experiments.views.studies import ComparedStudy, StudyRow, comparison, study_rows
from experiments.views.trust import ReportRow, report_rows
from topformer.blocks import candidate_blocks
from topformer.config import anchor_name


def storage() -> str:
    """URL of the store that is shown."""
    return os.environ.get("TOPFORMER_NAS_STORAGE", DEFAULT_URL)


def studies_of(url: str) -> dict[str, Study]:
    """By name, in the order in which they began."""
    with Store.open(url, read_only=True) as store:
        return {study.name: study for study in store.studies()}


def study_rows_of(url: str) -> tuple[StudyRow, ...]:
    with Store.open(url, read_only=True) as store:
        return study_rows(store)


def comparison_of(url: str, names: Sequence[str]) -> tuple[ComparedStudy, ...]:
    with Store.open(url, read_only=True) as store:
        return comparison(store, names)


def report_rows_of(url: str) -> tuple[tuple[ReportRow, ...], tuple[str, ...]]:
    """Trust reports, and what is wrong with those that cannot be read. Those of the tool are there without a store."""
    left_out: list[str] = []
    with store_if_any(url) as store:
        return report_rows(store, left_out.append), tuple(left_out)


def front_of(url: str, name: str) -> FrontView:
    """Every settled trial of a study."""
    with Store.open(url, read_only=True) as store:
        return front_view(store, name, every=True)


def front_frame(view: FrontView) -> pd.DataFrame:
    """Evaluated trials by latency: mIoU in per cent and latency in ms, each with its error, and their place."""
    done = {trial.number for trial in evaluated(view.trials, fidelity=view.study.fidelity)}
    rows = [
        {
            "trial": row.trial.number,
            "anchor": row.trial.anchor or anchor_name(row.trial.candidate.arch) or "",
            "miou_pct": row.trial.miou_pct,
            "miou_margin_pct": row.miou_margin_pct,
            "latency_ms": row.trial.latency.total_ms,
            "latency_low_ms": row.trial.latency.low_ms,
            "latency_high_ms": row.trial.latency.high_ms,
            "on_front": row.on_front,
            "knee": row.knee,
            "front_probability": row.front_probability,
            "params_m": sum(block.parameters for block in candidate_blocks(row.trial.candidate)) / 1e6,
        }
        for row in view.rows
        if row.trial.number in done
    ]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"miou_margin_pct": float, "front_probability": float})
    return frame.sort_values(["latency_ms", "trial"], ignore_index=True)


_COLUMNS = (
    "trial",
    "anchor",
    "on_front",
    "front_probability",
    "knee",
    "miou_pct",
    "miou_margin_pct",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "params_m",
)


def block_frame(trial: Trial) -> pd.DataFrame:
    """Latency in ms of each block, in the order they run, with the part of the network it belongs to."""
    rows = [{"block": name, "module": name.partition(".")[0], "ms": ms} for name, ms in trial.latency.by_block]
    return pd.DataFrame(rows, columns=["block", "module", "ms"])


def class_frame(trial: Trial) -> pd.DataFrame:
    """IoU in per cent of each class that occurs, worst first."""
    metrics = trial.record.accuracy if trial.record else None
    values = metrics.per_class_iou_pct if metrics else ()
    rows = [{"class": index, "iou_pct": value} for index, value in enumerate(values) if value is not None]
    return pd.DataFrame(rows, columns=["class", "iou_pct"]).sort_values("iou_pct", ignore_index=True)

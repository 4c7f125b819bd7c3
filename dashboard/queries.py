"""From the store to data frames; reads only, and says in one sentence why there is nothing to read."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from experiments.front.pareto import front
from experiments.store.records import Study, Trial
from experiments.store.store import Store
from experiments.trust.standing import Standing, study_standing
from topformer.blocks import candidate_blocks
from topformer.config import anchor_name


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyView:
    """One study as the dashboard shows it."""

    study: Study
    trials: tuple[Trial, ...]
    frame: pd.DataFrame
    """One row per settled trial; see `trial_frame`."""
    table_name: str
    table_kind: str
    interval_note: str
    ranking: Standing

    @property
    def running(self) -> bool:
        return self.study.finished is None


def study_names(url: str) -> tuple[str, ...]:
    """Raises `UserError` for a store that is missing, foreign or damaged."""
    with Store.open(url, read_only=True) as store:
        return tuple(study.name for study in store.studies())


def study_view(url: str, name: str) -> StudyView:
    with Store.open(url, read_only=True) as store:
        study, trials = store.study(name), store.trials(name)
        ranking = study_standing(study, store)
    table = study.table
    return StudyView(
        study=study,
        trials=trials,
        frame=trial_frame(study, trials),
        table_name=table.header.name,
        table_kind=table.kind,
        interval_note=table.interval_note,
        ranking=ranking,
    )


def trial_frame(study: Study, trials: tuple[Trial, ...]) -> pd.DataFrame:
    """Completed trials of the study's fidelity, by latency: mIoU in per cent, latency with its interval in ms."""
    members = {trial.number for trial in front(trials, fidelity=study.fidelity)}
    rows = [
        {
            "trial": trial.number,
            "miou_pct": trial.miou_pct,
            "latency_ms": trial.latency.total_ms,
            "latency_low_ms": trial.latency.low_ms,
            "latency_high_ms": trial.latency.high_ms,
            "on_front": trial.number in members,
            "anchor": trial.anchor or anchor_name(trial.candidate.arch) or "",
            "params_m": sum(block.parameters for block in candidate_blocks(trial.candidate)) / 1e6,
            "arch_key": trial.candidate.arch.key,
        }
        for trial in trials
        if trial.state == "complete" and trial.record is not None and trial.record.fidelity == study.fidelity
    ]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.sort_values(["latency_ms", "trial"], ignore_index=True)


_COLUMNS = (
    "trial",
    "miou_pct",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "on_front",
    "anchor",
    "params_m",
    "arch_key",
)


def best_row(frame: pd.DataFrame, budget_ms: float) -> pd.Series | None:
    """The row of highest mIoU within the budget; None where nothing is that fast."""
    within = frame[frame["latency_ms"] <= budget_ms]
    return None if within.empty else within.iloc[int(within["miou_pct"].to_numpy().argmax())]


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

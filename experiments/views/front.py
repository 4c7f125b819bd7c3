"""What does a study say, in numbers? Rows and totals for the commands, from a study and its trials alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.trust import Z_90
from experiments.front.confidence import front_probabilities
from experiments.front.pareto import (
    front,
    hypervolume_of,
    hypervolume_reference,
    knee_of,
    nearest_anchor,
)
from experiments.store.records import BatchStatistics, Study, Trial
from experiments.trust.standing import Standing
from latency_lut.table import LatencyTable
from topformer.blocks import candidate_blocks
from topformer.errors import UserError


def trial_row(table: LatencyTable, trial: Trial, ranking: Standing) -> dict[str, Any]:
    """A settled trial with everything that is known of it."""
    record = trial.record
    assert record is not None, "only settled trials are listed"
    return {
        "trial": trial.number,
        "arch_key": trial.candidate.arch.key,
        "image_size": "x".join(map(str, trial.candidate.task.image_size)),
        "miou_pct": trial.miou_pct,
        "fidelity": record.fidelity,
        "replicate": record.replicate,
        "latency_ms": trial.latency.total_ms,
        "latency_low_ms": trial.latency.low_ms,
        "latency_high_ms": trial.latency.high_ms,
        "latency_kind": trial.latency.kind,
        "table": table.name,
        "ranking_trust": ranking.as_dict(),
        "anchor": trial.anchor,
        "status": trial.state,
        "reason": record.reason,
        "origin": trial.origin,
        "seconds": record.seconds,
        "architecture": trial.candidate.arch.as_dict(),
        "task": trial.candidate.task.as_dict(),
    }


def front_rows(
    study: Study, trials: Sequence[Trial], shown: Sequence[Trial], ranking: Standing
) -> list[dict[str, Any]]:
    """A row for each shown trial: also whether it is on the front, and how likely.

    `front_probability`, and `miou_margin_pct` (half the 90 % interval of a repeated training), are None where the noise
    between trainings is not known, and of failed trials.
    """
    table = study.table
    members = {trial.number for trial in front(trials, fidelity=study.fidelity)}
    noise_pct = ranking.noise_of(study.replicates)
    found = knee_of(study, trials)
    best = None if found is None else found.number
    likely: Mapping[int, float] = {}
    if noise_pct is not None:
        likely = front_probabilities(trials, table, fidelity=study.fidelity, noise_pct=noise_pct)
    return [
        trial_row(table, trial, ranking)
        | {
            "on_front": trial.number in members,
            "knee": trial.number == best,
            "front_probability": likely.get(trial.number),
            "miou_noise_pct": noise_pct,
            "miou_margin_pct": None if noise_pct is None or trial.miou_pct is None else Z_90 * noise_pct,
        }
        for trial in shown
    ]


def against_anchor(
    trial: Trial, trials: Sequence[Trial], study: Study, *, margin_pct: float | None
) -> dict[str, Any] | None:
    """The trial minus the anchor nearest in latency; `margin_pct` is that of one mIoU, None where it is not known."""
    anchor = nearest_anchor(trial, trials, fidelity=study.fidelity)
    if anchor is None:
        return None
    assert trial.miou_pct is not None
    assert anchor.miou_pct is not None
    slower = study.table.difference(candidate_blocks(trial.candidate), candidate_blocks(anchor.candidate))
    return {
        "anchor": anchor.anchor,
        "miou_difference_pct": trial.miou_pct - anchor.miou_pct,
        "miou_difference_margin_pct": None if margin_pct is None else math.sqrt(2) * margin_pct,
        "latency_difference_ms": slower.delta_ms,
        "latency_difference_low_ms": slower.low_ms,
        "latency_difference_high_ms": slower.high_ms,
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated, with a header; what is no plain value (architecture, task, trust) is left to JSON."""
    names = [name for name in rows[0] if not isinstance(rows[0][name], Mapping)] if rows else []
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def study_summary(
    study: Study, trials: Sequence[Trial], batches: Sequence[BatchStatistics], ranking: Standing
) -> dict[str, Any]:
    """What was asked, what was done, what it cost, what came of it."""
    reference = hypervolume_reference(study, trials)
    members = front(trials, fidelity=study.fidelity)
    best = knee_of(study, trials)
    last = max((trial.batch for trial in trials), default=-1)
    return {
        "study": study.name,
        "space": study.config.space.get("preset") or study.config.space.get("name"),
        "task": study.config.task.model_dump(),
        "sampler": study.config.search.sampler,
        "seed": study.config.search.seed,
        "fidelity": study.fidelity,
        "evaluator": study.evaluator,
        "dataset": study.config.evaluator.dataset,
        "table": study.table.name,
        "table_checksum": study.table.checksum,
        "max_ms": study.config.latency.max_ms,
        "created": study.created,
        "finished": study.finished,
        "trials_wanted": study.config.search.trials,
        "trials": len(trials),
        "complete": sum(trial.state == "complete" for trial in trials),
        "failed": sum(trial.state == "failed" for trial in trials),
        "in_flight": sum(trial.state == "proposed" for trial in trials),
        "from_the_store": sum(trial.from_cache for trial in trials),
        "evaluation_seconds": sum(t.record.seconds for t in trials if t.record is not None and not t.from_cache),
        "proposals_asked": sum(one.asked for one in batches),
        "over_budget_dropped": sum(one.over_budget for one in batches),
        "invalid_dropped": sum(one.invalid for one in batches),
        "duplicates_dropped": sum(one.duplicates for one in batches),
        "screened_out": sum(one.screened for one in batches),
        "sampler_seconds": sum(one.sampler_seconds for one in batches),
        "hypervolume_reference_ms": reference[0],
        "hypervolume_reference_miou_pct": reference[1],
        "hypervolume_by_batch": [
            hypervolume_of(
                [trial for trial in trials if trial.batch <= batch], fidelity=study.fidelity, reference=reference
            )
            for batch in range(last + 1)
        ],
        "front": [trial.number for trial in members],
        "confirmed_by": [rung.label for rung in study.rungs],
        "knee": None if best is None else best.number,
        "failures": [
            {"trial": trial.number, "reason": trial.record.reason}
            for trial in trials
            if trial.state == "failed" and trial.record is not None
        ],
        "ranking_trust": ranking.as_dict(),
    }


def comparison(studies: Sequence[tuple[Study, Sequence[Trial]]]) -> list[dict[str, Any]]:
    """Studies side by side, their hypervolumes from one reference: the longest of their own.

    Raises `UserError` where their numbers do not compare: another table, or another evaluator.
    """
    first = studies[0][0]
    for study, _ in studies[1:]:
        for what, one, other in (
            ("latency table", first.table.checksum, study.table.checksum),
            ("evaluator", first.evaluator, study.evaluator),
        ):
            if one != other:
                raise UserError(
                    f"studies {first.name!r} and {study.name!r} do not compare: each has another {what} "
                    f"({one[:12]}, {other[:12]}), so that their numbers are of different things."
                )
    reference = (max(hypervolume_reference(study, trials)[0] for study, trials in studies), 0.0)
    return [
        {
            "study": study.name,
            "sampler": study.config.search.sampler,
            "seed": study.config.search.seed,
            "max_ms": study.config.latency.max_ms,
            "complete": sum(trial.state == "complete" for trial in trials),
            "hypervolume": hypervolume_of(trials, fidelity=study.fidelity, reference=reference),
            "reference_ms": reference[0],
            "on_front": len(front(trials, fidelity=study.fidelity)),
            "on_common_front": sum(trial.candidate.key in common for trial in front(trials, fidelity=study.fidelity)),
        }
        for common in [_common_front(studies)]
        for study, trials in studies
    ]


def _common_front(studies: Sequence[tuple[Study, Sequence[Trial]]]) -> set[str]:
    every = [trial for _, trials in studies for trial in trials]
    return {trial.candidate.key for trial in front(every, fidelity=studies[0][0].fidelity)}

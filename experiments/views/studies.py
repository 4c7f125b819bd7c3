"""What did studies ask for, do and find? Totals of one study, and several side by side.

Imports the store, the front and trust reports, and nothing that prints or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.front.pareto import front, hypervolume_of, hypervolume_reference, knee_of
from experiments.store.records import BatchStatistics, Study, Trial
from experiments.trust.standing import Standing
from topformer.errors import UserError


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

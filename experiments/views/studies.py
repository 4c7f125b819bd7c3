"""What did studies ask for, do and find? Listed, one by one, and side by side.

Imports the store, the front and trust reports, and nothing that prints or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.front.pareto import front, hypervolume_of, hypervolume_reference, knee_of
from experiments.store.records import BatchStatistics, Study, Trial
from experiments.store.store import Store
from experiments.trust.standing import Standing, study_standing
from topformer.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """A study of a store in one line."""

    study: str
    trials: int
    complete: int
    failed: int
    wanted: int
    fidelity: str
    ranking: str
    """How far the order of its evaluator can be believed, in a few words."""
    table: str
    created: str
    finished: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def study_rows(store: Store) -> tuple[StudyRow, ...]:
    return tuple(
        StudyRow(
            study=study.name,
            **store.counts(study.name)._asdict(),
            wanted=study.config.search.trials,
            fidelity=study.fidelity,
            ranking=study_standing(study, store).short.removeprefix("ranking "),
            table=study.table.header.name,
            created=study.created,
            finished=study.finished,
        )
        for study in store.studies()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """What a study asked for, what was done, what it cost, and what came of it."""

    study: Study
    trials: tuple[Trial, ...]
    batches: tuple[BatchStatistics, ...]
    ranking: Standing
    confirmation_seconds: float

    def as_dict(self) -> dict[str, Any]:
        study, trials, gate = self.study, self.trials, BatchStatistics.total(self.batches)
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
            "proposals_asked": gate.asked,
            "over_budget_dropped": gate.over_budget,
            "invalid_dropped": gate.invalid,
            "duplicates_dropped": gate.duplicates,
            "screened_out": gate.screened,
            "sampler_seconds": gate.sampler_seconds,
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
            "ranking_trust": self.ranking.as_dict(),
            "confirmation_seconds": self.confirmation_seconds,
        }


def study_summary(store: Store, name: str) -> StudySummary:
    study = store.study(name)
    confirmations = [record for rung in study.rungs for record in store.confirmations(name, rung)]
    return StudySummary(
        study=study,
        trials=store.trials(name),
        batches=store.batches(name),
        ranking=study_standing(study, store),
        confirmation_seconds=sum(record.seconds for record in confirmations),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedStudy:
    """One of several studies of the same table and evaluator."""

    study: str
    sampler: str
    seed: int
    max_ms: float | None
    complete: int
    hypervolume: float
    """In ms * per cent, from the reference that all of them share."""
    reference_ms: float
    on_front: int
    on_common_front: int
    """Members of its front that are on the front of all studies together."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def comparison(store: Store, names: Sequence[str]) -> tuple[ComparedStudy, ...]:
    """Studies side by side, their hypervolumes from one reference: the longest of their own.

    Raises `UserError` where their numbers do not compare: another table, or another evaluator.
    """
    studies = [(store.study(name), store.trials(name)) for name in names]
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
    every = [trial for _, trials in studies for trial in trials]
    common = {trial.candidate.key for trial in front(every, fidelity=first.fidelity)}
    fronts = [front(trials, fidelity=study.fidelity) for study, trials in studies]
    return tuple(
        ComparedStudy(
            study=study.name,
            sampler=study.config.search.sampler,
            seed=study.config.search.seed,
            max_ms=study.config.latency.max_ms,
            complete=sum(trial.state == "complete" for trial in trials),
            hypervolume=hypervolume_of(trials, fidelity=study.fidelity, reference=reference),
            reference_ms=reference[0],
            on_front=len(members),
            on_common_front=sum(trial.candidate.key in common for trial in members),
        )
        for (study, trials), members in zip(studies, fronts, strict=True)
    )

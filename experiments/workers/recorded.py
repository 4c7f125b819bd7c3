"""Evaluate what the store does not know yet, and record it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.base import Scorer
from experiments.store.records import Record
from experiments.store.store import Store
from experiments.workers.pool import Outcome, Pool
from topformer.config import Candidate
from topformer.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """One evaluation that somebody needs."""

    scorer: Scorer
    candidate: Candidate
    replicate: int = 0
    keeps_weights: bool = False
    called: str = ""
    """What a sentence about a fault calls the candidate; by default its architecture's key."""

    @property
    def identity(self) -> tuple[str, str, int]:
        """Candidate, evaluator and replicate, as the store's records have them."""
        return self.candidate.key, self.scorer.fingerprint, self.replicate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is known of a want."""

    number: int
    """The want's place among all that were asked for."""
    record: Record
    cached: bool
    """The store knew it already."""


Write = Callable[[Answer, Path | None], None]
"""Called with what is known of a want, and with its weights where an evaluation kept some."""


def answers(
    wants: Sequence[Want],
    store: Store,
    pool: Pool,
    *,
    beat: Callable[[], None] = lambda: None,
    write: Write | None = None,
) -> Iterator[Answer]:
    """What the store knows first, then evaluations as they come, each recorded before it is told.

    `wants` may grow while answers are taken. `beat` is called at least every 15 s. `write` is called before each answer
    is given, known or new, and records what is new in place of `Store.add_record`. Raises `UserError` for a fault
    around a candidate (disk, cache, settings), which no record is made of; a candidate that cannot be evaluated has a
    record that says why.
    """
    asked, in_flight = 0, dict[int, Path | None]()
    while asked < len(wants) or in_flight:
        if asked < len(wants):
            fresh = dict(enumerate(wants[asked:], start=asked))
            asked += len(fresh)
            known = store.known_records(want.identity for want in fresh.values())
            for number, want in fresh.items():
                if want.identity not in known:
                    in_flight[number] = store.weights_path(*want.identity) if want.keeps_weights else None
                    pool.submit(number, (want.scorer, want.candidate, want.replicate, in_flight[number]))
            for number, want in fresh.items():
                if want.identity in known:
                    answer = Answer(number=number, record=known[want.identity], cached=True)
                    if write is not None:
                        write(answer, None)
                    yield answer
            continue
        number, outcome = pool.next(beat)
        want, weights = wants[number], in_flight.pop(number)
        answer = Answer(number=number, record=_record_of(outcome, want), cached=False)
        kept = weights if weights is not None and weights.is_file() else None
        if write is not None:
            write(answer, kept)
        else:
            store.add_record(answer.record, candidate=want.candidate, weights=kept)
        yield answer


def recorded(
    wants: Sequence[Want],
    store: Store,
    pool: Pool,
    *,
    beat: Callable[[], None] = lambda: None,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> list[Record]:
    """The record of every want, in order; after each evaluation `tell` gets how many are known, and of how many."""
    found: dict[int, Record] = {}
    for answer in answers(wants, store, pool, beat=beat):
        found[answer.number] = answer.record
        if not answer.cached:
            tell(len(found), len(wants))
    return [found[number] for number in range(len(wants))]


def _record_of(outcome: Outcome, want: Want) -> Record:
    outcome.require_no_fault(
        f"{want.called or want.candidate.arch.key} could not be evaluated by {want.scorer.fidelity}"
    )
    metrics = outcome.metrics
    try:
        return Record(
            candidate_key=want.candidate.key,
            evaluator=want.scorer.fingerprint,
            fidelity=want.scorer.fidelity,
            replicate=want.replicate,
            status="failed" if metrics is None else "complete",
            metrics=metrics,
            reason=outcome.reason,
            seconds=0.0 if metrics is None else metrics.seconds,
        )
    except ValueError as error:  # an evaluator from elsewhere
        raise UserError(
            f"{want.scorer.fidelity} brought of {want.called or want.candidate.arch.key} what no evaluation can bring: "
            f"{error}. Nothing is recorded; mend the evaluator."
        ) from error

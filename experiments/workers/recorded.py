"""Evaluate what the store does not know yet, and record it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluators.base import Scorer
from experiments.store.records import Record
from experiments.store.store import Store
from experiments.workers.pool import Job, Outcome, Pool
from topformer.config import Candidate


def record_of(outcome: Outcome, scorer: Scorer, candidate: Candidate, *, replicate: int) -> Record:
    """What a worker brought back."""
    metrics = outcome.metrics
    return Record(
        candidate_key=candidate.key,
        evaluator=scorer.fingerprint,
        fidelity=scorer.fidelity,
        replicate=replicate,
        status="failed" if metrics is None else "complete",
        metrics=metrics,
        reason=outcome.reason,
        seconds=0.0 if metrics is None else metrics.seconds,
    )


def recorded(
    wants: Sequence[tuple[Scorer, Candidate, int]],
    store: Store,
    pool: Pool,
    beat: Callable[[], None] = lambda: None,
    tell: Callable[[int, int], None] = lambda *_: None,
    *,
    keeps: Callable[[int], bool] = lambda _: False,
) -> list[Record]:
    """Of every (scorer, candidate, replicate), from the store where it is known, evaluated and recorded otherwise.

    `keeps` says of which replicates the weights are kept.
    """
    known = [store.find_record(one.key, scorer.fingerprint, number) for scorer, one, number in wants]
    jobs: dict[int, Job] = {}
    for index, (scorer, candidate, replicate) in enumerate(wants):
        if known[index] is None:
            weights = store.weights_path(candidate.key, scorer.fingerprint, replicate) if keeps(replicate) else None
            jobs[index] = (scorer, candidate, replicate, weights)
    done = len(wants) - len(jobs)
    for index, outcome in pool.results(jobs, beat):
        scorer, candidate, replicate = wants[index]
        outcome.require_no_fault(f"{candidate.arch.key} could not be evaluated by {scorer.fidelity}")
        record = record_of(outcome, scorer, candidate, replicate=replicate)
        weights = jobs[index][3]
        store.add_record(record, candidate=candidate, weights=weights if weights and weights.is_file() else None)
        known[index] = record
        done += 1
        tell(done, len(wants))
    return [record for record in known if record is not None]

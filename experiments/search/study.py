"""A study from its TOML file to its front: propose, gate, evaluate, record, batch by batch.

Batch-synchronous: the batch size does not depend on the number of workers, and one evaluation runs on one torch
thread, so one seed gives one front at any number of workers and after any interruption.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.base import Evaluator
from evaluators.compiled import CompiledTable
from experiments.front.confidence import front_probabilities
from experiments.front.pareto import evaluated, front, hypervolume_of, hypervolume_reference, points
from experiments.front.predictor import LEAST_POINTS
from experiments.search.guided import Guide
from experiments.search.samplers import Gate, left_out_agreement, next_batch
from experiments.search.schedule import Confirmation, Schedule, promoted
from experiments.store.records import BatchStatistics, Proposal, Record, Rung, Trial
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.workers.pool import Pool, worker_pool
from experiments.workers.recorded import Want, answers, recorded
from latency_lut.table import LatencyTable, find_table
from search_space import SearchSpace, blocks, require_anchors
from topformer.blocks import candidate_blocks
from topformer.errors import UserError

if TYPE_CHECKING:
    pass

MAX_FAILURES_PCT = 25
LOOKED_AT = 300
"""Architectures drawn to say whether a budget can be kept at all."""
NO_RUNGS = Schedule()


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What a running study reports: after each settled trial, after a batch, and of its other rungs."""

    done: int
    total: int
    trial: Trial | None = None
    note: str = ""
    rung: str | None = None
    """The screen or confirmation whose evaluations are counted; None: trials are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """A finished study."""

    name: str
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    fidelity: str
    trained: int
    """Evaluations this call ran."""
    cached: int
    """Trials this call answered from the store."""
    confirming: int
    """Trainings this call ran to confirm trials."""


def run_study(
    config: StudyConfig,
    store: Store,
    *,
    evaluator: Evaluator,
    schedule: Schedule = NO_RUNGS,
    table: LatencyTable | None = None,
    workers: int = 1,
    elsewhere: AbstractContextManager[Pool] | None = None,
    report: Callable[[Event], None] = lambda _: None,
) -> StudyResult:
    """Run a study to its number of trials, or go on where it was interrupted.

    Evaluations run in `workers` processes of this machine, or `elsewhere`; results do not depend on where.

    Raises `UserError` for anchors outside the space, a table without a needed row, a stored study of the same name
    with another configuration, another driver at work, or too many failed evaluations.
    """
    space = config.search_space()
    require_anchors(space, config.search.anchors)
    table = _opened_table(config, store, table, evaluator)
    stored = store.study(config.name).config
    config = config.extended(max(config.search.trials, stored.search.trials))  # it remembers being extended
    _require_same_screens(config, store, schedule)
    run = _Run(config, store, space, table, evaluator, schedule, report)
    with (
        _nothing_left_of_no_start(config.name, store),
        store.lease(config.name) as lease,
        elsewhere or worker_pool(workers) as pool,
    ):
        if config != stored:
            store.update_config(config)
        run.tell()
        while len(run.trials) < config.search.trials or run.open_trials():
            if not run.open_trials() and run.propose(pool, lease.beat) is None:
                run.tell(note=run.why_exhausted())
                break
            run.evaluate(pool, lease.beat)
            run.prune_weights()
            run.tell_so_far()
        run.confirm(pool, lease.beat)
        run.store.finish_study(config.name)
    members = front(run.trials, fidelity=evaluator.fidelity)
    return StudyResult(
        name=config.name,
        trials=tuple(run.trials),
        front=members,
        fidelity=evaluator.fidelity,
        trained=run.trained,
        cached=run.cached,
        confirming=run.confirming,
    )


@contextmanager
def _nothing_left_of_no_start(name: str, store: Store) -> Iterator[None]:
    """A study that is refused before its first trial, by a cluster that is not there for one, is none."""
    try:
        yield
    except UserError:
        if not store.counts(name).trials:
            store.delete_study(name)
        raise


def _opened_table(config: StudyConfig, store: Store, table: LatencyTable | None, evaluator: Evaluator) -> LatencyTable:
    """Create or reopen the stored study; gives the table as it was when the study began."""
    stored = store.find_study(config.name)
    if stored is not None and not store.counts(config.name).trials:
        store.delete_study(config.name)  # it never began: nothing is lost by beginning anew
        stored = None
    if stored is None:
        table = table or find_table(config.latency.table)
        require_rows(config, table)
        store.create_study(
            config,
            evaluator=evaluator.fingerprint,
            fidelity=evaluator.fidelity,
            table_text=table.text,
        )
        return table
    if changed := _changed_keys(stored.config.model_dump(), config.model_dump()):
        raise UserError(
            f"study {config.name!r} is in {store.url} with another {changed[0]}; restore it, give the changed study "
            f"a new name, or drop the old one with: topformer-nas study delete {config.name} "
            "(only search.trials and confirm may change)."
        )
    if stored.evaluator != evaluator.fingerprint:
        raise UserError(
            f"study {config.name!r} was evaluated by {stored.evaluator}, now it would be {evaluator.fingerprint}: "
            "results would not compare; give the study a new name."
        )
    return stored.table


def _require_same_screens(config: StudyConfig, store: Store, schedule: Schedule) -> None:
    """A study goes on with the screens that it began with: what a trust report says may have changed since."""
    used = [screen.scorer.fingerprint for screen in schedule.screens]
    if not store.counts(config.name).trials:
        store.set_screens(config.name, used)
    elif (before := store.screens(config.name)) != used:
        raise UserError(
            f"study {config.name!r} began with {len(before)} of its screens in use, now it would be {len(used)}, or "
            "others: a trust report or a supernet has changed; give the study a new name."
        )


def require_rows(config: StudyConfig, table: LatencyTable) -> None:
    """Raise `UserError` with the command that measures what the study's space needs and the table lacks."""
    missing = [block.key for block in blocks(config.search_space()) if block.key not in table.rows]
    if missing:
        name, then = config.latency.table, ""
        if table.header.estimated:  # as in MissingRows: a table of one's own, beside the shipped one
            name = f"{name}-mine"
            then = f'; then set table = "{name}" in [latency]'
        raise UserError(
            f"table {table.name} lacks {len(missing)} of the rows that study {config.name!r} needs, {missing[0]} among "
            f"them; get them with: topformer-nas latency measure --device {table.header.device} "
            f"--study FILE.toml --table {name}{then}"
        )


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ; other numbers of trials and confirmations change nothing that is there."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in ("confirm", "search.trials"):
            changed.append(f"{prefix}{key} ({before!r}, now {after!r})")
    return changed


class _Run:
    """One driver's view of a study while it runs."""

    def __init__(
        self,
        config: StudyConfig,
        store: Store,
        space: SearchSpace,
        table: LatencyTable,
        evaluator: Evaluator,
        schedule: Schedule,
        report: Callable[[Event], None],
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.store = store
        self.space = space
        self.table = table
        self.evaluator = evaluator
        self.report = report
        self.gate = Gate(
            why_not=evaluator.why_not,
            latency=lambda candidate: table.estimate(candidate_blocks(candidate)),
            max_ms=config.latency.max_ms,
        )
        self.guide = functools.cache(lambda: Guide(space, CompiledTable(table, space), max_ms=config.latency.max_ms))
        self.trials = list(store.trials(config.name))
        self.total = max(config.search.trials, len(self.trials))
        self.trained = self.cached = self.confirming = 0

    @property
    def done(self) -> int:
        return sum(trial.state != "proposed" for trial in self.trials)

    def open_trials(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "proposed"]

    def propose(self, pool: Pool, beat: Callable[[], None]) -> Sequence[Trial] | None:
        """Add the next batch, and give its trials; None when the space has nothing left."""
        search = self.config.search
        batch = 1 + max((trial.batch for trial in self.trials), default=-1)
        size = max(min(search.batch_size, search.trials - len(self.trials)), len(search.anchors) if batch == 0 else 1)
        proposals, statistics = next_batch(
            self.space,
            self.trials,
            sampler=search.sampler,
            seed=search.seed,
            batch=batch,
            size=math.ceil(size / math.prod(screen.share for screen in self.schedule.screens)),
            population=search.batch_size,
            anchors=search.anchors,
            gate=self.gate,
            guide=self.guide,
            fidelity=self.evaluator.fidelity,
        )
        if not proposals:
            return None
        kept = self._screened(proposals, size, pool, beat)
        statistics = replace(statistics, screened=len(proposals) - len(kept))
        added = self.store.add_batch(self.config.name, batch=batch, proposals=kept, statistics=statistics)
        self.trials += added
        return added

    def why_exhausted(self) -> str:
        """Why nothing more can be proposed: a budget that nothing keeps, or a space that is used up."""
        max_ms, rng = self.config.latency.max_ms, random.Random(0)
        if max_ms is not None:
            drawn = [self.gate.latency(self.space.sample(rng)).total_ms for _ in range(LOOKED_AT)]
            if min(drawn) > max_ms:
                return (
                    f"nothing further is within latency.max_ms = {max_ms:g}: the fastest of {LOOKED_AT} architectures "
                    f"drawn at random takes {min(drawn):.1f} ms"
                )
        return f"the space holds no further candidate: {len(self.trials)} trials are all that there are for this study"

    def _screened(
        self, proposals: Sequence[Proposal], size: int, pool: Pool, beat: Callable[[], None]
    ) -> Sequence[Proposal]:
        """The anchors, and the best of the others screen by screen; what a screen cannot score does not go on."""
        anchors = [one for one in proposals if one.anchor]
        others = [one for one in proposals if not one.anchor]
        for number, screen in enumerate(self.schedule.screens, start=1):
            wants = [Want(scorer=screen.scorer, candidate=one.candidate) for one in others]
            tell = functools.partial(self._tell_rung, screen.scorer.fidelity)
            records = recorded(wants, self.store, pool, beat=beat, tell=tell)
            values = [record.value for record in records]
            known = [(one, value) for one, value in zip(others, values, strict=True) if value is not None]
            last = number == len(self.schedule.screens)
            room = max(size - len(anchors), 0) if last else math.ceil(len(others) * screen.share)
            best = promoted([(one.latency.total_ms, value) for one, value in known], room)
            others = [known[index][0] for index in best]
        return [*anchors, *others]

    def confirm(self, pool: Pool, beat: Callable[[], None]) -> None:
        """Train the best, and the anchors, at each rung in turn."""
        rungs = [
            Rung(
                label=rung.label,
                fidelity=rung.evaluator.fidelity,
                evaluator=rung.evaluator.fingerprint,
                replicates=rung.replicates,
            )
            for rung in self.schedule.confirmations
        ]
        self.store.set_rungs(self.config.name, rungs)
        ranked = evaluated(self.trials, fidelity=self.evaluator.fidelity)
        for rung, stored in zip(self.schedule.confirmations, rungs, strict=True):
            members = self._worth_confirming(ranked, rung)
            wants = [
                Want(
                    scorer=rung.evaluator,
                    candidate=trial.candidate,
                    replicate=replicate,
                    keeps_weights=replicate == 0,
                )
                for replicate in range(rung.replicates)
                for trial in members
                if rung.evaluator.why_not(trial.candidate) is None
            ]
            tell = functools.partial(self._tell_confirming, rung.label)
            recorded(wants, self.store, pool, beat=beat, tell=tell)
            numbers = {trial.number for trial in members}
            found = self.store.confirmed(self.config.name, stored)
            ranked = tuple(trial for trial in found if trial.number in numbers)

    def _worth_confirming(self, ranked: Sequence[Trial], rung: Confirmation) -> list[Trial]:
        """The anchors and the best of the others, all of one fidelity."""
        others = [trial for trial in ranked if not trial.anchor]
        if rung.front_probability is not None and ranked:
            assert rung.noise_pct is not None
            assert ranked[0].record is not None
            fidelity = ranked[0].record.fidelity
            likely = front_probabilities(ranked, self.table, fidelity=fidelity, noise_pct=rung.noise_pct)
            others = [trial for trial in others if likely[trial.number] >= rung.front_probability]
        best = promoted(points(others), len(others) if rung.keep is None else rung.keep)
        return [*(trial for trial in ranked if trial.anchor), *(others[index] for index in best)]

    def evaluate(self, pool: Pool, beat: Callable[[], None]) -> None:
        """Settle every open trial: from the store where it is known, by training otherwise.

        Asynchronously, further batches follow while some still run.
        """
        trials = self.open_trials()
        wants = [self._want(trial) for trial in trials]

        def write(number: int, record: Record, weights: Path | None) -> None:
            self._settle(trials[number], record, from_cache=False, weights=weights)

        asynchronous, size = self.config.search.asynchronous, self.config.search.batch_size
        taken = 0
        for answered, answer in enumerate(answers(wants, self.store, pool, beat=beat, write=write), start=1):
            if answer.cached:
                self.cached += 1
                self._settle(trials[answer.number], answer.record, from_cache=True)
            else:
                self.trained += 1
                taken += 1
                self._stop_on_failures()
                if asynchronous and taken % size == 0:
                    self.prune_weights()
                    self.tell_so_far()
            while self._has_idle(pool, len(wants) - answered) and (fresh := self.propose(pool, beat)) is not None:
                trials += fresh
                wants += [self._want(trial) for trial in fresh]

    def _has_idle(self, pool: Pool, in_flight: int) -> bool:
        search = self.config.search
        return search.asynchronous and in_flight < pool.workers and len(self.trials) < search.trials

    def _want(self, trial: Trial) -> Want:
        return Want(
            scorer=self.evaluator, candidate=trial.candidate, keeps_weights=True, called=f"trial {trial.number}"
        )

    def tell_so_far(self) -> None:
        study, gates = self.store.study(self.config.name), self.store.batches(self.config.name)
        gate = BatchStatistics.total(gates)
        reference = hypervolume_reference(study, self.trials)
        area = hypervolume_of(self.trials, fidelity=self.evaluator.fidelity, reference=reference)
        saved = {
            "from the store": self.cached,
            "over the budget": gate.over_budget,
            "known already": gate.duplicates,
            "turned away by a screen": gate.screened,
        }
        words = ", ".join(f"{count} {what}" for what, count in saved.items() if count)
        asynchronous = self.config.search.asynchronous
        note = f"{self.done} of {self.total}" if asynchronous else f"batch {len(gates) - 1}"
        note += f" done: hypervolume {area:,.0f} ms x % under {reference[0]:.1f} ms"
        note += f"; so far not evaluated: {words}." if words else "."
        done = evaluated(self.trials, fidelity=self.evaluator.fidelity)
        if self.config.search.sampler == "auto" and len(done) > LEAST_POINTS:
            tau, error_pct = left_out_agreement(done, self.guide())
            note += f" Each trial is predicted from the others with an error of {error_pct:.2f} points, tau {tau:.2f}."
        self.tell(note=note)

    def tell(self, trial: Trial | None = None, *, note: str = "") -> None:
        self.report(Event(done=self.done, total=self.total, trial=trial, note=note))

    def _tell_confirming(self, label: str, done: int, total: int) -> None:
        self.confirming += 1
        self._tell_rung(label, done, total)

    def _tell_rung(self, label: str, done: int, total: int) -> None:
        self.report(Event(done=done, total=total, rung=label))

    def prune_weights(self) -> None:
        """Keep the weights of the front and of the anchors."""
        members = {trial.number for trial in front(self.trials, fidelity=self.evaluator.fidelity)}
        own = [trial for trial in self.trials if trial.weights is not None and not trial.from_cache]
        doomed = [trial for trial in own if trial.number not in members and not trial.anchor]
        self.store.drop_weights((trial.candidate.key, self.evaluator.fingerprint, 0) for trial in doomed)
        for trial in doomed:
            self.trials[trial.number] = replace(trial, weights=None, weights_sha256=None)

    def _settle(self, trial: Trial, record: Record, *, from_cache: bool, weights: Path | None = None) -> None:
        settled = self.store.settle(self.config.name, trial, record, from_cache=from_cache, weights=weights)
        self.trials[trial.number] = settled
        self.tell(settled)

    def _stop_on_failures(self) -> None:
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if len(failed) >= 3 and 100 * len(failed) > MAX_FAILURES_PCT * self.done:
            reason = failed[-1].record.reason if failed[-1].record else None
            raise UserError(
                f"study {self.config.name!r} stops: {len(failed)} of {self.done} evaluations failed, "
                f"the last with: {reason}. Mend the cause and run the same command to go on."
            )

"""A study from its TOML file to its front: propose, gate, evaluate, record, batch by batch.

The batch size does not depend on the number of workers, and one evaluation runs on one torch thread, so one seed gives
one front at any number of workers and after any interruption; not so with `search.asynchronous`, which keeps every
worker busy.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from evaluators.base import Evaluator
from evaluators.compiled import CompiledTable
from experiments.front.confidence import front_probabilities, race_noise_pct, undecided_sentence
from experiments.front.pareto import evaluated, front, hypervolume_of, hypervolume_reference, points
from experiments.front.predictor import LEAST_POINTS
from experiments.search.gate import Limits
from experiments.search.guided import Guide
from experiments.search.opening import nothing_left_of_no_start, opened
from experiments.search.racing import next_trainings
from experiments.search.samplers import left_out_agreement, next_batch
from experiments.search.schedule import Confirmation, Schedule, promoted
from experiments.store.records import BatchStatistics, Proposal, Rung, Trial, like
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.trust.standing import Standing, study_standing
from experiments.workers.pool import Pool, worker_pool
from experiments.workers.recorded import Answer, Want, answers, recorded
from latency_lut.table import LatencyTable
from topformer.blocks import candidate_blocks
from topformer.errors import UserError

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
    """What one call of a search did, and where the study stands."""

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
    gate: BatchStatistics
    """The total over all batches of the study."""
    schedule: Schedule
    ranking: Standing
    """How far the order of the study's evaluator can be believed."""

    @property
    def failed(self) -> int:
        return sum(trial.state == "failed" for trial in self.trials)

    @property
    def idle(self) -> bool:
        """Whether nothing was left to evaluate."""
        return not (self.trained or self.cached or self.confirming)

    @property
    def confirmed_by(self) -> list[str]:
        """Labels of the confirmations, in the order they run."""
        return [rung.label for rung in self.schedule.confirmations]

    @property
    def notes(self) -> tuple[str, ...]:
        if self.idle:
            return (f"study {self.name} is done: {len(self.trials)} trials, nothing left to evaluate.",)
        notes = (
            f"{self.trained} evaluated, {self.cached} from the store, {self.failed} failed.",
            f"Before evaluation, of {self.gate.asked} proposals {self.gate.over_budget} were "
            f"dropped as over the budget, {self.gate.invalid} as beyond the proxy, "
            f"{self.gate.duplicates} as known, {self.gate.screened} turned away by a screen.",
        )
        if self.confirmed_by:
            return (*notes, f"{self.confirming} trainings confirmed the best.")
        undecided = undecided_sentence(self.front, noise_pct=self.ranking.noise_pct)
        return notes if undecided is None else (*notes, f"{undecided} A [[confirm]] with replicates can.")

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "trials": len(self.trials),
            "trained": self.trained,
            "cached": self.cached,
            "failed": self.failed,
            "proposals_asked": self.gate.asked,
            "invalid_dropped": self.gate.invalid,
            "over_budget_dropped": self.gate.over_budget,
            "duplicates_dropped": self.gate.duplicates,
            "screened_out": self.gate.screened,
            "screens_not_used": list(self.schedule.notices),
            "confirmed_by": self.confirmed_by,
            "confirming": self.confirming,
            "front": [trial.number for trial in self.front],
            "ranking_trust": self.ranking.as_dict(),
        }


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
    config, table = opened(config, store, table=table, evaluator=evaluator, schedule=schedule)
    run = _Run(config=config, store=store, table=table, evaluator=evaluator, schedule=schedule, report=report)
    with (
        nothing_left_of_no_start(config.name, store),
        store.lease(config.name) as lease,
        elsewhere or worker_pool(workers) as pool,
    ):
        if config != store.study(config.name).config:
            store.update_config(config)
        run.report_progress()
        while len(run.trials) < config.search.trials or run.open_trials():
            if not run.open_trials() and run.propose(pool, lease.beat) is None:
                run.report_progress(note=run.why_exhausted())
                break
            run.evaluate(pool, lease.beat)
            run.drop_weights_off_front()
            run.report_so_far()
        run.confirm(pool, lease.beat)
        run.store.finish_study(config.name)
    return like(
        StudyResult,
        run,
        name=config.name,
        trials=tuple(run.trials),
        front=front(run.trials, fidelity=evaluator.fidelity),
        fidelity=evaluator.fidelity,
        gate=BatchStatistics.total(store.batches(config.name)),
        ranking=study_standing(store.study(config.name), store),
    )


@dataclass(kw_only=True)
class _Run:
    """One driver's view of a study while it runs."""

    config: StudyConfig
    store: Store
    table: LatencyTable
    evaluator: Evaluator
    schedule: Schedule
    report: Callable[[Event], None]
    trained: int = 0
    cached: int = 0
    confirming: int = 0

    def __post_init__(self) -> None:
        table, max_ms = self.table, self.config.latency.max_ms
        self.space = self.config.search_space()
        self.limits = Limits(
            why_not=self.evaluator.why_not,
            latency=lambda candidate: table.estimate(candidate_blocks(candidate)),
            max_ms=max_ms,
        )
        self.guide = functools.cache(lambda: Guide(self.space, CompiledTable(table, self.space), max_ms=max_ms))
        self.trials = list(self.store.trials(self.config.name))
        self.total = max(self.config.search.trials, len(self.trials))

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
            search,
            batch=batch,
            size=math.ceil(size / math.prod(screen.share for screen in self.schedule.screens)),
            limits=self.limits,
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

    def _screened(
        self, proposals: Sequence[Proposal], size: int, pool: Pool, beat: Callable[[], None]
    ) -> Sequence[Proposal]:
        """The anchors, and the best of the others screen by screen; what a screen cannot score does not go on."""
        anchors = [one for one in proposals if one.anchor]
        others = [one for one in proposals if not one.anchor]
        for number, screen in enumerate(self.schedule.screens, start=1):
            wants = [Want(scorer=screen.scorer, candidate=one.candidate) for one in others]
            tell = functools.partial(self._report_rung, screen.scorer.fidelity)
            records = recorded(wants, self.store, pool, beat=beat, tell=tell)
            values = [record.value for record in records]
            known = [(one, value) for one, value in zip(others, values, strict=True) if value is not None]
            last = number == len(self.schedule.screens)
            room = max(size - len(anchors), 0) if last else math.ceil(len(others) * screen.share)
            best = promoted([(one.latency.total_ms, value) for one, value in known], room)
            others = [known[index][0] for index in best]
        return [*anchors, *others]

    def evaluate(self, pool: Pool, beat: Callable[[], None]) -> None:
        """Settle every open trial: from the store where it is known, by training otherwise.

        Asynchronously, further batches follow while some still run.
        """
        trials = self.open_trials()
        wants = [self._want(trial) for trial in trials]

        taken = 0
        found = answers(
            wants,
            self.store,
            pool,
            beat=beat,
            write=lambda answer, weights: self._settle(trials[answer.number], answer, weights),
        )
        for answered, answer in enumerate(found, start=1):
            if not answer.cached:
                taken += 1
                self._stop_on_failures()
                if self.config.search.asynchronous and taken % self.config.search.batch_size == 0:
                    self.drop_weights_off_front()
                    self.report_so_far()
            while self._has_idle(pool, len(wants) - answered) and (fresh := self.propose(pool, beat)) is not None:
                trials += fresh
                wants += [self._want(trial) for trial in fresh]  # `answers` goes on to these, too

    def _want(self, trial: Trial) -> Want:
        return Want(
            scorer=self.evaluator, candidate=trial.candidate, keeps_weights=True, called=f"trial {trial.number}"
        )

    def _has_idle(self, pool: Pool, in_flight: int) -> bool:
        search = self.config.search
        return search.asynchronous and in_flight < pool.workers and len(self.trials) < search.trials

    def _settle(self, trial: Trial, answer: Answer, weights: Path | None) -> None:
        """Write the record, and tie the trial to it, in one transaction."""
        if answer.cached:
            self.cached += 1
        else:
            self.trained += 1
        settled = self.store.settle(self.config.name, trial, answer.record, from_cache=answer.cached, weights=weights)
        self.trials[trial.number] = settled
        self.report_progress(settled)

    def _stop_on_failures(self) -> None:
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if len(failed) >= 3 and 100 * len(failed) > MAX_FAILURES_PCT * self.done:
            reason = failed[-1].record.reason if failed[-1].record else None
            raise UserError(
                f"study {self.config.name!r} stops: {len(failed)} of {self.done} evaluations failed, "
                f"the last with: {reason}. Mend the cause and run the same command to go on."
            )

    def drop_weights_off_front(self) -> None:
        """Keep the weights of the front and of the anchors."""
        members = {trial.number for trial in front(self.trials, fidelity=self.evaluator.fidelity)}
        own = [trial for trial in self.trials if trial.weights is not None and not trial.from_cache]
        doomed = [trial for trial in own if trial.number not in members and not trial.anchor]
        self.store.drop_weights((trial.candidate.key, self.evaluator.fingerprint, 0) for trial in doomed)
        for trial in doomed:
            self.trials[trial.number] = replace(trial, weights=None, weights_sha256=None)

    def report_so_far(self) -> None:
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
        self.report_progress(note=note)

    def confirm(self, pool: Pool, beat: Callable[[], None]) -> None:
        """Train the best, and the anchors, at each rung in turn."""
        rungs = [
            like(Rung, rung, fidelity=rung.evaluator.fidelity, evaluator=rung.evaluator.fingerprint)
            for rung in self.schedule.confirmations
        ]
        self.store.set_rungs(self.config.name, rungs)
        ranked = evaluated(self.trials, fidelity=self.evaluator.fidelity)
        for rung, stored in zip(self.schedule.confirmations, rungs, strict=True):
            members = self._worth_confirming(ranked, rung)
            able = [trial for trial in members if rung.evaluator.why_not(trial.candidate) is None]
            if rung.racing:
                self._race(able, rung, pool, beat)
            else:
                every = [(trial, replicate) for replicate in range(rung.replicates) for trial in able]
                self._confirmed(every, rung, pool, beat)
            numbers = {trial.number for trial in members}
            found = self.store.confirmed(self.config.name, stored)
            ranked = tuple(trial for trial in found if trial.number in numbers)

    def _confirmed(
        self,
        trainings: Sequence[tuple[Trial, int]],
        rung: Confirmation,
        pool: Pool,
        beat: Callable[[], None],
        *,
        before: int = 0,
        total: int | None = None,
    ) -> list[float | None]:
        """mIoU of each trial and replicate, None for what failed; `before` of `total` trainings are done already."""
        wants = [
            Want(scorer=rung.evaluator, candidate=trial.candidate, replicate=number, keeps_weights=number == 0)
            for trial, number in trainings
        ]

        def tell(done: int, of: int) -> None:
            self._report_confirming(rung.label, before + done, total or of)

        return [record.value for record in recorded(wants, self.store, pool, beat=beat, tell=tell)]

    def _race(self, members: Sequence[Trial], rung: Confirmation, pool: Pool, beat: Callable[[], None]) -> None:
        """Train every member, then those again that decide most, until all is decided or the budget spent.

        Every step follows from the mIoUs of the steps before it, which are asked for again in a run that goes on; what
        is known of them comes from the store.
        """
        budget = rung.budget(len(members))
        mious: dict[int, list[float]] = {trial.number: [] for trial in members}
        spent = 0
        step = [number for number in mious for _ in range(1 if rung.own_noise_pct is not None else 2)]
        while step:
            trainings = list[tuple[Trial, int]]()
            for number in step:
                known = len(mious[number]) + sum(trial.number == number for trial, _ in trainings)
                trainings.append((self.trials[number], known))
            found = self._confirmed(trainings, rung, pool, beat, before=spent, total=max(budget, spent + len(step)))
            spent += len(step)
            for (trial, _), miou in zip(trainings, found, strict=True):
                if miou is None:
                    mious.pop(trial.number, None)
                elif trial.number in mious:
                    mious[trial.number].append(miou)
            step = self._next_step(mious, rung, min(self.config.search.batch_size, budget - spent))

    def _next_step(self, mious: dict[int, list[float]], rung: Confirmation, count: int) -> list[int]:
        """Numbers of the trials to be trained once more."""
        noise_pct = race_noise_pct(list(mious.values()), known_pct=rung.own_noise_pct)
        if noise_pct is None or count < 1:
            return []
        numbers = list(mious)
        chosen = next_trainings(
            np.array([self.trials[number].latency.total_ms for number in numbers]),
            np.array([fmean(mious[number]) for number in numbers]),
            np.array([float(len(mious[number])) for number in numbers]),
            noise_pct=noise_pct,
            most=rung.replicates,
            count=count,
        )
        return [numbers[index] for index in chosen]

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

    def why_exhausted(self) -> str:
        """Why nothing more can be proposed: a budget that nothing keeps, or a space that is used up."""
        max_ms, rng = self.config.latency.max_ms, random.Random(0)
        if max_ms is not None:
            drawn = [self.limits.latency(self.space.sample(rng)).total_ms for _ in range(LOOKED_AT)]
            if min(drawn) > max_ms:
                return (
                    f"nothing further is within latency.max_ms = {max_ms:g}: the fastest of {LOOKED_AT} architectures "
                    f"drawn at random takes {min(drawn):.1f} ms"
                )
        return f"the space holds no further candidate: {len(self.trials)} trials are all that there are for this study"

    def report_progress(self, trial: Trial | None = None, *, note: str = "") -> None:
        self.report(Event(done=self.done, total=self.total, trial=trial, note=note))

    def _report_confirming(self, label: str, done: int, total: int) -> None:
        self.confirming += 1
        self._report_rung(label, done, total)

    def _report_rung(self, label: str, done: int, total: int) -> None:
        self.report(Event(done=done, total=total, rung=label))

"""A study from its TOML file to its front: propose, gate, evaluate, record, batch by batch.

Batch-synchronous: the batch size does not depend on the number of workers, and one evaluation runs on one torch
thread, so one seed gives one front at any number of workers and after any interruption.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator

from evaluators.base import Evaluator, Scorer
from evaluators.compiled import CompiledTable
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import SCENES, dataset_named
from evaluators.named import evaluator_named, scorer_named
from evaluators.proxy import REFERENCE
from evaluators.supernet import SupernetEvaluator
from experiments.front.confidence import front_probabilities
from experiments.front.pareto import evaluated, front, points
from experiments.front.predictor import LEAST_POINTS
from experiments.search.guided import Guide
from experiments.search.samplers import SAMPLERS, Gate, left_out_agreement, next_batch
from experiments.search.schedule import Confirmation, Schedule, Screen, promoted, rung_label
from experiments.store.store import Proposal, Record, Rung, Store, Study, Trial
from experiments.trust.standing import Standing, space_of
from experiments.views.front import hypervolume_of, hypervolume_reference
from experiments.workers.pool import Job, Pool, worker_pool
from latency_lut.table import LatencyTable, find_table
from search_space import SearchSpace, blocks, require_anchors
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, parse_image_size
from topformer.errors import UserError, unknown_name

if TYPE_CHECKING:
    from evaluators.datasets import SegmentationDataset

MAX_FAILURES_PCT = 25
MOST_TRIALS = 1_000_000
MOST_BATCH = 10_000
MOST_REPLICATES = 1000
LOOKED_AT = 300
"""Architectures drawn to say whether a budget can be kept at all."""
NO_RUNGS = Schedule()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskSection(_Section):
    """What the candidates are for; `num_classes` must be the data set's."""

    image_size: str = "512x512"
    num_classes: PositiveInt

    @field_validator("image_size")
    @classmethod
    def _parsable(cls, value: str) -> str:
        parse_image_size(value)
        return value


class LatencySection(_Section):
    """The table that prices candidates, and the budget in ms that the gate holds them to."""

    table: str
    max_ms: PositiveFloat | None = None


class EvaluatorSection(_Section):
    """The proxy that trains candidates, and its images: a folder, LAYOUT:FOLDER, `scenes` or scenes:CLASSES."""

    recipe: str
    dataset: str = SCENES


class SearchSection(_Section):
    """How candidates are proposed."""

    trials: int = Field(ge=1, le=MOST_TRIALS)
    batch_size: int = Field(ge=1, le=MOST_BATCH)
    sampler: str = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    anchors: list[str] = list(ANCHORS)
    asynchronous: bool = False
    """Propose the next batch as soon as a worker is idle: nobody waits, and one seed no longer means one front."""

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise unknown_name("sampler", value, SAMPLERS)
        return value

    @field_validator("anchors")
    @classmethod
    def _known_anchors(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ANCHORS:
                raise unknown_name("anchor", name, ANCHORS)
        return value


class ScreenSection(_Section):
    """What scores more candidates than become trials: a recipe, inherited weights or a zero-cost proxy."""

    recipe: str
    share: float = Field(gt=0, lt=1)


class ConfirmSection(_Section):
    """What trains the best trials, and the anchors, again; the next one takes its best.

    The best are `keep` by fronts, or all that are on the front with at least this probability, or up to `keep` of them.
    """

    recipe: str
    keep: PositiveInt | None = None
    front_probability: float | None = Field(default=None, gt=0, le=1)
    replicates: int = Field(default=1, ge=1, le=MOST_REPLICATES)


class StudyConfig(_Section):
    """A study as its TOML file states it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    space: dict[str, Any]
    """`{preset = "quickstart"}`, or a whole space in the declarative form of `SearchSpace.from_dict`."""
    task: TaskSection
    latency: LatencySection
    evaluator: EvaluatorSection
    search: SearchSection
    screen: list[ScreenSection] = []
    """`[[screen]]`, in the order in which candidates pass them."""
    confirm: list[ConfirmSection] = []
    """`[[confirm]]`, likewise for trials."""

    @classmethod
    def load(cls, source: str) -> Self:
        """From a TOML file, or the name of a study that comes with the tool.

        Raises `UserError` naming the file, the key and what is legal.
        """
        shipped = importlib.resources.files("experiments.studies")
        names = [item.name.removesuffix(".toml") for item in shipped.iterdir() if item.name.endswith(".toml")]
        if source in names:
            return cls.from_toml((shipped / f"{source}.toml").read_text(encoding="utf-8"), where=f"{source}.toml")
        path = Path(source)
        try:
            found = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            found = False
        if not found:
            raise UserError(
                f"no study file {source!r}; name a TOML file, or one that comes with the tool: {', '.join(names)}; a "
                "study of the store goes on without its file by --resume."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{source}: not a text file.") from None
        except OSError as error:
            raise UserError(f"cannot read the study {source!r} ({error.strerror}).") from None
        return cls.from_toml(text, where=source)

    @classmethod
    def from_toml(cls, text: str, *, where: str) -> Self:
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not TOML ({error}).") from None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(_sentence(error, where)) from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def stored(cls, store: Store, name: str) -> Self:
        """Of a study that is in the store, whatever has become of its file."""
        try:
            return cls.model_validate(store.study(name).config)
        except ValidationError as error:
            raise UserError(f"{_sentence(error, f'study {name!r} in {store.url}')} Restore a backup.") from None

    def extended(self, trials: int) -> Self:
        """With so many trials in all; raises `UserError` for fewer than it has, or for more than a study may have."""
        if trials > MOST_TRIALS:
            raise UserError(f"a study has at most {MOST_TRIALS:,} trials, not {trials}.")
        if trials < self.search.trials:
            raise UserError(f"study {self.name!r} has {self.search.trials} trials; extend it to more, not to {trials}.")
        return self.model_copy(update={"search": self.search.model_copy(update={"trials": trials})})

    def search_space(self) -> SearchSpace:
        return space_of(self.model_dump())

    def build_evaluator(self) -> Evaluator:
        """The proxy this study trains candidates with; refuses a task whose classes are not the data set's."""
        dataset = self.dataset()
        try:
            return evaluator_named(self.evaluator.recipe, dataset)
        except UserError as error:
            raise UserError(f"study {self.name!r}, evaluator.recipe: {error}") from None

    def evaluator_of(self, study: Study) -> Evaluator:
        """What gives the mIoU of `study.fidelity`: the study's own evaluator, or that of a confirmation."""
        number = len(study.rungs) - len(study.further) - 1
        if number < 0:
            return self.build_evaluator()
        with self._key(f"confirm[{number}].recipe"):
            return evaluator_named(self.confirm[number].recipe, self.dataset())

    def build_schedule(self, evaluator: Evaluator, trusted: Callable[[Scorer], Standing]) -> Schedule:
        """The rungs around the evaluator; screens whose order is not `trusted` are left out, with a notice."""
        if not self.screen and not self.confirm:
            return Schedule()
        if self.screen and self.search.asynchronous:
            raise UserError(
                f"study {self.name!r}: [[screen]] scores batches before they are trials, so search.asynchronous cannot "
                "be true with it; leave one of them out."
            )
        dataset = self.dataset()
        screens, confirmations, notices = [], [], []
        for number, section in enumerate(self.screen):
            with self._key(f"screen[{number}].recipe"):
                scorer = scorer_named(section.recipe, REFERENCE, dataset)
                if scorer.fingerprint == evaluator.fingerprint:
                    raise UserError(f"{section.recipe!r} is the study's own evaluator.")
            if (standing := trusted(scorer)).trusted:
                screens.append(Screen(scorer=scorer, share=section.share))
            else:
                notices.append(f"screen {scorer.fidelity} is not used: {standing.sentence}.")
        before, repeated = evaluator, 1
        for number, rung in enumerate(self.confirm):
            if rung.keep is rung.front_probability is None:
                raise UserError(
                    f"study {self.name!r}, confirm[{number}]: which trials? Set keep = 6, the best by fronts, or "
                    "front_probability = 0.05, all that are that likely to be on the front."
                )
            with self._key(f"confirm[{number}].recipe"):
                found = evaluator_named(rung.recipe, dataset)
            if isinstance(found, SupernetEvaluator) and rung.replicates > 1:
                raise UserError(
                    f"study {self.name!r}, confirm[{number}].replicates: {found.fidelity} trains nothing, so that "
                    f"{rung.replicates} of its evaluations are all alike; set replicates = 1, or recipe = "
                    f'"tuned:{found.weights}".'
                )
            noise_pct = None
            if rung.front_probability is not None and (noise_pct := trusted(before).noise_pct) is None:
                raise UserError(
                    f"study {self.name!r}, confirm[{number}].front_probability: no trust report says how far trainings "
                    f"by {before.fidelity} differ, so how likely trials are on the front is not known; set keep = 6."
                )
            confirmations.append(
                Confirmation(
                    evaluator=found,
                    keep=rung.keep,
                    replicates=rung.replicates,
                    front_probability=rung.front_probability,
                    noise_pct=None if noise_pct is None else noise_pct / math.sqrt(repeated),
                )
            )
            before, repeated = found, rung.replicates
        labels = [rung.label for rung in confirmations]
        own = rung_label(evaluator.fidelity, 1)
        if twice := next((label for label in labels if labels.count(label) > 1 or label == own), None):
            raise UserError(
                f"study {self.name!r}: [[confirm]] {twice!r} is there twice, or is what trials are trained by; give it "
                "other replicates, or another recipe."
            )
        return Schedule(screens=tuple(screens), confirmations=tuple(confirmations), notices=tuple(notices))

    @contextmanager
    def _key(self, key: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"study {self.name!r}, {key}: {error}") from None

    def dataset(self) -> SegmentationDataset:
        """The images that candidates are trained on; refuses those of other classes than the task's."""
        try:
            dataset = dataset_named(self.evaluator.dataset)
            if isinstance(dataset, LabelledFiles):
                dataset.require_complete()
        except UserError as error:
            raise UserError(f"study {self.name!r}, evaluator.dataset: {error}") from None
        if dataset.num_classes != self.task.num_classes:
            raise UserError(
                f"study {self.name!r}: task.num_classes is {self.task.num_classes}, but {self.evaluator.dataset} has "
                f"{dataset.num_classes} classes; set num_classes = {dataset.num_classes}."
            )
        return dataset


def _sentence(error: ValidationError, where: str) -> str:
    """The first mistake of a TOML file, with the file, the key and what is legal."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            section: type[BaseModel] = StudyConfig
            for part in first["loc"][:-1]:
                if isinstance(part, str):
                    annotation = section.model_fields[part].annotation
                    section = cast("type[BaseModel]", next(iter(get_args(annotation)), annotation))
            return f"{where}: unknown key {key!r}; legal keys here: {', '.join(section.model_fields)}."
        case "missing":
            return f"{where}: missing key {key!r}."
        case _:
            return f"{where}: {key} = {first['input']!r} is not legal: {first['msg']}."


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
    stored = StudyConfig.stored(store, config.name)
    config = config.extended(max(config.search.trials, stored.search.trials))  # it remembers being extended
    _require_same_screens(config, store, schedule)
    run = _Run(config, store, space, table, evaluator, schedule, report)
    with (
        _nothing_left_of_no_start(config.name, store),
        store.lease(config.name) as lease,
        elsewhere or worker_pool(workers) as pool,
    ):
        if config != stored:
            store.update_config(config.name, config.model_dump())
        run.tell()
        while len(run.trials) < config.search.trials or run.open_trials():
            if not run.open_trials() and not run.propose(pool, lease.beat):
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
    values = config.model_dump()
    if stored is not None and not store.counts(config.name).trials:
        store.delete_study(config.name)  # it never began: nothing is lost by beginning anew
        stored = None
    if stored is None:
        table = table or find_table(config.latency.table)
        require_rows(config, table)
        store.create_study(
            config.name,
            config=values,
            evaluator=evaluator.fingerprint,
            fidelity=evaluator.fidelity,
            table_text=table.text,
        )
        return table
    before = StudyConfig.model_validate(stored.config).model_dump()  # with what has been added since
    values["search"]["trials"] = max(
        values["search"]["trials"], before["search"]["trials"]
    )  # it may have been extended
    if changed := _changed_keys(before, values):
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
        record = Record.of(outcome, scorer, candidate, replicate=replicate)
        weights = jobs[index][3]
        store.add_record(record, candidate=candidate, weights=weights if weights and weights.is_file() else None)
        known[index] = record
        done += 1
        tell(done, len(wants))
    return [record for record in known if record is not None]


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

    def propose(self, pool: Pool, beat: Callable[[], None]) -> bool:
        """Add the next batch; False when the space has nothing left."""
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
        if proposals:
            kept = self._screened(proposals, size, pool, beat)
            statistics = replace(statistics, screened=len(proposals) - len(kept))
            self.trials += self.store.add_batch(self.config.name, batch=batch, proposals=kept, statistics=statistics)
        return bool(proposals)

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
            wants = [(screen.scorer, one.candidate, 0) for one in others]
            records = recorded(
                wants, self.store, pool, beat, functools.partial(self._tell_rung, screen.scorer.fidelity)
            )
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
                (rung.evaluator, trial.candidate, replicate)
                for replicate in range(rung.replicates)
                for trial in members
                if rung.evaluator.why_not(trial.candidate) is None
            ]
            tell = functools.partial(self._tell_confirming, rung.label)
            recorded(wants, self.store, pool, beat, tell, keeps=lambda replicate: replicate == 0)
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
        jobs: dict[int, Job] = {}
        self._begin(jobs)
        for taken, (number, outcome) in enumerate(pool.results(jobs, beat), start=1):
            trial = self.trials[number]
            outcome.require_no_fault(f"trial {number} could not be evaluated")
            record = Record.of(outcome, self.evaluator, trial.candidate, replicate=0)
            weights = self._weights(trial)
            self.trained += 1
            self._settle(trial, record, from_cache=False, weights=weights if weights.is_file() else None)
            self._stop_on_failures()
            if self.config.search.asynchronous and taken % self.config.search.batch_size == 0:
                self.prune_weights()
                self.tell_so_far()
            while self._has_idle(pool, len(jobs) - taken) and self.propose(pool, beat):
                self._begin(jobs)

    def _has_idle(self, pool: Pool, in_flight: int) -> bool:
        search = self.config.search
        return search.asynchronous and in_flight < pool.workers and len(self.trials) < search.trials

    def _begin(self, jobs: dict[int, Job]) -> None:
        """Settle what the store knows; add the other open trials to the jobs."""
        fresh = [trial for trial in self.open_trials() if trial.number not in jobs]
        records = self.store.known_records([trial.candidate.key for trial in fresh], self.evaluator.fingerprint)
        for trial in fresh:
            known = records.get(trial.candidate.key)
            if known is None:
                jobs[trial.number] = (self.evaluator, trial.candidate, 0, self._weights(trial))
            else:
                self.cached += 1
                self._settle(trial, known, from_cache=True)

    def tell_so_far(self) -> None:
        study, gates = self.store.study(self.config.name), self.store.batches(self.config.name)
        reference = hypervolume_reference(study, self.trials)
        area = hypervolume_of(self.trials, fidelity=self.evaluator.fidelity, reference=reference)
        saved = {
            "from the store": self.cached,
            "over the budget": sum(gate.over_budget for gate in gates),
            "known already": sum(gate.duplicates for gate in gates),
            "turned away by a screen": sum(gate.screened for gate in gates),
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

    def _weights(self, trial: Trial) -> Path:
        return self.store.weights_path(trial.candidate.key, self.evaluator.fingerprint, 0)

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

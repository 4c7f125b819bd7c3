"""A study from its TOML file to its front: propose, gate, evaluate, record, batch by batch.

Batch-synchronous: the batch size does not depend on the number of workers, and one evaluation runs on one torch
thread, so one seed gives one front at any number of workers and after any interruption.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator

from evaluators.base import Evaluator
from evaluators.compiled import CompiledTable
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import SCENES, dataset_named
from evaluators.proxy import ProxyEvaluator, named_recipe
from evaluators.supernet import inheriting
from experiments.guided import Guide
from experiments.pareto import front
from experiments.samplers import SAMPLERS, Gate, next_batch
from experiments.store import Record, Store, Trial
from experiments.workers import WorkerPool, worker_pool
from latency_lut.table import LatencyTable, find_table
from search_space import SearchSpace, blocks, preset, require_anchors
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Task, parse_image_size
from topformer.errors import UserError, unknown_name

if TYPE_CHECKING:
    from evaluators.datasets import SegmentationDataset

MAX_FAILURES_PCT = 25


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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

    trials: PositiveInt
    batch_size: PositiveInt
    sampler: str = "nsga2"
    seed: int = Field(default=0, ge=0)
    anchors: list[str] = list(ANCHORS)

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


class StudyConfig(_Section):
    """A study as its TOML file states it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    space: dict[str, Any]
    """`{preset = "quickstart"}`, or a whole space in the declarative form of `SearchSpace.from_dict`."""
    task: TaskSection
    latency: LatencySection
    evaluator: EvaluatorSection
    search: SearchSection

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
                f"no study file {source!r}; name a TOML file, or one that comes with the tool: {', '.join(names)}."
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

    def search_space(self) -> SearchSpace:
        task = Task(image_size=parse_image_size(self.task.image_size), num_classes=self.task.num_classes)
        if "preset" not in self.space:
            return SearchSpace.from_dict(self.space, task=task, where=f"study {self.name!r}, [space]")
        if len(self.space) > 1:
            extra = ", ".join(sorted(set(self.space) - {"preset"}))
            raise UserError(f"study {self.name!r}, [space]: a preset takes no further keys, but {extra} is given.")
        return preset(str(self.space["preset"]), task=task)

    def build_evaluator(self) -> Evaluator:
        """The proxy this study trains candidates with; refuses a task whose classes are not the data set's."""
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
        try:
            return evaluator_named(self.evaluator.recipe, dataset)
        except UserError as error:
            raise UserError(f"study {self.name!r}, evaluator.recipe: {error}") from None


def evaluator_named(text: str, dataset: SegmentationDataset) -> Evaluator:
    """A proxy by its recipe's name, inherited weights by `supernet:FILE`, or trained on by `tuned:FILE`."""
    return inheriting(text, dataset) or ProxyEvaluator(named_recipe(text), dataset)


def _sentence(error: ValidationError, where: str) -> str:
    """The first mistake of a TOML file, with the file, the key and what is legal."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            section: type[BaseModel] = StudyConfig
            for part in first["loc"][:-1]:
                annotation = section.model_fields[str(part)].annotation
                assert isinstance(annotation, type)
                section = annotation
            return f"{where}: unknown key {key!r}; legal keys here: {', '.join(section.model_fields)}."
        case "missing":
            return f"{where}: missing key {key!r}."
        case _:
            return f"{where}: {key} = {first['input']!r} is not legal: {first['msg']}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What a running study reports after each settled trial."""

    done: int
    total: int
    trial: Trial | None
    note: str = ""


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


def run_study(
    config: StudyConfig,
    store: Store,
    *,
    evaluator: Evaluator,
    table: LatencyTable | None = None,
    workers: int = 1,
    report: Callable[[Event], None] = lambda _: None,
) -> StudyResult:
    """Run a study to its number of trials, or go on where it was interrupted.

    Raises `UserError` for anchors outside the space, a table without a needed row, a stored study of the same name
    with another configuration, another driver at work, or too many failed evaluations.
    """
    space = config.search_space()
    require_anchors(space, config.search.anchors)
    table = _opened_table(config, store, table, evaluator)
    run = _Run(config, store, space, table, evaluator, report)
    with store.lease(config.name) as lease, worker_pool(workers) as pool:
        while len(run.trials) < config.search.trials or run.open_trials():
            if not run.open_trials() and not run.propose():
                report(Event(done=run.done, total=run.total, trial=None, note="the space holds no further candidate"))
                break
            run.evaluate(pool, lease.beat)
            run.prune_weights()
        run.store.finish_study(config.name)
    members = front(run.trials, fidelity=evaluator.fidelity)
    return StudyResult(
        name=config.name,
        trials=tuple(run.trials),
        front=members,
        fidelity=evaluator.fidelity,
        trained=run.trained,
        cached=run.cached,
    )


def _opened_table(config: StudyConfig, store: Store, table: LatencyTable | None, evaluator: Evaluator) -> LatencyTable:
    """Create or reopen the stored study; gives the table as it was when the study began."""
    stored = store.find_study(config.name)
    values = config.model_dump()
    if stored is not None and not store.trials(config.name):
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
    if changed := _changed_keys(stored.config, values):
        raise UserError(
            f"study {config.name!r} is in {store.url} with another {changed[0]}; restore it, give the changed study "
            f"a new name, or drop the old one with: topformer-nas study delete {config.name} "
            "(only search.trials may grow)."
        )
    if stored.evaluator != evaluator.fingerprint:
        raise UserError(
            f"study {config.name!r} was evaluated by {stored.evaluator}, now it would be {evaluator.fingerprint}: "
            "results would not compare; give the study a new name."
        )
    if stored.config["search"]["trials"] != config.search.trials:
        store.update_config(config.name, values)
    return stored.table


def require_rows(config: StudyConfig, table: LatencyTable) -> None:
    """Raise `UserError` with the command that measures what the study's space needs and the table lacks."""
    missing = [block.key for block in blocks(config.search_space()) if block.key not in table.rows]
    if missing:
        name, then = config.latency.table, ""
        if table.header.device == "qemu":  # as in MissingRows: a table of one's own, beside the shipped one
            name = f"{name}-mine"
            then = f'; then set table = "{name}" in [latency]'
        raise UserError(
            f"table {table.name} lacks {len(missing)} of the rows that study {config.name!r} needs, {missing[0]} among "
            f"them; get them with: topformer-nas latency measure --device {table.header.device} "
            f"--study FILE.toml --table {name}{then}"
        )


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ; a larger number of trials is no change."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after and not (f"{prefix}{key}" == "search.trials" and before <= after):  # type: ignore[operator]
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
        report: Callable[[Event], None],
    ) -> None:
        self.config = config
        self.store = store
        self.space = space
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
        self.trained = self.cached = 0

    @property
    def done(self) -> int:
        return sum(trial.state != "proposed" for trial in self.trials)

    def open_trials(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "proposed"]

    def propose(self) -> bool:
        """Add the next batch; False when the space has nothing left."""
        search = self.config.search
        batch = 1 + max((trial.batch for trial in self.trials), default=-1)
        proposals, statistics = next_batch(
            self.space,
            self.trials,
            sampler=search.sampler,
            seed=search.seed,
            batch=batch,
            size=max(
                min(search.batch_size, search.trials - len(self.trials)), len(search.anchors) if batch == 0 else 1
            ),
            population=search.batch_size,
            anchors=search.anchors,
            gate=self.gate,
            guide=self.guide,
            fidelity=self.evaluator.fidelity,
        )
        if proposals:
            self.trials += self.store.add_batch(
                self.config.name, batch=batch, proposals=proposals, statistics=statistics
            )
        return bool(proposals)

    def evaluate(self, pool: WorkerPool, beat: Callable[[], None]) -> None:
        """Settle every open trial: from the store where it is known, by training otherwise."""
        waiting = []
        for trial in self.open_trials():
            known = self.store.find_record(trial.candidate.key, self.evaluator.fingerprint, 0)
            if known is None:
                waiting.append(trial)
            else:
                self.cached += 1
                self._settle(trial, known, from_cache=True)
        jobs = {trial.number: (self.evaluator, trial.candidate, 0, self._weights(trial)) for trial in waiting}
        by_number = {trial.number: trial for trial in waiting}
        for number, outcome in pool.results(jobs, beat):
            trial = by_number[number]
            if outcome.fault:
                raise UserError(
                    f"trial {number} could not be evaluated: {outcome.fault} "
                    "Nothing is recorded against it; mend the cause and run the same command to go on."
                )
            record = Record.of(outcome, self.evaluator, trial.candidate, replicate=0)
            weights = self._weights(trial)
            self.store.add_record(record, weights=weights if weights.is_file() else None)
            self.trained += 1
            self._settle(trial, record, from_cache=False)
            self._stop_on_failures()

    def prune_weights(self) -> None:
        """Keep the weights of the front and of the anchors."""
        done = [trial for trial in self.trials if trial.record is not None]
        members = {trial.number for trial in front(self.trials, fidelity=self.evaluator.fidelity)}

        def keys(trials: Sequence[Trial]) -> list[tuple[str, str, int]]:
            return [(trial.candidate.key, self.evaluator.fingerprint, 0) for trial in trials]

        kept = [trial for trial in done if trial.number in members or trial.anchor]
        self.store.keep_weights(keys(kept), among=keys([trial for trial in done if not trial.from_cache]))

    def _weights(self, trial: Trial) -> Path:
        return self.store.weights_path(trial.candidate.key, self.evaluator.fingerprint, 0)

    def _settle(self, trial: Trial, record: Record, *, from_cache: bool) -> None:
        settled = self.store.settle(self.config.name, trial.number, record, from_cache=from_cache)
        self.trials = [settled if other.number == settled.number else other for other in self.trials]
        self.report(Event(done=self.done, total=self.total, trial=settled))

    def _stop_on_failures(self) -> None:
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if len(failed) >= 3 and 100 * len(failed) > MAX_FAILURES_PCT * self.done:
            reason = failed[-1].record.reason if failed[-1].record else None
            raise UserError(
                f"study {self.config.name!r} stops: {len(failed)} of {self.done} evaluations failed, "
                f"the last with: {reason}. Mend the cause and run the same command to go on."
            )

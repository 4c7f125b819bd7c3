"""What does a study ask for, and which search space does a name mean? Light: neither torch nor a database is needed."""

from __future__ import annotations

import importlib.resources
import os
import re
from pathlib import Path
from typing import Annotated, Any, Self, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from evaluators.datasets.named import SCENES, dataset_named
from search_space import PRESETS, SearchSpace, preset
from topformer.config import ANCHORS, Task, parse_image_size
from topformer.errors import LONGEST_NAME, UserError, located, unknown_name
from topformer.reading import MIB, file_text, parse_toml

MOST_TRIALS = 1_000_000
MOST_BATCH = 10_000
MOST_REPLICATES = 1000
SAMPLERS = ("auto", "nsga2", "nsga3", "tpe", "gp", "random")
"""How candidates may be proposed; `experiments.search.samplers` says what each is."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a study, or a trust report, may be called."""


class Strict(BaseModel):
    """What is read from a file: of the stated types, with no further keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _image_size(value: str) -> str:
    parse_image_size(value)
    return value


def _sampler(value: str) -> str:
    if value not in SAMPLERS:
        raise unknown_name("sampler", value, SAMPLERS)
    return value


def _anchor(value: str) -> str:
    if value not in ANCHORS:
        raise unknown_name("anchor", value, ANCHORS)
    return value


def _study_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise UserError(
            f"{value[:LONGEST_NAME]!r} cannot be a study's name: letters, digits, '.', '_' and '-', at most "
            f"{LONGEST_NAME}, the first a letter or digit."
        )
    return value


class TaskSection(Strict):
    """What the candidates are for; `num_classes` must be the data set's, and is where it is left out."""

    image_size: Annotated[str, AfterValidator(_image_size)] = "512x512"
    num_classes: PositiveInt


class LatencySection(Strict):
    """The table that prices candidates, and the budget in ms that the gate holds them to."""

    table: str
    max_ms: PositiveFloat | None = None


class EvaluatorSection(Strict):
    """The proxy that trains candidates, and its images: a folder, LAYOUT:FOLDER, `scenes` or scenes:CLASSES."""

    recipe: str
    dataset: str = SCENES


class SearchSection(Strict):
    """How candidates are proposed."""

    trials: int = Field(ge=1, le=MOST_TRIALS)
    batch_size: int = Field(ge=1, le=MOST_BATCH)
    sampler: Annotated[str, AfterValidator(_sampler)] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    anchors: list[Annotated[str, AfterValidator(_anchor)]] = list(ANCHORS)
    asynchronous: bool = False
    """Propose the next batch as soon as a worker is idle: nobody waits, and one seed no longer means one front."""


class ScreenSection(Strict):
    """What scores more candidates than become trials: a recipe, inherited weights or a zero-cost proxy."""

    recipe: str
    share: float = Field(gt=0, lt=1)


class ConfirmSection(Strict):
    """What trains the best trials, and the anchors, again; the next one takes its best.

    The best are `keep` by fronts, or all that are on the front with at least this probability, or up to `keep` of them.
    Each gets `replicates` trainings; with `racing` up to so many, `trainings` in all, where two are not told apart.
    """

    recipe: str
    keep: PositiveInt | None = None
    front_probability: float | None = Field(default=None, gt=0, le=1)
    replicates: int = Field(default=1, ge=1, le=MOST_REPLICATES)
    racing: bool = False
    trainings: PositiveInt | None = None


class StudyConfig(Strict):
    """A study as its TOML file states it."""

    name: Annotated[str, AfterValidator(_study_name)]
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
    def load(cls, source: str, *, dataset: str | None = None, name: str | None = None) -> Self:
        """From a TOML file, or the name of a study that comes with the tool; on another data set, by another name.

        Raises `UserError` naming the file, the key and what is legal.
        """
        shipped = importlib.resources.files("experiments.studies")
        names = [item.name.removesuffix(".toml") for item in shipped.iterdir() if item.name.endswith(".toml")]
        if source in names:
            text = (shipped / f"{source}.toml").read_text(encoding="utf-8")
            return cls.from_toml(text, where=f"{source}.toml", dataset=dataset, name=name)
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
        text = file_text(path, "the study", most_bytes=MIB)
        return cls.from_toml(text, where=source, dataset=dataset, name=name)

    @classmethod
    def from_toml(cls, text: str, *, where: str, dataset: str | None = None, name: str | None = None) -> Self:
        """As the text has it, but for the data set, whose number of classes it then takes, and the name."""
        values: dict[str, Any] = dict(parse_toml(text, where))
        if name is not None:
            values["name"] = name
        if dataset is not None and isinstance(task := values.get("task"), dict):
            values["task"] = {key: value for key, value in task.items() if key != "num_classes"}
        if dataset is not None and isinstance(evaluator := values.get("evaluator"), dict):
            values["evaluator"] = {**evaluator, "dataset": dataset}
        return cls.checked(values, where=where)

    @classmethod
    def checked(cls, values: object, *, where: str) -> Self:
        """From the content of a TOML file; raises `UserError` naming the place, the key and what is legal."""
        with located(where):
            try:
                return cls.model_validate(_with_classes(values))
            except ValidationError as error:
                raise UserError(_sentence(error)) from None

    def extended(self, trials: int) -> Self:
        """With so many trials in all; raises `UserError` for fewer than it has, or for more than a study may have."""
        if trials > MOST_TRIALS:
            raise UserError(f"a study has at most {MOST_TRIALS:,} trials, not {trials}.")
        if trials < self.search.trials:
            raise UserError(f"study {self.name!r} has {self.search.trials} trials; extend it to more, not to {trials}.")
        return self.model_copy(update={"search": self.search.model_copy(update={"trials": trials})})

    def search_space(self) -> SearchSpace:
        """The space that the study names or defines; raises `UserError` for one that is not valid."""
        task = Task(image_size=parse_image_size(self.task.image_size), num_classes=self.task.num_classes)
        if "preset" not in self.space:
            return SearchSpace.from_dict(self.space, task=task, where=f"study {self.name!r}, [space]")
        if len(self.space) > 1:
            extra = ", ".join(sorted(set(self.space) - {"preset"}))
            raise UserError(f"study {self.name!r}, [space]: a preset takes no further keys, but {extra} is given.")
        return preset(str(self.space["preset"]), task=task)


def _with_classes(values: object) -> object:
    """With the data set's number of classes where a study leaves it out."""
    match values:
        case {"task": {"num_classes": _}}:
            return values
        case {"task": {**task}, "evaluator": {"recipe": _, **evaluator}, **others} if evaluator.keys() <= {"dataset"}:
            if isinstance(dataset := evaluator.get("dataset", SCENES), str):
                with located("evaluator.dataset"):
                    classes = dataset_named(dataset).num_classes
                section = values["evaluator"]  # type: ignore[index]  # as it was matched
                return {**others, "task": {**task, "num_classes": classes}, "evaluator": section}
    return values


def _sentence(error: ValidationError) -> str:
    """The first mistake of a TOML file, with the key and what is legal."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    key = ".".join(str(part) for part in first["loc"])[:LONGEST_NAME]
    match first["type"]:
        case "extra_forbidden":
            section: type[BaseModel] = StudyConfig
            for part in first["loc"][:-1]:
                if isinstance(part, str):
                    annotation = section.model_fields[part].annotation
                    section = cast("type[BaseModel]", next(iter(get_args(annotation)), annotation))
            return f"unknown key {key!r}; legal keys here: {', '.join(section.model_fields)}."
        case "missing":
            return f"missing key {key!r}."
        case _:
            return f"{key} = {repr(first['input'])[:LONGEST_NAME]} is not legal: {first['msg']}."


def space_named(name: str, *, size: str | None, classes: int | None, base: Task | None = None) -> SearchSpace:
    """A preset on this task (what is not given is `base`'s or the usual one), or a study's space on its own task."""
    if name in PRESETS:
        usual = base or Task()
        pixels = parse_image_size(size) if size is not None else usual.image_size
        return preset(name, task=Task(image_size=pixels, num_classes=usual.num_classes if classes is None else classes))
    if size is not None or classes is not None:
        raise UserError(
            f"--size and --classes go with a space that comes with the tool ({', '.join(sorted(PRESETS))}); the study "
            f"{name!r} says its own."
        )
    try:
        return StudyConfig.load(name).search_space()
    except UserError:
        if os.path.exists(name):  # noqa: PTH110  # Path.exists raises for a name that no file can have
            raise
        raise UserError(
            f"unknown search space {name!r}; available: {', '.join(sorted(PRESETS))}. A study's TOML file works too."
        ) from None

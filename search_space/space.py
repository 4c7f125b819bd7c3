"""Which candidates may a study propose? A `SearchSpace`: knobs over a base architecture and a task.

A **point** has one choice for every knob; a **candidate** is what it decodes to. Kernel and expand of a row beyond
the chosen depth are inactive, so several points may decode to one candidate; the **canonical** one sets inactive
knobs to their first choice, and candidates and canonical points are in one-to-one correspondence.

Imports topformer.config and errors only: a space is usable without torch, optuna or numpy.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, Protocol, Self

from topformer.config import (
    MAX_DEPTH,
    STAGE_STRIDES,
    Candidate,
    MBConv,
    Task,
    TopFormerConfig,
    anchor_name,
    named_arch,
    parse_image_size,
)
from topformer.errors import UserError, located

Choice = int | str
Point = Mapping[str, Choice]
"""One choice for every knob, by the knob's name."""

_ARCH_FIELDS: Mapping[str, str] = {  # knob -> field of TopFormerConfig
    "num_blocks": "num_blocks",
    "num_heads": "num_heads",
    "key_dim": "key_dim",
    "injection_channels": "injection_channels",
    "token_stride": "token_stride",
    "injected_strides": "injected_strides",
    "head_fuse": "depthwise_head",
}
_KNOB_OF_FIELD = {field: name for name, field in _ARCH_FIELDS.items()}
_STAGE_KNOB = re.compile(r"(width|depth)_(4|8|16|32)|(kernel|expand)_(4|8|16|32)_(0|[1-9]\d*)")
_LEGAL_KNOBS = (
    "width_S, depth_S, kernel_S_R, expand_S_R (S: stride 4, 8, 16 or 32; R: row of the stage, from 0), "
    f"{', '.join(_ARCH_FIELDS)}, image_size"
)
_IDLE_IN_CLASSIFICATION = ("injection_channels", "token_stride", "injected_strides", "head_fuse")
_HEAD_FUSE = {True: "depthwise", False: "dense"}
_GREATEST: Mapping[str, Callable[[Iterable[Any]], Any]] = {  # of other knobs the maximum
    "injected_strides": lambda choices: tuple(sorted({stride for strides in choices for stride in strides})),
    "image_size": lambda sizes: tuple(map(max, zip(*sizes, strict=True))),
    "token_stride": min,
    "head_fuse": min,  # dense is false
}
_LEAST: Mapping[str, Callable[[Iterable[Any]], Any]] = {  # of other knobs the minimum
    "injected_strides": lambda choices: min(choices, key=lambda strides: (len(strides), -sum(strides))),
    "image_size": lambda sizes: min(sizes, key=prod),
    "token_stride": max,
    "head_fuse": max,
}


class Suggests(Protocol):
    """What `SearchSpace.suggest` asks: an Optuna trial, or what answers as one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...


@dataclass(frozen=True)
class Knob:
    """A named, finite choice; the name says which part of the candidate it sets (see `SearchSpace`)."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not (
            _STAGE_KNOB.fullmatch(self.name) or self.name in _ARCH_FIELDS or self.name == "image_size"
        ):
            raise UserError(f"unknown knob {self.name!r}; legal knobs: {_LEGAL_KNOBS}.")
        if not self.choices:
            raise UserError(f"knob {self.name} has no choices; give at least one, or leave the knob out.")
        seen: dict[Any, Choice] = {}
        for choice in self.choices:
            value = self.value(choice)
            if value in seen:
                raise UserError(
                    f"knob {self.name} has choice {choice!r} twice (it equals {seen[value]!r}); each counts once."
                )
            seen[value] = choice

    @cached_property
    def field(self) -> str:
        """ "width", "depth", "kernel" or "expand" of a stage; otherwise the name itself."""
        return self.name.split("_")[0] if _STAGE_KNOB.fullmatch(self.name) else self.name

    @cached_property
    def stage(self) -> int:
        """Index of the stage that a knob of a stage sets."""
        return STAGE_STRIDES.index(int(self.name.split("_")[1]))

    @cached_property
    def row(self) -> int | None:
        """Row of the stage that a kernel or expand knob sets."""
        return int(self.name.split("_")[2]) if self.field in ("kernel", "expand") else None

    @cached_property
    def values(self) -> Mapping[Choice, Any]:
        """What each choice means, by `value`."""
        return {choice: self.value(choice) for choice in self.choices}

    @cached_property
    def choice_of(self) -> Mapping[Any, Choice]:
        """Inverse of `values`."""
        return {value: choice for choice, value in self.values.items()}

    def value(self, choice: Choice) -> Any:
        """What the choice means in the candidate; raises `UserError` if it means nothing."""
        if self.name == "image_size":
            return self._image_size(choice)
        if self.name == "injected_strides":
            parts = choice.split("-") if isinstance(choice, str) else ()
            if not parts or not set(parts) <= set(map(str, STAGE_STRIDES)):
                raise self._illegal(choice, "ascending strides out of 4, 8, 16 and 32, like '8-16-32'")
            return tuple(map(int, parts))
        if self.name == "head_fuse":
            if choice not in _HEAD_FUSE.values():
                raise self._illegal(choice, "'depthwise' or 'dense'")
            return choice == "depthwise"
        if isinstance(choice, bool) or not isinstance(choice, int):
            raise self._illegal(choice, "whole numbers")
        if self.field == "depth" and not 1 <= choice <= MAX_DEPTH:
            raise self._illegal(choice, f"whole numbers from 1 to {MAX_DEPTH}")
        return choice

    def read(self, candidate: Candidate) -> Any:
        """What the candidate has there, in terms of `value`; None where it has no such row."""
        if self.name == "image_size":
            return candidate.task.image_size
        if self.name in _ARCH_FIELDS:
            return getattr(candidate.arch, _ARCH_FIELDS[self.name])
        rows = candidate.arch.stages[self.stage]
        if self.row is None:
            return len(rows) if self.field == "depth" else rows[-1].channels
        return getattr(rows[self.row], self.field) if self.row < len(rows) else None

    def _image_size(self, choice: Choice) -> tuple[int, int]:
        with located("knob image_size"):
            return parse_image_size(choice) if isinstance(choice, str) else Task(image_size=(choice, choice)).image_size

    def _illegal(self, choice: object, legal: str) -> UserError:
        return UserError(f"knob {self.name} takes {legal}, not {choice!r}.")


class _Variant(NamedTuple):
    """One depth of a stage, and the row knobs that are active at it."""

    depth: dict[str, Choice]
    rows: tuple[Knob, ...]

    @property
    def size(self) -> int:
        return prod(len(knob.choices) for knob in self.rows)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All candidates that the knobs span; whatever no knob sets is the base architecture's and the task's.

    The declarative form, as a table of a study's TOML file (`from_dict`, `as_dict`; the presets are written in it)::

        [space]
        name = "my-space"
        base = "small"                     # tiny, small, base, or an architecture table as `describe --json` prints it
        [space.knobs]                      # every knob may be left out: then the value is the base's (or the task's)
        width_8 = [32, 48, 64]             # channels of all rows of the stage at stride 8: width_4 .. width_32
        depth_32 = [2, 3, 4]               # rows of the stage at stride 32: depth_4 .. depth_32
        kernel_32_0 = [5, 3]               # of row 0 of that stage; odd
        expand_32_0 = [6, 3, 4]            # a row that the base lacks is otherwise like the base's last one
        num_blocks = [3, 4]                # L
        num_heads = [4, 6, 8]              # H
        key_dim = [16]                     # D
        injection_channels = [128, 192]    # M
        token_stride = [32, 64, 128]       # output stride of the semantics
        injected_strides = ["8-16-32"]     # scales that receive semantics
        head_fuse = ["depthwise", "dense"] # fuse convolution of the head
        image_size = [448, "512x1024"]     # pixels: a square, or height x width

    Row knobs beyond the chosen depth are inactive; their first choice is the one that a deeper neighbour starts
    with, so put the one you trust first. All rows of a stage share its width.
    """

    name: str
    task: Task
    base: TopFormerConfig
    knobs: tuple[Knob, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UserError(f"the name of a search space must be a non-empty text, not {self.name!r}.")
        if not self.knobs:
            raise UserError(f"search space {self.name!r} has no knobs; legal knobs: {_LEGAL_KNOBS}.")
        if len(self._by_name) < len(self.knobs):
            raise UserError(f"search space {self.name!r} has a knob twice: {[knob.name for knob in self.knobs]}.")
        for stride, rows in zip(STAGE_STRIDES, self.base.stages, strict=True):
            if len({row.channels for row in rows}) > 1:
                raise UserError(
                    f"the base's stage at stride {stride} has rows of {[row.channels for row in rows]} channels; "
                    "in a search space all rows of a stage share its width."
                )
        self._require_effect()
        self._require_valid()

    @classmethod
    def from_dict(cls, values: object, *, task: Task, where: str) -> Self:
        """A space from its declarative form; `where` names the source (file and table) in errors."""
        with located(where):
            given = _table(values, ("name", "base", "knobs"))
            knobs = tuple(Knob(name, _choices(name, listed)) for name, listed in _knob_table(given["knobs"]).items())
            base = given["base"]
            arch = named_arch(base) if isinstance(base, str) else TopFormerConfig.from_dict(base, where="base")
            return cls(name=given["name"], task=task, base=arch, knobs=knobs)

    def as_dict(self) -> dict[str, Any]:
        """The declarative form, ready for TOML or JSON; the task is not part of it."""
        return {
            "name": self.name,
            "base": anchor_name(self.base) or self.base.as_dict(),
            "knobs": {knob.name: list(knob.choices) for knob in self.knobs},
        }

    def distributions(self) -> dict[str, tuple[Choice, ...]]:
        """Choices of each knob, for Optuna's `CategoricalDistribution`s."""
        return {knob.name: knob.choices for knob in self.knobs}

    def decode(self, point: Point) -> Candidate:
        """The candidate of a point, canonical or not; raises `UserError` unless it has one legal choice per knob."""
        self._require_point(point)
        return self._build({knob.name: knob.values[point[knob.name]] for knob in self.knobs})

    def encode(self, candidate: Candidate) -> dict[str, Choice]:
        """The canonical point of a member; raises `UserError` with the reason for any other candidate."""
        if reason := self.why_not(candidate):
            raise UserError(f"candidate {candidate.key} is not in search space {self.name!r}: {reason}")
        return self._read(candidate)

    def canonical(self, point: Point) -> dict[str, Choice]:
        """The one point that stands for all points of the same candidate."""
        self._require_point(point)
        return {knob.name: point[knob.name] if self._active(knob, point) else knob.choices[0] for knob in self.knobs}

    def __contains__(self, candidate: object) -> bool:
        return isinstance(candidate, Candidate) and self.why_not(candidate) is None

    def why_not(self, candidate: Candidate) -> str | None:
        """Why the candidate is no member, as a sentence with the value and the legal ones; None for a member."""
        for knob in self.knobs:
            value = knob.read(candidate)
            if value is not None and value not in knob.choice_of:
                legal = ", ".join(map(str, knob.choices))
                return f"{knob.name} is {_text(knob.name, value)}, and the legal values are {legal}."
        return _difference(self.decode(self._read(candidate)), candidate)

    @cached_property
    def size(self) -> int:
        """Exact number of distinct candidates."""
        free = prod(len(knob.choices) for knob in self._free)
        return free * prod(sum(variant.size for variant in stage) for stage in self._stages)

    @property
    def largest(self) -> Candidate:
        """The greatest choice of every knob, all injected scales that occur, a dense fuse convolution; no member costs
        more, and this need not be one.

        Every member's architecture is a subnet of this one, but for a concat head with a knob of injected scales:
        there, fewer scales have more channels each.
        """
        return self._build({knob.name: _GREATEST.get(knob.name, max)(knob.choice_of) for knob in self.knobs})

    @property
    def smallest(self) -> Candidate:
        """The least choice of every knob, the fewest and then coarsest injected scales, the fewest pixels, the largest
        output stride, a depthwise fuse convolution; a member."""
        return self._build({knob.name: _LEAST.get(knob.name, min)(knob.choice_of) for knob in self.knobs})

    def candidates(self) -> Iterator[Candidate]:
        """Every distinct candidate, lazily, in a fixed order."""
        return (self.decode(self._point_at(index)) for index in range(self.size))

    def sample(self, rng: random.Random) -> Candidate:
        """Uniform over distinct candidates."""
        return self.decode(self._point_at(rng.randrange(self.size)))

    def neighbours(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """All other members that one knob's change leads to; rows that a greater depth adds have first choices."""
        point = self.encode(candidate)
        return tuple(
            self.decode(self.canonical(point | {knob.name: choice}))
            for knob in self.knobs
            if self._active(knob, point)
            for choice in knob.choices
            if choice != point[knob.name]
        )

    def crossover(self, a: Candidate, b: Candidate, rng: random.Random) -> Candidate:
        """A member with each knob from either parent, evenly; a row that only one parent has comes from that one."""
        parents = self.encode(a), self.encode(b)
        child: dict[str, Choice] = {}
        for knob in self.knobs:
            drawn = rng.randrange(2)  # also where it is not needed: one knob's activity leaves the others' draws alone
            owners = [parent for parent in parents if self._active(knob, parent)]
            child[knob.name] = (owners[0] if len(owners) == 1 else parents[drawn])[knob.name]
        return self.decode(self.canonical(child))

    def suggest(self, trial: Suggests) -> Candidate:
        """A candidate from an Optuna trial (every knob is suggested, so the trial's space is always the same)."""
        return self.decode({knob.name: trial.suggest_categorical(knob.name, knob.choices) for knob in self.knobs})

    def _require_effect(self) -> None:
        """Refuse knobs that no candidate, or no candidate of this task, would feel."""
        for knob in self.knobs:
            if knob.row is not None and knob.row >= (deepest := max(self._depths(STAGE_STRIDES[knob.stage]))):
                raise UserError(
                    f"knob {knob.name} has no effect: the stage at stride {STAGE_STRIDES[knob.stage]} has at most "
                    f"{deepest} rows (0 to {deepest - 1}); remove the knob or raise depth_{STAGE_STRIDES[knob.stage]}."
                )
            if self.task.kind == "classification" and knob.name in _IDLE_IN_CLASSIFICATION and len(knob.choices) > 1:
                raise UserError(
                    f"knob {knob.name} has no effect on a classification task, so it must have one choice, "
                    f"not {len(knob.choices)}; remove it."
                )

    def _require_valid(self) -> None:
        """Every choice must make a valid architecture; no combination of single valid ones is then invalid, bar one."""
        deepest = {f"depth_{stride}": max(self._depths(stride)) for stride in STAGE_STRIDES}
        for knob in self.knobs:
            for choice in knob.choices:
                depths = {} if knob.field == "depth" else deepest
                with located(f"knob {knob.name}, choice {choice!r}"):
                    self._build(depths | {knob.name: knob.value(choice)})
        extremes = {  # a concat head shares M out among the injected scales
            "injection_channels": min(self._values("injection_channels", self.base.injection_channels)),
            "injected_strides": max(self._values("injected_strides", self.base.injected_strides), key=len),
        }
        self._build(extremes)

    def _require_point(self, point: Point) -> None:
        if unknown := [name for name in point if name not in self._by_name]:
            raise UserError(
                f"unknown knob {unknown[0]!r} for search space {self.name!r}; its knobs: {', '.join(self._by_name)}."
            )
        for knob in self.knobs:
            if knob.name not in point:
                raise UserError(f"the point lacks knob {knob.name} of search space {self.name!r}.")
            choice = point[knob.name]
            if type(choice) not in (int, str) or choice not in knob.choices:
                legal = ", ".join(map(str, knob.choices))
                raise UserError(f"knob {knob.name} of search space {self.name!r} takes {legal}, not {choice!r}.")

    def _build(self, values: Mapping[str, Any]) -> Candidate:
        """The candidate with those values of knobs, and the base's and the task's where there are none."""
        stages = tuple(
            _stage(stride, rows, values) for stride, rows in zip(STAGE_STRIDES, self.base.stages, strict=True)
        )
        changes = {field: values[name] for name, field in _ARCH_FIELDS.items() if name in values}
        task = replace(self.task, image_size=values.get("image_size", self.task.image_size))
        return Candidate(arch=self.base.replace(stages=stages, **changes), task=task)

    def _read(self, candidate: Candidate) -> dict[str, Choice]:
        """The canonical point of a candidate whose values are all legal."""
        values = {knob: knob.read(candidate) for knob in self.knobs}
        return {
            knob.name: knob.choices[0] if value is None else knob.choice_of[value] for knob, value in values.items()
        }

    def _active(self, knob: Knob, point: Point) -> bool:
        if knob.row is None:
            return True
        depth = point.get(f"depth_{STAGE_STRIDES[knob.stage]}", len(self.base.stages[knob.stage]))
        return knob.row < int(depth)

    def _point_at(self, index: int) -> dict[str, Choice]:
        """Canonical point number `index`: a mixed-radix number with a digit per free knob and one per stage's rows."""
        point = {knob.name: knob.choices[0] for knob in self.knobs}
        for knob in self._free:
            index, digit = divmod(index, len(knob.choices))
            point[knob.name] = knob.choices[digit]
        for stage in self._stages:
            index, rest = divmod(index, sum(variant.size for variant in stage))
            for variant in stage:
                if rest < variant.size:
                    break
                rest -= variant.size
            point |= variant.depth
            for knob in variant.rows:
                rest, digit = divmod(rest, len(knob.choices))
                point[knob.name] = knob.choices[digit]
        return point

    @cached_property
    def _by_name(self) -> dict[str, Knob]:
        return {knob.name: knob for knob in self.knobs}

    @cached_property
    def _free(self) -> tuple[Knob, ...]:
        """Knobs that are always active and decide no other's activity."""
        return tuple(knob for knob in self.knobs if knob.field not in ("depth", "kernel", "expand"))

    @cached_property
    def _stages(self) -> tuple[tuple[_Variant, ...], ...]:
        """The variants of each stage."""
        stages = []
        for index, stride in enumerate(STAGE_STRIDES):
            rows = [knob for knob in self.knobs if knob.row is not None and knob.stage == index]
            name = f"depth_{stride}"
            stages.append(
                tuple(
                    _Variant(
                        depth={name: depth} if name in self._by_name else {},
                        rows=tuple(knob for knob in rows if knob.row is not None and knob.row < depth),
                    )
                    for depth in self._depths(stride)
                )
            )
        return tuple(stages)

    def _depths(self, stride: int) -> tuple[int, ...]:
        return self._values(f"depth_{stride}", len(self.base.stages[STAGE_STRIDES.index(stride)]))

    def _values(self, name: str, fixed: Any) -> tuple[Any, ...]:
        """All values of a knob, or the fixed one where there is no such knob."""
        return tuple(self._by_name[name].choice_of) if name in self._by_name else (fixed,)


def require_anchors(space: SearchSpace, names: Iterable[str]) -> None:
    """Raise `UserError` naming the first of these anchors that is no member on the space's task, and the reason."""
    for name in names:
        if reason := space.why_not(Candidate(arch=named_arch(name), task=space.task)):
            raise UserError(
                f"anchor {name!r} is not in search space {space.name!r}: {reason} "
                "Add that value to the knob's choices (or a knob for it), or leave the anchor out."
            )


def _stage(stride: int, base: tuple[MBConv, ...], values: Mapping[str, Any]) -> tuple[MBConv, ...]:
    """Rows of a stage; rows that the base lacks are like its last one."""
    width = values.get(f"width_{stride}", base[-1].channels)
    depth = values.get(f"depth_{stride}", len(base))
    models = base + base[-1:] * (depth - len(base))
    return tuple(
        MBConv(
            kernel=values.get(f"kernel_{stride}_{row}", models[row].kernel),
            expand=values.get(f"expand_{stride}_{row}", models[row].expand),
            channels=width,
            stride=2 if row == 0 else 1,
        )
        for row in range(depth)
    )


def _difference(member: Candidate, candidate: Candidate) -> str | None:
    """The first place where the candidate departs from what the space fixes, as a sentence."""
    for there, here in ((member.task, candidate.task), (member.arch, candidate.arch)):
        for field in fields(there):
            fixed, value = getattr(there, field.name), getattr(here, field.name)
            if field.name == "stages":
                if reason := _stages_difference(fixed, value):
                    return reason
            elif fixed != value:
                name = _KNOB_OF_FIELD.get(field.name, field.name)
                return f"{name} is {_text(name, value)}, and the only legal value is {_text(name, fixed)}."
    return None


def _stages_difference(fixed: tuple[tuple[MBConv, ...], ...], stages: tuple[tuple[MBConv, ...], ...]) -> str | None:
    for stride, legal_rows, rows in zip(STAGE_STRIDES, fixed, stages, strict=True):
        if len(rows) != len(legal_rows):
            return f"depth_{stride} is {len(rows)}, and the only legal value is {len(legal_rows)}."
        for index, (legal, row) in enumerate(zip(legal_rows, rows, strict=True)):
            for name in ("kernel", "expand", "channels"):
                value, only = getattr(row, name), getattr(legal, name)
                if value != only:
                    return f"{name} of row {index} at stride {stride} is {value}, and the only legal value is {only}."
    return None


def _table(values: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    """A mapping with exactly those keys."""
    if not isinstance(values, Mapping):
        raise UserError(f"a search space is a table of {', '.join(keys)}, not {values!r}.")
    if unknown := [name for name in values if name not in keys]:
        raise UserError(f"unknown key {unknown[0]!r}; legal keys: {', '.join(keys)}.")
    if missing := [name for name in keys if name not in values]:
        raise UserError(f"missing key {missing[0]!r}; a search space needs {', '.join(keys)}.")
    return values


def _knob_table(knobs: object) -> Mapping[str, object]:
    if not isinstance(knobs, Mapping):
        raise UserError(f"knobs must be a table of lists of choices, not {knobs!r}.")
    return knobs


def _choices(name: str, listed: object) -> tuple[Choice, ...]:
    if not isinstance(listed, list | tuple):
        raise UserError(f"knob {name} must be a list of choices, not {listed!r}; write [{listed!r}] to fix it.")
    return tuple(listed)


def _text(name: str, value: object) -> str:
    """As a person writes it in the declarative form."""
    if name == "head_fuse":
        return _HEAD_FUSE[bool(value)]
    separator = "x" if name == "image_size" else "-"
    return separator.join(map(str, value)) if isinstance(value, tuple) else str(value)

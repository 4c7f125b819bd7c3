"""What is a TopFormer? An architecture, the task it runs on, and the published anchors T, S and B.

Standard library only: a latency query or a study proposal never waits for torch.
Numbers: TopFormer, arXiv:2204.05525, and the released weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from topformer.errors import UserError, located, unknown_name
from topformer.reading import parse_json

InjectionKind = Literal["full", "attention", "semantics"]
HeadKind = Literal["topformer", "sum", "concat"]
ExtractorKind = Literal["attention", "ffn", "none", "ppm", "aspp"]
TokenSource = Literal["pyramid", "last"]
TaskKind = Literal["segmentation", "classification"]
OutputKind = Literal["logits", "resized", "labels"]

STAGE_STRIDES = (4, 8, 16, 32)
TOKEN_STRIDES = (32, 64, 128)
MIN_IMAGE_PX = 32
MAX_IMAGE_PX = 8192
MAX_CHANNELS = 4096
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class MBConv:
    """One inverted residual row: 1x1 expansion, depthwise kernel x kernel, 1x1 linear projection (MobileNetV2)."""

    kernel: int
    expand: float
    channels: int
    stride: int

    def __post_init__(self) -> None:
        _require_int("MBConv kernel", self.kernel, 1, 15)
        if self.kernel % 2 == 0:
            raise UserError(
                f"MBConv kernel must be odd, not {self.kernel}; use {self.kernel - 1} or {self.kernel + 1}."
            )
        if isinstance(self.expand, bool) or not isinstance(self.expand, int | float) or not 1 <= self.expand <= 16:
            raise UserError(f"MBConv expand must be a number from 1 to 16, not {self.expand!r}.")
        if float(self.expand).is_integer():
            object.__setattr__(self, "expand", int(self.expand))  # 3 and 3.0 are one architecture, so one key
        _require_int("MBConv channels", self.channels, 1, MAX_CHANNELS)
        _require_int("MBConv stride", self.stride, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopFormerConfig:
    """One architecture, valid by construction; equal architectures have equal `key`s.

    A field that a choice leaves without effect must be 0 (or, for `injection` under the sum and concat heads,
    "semantics"), so that no network can be written down twice; `replace` takes care of that.
    """

    stem_channels: int
    stride2: tuple[MBConv, ...]
    """Rows at stride 2, after the stem; no token is taken from them."""
    stages: tuple[tuple[MBConv, ...], ...]
    """Rows of the four stages at strides 4, 8, 16 and 32; each stage's last row is its token."""
    num_blocks: int
    num_heads: int
    key_dim: int
    """Query and key channels per head; values have twice as many."""
    injection_channels: int
    token_stride: int = 64
    """Output stride of the semantics: 32, 64 or 128 image pixels per token (classification always runs at 32)."""
    injected_strides: tuple[int, ...] = (8, 16, 32)
    """Scales that receive semantics; the finest one is the stride of the logits."""
    depthwise_head: bool = False
    """Fuse convolution of the head per channel (the released Tiny weights) or dense (Small, Base)."""
    injection: InjectionKind = "full"
    """"full": sigmoid attention and semantic information; or either of them alone."""
    head: HeadKind = "topformer"
    """"sum" and "concat" are the heads of the paper's Table 6, without a gate and with unsplit semantics."""
    extractor: ExtractorKind = "attention"
    token_source: TokenSource = "pyramid"
    """Input of the semantics extractor: all four tokens stacked, or the one at stride 32."""

    def __post_init__(self) -> None:
        _require_int("stem_channels", self.stem_channels, 1, MAX_CHANNELS)
        self._require_rows()
        _require_int("injection_channels", self.injection_channels, 1, MAX_CHANNELS)
        _require_choice("token_stride", self.token_stride, TOKEN_STRIDES)
        strides = self.injected_strides
        legal = (
            isinstance(strides, tuple)
            and all(type(s) is int for s in strides)  # 8.0 would be another key
            and tuple(s for s in STAGE_STRIDES if s in strides) == strides
        )
        if not legal or not strides:
            raise UserError(
                f"injected_strides must be a non-empty ascending subset of {STAGE_STRIDES}, not {strides!r}; "
                "the published networks use (8, 16, 32)."
            )
        if not isinstance(self.depthwise_head, bool):
            raise UserError(f"depthwise_head must be true or false, not {self.depthwise_head!r}.")
        _require_choice("injection", self.injection, get_args(InjectionKind))
        _require_choice("head", self.head, get_args(HeadKind))
        _require_choice("extractor", self.extractor, get_args(ExtractorKind))
        _require_choice("token_source", self.token_source, get_args(TokenSource))
        self._require_effect()

    def _require_rows(self) -> None:
        if len(self.stages) != len(STAGE_STRIDES):
            raise UserError(f"stages must be {len(STAGE_STRIDES)}, at strides {STAGE_STRIDES}, not {len(self.stages)}.")
        for row in self.stride2:
            if row.stride != 1:
                raise UserError(f"rows at stride 2 must have stride 1, not {row.stride}.")
        for stride, stage in zip(STAGE_STRIDES, self.stages, strict=True):
            _require_int(f"depth of the stage at stride {stride}", len(stage), 1, MAX_DEPTH)
            if [row.stride for row in stage] != [2] + [1] * (len(stage) - 1):
                raise UserError(
                    f"the stage at stride {stride} must start with a row of stride 2 and go on with stride 1, "
                    f"not {[row.stride for row in stage]}."
                )

    def _require_effect(self) -> None:
        """Refuse a field that the chosen extractor or head would ignore."""
        least_blocks, least_heads = _EXTRACTOR_NEEDS[self.extractor]
        for name, least, most in (
            ("num_blocks", least_blocks, MAX_DEPTH),
            ("num_heads", least_heads, 64),
            ("key_dim", least_heads, 256),
        ):
            value = getattr(self, name)
            if least:
                _require_int(name, value, least, most)
            elif value != 0 or isinstance(value, bool):
                raise UserError(
                    f"{name} must be 0 for extractor {self.extractor!r}, which has no use for it, not {value!r}; "
                    "TopFormerConfig.replace sets it."
                )
        if self.head != "topformer" and self.injection != "semantics":
            raise UserError(
                f"head {self.head!r} adds semantics without a gate: injection must be 'semantics', "
                f"not {self.injection!r}; TopFormerConfig.replace sets it."
            )
        if self.head == "concat" and self.depthwise_head:
            raise UserError("head 'concat' has a dense fuse convolution only: set depthwise_head to false.")
        if self.head == "concat" and self.injection_channels < len(self.injected_strides):
            raise UserError("head 'concat' needs at least one injection channel per injected scale.")

    def replace(self, **changes: Any) -> Self:
        """A changed copy; fields that lose their effect by the change take their neutral value."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        least_blocks, least_heads = _EXTRACTOR_NEEDS.get(values["extractor"], (1, 1))
        neutral: dict[str, Any] = {}
        if not least_blocks:
            neutral["num_blocks"] = 0
        if not least_heads:
            neutral |= {"num_heads": 0, "key_dim": 0}
        if values["head"] in ("sum", "concat"):
            neutral["injection"] = "semantics"
        return type(self)(**(values | {name: value for name, value in neutral.items() if name not in changes}))

    @property
    def widths(self) -> tuple[int, ...]:
        """Token channels at strides 4, 8, 16, 32."""
        return tuple(stage[-1].channels for stage in self.stages)

    @property
    def semantic_channels(self) -> int:
        """Channels of the semantics extractor."""
        return sum(self.widths) if self.token_source == "pyramid" else self.widths[-1]

    @property
    def key(self) -> str:
        """Stable content key, 16 hexadecimal digits."""
        return content_key(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready value; rows are [kernel, expand, channels, stride]."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["stride2"] = [_row_list(row) for row in self.stride2]
        values["stages"] = [[_row_list(row) for row in stage] for stage in self.stages]
        values["injected_strides"] = list(self.injected_strides)
        return values

    def to_json(self) -> str:
        return json.dumps(self.as_dict())

    @classmethod
    def from_dict(cls, values: object, *, where: str = "architecture") -> Self:
        """Inverse of `as_dict`; `where` names the source in errors."""
        known = {field.name: field for field in fields(cls)}
        given = _require_mapping(values, known, where)
        required = ("stem_channels", "stride2", "stages", "num_blocks", "num_heads", "key_dim", "injection_channels")
        if missing := [name for name in required if name not in given]:
            raise UserError(
                f"{where}: missing {', '.join(missing)}; `topformer-nas describe tiny --json` shows a whole one."
            )
        strides = given.get("injected_strides")
        if isinstance(strides, list):
            given["injected_strides"] = tuple(strides)
        with located(where):
            try:
                given["stride2"] = tuple(MBConv(*row) for row in given["stride2"])
                given["stages"] = tuple(tuple(MBConv(*row) for row in stage) for stage in given["stages"])
            except TypeError as error:
                raise UserError(f"rows must be lists of [kernel, expand, channels, stride] ({error}).") from None
            return cls(**given)

    @classmethod
    def from_json(cls, text: str, *, where: str = "architecture") -> Self:
        return cls.from_dict(parse_json(text, where), where=where)


_EXTRACTOR_NEEDS: Mapping[str, tuple[int, int]] = {  # least blocks, least heads
    "attention": (1, 1),
    "ffn": (1, 0),
    "none": (0, 0),
    "ppm": (0, 0),
    "aspp": (0, 0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What the network is run on: image size (height, width) in pixels, classes, and what the timed graph returns."""

    kind: TaskKind = "segmentation"
    image_size: tuple[int, int] = (512, 512)
    num_classes: int = 150
    output: OutputKind = "logits"
    """"logits" at the finest injected stride, as published latencies time it; "resized" to the image; or "labels"."""

    def __post_init__(self) -> None:
        _require_choice("task kind", self.kind, get_args(TaskKind))
        if not isinstance(self.image_size, tuple) or len(self.image_size) != 2:
            raise UserError(f"image_size must be (height, width), not {self.image_size!r}.")
        for side in self.image_size:
            _require_int("image size in pixels", side, MIN_IMAGE_PX, MAX_IMAGE_PX)
        _require_int("num_classes", self.num_classes, 1, 100_000)
        _require_choice("task output", self.output, get_args(OutputKind))
        if self.kind == "classification" and self.output != "logits":
            raise UserError(f"a classification task returns logits, not {self.output!r}.")

    @property
    def pixels(self) -> str:
        """Height x width of the images, for people and for --size."""
        return "x".join(map(str, self.image_size))

    @property
    def key(self) -> str:
        """Stable content key, 16 hexadecimal digits."""
        return content_key(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "image_size": list(self.image_size),
            "num_classes": self.num_classes,
            "output": self.output,
        }

    @classmethod
    def from_dict(cls, values: object, *, where: str = "task") -> Self:
        given = _require_mapping(values, [field.name for field in fields(cls)], where)
        if "image_size" in given:
            given["image_size"] = _pair(given["image_size"])
        with located(where):
            return cls(**given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An architecture on a task: what is evaluated, cached and compared."""

    arch: TopFormerConfig
    task: Task

    @property
    def key(self) -> str:
        """Stable content key, 16 hexadecimal digits."""
        return content_key({"arch": self.arch.as_dict(), "task": self.task.as_dict()})


def anchor_name(arch: TopFormerConfig) -> str | None:
    """ "tiny", "small" or "base" where `arch` is that anchor."""
    return next((name for name, anchor in ANCHORS.items() if anchor == arch), None)


def named_arch(name: str) -> TopFormerConfig:
    """The anchor of that name."""
    if not isinstance(name, str) or name not in ANCHORS:
        raise unknown_name("architecture", name, ANCHORS, advice="A JSON file of an architecture works too.")
    return ANCHORS[name]


def parse_image_size(text: str) -> tuple[int, int]:
    """ "512" is square, "512x1024" is height x width, in pixels."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() and len(part) <= 9 for part in parts):
        raise UserError(f"image size must look like 512 or 512x1024 (height x width), not {text[:40]!r}.")
    sides = [int(part) for part in parts]
    return Task(image_size=(sides[0], sides[-1])).image_size


def content_key(values: object) -> str:
    """16 hexadecimal digits that depend on the content only."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _row_list(row: MBConv) -> list[float]:
    return [row.kernel, row.expand, row.channels, row.stride]


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


def _require_int(what: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{what} must be a whole number from {least} to {most}, not {value!r}.")


def _require_choice(what: str, value: object, legal: Iterable[object]) -> None:
    choices = tuple(legal)
    if not any(type(value) is type(choice) and value == choice for choice in choices):  # 64.0 is not 64
        raise UserError(f"{what} must be one of {', '.join(map(str, choices))}, not {value!r}.")


def _require_mapping(values: object, known: Iterable[str], where: str) -> dict[str, Any]:
    names = tuple(known)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a table of {', '.join(names)}, not {type(values).__name__}.")
    if unknown := [str(name) for name in values if name not in names]:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; legal keys: {', '.join(names)}.")
    return dict(values)


def _rows(*rows: tuple[int, int, int, int]) -> tuple[MBConv, ...]:
    return tuple(MBConv(*row) for row in rows)


TINY = TopFormerConfig(
    stem_channels=16,
    stride2=_rows((3, 1, 16, 1)),
    stages=(
        _rows((3, 4, 16, 2), (3, 3, 16, 1)),
        _rows((5, 3, 32, 2), (5, 3, 32, 1)),
        _rows((3, 3, 64, 2), (3, 3, 64, 1)),
        _rows((5, 6, 96, 2), (5, 6, 96, 1)),
    ),
    num_blocks=4,
    num_heads=4,
    key_dim=16,
    injection_channels=128,
    depthwise_head=True,  # as the released weights have it; the published 0.6 G follow the dense one
)
SMALL = TINY.replace(
    stages=(
        _rows((3, 4, 24, 2), (3, 3, 24, 1)),
        _rows((5, 3, 48, 2), (5, 3, 48, 1)),
        _rows((3, 3, 96, 2), (3, 3, 96, 1)),
        _rows((5, 6, 128, 2), (5, 6, 128, 1), (3, 6, 128, 1)),
    ),
    num_heads=6,
    injection_channels=192,
    depthwise_head=False,
)
BASE = SMALL.replace(
    stages=(
        _rows((3, 4, 32, 2), (3, 3, 32, 1)),
        _rows((5, 3, 64, 2), (5, 3, 64, 1)),
        _rows((3, 3, 128, 2), (3, 3, 128, 1)),
        _rows((5, 6, 160, 2), (5, 6, 160, 1), (3, 6, 160, 1)),
    ),
    num_heads=8,
    injection_channels=256,
)
ANCHORS: Mapping[str, TopFormerConfig] = {"tiny": TINY, "small": SMALL, "base": BASE}

"""What does a `dataset.toml` say? Where images and masks lie, how they are split, and what the masks' values mean.

A person writes it, or `topformer-nas datasets describe` from what it finds. Every folder of one's own is read by such a
description, whoever made it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evaluators.datasets import IGNORE, Colour, numbered_palette
from evaluators.datasets.files import ILLEGAL, MOST_CLASSES, LabelReader, Named, ResizeRule
from evaluators.datasets.label_maps import (
    LARGEST_VALUE,
    ColouredLabels,
    Doubts,
    IndexedLabels,
    ThresholdLabels,
    contiguous,
)
from topformer.errors import LONGEST_NAME, UserError
from topformer.reading import MIB, file_text, parse_toml

if TYPE_CHECKING:
    from evaluators.datasets import Split

FILE = "dataset.toml"
NAME, SPLIT, ANY = "{name}", "{split}", ".*"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
SPARE_SUFFIXES = (".npy", ".gif", ".pgm", ".ppm", ".webp", ".jpg", ".jpeg")
"""Files that are no label maps where there are some of `MASK_SUFFIXES`, and may be where there are none."""
EXAMPLE = """\
# Where images and masks lie below this folder. {name} is what an image and its mask have in common, {split} the name
# of a split; .* stands for every suffix that is read.
images = "images/{split}/{name}.jpg"
masks = "masks/{split}/{name}_mask.png"

# The folders, or lists, of each split; test may be missing. Instead of {split} above:
#   lists = "splits/{split}.txt"    one name a line
#   held_out = 10                   one image in ten, by a hash of its name, is for validation
splits = { train = "training", val = "validation" }

# Every class with the value, the values or the colour that it has in the masks. Names alone are numbered from `offset`.
classes = [
  { name = "background", value = 0, colour = [0, 0, 0] },
  { name = "lesion", value = [1, 255] },
]

# Values, or colours such as [255, 255, 255], that are neither learnt nor scored. All others are refused.
ignored = [254]

# offset = 1          the value of the first class, where classes are names alone
# threshold = 128     the least value of the second of two classes that are names alone, where edges were softened
# resize = "sparse"   masks of points and lines: a smaller map keeps every labelled pixel's label; usual is "nearest"
# black = 0           the darkest value of photographs with more than 8 bits
# white = 4095        their brightest value; usual is what the files show
"""

_Byte = Annotated[int, Field(ge=0, le=255)]
_Value = Annotated[int, Field(ge=0, le=LARGEST_VALUE)]
_Colour = Annotated[list[_Byte], Field(min_length=3, max_length=3)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ClassEntry(_Section):
    """A class and what it looks like in masks."""

    name: _Name
    value: _Value | Annotated[list[_Value], Field(min_length=1)] | None = None
    colour: _Colour | None = None

    @property
    def values(self) -> tuple[int, ...]:
        if self.value is None:
            return ()
        return (self.value,) if isinstance(self.value, int) else tuple(self.value)


class SplitNames(_Section):
    """What stands in place of {split}."""

    train: _Name = "train"
    val: _Name = "val"
    test: _Name | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [name for name in (self.train, self.val, self.test) if name is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"two splits are called {self.train if self.train == self.val else self.test!r}")
        if bad := next((name for name in names if "/" in name or name in (".", "..")), None):
            raise ValueError(f"{bad!r} is no name of a folder or a list")
        return self


class Description(_Section):
    """A data set of one's own, said in full: nothing about its labels is left to guess."""

    images: str
    masks: str
    splits: SplitNames = SplitNames()
    lists: str | None = None
    """Pattern of the files that list the names of a split."""
    held_out: Annotated[int, Field(ge=2, le=255)] | None = None
    """One name in so many is for validation."""
    classes: Annotated[list[_Name | ClassEntry], Field(min_length=1, max_length=MOST_CLASSES)]
    ignored: list[_Value] | list[_Colour] = []
    offset: _Value = 0
    threshold: Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)] | None = None
    """Least value of the second of two classes."""
    resize: ResizeRule = "nearest"
    black: float | int | None = None
    white: float | int | None = None

    @field_validator("images", "masks")
    @classmethod
    def _pattern(cls, value: str) -> str:
        parts = value.split("/")
        if "\\" in value or value.startswith("/") or ".." in parts or "" in parts or "\0" in value:
            raise ValueError("a pattern is a path below this folder, with slashes")
        if value.count(NAME) != 1 or NAME not in parts[-1] or value.count(SPLIT) > 1:
            raise ValueError("a pattern has {name} once, in its last part, and {split} at most once before it")
        if SPLIT in parts[-1].partition(NAME)[2] or not parts[-1].partition(NAME)[2]:
            raise ValueError("after {name} comes a suffix such as .png, or .* for every suffix that is read")
        return value

    @field_validator("lists")
    @classmethod
    def _list_pattern(cls, value: str | None) -> str | None:
        if value is not None and (value.count(SPLIT) != 1 or value.startswith("/") or ".." in value.split("/")):
            raise ValueError("it is a path below this folder that has {split} once, such as splits/{split}.txt")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ways = [SPLIT in self.images, self.lists is not None, self.held_out is not None]
        if sum(ways) != 1:
            raise ValueError(
                "one of these says what is for validation: {split} in images, lists, or held_out; there "
                f"{'are ' + str(sum(ways)) if sum(ways) else 'is none'}"
            )
        if self.images == self.masks:
            raise ValueError("images and masks are the same files")
        if SPLIT in self.masks and SPLIT not in self.images:
            raise ValueError("masks has {split}, but images has not")
        if self.white is not None and self.white <= (self.black or 0):
            raise ValueError(f"white = {self.white} is not above black = {self.black or 0}")
        self._require_readable_classes()
        return self

    def _require_readable_classes(self) -> None:
        names = [entry.name for entry in self.entries]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two classes are called {twice[:LONGEST_NAME]!r}")
        named = [isinstance(entry, str) for entry in self.classes]
        if any(named) and not all(named):
            raise ValueError("classes are names alone, or each has a name and a value or a colour")
        if not self.by_value and not all(entry.colour for entry in self.entries):
            raise ValueError("each class needs a value, or each a colour")
        if self.threshold is not None and not (all(named) and len(named) == 2 and not self.ignored and not self.offset):
            raise ValueError("threshold is for two classes that are names alone, without ignored and offset")
        if self.offset and not all(named):
            raise ValueError("offset is for classes that are names alone; these say their values")
        taken = [one for entry in self.entries for one in (entry.values if self.by_value else (tuple(entry.colour),))]  # type: ignore[arg-type]
        taken += self.ignored_ones
        if (twice_ := next((one for one in taken if taken.count(one) > 1), None)) is not None:
            raise ValueError(f"{twice_} stands for two classes, or for one and for what is ignored")
        if any(isinstance(one, tuple) == self.by_value for one in self.ignored_ones):
            kind = "values" if self.by_value else "colours"
            raise ValueError(f"ignored must be {kind}, as those of the classes are")

    @property
    def entries(self) -> tuple[ClassEntry, ...]:
        """Classes with their values, also where they are names alone."""
        return tuple(
            ClassEntry(name=entry, value=self.offset + number) if isinstance(entry, str) else entry
            for number, entry in enumerate(self.classes)
        )

    @property
    def by_value(self) -> bool:
        """Do numbers stand for the classes? Else colours do."""
        return all(entry.value is not None for entry in self.entries)

    @property
    def ignored_ones(self) -> list[int | Colour]:
        return [one if isinstance(one, int) else (one[0], one[1], one[2]) for one in self.ignored]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """A colour per class for pictures: its own, or by its number."""
        usual = numbered_palette(len(self.classes))
        own = [entry.colour for entry in self.entries]
        return tuple(usual[i] if c is None else (c[0], c[1], c[2]) for i, c in enumerate(own))

    def reader(self, doubts: Doubts | None = None) -> LabelReader:
        """What reads the masks; with the doubts of whoever guessed it."""
        ignored = self.ignored_ones
        if self.threshold is not None:
            return ThresholdLabels(self.threshold)
        if not self.by_value:
            return ColouredLabels(self.palette, tuple(one for one in ignored if not isinstance(one, int)))
        values = {value: label for label, entry in enumerate(self.entries) for value in entry.values}
        further = tuple(one for one in ignored if isinstance(one, int))
        if IGNORE in further and values == {label: label for label in range(len(self.classes))}:
            usual = contiguous(len(self.classes), zero_is_ignored=False, doubts=doubts)
            return IndexedLabels(
                usual.classes, usual.legal, tuple(one for one in further if one != IGNORE), usual.doubts
            )
        values |= dict.fromkeys(further, IGNORE)
        shown = ", ".join(str(value) for value in sorted(values)[:20]) + (" and more" if len(values) > 20 else "")
        return IndexedLabels(
            classes=tuple(values.get(value, ILLEGAL) for value in range(max(values) + 1)),
            legal=f"{shown} (of these ignored: {', '.join(map(str, further)) or 'none'})",
            doubts=doubts,
        )

    def split_name(self, split: Split) -> str | None:
        """What the split is called in folders or lists; None where there is no such split."""
        return {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}[split]

    def image_files(self, split: str) -> Named:
        return _named(self.images, split, IMAGE_SUFFIXES, ())

    def mask_files(self, split: str) -> Named:
        return _named(self.masks, split, MASK_SUFFIXES, SPARE_SUFFIXES)


def read_description(path: Path) -> Description:
    """Raises `UserError` with one sentence for the first fault."""
    content = parse_toml(file_text(path, "the description", most_bytes=MIB), str(path))
    return described(content, str(path))


def described(content: Mapping[str, Any], where: str) -> Description:
    """From values by key, as a TOML file has them; raises `UserError` likewise."""
    try:
        return Description.model_validate(dict(content))
    except ValidationError as error:
        raise UserError(_sentence(error, where)) from None


def as_text(values: Mapping[str, Any]) -> str:
    """Values by key as lines of TOML, in their order."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(one, Mapping) for one in value):
            return "[\n" + "".join(f"  {_toml(one)},\n" for one in value) + "]"
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _named(pattern: str, split: str, known: tuple[str, ...], spare: tuple[str, ...]) -> Named:
    folder, _, last = pattern.replace(SPLIT, split).rpartition("/")
    prefix, _, suffix = last.partition(NAME)
    if suffix.endswith(ANY):
        start = suffix.removesuffix(ANY)
        return Named(folder, tuple(start + each for each in known), tuple(start + each for each in spare), prefix)
    return Named(folder, (suffix,), (), prefix)


def _sentence(error: ValidationError, where: str) -> str:
    """The first fault of a file, with the key and what is legal."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    known = {*Description.model_fields, *ClassEntry.model_fields, *SplitNames.model_fields}
    last = len(first["loc"]) - 1 if first["type"] == "extra_forbidden" else -1
    parts = [p for i, p in enumerate(first["loc"]) if isinstance(p, int) or p in known or i == last]  # the rest: unions
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in parts)[:LONGEST_NAME]
    match first["type"]:
        case "extra_forbidden":
            sections: dict[str, type[BaseModel]] = {"classes": ClassEntry, "splits": SplitNames}
            section = sections.get(str(parts[0]) if parts[1:] else "", Description)
            return f"{where}: unknown key {key!r}; legal here: {', '.join(section.model_fields)}."
        case "missing":
            return (
                f"{where} does not say {key!r}: remove the # before each line of one of its readings, or write it: "
                "see: topformer-nas datasets layouts --example"
            )
        case "value_error":
            said = first["msg"].removeprefix("Value error, ")
            return f"{where}: {key + ': ' if key else ''}{said}."
        case _:
            return f"{where}: {key} = {repr(first['input'])[:LONGEST_NAME]} is not legal: {first['msg']}."

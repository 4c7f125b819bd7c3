"""A user's own labelled images: a folder `images`, a folder `masks` with equal names, and a list of classes.

images/{train,val}/**  masks/{train,val}/**   or images/** and masks/** with train.txt and val.txt (names, a line
each: the path below images), or without: then one name in ten is taken for validation, by a hash of the name. A third
list, test.txt, names images that only finished comparisons are judged on.
classes.txt   a class name a line, in the order of the mask values from 0; 255 is ignored
classes.csv   name,red,green,blue: likewise with colours, for pictures and for masks that are in colours; a row named
              "ignore" is a colour that is neither trained on nor scored
Of palette images the numbers count, not the colours.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluators.datasets import Colour, numbered_palette
from evaluators.datasets.files import (
    MOST_CLASSES,
    NUMBERED_MODES,
    ColouredLabels,
    DataError,
    LabelledFiles,
    LabelReader,
    contiguous,
    decoded,
    paired,
    read_list,
    wrong_layout,
)
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split
    from evaluators.datasets.files import Pair

NAME = "folder"
FOLDERS = ("images", "masks")
LOOKS_FOR = (*FOLDERS, "classes.txt or classes.csv")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
IGNORED = "ignore"
_ONE_IN = 10
_LOOKED_AT = 20


def found_at(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


def opened(root: Path) -> LabelledFiles:
    """Raises `UserError` where folders or the classes are not there."""
    if not found_at(root):
        raise wrong_layout(root, "a folder of images and masks", LOOKS_FOR)
    pairs, unpaired = _splits(root)
    every = [pair for part in pairs.values() for pair in part]
    names, palette, ignored = _classes(root, every)
    return LabelledFiles(
        name=NAME,
        root=root,
        class_names=names,
        palette=palette or numbered_palette(len(names)),
        pairs=pairs,
        read_labels=_reader(root, every, len(names), palette, ignored),
        unpaired=unpaired,
    )


def _splits(root: Path) -> tuple[dict[Split, tuple[Pair, ...]], tuple[str, ...]]:
    parts: tuple[Split, Split] = ("train", "val")
    if all((root / "images" / part).is_dir() for part in parts):
        found = {part: _paired(root, f"images/{part}", f"masks/{part}") for part in parts}
        return {part: found[part][0] for part in parts}, (*found["train"][1], *found["val"][1])
    lists: dict[Split, Path] = {part: root / f"{part}.txt" for part in parts}
    if all(path.is_file() for path in lists.values()):
        if (test := root / "test.txt").is_file():
            lists["test"] = test
        names = {part: [_without_suffix(line) for line in read_list(path)] for part, path in lists.items()}
        for first, second in combinations(lists, 2):
            if twice := set(names[first]) & set(names[second]):
                raise UserError(f"{lists[second]} lists {min(twice)!r}, which {first}.txt lists too; keep one of them.")
        listed = {part: _paired(root, "images", "masks", only=names[part]) for part in lists}
        return {part: pairs for part, (pairs, _) in listed.items()}, tuple(
            path for _, unpaired in listed.values() for path in unpaired
        )
    pairs, unpaired = _paired(root, "images", "masks")
    held_out = _held_out([_without_suffix(pair.image) for pair in pairs])
    return {
        "train": tuple(pair for pair in pairs if _without_suffix(pair.image) not in held_out),
        "val": tuple(pair for pair in pairs if _without_suffix(pair.image) in held_out),
    }, unpaired


def _without_suffix(name: str) -> str:
    below = name.removeprefix("images/")
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if below.lower().endswith(suffix)), "")
    return below[: len(below) - len(suffix)]


def _held_out(names: Iterable[str]) -> set[str]:
    """One name in ten, or one at least, by a hash: what is added later moves none of the others."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    chosen = {name for name in ordered if hashlib.sha256(os.fsencode(name)).digest()[0] % _ONE_IN == 0}
    return set(ordered[:1]) if not chosen or len(chosen) == len(ordered) else chosen


def _paired(
    root: Path, images: str, masks: str, *, only: Iterable[str] | None = None
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    return paired(root, images, masks, image_suffixes=IMAGE_SUFFIXES, label_suffix=MASK_SUFFIXES, only=only)


def _classes(root: Path, pairs: list[Pair]) -> tuple[tuple[str, ...], tuple[Colour, ...], tuple[Colour, ...]]:
    """Names, their colours (none where only names are given), and colours that are ignored."""
    table, text = root / "classes.csv", root / "classes.txt"
    if table.is_file():
        return _classes_with_colours(table)
    if text.is_file():
        return _distinct(read_list(text), text), (), ()
    raise UserError(
        f"{root} has no classes.txt: write one with a class name a line, in the order of the mask values from 0 "
        f"({_values_seen(root, pairs)}); or classes.csv with name,red,green,blue for masks in colours."
    )


def _classes_with_colours(path: Path) -> tuple[tuple[str, ...], tuple[Colour, ...], tuple[Colour, ...]]:
    wanted = ("name", "red", "green", "blue")
    try:
        rows = list(csv.DictReader(read_list(path)))
    except csv.Error as error:
        raise DataError(f"{path} is no table of {','.join(wanted)} ({error}).") from None
    if not rows or any(column not in rows[0] for column in wanted):
        raise UserError(f"{path} must begin with the line {','.join(wanted)} and have a line per class.")
    known: list[tuple[str, Colour]] = []
    for number, row in enumerate(rows, start=1):
        name, *parts = (str(row[column] or "").strip() for column in wanted)
        if not name or not all(
            part.isascii() and part.isdigit() and len(part) < 4 and int(part) <= 255 for part in parts
        ):
            raise UserError(
                f"{path}, class {number}: needed are a name and three numbers from 0 to 255, not "
                f"{','.join((name, *parts))!r}."
            )
        known.append((name, (int(parts[0]), int(parts[1]), int(parts[2]))))
    colours = [colour for _, colour in known]
    if len(set(colours)) < len(colours):
        raise UserError(f"{path}: two rows have one colour; masks could not tell them apart.")
    names = tuple(name for name, _ in known if name != IGNORED)
    ignored = tuple(colour for name, colour in known if name == IGNORED)
    return _distinct(names, path), tuple(colour for name, colour in known if name != IGNORED), ignored


def _distinct(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if not 1 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{path} must name 1 to {MOST_CLASSES} classes, not {len(names)}.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} names {twice!r} twice.")
    return names


def _reader(
    root: Path, pairs: list[Pair], num_classes: int, palette: tuple[Colour, ...], ignored: tuple[Colour, ...]
) -> LabelReader:
    """Masks in colours where the first that can be read is, and the colours are given."""
    first = next(_values(root, pairs), None)
    if palette and first is not None and first[0] not in NUMBERED_MODES:
        return ColouredLabels(palette, ignored)
    return contiguous(num_classes, zero_is_ignored=False)


def _values_seen(root: Path, pairs: list[Pair]) -> str:
    found = list(_values(root, pairs))
    if any(mode not in NUMBERED_MODES for mode, _ in found):
        return "these masks are in colours"
    seen = sorted(set().union(*(values for _, values in found)))
    if not seen:
        return "no mask could be read"
    return f"values in the first {len(found)} masks: {', '.join(map(str, seen[:_LOOKED_AT]))}"


def _values(root: Path, pairs: list[Pair]) -> Iterator[tuple[str, set[int]]]:
    """Mode and values of the first masks; what cannot be read is told by name when it is used."""
    for pair in pairs[:_LOOKED_AT]:
        with contextlib.suppress(DataError):
            yield decoded(root / pair.labels, lambda image: (image.mode, set(np.unique(np.asarray(image)).tolist())))

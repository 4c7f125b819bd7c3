"""A user's own labelled images: read as a `dataset.toml` says, or as the folder itself tells.

Without a description, images and masks are found by the layouts of `evaluators.datasets.places`, and the classes by
classes.txt   a class name a line, in the order of the mask values from 0; 255 is ignored
classes.csv   name,red,green,blue: likewise with colours, for pictures and for masks that show them
A line or row named "ignore" is a value or a colour that is neither trained on nor scored. What the masks mean by it is
decided by what they hold (`evaluators.datasets.evidence`); what is not sure is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.datasets import ade20k, cityscapes, coco_stuff, pascal_context
from evaluators.datasets.description import FILE, Description, described, read_description
from evaluators.datasets.evidence import Row, Seen, masks_seen, photographs_seen, reading_of
from evaluators.datasets.files import (
    MOST_CLASSES,
    DataError,
    LabelledFiles,
    by_name,
    contents,
    read_list,
    wrong_layout,
)
from evaluators.datasets.label_maps import Doubts
from evaluators.datasets.photographs import White
from evaluators.datasets.places import files_of, found_places, has_places
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Colour, Split
    from evaluators.datasets.files import Pair

NAME = "folder"
LOOKS_FOR = ("images", "masks", "classes.txt or classes.csv", "or dataset.toml")
_NAMES, _TABLE = "classes.txt", "classes.csv"
_COLUMNS = ("name", "red", "green", "blue")
_SHORT = {"r": "red", "g": "green", "b": "blue"}
_NUMBER_COLUMNS = ("id", "value", "label", "index", "number", "class", "class_id", "train_id", "trainid")
_NUMBER_FIRST = re.compile(r"(?P<number>\d{1,5})(?:\s*[:;,.=]\s*|\s+-?\s*)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)[\s:;,=]+(?P<number>\d{1,5})")
_HEADING = r"(?:id|index|value|label|number|nr|no)\s*[,;:\t]\s*\w+.*"
_NO_NAME = re.compile(rf"names\s*:.*|-\s+\S.*|[\[\]{{}}].*|{_HEADING}", re.IGNORECASE)
"""Lines of YAML or JSON, and a heading."""
_LOOKED_AT = 20
_BENCHMARKS = (
    ade20k.found_at,
    cityscapes.found_at,
    coco_stuff.found_at_164k,
    coco_stuff.found_at_10k,
    pascal_context.found_at,
)
_STAND_IN = {"classes": ["unknown"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """What a folder without a description seems to be."""

    description: Description
    doubts: Doubts | None
    remarks: tuple[str, ...]
    pairs: Mapping[Split, tuple[Pair, ...]]
    unpaired: tuple[str, ...]


def found_at(root: Path) -> bool:
    """Is there a description, or a folder of images beside one of masks that are not those of a benchmark?"""
    return (root / FILE).is_file() or (has_places(root) and not any(found(root) for found in _BENCHMARKS))


def is_own(root: Path) -> bool:
    """Does a folder say that its classes are a user's own, whatever its folders are called?"""
    return (root / FILE).exists() or (has_class_list(root) and has_places(root))


def opened(root: Path) -> LabelledFiles:
    """Raises `UserError` where folders or the classes are not there, or what is there can be read in two ways."""
    path = root / FILE
    if path.exists():
        description = read_description(path)
        _require_folders(path, description)
        pairs, unpaired = files_of(root, description)
        return _opened(root, description, pairs, unpaired, None, ())
    found = guessed(root)
    return _opened(root, found.description, found.pairs, found.unpaired, found.doubts, found.remarks)


def _require_folders(path: Path, description: Description) -> None:
    """Raises `UserError` where a folder that the description names is not there."""
    for split in description.splits.train, description.splits.val:
        for which in (description.image_files(split), description.mask_files(split)):
            if not (path.parent / which.folder).is_dir():
                raise UserError(f"{path}: there is no folder {which.folder!r}; found {contents(path.parent)}.")


def guessed(root: Path) -> Guess:
    """A description in full, by what is there. Raises `UserError`; an `AmbiguousError` has the readings that fit."""
    places = found_places(root)
    if places is None:
        raise wrong_layout(root, "a folder of images and masks", LOOKS_FOR)
    unread = described(places.values | _STAND_IN, str(root))
    pairs, unpaired = files_of(root, unread)
    every = [pair for part in pairs.values() for pair in part]
    if not every:
        _require_masks(root, unread)
    rows = class_rows(root, every)
    reading = reading_of(root, rows, masks_seen(root, every, len(rows)))
    description = described(places.values | dict(reading.values), str(root))
    held_out = (f"no split was found: one image in {places.held_out} is held out",) if places.held_out else ()
    return Guess(
        description=description,
        doubts=reading.doubts,
        remarks=(*held_out, *reading.remarks),
        pairs=pairs,
        unpaired=unpaired,
    )


def _opened(
    root: Path,
    description: Description,
    pairs: Mapping[Split, tuple[Pair, ...]],
    unpaired: tuple[str, ...],
    doubts: Doubts | None,
    remarks: tuple[str, ...],
) -> LabelledFiles:
    every = [pair for part in pairs.values() for pair in part]
    seen = photographs_seen(root, every)
    white = seen.white
    if description.white is not None and white is not None:
        white = White(float(description.white), usual=white.usual and white.value == description.white)
    if white is not None:
        remarks = (*remarks, f"photographs have more than 8 bits; {white.value:g} is white")
    if seen.turned:
        remarks = (
            *remarks,
            f"{seen.turned} of {seen.looked_at} photographs looked at say how they are to be turned (EXIF), and are "
            "turned before their labels are laid over them: look at --preview",
        )
    where = str(root / FILE) if (root / FILE).exists() else f"topformer-nas datasets describe {root}"
    return LabelledFiles(
        name=NAME,
        root=root,
        class_names=description.names,
        palette=description.palette,
        pairs=pairs,
        read_labels=description.reader(doubts),
        unpaired=unpaired,
        resize=description.resize,
        cure=f" Say what they are in its description: {where}",
        white=white,
        remarks=remarks,
    )


def has_class_list(root: Path) -> bool:
    return any((root / name).is_file() for name in (_NAMES, _TABLE))


def class_rows(root: Path, pairs: list[Pair]) -> tuple[Row, ...]:
    """The class list in its order, with what is ignored. Raises `UserError`."""
    table, text = root / _TABLE, root / _NAMES
    if table.is_file():
        rows = _with_colours(table)
        names, others = [row.name for row in rows], list(read_list(text)) if text.is_file() else []
        if names != others and sorted(names) == sorted(others):
            raise UserError(
                f"{root}: {_TABLE} and {_NAMES} name the same classes in another order, {', '.join(names[:4])} and "
                f"{', '.join(others[:4])}; keep the one that is right."
            )
        return rows
    if text.is_file():
        return _distinct(_lines(text), text)
    raise UserError(
        f"{root} has no classes.txt: write one with a class name a line, in the order of the mask values from 0 "
        f"({_values_seen(masks_seen(root, pairs[:_LOOKED_AT], MOST_CLASSES))}); or classes.csv with "
        f"name,red,green,blue for masks in colours; or a {FILE}, see: topformer-nas datasets layouts --example"
    )


def _lines(path: Path) -> tuple[Row, ...]:
    """The rows of a list of names, which may number them itself: "1 road", "road: 1"."""
    lines = read_list(path)
    if comment := next((line for line in lines if line.startswith("#")), None):
        raise UserError(f"{path}: is {comment[:100]!r} a class or a comment? Remove the line, or its #.")
    if odd := next((line for line in lines if _NO_NAME.fullmatch(line)), None):
        raise UserError(
            f"{path}: {odd[:100]!r} is no class name; a line is a name and nothing else, or a number and a name in all "
            "lines. Remove headings, dashes and braces."
        )
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        found = [pattern.fullmatch(line) for line in lines]
        numbers = [int(match["number"]) for match in found if match]
        if len(numbers) == len(lines) and numbers != list(range(len(lines))):
            return tuple(Row(match["name"], None, int(match["number"])) for match in found if match)
    return tuple(Row(line, None) for line in lines)


def _with_colours(path: Path) -> tuple[Row, ...]:
    try:
        table = csv.DictReader(read_list(path))
        rows = [{_SHORT.get(str(key), key): value for key, value in row.items()} for row in table]
    except csv.Error as error:
        raise DataError(f"{path} is no table of {','.join(_COLUMNS)} ({error}).") from None
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        raise UserError(f"{path} must begin with the line {','.join(_COLUMNS)} and have a line per class.")
    known: list[Row] = []
    for number, row in enumerate(rows, start=1):
        name, *parts = (str(row[column] or "").strip() for column in _COLUMNS)
        if not name or not all(
            part.isascii() and part.isdigit() and len(part) < 4 and int(part) <= 255 for part in parts
        ):
            raise UserError(
                f"{path}, class {number}: needed are a name and three numbers from 0 to 255, not "
                f"{','.join((name, *parts))!r}."
            )
        said = next((row[column] for column in row if str(column).strip().lower() in _NUMBER_COLUMNS), None)
        own = int(said) if said and said.strip().isascii() and said.strip().isdigit() else None
        known.append(Row(name, (int(parts[0]), int(parts[1]), int(parts[2])), own))
    colours: list[Colour | None] = [row.colour for row in known]
    if len(set(colours)) < len(colours):
        raise UserError(f"{path}: two rows have one colour; masks could not tell them apart.")
    return _distinct(tuple(known), path)


def _distinct(rows: tuple[Row, ...], path: Path) -> tuple[Row, ...]:
    names = [row.name for row in rows if not row.ignored]
    if not 1 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{path} must name 1 to {MOST_CLASSES} classes, not {len(names)}.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} names {twice!r} twice.")
    return rows


def _values_seen(seen: list[Seen]) -> str:
    if any(mask.used is None for mask in seen):
        return "these masks are in colours"
    values = sorted({value for mask in seen for value in mask.used or ()})
    if not values:
        return "no mask could be read"
    return f"values in the first {len(seen)} masks: {', '.join(map(str, values[:_LOOKED_AT]))}"


def _require_masks(root: Path, description: Description) -> None:
    """Raises `UserError` where nothing pairs because there are no files of any kind that label maps are."""
    for split in description.splits.train, description.splits.val:
        which = description.mask_files(split)
        if by_name(root, which) or not (root / which.folder).is_dir():
            continue
        raise UserError(
            f"{root}: no label maps in {which.folder} ({', '.join((*which.suffixes, *which.spare))}); found "
            f"{contents(root / which.folder)}. Polygons and boxes have to be drawn as label maps first."
        )

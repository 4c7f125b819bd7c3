"""A user's own labelled images: a folder `images`, a folder `masks` with equal names, and a list of classes.

images/{train,val}/**  masks/{train,val}/**   or images/** and masks/** with train.txt and val.txt (names, a line
each), or without: then one name in ten is taken for validation, by a hash of the name.
classes.txt   a class name a line, in the order of the mask values from 0; 255 is ignored
classes.csv   name,red,green,blue: likewise with colours, for pictures and for masks that are in colours; a row named
              "ignore" is a colour that is neither trained on nor scored
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from evaluators.datasets import Colour, numbered_palette
from evaluators.datasets.files import (
    MOST_CLASSES,
    ColouredLabels,
    DataError,
    LabelledFiles,
    LabelReader,
    contiguous,
    paired,
    wrong_layout,
)
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split
    from evaluators.datasets.files import Pair

NAME = "folder"
FOLDERS = ("images", "masks")
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
        raise wrong_layout(root, "a folder of images and masks", (*FOLDERS, "classes.txt or classes.csv"))
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
    lists = {part: root / f"{part}.txt" for part in parts}
    pairs, unpaired = _paired(root, "images", "masks")
    by_name = {str(Path(pair.image).relative_to("images").with_suffix("")): pair for pair in pairs}
    if all(path.is_file() for path in lists.values()):
        chosen: dict[Split, tuple[Pair, ...]] = {}
        for part, path in lists.items():
            names = path.read_text(encoding="utf-8").splitlines()
            listed = [name.strip() for name in names if name.strip()]
            if lost := [name for name in listed if name not in by_name]:
                raise UserError(f"{path} lists {lost[0]!r}, of which there are no image and mask.")
            chosen[part] = tuple(by_name[name] for name in listed)
        return chosen, unpaired
    held_out = {name for name in by_name if hashlib.sha256(name.encode()).digest()[0] % _ONE_IN == 0}
    if by_name and not held_out:
        held_out = {min(by_name)}
    return {
        "train": tuple(pair for name, pair in by_name.items() if name not in held_out),
        "val": tuple(pair for name, pair in by_name.items() if name in held_out),
    }, unpaired


def _paired(root: Path, images: str, masks: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    return paired(root, images, masks, image_suffixes=IMAGE_SUFFIXES, label_suffix=MASK_SUFFIXES)


def _classes(root: Path, pairs: list[Pair]) -> tuple[tuple[str, ...], tuple[Colour, ...], tuple[Colour, ...]]:
    """Names, their colours (none where only names are given), and colours that are ignored."""
    table, text = root / "classes.csv", root / "classes.txt"
    try:
        if table.is_file():
            return _classes_with_colours(table)
        if text.is_file():
            names = tuple(line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip())
            return _distinct(names, text), (), ()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the classes of {root} cannot be read ({error}).") from None
    raise UserError(
        f"{root} has no classes.txt: write one with a class name a line, in the order of the mask values from 0 "
        f"({_values_seen(root, pairs)}); or classes.csv with name,red,green,blue for masks in colours."
    )


def _classes_with_colours(path: Path) -> tuple[tuple[str, ...], tuple[Colour, ...], tuple[Colour, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = ("name", "red", "green", "blue")
    if not rows or any(column not in rows[0] for column in wanted):
        raise UserError(f"{path} must have the columns {', '.join(wanted)} and a row per class.")
    known: list[tuple[str, Colour]] = []
    for number, row in enumerate(rows, start=2):
        parts = [str(row[column]) for column in wanted[1:]]
        if not all(part.strip().isascii() and part.strip().isdigit() and int(part) <= 255 for part in parts):
            raise UserError(f"{path}, line {number}: a colour must be three numbers from 0 to 255, not {parts}.")
        known.append((str(row["name"]).strip(), (int(parts[0]), int(parts[1]), int(parts[2]))))
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
    """Masks in colours where the first one is, and the colours are given."""
    if pairs and _mode(root / pairs[0].labels) in ("RGB", "RGBA") and palette:
        return ColouredLabels(palette, ignored)
    return contiguous(num_classes, zero_is_ignored=False)


def _mode(path: Path) -> str:
    try:
        with PillowImage.open(path) as image:
            return image.mode
    except OSError:  # told by name when it is read
        return ""


def _values_seen(root: Path, pairs: list[Pair]) -> str:
    seen: set[int] = set()
    for pair in pairs[:_LOOKED_AT]:
        try:
            with PillowImage.open(root / pair.labels) as image:
                if image.mode in ("RGB", "RGBA"):
                    return "these masks are in colours"
                seen.update(np.unique(np.asarray(image)).tolist())
        except OSError:
            continue
    if not seen:
        return "no mask could be read"
    return f"values in the first {min(len(pairs), _LOOKED_AT)} masks: {', '.join(map(str, sorted(seen)[:20]))}"

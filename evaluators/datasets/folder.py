"""A user's own labelled images: read as a `dataset.toml` says, or as the folder itself tells.

Without a description, images and masks are found by the layouts of `evaluators.datasets.places`, and the classes by
`evaluators.datasets.class_lists`. A line or row named "ignore" is a value or a colour that is neither trained on nor
scored. What the masks mean by it is decided by what they hold (`evaluators.datasets.evidence`); what is not sure is
refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.datasets import ade20k, cityscapes, coco_stuff, pascal_context
from evaluators.datasets.class_lists import class_list, has_class_list, unread_lists
from evaluators.datasets.description import FILE, Description, described, read_description
from evaluators.datasets.evidence import masks_deciding, reading_of
from evaluators.datasets.files import (
    MOST_CLASSES,
    LabelledFiles,
    by_name,
    contents,
    polygon_files,
    quoted,
    wrong_layout,
)
from evaluators.datasets.label_maps import Doubts
from evaluators.datasets.photographs import Brightness
from evaluators.datasets.places import files_of, found_places, has_places
from evaluators.datasets.samples import Photographs, Seen, masks_seen, odd_brightness, photographs_seen
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split
    from evaluators.datasets.files import Pair

NAME = "folder"
LOOKS_FOR = ("images", "masks", "classes.txt or classes.csv", "or dataset.toml")
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


def has_classes_other_than(root: Path, count: int) -> bool:
    """Is there a class list of any kind, beside images and masks, that names another number of classes?"""
    if not has_places(root):
        return False
    try:
        found = class_list(root)
    except UserError:  # told where it is read
        return False
    names = [] if found is None else [row for row in found.rows if not row.ignored]
    return bool(names) and len(names) not in (count, count + 1)


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
        require_pairs(root, unread)
    listed = class_list(root)
    if listed is None:
        raise UserError(_no_class_list(root, every))
    reading = reading_of(root, listed.rows, masks_deciding(root, every, listed.rows))
    description = described(places.values | dict(reading.values), str(root))
    held_out = (f"no split was found: one image in {places.held_out} is held out",) if places.held_out else ()
    return Guess(
        description=description,
        doubts=reading.doubts,
        remarks=(*held_out, *listed.remarks, *reading.remarks),
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
    brightness = _brightness(description, seen)
    if brightness is not None:
        black = f", {brightness.black:g} is black" if brightness.black else ""
        remarks = (*remarks, f"photographs have more than 8 bits; {brightness.white:g} is white{black}")
    elif description.white is not None or description.black is not None:
        remarks = (*remarks, "photographs have 8 bits: white and black of the description change nothing")
    if seen.turned:
        remarks = (
            *remarks,
            f"{seen.turned} of {seen.looked_at} photographs looked at say how they are to be turned (EXIF), and are "
            "turned before their labels are laid over them: look at --preview",
        )
    is_described = (root / FILE).exists()
    where = str(root / FILE) if is_described else f"topformer-nas datasets describe {quoted(root)}"
    odd = odd_brightness(seen, brightness) if brightness is not None else ""
    cure = f"say black and white in {where}" if is_described else f"a dataset.toml says black and white: {where}"
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
        brightness=brightness,
        contrast=f"{odd}; {cure}" if odd else "",
        remarks=remarks,
    )


def _brightness(description: Description, seen: Photographs) -> Brightness | None:
    """What is black and white in deep photographs: as described, or else as they show. Raises `UserError` where one
    that is described leaves no room for the other."""
    own = seen.brightness
    if own is None:
        return None
    black = float(description.black or 0)
    white = own.white if description.white is None else float(description.white)
    if white <= black:
        raise UserError(
            f"black = {black:g} is not below what is white in these photographs, {white:g}; say white, too."
        )
    return Brightness(white, own.usual and own.white == white, black)


def _no_class_list(root: Path, pairs: list[Pair]) -> str:
    return (
        f"{root} has no classes.txt: write one with a class name a line, in the order of the mask values from 0 "
        f"({_values_seen(masks_seen(root, pairs[:_LOOKED_AT], MOST_CLASSES))}); or classes.csv with "
        f"name,red,green,blue for masks in colours; or a {FILE}, see: topformer-nas datasets layouts --example."
        f"{unread_lists(root)}"
    )


def _values_seen(seen: list[Seen]) -> str:
    if any(mask.used is None for mask in seen):
        return "these masks are in colours"
    values = sorted({value for mask in seen for value in mask.used or ()})
    if not values:
        return "no mask could be read"
    return f"values in the first {len(seen)} masks: {', '.join(map(str, values[:_LOOKED_AT]))}"


def require_pairs(root: Path, description: Description) -> None:
    """Raises `UserError` where nothing pairs, and why is known."""
    _require_masks(root, description)
    _require_one_mask_each(root, description)
    if polygons := polygon_files(root):
        raise UserError(polygons)


def _require_masks(root: Path, description: Description) -> None:
    """Raises `UserError` where nothing pairs because there are no files of any kind that label maps are."""
    for split in description.splits.train, description.splits.val:
        which = description.mask_files(split)
        if by_name(root, which) or not (root / which.folder).is_dir():
            continue
        raise UserError(
            f"{root}: no label maps in {which.folder} ({', '.join((*which.suffixes, *which.spare))}); found "
            f"{contents(root / which.folder)}. "
            f"{polygon_files(root) or 'Polygons and boxes have to be drawn as label maps first.'}"
        )


def _require_one_mask_each(root: Path, description: Description) -> None:
    """Raises `UserError` where nothing pairs because an image has several masks: one a class, or one an object."""
    for split in description.splits.train, description.splits.val:
        images = {name.rpartition("/")[2] for name in by_name(root, description.image_files(split))}
        masks = by_name(root, description.mask_files(split))
        names = Counter(name.rpartition("/")[2] for name in masks)
        parts = {name: sorted(path for one, path in masks.items() if one.rpartition("/")[2] == name) for name in names}
        several = next((paths for name, paths in parts.items() if name in images and len(paths) > 1), [])
        if not several:
            homes = Counter(name.rpartition("/")[0].rpartition("/")[2] for name in masks)
            home = next((name for name, count in homes.items() if name in images and count > 1), None)
            several = sorted(path for path in masks.values() if home and path.split("/")[-2] == home)
        if several:
            raise UserError(
                f"{root}: one image has several masks, such as {several[0]} and {several[1]}, one a class or an "
                "object; needed is one mask an image, whose values say the class. Put them together: 0 where there is "
                "none, 1 for the first class, 2 for the second, and so on, under the name of the image; and name the "
                "classes in a classes.txt, the background first."
            )

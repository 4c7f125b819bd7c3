"""What would a person write into the `dataset.toml` of a folder? The best reading, with a comment on each guess.

What fits in several ways is written as comments, a block for each way, so that nothing is read until somebody chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluators.datasets import IGNORE
from evaluators.datasets.class_lists import class_list, unread_lists
from evaluators.datasets.description import as_text, described
from evaluators.datasets.evidence import Reading, reading_of, unnamed
from evaluators.datasets.files import DataError, wrong_layout
from evaluators.datasets.folder import LOOKS_FOR, require_pairs
from evaluators.datasets.label_maps import DoubtError
from evaluators.datasets.places import AmbiguousError, files_of, found_places
from evaluators.datasets.samples import Seen, masks_seen, odd_brightness, photographs_seen

if TYPE_CHECKING:
    from evaluators.datasets.files import Pair

_WHOLE_FROM = 1000
_STAND_IN = {"classes": ["unknown"]}
_PLACES = {
    "images": "images and masks: found by the names of folders and files",
    "splits": "splits: by the names of folders or lists",
    "held_out": "no split was found: one image in so many, by a hash of its name, is for validation",
}


class Written(NamedTuple):
    """The text of a description, and in how many ways the folder can be read."""

    text: str
    ways: tuple[str, ...]
    """In words; one empty text where the reading is sure."""


class _Way(NamedTuple):
    says: str
    keys: Mapping[str, Any]
    """Of a description."""
    comments: Mapping[str, str]


def written(root: Path, progress: Callable[[int, int], None] | None = None) -> Written:
    """Every mask is read. Raises `UserError` where there are no images beside masks."""
    ways = _ways(root, progress)
    first, sure = ways[0].keys, not any(way.says for way in ways)
    common = {key for key, value in first.items() if all(key in way.keys and way.keys[key] == value for way in ways)}
    if not sure and len(ways) == 1:
        common -= {"classes", "threshold"}
    text = "# What this folder holds, written by topformer-nas from what it found. Change what is wrong.\n"
    text += _lines(ways[0], common)
    if not sure:
        fit = "1 reading fits, and nothing here says that it is meant" if len(ways) == 1 else ""
        fit = fit or f"{len(ways)} readings fit, and nothing here says which"
        text += f"\n# {fit}: until one is chosen, this folder is not read. "
        text += "Remove\n# the # before each line of the right one.\n"
    for number, way in enumerate(() if sure else ways, start=1):
        lines = "".join(as_text({key: value}) for key, value in way.keys.items() if key not in common)
        text += f"\n# Reading {number}: {way.says}.\n" + "".join(f"# {line}\n" for line in lines.splitlines())
    return Written(text, tuple(way.says for way in ways))


def _lines(way: _Way, keys: Container[str]) -> str:
    """Some keys of a way, each with what it was guessed from."""
    text = ""
    for key, value in way.keys.items():
        if key in keys:
            comment = way.comments.get(key) or _PLACES.get(key)
            text += (f"\n# {comment}\n" if comment else "") + as_text({key: value})
    return text


def _ways(root: Path, progress: Callable[[int, int], None] | None) -> list[_Way]:
    try:
        places = found_places(root)
    except AmbiguousError as error:
        return [
            way._replace(says=f"{says}; {way.says}" if way.says else says)
            for says, values in error.ways
            for way in _readings(root, values, progress)
        ]
    if places is None:
        raise wrong_layout(root, "a folder of images and masks", LOOKS_FOR)
    return _readings(root, places.values, progress)


def _readings(root: Path, places: Mapping[str, Any], progress: Callable[[int, int], None] | None) -> list[_Way]:
    """What masks mean once it is said where they are: one way, or several."""
    unread = described(dict(places) | _STAND_IN, str(root))
    pairs, _ = files_of(root, unread)
    every = [pair for part in pairs.values() for pair in part]
    if not every:
        require_pairs(root, unread)
    listed = class_list(root)
    rows = None if listed is None else listed.rows
    seen = masks_seen(root, every, len(rows or ()), most=len(every), progress=progress)
    extra, comments = _photographs(root, every)
    comments["classes"] = _shown(seen) + (
        "" if rows else "; there is no classes.txt: name the classes." + unread_lists(root)
    )
    try:
        readings = [("", reading_of(root, rows, seen) if rows else unnamed(root, seen))]
    except AmbiguousError as error:
        readings = [(says, Reading(values=values, doubts=None)) for says, values in error.ways]
    if not readings[0][0]:
        _require_no_doubt(root, every, {**places, **readings[0][1].values}, readings[0][1])
    found = []
    for says, reading in readings:
        values = dict(reading.values)
        own = dict(comments)
        if not any(IGNORE in (mask.used or ()) for mask in seen):  # should it come, somebody says what it is
            values["ignored"] = [one for one in values.get("ignored", ()) if one != IGNORE]
        if "threshold" in values:
            values.pop("ignored", None)
        if values.get("ignored"):
            own["ignored"] = "; ".join(reading.remarks) or "neither learnt nor scored"
        found.append(_Way(says, {**places, **values, **extra}, own))
    return found


def _require_no_doubt(root: Path, pairs: list[Pair], keys: Mapping[str, Any], reading: Reading) -> None:
    """Raises `DoubtError` for a mask that says otherwise than most: a description would hide it."""
    reader = described(keys, str(root)).reader(reading.doubts)
    for pair in pairs:
        try:
            reader(root / pair.labels)
        except DoubtError:
            raise
        except DataError:  # told by name when the data are checked
            continue


def _photographs(root: Path, pairs: list[Pair]) -> tuple[dict[str, Any], dict[str, str]]:
    seen = photographs_seen(root, pairs, most=len(pairs))
    if seen.brightness is None:
        return {}, {}
    if said := odd_brightness(seen, seen.brightness):
        keys = {"black": _short(math.floor, seen.whole[0]), "white": _short(math.ceil, seen.whole[1])}
        comment = f"photographs of more than 8 bits: without these two, {said}; they are the lowest and highest value"
        return keys, {"black": comment}
    white = _short(math.ceil, seen.brightness.white)
    return {"white": white}, {"white": "photographs of more than 8 bits: by the brightest, this is white"}


def _short(rounded: Callable[[float], int], value: float) -> float | int:
    """A whole number; of small ones, which may be fractions, the value itself."""
    return rounded(value) if float(value).is_integer() or abs(value) >= _WHOLE_FROM else value


def _shown(seen: list[Seen]) -> str:
    numbers = sorted({value for mask in seen for value in mask.used or ()})
    kinds = sorted({mask.kind for mask in seen})
    values = f"the values {', '.join(map(str, numbers[:20]))}{' and more' if len(numbers) > 20 else ''}"
    held = values if all(mask.used is not None for mask in seen) else "colours"
    return f"classes: {len(seen)} masks (mode {', '.join(kinds) or 'none'}) hold {held if seen else 'nothing'}"

"""Which classes does a folder name, and in which order? The lists that people and other tools write beside masks.

classes.txt             a class name a line, in the order of the mask values from 0; 255 is ignored
classes.csv             name,red,green,blue: likewise with colours, for pictures and for masks that show them
class_dict.csv          the same under the name that data sets in colours often have
labelmap.txt            CVAT: # label:color_rgb:parts:actions
labels.txt              as classes.txt
id2label.json           Hugging Face: {"0": "road", "1": "house"}; label2id.json and label_map.json say it in reverse
_classes.csv            Roboflow: Pixel Value, Class
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluators.datasets.description import IMAGE_SUFFIXES
from evaluators.datasets.evidence import Row
from evaluators.datasets.files import MOST_CLASSES, DataError, read_list
from evaluators.datasets.places import role_of
from topformer.errors import UserError
from topformer.reading import MIB, file_text, parse_json

if TYPE_CHECKING:
    from evaluators.datasets import Colour

_COLUMNS = ("name", "red", "green", "blue")
_SHORT = {"r": "red", "g": "green", "b": "blue"}
_NAME_COLUMNS = (
    "name",
    "class_name",
    "classname",
    "class name",
    "label_name",
    "label name",
    "category",
    "class",
    "label",
)
_NUMBER_COLUMNS = ("id", "value", "label", "index", "number", "class", "class_id", "train_id", "trainid", "pixel value")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NUMBER_FIRST = re.compile(r"(?P<number>\d{1,5})(?:\s*[:;,.=]\s*|\s+-?\s*)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)[\s:;,=]+(?P<number>\d{1,5})")
_HEADING = r"(?:id|index|value|label|number|nr|no)\s*[,;:\t]\s*\w+.*"
_NO_NAME = re.compile(rf"names\s*:.*|-\s+\S.*|[\[\]{{}}].*|{_HEADING}", re.IGNORECASE)
"""Lines of YAML or JSON, and a heading."""
_CVAT = re.compile(r"(?P<name>[^:]+):(?P<colour>\d{1,3},\d{1,3},\d{1,3}):[^:]*:[^:]*")
_UNREAD = (
    ("*.y*ml", "YAML"),
    ("_annotations.coco.json", "boxes and polygons of COCO"),
    ("_annotations.csv", "boxes"),
    ("obj.names", "boxes of YOLO"),
    ("*label*.json", "JSON of another form"),
    ("*label*.csv", "a table of another name"),
    ("*class*.csv", "a table of another name"),
    ("*class*.json", "JSON of another form"),
    ("*class*.txt", "a list of another name"),
    ("*label*.txt", "a list of another name"),
    ("codes.txt", "a list of another name"),
)
"""Files that may name classes and are not read, and what they are."""
_SHOWN = 4


class ClassList(NamedTuple):
    """The classes in their order, with what is ignored, and what is to be said of other lists."""

    rows: tuple[Row, ...]
    remarks: tuple[str, ...]


def has_class_list(root: Path) -> bool:
    """Is there a list that says of its own that the classes are a user's?"""
    return any((root / name).is_file() for name in ("classes.txt", "classes.csv"))


def class_list(root: Path) -> ClassList | None:
    """The first list of `_READERS` that is there; None without any. Raises `UserError`, also where another one names
    the same classes in another order."""
    there = [(path, read) for pattern, read in _READERS.items() for path in _files(root, pattern)]
    if not there:
        return None
    (path, read), *others = there
    rows = read(path)
    names = [row.name for row in rows]
    usual = path.parent == root and path.name in ("classes.txt", "classes.csv")
    remarks = [] if usual else [f"classes are read from {path.relative_to(root)}"]
    for other, read_other in others:
        try:
            further = [row.name for row in read_other(other)]
        except UserError as error:
            remarks.append(f"{other.name} is not used, since {path.name} is there: {error}")
            continue
        if names != further and sorted(names) == sorted(further):
            raise UserError(
                f"{root}: {path.name} and {other.name} name the same classes in another order, "
                f"{', '.join(names[:_SHOWN])} and {', '.join(further[:_SHOWN])}; keep the one that is right."
            )
        if names != further:
            remarks.append(f"{other.name} names other classes and is not used, since {path.name} is there")
    return ClassList(rows, tuple(remarks))


def unread_lists(root: Path) -> str:
    """A sentence with a blank before it that names what looks like a class list and is none; empty without any."""
    known = {path for pattern in _READERS for path in _files(root, pattern)}
    found: dict[Path, str] = {}
    for pattern, what in _UNREAD:
        for path in _files(root, pattern):
            found.setdefault(path, what)
    said = ", ".join(f"{path.relative_to(root)} ({what})" for path, what in found.items() if path not in known)
    return f" Found, but not read as a class list: {said}." if said else ""


def _files(root: Path, pattern: str) -> list[Path]:
    """Files in the folder, or in those of its splits, where Roboflow has them."""
    homes = [root, *(sorted(path for path in root.iterdir() if path.is_dir() and role_of(path.name) is not None))]
    found = [path for home in homes for path in sorted(home.glob(pattern)) if path.is_file()]
    return found[:1] if pattern == "_classes.csv" else [path for path in found if path.parent == root]


def _names(path: Path) -> tuple[Row, ...]:
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
        as_rows = numbers == list(range(len(lines)))
        apart = path.name != "classes.txt" or all({"\t", ";"} & set(line) for line in lines)
        if len(numbers) == len(lines) and (apart or not as_rows):
            return _distinct(tuple(Row(match["name"], None, int(match["number"])) for match in found if match), path)
    return _distinct(tuple(Row(line, None) for line in lines), path)


def _table(path: Path) -> tuple[Row, ...]:
    """Rows of a table with columns for a name, red, green and blue, and perhaps for a number."""
    rows = _columns(path, _COLUMNS)
    known: list[Row] = []
    for number, row in enumerate(rows, start=1):
        name, *parts = (row[column] for column in _COLUMNS)
        if not name or not all(_is_byte(part) for part in parts):
            raise UserError(
                f"{path}, class {number}: needed are a name and three numbers from 0 to 255, not "
                f"{','.join((name, *parts))!r}."
            )
        said = next((row[column] for column in row if column in _NUMBER_COLUMNS), "")
        known.append(Row(name, _colour(parts), int(said) if said.isascii() and said.isdigit() else None))
    return _coloured(tuple(known), path)


def _pixel_values(path: Path) -> tuple[Row, ...]:
    """Rows of a table with a column for a value and one for a class."""
    rows = _columns(path, ("pixel value", "name"))
    numbers = [row["pixel value"] for row in rows]
    if not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
        raise UserError(f"{path}: a pixel value is no whole number.")
    ordered = sorted(rows, key=lambda row: int(row["pixel value"]))
    return _distinct(tuple(Row(row["name"], None, int(row["pixel value"])) for row in ordered), path)


def _columns(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table by its headings in small letters, whatever separates them. Raises `UserError`."""
    lines = read_list(path)
    heading = lines[0] if lines else ""
    for separator in _SEPARATORS:
        names = [
            _SHORT.get(word, word) for word in (part.strip().strip('"').lower() for part in heading.split(separator))
        ]
        if "name" not in names and (named := next((one for one in _NAME_COLUMNS if one in names), None)):
            names[names.index(named)] = "name"
        if all(column in names for column in wanted) and len(set(names)) == len(names):
            break
    else:
        kinds = ", ".join(_SEPARATORS.values())
        raise UserError(
            f"{path} must begin with the line {','.join(wanted)} and have a line per class (separated by {kinds}); it "
            f"begins with {heading[:100]!r}."
        )
    try:
        found = list(csv.reader(lines[1:], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{path} is no table of {','.join(wanted)} ({error}).") from None
    if not found:
        raise UserError(f"{path} must begin with the line {','.join(wanted)} and have a line per class.")
    for number, row in enumerate(found, start=2):
        if len(row) > len(names) and any(row[len(names) :]):
            raise UserError(
                f"{path}, line {number}: {len(row)} columns where the first line has {len(names)}; put names with a "
                f"{separator!r} into quotation marks."
            )
    return [dict(zip(names, (part.strip() for part in (*row, *[""] * len(names))), strict=False)) for row in found]


def _cvat(path: Path) -> tuple[Row, ...]:
    """Rows of CVAT: name:red,green,blue:parts:actions."""
    lines = [line for line in read_list(path) if not line.startswith("#")]
    known: list[Row] = []
    for line in lines:
        match = _CVAT.fullmatch(line)
        if match is None or not all(_is_byte(part) for part in match["colour"].split(",")):
            raise UserError(f"{path}: {line[:100]!r} is not label:red,green,blue:parts:actions, as CVAT writes it.")
        known.append(Row(match["name"].strip(), _colour(match["colour"].split(","))))
    return _coloured(tuple(known), path)


def _json(path: Path) -> tuple[Row, ...]:
    """Rows of an object of numbers and names, in whichever direction, or of a list of names."""
    found = parse_json(file_text(path, "the class list", most_bytes=MIB), str(path))
    found = found.get("id2label", found) if isinstance(found, dict) else found
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return _distinct(tuple(Row(name.strip(), None) for name in found), path)
    rows = _by_number(found) if isinstance(found, dict) else []
    if not rows:
        raise UserError(f'{path} is no list of classes: needed is {{"0": "road", "1": "house"}}, or ["road", "house"].')
    return _distinct(tuple(sorted(rows, key=lambda row: row.number or 0)), path)


def _by_number(found: Mapping[str, Any]) -> list[Row]:
    """None where it is something else than numbers and names, or names twice a number."""
    pairs = [(key, value) for key, value in found.items() if isinstance(value, str) and _is_number(key)]
    pairs = pairs or [(str(value), key) for key, value in found.items() if type(value) is int and value >= 0]
    sure = len(pairs) == len(found) and len({int(number) for number, _ in pairs}) == len(pairs)
    return [Row(name.strip(), None, int(number)) for number, name in pairs] if sure else []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6


def _is_byte(part: str) -> bool:
    return _is_number(part.strip()) and int(part) <= 255


def _colour(parts: list[str]) -> Colour:
    red, green, blue = map(int, parts)
    return red, green, blue


def _coloured(rows: tuple[Row, ...], path: Path) -> tuple[Row, ...]:
    if len({row.colour for row in rows}) < len(rows):
        raise UserError(f"{path}: two rows have one colour; masks could not tell them apart.")
    return _distinct(rows, path)


def _distinct(rows: tuple[Row, ...], path: Path) -> tuple[Row, ...]:
    names = [row.name for row in rows if not row.ignored]
    if not 1 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{path} must name 1 to {MOST_CLASSES} classes, not {len(names)}.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} names {twice!r} twice.")
    if file := next((name for name in names if name.lower().endswith(IMAGE_SUFFIXES)), None):
        raise UserError(f"{path} is no list of classes: {file[:100]!r} is the name of a file.")
    if "" in names:
        raise UserError(f"{path} has a class without a name.")
    return rows


_READERS: Mapping[str, Callable[[Path], tuple[Row, ...]]] = {
    "classes.csv": _table,
    "classes.txt": _names,
    "class_dict.csv": _table,
    "labelmap.txt": _cvat,
    "labels.txt": _names,
    "id2label.json": _json,
    "label2id.json": _json,
    "label_map.json": _json,
    "_classes.csv": _pixel_values,
}
"""By file name; the first that is there is used."""

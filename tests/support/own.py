"""Folders of a user's own in every shape that people bring, drawn at random, with the labels that were meant."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluators.datasets.named import dataset_named
from tests.support.trees import IGNORED, Pixels, save_lines
from topformer import UserError

SIZE = (12, 16)
LAYOUTS = (
    ("images/{split}/{name}", "masks/{split}/{name}"),
    ("{split}/images/{name}", "{split}/masks/{name}"),
    ("img_dir/{split}/{name}", "ann_dir/{split}/{name}"),
    ("images/{split}/{name}", "labels/{split}/{name}"),
    ("images/{split}/{name}", "annotations/{split}/{name}"),
    ("{split}_images/{name}", "{split}_masks/{name}"),
    ("images/{split}/{name}", "masks/{name}"),
    ("images/{name}", "masks/{name}"),
    ("JPEGImages/{name}", "SegmentationClass/{name}"),
)
SPLITS = (
    ("train", "val"),
    ("training", "validation"),
    ("train", "valid"),
    ("Train", "Val"),
    ("trn", "dev"),
    ("training", "test"),
)
HOMES = ("", "splits/", "ImageSets/Segmentation/")
SUFFIXES = ("", "_mask", "_gtFine_labelTrainIds", "-seg")
Stored = Callable[[Path, Pixels], None]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a person has and means."""

    class_names: tuple[str, ...]
    labels: Mapping[str, Pixels]
    """By name of the image."""
    splits: Mapping[str, tuple[str, ...]]
    """Names of train and val; empty where none are told apart."""
    described: bool
    """Is there a dataset.toml, by which it can be read for sure?"""


def save(
    path: Path, values: NDArray[Any], mode: str, palette: Mapping[int, tuple[int, int, int]] | None = None
) -> None:
    """Numbers (H, W) as a file of a Pillow mode, or as an array for `npy`; of colours (H, W, 3) as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match mode:
        case "npy":
            np.save(path.with_suffix(".npy"), values)
        case "P":
            image = Image.fromarray(values.astype(np.uint8)).convert("L")
            table = {number: (number, number, number) for number in range(256)} | dict(palette or {})
            image.putpalette([part for number in range(256) for part in table[number]])
            image.save(path)
        case "1":
            Image.fromarray((values * 255).astype(np.uint8)).convert("1").save(path)
        case "I;16":
            Image.fromarray(values.astype(np.uint16)).save(path)
        case "F":
            Image.fromarray(values.astype(np.float32)).save(path.with_suffix(".tif"))
        case "LA":
            Image.fromarray(values.astype(np.uint8)).convert("LA").save(path)
        case "RGB":
            grey = values if values.ndim == 3 else np.dstack([values] * 3)
            Image.fromarray(grey.astype(np.uint8)).save(path)
        case "GIF":
            Image.fromarray(values.astype(np.uint8)).save(path.with_suffix(".gif"))
        case "JPEG":
            Image.fromarray(values.astype(np.uint8)).save(path.with_suffix(".jpg"))
        case _:
            Image.fromarray(values.astype(np.uint8)).save(path)


def photo(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def labels_of(number: int, labels: list[int]) -> Pixels:
    """(H, W): each of the labels in a stripe of its own, in an order that the number draws."""
    order = np.random.default_rng(number).permutation(labels)
    columns = np.arange(SIZE[1]) * len(order) // SIZE[1]
    return np.tile(order[columns], (SIZE[0], 1)).astype(np.uint8)


def colour_masks(labels: Pixels, colours: list[tuple[int, int, int]], ignored: tuple[int, int, int]) -> Pixels:
    table = np.full((256, 3), ignored, np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def draw(root: Path, seed: int) -> Drawn:
    """A folder of one seed. Nothing is drawn that has no meaning: values are row numbers, or colours of the table, or
    as a description says, or what people do otherwise (the object as 255, values from 1) in masks that show it."""
    rng = random.Random(seed)
    count = rng.choice((1, 2, 2, 2, 3, 3, 4, 6))
    names = tuple(rng.sample(("background", "road", "house", "tree", "car", "lesion", "_background_", "sky"), count))
    images, masks = rng.choice(LAYOUTS)
    splits = rng.choice(SPLITS)
    every = {part: [f"{part}-{number}" for number in range(rng.randint(2, 4))] for part in ("a", "b")}
    placed = dict(zip(every, splits, strict=True))
    has_void = rng.random() < 0.4
    meant = _meant(rng, every, count, has_void)
    suffix = rng.choice((*("",) * 4, *SUFFIXES))
    image_suffix = rng.choice((".jpg", ".png"))
    listed = "{split}" not in images
    lists = rng.random() < 0.7
    for part, below in every.items():
        for number, name in enumerate(below):
            photo(root / (images.format(split=placed[part], name=name) + image_suffix), seed * 100 + number)
        if listed and lists:
            home = HOMES[seed % len(HOMES)]
            save_lines(root / f"{home}{placed[part]}.txt", _lines(rng, below, images, masks + suffix, image_suffix))
    where = {
        name: root / (masks.format(split=placed[part], name=name) + suffix + ".png")
        for part, below in every.items()
        for name in below
    }
    described = rng.random() < 0.25
    if described:
        _described(rng, root, names, meant, where, images, masks + suffix, splits, lists if listed else None, seed)
    else:
        _undescribed(rng, root, names, meant, where)
    known = {"train": tuple(every["a"]), "val": tuple(every["b"])}
    told_apart = not listed or lists
    return Drawn(
        class_names=names, labels=meant, splits=known if told_apart else {}, described=described and splits[1] != "test"
    )


def _meant(rng: random.Random, every: Mapping[str, list[str]], count: int, has_void: bool) -> dict[str, Pixels]:
    few = rng.random() < 0.5
    found = {}
    for number, name in enumerate(name for below in every.values() for name in below):
        labels = list(range(count)) if not few else rng.sample(range(count), rng.randint(1, count))
        found[name] = labels_of(number, [*labels, *([IGNORED] if has_void and rng.random() < 0.8 else [])])
    return found


def _lines(rng: random.Random, names: list[str], images: str, masks: str, suffix: str) -> list[str]:
    style = rng.choice(("name", "file", "path", "both"))
    shown = {
        "name": "{name}",
        "file": "{name}" + suffix,
        "path": images + suffix,
        "both": f"{images}{suffix} {masks}.png",
    }[style]
    return [shown.format(name=name) for name in names]


def _described(
    rng: random.Random,
    root: Path,
    names: tuple[str, ...],
    meant: Mapping[str, Pixels],
    where: Mapping[str, Path],
    images: str,
    masks: str,
    splits: tuple[str, str],
    lists: bool | None,
    seed: int,
) -> None:
    by_colour = rng.random() < 0.4
    numbers = rng.sample(range(256), len(names) + 2)
    colours = [(7 * v % 256, 11 * v % 256, v) for v in numbers]
    mode = rng.choice(("L", "P", "LA", "RGB")) if not by_colour else rng.choice(("RGB", "P"))
    void = numbers[-1]
    table = np.full(256, void)
    table[: len(names)] = numbers[: len(names)]
    for name, labels in meant.items():
        values = table[labels]
        if by_colour and mode == "RGB":
            save(where[name], colour_masks(labels, colours[: len(names)], colours[-1]), mode)
        elif by_colour:
            order = rng.sample(range(len(names) + 1), len(names) + 1)
            shuffled = np.full(256, order[-1])
            shuffled[: len(names)] = order[:-1]
            shown = [*colours[: len(names)], colours[-1]]
            save(where[name], shuffled[labels], mode, {order[i]: shown[i] for i in range(len(order))})
        else:
            save(where[name], values, mode)
    what = [f"colour = {list(c)}" if by_colour else f"value = {v}" for v, c in zip(numbers, colours, strict=True)]
    classes = ", ".join(f'{{ name = "{n}", {w} }}' for n, w in zip(names, what, strict=False))
    ignored = [list(c) for c in colours[-2:]] if by_colour else numbers[-2:]
    lines = [f'images = "{images}.*"', f'masks = "{masks}.png"', f"classes = [{classes}]", f"ignored = {ignored}"]
    if lists is not False:
        lines.append(f'splits = {{ train = "{splits[0]}", val = "{splits[1]}" }}')
    if lists is True:
        lines.append(f'lists = "{HOMES[seed % len(HOMES)]}{{split}}.txt"')
    if lists is False:
        lines.append("held_out = 10")
    save_lines(root / "dataset.toml", lines)


def _undescribed(
    rng: random.Random, root: Path, names: tuple[str, ...], meant: Mapping[str, Pixels], where: Mapping[str, Path]
) -> None:
    """The class list and the masks: by number, by colour, or as only a person knows."""
    ignored_row = rng.choice((None, None, None, rng.randint(0, len(names))))
    rows: list[str] = list(names)
    if ignored_row is not None:
        rows.insert(ignored_row, rng.choice(("ignore", "Ignore", "__ignore__", "ignored")))
    numbers = [number for number in range(len(rows)) if number != ignored_row]
    colours = _colours(rng, len(rows))
    has_table = rng.random() < 0.5
    if has_table:
        save_lines(
            root / "classes.csv",
            ["name,red,green,blue", *(f"{n},{r},{g},{b}" for n, (r, g, b) in zip(rows, colours, strict=True))],
        )
    else:
        save_lines(root / "classes.txt", rows)
    by_colour = has_table and rng.random() < 0.6 and (ignored_row is not None or not _has_void(meant))
    habit = rng.choice(("rows", "rows", "rows", "rows", "white", "mixed", "from one"))
    modes = rng.choice(
        (("L",), ("P",), ("I;16",), ("F",), ("LA",), ("RGB",), ("npy",), ("GIF",), ("JPEG",), ("L", "P"), ("1",))
    )
    all_seen = all(len(np.unique(labels[labels != IGNORED])) == len(names) for labels in meant.values())
    from_one = habit == "from one" and all_seen
    occurs = {int(label) for labels in meant.values() for label in np.unique(labels)} >= set(range(len(names)))
    for name, labels in meant.items():
        mode = rng.choice(modes)
        if by_colour:
            known = [colours[number] for number in numbers]
            void = colours[ignored_row] if ignored_row is not None else (0, 0, 0)
            _save_colours(rng, where[name], labels, known, void)
            continue
        void_number = ignored_row if ignored_row is not None and rng.random() < 0.5 else IGNORED
        table = np.full(256, void_number)
        table[: len(numbers)] = numbers
        if from_one:
            table[: len(numbers)] += 1
        white = habit == "white" and (len(names) <= 2 or occurs)
        if white or (len(names) <= 2 and habit == "mixed"):
            labels[labels == IGNORED] = 0  # where 255 is the last class, nothing is ignored
            if white or rng.random() < 0.5:
                table[len(names) - 1] = IGNORED
        if mode == "1" and table[labels].max() > 1:
            mode = "L"
        palette = {number: colours[number % len(colours)] for number in range(len(rows))} if has_table else None
        save(where[name], table[labels], mode, palette if mode == "P" and rng.random() < 0.5 else None)


def _save_colours(
    rng: random.Random, path: Path, labels: Pixels, colours: list[tuple[int, int, int]], void: tuple[int, int, int]
) -> None:
    shown = [*colours, void]
    greys = all(len(set(colour)) == 1 for colour in shown)
    kind = rng.choice(("RGB", "P", "L" if greys else "P"))
    picture = colour_masks(labels, colours, void)
    if kind == "RGB":
        save(path, picture, "RGB")
    elif kind == "L":
        save(path, picture[..., 0], "L")
    else:
        order = rng.sample(range(len(shown)), len(shown))
        table = np.full(256, order[-1])
        table[: len(colours)] = order[:-1]
        save(path, table[labels], "P", {order[i]: shown[i] for i in range(len(shown))})


def _colours(rng: random.Random, count: int) -> list[tuple[int, int, int]]:
    """Distinct ones: any, or greys, or small greys that look like numbers."""
    kind = rng.choice(("any", "any", "grey", "small"))
    if kind == "any":
        known = [(0, 0, 0), (255, 255, 255)] + [tuple(rng.randrange(256) for _ in range(3)) for _ in range(40)]
        return [(c[0], c[1], c[2]) for c in rng.sample(sorted(set(known)), count)]
    values = rng.sample(range(256) if kind == "grey" else range(count), count)
    return [(value, value, value) for value in values]


def _has_void(meant: Mapping[str, Pixels]) -> bool:
    return any((labels == IGNORED).any() for labels in meant.values())


NAMES = ("a", "b", "c")
COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 0)]


def write(
    root: Path,
    values: list[np.ndarray],
    *,
    mode: str = "L",
    images: str = "images/{split}/{name}.jpg",
    masks: str = "masks/{split}/{name}.png",
    splits: tuple[str, str] = ("train", "val"),
    names: tuple[str, ...] = NAMES,
    table: list[tuple[int, int, int]] | None = None,
    palette: dict[int, tuple[int, int, int]] | None = None,
) -> Path:
    """Masks 0, 1, ... in turn of the first split, the last of them of the second."""
    for number, each in enumerate(values):
        place = {"split": splits[number == len(values) - 1], "name": f"n{number}"}
        photo(root / images.format(**place), number)
        save(root / masks.format(**place), each, mode, palette)
    if table is None:
        save_lines(root / "classes.txt", names)
    else:
        rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(names, table, strict=True)]
        save_lines(root / "classes.csv", ["name,red,green,blue", *rows])
    return root


def stripes(*values: int) -> np.ndarray:
    return np.tile(np.array(values)[np.arange(SIZE[1]) * len(values) // SIZE[1]], (SIZE[0], 1))


ABC = [stripes(0, 1, 2), stripes(2, 1), stripes(0, 2), stripes(1, 0, 2)]


def train_labels(root: Path) -> list[int]:
    """Labels that occur in the first training mask, from left to right."""
    return list(dict.fromkeys(dataset_named(str(root)).item("train", 0)[1][0].tolist()))


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as error:
        train_labels(root)
    assert "\n" not in str(error.value)
    return str(error.value)

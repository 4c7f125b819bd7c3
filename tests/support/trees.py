"""Small data sets in the benchmarks' own layouts: what lies on a disk after the downloads are unpacked, but tiny.

Every picture is a patchwork in which a class has one colour, `colour_of`, so that a network can learn it; equal
arguments give equal pixels. `patchwork` tells what labels an item has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Size = tuple[int, int]
"""(height, width) of the first image; every second one is 8 px higher and 3 px narrower."""
Pixels = NDArray[np.uint8]

SIZE = (48, 64)
IGNORED = 255
PATCH_PX = 16
ORIENTATION = 0x0112
"""The EXIF tag."""


def ade20k_tree(root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE) -> Path:
    """8-bit grey maps: 0 other, n + 1 for class n."""
    for part, split, count in (("training", "train", train), ("validation", "val", val)):
        for number in range(count):
            labels = patchwork(split, number, classes=range(150), size=size)
            name = f"ADE_{split}_{number + 1:08d}"
            save_photo(root / "images" / part / f"{name}.jpg", picture_of(labels))
            values = np.where(labels == IGNORED, 0, labels + 1).astype(np.uint8)
            save_grey(root / "annotations" / part / f"{name}.png", values)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1576\t11664\t1172\t1\twall\n")
    return root


CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes_tree(root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE) -> Path:
    """Cities, and beside the label ids colours, instances and polygons; what is ignored has id 4 (static)."""
    ids = np.full(256, 4, np.uint8)
    ids[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
    for split, count, cities in (("train", train, ("aachen", "zurich")), ("val", val, ("lindau",))):
        for number in range(count):
            labels = patchwork(split, number, classes=range(19), size=size)
            city = cities[number % len(cities)]
            name = f"{city}_{number:06d}_000019"
            save_plain(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture_of(labels))
            home = root / "gtFine" / split / city
            save_grey(home / f"{name}_gtFine_labelIds.png", ids[labels])
            save_plain(home / f"{name}_gtFine_color.png", np.dstack([picture_of(labels), np.full_like(labels, 255)]))
            save_deep(home / f"{name}_gtFine_instanceIds.png", ids[labels].astype(np.uint16) * 1000)
            polygons = {"imgHeight": labels.shape[0], "imgWidth": labels.shape[1], "objects": []}
            (home / f"{name}_gtFine_polygons.json").write_text(json.dumps(polygons))
    return root


def pascal_context_tree(root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE) -> Path:
    """VOCdevkit/VOC2010 with palette maps of 60 classes, more photographs than labels, and VOC's own lists."""
    home = root / "VOCdevkit" / "VOC2010"
    for split, count in (("train", train), ("val", val)):
        names = [f"{2008 if split == 'train' else 2009}_{number:06d}" for number in range(count)]
        for number, name in enumerate(names):
            labels = patchwork(split, number, classes=range(60), size=size)
            save_photo(home / "JPEGImages" / f"{name}.jpg", picture_of(labels))
            save_palette(home / "SegmentationClassContext" / f"{name}.png", labels)
        save_lines(home / "ImageSets" / "SegmentationContext" / f"{split}.txt", names)
        save_lines(home / "ImageSets" / "Segmentation" / f"{split}.txt", ["2007_000032"])
    save_photo(home / "JPEGImages" / "2007_000032.jpg", np.zeros((*size, 3), np.uint8))
    return root


COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_IDS = tuple(label for label in range(1, 183) if label not in COCO_UNUSED)


def coco_stuff_164k_tree(
    root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE, converted: bool = False
) -> Path:
    """Maps of label ids less one; `converted`: of class numbers in annotations/, beside the former."""
    values = np.full(256, IGNORED, np.uint8)
    values[:171] = np.array(COCO_IDS) - 1
    maps = "annotations" if converted else "stuffthingmaps"
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            labels = patchwork(split, number, classes=range(171), size=size)
            name = f"{number + 9:012d}"
            save_photo(root / "images" / f"{split}2017" / f"{name}.jpg", picture_of(labels))
            save_grey(root / maps / f"{split}2017" / f"{name}.png", values[labels])
            if converted:
                save_grey(root / maps / f"{split}2017" / f"{name}_labelTrainIds.png", labels)
    return root


def coco_stuff_10k_tree(
    root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE, converted: bool = False
) -> Path:
    """MATLAB maps of label ids with 0 unlabelled; `converted`: class + 1 in {images,annotations}/{train,test}2014."""
    ids = np.zeros(256, np.uint8)
    ids[:171] = COCO_IDS
    names: dict[str, list[str]] = {"train": [], "test": []}
    for part, split, count in (("train", "train", train), ("test", "val", val)):
        for number in range(count):
            labels = patchwork(split, number, classes=range(171), size=size)
            name = f"COCO_train2014_{number + (100 if part == 'test' else 0):012d}"
            names[part].append(name)
            below = f"{part}2014" if converted else "."
            save_photo(root / "images" / below / f"{name}.jpg", picture_of(labels))
            home = root / "annotations" / below
            home.mkdir(parents=True, exist_ok=True)
            if converted:
                train_ids = np.where(labels == IGNORED, 0, labels + 1).astype(np.uint8)
                save_grey(home / f"{name}_labelTrainIds.png", train_ids)
            else:
                region = {"regionMapStuff": np.ones(labels.shape, np.uint16), "captions": ["a patchwork"]}
                savemat(home / f"{name}.mat", {"S": ids[labels], "names": ["unlabeled", "person"], **region})
    if not converted:
        for part, listed in names.items():
            save_lines(root / "imageLists" / f"{part}.txt", listed)
        save_lines(root / "imageLists" / "all.txt", names["train"] + names["test"])
    return root


FOLDER_CLASSES = ("meadow", "road", "house")
FOLDER_COLOURS = ((0, 160, 0), (90, 90, 90), (200, 40, 0))


def folder_tree(
    root: Path, *, train: int = 3, val: int = 2, size: Size = SIZE, masks: str = "palette", split: str = "folders"
) -> Path:
    """A user's own: `masks` palette, grey, deep (16 bits) or colours; `split` folders, lists or none."""
    assert masks in ("palette", "grey", "deep", "colours")
    assert split in ("folders", "lists", "none")
    for part, count in (("train", train), ("val", val)):
        below = f"{part}/" if split == "folders" else ""
        names = [f"{part}-{number}" for number in range(count)]
        for number, name in enumerate(names):
            labels = patchwork(part, number, classes=range(len(FOLDER_CLASSES)), size=size)
            save_photo(root / "images" / f"{below}{name}.jpg", picture_of(labels), note=name)
            save_mask(root / "masks" / f"{below}{name}.png", labels, masks)
        if split == "lists":
            save_lines(root / f"{part}.txt", names)
    if masks == "colours":
        rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(FOLDER_CLASSES, FOLDER_COLOURS, strict=True)]
        save_lines(root / "classes.csv", ["name,red,green,blue", *rows, "ignore,255,255,255"])
    else:
        save_lines(root / "classes.txt", FOLDER_CLASSES)
    return root


def imagenet_tree(root: Path, *, classes: int = 3, train: int = 3, val: int = 1, size: Size = SIZE) -> Path:
    """`train` and `val` images a class; a class is a colour."""
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            for number in range(count):
                labels = np.full(_size(size, number), label, np.uint8)
                home = root / part / f"n{label + 1440764:08d}"
                save_photo(home / f"{home.name}_{number}.JPEG", picture_of(labels))
    return root


def patchwork(split: str, number: int, *, classes: Iterable[int], size: Size = SIZE) -> Pixels:
    """Labels (H, W) of an item: patches of 16 px, classes in an order of its own, and an ignored row on top."""
    height, width = _size(size, number)
    rows, columns = np.indices((height, width)) // PATCH_PX
    known = np.random.default_rng([number, split == "val"]).permutation(list(classes))
    labels: Pixels = known[(rows * (width // PATCH_PX + 1) + columns) % len(known)].astype(np.uint8)
    labels[0] = IGNORED
    return labels


def colour_of(label: int) -> tuple[int, int, int]:
    """Far from the other classes'; black is what is ignored."""
    return (0, 0, 0) if label == IGNORED else (40 + label * 67 % 211, 40 + label * 131 % 211, 40 + label * 29 % 211)


def picture_of(labels: Pixels) -> Pixels:
    """(H, W, 3)."""
    return np.array([colour_of(label) for label in range(256)], np.uint8)[labels]


def _size(size: Size, number: int) -> Size:
    return (size[0] + 8, size[1] - 3) if number % 2 else size


def save_photo(path: Path, picture: Pixels, *, orientation: int | None = None, note: str = "") -> None:
    """A JPEG; with an EXIF `orientation` the pixels are stored turned, so that they are upright once turned back. A
    `note` tells it from others of the same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        assert orientation == 6, "turned a quarter"
        picture = np.ascontiguousarray(np.rot90(picture))
        exif[ORIENTATION] = orientation
    Image.fromarray(picture).save(path, format="JPEG", quality=95, exif=exif, comment=note.encode())


def save_plain(path: Path, picture: Pixels) -> None:
    """A PNG in colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def save_grey(path: Path, values: Pixels) -> None:
    """8 bits a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_deep(path: Path, values: NDArray[np.uint16]) -> None:
    """16 bits a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_palette(path: Path, values: Pixels) -> None:
    """8 bits a pixel, with colours for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values).convert("L")
    image.putpalette([channel for label in range(256) for channel in colour_of(label)])
    image.save(path)


def save_mask(path: Path, labels: Pixels, kind: str) -> None:
    match kind:
        case "palette":
            save_palette(path, labels)
        case "grey":
            save_grey(path, labels)
        case "deep":
            save_deep(path, labels.astype(np.uint16))
        case "colours":
            colours = np.full((256, 3), 255, np.uint8)
            colours[: len(FOLDER_COLOURS)] = FOLDER_COLOURS
            save_plain(path, colours[labels])


def save_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def scribble_tree(root: Path, *, train: int = 6, val: int = 2, size: Size = SIZE) -> tuple[Pixels, ...]:
    """A user's own, twice as large, with strokes of 6 px and nothing else labelled, on rows and columns that a grid of
    every eighth pixel misses; returns the whole labels of the validation images."""
    whole = []
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            labels = patchwork(part, number, classes=range(len(FOLDER_CLASSES)), size=size)
            labels[0] = labels[1]
            labels = labels.repeat(2, axis=0).repeat(2, axis=1)
            rows, columns = np.indices(labels.shape)
            stroke = (rows % PATCH_PX == 7) & (columns % PATCH_PX >= 5) & (columns % PATCH_PX <= 10)
            save_photo(root / "images" / part / f"{part}-{number}.jpg", picture_of(labels), note=f"{part} {number}")
            save_grey(
                root / "masks" / part / f"{part}-{number}.png", np.where(stroke, labels, IGNORED).astype(np.uint8)
            )
            whole += [labels] if part == "val" else []
    save_lines(root / "classes.txt", FOLDER_CLASSES)
    return tuple(whole)

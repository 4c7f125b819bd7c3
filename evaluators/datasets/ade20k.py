"""ADE20K as the scene parsing challenge has it: 150 classes; label 0 is ignored, label n is class n - 1.

images/training/*.jpg       images/validation/*.jpg
annotations/training/*.png  annotations/validation/*.png
"""

from __future__ import annotations

import os
from pathlib import Path

from evaluators.datasets.files import (
    OTHER_IMAGES,
    LabelledFiles,
    Named,
    Pair,
    named_classes,
    pairs_of,
    wrong_layout,
)
from evaluators.datasets.label_maps import contiguous

NAME = "ade20k"
FOLDERS = ("images/training", "images/validation", "annotations/training", "annotations/validation")


def found_at(root: Path) -> bool:
    """Has a folder ADE20K's folders and names? Others call their folders alike, and have other classes."""
    return has_folders(root) and ((root / "objectInfo150.txt").is_file() or _has_own_names(root / FOLDERS[0]))


def has_folders(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


def opened(root: Path) -> LabelledFiles:
    """Raises `UserError` where the folders are not there."""
    if not has_folders(root):
        raise wrong_layout(root, "ADE20K (ADEChallengeData2016)", FOLDERS)
    names, palette = named_classes("ade20k")
    train, lone_train = _pairs(root, "training")
    val, lone_val = _pairs(root, "validation")
    return LabelledFiles(
        name=NAME,
        root=root,
        class_names=names,
        palette=palette,
        pairs={"train": train, "val": val},
        read_labels=contiguous(len(names), zero_is_ignored=True),
        unpaired=(*lone_train, *lone_val),
    )


def _pairs(root: Path, part: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    images = Named(f"images/{part}", (".jpg",), OTHER_IMAGES)
    return pairs_of(root, images, Named(f"annotations/{part}", (".png",)))


def _has_own_names(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.startswith("ADE_") for entry in entries)

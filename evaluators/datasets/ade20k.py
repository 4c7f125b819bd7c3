"""ADE20K as the scene parsing challenge has it: 150 classes; label 0 is ignored, label n is class n - 1.

images/training/*.jpg       images/validation/*.jpg
annotations/training/*.png  annotations/validation/*.png
"""

from __future__ import annotations

from pathlib import Path

from evaluators.datasets.files import LabelledFiles, Pair, contiguous, named_classes, paired, wrong_layout

NAME = "ade20k"
FOLDERS = ("images/training", "images/validation", "annotations/training", "annotations/validation")


def found_at(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


def opened(root: Path) -> LabelledFiles:
    """Raises `UserError` where the folders are not there."""
    if not found_at(root):
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
    return paired(root, f"images/{part}", f"annotations/{part}", image_suffixes=(".jpg",), label_suffix=".png")

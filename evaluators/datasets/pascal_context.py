"""Pascal Context in a VOC2010 folder: 60 classes with the background, or 59 where it is ignored.

    JPEGImages/*.jpg    SegmentationClassContext/*.png (0 background, 1 to 59)
    ImageSets/SegmentationContext/{train,val}.txt
The root is VOC2010 itself, or a folder that has it as VOCdevkit/VOC2010 or VOC2010.
"""

from __future__ import annotations

from pathlib import Path

from evaluators.datasets import IGNORE
from evaluators.datasets.files import (
    ILLEGAL,
    OTHER_IMAGES,
    LabelledFiles,
    Named,
    named_classes,
    pairs_of,
    read_list,
    wrong_layout,
)
from evaluators.datasets.label_maps import IndexedLabels

NAME = "pascal_context"
NAME_59 = "pascal_context_59"
FOLDERS = ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext")
_HOMES = (".", "VOC2010", "VOCdevkit/VOC2010")


def found_at(root: Path) -> bool:
    return _home(root) is not None


def opened(root: Path, *, background: bool = True) -> LabelledFiles:
    """60 classes, or without `background` 59. Raises `UserError` where the folders are not there."""
    home = _home(root)
    if home is None:
        raise wrong_layout(root, "Pascal Context (VOC2010)", FOLDERS)
    names, palette = named_classes("pascal_context")
    first = 0 if background else 1
    parts = {
        split: pairs_of(
            home,
            Named(FOLDERS[0], (".jpg",), OTHER_IMAGES),
            Named(FOLDERS[1], (".png",)),
            only=read_list(home / FOLDERS[2] / f"{split}.txt"),
        )
        for split in ("train", "val")
    }
    shown = "0 to 59" if background else "1 to 59, and 0 for the background, which is ignored"
    values = tuple(value - first if value >= first else IGNORE for value in range(len(names)))
    return LabelledFiles(
        name=NAME if background else NAME_59,
        root=home,
        class_names=names[first:],
        palette=palette[first:],
        pairs={"train": parts["train"][0], "val": parts["val"][0]},
        read_labels=IndexedLabels(
            classes=(*values, *(ILLEGAL,) * (IGNORE - len(values)), IGNORE),
            legal=f"{shown}; {IGNORE} for what is ignored",
        ),
        unpaired=(*parts["train"][1], *parts["val"][1]),
    )


def opened_59(root: Path) -> LabelledFiles:
    """Without the background."""
    return opened(root, background=False)


def _home(root: Path) -> Path | None:
    homes = (root / home for home in _HOMES)
    return next((home for home in homes if all((home / folder).is_dir() for folder in FOLDERS)), None)

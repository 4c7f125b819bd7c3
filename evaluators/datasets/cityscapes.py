"""Cityscapes with fine annotations: 19 classes; label ids become the train ids of the official evaluation.

leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
gtFine/{train,val}/CITY/*_gtFine_labelIds.png   (*_gtFine_color.png, *_instanceIds.png, *_polygons.json are not read)
"""

from __future__ import annotations

from pathlib import Path

from evaluators.datasets import IGNORE
from evaluators.datasets.files import LabelledFiles, named_classes, paired, wrong_layout
from evaluators.datasets.label_maps import IndexedLabels

NAME = "cityscapes"
FOLDERS = ("leftImg8bit/train", "leftImg8bit/val", "gtFine/train", "gtFine/val")
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Of the 19 classes, in order; the other ids up to 33 are not evaluated."""
_IDS = 34


def found_at(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


def opened(root: Path) -> LabelledFiles:
    """Raises `UserError` where the folders are not there."""
    if not found_at(root):
        raise wrong_layout(root, "Cityscapes", FOLDERS)
    names, palette = named_classes("cityscapes")
    parts = {
        split: paired(
            root,
            f"leftImg8bit/{split}",
            f"gtFine/{split}",
            image_suffixes=("_leftImg8bit.png",),
            label_suffix="_gtFine_labelIds.png",
        )
        for split in ("train", "val")
    }
    return LabelledFiles(
        name=NAME,
        root=root,
        class_names=names,
        palette=palette,
        pairs={"train": parts["train"][0], "val": parts["val"][0]},
        read_labels=IndexedLabels(
            classes=tuple(LABEL_IDS.index(i) if i in LABEL_IDS else IGNORE for i in range(_IDS)),
            legal=f"label ids 0 to {_IDS - 1}",
        ),
        unpaired=(*parts["train"][1], *parts["val"][1]),
    )

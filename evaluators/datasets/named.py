"""Which data set does a person mean? `scenes`, a folder whose layout is recognised, or LAYOUT:FOLDER."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evaluators.datasets import ade20k, cityscapes, coco_stuff, folder, imagenet, pascal_context
from evaluators.datasets.scenes import Scenes
from topformer.errors import UserError, unknown_name

if TYPE_CHECKING:
    from evaluators.datasets.files import LabelledFiles
    from evaluators.datasets.imagenet import ClassFolders

SCENES = "scenes"


class Layout(NamedTuple):
    """How a data set lies on a disk."""

    found_at: Callable[[Path], bool]
    opened: Callable[[Path], LabelledFiles]
    looks_for: str


LAYOUTS: Mapping[str, Layout] = {
    ade20k.NAME: Layout(ade20k.found_at, ade20k.opened, "images/training and annotations/training"),
    cityscapes.NAME: Layout(cityscapes.found_at, cityscapes.opened, "leftImg8bit/train and gtFine/train"),
    pascal_context.NAME: Layout(
        pascal_context.found_at, pascal_context.opened, "JPEGImages and SegmentationClassContext"
    ),
    pascal_context.NAME_59: Layout(
        pascal_context.found_at, pascal_context.opened_59, "the same, with the background ignored"
    ),
    coco_stuff.NAME_164K: Layout(
        coco_stuff.found_at_164k, coco_stuff.opened_164k, "images/train2017 and stuffthingmaps/train2017"
    ),
    coco_stuff.NAME_10K: Layout(coco_stuff.found_at_10k, coco_stuff.opened_10k, "images, annotations and imageLists"),
    folder.NAME: Layout(folder.found_at, folder.opened, "images and masks"),
}
"""In the order in which a folder is compared with them."""


def dataset_named(text: str) -> Scenes | LabelledFiles:
    """Raises `UserError` saying which layouts were looked for."""
    if text == SCENES:
        return Scenes()
    layout, root = _taken_apart(text)
    if layout == imagenet.NAME:
        raise UserError(f"{text} holds images for classification; segmentation needs label maps.")
    return LAYOUTS[layout].opened(root)


def any_dataset_named(text: str) -> Scenes | LabelledFiles | ClassFolders:
    """Likewise; images in a folder per class too."""
    if text != SCENES:
        layout, root = _taken_apart(text)
        if layout == imagenet.NAME:
            return imagenet.opened(root)
    return dataset_named(text)


def _taken_apart(text: str) -> tuple[str, Path]:
    """Layout and root."""
    name, colon, rest = text.partition(":")
    names = (*LAYOUTS, imagenet.NAME)
    if colon and not Path(text).exists():
        if name not in names:
            raise unknown_name("data set layout", name, names, advice=f"Give LAYOUT:FOLDER, a folder, or {SCENES}.")
        return name, Path(rest)
    root = Path(text)
    if not root.is_dir():
        raise UserError(f"no folder {text!r}; give the folder of a data set, LAYOUT:FOLDER, or {SCENES}.")
    found = [name for name, layout in LAYOUTS.items() if layout.found_at(root)]
    found += [imagenet.NAME] if imagenet.found_at(root) else []
    if found:
        return found[0], root
    there = sorted(f"{path.name}{'/' if path.is_dir() else ''}" for path in root.iterdir())[:8]
    looked_for = "; ".join(f"{name}: {layout.looks_for}" for name, layout in LAYOUTS.items())
    raise UserError(
        f"{text} is not laid out as any data set known here; looked for {looked_for}; {imagenet.NAME}: train/CLASS and "
        f"val/CLASS; found {', '.join(there) or 'nothing'}."
    )

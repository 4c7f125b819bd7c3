"""Which data set does a person mean? A folder whose layout is recognised, LAYOUT:FOLDER, `scenes`, scenes:CLASSES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evaluators.datasets import ade20k, cityscapes, coco_stuff, folder, imagenet, pascal_context
from evaluators.datasets.describing import written
from evaluators.datasets.description import FILE
from evaluators.datasets.files import contents, polygon_files
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.scene_drawing import LEAST_CLASSES, MOST_CLASSES
from evaluators.datasets.scenes import Scenes
from topformer.errors import UserError, unknown_name
from topformer.writing import write_whole

if TYPE_CHECKING:
    from evaluators.datasets.files import LabelledFiles

SCENES = "scenes"
_LEGAL = f"the folder of a data set, LAYOUT:FOLDER, {SCENES} or {SCENES}:CLASSES"
_LOOKED_INTO, _LEVELS = 50, 3
_SHOWN = 4


class Layout(NamedTuple):
    """How a data set lies on a disk."""

    title: str
    classes: int | None
    """None: as many as the folder has."""
    looks_for: tuple[str, ...]
    """Files and folders below the root."""
    found_at: Callable[[Path], bool]
    opened: Callable[[Path], LabelledFiles | ClassFolders]


LAYOUTS: Mapping[str, Layout] = {
    ade20k.NAME: Layout("ADE20K (ADEChallengeData2016)", 150, ade20k.FOLDERS, ade20k.found_at, ade20k.opened),
    cityscapes.NAME: Layout(
        "Cityscapes, fine annotations", 19, cityscapes.FOLDERS, cityscapes.found_at, cityscapes.opened
    ),
    pascal_context.NAME: Layout(
        "Pascal Context with the background",
        60,
        pascal_context.FOLDERS,
        pascal_context.found_at,
        pascal_context.opened,
    ),
    pascal_context.NAME_59: Layout(
        "Pascal Context, background ignored",
        59,
        pascal_context.FOLDERS,
        pascal_context.found_at,
        pascal_context.opened_59,
    ),
    coco_stuff.NAME_164K: Layout(
        "COCO-Stuff 164k", 171, coco_stuff.FOLDERS_164K, coco_stuff.found_at_164k, coco_stuff.opened_164k
    ),
    coco_stuff.NAME_10K: Layout(
        "COCO-Stuff 10k", 171, coco_stuff.FOLDERS_10K, coco_stuff.found_at_10k, coco_stuff.opened_10k
    ),
    folder.NAME: Layout("your own images and masks", None, folder.LOOKS_FOR, folder.found_at, folder.opened),
    imagenet.NAME: Layout(
        "images in a folder per class, for pretraining", None, imagenet.FOLDERS, imagenet.found_at, imagenet.opened
    ),
}
"""In the order in which a folder is compared with them: of the two Pascal Contexts the first is taken."""


_ALIKE: Mapping[str, Callable[[Path], bool]] = {
    ade20k.NAME: ade20k.has_folders,
    cityscapes.NAME: cityscapes.found_at,
    coco_stuff.NAME_164K: coco_stuff.has_folders_164k,
    coco_stuff.NAME_10K: coco_stuff.found_at_10k,
    pascal_context.NAME: pascal_context.found_at,
}
"""What a user's own folders may be called like."""


def dataset_named(text: str) -> Scenes | LabelledFiles:
    """Labelled images for segmentation. Raises `UserError` saying which layouts were looked for."""
    dataset = any_dataset_named(text)
    if isinstance(dataset, ClassFolders):
        raise UserError(f"{text} holds images of classes without label maps, which segmentation needs.")
    return dataset


def any_dataset_named(text: str) -> Scenes | LabelledFiles | ClassFolders:
    """Likewise; images in a folder per class too."""
    if text == SCENES:
        return Scenes()
    try:
        if text.startswith(f"{SCENES}:") and not Path(text).exists():
            return _scenes_of(text)
        layout, root = _taken_apart(text)
        return _opened(layout, root, chosen=root == Path(text))
    except OSError as error:
        raise UserError(f"{error.filename or text} cannot be read ({error.strerror or error}).") from None


def describe(
    root: Path, out: Path | None, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Write the description of a user's own folder; returns its path and the readings that fit, in words, one empty
    text where it is sure.

    Raises `UserError` where one is there already, and for the data sets that are read without.
    """
    target = out or root / FILE
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or name another file with --out.")
    layout, _ = _taken_apart(str(root))
    if layout != folder.NAME:
        raise UserError(f"{root} is laid out as {layout}, which is read without a description.")
    found = written(root, progress)
    try:
        write_whole(target, found.text.encode("utf-8"))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); name another file with --out.") from None
    return target, found.ways


def _opened(layout: str, root: Path, *, chosen: bool) -> LabelledFiles | ClassFolders:
    """A data set; `chosen`: the layout was found out, not said."""
    try:
        return LAYOUTS[layout].opened(root)
    except UserError as error:
        if chosen and layout == folder.NAME and (other := next((n for n, at in _ALIKE.items() if at(root)), None)):
            said = f"{error} Its folders are called as those of {other}; {other}:{root} reads that."
            raise UserError(said) from None
        raise


def _scenes_of(text: str) -> Scenes:
    """Of scenes:CLASSES."""
    count = text.partition(":")[2]
    if count not in map(str, range(LEAST_CLASSES, MOST_CLASSES + 1)):
        raise UserError(
            f"{text}: after {SCENES}: comes a number of classes from {LEAST_CLASSES} to {MOST_CLASSES}, "
            f"such as {SCENES}:{MOST_CLASSES}."
        )
    return Scenes(num_classes=int(count))


def _taken_apart(text: str) -> tuple[str, Path]:
    """Layout and root."""
    name, colon, rest = text.partition(":")
    if colon and not Path(text).exists():
        if name not in LAYOUTS:
            raise unknown_name("data set layout", name, LAYOUTS, advice=f"Give {_LEGAL}.")
        if not rest:
            raise UserError(f"{text} names a layout but no folder; give {name}:FOLDER.")
        return name, Path(rest)
    root = Path(text)
    if root.exists() and not root.is_dir():
        raise UserError(f"{text} is a file; give {_LEGAL}.")
    if not text or not root.is_dir():
        raise UserError(f"no folder {text!r}; give {_LEGAL}.")
    if found := _layout_of(root):
        return found, root
    raise UserError(f"{text} is not laid out as any data set known here; found {contents(root)}; {_advice(root)}")


def _layout_of(root: Path) -> str | None:
    if folder.is_own(root):
        return folder.NAME
    found = next((name for name, layout in LAYOUTS.items() if layout.found_at(root)), None)
    count = None if found is None else LAYOUTS[found].classes
    return folder.NAME if count is not None and folder.has_classes_other_than(root, count) else found


def _below(root: Path) -> list[Path]:
    """Folders below a folder, the nearest first, as many as are looked into; none inside of one that is laid out."""
    found, level = list[Path](), [root]
    for _ in range(_LEVELS):
        level = [path for one in level for path in sorted(one.iterdir()) if path.is_dir() and path.name[:1] != "."]
        level = level[: _LOOKED_INTO - len(found)]
        found += level
        level = [path for path in level if not _layout_of(path)]
    return found


def _advice_to_give(path: Path) -> str:
    """A folder that is laid out, with what it would be refused for."""
    layout = str(_layout_of(path))
    try:
        dataset = LAYOUTS[layout].opened(path)
    except UserError as error:
        return f"{path} is laid out as {layout}, and not read yet: {error}"
    if not dataset.length("train") + dataset.length("val"):
        return f"{path} is laid out as {layout}, but has no images with labels."
    return f"{path} is laid out as {layout}: give that."


def _advice(root: Path) -> str:
    inner = [path for path in _below(root) if _layout_of(path)]
    if len(inner) > 1:
        shown = ", ".join(map(str, inner[:_SHOWN])) + (f" and {len(inner) - _SHOWN} more" if inner[_SHOWN:] else "")
        return f"{len(inner)} folders below are laid out as data sets of their own, {shown}: give one of them."
    if inner:
        return _advice_to_give(inner[0])
    if polygons := polygon_files(root):
        return polygons
    looked_for = "; ".join(f"{name}: {', '.join(layout.looks_for)}" for name, layout in LAYOUTS.items())
    return (
        f"looked for {looked_for}. Where images and masks are may be said in a {FILE}, see: topformer-nas datasets "
        "layouts --example"
    )

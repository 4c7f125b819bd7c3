"""COCO-Stuff, 171 classes: the 164k images of 2017, or the first 10k.

164k:  images/{train2017,val2017}/*.jpg
       stuffthingmaps/{train2017,val2017}/*.png or annotations/{train2017,val2017}/*.png (label id - 1, 255 unlabelled)
10k:   images/*.jpg   annotations/*.mat (variable S: label ids, 0 unlabelled)   imageLists/{train,test}.txt
In both, maps converted to `*_labelTrainIds.png` are read too: classes 0 to 170 with 255 ignored (164k, below
annotations/), or 1 to 171 with 0 ignored (10k, in {images,annotations}/{train2014,test2014}).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluators.datasets import IGNORE
from evaluators.datasets.files import (
    ILLEGAL,
    OTHER_IMAGES,
    DataError,
    LabelledFiles,
    LabelReader,
    Named,
    named_classes,
    paired,
    pairs_of,
    read_list,
    require_file,
    wrong_layout,
)
from evaluators.datasets.label_maps import IndexedLabels, by_value, contiguous, illegal_values

if TYPE_CHECKING:
    from evaluators.datasets import Split
    from evaluators.datasets.files import Pair

NAME_164K = "coco_stuff_164k"
NAME_10K = "coco_stuff_10k"
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Of 1 to 182: things that were never labelled."""
LABEL_IDS = tuple(label for label in range(1, 183) if label not in UNUSED_IDS)
_CONVERTED = "_labelTrainIds.png"
FOLDERS_164K = ("images/{train2017,val2017}", "{stuffthingmaps or annotations}/{train2017,val2017}")
FOLDERS_10K = (
    "images",
    "annotations",
    "imageLists/{train,test}.txt (or {images,annotations}/{train2014,test2014})",
)


def found_at_164k(root: Path) -> bool:
    """Has a folder the folders and numbered names of COCO? Others call their folders alike, and have other classes."""
    return has_folders_164k(root) and any(name.isdigit() for name in _stems(root / "images" / "val2017"))


def has_folders_164k(root: Path) -> bool:
    return _maps_164k(root) is not None


def opened_164k(root: Path) -> LabelledFiles:
    """Raises `UserError` where the folders are not there."""
    maps = _maps_164k(root)
    if maps is None:
        raise wrong_layout(root, "COCO-Stuff 164k", FOLDERS_164K)
    converted = any((root / maps / "val2017").glob(f"*{_CONVERTED}"))
    reader: LabelReader = contiguous(len(LABEL_IDS), zero_is_ignored=False) if converted else _raw(offset=1)
    suffix = _CONVERTED if converted else ".png"
    parts = {
        split: pairs_of(
            root, Named(f"images/{split}2017", (".jpg",), OTHER_IMAGES), Named(f"{maps}/{split}2017", (suffix,))
        )
        for split in ("train", "val")
    }
    return _of(NAME_164K, root, parts["train"], parts["val"], reader)


def found_at_10k(root: Path) -> bool:
    return _is_original_10k(root) or _is_converted_10k(root)


def opened_10k(root: Path) -> LabelledFiles:
    """Raises `UserError` where the folders are not there."""
    if _is_original_10k(root):
        train, val = (
            paired(
                root,
                "images",
                "annotations",
                image_suffixes=(".jpg",),
                label_suffix=".mat",
                only=read_list(root / "imageLists" / f"{part}.txt"),
            )
            for part in ("train", "test")
        )
        return _of(NAME_10K, root, train, val, MatLabels())
    if not _is_converted_10k(root):
        raise wrong_layout(root, "COCO-Stuff 10k", FOLDERS_10K)
    train, val = (
        paired(root, f"images/{part}2014", f"annotations/{part}2014", image_suffixes=(".jpg",), label_suffix=_CONVERTED)
        for part in ("train", "test")
    )
    return _of(NAME_10K, root, train, val, contiguous(len(LABEL_IDS), zero_is_ignored=True))


@dataclass(frozen=True, slots=True)
class MatLabels:
    """MATLAB files with the label ids in a variable S."""

    legal: str = "label ids 1 to 182, and 0 for what is unlabelled"

    def __call__(self, path: Path) -> NDArray[np.int16]:
        return by_value(self._values(path), _raw(offset=0).classes)

    def illegal(self, path: Path) -> str:
        return illegal_values(self._values(path), _raw(offset=0).classes)

    def meanings(self, label: int) -> str:
        return _raw(offset=0).meanings(label)

    def _values(self, path: Path) -> NDArray[np.int64]:
        from scipy.io import loadmat  # noqa: PLC0415, only this layout waits for it

        require_file(path)
        try:
            ids = np.asarray(loadmat(path, variable_names=["S"])["S"])
        except MemoryError:
            raise
        except Exception as error:  # of a damaged file SciPy raises anything
            said = "it has no S" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise DataError(f"{path} holds no label map S ({said}); replace or remove it with its image.") from None
        if ids.ndim != 2 or ids.dtype.kind not in "uif" or not (ids == np.round(ids)).all():
            raise DataError(f"{path}: S is no map of whole numbers ({ids.dtype}, {ids.ndim} dimensions).")
        return ids.astype(np.int64)


def _of(
    name: str,
    root: Path,
    train: tuple[tuple[Pair, ...], tuple[str, ...]],
    val: tuple[tuple[Pair, ...], tuple[str, ...]],
    reader: LabelReader,
) -> LabelledFiles:
    names, palette = named_classes("coco_stuff")
    pairs: dict[Split, tuple[Pair, ...]] = {"train": train[0], "val": val[0]}
    return LabelledFiles(
        name=name,
        root=root,
        class_names=names,
        palette=palette,
        pairs=pairs,
        read_labels=reader,
        unpaired=(*train[1], *val[1]),
    )


def _raw(*, offset: int) -> IndexedLabels:
    """Label ids less `offset`; with an offset of 1, 255 stands for unlabelled, which was 0."""
    ids = [LABEL_IDS.index(i) if i in LABEL_IDS else ILLEGAL for i in range(1, 183)]
    if offset:
        gap = [ILLEGAL] * (IGNORE - len(ids))
        return IndexedLabels(classes=(*ids, *gap, IGNORE), legal="label ids less one, 0 to 181, and 255 for unlabelled")
    return IndexedLabels(classes=(IGNORE, *ids), legal="label ids 1 to 182, and 0 for what is unlabelled")


def _maps_164k(root: Path) -> str | None:
    wanted = ("train2017", "val2017")
    if not all((root / "images" / part).is_dir() for part in wanted):
        return None
    homes = ("stuffthingmaps", "annotations")
    return next((home for home in homes if all((root / home / part).is_dir() for part in wanted)), None)


def _stems(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (Path(entry.name).stem for entry in entries)


def _is_original_10k(root: Path) -> bool:
    lists = all((root / "imageLists" / f"{part}.txt").is_file() for part in ("train", "test"))
    return lists and (root / "images").is_dir() and (root / "annotations").is_dir()


def _is_converted_10k(root: Path) -> bool:
    return all((root / f / f"{part}2014").is_dir() for f in ("images", "annotations") for part in ("train", "test"))

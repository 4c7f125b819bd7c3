"""Which data let a short CPU training tell good architectures from bad? Procedural scenes whose labels need context.

What is drawn is in `scene_drawing`. An item depends on (seed, split, index, image size, number of classes) only. It is
drawn once, then read from a cache on disk, under $TOPFORMER_NAS_CACHE or ~/.cache/topformer-nas.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from evaluators.datasets import numbered_palette
from evaluators.datasets.scene_drawing import (
    COMMON_CLASSES,
    FAR_CLASSES,
    LEAST_CLASSES,
    MOST_CLASSES,
    Draws,
    draw_scene,
    names_and_labels,
)
from topformer.cache import CACHE_VARIABLE, cache_folder
from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Colour, Image, Labels, Split

GENERATOR_VERSION = 2
"""Raise it with every change of what is drawn."""
MOST_ELONGATED = 64
JUDGE_SEED = 0x6A756467
"""What is added to a seed, bit by bit, to give that of the scenes that judge."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Wide strips with 59 classes by default. Obeys `SegmentationDataset`; pickles as its parameters."""

    image_size: tuple[int, int] = (64, 576)
    num_classes: int = COMMON_CLASSES
    train_images: int = 3000
    val_images: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < MIN_IMAGE_PX:
            raise UserError(
                f"scenes must be at least {MIN_IMAGE_PX} px on each side, not {self.image_size}; "
                "give (height, width), such as (64, 576)."
            )
        if max(self.image_size) > MOST_ELONGATED * min(self.image_size):
            raise UserError(
                f"scenes can have one side at most {MOST_ELONGATED} times as long as the other, not {self.image_size}: "
                "the board would not fit in."
            )
        if not LEAST_CLASSES <= self.num_classes <= MOST_CLASSES:
            raise UserError(
                f"scenes can be told apart by {LEAST_CLASSES} to {MOST_CLASSES} classes, not {self.num_classes}."
            )
        for name, value in (("train_images", self.train_images), ("val_images", self.val_images)):
            if value < 1:
                raise UserError(f"scenes: {name} must be at least 1, not {value}.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"scenes: the seed must be from 0 to {2**32 - 1}, not {self.seed}.")

    @property
    def name(self) -> str:
        return "scenes"

    @property
    def class_names(self) -> tuple[str, ...]:
        return names_and_labels(self.num_classes)[0]

    @property
    def far_classes(self) -> tuple[int, ...]:
        """Those that nothing near tells apart; none are where fewer classes leave the board out."""
        return FAR_CLASSES if self.num_classes >= COMMON_CLASSES else ()

    @property
    def palette(self) -> tuple[Colour, ...]:
        return numbered_palette(self.num_classes)

    @property
    def fingerprint(self) -> str:
        """Of generator, parameters and the content of a few images as this machine draws them."""
        return content_key([GENERATOR_VERSION, self._parameters, _probe_checksum(self)])

    @property
    def test_fingerprint(self) -> str | None:
        """None: every seed draws another data set, which can judge."""
        return None

    @property
    def judging(self) -> Self:
        """Scenes of a seed of their own, by whose `val` nothing is chosen and on whose `train` nothing is trained."""
        return replace(self, seed=self.seed ^ JUDGE_SEED)

    def length(self, split: Split) -> int:
        return {"train": self.train_images, "val": self.val_images, "test": 0}[split]

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Image (H, W, 3) and labels (H, W), read-only; the first call for a split may draw the whole split."""
        if not 0 <= index < self.length(split):
            raise IndexError(f"{split} image {index} of {self.length(split)}")
        images, labels = _open_split(self, split, cache_folder())
        return images[index], labels[index]

    def at_size(self, image_size: tuple[int, int]) -> Self:
        return replace(self, image_size=image_size)

    @property
    def _parameters(self) -> dict[str, Any]:
        return {
            "image_size": list(self.image_size),
            "num_classes": self.num_classes,
            "train_images": self.train_images,
            "val_images": self.val_images,
            "seed": self.seed,
        }


def draw_item(dataset: Scenes, split: Split, index: int) -> tuple[Image, Labels]:
    """One item, without the cache."""
    image, labels = draw_scene(dataset.image_size, Draws(dataset.seed, 0 if split == "train" else 1, index))
    return image, names_and_labels(dataset.num_classes)[1][labels]


@cache
def _probe_checksum(dataset: Scenes) -> int:
    """Of the first items of both splits: notices a changed generator, or a NumPy that draws otherwise."""
    checksum = 0
    for split in ("train", "val"):
        for index in range(2):
            for array in draw_item(dataset, split, index):
                checksum = zlib.crc32(array.data, checksum)
    return checksum


@lru_cache(maxsize=8)
def _open_split(dataset: Scenes, split: Split, folder: Path) -> tuple[Image, Labels]:
    """Images (N, H, W, 3) and labels (N, H, W) as read-only maps of the cache, which is filled when needed.

    Any number of processes may do this at once: a split appears by one rename of a complete folder.
    """
    height, width = dataset.image_size
    target = folder / "scenes" / f"{dataset.fingerprint}-{split}-{height}x{width}"
    try:
        if (cached := _read_split(target, dataset, split)) is None:
            _discard(target)
            _write_split(target, dataset, split)
            cached = _read_split(target, dataset, split)
    except OSError as error:
        raise UserError(
            f"the data cache {str(folder)!r} cannot be used ({error}); "
            f"free some space or set {CACHE_VARIABLE} to another folder."
        ) from None
    if cached is None:
        raise UserError(f"{str(target)!r} is not readable right after it was written; is the disk sound?")
    return cached


def _read_split(target: Path, dataset: Scenes, split: Split) -> tuple[Image, Labels] | None:
    """None where there is no complete, undamaged copy."""
    count = dataset.length(split)
    arrays = []
    try:
        checksums = json.loads((target / "checksums.json").read_text())
        for name, shape in (("images", (count, *dataset.image_size, 3)), ("labels", (count, *dataset.image_size))):
            array = np.load(target / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != np.uint8 or zlib.crc32(array) != checksums[name]:
                return None
            arrays.append(array)
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError):  # absent, truncated or overwritten
        return None
    return arrays[0], arrays[1]


def _write_split(target: Path, dataset: Scenes, split: Split) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    count = dataset.length(split)
    checksums = {"images": 0, "labels": 0}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".drawing-", ignore_cleanup_errors=True) as folder:
        fresh = Path(folder) / "split"
        fresh.mkdir()
        images = np.lib.format.open_memmap(
            fresh / "images.npy", mode="w+", dtype=np.uint8, shape=(count, *dataset.image_size, 3)
        )
        labels = np.lib.format.open_memmap(
            fresh / "labels.npy", mode="w+", dtype=np.uint8, shape=(count, *dataset.image_size)
        )
        for index in range(count):
            images[index], labels[index] = draw_item(dataset, split, index)
            checksums["images"] = zlib.crc32(images[index], checksums["images"])
            checksums["labels"] = zlib.crc32(labels[index], checksums["labels"])
        images.flush()
        labels.flush()
        (fresh / "checksums.json").write_text(json.dumps(checksums))
        try:
            fresh.rename(target)
        except OSError:
            if not target.exists():  # else another process was first, with the same content
                raise


def _discard(target: Path) -> None:
    """Remove a damaged copy, by a rename first: another process must never see half of it."""
    if not target.exists():
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".damaged-", ignore_cleanup_errors=True) as folder:
        try:
            target.rename(Path(folder) / "split")
        except FileNotFoundError:  # another process discarded it
            return
        shutil.rmtree(Path(folder) / "split", ignore_errors=True)

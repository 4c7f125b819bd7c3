"""Images in a folder per class, as ImageNet has them: for pretraining the classification variant.

train/CLASS/*.JPEG   val/CLASS/*.JPEG   (or .jpg, .png; the classes are train's folders, sorted by name)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.datasets.files import digests, read_image, wrong_layout
from topformer.config import content_key
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Image, Split

NAME = "imagenet"
FOLDERS = ("train/CLASS", "val/CLASS")
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Images and the class of each."""

    name: str
    root: Path
    class_names: tuple[str, ...]
    images: Mapping[Split, tuple[tuple[str, int], ...]]
    """Path relative to the root, and class."""
    _keys: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """Of the content of every file; the first time every byte is read."""
        return self.fingerprinted()

    def fingerprinted(self, progress: Callable[[int, int], None] | None = None) -> str:
        """`fingerprint`, telling how many of how many files are read."""
        if "content" not in self._keys:
            paths = [path for split in sorted(self.images) for path, _ in self.images[split]]
            found = digests(self.root, paths, progress)
            splits = {split: [[found[path], label] for path, label in rows] for split, rows in self.images.items()}
            self._keys["content"] = content_key([self.name, list(self.class_names), splits])
        return self._keys["content"]

    def length(self, split: Split) -> int:
        return len(self.images[split])

    def item(self, split: Split, index: int) -> tuple[Image, int]:
        """uint8 (H, W, 3) of any size, and the class. Raises `DataError` naming the file."""
        path, label = self.images[split][index]
        return read_image(self.root / path), label

    def require_complete(self) -> None:
        """Raises `UserError` where a split is empty."""
        for split, rows in self.images.items():
            if not rows:
                raise UserError(f"{self.root} has no {split} images ({', '.join(SUFFIXES)}).")


def found_at(root: Path) -> bool:
    return all((root / part).is_dir() and _classes(root, part) for part in ("train", "val"))


def opened(root: Path) -> ClassFolders:
    """Raises `UserError` where the folders are not there, or `val` has a class that `train` has not."""
    if not found_at(root):
        raise wrong_layout(root, "a folder of images per class (ImageNet)", FOLDERS)
    names = _classes(root, "train")
    if strangers := sorted(set(_classes(root, "val")) - set(names)):
        raise UserError(f"{root}/val has the class {strangers[0]!r}, which {root}/train has not.")
    return ClassFolders(
        name=NAME,
        root=root,
        class_names=names,
        images={"train": _images(root, "train", names), "val": _images(root, "val", names)},
    )


def _classes(root: Path, part: str) -> tuple[str, ...]:
    with os.scandir(root / part) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _images(root: Path, part: str, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Sorted by class, then name; a million files, so no `Path` for each."""
    found: list[tuple[str, int]] = []
    for label, name in enumerate(names):
        if not (root / part / name).is_dir():  # a class without an image to validate on
            continue
        with os.scandir(root / part / name) as entries:
            names_there = (entry.name for entry in entries)
            files = sorted(file for file in names_there if file.lower().endswith(SUFFIXES) and file[:1] != ".")
        found += [(f"{part}/{name}/{file}", label) for file in files]
    return tuple(found)

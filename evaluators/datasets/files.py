"""How are labelled images on a disk read? Pairs of an image and a label map, whatever the layout they lie in.

One file per layout beside this one finds the pairs and says how a label map is read. May import NumPy, Pillow, SciPy.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from evaluators.datasets import IGNORE, Colour
from topformer.cache import cache_folder
from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels, Split

MOST_CLASSES = IGNORE
"""Labels are bytes, and one value is taken."""
ILLEGAL = -1
"""A value of a label map that stands for no class."""
FINGERPRINT_VERSION = 1


class DataError(UserError):
    """A file of a data set that is missing, unreadable or wrong."""


class Pair(NamedTuple):
    """Paths relative to the root, with slashes."""

    image: str
    labels: str


class LabelReader(Protocol):
    """Reads a label map. Must survive pickling."""

    def __call__(self, path: Path) -> NDArray[np.integer]:
        """(H, W): classes, `IGNORE`, and `ILLEGAL` where a value has no meaning. Raises `DataError`."""

    @property
    def legal(self) -> str:
        """What values a file may have, in words."""


@dataclass(frozen=True, kw_only=True)
class LabelledFiles:
    """A data set on disk; obeys `SegmentationDataset`."""

    name: str
    root: Path
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    pairs: Mapping[Split, tuple[Pair, ...]]
    read_labels: LabelReader
    unpaired: tuple[str, ...] = ()
    """Images without labels and labels without an image, relative to the root."""
    image_size: tuple[int, int] | None = None
    """(height, width) that items are resized to; None: as they are."""
    _keys: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.palette) == len(self.class_names), f"{len(self.palette)} colours, {self.num_classes} classes"
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise UserError(f"{self.root}: from 1 to {MOST_CLASSES} classes are possible, not {self.num_classes}.")

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
            paths = [path for split in sorted(self.pairs) for pair in self.pairs[split] for path in pair]
            found = digests(self.root, paths, progress)
            splits = {split: [[found[path] for path in pair] for pair in pairs] for split, pairs in self.pairs.items()}
            meaning = [self.name, list(self.class_names), self.read_labels.legal]
            self._keys["content"] = content_key([FINGERPRINT_VERSION, *meaning, splits])
        return content_key([self._keys["content"], self.image_size])

    def length(self, split: Split) -> int:
        return len(self.pairs.get(split, ()))

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Raises `DataError` naming the file."""
        pair = self.pairs[split][index]
        image = read_image(self.root / pair.image)
        labels = self.read_labels(self.root / pair.labels)
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{self.root / pair.image} has {_size(image.shape)} px, but its label map {pair.labels} has "
                f"{_size(labels.shape)}; they must be equal (height x width)."
            )
        if (labels == ILLEGAL).any():
            raise DataError(
                f"{self.root / pair.labels} has values that stand for no class; legal are {self.read_labels.legal}."
            )
        if self.image_size:
            return _resized(image, labels.astype(np.uint8), self.image_size)
        return image, labels.astype(np.uint8)

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """Every item (height, width) pixels large: images bilinear, labels nearest, proportions not kept."""
        if len(image_size) != 2 or min(image_size) < MIN_IMAGE_PX:
            raise UserError(f"images must be at least {MIN_IMAGE_PX} px on each side, not {image_size}.")
        return replace(self, image_size=image_size)

    def require_complete(self) -> None:
        """Raises `UserError` where a split is empty or a file has no partner."""
        for split in ("train", "val"):
            if not self.length(split):
                raise UserError(f"{self.root} has no {split} images with labels ({self.name}).")
        if self.unpaired:
            raise UserError(
                f"{self.root}: {len(self.unpaired)} files have no partner, the first is {self.unpaired[0]}; complete "
                f"or remove them. All are listed by: topformer-nas datasets check {self.root}"
            )


@dataclass(frozen=True, slots=True)
class IndexedLabels:
    """Label maps of one number a pixel: grey or palette images of 8 or 16 bits."""

    classes: tuple[int, ...]
    """By value: a class, `IGNORE` or `ILLEGAL`; larger values are illegal."""
    legal: str

    def __call__(self, path: Path) -> NDArray[np.int16]:
        with _opened(path) as image:
            if image.mode not in ("L", "P", "1", "I;16", "I"):
                raise DataError(
                    f"{path} is a picture in colours (mode {image.mode}), not a map of class numbers; legal are "
                    f"{self.legal}."
                )
            values = np.asarray(image)
        if values.dtype == bool:
            values = values.astype(np.uint8)
        table = np.append(np.array(self.classes, np.int16), np.int16(ILLEGAL))
        found: NDArray[np.int16] = table[np.clip(values, -1, len(self.classes))]
        return found


@dataclass(frozen=True, slots=True)
class ColouredLabels:
    """Label maps in colours."""

    colours: tuple[Colour, ...]
    """Of the classes, in order."""
    ignored: tuple[Colour, ...] = ()

    @property
    def legal(self) -> str:
        return f"the {len(self.colours)} colours of the classes" + (", or of what is ignored" if self.ignored else "")

    def __call__(self, path: Path) -> NDArray[np.int16]:
        with _opened(path) as image:
            values = np.asarray(image.convert("RGB")).astype(np.uint32)
        packed = (values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2]
        found = np.full(packed.shape, ILLEGAL, np.int16)
        known = [*enumerate(self.colours), *((IGNORE, colour) for colour in self.ignored)]
        for label, (red, green, blue) in known:
            found[packed == (red << 16) | (green << 8) | blue] = label
        return found


def read_image(path: Path) -> Image:
    """uint8 (H, W, 3) RGB, upright. Raises `DataError`."""
    with _opened(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


class _opened:  # noqa: N801, used like a function
    """An image, decoded; whatever Pillow says against it is a `DataError`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> PillowImage.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
                warnings.simplefilter("ignore", UserWarning)  # of odd metadata: the pixels are what counts
                self.image = PillowImage.open(self.path)
                self.image.load()
        except FileNotFoundError:
            raise DataError(f"{self.path} is not there any more; restore it.") from None
        except PillowImage.DecompressionBombError as error:
            raise DataError(f"{self.path} is too large ({error}).") from None
        except PillowImage.DecompressionBombWarning as error:
            raise DataError(f"{self.path} is too large ({error}).") from None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            what = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{self.path} cannot be read ({what}); replace or remove it with its partner.") from None
        return self.image

    def __exit__(self, *_: object) -> None:
        self.image.close()


def named_classes(name: str) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a benchmark's classes, in the order of its label numbers."""
    with (files("evaluators.datasets.classes") / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    colours = tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in rows)
    return tuple(row["name"] for row in rows), colours


def contiguous(num_classes: int, *, zero_is_ignored: bool) -> IndexedLabels:
    """Values are classes, or one more than the class with 0 ignored; 255 is ignored."""
    first = [IGNORE] if zero_is_ignored else []
    values = [*first, *range(num_classes)]
    gap = [ILLEGAL] * (IGNORE - len(values))
    least = "1" if zero_is_ignored else "0"
    return IndexedLabels(
        classes=(*values, *gap, IGNORE),
        legal=f"{least} to {len(values) - 1}, and {'0 and ' if zero_is_ignored else ''}{IGNORE} for what is ignored",
    )


def paired(
    root: Path,
    images: str,
    labels: str,
    *,
    image_suffixes: Sequence[str],
    label_suffix: str | Sequence[str],
    only: Iterable[str] | None = None,
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pairs by equal names below the folders `images` and `labels` of `root`, sorted, and what has no partner.

    A name is the path below the folder without the suffix. `only`: names of a split; the others are no concern.
    """
    label_suffixes = (label_suffix,) if isinstance(label_suffix, str) else tuple(label_suffix)
    found = [
        _by_name(root, folder, suffixes) for folder, suffixes in ((images, image_suffixes), (labels, label_suffixes))
    ]
    if only is not None:
        wanted = set(only)
        found = [{name: path for name, path in each.items() if name in wanted} for each in found]
        absent = sorted(wanted - found[0].keys() - found[1].keys())
    else:
        absent = []
    pictures, maps = found
    pairs = tuple(Pair(pictures[name], maps[name]) for name in sorted(pictures.keys() & maps.keys()))
    alone = sorted([pictures[name] for name in pictures.keys() - maps.keys()])
    alone += sorted([maps[name] for name in maps.keys() - pictures.keys()])
    return pairs, (*alone, *(f"{images}/{name}" for name in absent))


def _by_name(root: Path, folder: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Relative paths by name; hidden files are passed over."""
    found: dict[str, str] = {}
    base = root / folder
    for parent, folders, names in os.walk(base, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
            if suffix is None or name.startswith("."):
                continue
            path = Path(parent) / name
            key = path.relative_to(base).as_posix()[: -len(suffix)]
            if key in found:
                raise DataError(
                    f"{root}: {found[key]} and {path.relative_to(root)} have the same name; keep one of them."
                )
            found[key] = path.relative_to(root).as_posix()
    return found


def wrong_layout(root: Path, layout: str, wanted: Sequence[str]) -> UserError:
    """The sentence for a root that is not of a layout: what was looked for, what is there."""
    if not root.exists():
        return UserError(f"no folder {str(root)!r}.")
    if not root.is_dir():
        return UserError(f"{root} is a file, not the folder of a data set.")
    there = sorted(f"{path.name}{'/' if path.is_dir() else ''}" for path in root.iterdir() if path.name[:1] != ".")
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    return UserError(f"{root} is not laid out as {layout}: looked for {', '.join(wanted)}; found {shown or 'nothing'}.")


def _resized(image: Image, labels: Labels, size: tuple[int, int]) -> tuple[Image, Labels]:
    height, width = size
    picture = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    rows, columns = (
        ((np.arange(cells) + 0.5) * (pixels / cells)).astype(np.intp)
        for cells, pixels in zip(size, labels.shape, strict=True)
    )
    return np.asarray(picture), labels[rows[:, None], columns]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[:2]))


def digests(root: Path, paths: Sequence[str], progress: Callable[[int, int], None] | None) -> dict[str, str]:
    """Of every file's content; kept in the cache for files whose size and time of change stay."""
    kept = cache_folder() / "fingerprints" / f"{content_key(str(root.resolve()))}.json"
    known = _read_known(str(kept))
    fresh: dict[str, list[object]] = {}
    for done, path in enumerate(paths):
        try:
            stat = (root / path).stat()
            old = known.get(path)
            if old and old[:2] == [stat.st_size, stat.st_mtime_ns]:
                fresh[path] = old
            else:
                digest = blake2b((root / path).read_bytes(), digest_size=8).hexdigest()
                fresh[path] = [stat.st_size, stat.st_mtime_ns, digest]
        except OSError as error:
            raise DataError(f"{root / path} cannot be read ({error.strerror}).") from None
        if progress:
            progress(done + 1, len(paths))
    if fresh != known:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(fresh), encoding="utf-8")
        partial.replace(kept)
    return {path: str(entry[2]) for path, entry in fresh.items()}


def _read_known(path: str) -> dict[str, list[object]]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache: what cannot be read is made again
        return {}
    return content if isinstance(content, dict) else {}

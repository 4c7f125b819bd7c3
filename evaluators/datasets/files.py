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
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from evaluators.datasets import IGNORE, Colour
from topformer.cache import CACHE_VARIABLE, cache_folder
from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError
from topformer.reading import file_text

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels, Split

Result = TypeVar("Result")

NUMBERED_MODES = ("L", "P", "1", "I;16", "I;16B", "I")
"""Pillow's names for images of one whole number a pixel."""
MOST_CLASSES = IGNORE
"""Labels are bytes, and one value is taken."""
ILLEGAL = -1
"""A value of a label map that stands for no class."""
FINGERPRINT_VERSION = 1
_MOST_PIXELS = 2 * (PillowImage.MAX_IMAGE_PIXELS or 0)
_SHOWN = 8


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

    def illegal(self, path: Path) -> str:
        """The values of a file that stand for no class, in words."""

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

    def __getstate__(self) -> dict[str, Any]:
        """Whoever unpickles it may work in another folder, as Ray's processes do."""
        return {**self.__dict__, "root": self.root.absolute()}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """Of the content of every file; the first time every byte is read."""
        return self.fingerprinted()

    def fingerprinted(self, progress: Callable[[int, int], None] | None = None) -> str:
        """`fingerprint`, telling how many of how many files are read."""
        known: list[Split] = [split for split in self.pairs if split != "test"]
        return self._content_key("content", known, progress)

    @property
    def test_fingerprint(self) -> str | None:
        return self._content_key("test", ["test"]) if self.length("test") else None

    def _content_key(self, name: str, splits: list[Split], progress: Callable[[int, int], None] | None = None) -> str:
        """Of some splits; the first time their files are read."""
        if name not in self._keys:
            paths = [path for split in sorted(splits) for pair in self.pairs[split] for path in pair]
            found = digests(self.root, paths, progress)
            content = {split: [[found[path] for path in pair] for pair in self.pairs[split]] for split in splits}
            meaning = [self.name, list(self.class_names), repr(self.read_labels)]
            self._keys[name] = content_key([FINGERPRINT_VERSION, *meaning, content])
        return content_key([self._keys[name], self.image_size])

    def length(self, split: Split) -> int:
        return len(self.pairs.get(split, ()))

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Raises `DataError` naming the file."""
        pair = self.pairs[split][index]
        image = read_image(self.root / pair.image)
        labels = self.read_labels(self.root / pair.labels)
        if image.shape[:2] != labels.shape:
            raise DataError(f"{self.root / pair.labels} {other_size(labels.shape, image.shape)}.")
        if (labels == ILLEGAL).any():
            path = self.root / pair.labels
            raise DataError(
                f"{path} has values that stand for no class ({self.read_labels.illegal(path)}); legal are "
                f"{self.read_labels.legal}."
            )
        known = labels.astype(np.uint8)
        if self.image_size:
            image, known = _resized(image, known, self.image_size)
        known.setflags(write=False)
        return image, known

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """Every item (height, width) pixels large: images bilinear, labels nearest, proportions not kept."""
        if len(image_size) != 2 or min(image_size) < MIN_IMAGE_PX:
            raise UserError(f"{self.root}: images must be at least {MIN_IMAGE_PX} px high and wide, not {image_size}.")
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
        return by_value(self._values(path), self.classes)

    def illegal(self, path: Path) -> str:
        return illegal_values(self._values(path), self.classes)

    def _values(self, path: Path) -> NDArray[np.int64]:
        mode, values = decoded(path, _numbers)
        if mode not in NUMBERED_MODES:
            raise DataError(
                f"{path} is a picture in colours (mode {mode}), not a map of class numbers; legal are {self.legal}."
            )
        return values.astype(np.int64)


def by_value(values: NDArray[np.int64], classes: Sequence[int]) -> NDArray[np.int16]:
    """Class by value; what is beyond `classes` is `ILLEGAL`."""
    table = np.array([*classes, ILLEGAL], np.int16)
    found: NDArray[np.int16] = table[np.clip(values, -1, len(classes))]
    return found


def illegal_values(values: NDArray[np.int64], classes: Sequence[int]) -> str:
    """The first few, in words."""
    wrong = np.unique(values[by_value(values, classes) == ILLEGAL])
    return ", ".join(map(str, wrong[:_SHOWN])) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")


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
        return self._found(_packed(decoded(path, _rgb)))

    def illegal(self, path: Path) -> str:
        packed = _packed(decoded(path, _rgb))
        wrong = np.unique(packed[self._found(packed) == ILLEGAL]).tolist()
        shown = ", ".join(f"({value >> 16}, {value >> 8 & 255}, {value & 255})" for value in wrong[:_SHOWN])
        return shown + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")

    def _found(self, packed: NDArray[np.int64]) -> NDArray[np.int16]:
        found = np.full(packed.shape, ILLEGAL, np.int16)
        known = [*enumerate(self.colours), *((IGNORE, colour) for colour in self.ignored)]
        for label, (red, green, blue) in known:
            found[packed == (red << 16) | (green << 8) | blue] = label
        return found


def _packed(picture: Image) -> NDArray[np.int64]:
    values = picture.astype(np.int64)
    return (values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2]


def read_image(path: Path) -> Image:
    """uint8 (H, W, 3) RGB, upright. Raises `DataError`."""
    return decoded(path, _upright)


def decoded(path: Path, read: Callable[[PillowImage.Image], Result]) -> Result:
    """What `read` makes of an image; whatever is wrong with the file is a `DataError` that names it."""
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of sheer size: the pixels are what counts
            with PillowImage.open(path) as image:
                return read(image)
    except PillowImage.DecompressionBombError:
        raise DataError(f"{path} has over {_MOST_PIXELS:,} pixels; cut it into pieces.") from None
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file decoders raise anything
        what = "not an image" if isinstance(error, UnidentifiedImageError) else _reason(error)
        raise DataError(f"{path} cannot be read ({what}); replace or remove it with its partner.") from None


def require_file(path: Path) -> None:
    """Raise `DataError` for what is no file with content; opening a pipe would wait for ever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} is not there (any more), or a link to nothing; restore it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}).") from None
    if not S_ISREG(found.st_mode):
        raise DataError(f"{path} cannot be read (not a file); remove it with its partner.")
    if not found.st_size:
        raise DataError(f"{path} cannot be read (an empty file); replace or remove it with its partner.")


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def _upright(image: PillowImage.Image) -> Image:
    return _rgb(_with_8_bits(ImageOps.exif_transpose(image)))


def _with_8_bits(image: PillowImage.Image) -> PillowImage.Image:
    """Pillow would cut off what is above 255: of a grey image with 16 bits nearly all is white."""
    if image.mode.startswith("I;16"):
        return PillowImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 255)).all():
            raise ValueError(f"its values run from {values.min():g} to {values.max():g}, known are 0 to 255")
    return image


def _numbers(image: PillowImage.Image) -> tuple[str, NDArray[Any]]:
    return image.mode, np.asarray(image)


def _rgb(image: PillowImage.Image) -> Image:
    return np.asarray(image.convert("RGB"))


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
    """Relative paths by name; hidden files are passed over, links are followed once."""
    found: dict[str, str] = {}
    base = str(root / folder)
    entered: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(base, followlinks=True, onerror=_unlisted):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in entered:
            folders.clear()
            continue
        entered.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, base)
        for name in sorted(names):
            suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
            if suffix is None or name.startswith("."):
                continue
            path = name if below == "." else f"{below}/{name}"
            key = path[: -len(suffix)]
            if key in found:
                raise DataError(f"{root}: {found[key]} and {folder}/{path} have the same name; keep one of them.")
            found[key] = f"{folder}/{path}"
    return found


def _unlisted(error: OSError) -> None:
    """A folder that is not there holds nothing; one that may not be read is told."""
    if not isinstance(error, FileNotFoundError):
        raise DataError(f"the folder {error.filename} cannot be read ({error.strerror}).")


def read_list(path: Path) -> tuple[str, ...]:
    """Lines of a text file without blanks around them; empty ones are left out. Raises `DataError`."""
    try:
        lines = file_text(path, "the list").splitlines()
    except (OSError, UserError) as error:
        raise DataError(f"{path} cannot be read as a list of names ({_reason(error)}).") from None
    return tuple(line.strip() for line in lines if line.strip())


def wrong_layout(root: Path, layout: str, wanted: Sequence[str]) -> UserError:
    """The sentence for a root that is not of a layout: what was looked for, what is there."""
    if not root.exists():
        return UserError(f"no folder {str(root)!r}.")
    if not root.is_dir():
        return UserError(f"{root} is a file, not the folder of a data set.")
    return UserError(f"{root} is not laid out as {layout}: looked for {', '.join(wanted)}; found {contents(root)}.")


def contents(root: Path) -> str:
    """The first names in a folder, in words."""
    there = sorted(f"{path.name}{'/' if path.is_dir() else ''}" for path in root.iterdir() if path.name[:1] != ".")
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return ", ".join(there[:_SHOWN]) + more or "nothing"


def _resized(image: Image, labels: Labels, size: tuple[int, int]) -> tuple[Image, Labels]:
    height, width = size
    picture = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    rows, columns = (
        ((np.arange(cells) + 0.5) * (pixels / cells)).astype(np.intp)
        for cells, pixels in zip(size, labels.shape, strict=True)
    )
    return np.asarray(picture), labels[rows[:, None], columns]


def other_size(labels: Sequence[int], image: Sequence[int]) -> str:
    """What is wrong with a label map of another shape than its image's."""
    ours, theirs = (f"{shape[0]}x{shape[1]}" for shape in (labels, image))
    turned = " once turned as its EXIF data says" if tuple(labels[:2]) == (image[1], image[0]) else ""
    return f"has {ours} px (height x width), its image has {theirs}{turned}; they must be equal"


def digests(root: Path, paths: Sequence[str], progress: Callable[[int, int], None] | None) -> dict[str, str]:
    """Of every file's content; kept in the cache for files whose size and times of change stay.

    Stopped half-way, it keeps what it has read. Raises `DataError`.
    """
    kept = cache_folder() / "fingerprints" / f"{content_key(str(root.resolve()))}.json"
    known = _read_known(kept)
    fresh: dict[str, list[object]] = {}
    try:
        for done, path in enumerate(paths, start=1):
            fresh[path] = _digest(root / path, known.get(path))
            if progress:
                progress(done, len(paths))
    finally:
        if any(known.get(path) != entry for path, entry in fresh.items()):
            _keep(kept, known | fresh)
    return {path: str(entry[-1]) for path, entry in fresh.items()}


def _digest(path: Path, known: list[object] | None) -> list[object]:
    """Size, times of change (a copied time stays, the second one does not) and digest of a file."""
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            raise DataError(f"{path} cannot be read (not a file).")
        now = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if known and known[:-1] == now:
            return known
        return [*now, blake2b(path.read_bytes(), digest_size=8).hexdigest()]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}).") from None


def _keep(kept: Path, entries: dict[str, list[object]]) -> None:
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(entries), encoding="utf-8")
        partial.replace(kept)
    except OSError as error:
        raise UserError(
            f"the data cache {str(kept.parent)!r} cannot be used ({_reason(error)}); free some space or set "
            f"{CACHE_VARIABLE} to another folder."
        ) from None


def _read_known(path: Path) -> dict[str, list[object]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache: what cannot be read is made again
        return {}
    return content if isinstance(content, dict) else {}

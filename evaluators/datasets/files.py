"""How are labelled images on a disk read? Pairs of an image and a label map, whatever the layout they lie in.

One file per layout beside this one finds the pairs and says how a label map is read. May import NumPy, Pillow, SciPy.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from evaluators.datasets import IGNORE, Colour
from evaluators.datasets.photographs import Brightness, sort_of, upright
from topformer.cache import CACHE_VARIABLE, cache_folder
from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError
from topformer.reading import MIB, file_text

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels, Split

Result = TypeVar("Result")

OTHER_IMAGES = (".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Photographs of a benchmark that somebody stored otherwise than as its .jpg."""
MOST_CLASSES = IGNORE
"""Labels are bytes, and one value is taken."""
ILLEGAL = -1
"""A value of a label map that stands for no class."""
FINGERPRINT_VERSION = 1
MOST_PIXELS = 8192**2
"""Of one image: decoded, looked at and resized, it then takes well under 1 GiB."""
_SHOWN = 8
_LOOKED_AT_BYTES = 2**16
_UNHEARD = logging.NullHandler()


ResizeRule = Literal["nearest", "sparse"]
"""Which label has a pixel of a resized map: that in its middle, or of sparse labels the most frequent in its area."""


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

    def meanings(self, label: int) -> str:
        """What stands for a class, or for `IGNORE`, in words; empty where nothing does."""

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
    resize: ResizeRule = "nearest"
    cure: str = ""
    """A sentence with a blank before it: how to say what values mean that stand for no class."""
    brightness: Brightness | None = None
    """What is white and black in photographs of more than 8 bits; None: there are none, or each says its own."""
    contrast: str = ""
    """What is wrong with the brightness of those photographs, a sentence; empty where nothing is."""
    remarks: tuple[str, ...] = ()
    """What was found out of the files and is not said by any of them: a sentence each."""
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
            meaning: list[object] = [self.name, list(self.class_names), repr(self.read_labels)]
            bright = self.brightness
            if not (bright is None or bright.usual) or self.resize != "nearest":  # else as of older versions
                meaning.append([bright and bright.white, self.resize])
            if bright is not None and bright.black:
                meaning.append([bright.black])
            self._keys[name] = content_key([FINGERPRINT_VERSION, *meaning, content])
        return content_key([self._keys[name], self.image_size])

    def length(self, split: Split) -> int:
        return len(self.pairs.get(split, ()))

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Raises `DataError` naming the file."""
        pair = self.pairs[split][index]
        image = read_image(self.root / pair.image, brightness=self.brightness)
        labels = self.read_labels(self.root / pair.labels)
        if image.shape[:2] != labels.shape:
            raise DataError(f"{self.root / pair.labels} {other_size(labels.shape, image.shape)}.")
        if (labels == ILLEGAL).any():
            path = self.root / pair.labels
            raise DataError(
                f"{path} has values that stand for no class ({self.read_labels.illegal(path)}); legal are "
                f"{self.read_labels.legal}.{self.cure}"
            )
        known = labels.astype(np.uint8)
        if self.image_size:
            image, known = _resized(image, known, self.image_size, self.resize)
        known.setflags(write=False)
        return image, known

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """Every item (height, width) pixels large: images bilinear, labels by `resize`, proportions not kept."""
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
                f"or remove them. All are listed by: topformer-nas datasets check "
                f"{quoted(self.root)}"
            )


def read_image(path: Path, *, brightness: Brightness | None = None) -> Image:
    """uint8 (H, W, 3) RGB, upright; `brightness`: what is white and black in files of more than 8 bits, None for that
    of the file. Raises `DataError`."""
    return decoded(path, lambda image: upright(image, brightness))


def decoded(path: Path, read: Callable[[PillowImage.Image], Result]) -> Result:
    """What `read` makes of an image; whatever is wrong with the file is a `DataError` that names it."""
    require_file(path)
    logging.getLogger("PIL").addHandler(_UNHEARD)  # what Pillow logs of a file is in the sentence that names it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of sheer size: the pixels are what counts
            with _Measured(io.FileIO(path)) as file, PillowImage.open(file) as image:
                image.filename = str(path)  # as where Pillow opens it itself
                return read(_no_giant(image))
    except PillowImage.DecompressionBombError:
        raise DataError(f"{path} has over {MOST_PIXELS:,} pixels; cut it into pieces.") from None
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file decoders raise anything
        what = sort_of(path) or "not an image" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise DataError(f"{path} cannot be read ({what}); replace or remove it with its partner.") from None


class _Measured(io.BufferedReader):
    """Reads no more than a file has, whatever it says of its parts: memory for that would be taken first."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MIB:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _no_giant(image: PillowImage.Image) -> PillowImage.Image:
    if image.width * image.height > MOST_PIXELS:
        raise PillowImage.DecompressionBombError
    return image


def require_file(path: Path) -> None:
    """Raise `DataError` for what is no file with content; opening a pipe would wait for ever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} is not there (any more), or a link to nothing; restore it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}).") from None
    if not S_ISREG(found.st_mode):
        raise DataError(f"{path} cannot be read (not a file); remove it with its partner.")
    if not found.st_size:
        raise DataError(f"{path} cannot be read (an empty file); replace or remove it with its partner.")


def reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def named_classes(name: str) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a benchmark's classes, in the order of its label numbers."""
    with (files("evaluators.datasets.classes") / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    colours = tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in rows)
    return tuple(row["name"] for row in rows), colours


def quoted(path: Path) -> str:
    """As a command line takes it."""
    return shlex.quote(str(path))


class Named(NamedTuple):
    """Which files of a folder count, and what of a name two partners have in common."""

    folder: str
    suffixes: tuple[str, ...]
    spare: tuple[str, ...] = ()
    """Suffixes of files that count where none in the folder has one of the former."""
    prefix: str = ""
    """What names begin with and do not have in common."""


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
    suffixes = (label_suffix,) if isinstance(label_suffix, str) else tuple(label_suffix)
    return pairs_of(root, Named(images, tuple(image_suffixes)), Named(labels, suffixes), only=only)


def pairs_of(
    root: Path, images: Named, labels: Named, *, only: Iterable[str] | None = None
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pairs and what has no partner, as `paired`; what counts in each of the folders may be said more closely."""
    pictures, maps = by_name(root, images), by_name(root, labels)
    absent: list[str] = []
    if only is not None:
        wanted = set(only)
        pictures, maps = ({n: path for n, path in each.items() if n in wanted} for each in (pictures, maps))
        absent = sorted(wanted - pictures.keys() - maps.keys())
    pairs = tuple(Pair(pictures[name], maps[name]) for name in sorted(pictures.keys() & maps.keys()))
    alone = sorted([pictures[name] for name in pictures.keys() - maps.keys()])
    alone += sorted([maps[name] for name in maps.keys() - pictures.keys()])
    return pairs, (*alone, *(f"{images.folder}/{name}" for name in absent))


def by_name(root: Path, which: Named) -> dict[str, str]:
    """Relative paths by name; hidden files are passed over, links are followed once."""
    found: dict[str, str] = {}
    spare: dict[str, str] = {}
    base = str(root / which.folder)
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
            suffix, into = _suffix(name, which.suffixes), found
            if suffix is None:
                suffix, into = _suffix(name, which.spare), spare
            if suffix is None or name.startswith(".") or not name.startswith(which.prefix):
                continue
            path = name if below == "." else f"{below}/{name}"
            key = path.removesuffix(name) + name[len(which.prefix) : -len(suffix)]
            if key in into:
                raise DataError(
                    f"{root}: {into[key]} and {_below(which.folder, path)} have the same name; keep one of them."
                )
            into[key] = _below(which.folder, path)
    return found or spare


def _suffix(name: str, suffixes: Sequence[str]) -> str | None:
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix.lower())), None)


def _below(folder: str, path: str) -> str:
    return path if folder in ("", ".") else f"{folder}/{path}"


def _unlisted(error: OSError) -> None:
    """A folder that is not there holds nothing; one that may not be read is told."""
    if not isinstance(error, FileNotFoundError):
        raise DataError(f"the folder {error.filename} cannot be read ({error.strerror}).")


def read_list(path: Path) -> tuple[str, ...]:
    """Lines of a text file without blanks around them; empty ones are left out. Raises `DataError`."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} cannot be read as a list of names (not a file).")
    try:
        text = file_text(path, "the list").removeprefix("\ufeff")  # Windows' editors begin a text with a mark
        lines = text.splitlines()
    except (OSError, UserError) as error:
        raise DataError(f"{path} cannot be read as a list of names ({reason(error)}).") from None
    return tuple(line.strip() for line in lines if line.strip())


def wrong_layout(root: Path, layout: str, wanted: Sequence[str]) -> UserError:
    """The sentence for a root that is not of a layout: what was looked for, what is there."""
    if not root.exists():
        return UserError(f"no folder {str(root)!r}.")
    if not root.is_dir():
        return UserError(f"{root} is a file, not the folder of a data set.")
    return UserError(f"{root} is not laid out as {layout}: looked for {', '.join(wanted)}; found {contents(root)}.")


def polygon_files(root: Path) -> str:
    """A sentence on files of polygons or boxes beside images, and how labels are made of them; empty without any."""
    found = [path for home in (root, root / "annotations", root / "labels") for path in sorted(home.glob("*.json"))]
    coco = next((path for path in found if _begins_as_coco(path)), None)
    if coco is None:
        return ""
    return (
        f"{coco} holds polygons, boxes or segments of COCO, which are no label maps; draw one for each image as a PNG "
        "of class numbers first, with pycocotools (COCO.annToMask times the class, larger ones first) or panopticapi "
        "(converters/panoptic2semantic_segmentation.py), and write a classes.txt."
    )


def _begins_as_coco(path: Path) -> bool:
    """Has JSON the keys of COCO? Of a large file the beginning and the end are looked at."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
            file.seek(max(0, path.stat().st_size - _LOOKED_AT_BYTES))
            end = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return False
    keys = [b'"images"', b'"annotations"', b'"categories"']
    return path.is_file() and start.lstrip()[:1] == b"{" and sum(key in start or key in end for key in keys) > 1


def contents(root: Path) -> str:
    """The first names in a folder, in words."""
    there = sorted(f"{path.name}{'/' if path.is_dir() else ''}" for path in root.iterdir() if path.name[:1] != ".")
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return ", ".join(there[:_SHOWN]) + more or "nothing"


def _resized(image: Image, labels: Labels, size: tuple[int, int], rule: ResizeRule) -> tuple[Image, Labels]:
    height, width = size
    picture = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    rows, columns = (
        ((np.arange(cells) + 0.5) * (pixels / cells)).astype(np.intp)
        for cells, pixels in zip(size, labels.shape, strict=True)
    )
    nearest = labels[rows[:, None], columns]
    return np.asarray(picture), _with_sparse(nearest, labels) if rule == "sparse" else nearest


def _with_sparse(nearest: Labels, labels: Labels) -> Labels:
    """Cells without a label get the most frequent one of the pixels that fall into them."""
    known = np.argwhere(labels != IGNORE)
    cells = known * nearest.shape // labels.shape
    places = np.ravel_multi_index(tuple(cells.T), nearest.shape)
    pairs, counts = np.unique(places * (IGNORE + 1) + labels[tuple(known.T)], return_counts=True)
    best = np.argsort(counts, kind="stable")  # the last one written to a cell is its most frequent
    filled = np.full(nearest.size, IGNORE, np.uint8)
    filled[pairs[best] // (IGNORE + 1)] = pairs[best] % (IGNORE + 1)
    return np.where(nearest == IGNORE, filled.reshape(nearest.shape), nearest)


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


def remember_digests(root: Path, fresh: dict[str, list[object]]) -> None:
    """Keep what `digest_entry` made of files below `root`, so that `digests` need not read them again."""
    kept = cache_folder() / "fingerprints" / f"{content_key(str(root.resolve()))}.json"
    known = _read_known(kept)
    if any(known.get(path) != entry for path, entry in fresh.items()):
        _keep(kept, known | fresh)


def digest_entry(path: Path) -> list[object]:
    """Size, times of change and digest of a file; raises `DataError`."""
    require_file(path)
    return _digest(path, None)


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
        raise DataError(f"{path} cannot be read ({reason(error)}).") from None


def _keep(kept: Path, entries: dict[str, list[object]]) -> None:
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(entries), encoding="utf-8")
        partial.replace(kept)
    except OSError as error:
        raise UserError(
            f"the data cache {str(kept.parent)!r} cannot be used ({reason(error)}); free some space or set "
            f"{CACHE_VARIABLE} to another folder."
        ) from None


def _read_known(path: Path) -> dict[str, list[object]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache: what cannot be read is made again
        return {}
    return content if isinstance(content, dict) else {}

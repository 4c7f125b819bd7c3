"""Which class has a pixel of a label map? What a file stores, and its readers by number and by colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE, Colour
from evaluators.datasets.files import ILLEGAL, MOST_PIXELS, DataError, decoded, reason, require_file
from evaluators.datasets.photographs import deep_values, raw_mode

if TYPE_CHECKING:
    from evaluators.datasets import Image

ARRAY_SUFFIX = ".npy"
LARGEST_VALUE = 65535
PALETTES = ("P", "PA")
"""Pillow's modes of images whose numbers stand for colours."""
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_NUMBERED = ("1", "L", "P", "LA", "PA", "I;16", "I;16B", "I;16L", "I")
_COLOURED = ("RGB", "RGBA", "RGBX")
_SHOWN = 8
LEAST_BESIDE = 2
_OR_THRESHOLD = "; two classes are told apart by the key threshold of a dataset.toml"
DESCRIBE = "Say which in a dataset.toml, which this begins: topformer-nas datasets describe"


class DoubtError(DataError):
    """A mask that says otherwise than those by which it was decided how masks are read."""


class Stored(NamedTuple):
    """A label map as its file has it: numbers, or a picture in colours."""

    kind: str
    """Pillow's mode, or "npy"."""
    values: NDArray[Any] | None
    """(H, W) whole numbers; None for colours. Three equal channels are numbers."""
    picture: Image | None
    """(H, W, 3); None for numbers."""
    palette: NDArray[np.uint8] | None
    """(N, 3) colours of the numbers; None where no palette gives them any."""
    lossy: bool = False
    """Has its format changed numbers?"""

    @property
    def used(self) -> tuple[int, ...]:
        """The numbers that occur, in order."""
        assert self.values is not None
        if self.values.dtype == np.uint8:
            return tuple(np.flatnonzero(np.bincount(self.values.ravel(), minlength=256)).tolist())
        return tuple(np.unique(self.values).tolist())

    def shown(self, value: int) -> Colour | None:
        """What people see in place of a number."""
        if self.palette is not None:
            return _colour(self.palette[value]) if 0 <= value < len(self.palette) else None
        grey = 255 * value if self.kind == "1" else value
        return (grey, grey, grey) if 0 <= grey <= 255 and self.kind != "npy" else None


def stored(path: Path, *, exact: bool = True) -> Stored:
    """Raises `DataError` for what is no label map, or, if it is to be exact, may have lost what was labelled."""
    if path.suffix.lower() == ARRAY_SUFFIX:
        return _array(path, exact)
    return decoded(path, lambda image: _stored(image, exact))


@dataclass(frozen=True, slots=True)
class Doubts:
    """Where a reading that was guessed from some masks may be wrong for another one, which then is refused."""

    lone_ignored: bool = False
    """255 was not seen beside two classes: alone beside one it may be the object."""
    any_ignored: bool = False
    """Neither 255 nor one of the classes was seen: it may be that class."""
    colours: tuple[tuple[Colour, int], ...] = ()
    """Labels by the colours of the class table. A mask that shows only these may not have other numbers."""
    palette: tuple[tuple[Colour, int], ...] = ()
    """Labels by the colours of other masks' palettes. No palette may give one of them to another label."""
    num_classes: int = 0
    """Greys of a palette below this may be the numbers."""

    def require_none(self, path: Path, found: Stored, classes: Sequence[int]) -> None:
        """Raises `DoubtError` naming both readings."""
        used = found.used
        labels = {value: _label(value, classes) for value in used}
        by_colour = dict(self.colours)
        shown = {value: found.shown(value) for value in used}
        if all(colour in by_colour and by_colour[colour] == labels[value] for value, colour in shown.items()):
            return  # the class table has these colours for these numbers
        lone = IGNORE in used and len(beside_ignored(used, classes)) < LEAST_BESIDE
        doubted = (self.lone_ignored and lone) or (self.any_ignored and IGNORE in used)
        if doubted and labels[IGNORE] == IGNORE:
            others = " and ".join(str(value) for value in used if value != IGNORE) or "nothing else"
            raise DoubtError(
                f"{path} has {IGNORE} beside {others}, as masks looked at before have not: is it ignored, or an "
                f"object? {DESCRIBE} FOLDER"
            )
        if said := self._contradicted(found, labels) or odd_palette(found, self.num_classes):
            raise DoubtError(f"{path} can be read in two ways: {said}. {DESCRIBE} FOLDER")

    def _contradicted(self, found: Stored, labels: dict[int, int]) -> str | None:
        shown = {value: found.shown(value) for value in labels}
        by_colour, by_palette = dict(self.colours), dict(self.palette)
        if by_colour and all(colour in by_colour for colour in shown.values()):
            for value, colour in shown.items():
                if colour is not None and by_colour[colour] != labels[value]:
                    return f"its number {value} is shown in {colour}, which is another row of the class table"
        if found.kind in PALETTES and by_palette and len(set(shown.values())) == len(shown):
            for value, colour in shown.items():
                if colour in by_palette and by_palette[colour] != labels[value]:
                    return f"its number {value} is shown in {colour}, which other masks show for another number"
        return None


def beside_ignored(used: Sequence[int], classes: Sequence[int]) -> frozenset[int]:
    """The classes of a mask that has 255, too; none where it has not."""
    labels = {_label(value, classes) for value in used}
    return frozenset(labels - {IGNORE, ILLEGAL}) if IGNORE in used else frozenset()


def odd_palette(found: Stored, num_classes: int) -> str | None:
    """Why the numbers of a palette picture may not be those of the classes, in words; None where nothing says so."""
    if found.kind not in PALETTES:
        return None
    shown = [(value, found.shown(value)) for value in found.used if value < num_classes]
    known = [(value, colour) for value, colour in shown if colour is not None]
    greys = [colour[0] for _, colour in known if len(set(colour)) == 1]
    if len(greys) == len(known) == len(set(greys)):
        numbers = [value for value, _ in known]
        if greys != numbers and (max(greys, default=0) < num_classes or greys != sorted(greys)):
            return f"its numbers are {_listed(numbers)}, but its palette shows them as the greys {_listed(greys)}"
        return None
    black = [value for value, colour in known if colour == (0, 0, 0)]
    if black and black[0] and len(black) == 1 and found.shown(0) != (0, 0, 0):
        return f"black, which is number 0 of most palettes, is its number {black[0]}"
    return None


@dataclass(frozen=True, slots=True)
class IndexedLabels:
    """Label maps of one number a pixel: grey or palette images of 8 or 16 bits, whole fractions, arrays."""

    classes: tuple[int, ...]
    """By value: a class, `IGNORE` or `ILLEGAL`; larger values are illegal."""
    legal: str
    ignored: tuple[int, ...] = field(default=(), repr=False)
    """Further values that are ignored. Not part of what a fingerprint is made of: without them, they were refused."""
    doubts: Doubts | None = field(default=None, repr=False)
    """None: nothing was guessed."""

    def __call__(self, path: Path) -> NDArray[np.int16]:
        found, values = self._read(path)
        if self.doubts is not None:
            self.doubts.require_none(path, found, self.table)
        return by_value(values, self.table)

    def illegal(self, path: Path) -> str:
        return illegal_values(self._read(path)[1], self.table)

    def meanings(self, label: int) -> str:
        """What stands for a class, or for `IGNORE`, in words."""
        values = [value for value, found in enumerate(self.table) if found == label]
        return f"value{'s' if len(values) > 1 else ''} {_listed(values)}" if values else ""

    @property
    def table(self) -> tuple[int, ...]:
        """Label by value."""
        if not self.ignored:
            return self.classes
        long = [*self.classes, *(ILLEGAL,) * (max(self.ignored) + 1 - len(self.classes))]
        return tuple(IGNORE if value in self.ignored else label for value, label in enumerate(long))

    def _read(self, path: Path) -> tuple[Stored, NDArray[Any]]:
        found = stored(path)
        if found.values is None:
            raise DataError(
                f"{path} is a picture in colours (mode {found.kind}), not a map of class numbers; legal are "
                f"{self.legal}."
            )
        return found, found.values


def by_value(values: NDArray[Any], classes: Sequence[int]) -> NDArray[np.int16]:
    """Class by value; what is beyond `classes` is `ILLEGAL`."""
    table = np.array([*classes, ILLEGAL], np.int16)
    if values.dtype == np.uint8:
        whole = np.full(256, ILLEGAL, np.int16)
        whole[: len(classes)] = table[:-1][:256]
        table, values = whole, np.asarray(values)
    else:
        values = np.clip(values.astype(np.int64), -1, len(classes))
    found: NDArray[np.int16] = table[values]
    return found


def illegal_values(values: NDArray[Any], classes: Sequence[int]) -> str:
    """The first few, in words."""
    found = _listed(np.unique(values[by_value(values, classes) == ILLEGAL]).tolist())
    return f"{found}; save what is below 0 as 255, which can be ignored" if values.min(initial=0) < 0 else found


@dataclass(frozen=True, slots=True)
class ColouredLabels:
    """Label maps in colours: of pixels, or of palettes."""

    colours: tuple[Colour, ...]
    """Of the classes, in order."""
    ignored: tuple[Colour, ...] = ()

    @property
    def legal(self) -> str:
        return f"the {len(self.colours)} colours of the classes" + (", or of what is ignored" if self.ignored else "")

    def __call__(self, path: Path) -> NDArray[np.int16]:
        return self._found(stored(path))

    def illegal(self, path: Path) -> str:
        found = stored(path)
        wrong = self._found(found) == ILLEGAL
        if found.picture is None:
            assert found.values is not None
            return ", ".join(str(found.shown(v) or v) for v in np.unique(found.values[wrong]).tolist()[:_SHOWN])
        return _listed([unpacked(value) for value in np.unique(packed(found.picture)[wrong]).tolist()])

    def meanings(self, label: int) -> str:
        """What stands for a class, or for `IGNORE`, in words."""
        colours = [colour for found, colour in self._known() if found == label]
        return f"colour{'s' if len(colours) > 1 else ''} {_listed(colours)}" if colours else ""

    def _known(self) -> Iterator[tuple[int, Colour]]:
        yield from enumerate(self.colours)
        yield from ((IGNORE, colour) for colour in self.ignored)

    def _found(self, found: Stored) -> NDArray[np.int16]:
        if found.picture is None:
            assert found.values is not None
            labels = {colour: label for label, colour in self._known()}
            most = min(int(found.values.max(initial=0)), LARGEST_VALUE)
            shown = [found.shown(value) for value in range(most + 1)]
            table = [ILLEGAL if colour is None else labels.get(colour, ILLEGAL) for colour in shown]
            return by_value(found.values, table)
        colours = packed(found.picture)
        result = np.full(colours.shape, ILLEGAL, np.int16)
        for label, (red, green, blue) in self._known():
            result[colours == (red << 16) | (green << 8) | blue] = label
        return result


@dataclass(frozen=True, slots=True)
class ThresholdLabels:
    """Label maps of two classes in grey, whose values were blended: less is the first class, more the second."""

    threshold: float
    """The least value of the second class."""

    @property
    def legal(self) -> str:
        return "all values"

    def __call__(self, path: Path) -> NDArray[np.int16]:
        found = stored(path, exact=False)
        if found.values is None:
            raise DataError(f"{path} is a picture in colours (mode {found.kind}), which no threshold divides.")
        labels: NDArray[np.int16] = (found.values >= self.threshold).astype(np.int16)
        return labels

    def illegal(self, path: Path) -> str:
        raise AssertionError(f"every value of {path} is legal")

    def meanings(self, label: int) -> str:
        """What stands for a class in words; nothing is ignored."""
        return {0: f"values below {self.threshold:g}", 1: f"values from {self.threshold:g} on"}.get(label, "")


def contiguous(num_classes: int, *, zero_is_ignored: bool, doubts: Doubts | None = None) -> IndexedLabels:
    """Values are classes, or one more than the class with 0 ignored; 255 is ignored."""
    first = [IGNORE] if zero_is_ignored else []
    values = [*first, *range(num_classes)]
    gap = [ILLEGAL] * (IGNORE - len(values))
    least = "1" if zero_is_ignored else "0"
    return IndexedLabels(
        classes=(*values, *gap, IGNORE),
        legal=f"{least} to {len(values) - 1}, and {'0 and ' if zero_is_ignored else ''}{IGNORE} for what is ignored",
        doubts=doubts,
    )


def _stored(image: PillowImage.Image, exact: bool) -> Stored:
    if lossy := _is_lossy(image):
        if exact:
            raise ValueError(
                f"a {image.format}, which changes the numbers and colours of a label map; save it as PNG from what it "
                f"was made of{_OR_THRESHOLD}"
            )
        return _of_colours(image.mode, np.asarray(image.convert("RGB")))._replace(lossy=lossy)
    kind = image.mode
    if (count := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it holds {count} pictures; a label map is one")
    if kind in ("LA", "PA", "RGBA"):
        least, most = image.getchannel("A").getextrema()
        if least != 255:
            raise ValueError(
                f"mode {kind}: some pixels are transparent (alpha {least} to {most}), so that it is not sure what they "
                "are labelled as; save it without alpha"
            )
    raw = raw_mode(image)
    if any(depth in raw for depth in ("L;2", "L;4")):
        raise ValueError(
            f"a grey picture of {raw[2]} bits, of which it is not sure whether its numbers are 0, 1, 2, ... or the "
            "greys that they show; save it with 8 bits"
        )
    if ";16" in raw and kind in ("RGB", "RGBA", "LA"):
        deep = deep_values(image) if kind == "RGB" else None
        if deep is None or not (deep == deep[..., :1]).all():
            raise ValueError(f"mode {kind} with 16 bits a channel holds neither class numbers nor colours of 8 bits")
        return Stored(kind, deep[..., 0], None, None)
    if image.format == "GIF":  # programs number its palette anew, so that what it shows is all that it says
        return _of_colours(kind, np.asarray(image.convert("RGB")))
    if kind == "F":
        return _of_numbers(kind, _whole(np.asarray(image), exact))
    if kind in _NUMBERED:
        values = np.asarray(image)
        values = values[..., 0] if values.ndim == 3 else values
        palette = image.getpalette("RGB") if kind in PALETTES else None
        return Stored(
            kind,
            values.astype(np.uint8) if kind == "1" else values,
            None,
            None if palette is None else np.array(palette, np.uint8).reshape(-1, 3),
        )
    if kind not in _COLOURED:
        raise ValueError(f"mode {kind} has neither class numbers nor colours of red, green and blue; save it as PNG")
    return _of_colours(kind, np.asarray(image.convert("RGB")))


def _of_colours(kind: str, picture: Image) -> Stored:
    first = picture[..., 0]
    if (first == picture[..., 1]).all() and (first == picture[..., 2]).all():
        return Stored(kind, first, None, None)
    return Stored(kind, None, picture, None)


def _of_numbers(kind: str, values: NDArray[Any]) -> Stored:
    return Stored(kind, values, None, None, lossy=values.dtype.kind == "f")


def _is_lossy(image: PillowImage.Image) -> bool:
    return image.format in _LOSSY and not (image.format == "WEBP" and _is_lossless_webp(image))


def _is_lossless_webp(image: PillowImage.Image) -> bool:
    with Path(image.filename).open("rb") as file:  # type: ignore[attr-defined] # a file, as all that is read here
        return b"VP8L" in file.read(64)


def _array(path: Path, exact: bool) -> Stored:
    require_file(path)
    try:
        return _of_array(np.load(path, mmap_mode="r", allow_pickle=False), exact)
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file NumPy raises anything
        raise DataError(f"{path} cannot be read ({reason(error)}); replace or remove it with its partner.") from None


def _of_array(values: Any, exact: bool) -> Stored:
    if not isinstance(values, np.ndarray) or values.size > MOST_PIXELS:
        raise ValueError("not one array, or too large")
    values = np.squeeze(values, -1) if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim == 3 and values.shape[-1] == 3 and values.dtype == np.uint8:
        return _of_colours("npy", np.array(values))
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "buif":
        raise ValueError(f"an array of {values.dtype} in {values.ndim} dimensions; a label map is (height, width)")
    return _of_numbers("npy", _whole(values, exact))


def _whole(values: NDArray[Any], exact: bool) -> NDArray[Any]:
    """As whole numbers. Raises `ValueError` where one is a fraction, unless they need not be exact."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and not (values == np.round(values)).all():
        if not exact and np.isfinite(values).all():
            return np.array(values)
        wrong = values[values != np.round(values)].flat[0]
        raise ValueError(f"it holds fractions such as {wrong:g}, not class numbers{_OR_THRESHOLD}")
    whole: NDArray[Any] = np.clip(values.astype(np.float64), -1, LARGEST_VALUE + 1).astype(np.int32)
    return whole


def packed(picture: Image) -> NDArray[np.int64]:
    values = picture.astype(np.int64)
    return (values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2]


def unpacked(value: int) -> Colour:
    return value >> 16, value >> 8 & 255, value & 255


def _colour(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = row.tolist()
    return red, green, blue


def _label(value: int, classes: Sequence[int]) -> int:
    return classes[value] if 0 <= value < len(classes) else ILLEGAL


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")

"""What do some masks and photographs of a folder hold? A bounded sample, by which the others are read. Needs Pillow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE, Colour
from evaluators.datasets.files import DataError, decoded
from evaluators.datasets.label_maps import Stored, odd_palette, packed, stored, unpacked
from evaluators.datasets.photographs import DEEPEST, Brightness, deep_values, is_deep, is_turned, own_white

if TYPE_CHECKING:
    from evaluators.datasets.files import Pair

LOOKED_AT = 64
"""Masks and photographs of a data set that decide how the others are read, spread evenly over it."""
SHOWN_COLOURS = 64
_LEAST_VALUES = 5
"""Values or colours of a mask from which on it may have softened edges."""
_EDGES_PCT = 10
"""Share of a value's pixels that may lie within others of its kind, where it only occurs at edges."""
_NEARLY_WHITE, _NEARLY_BLACK, _LOW_CONTRAST = 0.35, 0.25, 0.25
"""Shares of the way from black to white: of the darkest pixels, the brightest ones, and between them."""
_LOOKED_INTO = 100_000
"""Pixels of a photograph by which its range is judged."""


class Seen(NamedTuple):
    """A mask of the sample."""

    path: str
    kind: str
    used: tuple[int, ...] | None
    """Its numbers; None for colours."""
    shown: Mapping[int, Colour | None]
    """What people see in place of each number."""
    colours: frozenset[Colour]
    """Of a picture in colours: a few of them."""
    odd: str | None
    """Why its palette may say something else than its numbers."""
    edges: frozenset[int] = frozenset()
    """Numbers, or colours as one number each, that occur nowhere but where others meet."""
    lossy: bool = False
    """Has its format changed numbers? It is read by a threshold alone."""
    ends: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest number."""


def spread(pairs: Sequence[Pair], most: int = LOOKED_AT) -> list[Pair]:
    """So many of them at equal distances, the first and the last among them."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[round(number * (len(pairs) - 1) / (most - 1))] for number in range(most)]


def masks_seen(
    root: Path,
    pairs: Sequence[Pair],
    num_classes: int,
    *,
    most: int = LOOKED_AT,
    progress: Callable[[int, int], None] | None = None,
) -> list[Seen]:
    """The sample; what cannot be read is left out here and told by name when it is used."""
    found = []
    sample = spread(pairs, most)
    for done, pair in enumerate(sample, start=1):
        if progress:
            progress(done, len(sample))
        try:
            found.append(_seen(pair.labels, stored(root / pair.labels, exact=False), num_classes))
        except DataError:
            continue
    return found


class Photographs(NamedTuple):
    """What the sample says of a data set's photographs."""

    brightness: Brightness | None
    """What is white in those of more than 8 bits; None where there are none."""
    turned: int
    """How many say in their EXIF data how they are to be turned."""
    looked_at: int
    usual: tuple[float, float]
    """Of those of more than 8 bits: values that a hundredth of the pixels is darker, and brighter than; the medians."""
    whole: tuple[float, float]
    """Their lowest and highest value."""


def odd_brightness(seen: Photographs, brightness: Brightness) -> str:
    """What is wrong with photographs of more than 8 bits by what is white and black, in words; empty for nothing."""
    if seen.brightness is None:
        return ""
    dark, bright = (brightness.share(value) for value in seen.usual)
    if dark > _NEARLY_WHITE:
        found = "nearly white"
    elif bright < _NEARLY_BLACK:
        found = "nearly black"
    elif bright - dark < _LOW_CONTRAST:
        found = "of very low contrast"
    else:
        return ""
    low, high = seen.usual
    return (
        f"photographs are {found}: most of their values lie between {low:g} and {high:g}, where black is "
        f"{brightness.black:g} and white {brightness.white:g}"
    )


class _Photograph(NamedTuple):
    turned: bool
    brightness: Brightness | None
    usual: tuple[float, float]
    whole: tuple[float, float]


def photographs_seen(root: Path, pairs: Sequence[Pair], *, most: int = LOOKED_AT) -> Photographs:
    """What is white in the photographs of the sample, and which of them are turned; each is opened once."""
    sample, found = spread(pairs, most), list[_Photograph]()
    for pair in sample:
        try:
            found.append(decoded(root / pair.image, _photograph))
        except DataError:
            continue
    deep = [one for one in found if one.brightness is not None]
    nothing = (0.0, 0.0)
    return Photographs(
        brightness=max((one.brightness for one in deep if one.brightness is not None), default=None),
        turned=sum(one.turned for one in found),
        looked_at=len(sample),
        usual=(median(one.usual[0] for one in deep), median(one.usual[1] for one in deep)) if deep else nothing,
        whole=(min(one.whole[0] for one in deep), max(one.whole[1] for one in deep)) if deep else nothing,
    )


def _photograph(image: PillowImage.Image) -> _Photograph:
    """Whether one is turned, and the white of a deep one, as far as that takes no decoding."""
    says = image.format != "PNG" or "exif" in image.info  # a PNG's pixels would be decoded to look behind them
    values = deep_values(image) if is_deep(image) else None
    turned = says and is_turned(image)
    if values is None:
        return _Photograph(turned, None, (0.0, 0.0), (0.0, 0.0))
    white = own_white(values)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        raise ValueError("it holds no numbers")
    dark, bright = np.quantile(finite[:: max(1, finite.size // _LOOKED_INTO)], (0.01, 0.99)).tolist()
    return _Photograph(
        turned,
        Brightness(white, usual=white == (DEEPEST if values.dtype == np.uint16 else 255)),
        (dark, bright),
        (float(finite.min()), float(finite.max())),
    )


def _seen(path: str, found: Stored, num_classes: int) -> Seen:
    if found.picture is not None:
        colours, places = np.unique(packed(found.picture), return_inverse=True)
        edges = _only_edges(colours, places.reshape(found.picture.shape[:2]))
        shown = frozenset(unpacked(colour) for colour in colours[:SHOWN_COLOURS].tolist())
        return Seen(path, found.kind, None, {}, shown, None, edges, found.lossy)
    assert found.values is not None
    ends = float(found.values.min()), float(found.values.max())
    found = found._replace(values=np.round(found.values).astype(np.int32)) if found.values.dtype.kind == "f" else found
    assert found.values is not None
    used, edges = found.used, frozenset()
    if any(value >= num_classes and value != IGNORE for value in used):
        values, places = np.unique(found.values, return_inverse=True)
        edges = _only_edges(values, places.reshape(found.values.shape))
    odd = odd_palette(found, num_classes)
    shown_as = {value: found.shown(value) for value in used}
    return Seen(path, found.kind, used, shown_as, frozenset(), odd, edges, found.lossy, ends)


def _only_edges(found: NDArray[Any], places: NDArray[np.intp]) -> frozenset[int]:
    """Which of the numbers that (H, W) places point to never, or hardly, have their like on all four sides, as those
    between two classes that were blended."""
    if len(found) < _LEAST_VALUES:
        return frozenset()
    within = np.ones(places.shape, np.bool_)
    for one, other in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        same = places[one] == places[other]
        within[one] &= same
        within[other] &= same
    count = np.bincount(places.ravel(), minlength=len(found))
    inside = np.bincount(places[within], minlength=len(found))
    return frozenset(found[inside * 100 < count * _EDGES_PCT].tolist())

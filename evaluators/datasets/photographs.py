"""How bright is a pixel of a photograph? 8 bits of red, green and blue from whatever depth a file has. Needs Pillow.

The type of a file leaves open what is white where it can hold more than the camera gave: 12 bits lie in files of 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

if TYPE_CHECKING:
    from evaluators.datasets import Image

DEEPEST = 65535
_BYTE = 255
_DIM = 64
"""High bytes below this are of 14 bits or fewer."""
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras, microscopes and scanners give."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG_TIFF = 43
_SAMPLES, _BITS, _FORMAT = 277, 258, 339
"""TIFF tags."""
_FLOAT = 3
_EXIF_ORIENTATION = 0x0112
_OTHER_END = {f"{kind};16{a}": f"{kind};16{b}" for kind in ("RGB", "RGBA", "RGBX") for a, b in ("LB", "BL", "NB")}
"""Pillow keeps one byte of two; decoded as if the bytes lay the other way round, it keeps the second one."""


class Brightness(NamedTuple):
    """The values that are white and black in a data set's photographs of more than 8 bits."""

    white: float
    usual: bool
    """Is it what such files always meant to this tool: all ones of 16 bits, 255 of fractions and wide numbers?"""
    black: float = 0.0

    def share(self, value: float) -> float:
        """How bright a value is: 0 is black, 1 white."""
        return (value - self.black) / (self.white - self.black)


def upright(image: PillowImage.Image, brightness: Brightness | None) -> Image:
    """uint8 (H, W, 3), turned as its EXIF data says; `brightness`: of a data set, None for this file's own.

    Raises `ValueError` where a value lies outside of black to white.
    """
    half_read = "16" in raw_mode(image)
    values = deep_values(image)
    if values is None:
        picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        if half_read and picture.max() < _DIM:
            raise ValueError("of its 16 bits the highest are not used, and others are not read; save it with 8 bits")
        return picture
    scaled = _in_8_bits(values, brightness or Brightness(own_white(values), usual=True))
    turned = ImageOps.exif_transpose(_with_exif(PillowImage.fromarray(scaled), image))
    return np.asarray(turned.convert("RGB"))


def deep_values(image: PillowImage.Image) -> NDArray[Any] | None:
    """(H, W) or (H, W, 3) numbers of more than 8 bits; None for a picture of 8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.asarray(image)
    if not is_deep(image):
        return None
    with PillowImage.open(image.filename) as again:  # type: ignore[attr-defined] # a file, as all that is read here
        tiles: Any = again
        tiles.tile = [tile._replace(args=_swapped(tile.args)) for tile in tiles.tile]
        low = np.asarray(again)
    values: NDArray[Any] = np.asarray(image).astype(np.uint16) << 8 | low
    return values[..., :3]


def is_deep(image: PillowImage.Image) -> bool:
    """Has an image more than 8 bits a colour? Told by its header, before its pixels are decoded."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return True
    return raw_mode(image) in _OTHER_END


def is_turned(image: PillowImage.Image) -> bool:
    """Do its EXIF data say that it is to be turned? Of a PNG that says nothing early on all pixels are decoded."""
    return bool(image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


def raw_mode(image: PillowImage.Image) -> str:
    """How the pixels lie in the file, in Pillow's words; empty where it is not told, or differs within the file."""
    tiles: Any = getattr(image, "tile", ())
    found = {_raw_mode(tile.args) for tile in tiles}
    return found.pop() if len(found) == 1 else ""


def own_white(values: NDArray[Any]) -> float:
    """What is white by the values alone: 1 for fractions, or else all ones of the fewest usual bits that hold them.

    Wide numbers within a byte, and those beyond 16 bits, are left to what they say: 255 is white.
    """
    most = float(values.max(initial=0))
    if values.dtype.kind == "f":
        return 1.0 if most <= 1 else float(_BYTE)
    if values.dtype.itemsize > 2 and not _BYTE < most <= DEEPEST:
        return float(_BYTE)
    return float(2 ** next(bits for bits in _DEPTHS if most < 2**bits) - 1)


def sort_of(path: Path) -> str | None:
    """What a TIFF holds that Pillow cannot decode, in words; None for what is no TIFF."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if start[:4] not in _TIFF_STARTS:
                return None
            tags = ImageFileDirectory_v2(start if start[2] == _BIG_TIFF else start[:8])
            file.seek(tags.next)
            tags.load(file)
            bands, bits = int(tags.get(_SAMPLES, 1)), tags.get(_BITS, (1,))
            fractions = tags.get(_FORMAT, (1,))
    except Exception:  # of a damaged file Pillow raises anything
        return None
    depth = f"{bits[0] if isinstance(bits, tuple) else bits} bits"
    kind = "fractions" if (fractions[0] if isinstance(fractions, tuple) else fractions) == _FLOAT else "whole numbers"
    return f"a TIFF of {bands} bands of {depth}, {kind}, where photographs have red, green and blue, or grey"


def _swapped(args: Any) -> Any:
    other = _OTHER_END[_raw_mode(args)]
    return other if isinstance(args, str) else (other, *args[1:])


def _raw_mode(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _in_8_bits(values: NDArray[Any], brightness: Brightness) -> Image:
    low, high = float(values.min()), float(values.max())
    black, white = brightness.black, brightness.white
    if not (low >= black and high <= white):  # also what is no number
        raise ValueError(
            f"its values run from {low:g} to {high:g}, known are {black:g} to {white:g}; a dataset.toml says others by "
            "its keys black and white"
        )
    if black:
        return np.rint((values.astype(np.float64) - black) * (_BYTE / (white - black))).astype(np.uint8)
    if white == DEEPEST and values.dtype.kind == "u":
        return (values >> 8).astype(np.uint8)
    if white == _BYTE:
        return values.astype(np.uint8)
    return np.rint(values * (_BYTE / white)).astype(np.uint8)


def _with_exif(picture: PillowImage.Image, image: PillowImage.Image) -> PillowImage.Image:
    picture.getexif().update(image.getexif())
    return picture

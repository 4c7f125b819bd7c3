"""Which data let a short CPU training tell good architectures from bad? Procedural scenes whose labels need context.

* **Far context**: the sky shows cue `sky`, the ground cue `ground`, and the labels of both need both cues; a board that
  may stand anywhere tells cue `board`, which decides the class of the ground and of three kinds of things. On a wide
  strip most pixels have the board beyond the receptive field of the convolutions.
* **Near context**: some things are named by the ground, some by what they stand on.
* **Fine detail**: poles, fences, windows, doors.
* Several scales, textures, a long tail of things, co-occurrence of scenes and things, occlusion, colour casts.

An item depends on (seed, split, index, image size) only. It is drawn once, then read from a cache on disk, under
$TOPFORMER_NAS_CACHE or ~/.cache/topformer-nas.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zlib
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from evaluators.datasets import numbered_palette
from topformer.cache import CACHE_VARIABLE, cache_folder
from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Colour, Image, Labels, Split

GENERATOR_VERSION = 1
"""Raise it with every change of what is drawn."""

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SKIES = ("hazy", "patchy", "banded")
GROUNDS = ("mottled", "grainy", "checked")
BOARDS = ("red", "blue", "green")
SKYLINE = ("ribbed building", "checked building", "round tree", "pointed hill")
DETAILS = ("window", "door", "pole", "fence")
FOOTINGS = ("sky", "skyline", "ground")

Decider = Literal["itself", "board", "ground", "footing"]


class ThingKind(NamedTuple):
    """An appearance, and what tells its class."""

    shape: str
    striped: bool
    decider: Decider

    @property
    def class_names(self) -> tuple[str, ...]:
        look = f"striped {self.shape}" if self.striped else self.shape
        match self.decider:
            case "itself":
                return (look,)
            case "board":
                return tuple(f"{look} of the {board} board" for board in BOARDS)
            case "ground":
                return tuple(f"{look} of {ground} ground" for ground in GROUNDS)
            case "footing":
                return tuple(f"{look} on {footing}" for footing in FOOTINGS)


_PLAIN_SHAPES = ("disc", "plate", "post", "wedge", "diamond", "ring")
THINGS = (
    *(ThingKind(shape, False, "itself") for shape in _PLAIN_SHAPES),
    *(ThingKind(shape, True, "itself") for shape in _PLAIN_SHAPES),
    *(ThingKind(shape, False, "board") for shape in ("cross", "corner", "dome")),
    ThingKind("hourglass", False, "ground"),
    ThingKind("hourglass", True, "ground"),
    ThingKind("cross", True, "footing"),
    ThingKind("corner", True, "footing"),
)
CLASS_NAMES = (
    *(f"{sky} sky over {ground} ground" for sky in SKIES for ground in ("other", GROUNDS[0])),
    *(f"{ground} ground of the {board} board" for ground in GROUNDS for board in BOARDS),
    *SKYLINE,
    *DETAILS,
    *(f"{board} board" for board in BOARDS),
    *(name for kind in THINGS for name in kind.class_names),
)
FIRST_GROUND = 2 * len(SKIES)
FIRST_SKYLINE = FIRST_GROUND + len(GROUNDS) * len(BOARDS)
WINDOW, DOOR, POLE, FENCE = range(FIRST_SKYLINE + len(SKYLINE), FIRST_SKYLINE + len(SKYLINE) + len(DETAILS))
FIRST_BOARD = FENCE + 1
FIRST_THING = FIRST_BOARD + len(BOARDS)

BOARD_RADIUS = (0.075, 0.115)
"""Of the scene's unit length, sqrt(height x width): a smaller board is found by luck only in a short run."""
BOARD_FRAME: Floats = np.array((235, 235, 60), np.float32)
BOARD_COLOURS: Floats = np.array(((230, 20, 20), (20, 20, 230), (20, 200, 20)), np.float32)
SKY_TEXTURES = (0, 5, 2)
GROUND_TEXTURES = (7, 1, 4)
SKYLINE_TEXTURES = (3, 4, 1, 6)
TEXTURE_CONTRAST = np.float32(22)
STUFF_SPREAD, THING_SPREAD = 14.0, 24.0  # standard deviation of an instance's colour around its class's, of 255
NOISE_SPREAD = 9.0

_fixed = np.random.default_rng(20240)  # colours and frequencies are part of the data set, the same for every seed
PALETTE: Floats = _fixed.random((64, 3)).astype(np.float32) * 150 + 50
SKY_COLOUR, GROUND_COLOUR, SKYLINE_COLOUR, DETAIL_COLOUR, THING_COLOUR = 0, 3, 10, 14, 20  # first rows of PALETTE
THING_FREQUENCY = (1 / np.arange(1, len(THINGS) + 1) ** 0.6)[_fixed.permutation(len(THINGS))]
"""A long tail."""
THING_PREFERENCE = np.exp(_fixed.normal(0, 0.7, (len(SKIES) * len(GROUNDS), len(THINGS))))
"""Which things occur with which pair of sky and ground."""


class Cues(NamedTuple):
    """What decides labels from afar; each 0, 1 or 2."""

    sky: int
    ground: int
    board: int


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """59 classes, wide strips by default. Obeys `SegmentationDataset`; pickles as its parameters."""

    image_size: tuple[int, int] = (96, 384)
    train_images: int = 1200
    val_images: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < MIN_IMAGE_PX:
            raise UserError(
                f"scenes must be at least {MIN_IMAGE_PX} px on each side, not {self.image_size}; "
                "give (height, width), such as (96, 384)."
            )
        for name, value in (("train_images", self.train_images), ("val_images", self.val_images)):
            if value < 1:
                raise UserError(f"scenes: {name} must be at least 1, not {value}.")
        if self.seed < 0:
            raise UserError(f"scenes: the seed must not be negative, not {self.seed}.")

    @property
    def name(self) -> str:
        return "scenes"

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    @property
    def palette(self) -> tuple[Colour, ...]:
        return numbered_palette(len(CLASS_NAMES))

    @property
    def num_classes(self) -> int:
        return len(CLASS_NAMES)

    @property
    def fingerprint(self) -> str:
        """Of generator, parameters and the content of a few images as this machine draws them."""
        return content_key([GENERATOR_VERSION, self._parameters, _probe_checksum(self)])

    def length(self, split: Split) -> int:
        return self.train_images if split == "train" else self.val_images

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
            "train_images": self.train_images,
            "val_images": self.val_images,
            "seed": self.seed,
        }


def draw_item(dataset: Scenes, split: Split, index: int) -> tuple[Image, Labels]:
    """One item, without the cache."""
    stream = 0 if split == "train" else 1
    return draw_scene(dataset.image_size, np.random.default_rng((dataset.seed, stream, index)))


def draw_scene(
    image_size: tuple[int, int], rng: np.random.Generator, *, cues: Cues | None = None
) -> tuple[Image, Labels]:
    """Image (H, W, 3) and labels (H, W) uint8; `cues` replaces the drawn cues and leaves all other draws alone."""
    drawn = Cues(*(int(rng.integers(3)) for _ in Cues._fields))
    scene = _Scene(image_size, rng, cues or drawn)
    scene.paint_sky_and_ground()
    scene.paint_skyline()
    footing = scene.labels.copy()
    scene.paint_poles()
    scene.paint_fence()
    scene.paint_things(footing)
    scene.paint_board()  # last, so that nothing hides it
    return scene.photograph(), scene.labels


class _Scene:
    """A picture in the making; lengths in pixels, `unit` is the scale of everything that has a size.

    The image is (3, H, W) until it is photographed: NumPy is several times faster on whole planes.
    """

    def __init__(self, image_size: tuple[int, int], rng: np.random.Generator, cues: Cues) -> None:
        self.height, self.width = image_size
        self.unit = math.sqrt(self.height * self.width)
        self.rng = rng
        self.cues = cues
        self.textures, self.noise = _textures(max(image_size))
        self.image: Floats = np.empty((3, self.height, self.width), np.float32)
        self.labels: Labels = np.empty((self.height, self.width), np.uint8)
        self.columns: Floats = np.arange(self.width, dtype=np.float32)
        self.rows: Floats = np.arange(self.height, dtype=np.float32)[:, None]
        self.horizon = float(rng.uniform(0.3, 0.6)) * self.height
        slope = float(rng.normal()) * 0.1 * self.height / self.width
        self.horizon_rows: Floats = self.horizon + (self.columns - self.width / 2) * slope
        """(W,), the ground is below."""

    def colour(self, row: int, spread: float = STUFF_SPREAD) -> Floats:
        """(3, 1, 1), an instance's colour around a row of the palette."""
        colour: Floats = PALETTE[row] + self.rng.normal(0, spread, 3).astype(np.float32)
        return colour[:, None, None]

    def fill(
        self, top: int, bottom: int, left: int, right: int, label: int, texture: int, colour: Floats, mask: Mask | None
    ) -> None:
        """Textured stuff in a rectangle, or where the rectangle's mask is true."""
        if bottom <= top or right <= left:
            return
        y, x = self.rng.integers(0, max(self.height, self.width), 2)
        texels = self.textures[texture][y : y + bottom - top, x : x + right - left]
        image, labels = self.image[:, top:bottom, left:right], self.labels[top:bottom, left:right]
        if mask is None:
            np.add(colour, texels, out=image)
            labels[...] = label
        else:
            np.copyto(image, colour + texels, where=mask)
            np.copyto(labels, np.uint8(label), where=mask)

    def rectangle(self, top: int, bottom: int, left: int, right: int, label: int, colour: Floats) -> None:
        self.image[:, top:bottom, left:right] = colour
        self.labels[top:bottom, left:right] = label

    def stamp(
        self,
        x: float,
        y: float,
        radius: float,
        kind: tuple[str, bool],
        label: int,
        colour: Floats,
        aspect: float = 1.0,
    ) -> None:
        """A shaded shape, `kind` is (shape, striped), centred at (x, y)."""
        top, bottom = max(int(y - radius), 0), min(int(y + radius) + 1, self.height)
        left, right = max(int(x - radius * aspect), 0), min(int(x + radius * aspect) + 1, self.width)
        if bottom - top < 2 or right - left < 2:
            return
        shape, striped = kind
        u = (self.columns[None, left:right] - x) / (radius * aspect)
        v = (self.rows[top:bottom] - y) / radius
        mask = _shape_mask(shape, u, v)
        shade = 1 + 0.18 * (u * 0.6 + v * 0.8)
        if striped:
            shade = shade * (1 + 0.3 * np.sign(np.sin(7 * v)))
        np.copyto(self.image[:, top:bottom, left:right], shade * colour, where=mask)
        np.copyto(self.labels[top:bottom, left:right], np.uint8(label), where=mask)

    def paint_sky_and_ground(self) -> None:
        """Each shows its own cue only; what it is called needs the other's, the ground the board's too."""
        sky, ground, board = self.cues
        lowest_sky = int(min(self.horizon_rows.max() + 1, self.height))
        sky_label = 2 * sky + (ground == 0)
        self.fill(0, lowest_sky, 0, self.width, sky_label, SKY_TEXTURES[sky], self.colour(SKY_COLOUR + sky), None)
        top = int(max(self.horizon_rows.min(), 0))
        below = self.rows[top:] > self.horizon_rows
        ground_label = FIRST_GROUND + ground * len(BOARDS) + board
        colour = self.colour(GROUND_COLOUR + ground)
        self.fill(top, self.height, 0, self.width, ground_label, GROUND_TEXTURES[ground], colour, below)

    def paint_skyline(self) -> None:
        """Buildings, trees and hills that stand on the horizon."""
        rng, unit = self.rng, self.unit
        for _ in range(int(rng.integers(1, 5) * max(self.width / unit, 1))):
            kind = int(rng.integers(len(SKYLINE)))
            width = rng.uniform(0.1, 0.35) * unit
            height = rng.uniform(0.15, 0.6) * self.height * min(1, unit / self.height)
            start = rng.uniform(-0.1, 0.95) * self.width
            left, right = int(max(start, 0)), int(min(start + width, self.width))
            if right - left < 3:
                continue
            bottom = int(np.clip(self.horizon_rows[(left + right) // 2] + 0.02 * unit, 2, self.height))
            top = int(max(bottom - height, 0))
            colour = self.colour(SKYLINE_COLOUR + kind)
            building = kind < 2
            mask = None
            if not building:
                u = (self.columns[left:right] - (left + right) / 2) / ((right - left) / 2)
                v = (self.rows[top:bottom] - bottom) / (bottom - top + 1)
                mask = v > -((1 - u * u) ** (0.5 if SKYLINE[kind] == "round tree" else 1.5))
            self.fill(top, bottom, left, right, FIRST_SKYLINE + kind, SKYLINE_TEXTURES[kind], colour, mask)
            if building:
                self._paint_windows_and_door(top, bottom, left, right)

    def _paint_windows_and_door(self, top: int, bottom: int, left: int, right: int) -> None:
        pitch = self.rng.uniform(0.04, 0.08) * self.unit
        colour = self.colour(DETAIL_COLOUR)
        side = max(int(pitch * 0.8), 1)
        for y in np.arange(top + pitch * 0.5, bottom - pitch * 1.2, pitch * 1.7).astype(int):
            for x in np.arange(left + pitch * 0.4, right - pitch, pitch * 1.6).astype(int):
                self.rectangle(y, y + side, x, x + side, WINDOW, colour)
        if self.rng.random() < 0.7:
            width = int(pitch) + 1
            x = int(self.rng.uniform(left, max(right - width, left + 1)))
            y = max(bottom - int(pitch * 1.8), 0)
            self.rectangle(y, bottom, x, x + width, DOOR, self.colour(DETAIL_COLOUR + 1))

    def paint_poles(self) -> None:
        rng = self.rng
        for _ in range(rng.integers(0, 4)):
            width = max(int(rng.uniform(0.015, 0.03) * self.unit), 1)
            left = int(rng.uniform(0, self.width - width))
            bottom = int(rng.uniform(0.5, 0.95) * self.height)
            top = max(bottom - int(rng.uniform(0.3, 0.7) * self.height), 0)
            self.rectangle(top, bottom, left, left + width, POLE, self.colour(DETAIL_COLOUR + 2))

    def paint_fence(self) -> None:
        """Two rails and their posts, in some scenes."""
        if self.rng.random() >= 0.4:
            return
        top = int(self.rng.uniform(0.55, 0.9) * self.height)
        rail, rise = max(int(0.017 * self.unit), 1), int(0.05 * self.unit)
        left, right = sorted(int(x) for x in self.rng.random(2) * self.width)
        colour = self.colour(DETAIL_COLOUR + 3)
        for y in (top, top + rise):
            self.rectangle(y, y + rail, left, right, FENCE, colour)
        for x in range(left, right, max(int(0.06 * self.unit), 3)):
            self.rectangle(top, top + rise, x, x + rail, FENCE, colour)

    def paint_things(self, footing: Labels) -> None:
        """Far ones first, the nearer the larger; `footing` are the labels things stand on."""
        rng = self.rng
        frequency = THING_FREQUENCY * THING_PREFERENCE[self.cues.sky * len(GROUNDS) + self.cues.ground]
        count = int(rng.integers(5, 13))
        centres = np.sort(rng.uniform(0.12, 1, count)) * self.height
        kinds = rng.choice(len(THINGS), count, p=frequency / frequency.sum())
        for y, kind in zip(centres.tolist(), kinds.tolist(), strict=True):
            x = float(rng.random()) * self.width
            nearness = min(max(abs(y - self.horizon) / self.height, 0.02), 0.5)
            size = self.unit * (0.03 + 0.17 * nearness) * math.exp(rng.normal() * 0.35)
            radius = min(size, 0.4 * self.height)
            label = _FIRST_LABELS[kind] + self._decision(THINGS[kind].decider, int(footing[int(y), int(x)]))
            colour = self.colour(THING_COLOUR + kind, THING_SPREAD)
            self.stamp(x, y, radius, THINGS[kind][:2], label, colour, math.exp(rng.normal() * 0.15))

    def _decision(self, decider: Decider, footing: int) -> int:
        match decider:
            case "itself":
                return 0
            case "board":
                return self.cues.board
            case "ground":
                return self.cues.ground
            case "footing":
                return 0 if footing < FIRST_GROUND else 1 if footing >= FIRST_SKYLINE else 2

    def paint_board(self) -> None:
        radius = self.unit * float(self.rng.uniform(*BOARD_RADIUS))
        x = float(self.rng.uniform(radius, self.width - radius))
        y = float(self.rng.uniform(radius, self.height - radius))
        label = FIRST_BOARD + self.cues.board
        self.stamp(x, y, radius, ("plate", False), label, BOARD_FRAME[:, None, None])
        self.stamp(x, y, radius * 0.8, ("plate", False), label, BOARD_COLOURS[self.cues.board][:, None, None])

    def photograph(self) -> Image:
        """The image with sensor noise, exposure and colour cast, as uint8."""
        y, x = self.rng.integers(0, max(self.height, self.width), 2)
        self.image += self.noise[:, y : y + self.height, x : x + self.width]
        cast = self.rng.normal(0, 0.18, 3) * 0.5
        self.image *= np.exp(cast + self.rng.normal() * 0.15).astype(np.float32)[:, None, None]
        np.clip(self.image, 0, 255, out=self.image)
        return np.ascontiguousarray(self.image.astype(np.uint8).transpose(1, 2, 0))


def _first_labels() -> tuple[int, ...]:
    """First class of each kind of thing."""
    counts = [len(kind.class_names) for kind in THINGS]
    return tuple(FIRST_THING + sum(counts[:index]) for index in range(len(counts)))


_FIRST_LABELS = _first_labels()


def _shape_mask(shape: str, u: Floats, v: Floats) -> Mask:
    """Shapes in the square |u|, |v| < 1; u is (1, w), v is (h, 1) and points down."""
    match shape:
        case "disc":
            return u * u + v * v < 1
        case "plate":
            return (np.abs(u) < 1) & (np.abs(v) < 0.62)
        case "post":
            return (np.abs(u) < 0.4) & (np.abs(v) < 1)
        case "wedge":
            return np.abs(u) < (v + 1) * 0.5
        case "diamond":
            return np.abs(u) + np.abs(v) < 1
        case "ring":
            squared = u * u + v * v
            return (squared < 1) & (squared > 0.25)
        case "cross":
            return (np.abs(u) < 0.33) | (np.abs(v) < 0.33)
        case "corner":
            return (np.abs(v) < 1) & ((u < -0.3) | (v > 0.3))
        case "dome":
            return (u * u + v * v < 1) & (v < 0.15)
        case "hourglass":
            return np.abs(u) < np.abs(v) * 0.85 + 0.12
    raise AssertionError(f"no shape {shape!r}")


@lru_cache(maxsize=2)
def _textures(length: int) -> tuple[tuple[Floats, ...], Floats]:
    """8 textures (2 length, 2 length) and noise (3, 2 length, 2 length), in grey levels."""
    rng = np.random.default_rng(5)
    side = 2 * length
    y, x = np.mgrid[:side, :side].astype(np.float32) / length

    def blobs(frequency: int) -> Floats:
        """Bilinear noise of `frequency` cells per image."""
        cells = 2 * frequency + 2
        grid = rng.normal(size=(cells, cells)).astype(np.float32)
        position = np.linspace(0, cells - 1.001, side)
        low = position.astype(int)
        high, share = np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)
        rows = grid[low] * (1 - share)[:, None] + grid[high] * share[:, None]
        mixed: Floats = rows[:, low] * (1 - share) + rows[:, high] * share
        return mixed

    def bars(coordinate: Floats, frequency: int) -> Floats:
        square: Floats = np.sign(np.sin(2 * np.pi * coordinate * frequency))
        return square

    textures = (
        blobs(4) * 0.6,
        blobs(24) * 0.7,
        bars(y, 20) * 0.7,
        bars(x, 20) * 0.7,
        bars(x, 14) * bars(y, 14) * 0.7,
        blobs(10) * 0.7,
        bars(x + y, 14) * 0.7,
        blobs(40) * 0.5 + blobs(4) * 0.4,
    )
    noise = rng.normal(0, NOISE_SPREAD, (side, side, 3)).astype(np.float32)
    scaled = tuple(texture.astype(np.float32) * TEXTURE_CONTRAST for texture in textures)
    return scaled, np.ascontiguousarray(noise.transpose(2, 0, 1))


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

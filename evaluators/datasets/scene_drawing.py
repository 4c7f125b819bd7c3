"""How is a scene drawn whose labels need what photographs' labels need? Integer arithmetic: the same on every machine.

* **Far context**: the sky shows cue `sky`, the ground cue `ground`, and the labels of both need both cues; a board that
  may stand anywhere tells cue `board`, which decides the class of the ground and of three kinds of things. On a strip
  of 64x576 px half of the ground has the board beyond the receptive field of T's convolutions.
* **Near context**: some things are named by the ground, some by what they stand on.
* **Fine detail**: poles, fences, windows, doors, a few pixels wide.
* Several scales, colours and textures, a long tail of things, co-occurrence of scenes and things, occlusion, tones,
  colour casts, noise.

A picture does not depend on the number of classes: with fewer of them, classes that are told apart by more are called
by the name of the one they are a kind of (`names_and_labels`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from math import isqrt
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels

Plane = NDArray[np.int16]
Whole = NDArray[np.int32]
Mask = NDArray[np.bool_]
RGB = tuple[int, int, int]

SKIES = ("hazy", "patchy", "banded")
GROUNDS = ("mottled", "grainy", "checked")
BOARDS = ("red", "blue", "green")
SKYLINE = ("ribbed building", "checked building", "round tree", "pointed hill")
DETAILS = ("window", "door", "pole", "fence")
FOOTINGS = ("sky", "skyline", "ground")
TONES = ("plain", "pale", "dark")

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
FIRST_GROUND = 2 * len(SKIES)
FIRST_SKYLINE = FIRST_GROUND + len(GROUNDS) * len(BOARDS)
WINDOW, DOOR, POLE, FENCE = range(FIRST_SKYLINE + len(SKYLINE), FIRST_SKYLINE + len(SKYLINE) + len(DETAILS))
FIRST_BOARD = FENCE + 1
FIRST_THING = FIRST_BOARD + len(BOARDS)
_COMMON_NAMES = (
    *(f"{sky} sky over {ground} ground" for sky in SKIES for ground in ("other", GROUNDS[0])),
    *(f"{ground} ground of the {board} board" for ground in GROUNDS for board in BOARDS),
    *SKYLINE,
    *DETAILS,
    *(f"{board} board" for board in BOARDS),
    *(name for kind in THINGS for name in kind.class_names),
)
COMMON_CLASSES = len(_COMMON_NAMES)
"""59: the number of classes unless another is asked for."""
FIRST_CHECKED_SKY = COMMON_CLASSES
FIRST_TONED = FIRST_CHECKED_SKY + len(SKIES)
TONED_CLASSES = COMMON_CLASSES - FIRST_SKYLINE
FINE_NAMES = (
    *_COMMON_NAMES,
    *(f"{sky} sky over {GROUNDS[2]} ground" for sky in SKIES),
    *(f"{tone} {name}" for tone in TONES[1:] for name in _COMMON_NAMES[FIRST_SKYLINE:]),
)
MOST_CLASSES = len(FINE_NAMES)
"""150."""
LEAST_CLASSES = 2
FAR_CLASSES = tuple(range(FIRST_GROUND, FIRST_SKYLINE))
"""The grounds, of 59 classes or more: which of three each one is, only the board tells."""

# Lengths are in 1/1024 of the scene's unit length, sqrt(height x width); levels and spreads in grey levels of 255.
BOARD_RADIUS = (123, 174)
"""A smaller board is found by luck only in a short run."""
BOARD_FRAMES: tuple[RGB, ...] = ((215, 215, 60), (250, 250, 110), (165, 165, 25))
BOARD_COLOURS: tuple[RGB, ...] = ((230, 20, 20), (20, 20, 230), (20, 200, 20))
SKY_TEXTURES = (0, 5, 2)
GROUND_TEXTURES = (7, 1, 4)
SKYLINE_TEXTURES = (3, 4, 1, 6)
TEXTURE_CONTRAST = 22
STUFF_SPREAD, THING_SPREAD = 14, 20
TONE_STEP = 26
NOISE_SPREAD = 9
TONE_SHARES = (60, 25, 15)
"""Of 100 instances: plain, pale, dark."""
THING_FREQUENCY = (150, 340, 1000, 192, 171, 311, 230, 517, 205, 380, 179, 660, 215, 251, 435, 160, 268, 186, 288)
"""A long tail: 1000 / rank ** 0.6, in no particular order."""

_FRACTION = 1 << 8  # of coordinates within a shape and of factors


class Cues(NamedTuple):
    """What decides labels from afar; each 0, 1 or 2."""

    sky: int
    ground: int
    board: int


class Draws:
    """Random integers that follow from a key of integers, whatever the machine and the release of NumPy.

    NumPy promises the bits of PCG64 and of its seeding, not what its distributions make of them. Keys of equally many
    numbers below 2**32 give different draws; a shorter key is the same as one that ends with zeros.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._halves: list[int] = []

    def below(self, count: int) -> int:
        """0 to count - 1, for counts far below 2**32."""
        if not self._halves:
            raw = self._bits.random_raw(128)
            self._halves = np.stack((raw >> np.uint64(32), raw & np.uint64(0xFFFFFFFF))).ravel().tolist()
        return (self._halves.pop() * count) >> 32

    def between(self, low: int, high: int) -> int:
        """Both ends included; `low` where they are the wrong way round."""
        return low + self.below(max(high - low, 0) + 1)

    def bell(self, spread: int) -> int:
        """Around 0 with that standard deviation, never beyond 3.5 of them."""
        scale = 2048  # the sum of four numbers below 2048 has a standard deviation of 1182
        total = sum(self.below(scale) for _ in range(4)) - 2 * (scale - 1)
        return (total * spread + 591) // 1182

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, with probability in proportion to its weight."""
        point = self.below(sum(weights))
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        raise AssertionError("weights are not positive")

    def table(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Bytes."""
        count = int(np.prod(shape))
        raw = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return raw.view(np.uint8)[:count].reshape(shape)


_fixed = Draws(20240)  # colours and preferences are part of the data set, the same for every seed
PALETTE: tuple[RGB, ...] = tuple(
    (50 + _fixed.below(151), 50 + _fixed.below(151), 50 + _fixed.below(151)) for _ in range(48)
)
SKY_COLOUR, GROUND_COLOUR, SKYLINE_COLOUR, DETAIL_COLOUR, THING_COLOUR = 0, 3, 10, 14, 20  # first rows of PALETTE
THING_PREFERENCE = tuple(tuple((1, 1, 2, 4)[_fixed.below(4)] for _ in THINGS) for _ in range(len(SKIES) * len(GROUNDS)))
"""Which things occur with which pair of sky and ground."""


def draw_scene(image_size: tuple[int, int], draws: Draws, *, cues: Cues | None = None) -> tuple[Image, Labels]:
    """Image (H, W, 3) and labels (H, W) uint8 of the 150 classes of `FINE_NAMES`.

    `cues` replaces the drawn cues and leaves all other draws alone.
    """
    drawn = Cues(*(draws.below(3) for _ in Cues._fields))
    scene = _Scene(image_size, draws, cues or drawn)
    scene.paint_sky_and_ground()
    scene.paint_skyline()
    footing = scene.labels.copy()
    scene.paint_poles()
    scene.paint_fence()
    scene.paint_things(footing)
    scene.paint_board()  # last, so that nothing hides it
    return scene.photograph(), scene.labels


@cache
def names_and_labels(num_classes: int) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Names of that many classes, and which of them each of the 150 fine labels is called by, (150,) uint8."""
    kept = sorted(_UNFOLDING[:num_classes])
    table = np.array([kept.index(_called(label, kept)) for label in range(MOST_CLASSES)], np.uint8)
    table.flags.writeable = False
    return tuple(FINE_NAMES[label] for label in kept), table


def _called(label: int, kept: Collection[int]) -> int:
    return label if label in kept else _called(_PARENT[label], kept)


class _Scene:
    """A picture in the making; positions in pixels, `unit` is the scale of everything that has a size.

    The image is (3, H, W) until it is photographed: NumPy is several times faster on whole planes.
    """

    def __init__(self, image_size: tuple[int, int], draws: Draws, cues: Cues) -> None:
        self.height, self.width = image_size
        self.unit = isqrt(self.height * self.width)
        self.draws = draws
        self.cues = cues
        self.textures, self.noise = _textures(max(image_size))
        self.image: Plane = np.empty((3, self.height, self.width), np.int16)
        self.labels: Labels = np.empty((self.height, self.width), np.uint8)
        self.columns: Whole = np.arange(self.width, dtype=np.int32)
        self.rows: Whole = np.arange(self.height, dtype=np.int32)[:, None]
        self.horizon = draws.between(300, 600) * self.height // 1000
        tilt = draws.bell(100) * self.height // self.width  # 1/1000
        self.horizon_rows: Whole = self.horizon + (self.columns - self.width // 2) * tilt // 1000
        """(W,), the ground is below."""

    def length(self, share: int) -> int:
        """Pixels, of 1/1024 of the unit length."""
        return share * self.unit // 1024

    def colour(self, row: int, spread: int = STUFF_SPREAD, tone: int = 0) -> Plane:
        """(3, 1, 1), an instance's colour around a row of the palette."""
        return _colour(PALETTE[row], tuple(self.draws.bell(spread) for _ in range(3)), tone)

    def tone(self) -> int:
        return self.draws.weighted(TONE_SHARES)

    def fill(
        self, top: int, bottom: int, left: int, right: int, label: int, texture: int, colour: Plane, mask: Mask | None
    ) -> None:
        """Textured stuff in a rectangle, or where the rectangle's mask is true."""
        if bottom <= top or right <= left:
            return
        longest = max(self.height, self.width)
        y, x = self.draws.below(longest), self.draws.below(longest)
        texels = self.textures[texture][y : y + bottom - top, x : x + right - left]
        image, labels = self.image[:, top:bottom, left:right], self.labels[top:bottom, left:right]
        if mask is None:
            np.add(colour, texels, out=image)
            labels[...] = label
        else:
            np.copyto(image, colour + texels, where=mask)
            np.copyto(labels, np.uint8(label), where=mask)

    def rectangle(self, top: int, bottom: int, left: int, right: int, label: int, colour: Plane) -> None:
        top, left = max(top, 0), max(left, 0)
        self.image[:, top:bottom, left:right] = colour
        self.labels[top:bottom, left:right] = label

    def stamp(self, x: int, y: int, sides: tuple[int, int], kind: tuple[str, bool], label: int, colour: Plane) -> None:
        """A shaded shape, `kind` is (shape, striped), centred at (x, y); `sides` are half its height and width."""
        down, across = sides
        top, bottom = max(y - down, 0), min(y + down + 1, self.height)
        left, right = max(x - across, 0), min(x + across + 1, self.width)
        if bottom - top < 2 or right - left < 2:
            return
        shape, striped = kind
        u = (self.columns[None, left:right] - x) * _FRACTION // max(across, 1)
        v = (self.rows[top:bottom] - y) * _FRACTION // max(down, 1)
        mask = _shape_mask(shape, u, v)
        shade = _FRACTION + (28 * u + 37 * v) // _FRACTION
        if striped:
            shade = shade * np.where((v + 16 * _STRIPE) // _STRIPE % 2, 179, 333) // _FRACTION
        shaded = colour.astype(np.int32) * shade // _FRACTION
        np.copyto(self.image[:, top:bottom, left:right], shaded.astype(np.int16), where=mask)
        np.copyto(self.labels[top:bottom, left:right], np.uint8(label), where=mask)

    def paint_sky_and_ground(self) -> None:
        """Each shows its own cue only; what it is called needs the other's, the ground the board's too."""
        sky, ground, board = self.cues
        lowest_sky = min(max(int(self.horizon_rows.max()) + 1, 0), self.height)
        sky_label = (2 * sky, 2 * sky + 1, FIRST_CHECKED_SKY + sky)[(1, 0, 2)[ground]]
        self.fill(0, lowest_sky, 0, self.width, sky_label, SKY_TEXTURES[sky], self.colour(SKY_COLOUR + sky), None)
        top = max(int(self.horizon_rows.min()), 0)
        below = self.rows[top:] > self.horizon_rows
        ground_label = FIRST_GROUND + ground * len(BOARDS) + board
        colour = self.colour(GROUND_COLOUR + ground)
        self.fill(top, self.height, 0, self.width, ground_label, GROUND_TEXTURES[ground], colour, below)

    def paint_skyline(self) -> None:
        """Buildings, trees and hills that stand on the horizon."""
        draws, unit = self.draws, self.unit
        for _ in range(draws.between(1, 4) * max(self.width, unit) // unit):
            kind, tone = draws.below(len(SKYLINE)), self.tone()
            width = self.length(draws.between(100, 360))
            height = draws.between(150, 600) * min(self.height, unit) // 1000
            start = draws.between(-100, 950) * self.width // 1000
            left, right = max(start, 0), min(start + width, self.width)
            colour = self.colour(SKYLINE_COLOUR + kind, tone=tone)
            pitch, detail_tone, detail = self.length(draws.between(41, 82)), self.tone(), self.colour(DETAIL_COLOUR)
            door = draws.below(10) < 7
            if right - left < 3:
                continue
            bottom = min(max(int(self.horizon_rows[(left + right) // 2]) + unit // 50, 2), self.height)
            top = max(bottom - height, 0)
            mask = None
            if (building := kind < 2) is False:
                u = (2 * self.columns[left:right] - left - right) * _FRACTION // (right - left)
                v = (self.rows[top:bottom] - bottom) * _FRACTION // (bottom - top + 1)
                rest = np.maximum(_FRACTION**2 - u * u, 0).astype(np.int64)
                mask = v * v < (rest if SKYLINE[kind] == "round tree" else rest**3 // _FRACTION**4)
            self.fill(
                top, bottom, left, right, _toned(FIRST_SKYLINE + kind, tone), SKYLINE_TEXTURES[kind], colour, mask
            )
            if building:
                self._paint_windows((top, bottom, left, right), max(pitch, 3), detail_tone, detail)
                if door:
                    self._paint_door((top, bottom, left, right), max(pitch, 3))

    def _paint_windows(self, wall: tuple[int, int, int, int], pitch: int, tone: int, colour: Plane) -> None:
        top, bottom, left, right = wall
        side = max(pitch * 4 // 5, 1)
        toned = colour + _TONE_STEPS[tone]
        for y in range(top + pitch // 2, bottom - pitch * 6 // 5, pitch * 17 // 10):
            for x in range(left + pitch * 2 // 5, right - pitch, pitch * 8 // 5):
                self.rectangle(y, y + side, x, x + side, _toned(WINDOW, tone), toned)

    def _paint_door(self, wall: tuple[int, int, int, int], pitch: int) -> None:
        _, bottom, left, right = wall
        tone = self.tone()
        x = self.draws.between(left, right - pitch - 1)
        colour = self.colour(DETAIL_COLOUR + 1, tone=tone)
        self.rectangle(bottom - pitch * 9 // 5, bottom, x, x + pitch + 1, _toned(DOOR, tone), colour)

    def paint_poles(self) -> None:
        draws = self.draws
        for _ in range(draws.below(4)):
            tone = self.tone()
            width = max(self.length(draws.between(15, 31)), 1)
            left = draws.between(0, self.width - width)
            bottom = draws.between(500, 950) * self.height // 1000
            top = bottom - draws.between(300, 700) * self.height // 1000
            colour = self.colour(DETAIL_COLOUR + 2, tone=tone)
            self.rectangle(top, bottom, left, left + width, _toned(POLE, tone), colour)

    def paint_fence(self) -> None:
        """Two rails and their posts, in some scenes."""
        draws = self.draws
        if draws.below(10) >= 4:
            return
        tone = self.tone()
        top = draws.between(550, 900) * self.height // 1000
        rail, rise, gap = max(self.length(17), 1), self.length(51), max(self.length(61), 3)
        left, right = sorted(draws.below(self.width) for _ in range(2))
        colour, label = self.colour(DETAIL_COLOUR + 3, tone=tone), _toned(FENCE, tone)
        for y in (top, top + rise):
            self.rectangle(y, y + rail, left, right, label, colour)
        for x in range(left, right, gap):
            self.rectangle(top, top + rise, x, x + rail, label, colour)

    def paint_things(self, footing: Labels) -> None:
        """Far ones first, the nearer the larger; `footing` are the labels things stand on."""
        draws = self.draws
        preference = THING_PREFERENCE[self.cues.sky * len(GROUNDS) + self.cues.ground]
        weights = [often * preferred for often, preferred in zip(THING_FREQUENCY, preference, strict=True)]
        count = draws.between(5, 12)
        for share in sorted(draws.between(120, 999) for _ in range(count)):
            kind, tone = draws.weighted(weights), self.tone()
            y, x = share * self.height // 1000, draws.below(self.width)
            nearness = min(max(abs(y - self.horizon) * 1000 // self.height, 20), 500)
            size = self.length(31 + 174 * nearness // 1000) * _SPREADS[draws.below(len(_SPREADS))] // _FRACTION
            radius = min(size, self.height * 2 // 5)
            aspect = _ASPECTS[draws.below(len(_ASPECTS))]
            colour = self.colour(THING_COLOUR + kind, THING_SPREAD, tone)
            label = _FIRST_LABELS[kind] + self._decision(THINGS[kind].decider, int(footing[y, x]))
            sides = radius, radius * aspect // _FRACTION
            self.stamp(x, y, sides, THINGS[kind][:2], _toned(label, tone), colour)

    def _decision(self, decider: Decider, footing: int) -> int:
        match decider:
            case "itself":
                return 0
            case "board":
                return self.cues.board
            case "ground":
                return self.cues.ground
            case "footing":
                return _FOOTING[footing]

    def paint_board(self) -> None:
        draws, tone = self.draws, self.tone()
        radius = max(self.length(draws.between(*BOARD_RADIUS)), 2)
        x = draws.between(radius, self.width - 1 - radius)
        y = draws.between(radius, self.height - 1 - radius)
        label = _toned(FIRST_BOARD + self.cues.board, tone)
        frame = np.array(BOARD_FRAMES[tone], np.int16)[:, None, None]
        field = np.array(BOARD_COLOURS[self.cues.board], np.int16)[:, None, None]
        self.stamp(x, y, (radius, radius), ("plate", False), label, frame)
        inner = radius * 4 // 5
        self.stamp(x, y, (inner, inner), ("plate", False), label, field)

    def photograph(self) -> Image:
        """The image with sensor noise, exposure and colour cast, as uint8."""
        longest = max(self.height, self.width)
        y, x = self.draws.below(longest), self.draws.below(longest)
        self.image += self.noise[:, y : y + self.height, x : x + self.width]
        np.clip(self.image, 0, 400, out=self.image)
        exposure = self.draws.bell(10)
        gains = [64 + min(max(exposure + self.draws.bell(6), -32), 17) for _ in range(3)]  # 400 x 81 fits into int16
        self.image *= np.array(gains, np.int16)[:, None, None]
        self.image >>= 6
        np.minimum(self.image, 255, out=self.image)
        return np.ascontiguousarray(self.image.astype(np.uint8).transpose(1, 2, 0))


_STRIPE = 115  # half a period
_SPREADS = (128, 154, 176, 197, 219, 240, 256, 273, 299, 332, 371, 412, 460, 530)
"""Sizes around the one that perspective gives, in 1/256."""
_ASPECTS = (205, 223, 241, 256, 272, 294, 320)
_TONE_STEPS = (np.int16(0), np.int16(TONE_STEP), np.int16(-TONE_STEP))


def _colour(base: RGB, change: Sequence[int], tone: int) -> Plane:
    """(3, 1, 1)."""
    colour: Plane = (np.array(base, np.int16) + np.array(change, np.int16) + _TONE_STEPS[tone])[:, None, None]
    return colour


def _toned(label: int, tone: int) -> int:
    """The fine class of a common class of this tone."""
    return label if tone == 0 else FIRST_TONED + (tone - 1) * TONED_CLASSES + label - FIRST_SKYLINE


def _first_labels() -> tuple[int, ...]:
    """First class of each kind of thing."""
    counts = [len(kind.class_names) for kind in THINGS]
    return tuple(FIRST_THING + sum(counts[:index]) for index in range(len(counts)))


_FIRST_LABELS = _first_labels()


def _footing(label: int) -> int:
    """Which of `FOOTINGS` a fine label is."""
    if label < FIRST_GROUND or FIRST_CHECKED_SKY <= label < FIRST_TONED:
        return 0
    return 2 if label < FIRST_SKYLINE else 1


_FOOTING = tuple(_footing(label) for label in range(MOST_CLASSES))


def _unfolding() -> Mapping[int, int]:
    """Every class and what it is called where there are fewer classes, in the order in which they are added."""
    decided = {
        _FIRST_LABELS[i] + j: _FIRST_LABELS[i] for i, kind in enumerate(THINGS) for j in range(1, len(kind.class_names))
    }
    order = {0: 0, FIRST_GROUND: 0, FIRST_SKYLINE: 0, FIRST_THING: FIRST_GROUND, FIRST_BOARD: FIRST_THING}
    order |= {POLE: FIRST_THING, WINDOW: FIRST_SKYLINE, FENCE: FIRST_THING, DOOR: FIRST_SKYLINE}
    order |= {FIRST_SKYLINE + kind: FIRST_SKYLINE for kind in range(1, len(SKYLINE))}
    order |= dict.fromkeys(_FIRST_LABELS[1:], FIRST_THING)
    order |= {FIRST_BOARD + board: FIRST_BOARD for board in range(1, len(BOARDS))}
    order |= {FIRST_GROUND + ground * len(BOARDS): FIRST_GROUND for ground in range(1, len(GROUNDS))}
    order |= {2 * sky: 0 for sky in range(1, len(SKIES))}
    order |= {
        label: label - (label - FIRST_GROUND) % len(BOARDS)
        for label in range(FIRST_GROUND, FIRST_SKYLINE)
        if label not in order
    }
    order |= {2 * sky + 1: 2 * sky for sky in range(len(SKIES))}
    order |= decided
    order |= {FIRST_CHECKED_SKY + sky: 2 * sky for sky in range(len(SKIES))}
    order |= {_toned(label, tone): label for tone in (1, 2) for label in range(FIRST_SKYLINE, COMMON_CLASSES)}
    assert len(order) == MOST_CLASSES
    return order


_PARENT = _unfolding()
_UNFOLDING = tuple(_PARENT)


def _shape_mask(shape: str, u: Whole, v: Whole) -> Mask:
    """Shapes in the square |u|, |v| < 256; u is (1, w), v is (h, 1) and points down."""
    match shape:
        case "disc":
            return u * u + v * v < 65536
        case "plate":
            return (np.abs(u) < 256) & (np.abs(v) < 159)
        case "post":
            return (np.abs(u) < 102) & (np.abs(v) < 256)
        case "wedge":
            return np.abs(u) < (v + 256) // 2
        case "diamond":
            return np.abs(u) + np.abs(v) < 256
        case "ring":
            squared = u * u + v * v
            return (squared < 65536) & (squared > 16384)
        case "cross":
            return (np.abs(u) < 84) | (np.abs(v) < 84)
        case "corner":
            return (np.abs(v) < 256) & ((u < -77) | (v > 77))
        case "dome":
            return (u * u + v * v < 65536) & (v < 38)
        case "hourglass":
            return np.abs(u) < np.abs(v) * 218 // 256 + 31
    raise AssertionError(f"no shape {shape!r}")


@lru_cache(maxsize=2)
def _textures(length: int) -> tuple[tuple[Plane, ...], Plane]:
    """8 textures (2 length, 2 length) and noise (3, 2 length, 2 length), in grey levels."""
    draws = Draws(5)
    side = 2 * length
    place = np.arange(side, dtype=np.int32)

    def blobs(frequency: int) -> Whole:
        """Bilinear noise of `frequency` cells per image, standard deviation about 256."""
        cells = 2 * frequency + 2
        grid = draws.table((4, cells, cells)).astype(np.int32).sum(axis=0) * 2 - 1020  # standard deviation 296
        low, share = place * (cells - 1) // side, (place * (cells - 1) % side) * 256 // side
        rows = (grid[low] * (256 - share)[:, None] + grid[low + 1] * share[:, None]) // 256
        mixed: Whole = (rows[:, low] * (256 - share) + rows[:, low + 1] * share) // 256
        return mixed

    def bars(coordinate: Whole, frequency: int) -> Whole:
        """-256 or 256, `frequency` periods per image."""
        return np.where(coordinate * 2 * frequency // length % 2, np.int32(-256), np.int32(256))

    y, x = place[:, None], place[None, :]
    flat = np.zeros((side, side), np.int32)
    all_of_them = (
        blobs(4) * 6,
        blobs(24) * 7,
        (bars(y, 20) + flat) * 7,
        (bars(x, 20) + flat) * 7,
        bars(x, 14) * bars(y, 14) // 256 * 7,
        blobs(10) * 7,
        bars(x + y, 14) * 7,
        blobs(40) * 5 + blobs(4) * 4,
    )
    textures = tuple((texture * TEXTURE_CONTRAST // 2560).astype(np.int16) for texture in all_of_them)
    noise = np.empty((3, side, side), np.int16)
    for plane in noise:
        total = draws.table((4, side, side)).sum(axis=0, dtype=np.int16)  # standard deviation 147.8
        plane[...] = ((total.astype(np.int32) - 510) * NOISE_SPREAD + 74) // 148
    return textures, noise

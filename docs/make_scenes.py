"""Make docs/scenes.png, scenes beside their labels: `python docs/make_scenes.py`, some seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluators.datasets.scenes import Scenes, draw_item

STRIPS = (4, 21, 40)
SQUARES = (2, 11)
GAP = 8
SQUARE_SHOWN_PX = 284
"""Four of them and their gaps are as wide as two strips."""


def main() -> None:
    strips = [beside(pictures(Scenes(), index)) for index in STRIPS]
    squares = [
        shrunk
        for index in SQUARES
        for shrunk in map(small, pictures(Scenes(image_size=(512, 512), num_classes=150), index))
    ]
    content = below([*strips, beside(squares)])
    Image.fromarray(content).save(Path(__file__).parent / "scenes.png", optimize=True)


def pictures(scenes: Scenes, index: int) -> list[NDArray[np.uint8]]:
    """A training image, and its labels in colours."""
    image, labels = draw_item(scenes, "train", index)
    return [image, np.array(scenes.palette, np.uint8)[labels]]


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((SQUARE_SHOWN_PX, SQUARE_SHOWN_PX), Image.Resampling.BOX))


def beside(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return _joined(parts, axis=1)


def below(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return _joined(parts, axis=0)


def _joined(parts: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """With white between them."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (gap, part)][1:], axis=axis)


if __name__ == "__main__":
    main()

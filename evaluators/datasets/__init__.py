"""What does a training need to know about labelled images? One protocol; one file per data set beside this one.

A data set on disk, a folder of a user's own and a procedural one all obey `SegmentationDataset`, by shape alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    """(H, W, 3) RGB."""
    Labels = NDArray[np.uint8]
    """(H, W), a class or `IGNORE`."""

Split = Literal["train", "val", "test"]
"""test: what finished comparisons are judged on; nothing is trained on it or chosen by it. Few data sets have it."""
Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

IGNORE = 255
"""Label of pixels that are neither trained on nor scored."""


def numbered_palette(count: int) -> tuple[Colour, ...]:
    """Colours by the bits of 1, 2, ..., as Pascal VOC has them; black, its first, is left to what is ignored."""
    return tuple(_numbered_colour(number) for number in range(1, count + 1))


def _numbered_colour(number: int) -> Colour:
    colour = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            colour[channel] |= (number & 1) << shift
            number >>= 1
    return colour[0], colour[1], colour[2]


class SegmentationDataset(Protocol):
    """Labelled images. Must survive pickling, since evaluations run in worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[Colour, ...]:
        """A colour per class, for pictures."""

    @property
    def num_classes(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an image or a label to train on or to validate by would."""

    @property
    def test_fingerprint(self) -> str | None:
        """Likewise for the images and labels of `test`; None where there are none."""

    def length(self, split: Split) -> int: ...

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Image (H, W, 3) and labels (H, W), both uint8, not to be written to; equal for equal arguments.

        Items of photographs differ in size, unless `at_size` made the data set.
        """

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """The same data set with every item (height, width) pixels large."""

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

Split = Literal["train", "val"]

IGNORE = 255
"""Label of pixels that are neither trained on nor scored."""


class SegmentationDataset(Protocol):
    """Labelled images of one size. Must survive pickling, since evaluations run in worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an image or a label of either split would."""

    def length(self, split: Split) -> int: ...

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        """Image (H, W, 3) and labels (H, W), both uint8, not to be written to; equal for equal arguments."""

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """The same data set with every item (height, width) pixels large."""

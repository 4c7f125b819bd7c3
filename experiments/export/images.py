"""Which images is an exported network compared and calibrated on? Those of a data set, or drawn scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE
from evaluators.datasets.named import dataset_named
from evaluators.datasets.scenes import MOST_ELONGATED, Scenes, draw_item
from evaluators.evaluation import normalised
from experiments.export.formats import Network
from topformer.config import Task
from topformer.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evaluators.datasets import SegmentationDataset, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images of one size, (N, H, W, 3) uint8 RGB."""

    source: str
    """Where they are from, for people."""
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None
    """(N, H, W), where the data set has the network's classes."""

    def inputs(self, network: Network) -> list[NDArray[np.float32]]:
        """Each as the network takes it, (1, 3, H, W)."""
        return [as_input(network, image) for image in self.pixels]


def as_input(network: Network, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) -> (1, 3, H, W), normalised unless the network does that itself."""
    batch = torch.tensor(image)[None]
    made = batch.permute(0, 3, 1, 2).float() if network.normalise_inside else normalised(batch)
    found: NDArray[np.float32] = made.contiguous().numpy()
    return found


COMPARED = 8
"""Images that every format is compared with torch on."""


def compared_images(data: str | None, task: Task) -> Images:
    """Of a data set's validation split, or drawn."""
    return drawn_images(task, COMPARED) if data is None else images_of(data, task, COMPARED)


def drawn_images(task: Task, count: int) -> Images:
    """Drawn scenes, as `scenes` has them, of the task's size: always at hand, and the same each time."""
    height, width = task.image_size
    least = -(-max(height, width) // MOST_ELONGATED)
    scenes = Scenes(image_size=(max(height, least), max(width, least)))
    pixels = [_resized(draw_item(scenes, "val", index)[0], task.image_size) for index in range(count)]
    return Images(source="drawn scenes", pixels=np.stack(pixels))


def images_of(data: str, task: Task, count: int, *, split: Split = "val") -> Images:
    """The first images of a data set's split, resized; labels, too, where it has as many classes as the task.

    Raises `UserError` where there are fewer.
    """
    dataset = dataset_named(data)
    there = dataset.length(split)
    if there < count:
        raise UserError(f"{data} has {there} images in its split {split}, and {count} are needed; name other data.")
    return taken(dataset, data, task, range(count), split=split)


def taken(dataset: SegmentationDataset, data: str, task: Task, indices: range, *, split: Split) -> Images:
    items = [dataset.item(split, index) for index in indices]
    pixels = np.stack([_resized(image, task.image_size) for image, _ in items])
    source = f"{data}, {split} images {indices.start} to {indices.stop - 1}"
    if dataset.num_classes != task.num_classes:
        return Images(source=source, pixels=pixels)
    labels = np.stack([_nearest(labels, task.image_size) for _, labels in items])
    return Images(source=source, pixels=pixels, labels=np.minimum(labels, IGNORE).astype(np.uint8))


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    return np.asarray(PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR))


def _nearest(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    return np.asarray(PillowImage.fromarray(labels).resize((width, height), PillowImage.Resampling.NEAREST))

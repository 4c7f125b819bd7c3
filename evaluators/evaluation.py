"""How good is a trained network? Confusion over a validation split, and labels for one's own images.

May import torch, NumPy and what `evaluators.datasets` promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.segmentation import ConfusionMatrix, sampled_labels
from topformer.model import upsample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evaluators.datasets import Image, Labels, SegmentationDataset, Split
    from evaluators.datasets.imagenet import ClassFolders
    from evaluators.recipe import Protocol

MEAN = (123.675, 116.28, 103.53)
STANDARD_DEVIATION = (58.395, 57.12, 57.375)
"""Of ImageNet, RGB, 0 to 255: what released backbones expect."""
EVALUATION_BATCH = 10
BLOCK_IMAGES = 10
MOST_BLOCKS = 50
CLASSIFICATION_PX = 224
_CLASSIFICATION_SHORT_SIDE = 256
_LONGEST = 16
"""Sides of an image, one in the other, beyond which its ends are left out before it is resized."""
_LOGITS_AT_ONCE = 2**26
"""At an image's size: 256 MB."""


def normalised(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels last in memory."""
    mean, deviation = (torch.tensor(v, device=images.device) for v in (MEAN, STANDARD_DEVIATION))
    return ((images.float() - mean) / deviation).permute(0, 3, 1, 2)


def segmented(model: nn.Module, image: Image, protocol: Protocol) -> NDArray[np.int64]:
    """Labels (H, W) of one image (H, W, 3): resized for the network, logits resized to what it saw and then to the
    image, both bilinear, then the class with the largest one. The model must be in eval mode."""
    device = next(model.parameters()).device
    height, width, _ = image.shape
    with torch.inference_mode():
        pixels = normalised(torch.tensor(image)[None].to(device))
        seen = upsample(pixels, protocol.input_size(height, width))
        logits = upsample(cast(Tensor, model(seen)), (seen.shape[-2], seen.shape[-1]))
        return labels_of(logits, (height, width))


def labels_of(logits: Tensor, size: tuple[int, int], *, at_once: int = _LOGITS_AT_ONCE) -> NDArray[np.int64]:
    """(1, K, h, w) -> (H, W): the class with the largest logit after bilinear resizing, some rows at a time where there
    would be more than `at_once` logits: with 150 classes they are 7 GB for a photograph of 12 million pixels."""
    (_, classes, rows, _), (height, width) = logits.shape, size
    step = max(at_once // (classes * width), 1)
    if step >= height:
        whole: NDArray[np.int64] = upsample(logits, size)[0].argmax(dim=0).cpu().numpy()
        return whole
    places = ((torch.arange(height, device=logits.device) + 0.5) * (rows / height) - 0.5).clamp(0, rows - 1)
    above = places.long()
    below = (above + 1).clamp(max=rows - 1)
    share = (places - above)[:, None]  # of the row below
    labels = np.empty(size, np.int64)
    for top in range(0, height, step):
        strip = slice(top, min(top + step, height))
        between = torch.lerp(logits[0, :, above[strip]], logits[0, :, below[strip]], share[strip].to(logits))
        found = upsample(between[None], (strip.stop - top, width))[0].argmax(dim=0)
        labels[strip] = found.cpu().numpy()
    return labels


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    protocol: Protocol,
    *,
    split: Split = "val",
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    seen: Callable[[int, Image, Labels, NDArray[np.int64]], None] | None = None,
) -> ConfusionMatrix:
    """Confusion over a split, or the images of it that are asked for, at their original size.

    `seen` gets every index, image, labels and prediction. Raises `DataError` where a file cannot be read.
    """
    assert not model.training, "evaluation needs eval mode"
    matrix = ConfusionMatrix(dataset.num_classes)
    wanted = range(dataset.length(split)) if indices is None else indices
    for done, index in enumerate(wanted, start=1):
        image, labels = dataset.item(split, index)
        predicted = segmented(model, image, protocol)
        matrix.update(predicted, labels)
        if seen:
            seen(index, image, labels, predicted)
        if progress:
            progress(done, len(wanted))
    return matrix


def right_answers(
    model: nn.Module,
    dataset: ClassFolders,
    *,
    indices: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """How many of these validation images get their class: short side 256 px, the centre 224 x 224."""
    assert not model.training, "evaluation needs eval mode"
    device = next(model.parameters()).device
    right = 0
    for done, index in enumerate(indices, start=1):
        image, label = dataset.item("val", index)
        pixels = normalised(torch.tensor(_without_ends(image))[None].to(device))
        factor = _CLASSIFICATION_SHORT_SIDE / min(pixels.shape[-2:])
        size = (round(pixels.shape[-2] * factor), round(pixels.shape[-1] * factor))
        top, left = ((side - CLASSIFICATION_PX) // 2 for side in size)
        resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        with torch.inference_mode():
            logits = model(resized[..., top : top + CLASSIFICATION_PX, left : left + CLASSIFICATION_PX])
        right += int(logits.argmax().item() == label)
        if progress:
            progress(done, len(indices))
    return right


def _without_ends(image: Image) -> Image:
    """Of a ribbon the middle, which is all that is seen: 1 x 20000 px would be resized to 256 x 5 million."""
    longest = _LONGEST * min(image.shape[:2])
    top, left = (max(side - longest, 0) // 2 for side in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def evaluate_blocks(
    model: nn.Module, dataset: SegmentationDataset, protocol: Protocol, *, split: Split
) -> tuple[ConfusionMatrix, ...]:
    """Confusion over each block of `BLOCK_IMAGES` neighbouring images of a split, or more where it is long.

    Neighbours are often alike, frames of one drive: what an interval over images resamples is blocks of them.
    """
    count = dataset.length(split)
    size = max(BLOCK_IMAGES, math.ceil(count / MOST_BLOCKS))
    return tuple(
        evaluate(model, dataset, protocol, split=split, indices=range(start, min(start + size, count)))
        for start in range(0, count, size)
    )


def score(model: nn.Module, dataset: SegmentationDataset, *, stride: int, images: int | None = None) -> ConfusionMatrix:
    """Confusion over the whole validation split of images of one size, on a grid of one pixel in stride x stride.

    `images`: the first so many alone.

    Logits are resized to that grid bilinearly, whatever their own stride, so that every network is judged on the same
    pixels; stride 1 is the full resolution. The model must be in eval mode and return logits.
    """
    assert not model.training, "score needs eval mode"
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(dataset.num_classes)
    count = min(dataset.length("val"), images or dataset.length("val"))
    with torch.inference_mode():
        for start in range(0, count, EVALUATION_BATCH):
            items = [dataset.item("val", i) for i in range(start, min(start + EVALUATION_BATCH, count))]
            labels = stacked([labels for _, labels in items])
            size = (math.ceil(labels.shape[-2] / stride), math.ceil(labels.shape[-1] / stride))
            logits = cast(Tensor, model(normalised(stacked([image for image, _ in items]).to(device))))
            predicted = upsample(logits, size).argmax(dim=1)
            matrix.update(predicted.cpu().numpy(), sampled_labels(labels, size).numpy())
    return matrix


def recalibrate_batch_norm(model: nn.Module, dataset: SegmentationDataset, *, images: int) -> None:
    """Batch-norm statistics of the final weights, over the first training images; the model's mode is kept.

    Batches count equally, and a last one of less than two images is left out: it has no variance of its own.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if images < 2 or not norms:
        return
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()  # so that dropout stays off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, images, EVALUATION_BATCH):
            indices = range(start, min(start + EVALUATION_BATCH, images))
            if len(indices) >= 2:
                model(normalised(stacked([dataset.item("train", i)[0] for i in indices]).to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def stacked(arrays: Sequence[Image] | Sequence[Labels]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))

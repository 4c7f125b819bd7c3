"""How good is a labelling, and what is minimised to make it better? The confusion matrix, mIoU and the losses.

The one place that turns labels into numbers; imports torch and NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evaluators.datasets import IGNORE
from topformer.errors import UserError

_LEAST_WEIGHT = 1e-12


class ConfusionMatrix:
    """Pixels by label (row) and prediction (column), int64, filled piece by piece."""

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> None:
        """Add maps of equal, arbitrary shape; pixels labelled `IGNORE` do not count."""
        assert predicted.shape == labels.shape, f"{predicted.shape} predictions for {labels.shape} labels"
        num_classes = len(self.counts)
        scored = labels != IGNORE
        rows, columns = labels[scored].astype(np.int64), predicted[scored].astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < num_classes:
            raise UserError(
                f"labels run from {rows.min()} to {rows.max()}, but there are {num_classes} classes, "
                f"0 to {num_classes - 1} and {IGNORE} for pixels to ignore; check the data set's label maps."
            )
        self.counts += np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(self.counts.shape)

    @property
    def per_class_iou_pct(self) -> tuple[float | None, ...]:
        """Intersection over union; None for a class that is neither labelled nor predicted anywhere."""
        correct = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - correct
        return tuple(100 * int(c) / int(u) if u else None for c, u in zip(correct, union, strict=True))

    @property
    def miou_pct(self) -> float:
        """Mean over the classes with a non-empty union."""
        return _mean(iou for iou in self.per_class_iou_pct if iou is not None)

    @classmethod
    def sum_of(cls, parts: Sequence[ConfusionMatrix]) -> ConfusionMatrix:
        whole = cls(len(parts[0].counts))
        for part in parts:
            whole.counts += part.counts
        return whole

    @property
    def class_counts(self) -> tuple[tuple[int, int, int], ...]:
        """Pixels of each class: rightly predicted, labelled, predicted. They tell its IoU, and add up over images."""
        return tuple(
            (int(c), int(labelled), int(predicted))
            for c, labelled, predicted in zip(np.diag(self.counts), self.counts.sum(1), self.counts.sum(0), strict=True)
        )

    @property
    def pixel_accuracy_pct(self) -> float:
        self._require_pixels()
        return 100 * int(np.trace(self.counts)) / int(self.counts.sum())

    @property
    def mean_accuracy_pct(self) -> float:
        """Share of its pixels that a class gets right, mean over the labelled classes."""
        labelled = self.counts.sum(1)
        return _mean(100 * int(c) / int(n) for c, n in zip(np.diag(self.counts), labelled, strict=True) if n)

    def _require_pixels(self) -> None:
        if not self.counts.any():
            raise _nothing_to_score()


def sampled_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) -> int64 (B, h, w), h <= H: the label at the centre of each cell, in line with bilinear resizing."""
    rows, columns = (
        ((torch.arange(cells, device=labels.device) + 0.5) * (pixels / cells)).long()
        for cells, pixels in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns].long()


def label_counts(label_maps: Iterable[NDArray[np.uint8]], num_classes: int) -> NDArray[np.int64]:
    """(num_classes,) labelled pixels."""
    counts = np.zeros(num_classes, np.int64)
    for labels in label_maps:
        found = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        if found[num_classes:IGNORE].any():
            raise UserError(
                f"label {num_classes + int(found[num_classes:IGNORE].nonzero()[0][0])} found, but there are "
                f"{num_classes} classes, 0 to {num_classes - 1}, and {IGNORE} for pixels to ignore; "
                "check the data set's label maps."
            )
        counts += found[:num_classes]
    return counts


def class_weights(counts: NDArray[np.int64], *, power: float) -> Tensor:
    """(num_classes,) frequency ** power, 1 on average over the pixels; 0 for a class without pixels."""
    frequency = counts / max(int(counts.sum()), 1)
    weights = np.where(counts > 0, np.maximum(frequency, 1e-12) ** power, 0.0)
    return torch.tensor(weights / max(float(weights @ frequency), 1e-12), dtype=torch.float32)


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Class-weighted cross-entropy at the logits' stride: (B, K, h, w) against labels (B, H, W) sampled at h x w.

    The sum over the pixels, divided by `total`: the weight of all labelled ones (`label_weight`) or, where a batch is
    computed in parts, its mean over the parts. 0 where nothing is labelled.
    """
    targets = sampled_labels(labels, (logits.shape[-2], logits.shape[-1]))
    if total is None:
        total = label_weight(targets, weights)
    loss = F.cross_entropy(logits, targets, weights, ignore_index=IGNORE, reduction="sum")
    return loss / total.clamp_min(_LEAST_WEIGHT)


def resized_loss(logits: Tensor, labels: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """Class-weighted cross-entropy of logits (B, K, h, w) resized bilinearly to labels (B, H, W), divided by `total`.

    As `segmentation_loss` of the resized logits, but these are never there as a whole: at 512 x 512 with 150 classes
    they are 157 MB an image, five times over with their gradients. Loss and gradient are computed a few rows at a time,
    in float32; three fifths of a step of T went into it.
    """
    loss: Tensor = _ResizedLoss.apply(logits, labels, weights, total)  # type: ignore[no-untyped-call]
    return loss


class _ResizedLoss(torch.autograd.Function):
    """The gradient is made beside the loss, where the softmax is at hand."""

    @staticmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, total: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            coarse = logits.detach().float().contiguous()
            num_classes, (height, width) = coarse.shape[1], labels.shape[-2:]
            rows = _resizing(coarse.shape[-2], height, coarse)  # (H, h)
            columns = _resizing(coarse.shape[-1], width, coarse)  # (W, w)
            padded = F.pad(weights, (0, 1)).to(coarse)
            gradient = torch.empty_like(coarse)
            loss = coarse.new_zeros(())
            step = max(_STRIP_VALUES // (num_classes * width), 1) if coarse.device.type == "cpu" else height
            for image, own, slope in zip(coarse, labels, gradient, strict=True):
                wide = image @ columns.T  # (K, h, W)
                wide_slope = torch.zeros_like(wide)
                for top in range(0, height, step):
                    part, targets = rows[top : top + step], own[top : top + step].long().clamp(max=num_classes)
                    scores = torch.log_softmax(part @ wide, dim=0)  # (K, rows, W)
                    worth, known = padded[targets], targets.clamp(max=num_classes - 1)[None]
                    loss -= (scores.gather(0, known)[0] * worth).sum()
                    slopes = scores.exp_()
                    slopes.scatter_add_(0, known, slopes.new_full((), -1.0).expand(known.shape))
                    wide_slope += part.T @ slopes.mul_(worth)
                torch.matmul(wide_slope, columns, out=slope)
        divisor = total.clamp_min(_LEAST_WEIGHT)
        ctx.save_for_backward(gradient.div_(divisor).to(logits.dtype))
        return loss / divisor

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0], None, None, None


def distillation_loss(
    logits: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor, total: Tensor, *, sparse: bool = False
) -> Tensor:
    """Cross-entropy of logits (B, K, h, w) against the probabilities of a teacher's logits (B, K, h', w'), resized.

    Pixels weigh as in `segmentation_loss`: by the class they are labelled with; unlabelled ones teach nothing. With
    `sparse` labels a cell weighs as all labelled pixels in it.
    """
    size = (logits.shape[-2], logits.shape[-1])
    if teacher.shape[-2:] != logits.shape[-2:]:
        teacher = F.interpolate(teacher, size, mode="bilinear", align_corners=False)
    if sparse:
        worth: Tensor = cell_weights(labels, weights, size).sum(dim=1)
    else:
        targets = sampled_labels(labels, size)
        worth = F.pad(weights, (0, 1))[targets.clamp(max=len(weights))]  # (B, h, w), 0 where unlabelled
    loss = -(teacher.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)
    return (loss * worth).sum() / total.clamp_min(_LEAST_WEIGHT)


_STRIP_VALUES = 4_000_000
"""Resized logits at a time on a CPU, 16 MB. For two images of 512 x 512: 0.35 s with these, 0.5 with half or four times
as many, 0.95 with all of them at once by torch's own functions."""


def _resizing(size: int, wanted: int, like: Tensor) -> Tensor:
    """(wanted, size): bilinear resizing along one side as a matrix, corners not aligned."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)[None]  # (1, channels, size)
    return F.interpolate(unit, wanted, mode="linear", align_corners=False)[0].T.contiguous()


def label_weight(targets: Tensor, weights: Tensor) -> Tensor:
    """Weight of all labelled pixels of int64 (B, h, w), a scalar."""
    return F.pad(weights, (0, 1))[targets.clamp(max=len(weights))].sum()


def pooled_loss(logits: Tensor, labels: Tensor, weights: Tensor, *, sampled_at: tuple[int, int]) -> Tensor:
    """Class-weighted cross-entropy of coarse logits (B, K, h, w) against the label shares of each cell.

    Labels (B, H, W) are sampled at `sampled_at` first: a cell's target is the mixture of the labels it covers.
    """
    num_classes = logits.shape[1]
    sampled = sampled_labels(labels, sampled_at)
    one_hot = F.one_hot(sampled.where(sampled != IGNORE, num_classes), num_classes + 1)[..., :num_classes]
    shares = F.adaptive_avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), (logits.shape[-2], logits.shape[-1]))
    weighted = shares * weights[:, None, None]
    return -(weighted * logits.log_softmax(dim=1)).sum() / weighted.sum().clamp_min(_LEAST_WEIGHT)


def sparse_pooled_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross-entropy of coarse logits (B, K, h, w) against the labels (B, H, W) that each cell covers."""
    weighted: Tensor = cell_weights(labels, weights, (logits.shape[-2], logits.shape[-1]))
    return -(weighted * logits.log_softmax(dim=1)).sum() / weighted.sum().clamp_min(_LEAST_WEIGHT)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # how many pixels are labelled differs from batch to batch
def cell_weights(labels: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) -> (B, K, h, w): the weight of the pixels of each class that lie in each cell, of sparse labels."""
    (count, height, width), (rows, columns), num_classes = labels.shape, size, len(weights)
    image, row, column = (labels != IGNORE).nonzero(as_tuple=True)
    known = labels[image, row, column].long()
    cell = (image * rows + row * rows // height) * columns + column * columns // width
    found = weights.new_zeros(count * rows * columns * num_classes)
    found.index_add_(0, cell * num_classes + known, weights[known])
    shaped: Tensor = found.view(count, rows, columns, num_classes).permute(0, 3, 1, 2)
    return shaped


def _mean(values: Iterable[float]) -> float:
    present = tuple(values)
    if not present:
        raise _nothing_to_score()
    return sum(present) / len(present)


def _nothing_to_score() -> UserError:
    return UserError(
        "nothing to score: of the images that were looked at, every pixel is labelled "
        f"{IGNORE} (ignore), or there are no images; mIoU needs validation images with labelled pixels of the classes."
    )

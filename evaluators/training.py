"""How is a network trained and scored? The one loop that proxies, supernets and full trainings share.

Plain PyTorch on the device the model is on. Same seed, thread count and machine: the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.segmentation import (
    ConfusionMatrix,
    class_weights,
    label_counts,
    pooled_loss,
    sampled_labels,
    segmentation_loss,
)
from topformer.errors import UserError
from topformer.model import TopFormer, upsample, zero_start_residuals

if TYPE_CHECKING:
    from evaluators.base import ProgressCallback
    from evaluators.datasets import Image, Labels, SegmentationDataset

MEAN = (123.675, 116.28, 103.53)
STANDARD_DEVIATION = (58.395, 57.12, 57.375)
"""Of ImageNet, RGB, 0 to 255: what released backbones expect."""

LABEL_COUNT_STRIDE = 4
"""Class frequencies are taken from every fourth pixel of every fourth row."""
EVALUATION_BATCH = 10


class NonFiniteLoss(UserError):  # noqa: N818, a loss that is not finite
    """Training diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """AdamW, linear warm-up then cosine to zero, gradients clipped by norm, horizontal flips."""

    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    """Of the iterations."""
    clip_norm: float
    class_weight_power: float
    """Classes weigh frequency ** power in the loss: 0 is unweighted."""
    auxiliary_weight: float
    """Of the loss of a throw-away linear classifier on the extractor's tokens; 0 trains none."""
    zero_start: bool
    """Residual branches start at zero."""
    recalibration_images: int
    """Training images over which batch-norm statistics are taken anew after the last step; 0 keeps the running ones."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"iterations must be at least 1, not {self.iterations}.")
        if self.batch_size < 2:
            raise UserError(
                f"batch_size must be at least 2, not {self.batch_size}: "
                "batch norm has no variance where a map is a single pixel."
            )
        for name, value, most in (
            ("learning_rate", self.learning_rate, 1.0),
            ("weight_decay", self.weight_decay, 1.0),
            ("warmup_share", self.warmup_share, 1.0),
            ("clip_norm", self.clip_norm, math.inf),
            ("auxiliary_weight", self.auxiliary_weight, 100.0),
            ("recalibration_images", self.recalibration_images, math.inf),
        ):
            if not 0 <= value <= most:
                raise UserError(f"{name} must be from 0 to {most:g}, not {value}.")
        if not -2 <= self.class_weight_power <= 0:
            raise UserError(f"class_weight_power must be from -2 to 0, not {self.class_weight_power}.")

    def learning_rate_at(self, iteration: int) -> float:
        """0-based; the last iterations approach zero."""
        warmup = round(self.warmup_share * self.iterations)
        if iteration < warmup:
            return self.learning_rate * (iteration + 1) / warmup
        share = (iteration - warmup) / max(self.iterations - warmup, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def train(
    model: TopFormer,
    dataset: SegmentationDataset,
    recipe: TrainingRecipe,
    *,
    train_images: int,
    seed: int,
    progress: ProgressCallback | None = None,
) -> float:
    """Train in place on the first `train_images` of the data set and leave the model in eval mode.

    Returns the mean loss of the last tenth of the iterations. Random numbers (dropout, auxiliary classifier, order,
    flips) come from `seed` alone; torch's generator is left as it was. Raises `NonFiniteLoss`.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.zero_start:
            zero_start_residuals(model)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
        auxiliary = nn.Conv2d(model.arch.semantic_channels, model.num_classes, 1).to(device)
        if not recipe.auxiliary_weight:
            auxiliary.requires_grad_(False)
        weights = _weights_of(dataset, train_images, recipe.class_weight_power).to(device)
        losses = _run_iterations(
            model, auxiliary, _batches(dataset, train_images, recipe, seed), weights, recipe, progress
        )
        recalibrate_batch_norm(model, dataset, images=min(recipe.recalibration_images, train_images))
    model.eval()
    return float(np.mean(losses[-math.ceil(len(losses) / 10) :]))


def _run_iterations(
    model: TopFormer,
    auxiliary: nn.Conv2d,
    batches: Iterator[tuple[Tensor, Tensor]],
    weights: Tensor,
    recipe: TrainingRecipe,
    progress: ProgressCallback | None,
) -> list[float]:
    device = weights.device
    trained = [p for p in (*model.parameters(), *auxiliary.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    losses = []
    model.train()
    for iteration in range(recipe.iterations):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate_at(iteration)
        images, labels = (tensor.to(device) for tensor in next(batches))
        tokens, semantics = model.encode(normalised(images))
        logits = cast(Tensor, model.head(*model.inject(tokens, semantics)))
        loss = segmentation_loss(logits, labels, weights)
        objective = loss
        if recipe.auxiliary_weight:
            size = (logits.shape[-2], logits.shape[-1])
            coarse = pooled_loss(auxiliary(semantics), labels, weights, sampled_at=size)
            objective = loss + recipe.auxiliary_weight * coarse
        optimiser.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm or math.inf)
        if not (math.isfinite(objective.item()) and math.isfinite(norm.item())):
            raise NonFiniteLoss(
                f"training diverged at iteration {iteration + 1} of {recipe.iterations}: loss {objective.item():g}, "
                f"gradient norm {norm.item():g}; lower the learning rate ({recipe.learning_rate:g}) "
                f"or warm up for longer (warmup_share {recipe.warmup_share:g})."
            )
        optimiser.step()
        losses.append(loss.item())
        if progress:
            progress(iteration + 1, recipe.iterations, losses[-1])
    return losses


def normalised(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels last in memory."""
    mean, deviation = (torch.tensor(v, device=images.device) for v in (MEAN, STANDARD_DEVIATION))
    return ((images.float() - mean) / deviation).permute(0, 3, 1, 2)


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
                model(normalised(_stacked([dataset.item("train", i)[0] for i in indices]).to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def score(model: nn.Module, dataset: SegmentationDataset, *, stride: int) -> ConfusionMatrix:
    """Confusion over the whole validation split, on a grid of one pixel in stride x stride.

    Logits are resized to that grid bilinearly, whatever their own stride, so that every network is judged on the same
    pixels; stride 1 is the full resolution. The model must be in eval mode and return logits.
    """
    assert not model.training, "score needs eval mode"
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(dataset.num_classes)
    count = dataset.length("val")
    with torch.inference_mode():
        for start in range(0, count, EVALUATION_BATCH):
            items = [dataset.item("val", i) for i in range(start, min(start + EVALUATION_BATCH, count))]
            labels = _stacked([labels for _, labels in items])
            size = (math.ceil(labels.shape[-2] / stride), math.ceil(labels.shape[-1] / stride))
            logits = cast(Tensor, model(normalised(_stacked([image for image, _ in items]).to(device))))
            predicted = upsample(logits, size).argmax(dim=1)
            matrix.update(predicted.cpu().numpy(), sampled_labels(labels, size).numpy())
    return matrix


def _batches(
    dataset: SegmentationDataset, train_images: int, recipe: TrainingRecipe, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless uint8 images (B, H, W, 3) and labels (B, H, W): shuffled epochs back to back, each half flipped."""
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < recipe.batch_size:
            waiting.extend(rng.permutation(train_images).tolist())
        chosen, waiting = waiting[: recipe.batch_size], waiting[recipe.batch_size :]
        images, labels = [], []
        for index, flip in zip(chosen, (rng.random(recipe.batch_size) < 0.5).tolist(), strict=True):
            image, label = dataset.item("train", index)
            images.append(image[:, ::-1] if flip else image)
            labels.append(label[:, ::-1] if flip else label)
        yield _stacked(images), _stacked(labels)


def _stacked(arrays: Sequence[Image] | Sequence[Labels]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _weights_of(dataset: SegmentationDataset, train_images: int, power: float) -> Tensor:
    maps = (dataset.item("train", i)[1][::LABEL_COUNT_STRIDE, ::LABEL_COUNT_STRIDE] for i in range(train_images))
    return class_weights(label_counts(maps, dataset.num_classes), power=power)

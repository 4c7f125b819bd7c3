"""What does a training minimise? A network with its losses as one module: what is distributed and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.datasets import SegmentationDataset
from evaluators.evaluation import normalised
from evaluators.recipe import TrainingRecipe
from evaluators.samples import ImageDataset
from evaluators.segmentation import (
    class_weights,
    distillation_loss,
    label_counts,
    label_weight,
    pooled_loss,
    resized_loss,
    sampled_labels,
    segmentation_loss,
    sparse_pooled_loss,
)
from topformer.config import TopFormerConfig
from topformer.errors import UserError
from topformer.model import TopFormer, TopFormerClassifier
from topformer.supernet import Supernet

LABEL_COUNT_STRIDE = 4
"""Class frequencies are taken from every fourth pixel of every fourth row; of sparse labels from all."""
LABEL_SMOOTHING = 0.1
"""Of classification."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandwich:
    """Which subnets of a supernet learn at an iteration, and from what (arXiv:1903.05134, section 4)."""

    subnets: Callable[[int], tuple[TopFormerConfig, ...]]
    """Of an iteration; the first is the teacher of the others."""
    distillation: float
    """Share of the teacher's answer in what the others learn from; the labels have the rest."""


def objective_of(
    model: TopFormer | TopFormerClassifier | Supernet,
    dataset: ImageDataset,
    recipe: TrainingRecipe,
    *,
    train_images: int,
    sandwich: Sandwich | None,
) -> Objective:
    if isinstance(model, TopFormerClassifier):
        return ClassificationObjective(model)
    weights = _weights_of(cast("SegmentationDataset", dataset), train_images, recipe)
    if isinstance(model, TopFormer):
        return SegmentationObjective(model, weights, recipe)
    assert sandwich is not None, "a supernet learns by its subnets"
    if recipe.loss_at != "logits" or recipe.recalibration_images:
        raise UserError(
            "a supernet is trained with loss_at = 'logits' and recalibration_images = 0: its subnets differ in the "
            "stride of their logits and in their batch-norm statistics."
        )
    return SandwichObjective(model, weights, recipe, sandwich)


class SegmentationObjective(nn.Module):
    """Of an ordinary network."""

    def __init__(self, network: TopFormer, weights: Tensor, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = (
            nn.Conv2d(network.arch.semantic_channels, network.num_classes, 1) if recipe.auxiliary_weight else None
        )
        self.auxiliary_weight = recipe.auxiliary_weight
        self.sparse = bool(recipe.sparse_labels)
        self.at_labels = recipe.loss_at == "labels" or self.sparse
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor

    def begin(self, iteration: int) -> None:
        """Every iteration is alike."""

    def label_weight(self, labels: Tensor) -> Tensor:
        """Of (B, H, W), where the loss looks at them."""
        return label_weight(sampled_labels(labels, self._loss_size(labels)), self.weights)

    def _loss_size(self, labels: Tensor) -> tuple[int, int]:
        return _grid(labels, 1 if self.at_labels else min(self.network.arch.injected_strides))

    def forward(self, images: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3), (B, H, W), labels' weight -> what is minimised, and the loss of the logits alone."""
        logits, semantics = self.network.segment(normalised(images))
        size = (logits.shape[-2], logits.shape[-1])
        if self._loss_size(labels) == size:
            loss = segmentation_loss(logits.float(), labels, self.weights, weight)
        else:
            loss = resized_loss(logits, labels, self.weights, weight)
        if self.auxiliary is None:
            return loss, loss
        tokens = self.auxiliary(semantics).float()
        if self.sparse:
            coarse = sparse_pooled_loss(tokens, labels, self.weights)
        else:
            coarse = pooled_loss(tokens, labels, self.weights, sampled_at=size)
        return loss + self.auxiliary_weight * coarse, loss


class ClassificationObjective(nn.Module):
    """Likewise."""

    def __init__(self, network: TopFormerClassifier) -> None:
        super().__init__()
        self.network = network

    def begin(self, iteration: int) -> None:
        """Every iteration is alike."""

    def label_weight(self, classes: Tensor) -> Tensor:
        """Images count alike, and parts have equally many."""
        return torch.ones((), device=classes.device)

    def forward(self, images: Tensor, classes: Tensor, _weight: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3), (B,) -> what is minimised, twice."""
        loss = F.cross_entropy(
            self.network(normalised(images)).float(), classes.long(), label_smoothing=LABEL_SMOOTHING
        )
        return loss, loss


class SandwichObjective(nn.Module):
    """Mean over some subnets of a supernet, on the same images; the first one teaches the others."""

    def __init__(self, network: Supernet, weights: Tensor, recipe: TrainingRecipe, sandwich: Sandwich) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = nn.Conv2d(network.maximal.semantic_channels, network.num_classes, 1)
        self.auxiliary_weight = recipe.auxiliary_weight
        self.sparse = bool(recipe.sparse_labels)
        self.sandwich = sandwich
        self.subnets: tuple[TopFormerConfig, ...] = ()
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor

    def begin(self, iteration: int) -> None:
        """Choose the subnets of this iteration."""
        self.subnets = self.sandwich.subnets(iteration)

    def label_weight(self, labels: Tensor) -> Tensor:
        """Of (B, H, W), on the grid of the teacher's logits, or all of them where labels are sparse."""
        if self.sparse:
            return label_weight(labels.long(), self.weights)
        return label_weight(sampled_labels(labels, self._grid(labels, self.subnets[0])), self.weights)

    def _grid(self, labels: Tensor, subnet: TopFormerConfig) -> tuple[int, int]:
        return _grid(labels, min(subnet.injected_strides))

    def forward(self, images: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3), (B, H, W), labels' weight -> what is minimised, and the loss of the teacher's logits."""
        pixels = normalised(images)
        first, *others = self.subnets
        teaching, semantics = self.network(pixels, first)
        loss = self._loss(teaching, labels, weight)
        total = loss + self.auxiliary_weight * self._coarse(semantics, labels, first)
        teacher = teaching.detach().float()
        for subnet in others:
            logits, semantics = self.network(pixels, subnet)
            share = self._share(labels, subnet, first)
            own = self._loss(logits, labels, weight * share)
            taught = distillation_loss(
                logits.float(), teacher, labels, self.weights, weight * share, sparse=self.sparse
            )
            mixed = (1 - self.sandwich.distillation) * own + self.sandwich.distillation * taught
            total = total + mixed + self.auxiliary_weight * self._coarse(semantics, labels, subnet)
        return total / len(self.subnets), loss

    def _loss(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        if self.sparse:
            return resized_loss(logits, labels, self.weights, weight)
        return segmentation_loss(logits.float(), labels, self.weights, weight)

    def _share(self, labels: Tensor, subnet: TopFormerConfig, first: TopFormerConfig) -> float:
        """How many of the pixels that the first subnet's loss looks at another one's does."""
        if self.sparse:
            return 1.0
        return math.prod(self._grid(labels, subnet)) / math.prod(self._grid(labels, first))

    def _coarse(self, semantics: Tensor, labels: Tensor, subnet: TopFormerConfig) -> Tensor:
        """Loss of a throw-away classifier on the tokens, of which a subnet has a part of the channels."""
        if not self.auxiliary_weight:
            return semantics.new_zeros(())
        logits = F.conv2d(semantics, self.network.semantic_slice(self.auxiliary.weight, subnet), self.auxiliary.bias)
        if self.sparse:
            return sparse_pooled_loss(logits.float(), labels, self.weights)
        return pooled_loss(logits.float(), labels, self.weights, sampled_at=self._grid(labels, subnet))


Objective = SegmentationObjective | ClassificationObjective | SandwichObjective


def _grid(labels: Tensor, stride: int) -> tuple[int, int]:
    """Of logits at that stride, for labels (B, H, W)."""
    return math.ceil(labels.shape[-2] / stride), math.ceil(labels.shape[-1] / stride)


def _weights_of(dataset: SegmentationDataset, train_images: int, recipe: TrainingRecipe) -> Tensor:
    if not recipe.class_weight_power:
        return torch.ones(dataset.num_classes)
    stride = 1 if recipe.sparse_labels else LABEL_COUNT_STRIDE
    maps = (dataset.item("train", i)[1][::stride, ::stride] for i in range(train_images))
    return class_weights(label_counts(maps, dataset.num_classes), power=recipe.class_weight_power)

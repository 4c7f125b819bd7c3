"""Small networks, recipes and images that tests of trainings share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from evaluators.datasets import IGNORE, Colour, Split
from evaluators.recipe import Augmentation, TrainingRecipe
from evaluators.training import train
from topformer import TINY, MBConv, TopFormer, TopFormerConfig

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels

RECIPE = TrainingRecipe(
    iterations=12,
    batch_size=2,
    learning_rate=4e-3,
    head_multiplier=1.0,
    weight_decay=0.02,
    decay_norms=True,
    schedule="cosine",
    warmup_share=0.1,
    warmup_start=0.1,
    clip_norm=5.0,
    drop_path=0.0,
    ema_decay=0.0,
    loss_at="logits",
    class_weight_power=-0.5,
    auxiliary_weight=0.5,
    freeze_norms=False,
    zero_start=True,
    recalibration_images=4,
    augmentation=None,
)
MICRO = TINY.replace(
    stages=tuple((MBConv(3, 2, channels, 2),) for channels in (8, 12, 16, 24)),
    num_blocks=2,
    num_heads=2,
    key_dim=4,
    injection_channels=16,
)
CROPPED = Augmentation(
    long_side=96, short_side=64, scale_min=0.5, scale_max=2, crop=(64, 64), class_share_max=0.9, photometric=False
)
AUGMENTED = replace(
    RECIPE,
    iterations=9,
    drop_path=0.2,
    ema_decay=0.9,
    recalibration_images=0,
    augmentation=Augmentation(
        long_side=128, short_side=64, scale_min=0.5, scale_max=2, crop=(64, 64), class_share_max=0.75, photometric=True
    ),
)
SUPERNET_STUDY = """
name = "toy"
[space]
name = "toy"
base = "tiny"
[space.knobs]
width_4 = [8, 16]
num_blocks = [2, 4]
[task]
num_classes = 3
[latency]
table = "none"
[evaluator]
recipe = "proxy-short"
dataset = "data"
[search]
trials = 1
batch_size = 1
"""
"""A study whose space is small enough for a supernet of a test; its images lie in the folder `data`."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Dark below, bright above a line that moves; 3 classes, the third is never shown. Obeys `SegmentationDataset`."""

    image_size: tuple[int, int] = (64, 96)
    name: str = "halves"
    class_names: tuple[str, ...] = ("bright", "dark", "absent")
    palette: tuple[Colour, ...] = ((255, 255, 255), (0, 0, 0), (255, 0, 0))
    num_classes: int = 3
    fingerprint: str = "halves"

    def length(self, split: Split) -> int:
        return 6 if split == "train" else 3

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        height, width = self.image_size
        line = height // 4 + 5 * index + (split == "val")
        labels = np.repeat(np.arange(height)[:, None] >= line, width, axis=1).astype(np.uint8)
        image = np.where(labels[..., None], 60, 190).astype(np.uint8).repeat(3, axis=2)
        labels[:2] = IGNORE
        return image, labels

    def at_size(self, image_size: tuple[int, int]) -> Self:
        return replace(self, image_size=image_size)


class Oracle(nn.Module):
    """Logits from the brightness, at the resolution of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images[:, :1] * self.slope
        return torch.cat([bright, -bright, torch.full_like(bright, -99)], dim=1)


class Sides(Halves):
    """Bright on the right."""

    def item(self, split: Split, index: int) -> tuple[Image, Labels]:
        labels = np.zeros((32, 32), np.uint8)
        labels[:, 20:] = 1
        return np.where(labels[..., None] == 1, 200, 10).astype(np.uint8).repeat(3, axis=2), labels


def trained(
    arch: TopFormerConfig = MICRO, *, seed: int = 0, recipe: TrainingRecipe = RECIPE, **kwargs: Any
) -> TopFormer:
    torch.manual_seed(0)
    model = TopFormer(arch, num_classes=3)
    train(model, Halves(), recipe, train_images=6, seed=seed, **kwargs)
    return model

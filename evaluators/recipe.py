"""How is a network trained and judged? Recipes as values: what is done to images, the optimiser, the schedule.

The standard library only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from topformer.config import MIN_IMAGE_PX, content_key
from topformer.errors import UserError, unknown_name

Schedule = Literal["poly", "cosine"]
LossAt = Literal["labels", "logits"]
MOST_ITERATIONS = 10**9
MOST_IMAGES = 65536
"""Of a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to a training image: random scale, random crop, flip, colours."""

    long_side: int
    """With `short_side`: before the random scale, an image is as large as fits into these, in px; its proportions stay.
    """
    short_side: int
    scale_min: float
    scale_max: float
    crop: tuple[int, int]
    """(height, width) in px, multiples of 32; what the image does not fill is padded and ignored."""
    class_share_max: float
    """Crops where one class has more of the labelled pixels are drawn again, ten times at most; 1 takes any."""
    photometric: bool
    """Random brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop", tuple(self.crop))
        _require_sides(self.short_side, self.long_side)
        if not 0.05 <= self.scale_min <= self.scale_max <= 20:
            raise UserError(
                f"scale_min and scale_max must be from 0.05 to 20 in ascending order, not {self.scale_min} and "
                f"{self.scale_max}."
            )
        if len(self.crop) != 2 or any(side % 32 or not 32 <= side <= 4096 for side in self.crop):
            raise UserError(f"crop must be (height, width), multiples of 32 px up to 4096, not {self.crop}.")
        if not 0 < self.class_share_max <= 1:
            raise UserError(f"class_share_max must be above 0 and at most 1, not {self.class_share_max}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizedCrop:
    """What happens to a training image of classification: a random part, resized, flipped, its colours changed."""

    size_px: int
    """Of both sides."""
    area_min: float
    """Of the image's area; the whole is the most."""
    aspect_max: float
    """Of the part, width over height; one over it is the least."""
    photometric: bool
    """Random brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        if self.size_px % 32 or not 32 <= self.size_px <= 1024:
            raise UserError(f"size_px must be a multiple of 32 from 32 to 1024, not {self.size_px}.")
        if not 0.01 <= self.area_min <= 1 or not 1 <= self.aspect_max <= 10:
            raise UserError(
                f"area_min must be from 0.01 to 1 and aspect_max from 1 to 10, not {self.area_min} and "
                f"{self.aspect_max}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a benchmark wants networks judged: whole images, one scale."""

    long_side: int
    """With `short_side`: an image is as large as fits into these, in px; its proportions stay."""
    short_side: int
    multiple_of: int
    """Sides are rounded up to it."""

    def __post_init__(self) -> None:
        _require_sides(self.short_side, self.long_side)
        if not 1 <= self.multiple_of <= 1024:
            raise UserError(f"multiple_of must be from 1 to 1024, not {self.multiple_of}.")

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Of the network, for an image of this size."""
        factor = fitting_factor(height, width, self.long_side, self.short_side)
        sides = (math.floor(side * factor + 0.5) for side in (height, width))
        rows, columns = (max(math.ceil(side / self.multiple_of) * self.multiple_of, MIN_IMAGE_PX) for side in sides)
        return rows, columns


def _require_sides(short_side: int, long_side: int) -> None:
    if not MIN_IMAGE_PX <= short_side <= long_side <= 16384:
        raise UserError(
            f"short_side and long_side must be from {MIN_IMAGE_PX} to 16384 px, the short one not the longer, not "
            f"{short_side} and {long_side}."
        )


def fitting_factor(height: int, width: int, long_side: float, short_side: float) -> float:
    """The largest at which an image still fits into these sides, whichever way round it is."""
    return min(long_side / max(height, width), short_side / min(height, width))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """AdamW with a warm-up, over a number of iterations."""

    iterations: int
    batch_size: int
    """Images between two steps of the optimiser, over all devices."""
    learning_rate: float
    head_multiplier: float
    """Of the learning rate, for the segmentation or classification head."""
    weight_decay: float
    decay_norms: bool
    """Whether batch norms and biases decay too."""
    schedule: Schedule
    """poly falls linearly over all iterations; cosine after the warm-up. Both end at zero."""
    warmup_share: float
    """Of the iterations."""
    warmup_start: float
    """Of the learning rate, at the first iteration; from there it rises linearly."""
    clip_norm: float
    """Of all gradients; 0 does not clip."""
    drop_path: float
    """Of the last transformer block; the others rise to it linearly."""
    ema_decay: float
    """Of the averaged weights that are scored and kept; 0 averages none."""
    loss_at: LossAt
    """labels: logits are resized to the labels; logits: labels are sampled at the logits' grid, which is cheaper."""
    class_weight_power: float
    """Classes weigh frequency ** power in the loss: 0 is unweighted."""
    auxiliary_weight: float
    """Of the loss of a throw-away linear classifier on the extractor's tokens; 0 trains none."""
    freeze_norms: bool
    """Batch norms keep the statistics they start with: for a network that is trained further, and for several processes
    on a CPU, which cannot share them."""
    zero_start: bool
    """Residual branches start at zero."""
    recalibration_images: int
    """Training images over which batch-norm statistics are taken anew after the last step; 0 keeps the running ones."""
    augmentation: Augmentation | ResizedCrop | None
    sparse_labels: bool | None = None
    """Labels are scribbles or points: the loss is taken at full resolution, whatever `loss_at` says, and no labelled
    pixel is lost where an image is made smaller. None: as the labels of the data set are, which is found out."""
    """None: images as they are, flipped; all must have one size."""

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise UserError(f"iterations must be at least 1 and at most {MOST_ITERATIONS}, not {self.iterations}.")
        if self.batch_size < 2:
            raise UserError(
                f"batch_size must be at least 2, not {self.batch_size}: "
                "batch norm has no variance where a map is a single pixel."
            )
        if self.batch_size > MOST_IMAGES:
            raise UserError(f"batch_size must be at most {MOST_IMAGES}, not {self.batch_size}.")
        for name, most in (
            ("learning_rate", 1.0),
            ("head_multiplier", 1000.0),
            ("weight_decay", 1.0),
            ("warmup_share", 1.0),
            ("warmup_start", 1.0),
            ("clip_norm", 1e9),
            ("drop_path", 0.9),
            ("ema_decay", 0.999999),
            ("auxiliary_weight", 100.0),
            ("recalibration_images", 1e9),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"{name} must be from 0 to {most:g}, not {value}.")
        if not -2 <= self.class_weight_power <= 0:
            raise UserError(f"class_weight_power must be from -2 to 0, not {self.class_weight_power}.")
        if self.recalibration_images and self.augmentation is not None:
            raise UserError(
                "recalibration_images takes images as they are, augmentation changes them: choose one of the two."
            )
        for name, legal in (("schedule", ("poly", "cosine")), ("loss_at", ("labels", "logits"))):
            if getattr(self, name) not in legal:
                raise unknown_name(name, getattr(self, name), legal)

    @property
    def warmup_iterations(self) -> int:
        return round(self.warmup_share * self.iterations)

    def learning_rate_at(self, iteration: int) -> float:
        """0-based; the last iterations approach zero."""
        warmup = self.warmup_iterations
        rising = 1.0
        if iteration < warmup:
            rising = self.warmup_start + (1 - self.warmup_start) * iteration / warmup
        if self.schedule == "poly":
            return self.learning_rate * rising * (1 - iteration / self.iterations)
        share = max(iteration - warmup, 0) / max(self.iterations - warmup, 1)
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share))

    @property
    def fingerprint(self) -> str:
        return content_key(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Every setting; `sparse_labels` only where it is decided, so that recipes of before are what they were."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name != "sparse_labels" or value is not None}

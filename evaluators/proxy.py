"""Which of two architectures is better, in CPU seconds? A short training from scratch on a reduced canvas.

The proxy keeps what the ranking needs: a wide canvas, at least three semantics tokens, the same data for all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evaluators.base import Metrics, ProgressCallback, clocks
from evaluators.evaluation import score
from evaluators.recipe import TrainingRecipe
from evaluators.training import train
from topformer.blocks import token_grid
from topformer.config import MIN_IMAGE_PX, Candidate, content_key
from topformer.errors import UserError, unknown_name
from topformer.model import TopFormer
from topformer.weights import save_model

if TYPE_CHECKING:
    from evaluators.datasets import SegmentationDataset

PROXY_VERSION = 3
"""Raise it with every change that changes results."""
LEAST_TOKENS = 3
"""Fewer leave the semantics extractor next to nothing to relate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyRecipe:
    """How long, on what canvas and on how much data. All of it is in the fingerprint."""

    name: str
    training: TrainingRecipe
    canvas: tuple[int, int]
    """(height, width) in pixels that stands for a task of `reference_size`."""
    reference_size: tuple[int, int]
    data_share: float
    """Of the training split; its first images."""
    evaluation_stride: int
    """One validation pixel in stride x stride is scored; 1 is the full resolution."""

    def __post_init__(self) -> None:
        for name, size in (("canvas", self.canvas), ("reference_size", self.reference_size)):
            if len(size) != 2 or min(size) < MIN_IMAGE_PX:
                raise UserError(f"{name} must be (height, width) of at least {MIN_IMAGE_PX} px, not {size}.")
        if any(side % 32 for side in self.canvas):
            raise UserError(f"canvas sides must be multiples of 32 px, not {self.canvas}.")
        if not 0 < self.data_share <= 1:
            raise UserError(f"data_share must be above 0 and at most 1, not {self.data_share}.")
        if self.evaluation_stride < 1:
            raise UserError(f"evaluation_stride must be at least 1, not {self.evaluation_stride}.")

    @property
    def fingerprint(self) -> str:
        return content_key(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "training": self.training.as_dict(),
            "canvas": list(self.canvas),
            "reference_size": list(self.reference_size),
            "data_share": self.data_share,
            "evaluation_stride": self.evaluation_stride,
        }

    def train_images(self, dataset: SegmentationDataset) -> int:
        """How many of the training images take part."""
        return max(round(self.data_share * dataset.length("train")), 1)

    def canvas_for(self, candidate: Candidate) -> tuple[int, int]:
        """The canvas, larger or smaller in proportion to the candidate's image, sides rounded to multiples of 32 px.

        Raises `UserError` where the candidate's token stride leaves too coarse a grid on it. The canvas is not enlarged
        for such a candidate: it would be trained on other data than those it is compared with.
        """
        sides = zip(self.canvas, candidate.task.image_size, self.reference_size, strict=True)
        height, width = (max(math.floor(c * size / of / 32 + 0.5), 1) * 32 for c, size, of in sides)
        grid = token_grid(height // 32, width // 32, candidate.arch.token_stride)
        if grid[0] * grid[1] < LEAST_TOKENS:
            raise UserError(
                f"token stride {candidate.arch.token_stride} leaves {grid[0]}x{grid[1]} tokens on the {height}x{width} "
                f"px canvas of recipe {self.name!r}; at least {LEAST_TOKENS} are needed. Use a recipe "
                "with a larger canvas, or leave that token stride or image size out of the search space."
            )
        return height, width


REFERENCE = ProxyRecipe(
    name="reference",
    training=TrainingRecipe(
        iterations=1600,
        batch_size=4,
        learning_rate=4e-3,
        head_multiplier=1.0,
        weight_decay=0.02,
        decay_norms=True,
        schedule="cosine",
        warmup_share=0.1,
        warmup_start=0.05,
        clip_norm=5.0,
        drop_path=0.0,
        ema_decay=0.0,
        loss_at="logits",
        class_weight_power=-0.5,
        auxiliary_weight=0.5,
        freeze_norms=False,
        zero_start=True,
        recalibration_images=40,
        augmentation=None,
    ),
    canvas=(64, 576),
    reference_size=(512, 512),
    data_share=1.0,
    evaluation_stride=4,
)
"""What proxies are judged by: the longest training that is affordable for some dozens of architectures on a CPU."""
SHORT = replace(
    REFERENCE,
    name="proxy-short",
    canvas=(64, 384),
    training=replace(REFERENCE.training, iterations=370, batch_size=2, learning_rate=6e-3),
)
"""Half a CPU minute for T: small batches on a shorter strip, the fastest to find the far cue of those tried."""
LONG = replace(SHORT, name="proxy-long", training=replace(SHORT.training, iterations=740))
"""Twice as long."""
RECIPES: Mapping[str, ProxyRecipe] = {recipe.name: recipe for recipe in (SHORT, LONG, REFERENCE)}


def for_dataset(recipe: ProxyRecipe, dataset: SegmentationDataset) -> ProxyRecipe:
    """Scenes are drawn as wide as the canvas is; photographs, which that would squeeze, keep the proportions of the
    reference size on a canvas of about as many pixels."""
    if dataset.name == "scenes":
        return recipe
    (height, width), (tall, wide) = recipe.canvas, recipe.reference_size
    scale = math.sqrt(height * width / (tall * wide))
    rows, columns = (max(round(side * scale / 32), 1) * 32 for side in (tall, wide))
    return replace(recipe, canvas=(rows, columns))


def named_recipe(name: str) -> ProxyRecipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise unknown_name("proxy recipe", name, RECIPES, advice="Inherited weights are supernet:FILE or tuned:FILE.")
    return RECIPES[name]


class ProxyEvaluator:
    """Short training of one candidate; an `Evaluator`."""

    def __init__(self, recipe: ProxyRecipe, dataset: SegmentationDataset) -> None:
        self.recipe = for_dataset(recipe, dataset)
        self.dataset = dataset.at_size(self.recipe.canvas)
        self.fingerprint = content_key([PROXY_VERSION, self.dataset.fingerprint, self.recipe.as_dict()])

    @property
    def fidelity(self) -> str:
        return self.recipe.name

    def why_not(self, candidate: Candidate) -> str | None:
        """The class count, the kind of task, or a token grid too coarse for the canvas."""
        try:
            self._require_trainable(candidate)
            self.recipe.canvas_for(candidate)
        except UserError as error:
            return str(error)
        return None

    def evaluate(
        self,
        candidate: Candidate,
        *,
        replicate: int,
        weights_out: Path | None,
        progress: ProgressCallback | None = None,
    ) -> Metrics:
        """Train and score one candidate on one torch thread; same candidate and replicate, same machine: same bits."""
        since = clocks()
        self._require_trainable(candidate)
        dataset = self.dataset.at_size(self.recipe.canvas_for(candidate))
        train_images = self.recipe.train_images(dataset)
        seed = training_seed(candidate, replicate)
        with one_torch_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = TopFormer(candidate.arch, num_classes=dataset.num_classes)
            trained = train(
                model, dataset, self.recipe.training, train_images=train_images, seed=seed, progress=progress
            )
            confusion = score(model, dataset, stride=self.recipe.evaluation_stride)
        if weights_out:
            save_model(model, weights_out)
        return Metrics.of(confusion, train_loss=trained.last_loss, since=since)

    def _require_trainable(self, candidate: Candidate) -> None:
        if candidate.task.kind != "segmentation":
            raise UserError(f"a proxy trains segmentation networks, not {candidate.task.kind} ones.")
        if candidate.task.num_classes != self.dataset.num_classes:
            raise UserError(
                f"the candidate's task has {candidate.task.num_classes} classes, data set {self.dataset.name!r} has "
                f"{self.dataset.num_classes}; set the task's num_classes to {self.dataset.num_classes}."
            )


def training_seed(candidate: Candidate, replicate: int) -> int:
    """Below 2**63, from candidate and replicate only, so that studies with different seeds share evaluations."""
    if replicate < 0:
        raise UserError(f"replicates count from 0, not {replicate}.")
    digest = hashlib.sha256(f"{candidate.key}/{replicate}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Sums over threads are not reproducible, and workers share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

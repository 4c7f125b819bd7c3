"""Which of two architectures is better, in CPU seconds? A short training from scratch on a reduced canvas.

The proxy keeps what the ranking needs: a wide canvas, at least three semantics tokens, the same data for all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from evaluators.base import Curve, Metrics, Scored, clocks
from evaluators.datasets import Colour, SegmentationDataset, Split
from evaluators.datasets.acceptance import labels_are_sparse
from evaluators.datasets.scenes import Scenes
from evaluators.evaluation import evaluate, evaluate_blocks, score
from evaluators.recipe import Augmentation, Protocol, TrainingRecipe
from evaluators.segmentation import ConfusionMatrix
from evaluators.training import train
from topformer.blocks import token_grid
from topformer.config import MIN_IMAGE_PX, Candidate, content_key
from topformer.errors import UserError, unknown_name
from topformer.model import TopFormer
from topformer.weights import save_model

PROXY_VERSION = 3
"""Raise it with every change that changes results."""
CURVE_IMAGES = 20
"""Validation images by which a training's curve is scored."""
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
    """One validation pixel in stride x stride is scored; 1 is the full resolution. Photographs are scored in full."""
    protocol: Protocol | None = None
    """How photographs are judged, which keep their proportions; None: all images are drawn at the canvas's size."""
    common_seed: bool = False
    """Whether every architecture sees the images in the same order, its weights drawn by the same seed."""
    judges_scenes: bool = False
    """Whether scenes of another seed are scored, too, by which nothing is chosen."""

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
        """Without what a recipe of before did not say, as fingerprints have always been taken."""
        values = asdict(self) | {"training": self.training.as_dict()}
        unsaid: dict[str, Any] = {"protocol": None, "common_seed": False, "judges_scenes": False}
        return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave. Raises `KeyError` or `TypeError` for anything else."""
        training = dict(values["training"])
        if training["augmentation"] is not None:
            training["augmentation"] = Augmentation(**training["augmentation"])
        protocol = values.get("protocol")
        return cls(
            **{
                **values,
                "training": TrainingRecipe(**training),
                "canvas": tuple(values["canvas"]),
                "reference_size": tuple(values["reference_size"]),
                "protocol": None if protocol is None else Protocol(**protocol),
            }
        )

    def images_of(self, dataset: SegmentationDataset) -> SegmentationDataset:
        """The images as the recipe's reference size has them: photographs as they are, others as the canvas."""
        return dataset if self.protocol else dataset.at_size(self.canvas)

    def seen(self, dataset: SegmentationDataset, candidate: Candidate) -> SegmentationDataset:
        """The images that a candidate is trained on: photographs as they are, others at the size of the canvas."""
        return dataset if self.protocol else dataset.at_size(self.canvas_for(candidate))

    def augmented(self, training: TrainingRecipe, candidate: Candidate) -> TrainingRecipe:
        """A training with the augmentation of this recipe: of photographs, larger images for a larger task."""
        augmentation = self.training.augmentation
        if not isinstance(augmentation, Augmentation):
            return training
        scaled = replace(
            augmentation,
            long_side=self._scaled(augmentation.long_side, candidate),
            short_side=self._scaled(augmentation.short_side, candidate),
            crop=self.canvas_for(candidate),
        )
        return replace(training, augmentation=scaled, recalibration_images=0)

    def scored(
        self,
        model: torch.nn.Module,
        dataset: SegmentationDataset,
        candidate: Candidate,
        *,
        split: Split = "val",
    ) -> Scored:
        """A network in eval mode on a split of `dataset`, photographs at their original size."""
        protocol = self.protocol_for(candidate)
        if protocol is None:
            sized = dataset.at_size(self.canvas_for(candidate))
            return Scored(confusion=score(model, sized, stride=self.evaluation_stride), blocks=None)
        blocks = evaluate_blocks(model, dataset, protocol, split=split)
        return Scored(confusion=ConfusionMatrix.sum_of(blocks), blocks=tuple(block.class_counts for block in blocks))

    def curve_of(
        self, dataset: SegmentationDataset, candidate: Candidate, curve: Curve
    ) -> Callable[[torch.nn.Module], None]:
        """What writes a point of a curve: mIoU on the first validation images."""
        protocol = self.protocol_for(candidate)
        images = min(CURVE_IMAGES, dataset.length("val"))

        def look(model: torch.nn.Module) -> None:
            before = clocks()[1]
            if protocol is None:
                sized = dataset.at_size(self.canvas_for(candidate))
                confusion = score(model, sized, stride=self.evaluation_stride, images=images)
            else:
                confusion = evaluate(model, dataset, protocol, indices=range(images))
            curve.miou_pct.append(confusion.miou_pct)
            curve.cpu_seconds += clocks()[1] - before

        return look

    def protocol_for(self, candidate: Candidate) -> Protocol | None:
        """How photographs are judged by a network for the candidate's task."""
        if self.protocol is None:
            return None
        return replace(
            self.protocol,
            long_side=self._scaled(self.protocol.long_side, candidate),
            short_side=self._scaled(self.protocol.short_side, candidate),
        )

    def _scaled(self, side: int, candidate: Candidate) -> int:
        """A side in px at the scale of the candidate's task, a multiple of 32."""
        scale = math.sqrt(math.prod(self.canvas_for(candidate)) / math.prod(self.canvas))
        return max(round(side * scale / 32), 1) * 32

    def train_images(self, dataset: SegmentationDataset) -> int:
        """How many of the training images take part."""
        return max(round(self.data_share * dataset.length("train")), 1)

    def why_not(self, candidate: Candidate) -> str | None:
        """Why the canvas cannot hold a candidate, in the words of `canvas_for`."""
        try:
            self.canvas_for(candidate)
        except UserError as error:
            return str(error)
        return None

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
_PHOTOGRAPHS = replace(
    REFERENCE,
    training=replace(
        REFERENCE.training,
        iterations=800,
        decay_norms=False,
        ema_decay=0.99,
        class_weight_power=-0.25,
        auxiliary_weight=0.4,
        recalibration_images=0,
        augmentation=Augmentation(
            long_side=2048,
            short_side=192,
            scale_min=0.75,
            scale_max=1.5,
            crop=(192, 256),
            class_share_max=0.9,
            photometric=True,
        ),
    ),
    canvas=(192, 256),
    evaluation_stride=1,
    protocol=Protocol(long_side=2048, short_side=192, multiple_of=32),
)
"""Some hundred photographs would be learnt by heart without augmentation. Of five recipes for T and T without its
extractor, each within 4 CPU minutes, the one with the best mIoU: `experiments/results/photographs`."""
_SHORT_PHOTOGRAPHS = replace(
    _PHOTOGRAPHS,
    name="proxy-short",
    training=replace(_PHOTOGRAPHS.training, iterations=260, batch_size=2, ema_decay=0.98),
)
PHOTOGRAPH_RECIPES: Mapping[str, ProxyRecipe] = {
    recipe.name: recipe
    for recipe in (
        _SHORT_PHOTOGRAPHS,
        replace(_SHORT_PHOTOGRAPHS, name="proxy-long", training=replace(_SHORT_PHOTOGRAPHS.training, iterations=520)),
        _PHOTOGRAPHS,
    )
}
"""Recipes of the same names for photographs."""


def for_dataset(recipe: ProxyRecipe, dataset: SegmentationDataset) -> ProxyRecipe:
    """Scenes are drawn as wide as the canvas is; photographs keep their proportions, and are augmented.

    Of photographs whose labels are sparse the loss is taken at full resolution. A recipe that has no namesake for
    photographs is trained on crops of about as many pixels, in the proportions of its reference size.
    """
    if dataset.name == "scenes":
        return recipe
    fitting = _for_photographs(recipe)
    return replace(fitting, training=for_labels(fitting.training, dataset))


def for_labels(training: TrainingRecipe, dataset: SegmentationDataset) -> TrainingRecipe:
    """With `sparse_labels` where the labels are, unless the recipe says it itself."""
    if training.sparse_labels is None and labels_are_sparse(dataset):
        return replace(training, sparse_labels=True)
    return training


def _for_photographs(recipe: ProxyRecipe) -> ProxyRecipe:
    if recipe.protocol is not None:
        return recipe
    if recipe.name in PHOTOGRAPH_RECIPES and recipe == RECIPES[recipe.name]:
        return PHOTOGRAPH_RECIPES[recipe.name]
    assert isinstance(_PHOTOGRAPHS.training.augmentation, Augmentation)
    assert _PHOTOGRAPHS.protocol is not None
    rows, columns = _PHOTOGRAPHS.canvas
    if (recipe.canvas, recipe.reference_size) != (REFERENCE.canvas, REFERENCE.reference_size):
        (height, width), (tall, wide) = recipe.canvas, recipe.reference_size
        scale = math.sqrt(height * width / (tall * wide))
        rows, columns = (max(round(side * scale / 32), 1) * 32 for side in (tall, wide))
    short_side = min(rows, columns)
    augmentation = replace(_PHOTOGRAPHS.training.augmentation, short_side=short_side, crop=(rows, columns))
    return replace(
        recipe,
        canvas=(rows, columns),
        training=replace(recipe.training, augmentation=augmentation, recalibration_images=0),
        protocol=replace(_PHOTOGRAPHS.protocol, short_side=short_side),
    )


def named_recipe(name: str) -> ProxyRecipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise unknown_name("proxy recipe", name, RECIPES, advice="Inherited weights are supernet:FILE or tuned:FILE.")
    return RECIPES[name]


def _averaged(recipe: ProxyRecipe) -> ProxyRecipe:
    if recipe.training.ema_decay:
        raise UserError(f"recipe {recipe.name!r} averages weights already; leave {AVERAGED!r} out.")
    decay = max(1 - AVERAGED_PARTS / recipe.training.iterations, 0.0)
    return replace(recipe, training=replace(recipe.training, ema_decay=decay))


def _all_pixels(recipe: ProxyRecipe) -> ProxyRecipe:
    if recipe.evaluation_stride == 1:
        raise UserError(f"recipe {recipe.name!r} scores all pixels already; leave {ALL_PIXELS!r} out.")
    return replace(recipe, evaluation_stride=1)


def _halved(recipe: ProxyRecipe) -> ProxyRecipe:
    return replace(recipe, training=replace(recipe.training, iterations=max(recipe.training.iterations // 2, 1)))


def _judging(recipe: ProxyRecipe) -> ProxyRecipe:
    if recipe.name.partition("+")[0] != REFERENCE.name:
        raise UserError(f"only {REFERENCE.name} judges, so that nothing is chosen by what judges; not {recipe.name!r}.")
    if recipe.protocol is not None:
        raise UserError(f"{REFERENCE.name} judges by the list test.txt of photographs already; leave {JUDGE!r} out.")
    return replace(recipe, judges_scenes=True)


AVERAGED, ALL_PIXELS, HALF, COMMON, JUDGE = "average", "all-pixels", "half", "common", "judge"
AVERAGED_PARTS = 8
"""The weights that are scored are an average over about an eighth of the iterations, the last ones weighing most."""
OPTIONS: Mapping[str, Callable[[ProxyRecipe], ProxyRecipe]] = {
    COMMON: lambda recipe: replace(recipe, common_seed=True),
    AVERAGED: _averaged,
    ALL_PIXELS: _all_pixels,
    HALF: _halved,
    JUDGE: _judging,
}
"""What may follow a recipe's name, each after a plus: an evaluator of its own, never mixed with the plain one."""


def split_name(text: str) -> tuple[str, tuple[str, ...]]:
    """A recipe's name and its options; raises `UserError` for an unknown option, or one that is there twice."""
    name, *options = text.split("+")
    for option in options:
        if option not in OPTIONS:
            raise unknown_name("option of a recipe", option, OPTIONS)
        if options.count(option) > 1:
            raise UserError(f"{text!r} names {option!r} twice; name it once.")
    return name, tuple(sorted(options, key=list(OPTIONS).index))


def proxy_named(text: str, dataset: SegmentationDataset) -> ProxyEvaluator:
    """By the name of a recipe, with options like `proxy-short+common+average`."""
    name, options = split_name(text)
    return ProxyEvaluator(named_recipe(name), dataset, options=options)


class ProxyEvaluator:
    """Short training of one candidate; an `Evaluator`."""

    def __init__(self, recipe: ProxyRecipe, dataset: SegmentationDataset, *, options: Sequence[str] = ()) -> None:
        """`options` change what the recipe is for these images; raises `UserError` for one that changes nothing."""
        self.recipe = for_dataset(recipe, dataset)
        for option in options:
            changed = OPTIONS[option](self.recipe)
            self.recipe = replace(changed, name=f"{changed.name}+{option}")
        self.fidelity = self.recipe.name
        self.dataset = self.recipe.images_of(dataset)
        identity: list[Any] = [PROXY_VERSION, self.dataset.fingerprint, self.recipe.as_dict()]
        if isinstance(judge := self._judge, Scenes):
            identity.append(judge.fingerprint)
        elif judge is not None and judge.test_fingerprint is not None:
            identity.append(judge.test_fingerprint)
        self.fingerprint = content_key(identity)

    @property
    def judges(self) -> bool:
        """Whether the images that judge are scored, too: by the reference alone, so that nothing is chosen by them."""
        name = self.recipe.name.partition("+")[0]
        return self.recipe.judges_scenes or (name == REFERENCE.name and self.recipe.protocol is not None)

    @property
    def _judge(self) -> SegmentationDataset | None:
        """Of whose images some judge: `test` of photographs, `val` of scenes drawn for it."""
        if not self.judges:
            return None
        return self.dataset.judging if isinstance(self.dataset, Scenes) else self.dataset

    def why_not(self, candidate: Candidate) -> str | None:
        """The class count, the kind of task, or a token grid too coarse for the canvas."""
        if candidate.task.kind != "segmentation":
            return f"a proxy trains segmentation networks, not {candidate.task.kind} ones."
        if candidate.task.num_classes != self.dataset.num_classes:
            return (
                f"the candidate's task has {candidate.task.num_classes} classes, data set {self.dataset.name!r} has "
                f"{self.dataset.num_classes}; set the task's num_classes to {self.dataset.num_classes}."
            )
        return self.recipe.why_not(candidate)

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics:
        """Train and score one candidate on one torch thread; same candidate and replicate, same machine: same bits."""
        if reason := self.why_not(candidate):
            raise UserError(reason)
        return trained_and_scored(
            lambda: TopFormer(candidate.arch, num_classes=self.dataset.num_classes),
            self.recipe,
            self.recipe.training,
            self.dataset,
            candidate,
            replicate=replicate,
            weights_out=weights_out,
            judge=self._judge,
        )


def trained_and_scored(
    made: Callable[[], TopFormer],
    recipe: ProxyRecipe,
    training: TrainingRecipe,
    dataset: SegmentationDataset,
    candidate: Candidate,
    *,
    replicate: int,
    weights_out: Path | None,
    judge: SegmentationDataset | None = None,
) -> Metrics:
    """Train what is made under the seed of candidate and replicate, on one torch thread, and score it as the recipe
    has it; on the images of `judge` that judge, too."""
    since = clocks()
    seed = common_seed(replicate) if recipe.common_seed else training_seed(candidate, replicate)
    curve, judged = Curve(miou_pct=[]), None
    with one_torch_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, seen = made(), recipe.seen(dataset, candidate)
        trained = train(
            model,
            seen,
            recipe.augmented(training, candidate),
            train_images=recipe.train_images(seen),
            seed=seed,
            observe=recipe.curve_of(dataset, candidate, curve),
        )
        scored = recipe.scored(model, dataset, candidate)
        split: Split = "val" if isinstance(judge, Scenes) else "test"
        if judge is not None and judge.length(split):
            judged = recipe.scored(model, judge, candidate, split=split)
    curve.loss = trained.curve_loss
    if weights_out:
        save_model(model, weights_out, classes=named_colours(dataset))
    return Metrics.of(scored, train_loss=trained.last_loss, since=since, curve=curve, judged=judged)


def named_colours(dataset: SegmentationDataset) -> tuple[tuple[str, Colour], ...]:
    """Name and colour of every class, as weights keep them."""
    return tuple(zip(dataset.class_names, dataset.palette, strict=True))


def training_seed(candidate: Candidate, replicate: int) -> int:
    """Below 2**63, from candidate and replicate only, so that studies with different seeds share evaluations."""
    return _seed_of(candidate.key, replicate)


def common_seed(replicate: int) -> int:
    """Likewise, the same for every candidate."""
    return _seed_of("common", replicate)


def _seed_of(whose: str, replicate: int) -> int:
    if replicate < 0:
        raise UserError(f"replicates count from 0, not {replicate}.")
    digest = hashlib.sha256(f"{whose}/{replicate}".encode()).digest()
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

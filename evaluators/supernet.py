"""What is an architecture worth with inherited weights? A supernet over a search space, its training, its evaluator.

Each iteration trains the largest network, the smallest and some drawn ones on the same images, the largest teaching the
others (the sandwich rule and in-place distillation of arXiv:1903.05134); every choice of every knob is drawn equally
often (strict fairness, arXiv:1907.01845). A subnet is judged with batch-norm statistics of its own, over a fixed set of
training images. An evaluation costs seconds; the training of the supernet comes before all of them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from evaluators.base import Metrics, ProgressCallback, clocks
from evaluators.checkpoints import RunFolder
from evaluators.datasets import SegmentationDataset
from evaluators.evaluation import recalibrate_batch_norm
from evaluators.objectives import Sandwich
from evaluators.proxy import REFERENCE, ProxyRecipe, for_dataset, named_colours, one_torch_thread, trained_and_scored
from evaluators.recipe import TrainingRecipe
from evaluators.training import Execution, Trained, train
from search_space import SearchSpace
from topformer.config import Candidate, Task, TopFormerConfig, content_key
from topformer.errors import UserError
from topformer.model import TopFormer
from topformer.reading import file_content
from topformer.supernet import Supernet
from topformer.weights import save_model, save_supernet, saved_supernet

IN_THIS_PROCESS = Execution()
SUPERNET_VERSION = 1
"""Raise it with every change that changes results."""
MOST_WEIGHTS_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class SupernetRecipe:
    """How a supernet is trained, and how its subnets are judged."""

    proxy: ProxyRecipe
    """Canvas, data, loss and optimiser; its iterations are the supernet's."""
    drawn_subnets: int
    """Trained at each iteration, besides the largest and the smallest."""
    distillation: float
    """Share of the largest network's answer in what the others learn from."""
    recalibration_images: int
    """The first training images: batch-norm statistics of a subnet are taken over them."""

    def __post_init__(self) -> None:
        if not 0 <= self.drawn_subnets <= 64:
            raise UserError(f"drawn_subnets must be from 0 to 64, not {self.drawn_subnets}.")
        if not 0 <= self.distillation <= 1:
            raise UserError(f"distillation must be from 0 to 1, not {self.distillation}.")
        if self.recalibration_images < 2:
            raise UserError(f"recalibration_images must be at least 2, not {self.recalibration_images}.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"proxy": self.proxy.as_dict()}

    def for_dataset(self, dataset: SegmentationDataset) -> SupernetRecipe:
        """On the canvas that fits the data set."""
        return replace(self, proxy=for_dataset(self.proxy, dataset))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SupernetRecipe:
        return cls(**(values | {"proxy": ProxyRecipe.from_dict(values["proxy"])}))


SUPERNET = SupernetRecipe(
    proxy=replace(
        REFERENCE, name="supernet", training=replace(REFERENCE.training, iterations=2400, recalibration_images=0)
    ),
    drawn_subnets=2,
    distillation=0.5,
    recalibration_images=40,
)
"""On the canvas of the proxies."""
TUNING = replace(REFERENCE.training, iterations=100, learning_rate=2e-3, zero_start=False)
"""From inherited weights on: a sixteenth of the reference's steps."""
TUNED_VERSION = 1
"""Raise it with every change that changes results."""


class FairDraws:
    """Architectures of a space in which every choice of every knob comes equally often.

    Each knob goes through its choices in a new random order again and again, so that after any number of draws no two
    choices of it differ by more than one; of a row that only deeper stages have, this holds before depth is drawn.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed

    def __call__(self, number: int) -> TopFormerConfig:
        """Draw `number`, from 0."""
        point = {}
        for knob in self.space.knobs:
            turn, place = divmod(number, len(knob.choices))
            order = list(knob.choices)
            random.Random(f"{self.seed}/{knob.name}/{turn}").shuffle(order)
            point[knob.name] = order[place]
        return self.space.decode(self.space.canonical(point)).arch


@dataclass(frozen=True, kw_only=True)
class SandwichOfSpace:
    """The largest network of a space, its smallest, and fair draws: the subnets of an iteration."""

    space: SearchSpace
    seed: int
    drawn: int

    def __call__(self, iteration: int) -> tuple[TopFormerConfig, ...]:
        draws = FairDraws(self.space, self.seed)
        drawn = (draws(iteration * self.drawn + index) for index in range(self.drawn))
        return (self.space.largest.arch, self.space.smallest.arch, *drawn)


def train_supernet(
    space: SearchSpace,
    dataset: SegmentationDataset,
    recipe: SupernetRecipe,
    *,
    seed: int,
    folder: RunFolder,
    fabric: Fabric | None = None,
    execution: Execution = IN_THIS_PROCESS,
    progress: ProgressCallback | None = None,
) -> tuple[Supernet, Trained]:
    """Train in an opened run folder, or go on where it was left; the weights are in its `last_path`.

    Raises what `train` raises, and `UserError` for a data set of another number of classes than the space's task.
    """
    _require_classes(space, dataset)
    recipe = recipe.for_dataset(dataset)
    data = recipe.proxy.images_of(dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space.largest.arch, num_classes=dataset.num_classes)
    sandwich = Sandwich(
        subnets=SandwichOfSpace(space=space, seed=seed, drawn=recipe.drawn_subnets), distillation=recipe.distillation
    )
    trained = train(
        supernet,
        data,
        replace(recipe.proxy.training, recalibration_images=0),
        train_images=recipe.proxy.train_images(data),
        seed=seed,
        sandwich=sandwich,
        fabric=fabric,
        execution=execution,
        keeper=_Keeper(folder),
        progress=progress,
    )
    return supernet, trained


@dataclass
class _Keeper:
    folder: RunFolder

    def restore(self) -> Mapping[str, Any] | None:
        return self.folder.load()

    def save(self, iteration: int, state: Mapping[str, Any], network: nn.Module, averaged: nn.Module | None) -> None:
        supernet = network if averaged is None else averaged
        assert isinstance(supernet, Supernet)
        description = dict(self.folder.describes) | {"iterations_done": iteration}
        save_supernet(supernet, self.folder.last_path, description=description)
        self.folder.save(state)


def describes(space: SearchSpace, dataset: SegmentationDataset, recipe: SupernetRecipe, *, seed: int) -> dict[str, Any]:
    """What makes it this supernet and no other; JSON. Raises `UserError` where space and data set do not fit."""
    _require_classes(space, dataset)
    recipe = recipe.for_dataset(dataset)
    return {
        "version": SUPERNET_VERSION,
        "space": space.as_dict(),
        "task": space.task.as_dict(),
        "dataset": {"name": dataset.name, "fingerprint": dataset.at_size(recipe.proxy.canvas).fingerprint},
        "recipe": recipe.as_dict(),
        "seed": seed,
    }


def _require_classes(space: SearchSpace, dataset: SegmentationDataset) -> None:
    if space.task.num_classes != dataset.num_classes:
        raise UserError(
            f"space {space.name!r} is for {space.task.num_classes} classes, data set {dataset.name!r} has "
            f"{dataset.num_classes}."
        )


class SupernetEvaluator:
    """mIoU with inherited weights; an `Evaluator`. Pickles as the path of the weights."""

    def __init__(self, weights: Path, dataset: SegmentationDataset) -> None:
        """Raises `UserError` for a file that is no finished supernet, or one trained on other data."""
        digest = hashlib.sha256(_content(weights)).hexdigest()
        self.weights = weights.resolve()
        supernet, description = _opened(self.weights, digest)
        self.recipe = _recipe_of(description, weights)
        done, wanted = description.get("iterations_done"), self.recipe.proxy.training.iterations
        if done != wanted:
            raise UserError(
                f"{weights} is a supernet after {done} of {wanted} iterations; finish it with the command that began it"
                "."
            )
        self.images = dataset
        self.dataset = dataset.at_size(self.recipe.proxy.canvas)
        if description["dataset"].get("fingerprint") != self.dataset.fingerprint:
            raise UserError(
                f"{weights} was trained on {description['dataset'].get('name')!r} with other images than "
                f"{dataset.name!r} has now; its weights would be judged on data it does not know."
            )
        self._digest = digest
        self.fidelity = f"supernet-{digest[:8]}"  # there may be several supernets
        self.fingerprint = content_key([SUPERNET_VERSION, digest, self.dataset.fingerprint])
        self._num_classes = supernet.num_classes
        self._task = Task.from_dict(description.get("task", {}), where=f"{weights}, task")

    def why_not(self, candidate: Candidate) -> str | None:
        """The task, a grid too coarse for the canvas, or an architecture that is no subnet."""
        if candidate.task.kind != "segmentation" or candidate.task.num_classes != self._num_classes:
            return (
                f"the supernet is for segmentation with {self._num_classes} classes, the candidate for "
                f"{candidate.task.kind} with {candidate.task.num_classes}."
            )
        return self.recipe.proxy.why_not(candidate) or _opened(self.weights, self._digest)[0].why_not(candidate.arch)

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None = None) -> Metrics:
        """Recalibrate and score one subnet; nothing in it is random, and replicates are alike."""
        if reason := self.why_not(candidate):
            raise UserError(reason)
        since = clocks()
        with one_torch_thread():
            network = self.network(candidate)
            scored = self.recipe.proxy.scored(network, self.images, candidate)
        if weights_out:
            save_model(network, weights_out, classes=named_colours(self.images))
        return Metrics.of(scored, since=since)

    def candidate(self, arch: TopFormerConfig) -> Candidate:
        """An architecture on the task that the supernet was trained for."""
        return Candidate(arch=arch, task=self._task)

    def network(self, candidate: Candidate) -> TopFormer:
        """The subnet as an ordinary network, its batch norms recalibrated, in eval mode."""
        network = _opened(self.weights, self._digest)[0].extract(candidate.arch)
        data = self.dataset.at_size(self.recipe.proxy.canvas_for(candidate))
        images = min(self.recipe.recalibration_images, data.length("train"))
        recalibrate_batch_norm(network, data, images=images)
        return network


class TunedEvaluator:
    """mIoU after a short training that begins with inherited weights; an `Evaluator`."""

    def __init__(self, weights: Path, dataset: SegmentationDataset, training: TrainingRecipe = TUNING) -> None:
        """Raises what `SupernetEvaluator` raises."""
        self.inherited = SupernetEvaluator(weights, dataset)
        self.training = training
        self.fidelity = f"tuned-{self.inherited.fidelity}"
        self.fingerprint = content_key([TUNED_VERSION, self.inherited.fingerprint, training.as_dict()])

    def why_not(self, candidate: Candidate) -> str | None:
        """What the supernet cannot evaluate, this cannot either."""
        return self.inherited.why_not(candidate)

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None = None) -> Metrics:
        """Train on and score one candidate on one torch thread; the seed is of candidate and replicate."""
        if reason := self.why_not(candidate):
            raise UserError(reason)
        return trained_and_scored(
            lambda: self.inherited.network(candidate),
            self.inherited.recipe.proxy,
            self.training,
            self.inherited.images,
            candidate,
            replicate=replicate,
            weights_out=weights_out,
        )


INHERITING: Mapping[str, type[SupernetEvaluator | TunedEvaluator]] = {
    "supernet": SupernetEvaluator,
    "tuned": TunedEvaluator,
}


def inheriting(text: str, dataset: SegmentationDataset) -> SupernetEvaluator | TunedEvaluator | None:
    """By `supernet:FILE` or `tuned:FILE`; None for any other text."""
    kind, colon, file = text.partition(":")
    if kind not in INHERITING or not colon:
        return None
    if not file.strip():
        raise UserError(f"{text!r} names no file; name the supernet's weights, like {kind}:last.safetensors.")
    return INHERITING[kind](Path(file), dataset)


@lru_cache(maxsize=2)
def _opened(weights: Path, digest: str) -> tuple[Supernet, dict[str, Any]]:
    """Once for each process; refuses a file that has changed since the evaluator was made."""
    if hashlib.sha256(_content(weights)).hexdigest() != digest:
        raise UserError(f"{weights} has changed since its evaluation began; run the same command again.")
    return saved_supernet(weights)


def _content(weights: Path) -> bytes:
    return file_content(weights, "the supernet", most_bytes=MOST_WEIGHTS_BYTES)


def _recipe_of(description: dict[str, Any], weights: Path) -> SupernetRecipe:
    try:
        return SupernetRecipe.from_dict(description["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{weights} does not say how it was trained; was it edited?") from None

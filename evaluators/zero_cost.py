"""How well does an architecture rank that was never trained? Baselines that every proxy must beat.

Parameters and multiply-adds are counted; NASWOT (arXiv:2006.04647) asks how differently a random network answers to
different images, SynFlow (arXiv:2006.05467) how much its weights let through. None of them is an accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from evaluators.base import Score, clocks
from evaluators.evaluation import normalised, stacked
from evaluators.proxy import ProxyRecipe, for_dataset, one_torch_thread, training_seed
from topformer.blocks import candidate_blocks
from topformer.config import Candidate, content_key
from topformer.errors import UserError, unknown_name
from topformer.model import TopFormer

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators.datasets import Image, SegmentationDataset

ZERO_COST_VERSION = 1
"""Raise it with every change that changes a score."""
NASWOT_IMAGES = 16
"""Of the training split; the paper takes a batch of 128, at 32 x 32 px."""


class ZeroCostEvaluator:
    """Scores one candidate without training; a `Scorer`. Greater is better."""

    def __init__(self, name: str, recipe: ProxyRecipe, dataset: SegmentationDataset) -> None:
        """`recipe` says on what canvas the untrained network is looked at."""
        if name not in ZERO_COST:
            raise unknown_name("zero-cost proxy", name, ZERO_COST)
        self.fidelity = name
        self.recipe = recipe = for_dataset(recipe, dataset)
        self.dataset = dataset.at_size(recipe.canvas)
        self.fingerprint = content_key(
            [ZERO_COST_VERSION, name, self.dataset.fingerprint, list(recipe.canvas), list(recipe.reference_size)]
        )

    def why_not(self, candidate: Candidate) -> str | None:
        """Why the canvas cannot hold the candidate."""
        return self.recipe.why_not(candidate)

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None = None) -> Score:
        """The same for the same candidate and replicate, which draws the random weights; there are none to keep."""
        wall, started = clocks()
        with one_torch_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(training_seed(candidate, replicate))
            value = ZERO_COST[self.fidelity](candidate, self.dataset.at_size(self.recipe.canvas_for(candidate)))
        now, cpu = clocks()
        return Score(value=value, seconds=now - wall, cpu_seconds=cpu - started)


def parameters(candidate: Candidate, _dataset: SegmentationDataset) -> float:
    return float(sum(block.parameters for block in candidate_blocks(candidate)))


def macs(candidate: Candidate, _dataset: SegmentationDataset) -> float:
    """In 10**9, at the task's image size."""
    return sum(block.macs for block in candidate_blocks(candidate)) / 1e9


def naswot(candidate: Candidate, dataset: SegmentationDataset) -> float:
    """Log-determinant of how many rectified units agree between each pair of images (NASWOT's K_H).

    Every ReLU and ReLU6 counts as one unit per position: on or off, beyond ReLU6's upper end counted as on.
    """
    model = TopFormer(candidate.arch, num_classes=dataset.num_classes).eval()
    _with_own_statistics(model)
    images = normalised(stacked(_distinct_images(dataset)))
    sign, value = torch.linalg.slogdet(agreeing_units(model, images))
    if sign <= 0:
        raise UserError(f"architecture {candidate.arch.key} answers alike to different images: NASWOT is undefined.")
    return float(value)


def _distinct_images(dataset: SegmentationDataset) -> list[Image]:
    """The first ones of the training split; two that are equal would leave no determinant."""
    found: dict[bytes, Image] = {}
    for index in range(dataset.length("train")):
        image = dataset.item("train", index)[0]
        found.setdefault(image.tobytes(), image)
        if len(found) == NASWOT_IMAGES:
            break
    return list(found.values())


def agreeing_units(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, B) in float64: rectified units that are on for both images, or off for both."""
    same = torch.zeros(len(images), len(images), dtype=torch.float64)
    with torch.inference_mode(), _Activations() as seen:
        model(images)
    for active in seen.patterns:
        same += active @ active.T + (1 - active) @ (1 - active).T
    return same


def synflow(candidate: Candidate, dataset: SegmentationDataset) -> float:
    """Log of `synaptic_flow`, whose values span hundreds of orders of magnitude."""
    height, width = dataset.item("train", 0)[0].shape[:2]
    total = synaptic_flow(TopFormer(candidate.arch, num_classes=dataset.num_classes), height, width)
    if not 0 < total < math.inf:
        raise UserError(f"architecture {candidate.arch.key} has SynFlow {total:g}, which has no logarithm.")
    return math.log(total)


def synaptic_flow(model: nn.Module, height: int, width: int) -> float:
    """Sum over all parameters of |weight x gradient|, for absolute weights and an image of ones; changes the model.

    In float64, fresh batch norms as the identity and ReLU6 without its upper end, where gradients stop.
    """
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    with _Unbounded():
        model(torch.ones(1, 3, height, width, dtype=torch.float64)).sum().backward()
    return sum(float((p.detach() * p.grad).abs().sum()) for p in model.parameters() if p.grad is not None)


ZERO_COST: Mapping[str, Callable[[Candidate, SegmentationDataset], float]] = {
    "parameters": parameters,
    "macs": macs,
    "naswot": naswot,
    "synflow": synflow,
}


class _Activations(TorchFunctionMode):
    """Notes which rectified units are on, wherever in the network a rectifier is called."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns: list[Tensor] = []

    def __torch_function__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(named or {}))
        if function in (F.relu, F.relu6):
            self.patterns.append((cast(Tensor, result) > 0).flatten(1).double())
        return result


class _Unbounded(TorchFunctionMode):
    """ReLU instead of ReLU6."""

    def __torch_function__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        return (F.relu if function is F.relu6 else function)(*arguments, **(named or {}))


def _with_own_statistics(model: nn.Module) -> None:
    """Batch norms take the batch's mean and variance: an untrained network has no others."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()

"""Parts of a batch, on one process or two, are worth what the whole batch is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from evaluators.recipe import Augmentation, TrainingRecipe
from evaluators.training import Execution, train
from tests.support.trainings import MICRO, RECIPE, Halves
from topformer import TopFormer, UserError

FROZEN = replace(
    RECIPE,
    iterations=4,
    batch_size=4,
    auxiliary_weight=0,
    recalibration_images=0,
    freeze_norms=True,
    loss_at="labels",
    ema_decay=0.5,
    augmentation=Augmentation(
        long_side=128, short_side=64, scale_min=0.5, scale_max=2, crop=(64, 64), class_share_max=1, photometric=True
    ),
)


def without_dropout(recipe: TrainingRecipe, **execution: int) -> dict[str, torch.Tensor]:
    return _trained(Fabric(accelerator="cpu", devices=1), recipe, execution)


def _trained(fabric: Fabric, recipe: TrainingRecipe, execution: dict[str, int]) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0
    train(model, Halves(), recipe, train_images=6, seed=1, fabric=fabric, execution=Execution(**execution))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _trained_into(fabric: Fabric, recipe: TrainingRecipe, path: Path) -> None:
    state = _trained(fabric, recipe, {})
    if fabric.is_global_zero:
        torch.save(state, path)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_a_batch_in_parts_gives_the_same_weights() -> None:
    whole = without_dropout(FROZEN)
    moved = largest_difference(whole, without_dropout(replace(FROZEN, iterations=1)))
    assert largest_difference(whole, without_dropout(FROZEN, accumulate=2)) < 1e-3 * moved


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(partial(_trained_into, recipe=FROZEN, path=tmp_path / "two.pt"))
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    one = without_dropout(FROZEN)
    moved = largest_difference(one, without_dropout(replace(FROZEN, iterations=1)))
    assert largest_difference(one, two) < 1e-3 * moved


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 4 cannot be shared equally by 1 devices x 3 parts"):
        without_dropout(FROZEN, accumulate=3)

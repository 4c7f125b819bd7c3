"""The training loop on images of a few hundred pixels."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.evaluation import normalised, recalibrate_batch_norm, score
from evaluators.samples import Samples
from evaluators.training import Execution, NonFiniteLoss, train
from tests.support.trainings import CROPPED, MICRO, RECIPE, Halves, Oracle, Sides, trained
from topformer import TopFormer, UserError

if TYPE_CHECKING:
    pass


def parameters_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_reduces_the_loss_and_finds_the_halves() -> None:
    losses: list[float] = []
    recipe = replace(RECIPE, iterations=40, learning_rate=1e-2)
    model = trained(recipe=recipe, progress=lambda done, total, loss: losses.append(loss))
    assert len(losses) == 40
    assert np.mean(losses[-4:]) < 0.5 * losses[0]
    assert score(model, Halves(), stride=1).pixel_accuracy_pct > 80


def test_progress_counts_up_to_the_number_of_iterations() -> None:
    seen: list[tuple[int, int]] = []
    trained(recipe=replace(RECIPE, iterations=3), progress=lambda done, total, loss: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_training_depends_on_the_seed_alone() -> None:
    first = trained(seed=5)
    torch.rand(7)  # somebody else's random numbers
    again, other = trained(seed=5), trained(seed=6)
    assert torch.equal(parameters_of(first), parameters_of(again))
    assert not torch.equal(parameters_of(first), parameters_of(other))


def test_training_leaves_the_random_stream_of_the_caller_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = TopFormer(MICRO, num_classes=3)
    torch.manual_seed(3)
    train(model, Halves(), replace(RECIPE, iterations=1), train_images=6, seed=0)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-3},
        {"weight_decay": 0.5},
        {"warmup_share": 0.9},
        {"clip_norm": 0.01},
        {"class_weight_power": 0.0},
        {"auxiliary_weight": 0.0},
        {"zero_start": False},
        {"batch_size": 3},
        {"head_multiplier": 3.0},
        {"decay_norms": False, "weight_decay": 0.5},
        {"schedule": "poly"},
        {"warmup_start": 1.0, "warmup_share": 0.9},
        {"drop_path": 0.9},
        {"ema_decay": 0.5},
        {"loss_at": "labels"},
        {"freeze_norms": True},
        {"augmentation": CROPPED, "recalibration_images": 0},
        {"augmentation": replace(CROPPED, photometric=True), "recalibration_images": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_what_is_learnt(change: dict[str, Any]) -> None:
    short = replace(RECIPE, iterations=3)
    assert not torch.equal(
        parameters_of(trained(recipe=short)), parameters_of(trained(recipe=replace(short, **change)))
    )


@pytest.mark.parametrize("injected_strides", [(4, 8), (16, 32)])
def test_logits_of_other_strides_are_trained_and_scored_on_the_same_pixels(injected_strides: tuple[int, ...]) -> None:
    model = trained(MICRO.replace(injected_strides=injected_strides), recipe=replace(RECIPE, iterations=2))
    assert score(model, Halves(), stride=4).counts.sum() == 3 * 24 * 16  # rows 2, 6, 10 ... of the image


@pytest.mark.parametrize("extractor", ["none", "ppm", "aspp", "ffn"])
def test_single_pixel_maps_train_in_batches_of_two(extractor: Any) -> None:
    trained(MICRO.replace(extractor=extractor, token_stride=128), recipe=replace(RECIPE, iterations=2))


def test_a_loss_that_is_not_finite_is_reported_with_what_to_do() -> None:
    model = TopFormer(MICRO, num_classes=3)

    def poison(done: int, total: int, loss: float) -> None:
        nn.init.constant_(model.get_parameter("head.classifier.conv.bias"), math.inf)

    with pytest.raises(NonFiniteLoss, match=r"diverged at iteration 2 of 12: .*lower the learning rate \(0.004\)"):
        train(model, Halves(), RECIPE, train_images=6, seed=0, progress=poison)


def test_weights_that_are_not_finite_are_reported_at_the_first_iteration() -> None:
    model = TopFormer(MICRO, num_classes=3)
    nn.init.constant_(model.get_parameter("token_pyramid.stem.conv.conv.weight"), math.nan)
    with pytest.raises(NonFiniteLoss, match="iteration 1 of 12: loss nan"):
        train(model, Halves(), RECIPE, train_images=6, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"warmup_share": 1.5}, "warmup_share must be from 0 to 1"),
        ({"class_weight_power": 0.5}, "class_weight_power"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(RECIPE, **change)


def test_learning_rate_warms_up_then_falls_to_nearly_zero() -> None:
    rates = [replace(RECIPE, iterations=100).learning_rate_at(i) for i in range(100)]
    assert rates[0] == pytest.approx(4e-4)
    assert rates[10] == max(rates) == pytest.approx(4e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate_batch_norm(model, Halves(), images=4)
    images = normalised(torch.from_numpy(np.stack([Halves().item("train", i)[0] for i in range(4)])))
    assert torch.allclose(model.get_buffer("0.running_mean"), images.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(model.get_buffer("0.running_var"), images.var((0, 2, 3)), atol=1e-3)


def test_recalibration_keeps_mode_momentum_and_weights() -> None:
    model = TopFormer(MICRO, num_classes=3).train()
    before = parameters_of(model)
    recalibrate_batch_norm(model, Halves(), images=3)
    assert model.training
    assert all(module.training for module in model.modules())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert torch.equal(parameters_of(model), before)


@pytest.mark.parametrize("stride", [1, 2, 4, 5])
def test_a_perfect_network_scores_100_at_any_stride(stride: int) -> None:
    matrix = score(Oracle().eval(), Halves(image_size=(40, 50)), stride=stride)
    if stride == 1:
        assert matrix.counts.sum() == 3 * 38 * 50
    assert matrix.pixel_accuracy_pct > 95  # cells across the line are mixed by the resizing
    assert matrix.per_class_iou_pct[2] is None


def test_flips_keep_image_and_labels_together() -> None:
    flipped = 0
    for number in range(16):
        image, labels = Samples(dataset=Sides(), images=1, seed=3, augmentation=None)(number)
        assert np.array_equal(image[..., 0] == 200, labels == 1)
        flipped += int(labels[0, 0])
    assert 0 < flipped < 16


@pytest.mark.parametrize("accumulate", [2])
def test_a_part_of_one_image_whose_map_is_a_pixel_is_refused(accumulate: int) -> None:
    """Batch norm told it by a ValueError."""
    small = replace(CROPPED, crop=(32, 32))
    recipe = replace(RECIPE, augmentation=small, recalibration_images=0)
    with pytest.raises(UserError, match="of 2 images 2 parts get 1 each, and a map is a single pixel"):
        trained(recipe=recipe, execution=Execution(accumulate=accumulate))


class Unsaved:
    """A keeper that must not be asked to save."""

    def restore(self) -> None:
        return None

    def save(self, iteration: int, *_: object) -> None:
        raise AssertionError(f"saved after {iteration}")


def test_weights_that_are_not_finite_are_not_saved() -> None:
    """Statistics of batch norm overflow while the loss is finite; the file would be refused when it is read."""
    model = TopFormer(MICRO, num_classes=3)
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).running_var.fill_(math.inf)
    recipe = replace(RECIPE, freeze_norms=True)
    with pytest.raises(NonFiniteLoss, match=r"diverged by iteration 1 of 12: .*running_var has values"):
        train(model, Halves(), recipe, train_images=6, seed=0, execution=Execution(save_every=1), keeper=Unsaved())


def test_a_killed_worker_is_one_sentence() -> None:
    def kill(_done: int, _total: int, _loss: float) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()

    with pytest.raises(UserError, match="a process that prepares images ended or hung"):
        trained(recipe=replace(RECIPE, iterations=99), execution=Execution(workers=1), progress=kill)


@pytest.mark.slow
def test_without_a_compiler_the_advice_is_not_to_compile(tmp_path: Path) -> None:
    program = (
        "from tests.support.trainings import trained; from evaluators.training import Execution; "
        "trained(execution=Execution(compile=True))"
    )
    root = Path(__file__).parents[2]
    environment = {
        "PYTHONPATH": str(root),
        "PATH": "/nowhere",
        "CXX": "/nowhere/c++",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert "UserError: torch.compile failed (" in done.stderr
    assert done.stderr.rstrip().endswith("train with --no-compile.")

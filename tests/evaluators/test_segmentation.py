"""The confusion matrix against plain NumPy, label sampling and the losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluators import segmentation
from evaluators.datasets import IGNORE
from evaluators.segmentation import (
    ConfusionMatrix,
    class_weights,
    label_counts,
    label_weight,
    pooled_loss,
    resized_loss,
    sampled_labels,
    segmentation_loss,
)
from topformer import UserError
from topformer.model import upsample


def filled(predicted: NDArray[np.integer], labels: NDArray[np.integer], num_classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(predicted, labels)
    return matrix


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes, predictions and labels with ignored pixels, often with absent classes."""
    num_classes = draw(st.integers(1, 7))
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    present = draw(st.integers(1, num_classes))
    predicted = rng.integers(0, present, shape).astype(np.uint8)
    labels = rng.integers(0, num_classes, shape).astype(np.uint8)
    labels[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = IGNORE
    return num_classes, predicted, labels


@given(maps())
def test_iou_and_accuracies_equal_set_arithmetic_on_the_maps(case: tuple) -> None:  # type: ignore[type-arg]
    num_classes, predicted, labels = case
    scored = labels != IGNORE
    if not scored.any():
        return
    matrix = filled(predicted, labels, num_classes)
    expected, accuracies = [], []
    for k in range(num_classes):
        said, true = (predicted == k) & scored, labels == k
        expected.append(100 * (said & true).sum() / (said | true).sum() if (said | true).any() else None)
        if true.any():
            accuracies.append(100 * (said & true).sum() / true.sum())
    assert matrix.per_class_iou_pct == pytest.approx(tuple(expected))
    assert matrix.miou_pct == pytest.approx(np.mean([iou for iou in expected if iou is not None]))
    assert matrix.pixel_accuracy_pct == pytest.approx(100 * (predicted == labels)[scored].mean())
    assert matrix.mean_accuracy_pct == pytest.approx(np.mean(accuracies))


@given(maps(), st.data())
def test_streaming_in_any_order_equals_one_update(case: tuple, data: st.DataObject) -> None:  # type: ignore[type-arg]
    num_classes, predicted, labels = case
    streamed = ConfusionMatrix(num_classes)
    for row in data.draw(st.permutations(range(len(labels)))):
        streamed.update(predicted[row], labels[row])
    np.testing.assert_array_equal(streamed.counts, filled(predicted, labels, num_classes).counts)


def test_miou_worked_out_by_hand() -> None:
    labels = np.array([[0, 0, 1, 1], [2, IGNORE, 1, 0]])
    predicted = np.array([[0, 1, 1, 1], [0, 3, 1, 0]])
    matrix = filled(predicted, labels, 5)
    # class 0: 2 of {3 labelled, 3 predicted}, union 4; class 1: 3 of union 4; class 2: 0 of 1; 3 and 4 never count
    assert matrix.per_class_iou_pct == (50.0, 75.0, 0.0, None, None)
    assert matrix.miou_pct == pytest.approx(125 / 3)
    assert matrix.pixel_accuracy_pct == pytest.approx(100 * 5 / 7)


def test_counts_beyond_32_bits_are_exact() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**40
    matrix.update(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert matrix.counts[0, 0] == 2**40 + 1


@pytest.mark.parametrize("metric", ["miou_pct", "pixel_accuracy_pct", "mean_accuracy_pct"])
def test_nothing_but_ignored_pixels_is_an_error_not_a_number(metric: str) -> None:
    matrix = filled(np.zeros((3, 3), np.uint8), np.full((3, 3), IGNORE, np.uint8), 2)
    with pytest.raises(UserError, match="nothing to score"):
        getattr(matrix, metric)


def test_a_label_outside_the_classes_is_an_error_that_names_the_range() -> None:
    with pytest.raises(UserError, match=r"labels run from 1 to 7, but there are 5 classes"):
        filled(np.zeros(2, np.uint8), np.array([1, 7], np.uint8), 5)
    with pytest.raises(UserError, match="label 7 found, but there are 5 classes"):
        label_counts([np.array([[1, 7]], np.uint8)], 5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_sampled_labels_are_the_ones_at_the_cell_centres(height: int, width: int, stride: int) -> None:
    labels = torch.arange(height * width).reshape(1, height, width)
    size = (math.ceil(height / stride), math.ceil(width / stride))
    expected = torch.nn.functional.interpolate(labels[None].double(), size=size, mode="nearest-exact")[0]
    assert torch.equal(sampled_labels(labels, size), expected.long())


def test_class_weights_rise_as_the_inverse_root_of_frequency_and_average_to_one_per_pixel() -> None:
    weights = class_weights(np.array([900, 100, 0]), power=-0.5)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert float(0.9 * weights[0] + 0.1 * weights[1]) == pytest.approx(1)
    assert weights[2] == 0


def test_loss_ignores_ignored_pixels_and_weighs_classes() -> None:
    logits = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 1.0, -5.0]]]])  # (1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))
    loss = segmentation_loss(logits, labels, torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((first + 3 * second) / 4)


def test_pooled_loss_of_uniform_logits_is_the_log_of_the_number_of_classes() -> None:
    labels = torch.tensor([[[0, 1], [IGNORE, 2]]], dtype=torch.uint8)
    loss = pooled_loss(torch.zeros(1, 4, 1, 1), labels, torch.ones(4), sampled_at=(2, 2))
    assert loss.item() == pytest.approx(math.log(4))


def test_pooled_loss_is_least_at_the_shares_of_the_labels() -> None:
    labels = torch.tensor([[[0, 0], [0, 1]]], dtype=torch.uint8)
    shares = torch.tensor([0.75, 0.25]).log().reshape(1, 2, 1, 1)
    at_shares, beside = (pooled_loss(x, labels, torch.ones(2), sampled_at=(2, 2)) for x in (shares, shares * 1.2))
    assert at_shares.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert at_shares < beside


@pytest.mark.parametrize(("coarse", "fine"), [((5, 7), (40, 56)), ((5, 7), (33, 50)), ((4, 4), (64, 32))])
def test_loss_in_strips_is_the_loss_of_resized_logits(
    coarse: tuple[int, int], fine: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "_STRIP_VALUES", 6 * fine[1] * 7)  # seven rows at a time
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (3, *fine), generator=generator).to(torch.uint8)
    labels[0, :9] = IGNORE
    weights = torch.rand(6, generator=generator)
    total = label_weight(labels.long(), weights) / 2  # as where a batch has two parts
    found = []
    for resize in (False, True):
        logits = torch.randn((3, 6, *coarse), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        logits = logits.float().requires_grad_()
        if resize:
            loss = segmentation_loss(upsample(logits, fine), labels, weights, total)
        else:
            loss = resized_loss(logits, labels, weights, total)
        (3 * loss).backward()
        assert logits.grad is not None
        found.append((loss.detach(), logits.grad))
    (ours, slope), (plain, plain_slope) = found
    assert float(ours) == pytest.approx(float(plain), rel=1e-5)
    assert torch.allclose(slope, plain_slope, atol=1e-6 * float(plain_slope.abs().max()), rtol=1e-4)


def test_loss_in_strips_is_exact_where_the_rest_is_not() -> None:
    labels = torch.zeros((1, 64, 64), dtype=torch.uint8)
    logits = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    total = torch.tensor(64.0 * 64)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = resized_loss(logits, labels, torch.ones(3), total)
    assert torch.equal(reduced, resized_loss(logits, labels, torch.ones(3), total))


def test_nothing_labelled_is_no_loss_and_no_gradient() -> None:
    labels = torch.full((1, 16, 16), IGNORE, dtype=torch.uint8)
    logits = torch.ones((1, 3, 2, 2), requires_grad=True)
    loss = resized_loss(logits, labels, torch.ones(3), torch.tensor(0.0))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert float(segmentation_loss(logits, labels, torch.ones(3)).detach()) == 0

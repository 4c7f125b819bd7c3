"""Labels that are scribbles or points are learnt from at full resolution; dense ones as ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.datasets import IGNORE
from evaluators.datasets.acceptance import labels_are_sparse
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.folder import opened
from evaluators.datasets.scenes import Scenes
from evaluators.evaluation import segmented
from evaluators.proxy import LONG, REFERENCE, SHORT, for_dataset
from evaluators.recipe import Protocol, TrainingRecipe
from evaluators.samples import augmented
from evaluators.segmentation import (
    ConfusionMatrix,
    cell_weights,
    distillation_loss,
    pooled_loss,
    resized_loss,
    sparse_pooled_loss,
)
from evaluators.training import Trained, train
from tests.support import trees
from tests.support.trainings import CROPPED, MICRO, RECIPE
from topformer import TopFormer
from topformer.cache import CACHE_VARIABLE

SPARSE = replace(
    RECIPE,
    iterations=80,
    learning_rate=1e-2,
    recalibration_images=0,
    augmentation=replace(CROPPED, long_side=128, short_side=96, scale_min=0.8, scale_max=1.25),
)
WHOLE = Protocol(long_side=128, short_side=96, multiple_of=32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found of data sets before is kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


def trained_on(dataset: LabelledFiles, recipe: TrainingRecipe) -> tuple[TopFormer, Trained]:
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=3)
    return model, train(model, dataset, recipe, train_images=dataset.length("train"), seed=0)


def accuracy_pct(model: TopFormer, dataset: LabelledFiles, whole: tuple[np.ndarray[Any, Any], ...]) -> float:
    matrix = ConfusionMatrix(3)
    for index, labels in enumerate(whole):
        matrix.update(segmented(model, dataset.item("val", index)[0], WHOLE), labels)
    return matrix.pixel_accuracy_pct


@pytest.mark.slow
def test_a_network_learns_whole_pictures_from_scribbles(tmp_path: Path) -> None:
    """The loss looked at every eighth pixel, saw none of them, said 0.000 and taught nothing."""
    whole = trees.scribble_tree(tmp_path)
    dataset = opened(tmp_path)
    model, result = trained_on(dataset, replace(SPARSE, sparse_labels=True))
    assert min(result.losses) > 0.001
    assert accuracy_pct(model, dataset, whole) > 60  # by chance 33; as many iterations on whole labels reach 67


def test_scribbles_and_points_are_found_to_be_sparse(tmp_path: Path) -> None:
    trees.scribble_tree(tmp_path)
    assert labels_are_sparse(opened(tmp_path))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_brushes_and_points_of_some_pixels_are_sparse(width: int, tmp_path: Path) -> None:
    for number in range(3):
        labels = np.full((120, 160), IGNORE, np.uint8)
        labels[20 + number : 20 + number + width, 10:150] = 0
        labels[70 + number : 70 + number + width, 40 : 40 + width] = 1
        save_pair(tmp_path, "train" if number else "val", number, labels)
    assert labels_are_sparse(opened(tmp_path))


def test_dense_labels_with_much_ignored_are_not_sparse(tmp_path: Path) -> None:
    for number in range(3):
        labels = np.full((120, 160), IGNORE, np.uint8)
        labels[30:60, 30:90] = number % 2
        save_pair(tmp_path, "train" if number else "val", number, labels)
    assert not labels_are_sparse(opened(tmp_path))


def test_thin_objects_on_a_labelled_ground_are_not_sparse(tmp_path: Path) -> None:
    for number in range(3):
        labels = np.zeros((120, 160), np.uint8)
        labels[20 + number] = 1
        save_pair(tmp_path, "train" if number else "val", number, labels)
    assert not labels_are_sparse(opened(tmp_path))


def save_pair(root: Path, part: str, number: int, labels: trees.Pixels) -> None:
    trees.save_plain(root / "images" / part / f"{number}.png", trees.picture_of(labels))
    trees.save_grey(root / "masks" / part / f"{number}.png", labels)
    trees.save_lines(root / "classes.txt", ("road", "house"))


def test_a_recipe_for_sparse_labels_says_so_and_for_dense_ones_nothing(tmp_path: Path) -> None:
    trees.scribble_tree(tmp_path / "scribbles")
    trees.folder_tree(tmp_path / "dense")
    assert for_dataset(SHORT, opened(tmp_path / "scribbles")).training.as_dict()["sparse_labels"] is True
    assert "sparse_labels" not in for_dataset(SHORT, opened(tmp_path / "dense")).training.as_dict()


def test_recipes_for_scenes_keep_the_fingerprints_that_stores_know() -> None:
    recipes = [for_dataset(recipe, Scenes()).fingerprint for recipe in (SHORT, LONG, REFERENCE)]
    assert recipes == FINGERPRINTS


FINGERPRINTS = ["ecb17c033e80c51c", "f24df48db145cebe", "a22232464451e4c7"]


def test_a_map_made_smaller_keeps_every_scribble() -> None:
    labels = np.full((300, 400), IGNORE, np.uint8)
    labels[[31, 77, 203], [11, 222, 391]] = [0, 1, 2]
    small = replace(CROPPED, long_side=100, short_side=75, scale_min=1, scale_max=1, crop=(96, 128))
    _, cut = augmented(np.zeros((300, 400, 3), np.uint8), labels, small, np.random.default_rng(0), sparse=True)
    assert [tuple(np.argwhere(cut == label)[0]) for label in range(3)] == [(7, 2), (19, 55), (50, 97)]
    assert (cut != IGNORE).sum() == 3


def test_a_crop_without_a_label_is_drawn_again() -> None:
    labels = np.full((64, 640), IGNORE, np.uint8)
    labels[30, 600] = 1
    wide = replace(CROPPED, long_side=640, scale_min=1, scale_max=1, class_share_max=1.0)
    found = [augmented(np.zeros((64, 640, 3), np.uint8), labels, wide, rng, sparse=True)[1] for rng in generators()]
    once = [augmented(np.zeros((64, 640, 3), np.uint8), labels, wide, rng)[1] for rng in generators()]
    seen, seen_once = (sum((cut == 1).any() for cut in cuts) for cuts in (found, once))
    assert seen > 3 * seen_once


def generators() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(60)]


def test_the_weight_of_a_cell_is_that_of_its_labelled_pixels() -> None:
    labels = torch.full((1, 4, 6), IGNORE, dtype=torch.uint8)
    labels[0, 0, 0] = labels[0, 1, 2] = 1
    labels[0, 3, 5] = 0
    found = cell_weights(labels, torch.tensor([2.0, 3.0]), (2, 2))
    assert found[0, 1].tolist() == [[6.0, 0.0], [0.0, 0.0]]
    assert found[0, 0].tolist() == [[0.0, 0.0], [0.0, 2.0]]


def test_where_all_is_labelled_both_losses_of_tokens_are_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 32, 32), generator=generator).byte()
    weights = torch.tensor([1.0, 0.5, 2.0])
    dense = pooled_loss(logits, labels, weights, sampled_at=(32, 32))
    assert sparse_pooled_loss(logits, labels, weights) == pytest.approx(dense.item(), rel=1e-5)


def test_a_teacher_that_knows_the_labels_is_answered_as_the_labels_are() -> None:
    """One label a cell: what is learnt from its answer is what is learnt from the label there."""
    labels = torch.full((1, 16, 16), IGNORE, dtype=torch.uint8)
    labels[0, 3, 12] = 1
    logits = torch.tensor([[0.3, -0.2]]).view(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()
    sure = torch.full((1, 2, 2, 2), -30.0)
    sure[:, 1] = 30.0
    one = torch.tensor(1.0)
    taught = distillation_loss(logits, sure, labels, torch.ones(2), one, sparse=True)
    assert taught == pytest.approx(resized_loss(logits, labels, torch.ones(2), one).item(), rel=1e-5)

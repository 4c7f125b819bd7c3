"""Images in a folder per class."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets.files import DataError
from evaluators.datasets.imagenet import opened
from tests.support import trees
from topformer import UserError


def test_classes_are_the_sorted_folders_of_train(tmp_path: Path) -> None:
    dataset = opened(trees.imagenet_tree(tmp_path, classes=3, train=2, val=1))
    assert dataset.class_names == ("n01440764", "n01440765", "n01440766")
    assert [dataset.length(split) for split in ("train", "val")] == [6, 3]
    assert dataset.images["val"] == tuple(
        (f"val/{name}/{name}_0.JPEG", i) for i, name in enumerate(dataset.class_names)
    )
    image, label = dataset.item("train", 3)
    assert (image.shape, label) == ((56, 61, 3), 1)
    assert np.abs(image[5, 5].astype(int) - trees.colour_of(1)).max() < 8
    dataset.require_complete()
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_hidden_folders_and_other_files_are_no_classes_and_images(tmp_path: Path) -> None:
    trees.imagenet_tree(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "n01440764" / "notes.txt").write_text("")
    (tmp_path / "train" / "n01440764" / ".hidden.jpg").write_text("")
    dataset = opened(tmp_path)
    assert (dataset.num_classes, dataset.length("train")) == (3, 9)


def test_a_class_without_validation_images_is_legal_and_a_strange_one_is_not(tmp_path: Path) -> None:
    trees.imagenet_tree(tmp_path)
    lone = tmp_path / "val" / "n01440766"
    lone.rename(tmp_path / "val" / "aardvark")
    with pytest.raises(UserError, match=r"val has the class 'aardvark', which .*train has not"):
        opened(tmp_path)
    (tmp_path / "val" / "aardvark").rename(tmp_path / "elsewhere")
    assert opened(tmp_path).length("val") == 2


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    trees.imagenet_tree(tmp_path, val=0)
    for name in ("n01440764", "n01440765"):
        (tmp_path / "val" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no val images \(.jpeg, .jpg"):
        opened(tmp_path).require_complete()


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    dataset = opened(trees.imagenet_tree(tmp_path))
    path = tmp_path / dataset.images["train"][0][0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=path.name):
        dataset.item("train", 0)


def test_the_fingerprint_follows_the_images_and_their_classes(tmp_path: Path) -> None:
    before = opened(trees.imagenet_tree(tmp_path)).fingerprint
    assert opened(tmp_path).fingerprint == before
    first = tmp_path / "train" / "n01440764"
    (first / "n01440764_0.JPEG").rename(tmp_path / "train" / "n01440765" / "n01440764_0.JPEG")
    assert opened(tmp_path).fingerprint != before


def test_a_folder_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"looked for train/CLASS, val/CLASS; found train/\."):
        opened(tmp_path)

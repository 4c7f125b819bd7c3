"""The procedural data set: same seed, same pixels, whatever the classes; a damaged cache is drawn again."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.datasets import SegmentationDataset, Split, scene_drawing
from evaluators.datasets import scenes as module
from evaluators.datasets.scene_drawing import names_and_labels
from evaluators.datasets.scenes import Scenes, draw_item
from topformer import UserError
from topformer.cache import CACHE_VARIABLE

SPLITS: tuple[Split, ...] = ("train", "val")
SMALL = Scenes(image_size=(48, 96), train_images=6, val_images=3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    yield tmp_path
    module._open_split.cache_clear()


def drawn_again() -> None:
    """As a new process would: forget the open maps."""
    module._open_split.cache_clear()


def test_items_equal_what_is_drawn_directly() -> None:
    for split in SPLITS:
        for index in range(SMALL.length(split)):
            for cached, drawn in zip(SMALL.item(split, index), draw_item(SMALL, split, index), strict=True):
                assert cached.dtype == np.uint8
                np.testing.assert_array_equal(cached, drawn)


def test_items_do_not_depend_on_the_number_of_images() -> None:
    more = Scenes(image_size=SMALL.image_size, train_images=9, val_images=5)
    np.testing.assert_array_equal(draw_item(SMALL, "train", 4)[0], draw_item(more, "train", 4)[0])


def test_train_validation_and_seeds_are_disjoint() -> None:
    other = Scenes(image_size=SMALL.image_size, seed=1)
    images = [
        draw_item(dataset, split, i)[0].tobytes() for dataset in (SMALL, other) for split in SPLITS for i in range(6)
    ]
    assert len(set(images)) == len(images)


def test_fingerprint_follows_every_parameter_and_nothing_else() -> None:
    variants = [
        SMALL,
        Scenes(image_size=(96, 48), train_images=6, val_images=3),
        Scenes(image_size=(48, 96), train_images=7, val_images=3),
        Scenes(image_size=(48, 96), train_images=6, val_images=4),
        Scenes(image_size=(48, 96), train_images=6, val_images=3, seed=1),
        Scenes(image_size=(48, 96), train_images=6, val_images=3, num_classes=60),
    ]
    assert {field.name for field in fields(Scenes)} == SMALL._parameters.keys()
    assert len({scenes.fingerprint for scenes in variants}) == len(variants)
    assert variants[1].at_size((48, 96)).fingerprint == SMALL.fingerprint


def test_a_changed_generator_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SMALL.fingerprint
    monkeypatch.setattr(scene_drawing, "NOISE_SPREAD", 3)
    scene_drawing._textures.cache_clear()
    module._probe_checksum.cache_clear()
    changed = SMALL.fingerprint
    monkeypatch.undo()
    scene_drawing._textures.cache_clear()
    module._probe_checksum.cache_clear()
    assert changed != before == SMALL.fingerprint


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped byte", "missing file", "wrong shape", "bad checksums", "empty"]
)
def test_a_damaged_cache_is_drawn_again(cache: Path, damage: str) -> None:
    SMALL.item("train", 0)
    drawn_again()
    (folder,) = (cache / "scenes").iterdir()
    images = folder / "images.npy"
    match damage:
        case "truncated":
            images.write_bytes(images.read_bytes()[:-100])
        case "flipped byte":
            content = bytearray(images.read_bytes())
            content[-5] ^= 1
            images.write_bytes(content)
        case "missing file":
            (folder / "labels.npy").unlink()
        case "wrong shape":
            np.save(images, np.zeros((1, 48, 96, 3), np.uint8))
        case "bad checksums":
            (folder / "checksums.json").write_text("[1")
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
    image, labels = SMALL.item("train", 5)
    np.testing.assert_array_equal(image, draw_item(SMALL, "train", 5)[0])
    np.testing.assert_array_equal(labels, draw_item(SMALL, "train", 5)[1])
    assert [path.name for path in (cache / "scenes").iterdir()] == [folder.name]


def test_an_unusable_cache_folder_is_a_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(cache / "file"))
    with pytest.raises(UserError, match=CACHE_VARIABLE):
        SMALL.item("train", 0)


def total_of(dataset: Scenes) -> int:
    return sum(int(dataset.item(split, i)[0].sum()) for split in SPLITS for i in range(dataset.length(split)))


@pytest.mark.slow
def test_processes_that_draw_at_once_agree(cache: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        totals = list(pool.map(total_of, [SMALL] * 4))
    assert totals == [total_of(SMALL)] * 4
    assert len(list((cache / "scenes").iterdir())) == len(SPLITS)


def test_an_opened_data_set_pickles_small() -> None:
    SMALL.item("train", 0)
    pickled = pickle.dumps(SMALL)
    assert len(pickled) < 1000
    assert pickle.loads(pickled) == SMALL


def test_scenes_obey_the_protocol() -> None:
    dataset: SegmentationDataset = SMALL
    assert (dataset.name, dataset.num_classes) == ("scenes", 59)
    assert len(set(dataset.class_names)) == 59
    with pytest.raises(IndexError):
        dataset.item("val", 3)
    with pytest.raises(ValueError, match="read-only"):
        dataset.item("val", 0)[0][0] = 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"image_size": (16, 64)}, r"at least 32 px on each side, not \(16, 64\); give \(height, width\)"),
        ({"image_size": (64,)}, r"at least 32 px on each side, not \(64,\)"),
        ({"image_size": (32, 2049)}, r"one side at most 64 times as long as the other, not \(32, 2049\)"),
        ({"num_classes": 1}, "told apart by 2 to 150 classes, not 1."),
        ({"num_classes": 151}, "told apart by 2 to 150 classes, not 151."),
        ({"train_images": 0}, "train_images must be at least 1, not 0"),
        ({"val_images": -1}, "val_images must be at least 1, not -1"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "not 4294967296"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        Scenes(**wrong)
    assert str(error.value).startswith("scenes")
    assert "\n" not in str(error.value)


def test_parameters_at_the_limits_are_legal() -> None:
    for num_classes in (2, 150):
        Scenes(image_size=(2048, 32), num_classes=num_classes, train_images=1, val_images=1, seed=2**32 - 1)


def test_the_default_data_set_is_the_recorded_one() -> None:
    """Trainings that are compared with each other are of this data set."""
    assert Scenes().fingerprint == "3671c15bb0fcd093"


@pytest.mark.parametrize("num_classes", [2, 19, 59, 149])
def test_the_pictures_do_not_depend_on_the_number_of_classes(num_classes: int) -> None:
    folded = replace(SMALL, num_classes=num_classes)
    finest = replace(SMALL, num_classes=150)
    for index in range(4):
        image, labels = draw_item(folded, "val", index % 3)
        fine_image, fine_labels = draw_item(finest, "val", index % 3)
        np.testing.assert_array_equal(image, fine_image)
        np.testing.assert_array_equal(labels, names_and_labels(num_classes)[1][fine_labels])
        assert labels.max() < num_classes


@pytest.mark.parametrize("num_classes", [2, 59, 150])
def test_names_and_colours_are_as_many_as_classes(num_classes: int) -> None:
    scenes = replace(SMALL, num_classes=num_classes)
    assert scenes.name == "scenes"
    assert len(set(scenes.class_names)) == len(set(scenes.palette)) == num_classes

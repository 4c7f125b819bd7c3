"""The procedural data set: same seed, same pixels; a damaged cache is drawn again; labels need the far cues."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets import IGNORE, SegmentationDataset, Split
from evaluators.datasets import scenes as module
from evaluators.datasets.scenes import (
    CLASS_NAMES,
    FIRST_BOARD,
    FIRST_GROUND,
    FIRST_SKYLINE,
    Cues,
    Scenes,
    draw_item,
    draw_scene,
)
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


def far_seen(cues: Cues, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return draw_scene((96, 384), np.random.default_rng(seed), cues=cues)


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
    ]
    assert len({scenes.fingerprint for scenes in variants}) == len(variants)
    assert variants[1].at_size((48, 96)).fingerprint == SMALL.fingerprint


def test_a_changed_generator_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SMALL.fingerprint
    monkeypatch.setattr(module, "NOISE_SPREAD", 3.0)
    module._textures.cache_clear()
    module._probe_checksum.cache_clear()
    changed = SMALL.fingerprint
    monkeypatch.undo()
    module._textures.cache_clear()
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


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (128, 64), (96, 384)])
def test_every_size_is_labelled_throughout(size: tuple[int, int]) -> None:
    for seed in range(20):
        image, labels = draw_scene(size, np.random.default_rng(seed))
        assert image.shape == (*size, 3)
        assert labels.shape == size
        assert labels.max() < len(CLASS_NAMES) < IGNORE


@pytest.mark.parametrize("wrong", [{"image_size": (16, 64)}, {"train_images": 0}, {"seed": -1}])
def test_parameters_out_of_range_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match="scenes"):
        Scenes(**wrong)


def test_only_the_board_shows_the_cue_that_names_the_ground() -> None:
    (red, red_labels), (blue, blue_labels) = (far_seen(Cues(1, 2, board)) for board in (0, 1))
    board = (red_labels >= FIRST_BOARD) & (red_labels < FIRST_BOARD + 3)
    assert np.array_equal(red[~board], blue[~board])  # the same to the eye wherever the board is not
    assert not np.array_equal(red[board], blue[board])
    ground = (red_labels >= FIRST_GROUND) & (red_labels < FIRST_SKYLINE)
    assert ground.mean() > 0.1
    assert (blue_labels[ground] == red_labels[ground] + 1).all()


def test_the_sky_looks_the_same_over_grounds_that_name_it_differently() -> None:
    (first, first_labels), (second, second_labels) = (far_seen(Cues(0, ground, 1)) for ground in (0, 1))
    sky = (first_labels < FIRST_GROUND) & (second_labels < FIRST_GROUND)
    assert sky.mean() > 0.1
    assert np.array_equal(first[sky], second[sky])
    assert set(first_labels[sky]) == {1}
    assert set(second_labels[sky]) == {0}


@pytest.mark.parametrize(
    ("cue", "pair"),
    [
        (Cues(0, 0, 1), ("cross of the red board", "cross of the blue board")),
        (Cues(0, 1, 0), ("hourglass of mottled ground", "hourglass of grainy ground")),
    ],
)
def test_some_things_are_named_by_the_board_and_some_by_the_ground(
    cue: Cues, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THING_PREFERENCE", np.ones_like(module.THING_PREFERENCE))  # the same things occur
    before, after = (CLASS_NAMES.index(name) for name in pair)
    seen = 0
    for seed in range(20):
        first, second = (far_seen(cues, seed)[1] for cues in (Cues(0, 0, 0), cue))
        assert (second[first == before] == after).all()
        seen += int((first == before).sum())
    assert seen


@pytest.mark.slow
def test_every_class_occurs_and_the_tail_is_long() -> None:
    share = np.zeros(len(CLASS_NAMES))
    for seed in range(120):
        share += np.bincount(draw_scene((64, 128), np.random.default_rng(seed))[1].ravel(), minlength=len(CLASS_NAMES))
    share /= share.sum()
    assert (share > 0).all()
    assert share.max() > 100 * share.min()

"""Warnings speak against data before anything is trained on them; which stop, and what was looked at for them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets import acceptance
from evaluators.datasets.acceptance import (
    NAMES,
    Evidence,
    Warned,
    evidence_of,
    examined,
    other_classes,
    remember_evidence,
    require_accepted,
)
from evaluators.datasets.ade20k import opened as ade20k
from evaluators.datasets.checking import check
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.folder import opened
from evaluators.datasets.scenes import Scenes
from tests.support import trees
from topformer import UserError


def found(dataset: LabelledFiles) -> Evidence:
    looked = evidence_of(dataset)
    assert looked is not None
    return looked


def names(warnings: tuple[Warned, ...]) -> list[tuple[str, bool]]:
    return [(one.name, one.stops) for one in warnings]


def test_nothing_speaks_against_a_sound_folder(tmp_path: Path) -> None:
    assert found(opened(trees.folder_tree(tmp_path))).warnings == ()


def test_a_class_without_a_training_pixel_stops_and_one_missing_in_val_warns(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    trees.save_lines(tmp_path / "classes.txt", [*trees.FOLDER_CLASSES, "unicorn", "dragon"])
    warnings = found(opened(tmp_path)).warnings
    assert names(warnings) == [("empty-class", True), ("empty-class", False)]
    assert warnings[0].says.startswith("2 classes never occur in the 3 train images: unicorn, dragon; is every")


def labelled(root: Path, part: str, number: int, values: trees.Pixels) -> None:
    noise = np.random.default_rng([number, part == "val"]).integers(0, 256, (*values.shape, 3)).astype(np.uint8)
    trees.save_plain(root / "images" / part / f"{part}-{number}.png", noise)
    trees.save_grey(root / "masks" / part / f"{part}-{number}.png", values)
    trees.save_lines(root / "classes.txt", ("road", "crack"))


@pytest.mark.parametrize(("pixels", "warned"), [(60, True), (70, False)])
def test_a_class_with_over_98_percent_stops(pixels: int, warned: bool, tmp_path: Path) -> None:
    """Of 64 x 50 pixels, 2 % are 64."""
    values = np.zeros((64, 50), np.uint8)
    values.flat[:pixels] = 1
    for part in ("train", "val"):
        labelled(tmp_path, part, 0, values)
    assert (("one-class", True) in names(found(opened(tmp_path)).warnings)) == warned


@pytest.mark.parametrize(
    ("rows", "expected"), [(20, []), (25, [("ignored", False)]), (32, [("ignored", False)]), (33, [("ignored", True)])]
)
def test_more_than_a_third_ignored_warns_and_more_than_half_stops(
    rows: int, expected: list[tuple[str, bool]], tmp_path: Path
) -> None:
    values = np.tile(np.array([0, 1], np.uint8), (64, 25))
    labelled(tmp_path, "val", 0, values)
    values = values.copy()
    values[:rows] = 255
    labelled(tmp_path, "train", 0, values)
    assert names(found(opened(tmp_path)).warnings) == expected


def test_one_picture_under_two_names_in_two_splits_stops(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    shutil.copy(tmp_path / "images/train/train-1.jpg", tmp_path / "images/val/copy.jpg")
    shutil.copy(tmp_path / "masks/train/train-1.png", tmp_path / "masks/val/copy.png")
    (warning,) = found(opened(tmp_path)).warnings
    assert (warning.name, warning.stops) == ("split-overlap", True)
    assert (
        "1 picture lies in two splits, the first is images/train/train-1.jpg (train) and images/val/copy.jpg (val)"
        in (warning.says)
    )


def test_a_picture_to_train_on_among_those_that_judge_stops(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        shutil.copy(tmp_path / f"{folder}/train-0.{suffix}", tmp_path / f"{folder}/judge.{suffix}")
    trees.save_lines(tmp_path / "test.txt", ["judge"])
    assert names(found(opened(tmp_path)).warnings) == [("split-overlap", True)]


def test_equal_label_maps_in_two_splits_are_no_overlap(tmp_path: Path) -> None:
    values = np.tile(np.array([0, 1], np.uint8), (64, 25))
    for part in ("train", "val"):
        labelled(tmp_path, part, 0, values)
    assert found(opened(tmp_path)).warnings == ()


def test_as_many_maps_are_looked_at_as_needed_to_find_every_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MOST_LOOKED_AT", 3)
    values = np.zeros((32, 32), np.uint8)
    for number in range(12):
        labelled(tmp_path, "train", number, values)
        labelled(tmp_path, "val", number, values)
    both = found(opened(tmp_path))
    assert [(part.looked_at, part.images) for part in both.splits.values()] == [(12, 12), (3, 12)]
    assert both.looked_at == "12 of 12 train and 3 of 12 val"
    trees.save_grey(tmp_path / "masks/train/train-7.png", np.tile(np.array([0, 1], np.uint8), (32, 16)))
    assert ("empty-class", True) not in names(found(opened(tmp_path)).warnings)


def test_what_was_found_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = opened(trees.folder_tree(tmp_path))
    first = found(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(acceptance, "_looked_into", None)
        assert found(opened(tmp_path)) == first
    trees.save_grey(tmp_path / "masks/train/train-0.png", np.full((48, 64), 255, np.uint8))
    assert found(opened(tmp_path)) != first


def test_a_damaged_cache_is_found_again(tmp_path: Path, cache: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path))
    first = found(dataset)
    (kept,) = (cache / "evidence").iterdir()
    for damaged in ("{", "[]", '{"class_names": 3}', '{"class_names": [], "splits": {"train": 1}}'):
        kept.write_text(damaged)
        assert found(dataset) == first


def test_a_check_of_all_files_spares_the_training_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = opened(trees.folder_tree(tmp_path))
    remember_evidence(dataset, Evidence.of(check(dataset), dataset.class_names))
    monkeypatch.setattr(acceptance, "_looked_into", None)
    assert found(opened(tmp_path)).splits["train"].looked_at == 3


def test_a_split_without_a_label_is_refused_whatever_is_accepted(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    for path in (tmp_path / "masks/val").iterdir():
        trees.save_grey(path, np.full((48, 64), 255, np.uint8))
    with pytest.raises(
        UserError, match=r"every pixel of the first 2 val images is ignored \(255\): there is nothing to s"
    ):
        examined(opened(tmp_path), tuple(NAMES))


def test_scenes_and_benchmarks_are_taken_as_they_are(tmp_path: Path) -> None:
    assert evidence_of(Scenes()) is None
    assert evidence_of(ade20k(trees.ade20k_tree(tmp_path))) is None


OVERLAP = Warned("split-overlap", "1 picture lies in two splits.", True)
IGNORED = Warned("ignored", "60 % are ignored.", True)
MILD = Warned("empty-class", "1 class never occurs in val.", False)


def test_what_stops_is_said_with_all_that_must_be_accepted() -> None:
    with pytest.raises(UserError, match=r"two splits\. 60 % are ignored\..*--accept split-overlap --accept ignored"):
        require_accepted((OVERLAP, IGNORED, MILD), ())


def test_what_is_accepted_stops_no_longer() -> None:
    require_accepted((OVERLAP, IGNORED, MILD), ("ignored", "split-overlap"))
    with pytest.raises(UserError, match="60 % are ignored"):
        require_accepted((OVERLAP, IGNORED, MILD), ("split-overlap",))


def test_a_name_that_no_warning_has_is_refused() -> None:
    with pytest.raises(
        UserError, match="unknown warning to accept 'overlap'; available: brightness, class-order, empty-class"
    ):
        require_accepted((), ("overlap",))


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (("sky", "road", "car"), "in another order: class 1 is 'road' in the weights and 'car' in the data"),
        (("sky", "car", "bus"), "by other names: class 2 is 'bus' in the weights and 'road' in the data"),
    ],
)
def test_weights_of_other_classes_are_told_by_the_first_that_differs(own: tuple[str, ...], says: str) -> None:
    warned = other_classes(Path("a.safetensors"), own, "mine", ("sky", "car", "road"))
    assert warned is not None
    assert (warned.name, warned.stops) == ("class-order", True)
    assert says in warned.says


@pytest.mark.parametrize("own", [(), ("sky", "car", "road"), ("sky", "car")])
def test_of_weights_that_say_nothing_nothing_is_claimed(own: tuple[str, ...]) -> None:
    assert other_classes(Path("a.safetensors"), own, "mine", ("sky", "car", "road")) is None


def test_every_warning_is_named_once() -> None:
    assert {OVERLAP.name, IGNORED.name, MILD.name, "one-class", "class-order", "brightness"} == set(NAMES)


def test_at_another_size_the_same_is_found(tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path))
    assert found(replace(dataset, image_size=(64, 64))) == found(dataset)

"""A check lists what is wrong, counts what is right, and stops at nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets.ade20k import opened as ade20k
from evaluators.datasets.checking import Problem, Twin, check
from evaluators.datasets.folder import opened
from evaluators.datasets.imagenet import opened as imagenet
from evaluators.datasets.scenes import Scenes
from tests.support import trees
from topformer import UserError


def test_a_sound_tree_is_counted_by_hand(tmp_path: Path) -> None:
    report = check(opened(trees.folder_tree(tmp_path)))
    assert report.sound
    train, val = report.splits["train"], report.splits["val"]
    assert (train.images, train.looked_at, val.images) == (3, 3, 2)
    assert (train.smallest, train.largest) == ((48, 64), (56, 61))
    assert train.ignored_pixels == 64 + 61 + 64  # the top rows
    assert sum(train.class_counts) == 2 * 47 * 64 + 55 * 61
    assert train.ignored_pct == pytest.approx(100 * 189 / (2 * 48 * 64 + 56 * 61))
    labels = [trees.patchwork("val", number, classes=range(3)) for number in range(2)]
    assert val.class_counts == tuple(sum(int((each == label).sum()) for each in labels) for label in range(3))
    assert (train.never_seen, val.never_seen) == ((), ())


def test_classes_that_never_occur_are_told(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    trees.save_lines(tmp_path / "classes.txt", [*trees.FOLDER_CLASSES, "unicorn", "dragon"])
    assert check(opened(tmp_path)).splits["train"].never_seen == (3, 4)


def test_everything_that_is_wrong_is_listed_and_the_rest_counted(tmp_path: Path) -> None:
    root = trees.ade20k_tree(tmp_path, train=6)
    images, maps = root / "images/training", root / "annotations/training"
    name = "ADE_train_{:08d}".format
    (images / f"{name(1)}.jpg").unlink()
    (images / f"{name(2)}.jpg").write_bytes((images / f"{name(2)}.jpg").read_bytes()[:300])
    (maps / f"{name(3)}.png").write_bytes(b"")
    trees.save_grey(maps / f"{name(4)}.png", np.ones((48, 64), np.uint8))
    trees.save_grey(maps / f"{name(5)}.png", np.full((48, 64), 200, np.uint8))
    report = check(ade20k(root))
    assert not report.sound
    found = [(problem.kind, Path(problem.path).name) for problem in report.problems]
    assert found == [
        ("no partner", f"{name(1)}.png"),
        ("unreadable", f"{name(2)}.jpg"),
        ("unreadable", f"{name(3)}.png"),
        ("size", f"{name(4)}.png"),
        ("labels", f"{name(5)}.png"),
    ]
    assert all("\n" not in problem.says and str(root) not in problem.says for problem in report.problems)
    assert report.problems[3].says == "has 48x64 px (height x width), its image has 56x61; they must be equal"
    assert report.problems[4].says.startswith("3072 pixels stand for no class (200); legal are 1 to 150")
    assert report.splits["train"].looked_at == 5
    pixels = 55 * 61 + 48 * 64 + 55 * 61  # maps 2, 4 (no ignored row) and 6; map 3 unreadable, 5 illegal
    assert sum(report.splits["train"].class_counts) == pixels


def test_an_empty_split_is_a_problem(tmp_path: Path) -> None:
    report = check(opened(trees.folder_tree(tmp_path, train=1, val=0, split="none")))
    assert report.problems == (Problem("empty split", "train", "no image with labels"),)
    assert report.splits["train"].class_counts == (0, 0, 0)
    assert report.splits["train"].smallest is None
    assert report.splits["train"].ignored_pct is None


def test_listed_names_that_are_not_there_say_so(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    trees.save_lines(tmp_path / "val.txt", ["val-0", "val-9"])
    (tmp_path / "masks/train-1.png").unlink()
    assert check(opened(tmp_path)).problems == (
        Problem("no partner", "images/train-1.jpg", "an image without labels, or labels without an image"),
        Problem("no partner", "images/val-9", "in a split's list, but not there"),
    )


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path, train=8, val=8))
    counts = [check(dataset, sample=3, seed=seed).splits["train"].class_counts for seed in (0, 0, 1, 2)]
    assert counts[0] == counts[1]
    assert len(set(counts)) > 1
    report = check(dataset, sample=3)
    assert [part.looked_at for part in report.splits.values()] == [3, 3]
    assert check(dataset, sample=99).splits["train"].looked_at == 8


@pytest.mark.slow
def test_processes_report_the_same_in_the_same_order(tmp_path: Path) -> None:
    root = trees.folder_tree(tmp_path, train=20, val=9)
    for number in (3, 11, 17):
        (root / f"masks/train/train-{number}.png").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    together = check(opened(root), workers=2, progress=lambda done, total: seen.append((done, total)))
    assert together == check(opened(root))
    assert seen == [(done, 29) for done in range(1, 30)]
    assert len(together.problems) == 3


def test_images_of_classes_are_counted_and_damaged_ones_listed(tmp_path: Path) -> None:
    root = trees.imagenet_tree(tmp_path, classes=3, train=3, val=1)
    (root / "train/n01440765/n01440765_1.JPEG").write_bytes(b"")
    report = check(imagenet(root))
    assert report.splits["train"].class_counts == (3, 3, 3)
    assert report.splits["train"].ignored_pct is None
    assert [(problem.kind, problem.path) for problem in report.problems] == [
        ("unreadable", "train/n01440765/n01440765_1.JPEG")
    ]
    assert report.problems[0].says == "cannot be read (an empty file); replace or remove it with its partner"


def test_scenes_are_checked_too() -> None:
    report = check(Scenes(image_size=(48, 96), train_images=4, val_images=2))
    assert report.sound
    assert sum(report.splits["train"].class_counts) == 4 * 48 * 96
    assert report.splits["val"].ignored_pct == 0


@pytest.mark.parametrize("wrong", [{"sample": 0}, {"sample": -1}, {"workers": 0}, {"workers": 513}])
def test_numbers_without_sense_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"must .* 1.*, not {next(iter(wrong.values()))}"):
        check(opened(trees.folder_tree(tmp_path)), **wrong)  # type: ignore[arg-type]


def test_classes_are_counted_by_image_too(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    trees.save_grey(tmp_path / "masks/train/train-0.png", np.zeros((48, 64), np.uint8))
    assert check(opened(tmp_path)).splits["train"].class_images == (3, 2, 2)


def test_one_picture_in_two_splits_is_found_by_its_bytes(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        shutil.copy(tmp_path / f"{folder}/train/train-2.{suffix}", tmp_path / f"{folder}/val/again.{suffix}")
    report = check(opened(tmp_path))
    assert report.twins == (Twin("train", "images/train/train-2.jpg", "val", "images/val/again.jpg"),)
    assert report.sound


def test_images_that_judge_are_checked_as_well(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    trees.save_lines(tmp_path / "val.txt", ["val-0"])
    trees.save_lines(tmp_path / "test.txt", ["val-1"])
    (tmp_path / "masks/val-1.png").write_bytes(b"no picture")
    report = check(opened(tmp_path))
    assert report.splits["test"].images == 1
    assert [(problem.kind, problem.path) for problem in report.problems] == [("unreadable", "masks/val-1.png")]


def test_a_checked_data_set_is_fingerprinted_without_reading_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = opened(trees.folder_tree(tmp_path / "one")).fingerprint
    dataset = opened(trees.folder_tree(tmp_path / "two"))
    check(dataset)
    monkeypatch.delattr(Path, "read_bytes")
    assert dataset.fingerprint == expected


def test_a_sample_reads_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = opened(trees.folder_tree(tmp_path, train=9, val=9))
    read: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or plain(path))  # type: ignore[func-returns-value]
    check(dataset, sample=2)
    assert len([path for path in read if path.is_relative_to(tmp_path)]) == 8


@pytest.mark.parametrize("progressive", [False, True])
def test_a_photograph_that_is_cut_off_anywhere_is_a_problem(progressive: bool, tmp_path: Path) -> None:
    """An eighth of the pixels is made of it, but every byte is read."""
    trees.folder_tree(tmp_path, train=1, val=1)
    path = tmp_path / "images/train/train-0.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, progressive=progressive)
    whole = path.read_bytes()
    cuts = range(2, len(whole) - 2, len(whole) // 25)
    for cut in cuts:
        path.write_bytes(whole[:cut])
        assert [problem.kind for problem in check(opened(tmp_path)).problems] == ["unreadable"], cut


def test_a_turned_photograph_has_the_size_of_its_labels(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, train=1, val=1)
    labels = trees.patchwork("train", 0, classes=range(3))
    trees.save_photo(tmp_path / "images/train/train-0.jpg", trees.picture_of(labels), orientation=6)
    report = check(opened(tmp_path))
    assert report.sound
    assert report.splits["train"].smallest == (48, 64)


def test_examples_show_the_rarest_classes(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, train=40, val=2)
    for number in range(40):
        rare = np.full((56, 61) if number % 2 else (48, 64), 2 if number == 23 else number % 2, np.uint8)
        trees.save_grey(tmp_path / f"masks/train/train-{number}.png", rare)
    dataset = opened(tmp_path)
    examples = check(dataset).examples
    assert len(examples) == 12
    shown = [dataset.pairs[split][index].image for split, index in examples]
    assert "images/train/train-23.jpg" in shown

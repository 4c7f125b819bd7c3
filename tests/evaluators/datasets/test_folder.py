"""A user's own images and masks: splits, classes, colours, and the mistakes people make."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets import IGNORE, numbered_palette
from evaluators.datasets.files import DataError
from evaluators.datasets.folder import opened
from tests.support import trees
from topformer import UserError


@pytest.mark.parametrize("masks", ["palette", "grey", "deep", "colours"])
@pytest.mark.parametrize("split", ["folders", "lists"])
def test_every_kind_of_mask_gives_the_same_labels(masks: str, split: str, tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path, masks=masks, split=split))
    assert (dataset.length("train"), dataset.length("val")) == (3, 2)
    for number in range(3):
        np.testing.assert_array_equal(
            dataset.item("train", number)[1], trees.patchwork("train", number, classes=range(3))
        )


def test_colours_come_from_the_table_or_by_number(tmp_path: Path) -> None:
    assert opened(trees.folder_tree(tmp_path / "a", masks="colours")).palette == trees.FOLDER_COLOURS
    assert opened(trees.folder_tree(tmp_path / "b")).palette == numbered_palette(3)


def test_without_lists_one_name_in_ten_is_held_out_whatever_is_added(tmp_path: Path) -> None:
    few = opened(trees.folder_tree(tmp_path / "few", train=60, val=0, split="none", size=(32, 32)))
    many = opened(trees.folder_tree(tmp_path / "many", train=90, val=0, split="none", size=(32, 32)))
    held_out = [pair.image for pair in few.pairs["val"]]
    assert 2 <= len(held_out) <= 12
    assert len(few.pairs["train"]) + len(held_out) == 60
    numbers = {f"images/train-{number}.jpg" for number in range(60)}
    assert [pair.image for pair in many.pairs["val"] if pair.image in numbers] == held_out


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_a_handful_of_images_still_makes_both_splits(count: int, tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path, train=count, val=0, split="none"))
    assert dataset.length("train") >= 1 <= dataset.length("val")
    dataset.require_complete()


def test_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path, train=1, val=0, split="none"))
    with pytest.raises(UserError, match="no train images with labels"):
        dataset.require_complete()


def test_lists_take_names_with_or_without_a_suffix_and_only_those(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    trees.save_lines(tmp_path / "train.txt", ["train-2.jpg", "", "train-0 "])
    pairs = opened(tmp_path).pairs["train"]
    assert [pair.image for pair in pairs] == ["images/train-0.jpg", "images/train-2.jpg"]


def test_a_name_in_both_lists_is_refused(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    trees.save_lines(tmp_path / "val.txt", ["val-0", "train-1"])
    with pytest.raises(UserError, match=r"val.txt lists 'train-1', which train.txt lists too"):
        opened(tmp_path)


def test_listed_names_that_are_not_there_are_unpaired(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, split="lists")
    trees.save_lines(tmp_path / "val.txt", ["val-0", "val-9"])
    assert opened(tmp_path).unpaired == ("images/val-9",)


def test_subfolders_dots_and_capital_suffixes_are_part_of_a_name(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    labels = trees.patchwork("train", 0, classes=range(3))
    trees.save_photo(tmp_path / "images/train/trip/day.1/a.b.JPG", trees.picture_of(labels))
    trees.save_mask(tmp_path / "masks/train/trip/day.1/a.b.PNG", labels, "grey")
    (tmp_path / "images/train/.trash").mkdir()
    trees.save_photo(tmp_path / "images/train/.trash/x.jpg", trees.picture_of(labels))
    dataset = opened(tmp_path)
    assert dataset.unpaired == ()
    assert dataset.pairs["train"][3] == ("images/train/trip/day.1/a.b.JPG", "masks/train/trip/day.1/a.b.PNG")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in ("images", "masks", "classes.txt"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "images" / "train" / "loop").symlink_to(tmp_path / "real" / "images")
    dataset = opened(tmp_path / "linked")
    assert [dataset.length(split) for split in ("train", "val")] == [3, 2]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    trees.save_plain(tmp_path / "images/train/train-0.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"train-0.jpg and images/train/train-0.png have the same name; keep one"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "written", ["\ufeffmeadow\nroad\nhouse\n", "meadow\r\nroad\r\nhouse\r\n", " meadow\n\nroad \nhouse"]
)
def test_classes_are_read_whatever_editor_wrote_them(written: str, tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    (tmp_path / "classes.txt").write_bytes(written.encode())
    assert opened(tmp_path).class_names == trees.FOLDER_CLASSES


@pytest.mark.parametrize(
    "written",
    [
        "\ufeffname,red,green,blue\r\na,1,2,3\r\nb, 4 ,5,6\r\nc,7,8,9\r\n",
        "blue,name,red,green\n3,a,1,2\n6,b,4,5\n9,c,7,8",
        "name,r,g,b\na,1,2,3\nb,4,5,6\nc,7,8,9",
    ],
)
def test_class_tables_are_read_whatever_editor_wrote_them(written: str, tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    (tmp_path / "classes.csv").write_bytes(written.encode())
    dataset = opened(tmp_path)
    assert (dataset.class_names, dataset.palette) == (("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))


@pytest.mark.parametrize(
    ("file", "written", "says"),
    [
        ("classes.txt", b"", "must name 1 to 255 classes, not 0"),
        ("classes.txt", b"road\nroad\n", "names 'road' twice"),
        ("classes.txt", b"\xff\xfe\x00", "classes.txt cannot be read as a list of names"),
        ("classes.txt", b"\n".join(b"%d" % n for n in range(256)), "must name 1 to 255 classes, not 256"),
        ("classes.csv", b"", "must begin with the line name,red,green,blue"),
        ("classes.csv", b"name:red:green:blue\na:1:2:3\n", "must begin with the line name,red,green,blue"),
        ("classes.csv", b"name,red,green,blue\na,1,2,256\n", "class 1: needed are a name and three numbers"),
        ("classes.csv", b"name,red,green,blue\na,1,2,3\nb,1\n", "class 2: needed .* not 'b,1,,'"),
        ("classes.csv", b"name,red,green,blue\n,1,2,3\n", "class 1: needed are a name"),
        ("classes.csv", b"name,red,green,blue\na,1,2,3\nb,1,2,3\n", "two rows have one colour"),
        ("classes.csv", b"name,red,green,blue\nignore,1,2,3\n", "must name 1 to 255 classes, not 0"),
        ("classes.csv", b"name,red,green,blue\na,1\x002,2,3\n", "classes.csv"),
    ],
)
def test_a_wrong_class_file_is_a_sentence(file: str, written: bytes, says: str, tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    (tmp_path / file).write_bytes(written)
    with pytest.raises(UserError, match=says) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


def test_without_classes_the_values_that_masks_have_are_told(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"has no classes.txt: .* \(values in the first 5 masks: 0, 1, 2, 255\)"):
        opened(tmp_path)
    for path in (tmp_path / "masks").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no mask could be read"):
        opened(tmp_path)
    trees.folder_tree(tmp_path, masks="colours")
    (tmp_path / "classes.csv").unlink()
    with pytest.raises(UserError, match="these masks are in colours"):
        opened(tmp_path)


def test_masks_in_colours_with_names_alone_are_refused(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, masks="colours")
    (tmp_path / "classes.csv").rename(tmp_path / "classes.txt")
    with pytest.raises(
        DataError, match=r"train-0.png is a picture in colours \(mode RGB\), not a map of class numbers"
    ):
        opened(tmp_path).item("train", 0)


def test_a_colour_that_no_class_has_is_refused(tmp_path: Path) -> None:
    dataset = opened(trees.folder_tree(tmp_path, masks="colours"))
    trees.save_plain(tmp_path / "masks/train/train-0.png", np.full((*trees.SIZE, 3), 7, np.uint8))
    with pytest.raises(DataError, match=r"no class \(\(7, 7, 7\)\); legal are the 3 colours of the classes, or of"):
        dataset.item("train", 0)


def test_a_broken_first_mask_does_not_hide_that_masks_are_in_colours(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path, masks="colours")
    (tmp_path / "masks/train/train-0.png").write_bytes(b"")
    labels = opened(tmp_path).item("train", 1)[1]
    assert set(np.unique(labels)) == {0, 1, 2, IGNORE}


def test_swapped_colours_change_the_fingerprint(tmp_path: Path) -> None:
    before = opened(trees.folder_tree(tmp_path, masks="colours")).fingerprint
    text = (tmp_path / "classes.csv").read_text()
    swapped = text.replace("0,160,0", "x").replace("90,90,90", "0,160,0").replace("x", "90,90,90")
    (tmp_path / "classes.csv").write_text(swapped)
    assert opened(tmp_path).fingerprint != before


def test_256_classes_do_not_fit_but_255_do(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path)
    trees.save_lines(tmp_path / "classes.txt", [str(number) for number in range(255)])
    assert opened(tmp_path).read_labels(tmp_path / "masks/train/train-0.png").max() == IGNORE


def test_a_relative_folder_is_found_by_whoever_works_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.folder_tree(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    dataset = opened(Path("mine"))
    packed = pickle.dumps(dataset)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    image, labels = pickle.loads(packed).item("train", 0)
    assert image.shape[:2] == labels.shape
    assert str(dataset.root) == "mine"  # as it was given, for sentences

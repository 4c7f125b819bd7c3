"""A `dataset.toml`: what it says is how a folder is read, what is wrong in it is one sentence, and what is written of a
folder is what a person would write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.datasets import IGNORE
from evaluators.datasets.describing import written
from evaluators.datasets.description import EXAMPLE, as_text, described, read_description
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.folder import opened
from evaluators.datasets.named import dataset_named, describe
from tests.support import own, trees
from topformer import UserError

KEYS: dict[str, Any] = {
    "images": "photos/{split}/{name}.png",
    "masks": "maps/{split}_of/m-{name}-1.png",
    "splits": {"train": "left", "val": "right"},
    "classes": [{"name": "a", "value": [3, 4]}, {"name": "b", "value": 200}],
    "ignored": [9, 255],
}


def folder(root: Path, values: np.ndarray, mode: str = "L", **changes: Any) -> Path:
    """Two images in places that nothing would find, and a description of `KEYS` with changes."""
    for split in ("left", "right"):
        own.photo(root / f"photos/{split}/x.png", 0)
        own.save(root / f"maps/{split}_of/m-x-1.png", values, mode)
    (root / "dataset.toml").write_text(as_text(KEYS | changes))
    return root


def stripes(*values: int) -> np.ndarray:
    return np.tile(np.array(values)[np.arange(own.SIZE[1]) * len(values) // own.SIZE[1]], (own.SIZE[0], 1))


def labels(root: Path) -> list[int]:
    """From left to right, in the validation mask."""
    return list(dict.fromkeys(dataset_named(str(root)).item("val", 0)[1][0].tolist()))


def test_the_example_is_a_description_with_every_setting() -> None:
    content = tomllib.loads(EXAMPLE)
    assert described(content, "example").names == ("background", "lesion")
    said = EXAMPLE.replace("#", " ")
    assert all(f"{key} =" in said for key in type(described(content, "example")).model_fields)


def test_values_places_and_splits_are_as_described(tmp_path: Path) -> None:
    root = folder(tmp_path, stripes(9, 3, 4, 200, 255))
    dataset = opened(root)
    assert (dataset.name, dataset.class_names, labels(root)) == ("folder", ("a", "b"), [IGNORE, 0, 1])
    meanings = [dataset.read_labels.meanings(label) for label in (0, 1, IGNORE)]
    assert meanings == ["values 3, 4", "value 200", "values 9, 255"]


def test_what_is_not_described_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stand for no class \(5\); legal are 3, 4, 9, 200, 255 .*: .*dataset.toml"):
        labels(folder(tmp_path, stripes(3, 5)))


def test_colours_may_be_described(tmp_path: Path) -> None:
    classes = [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": [7, 7, 7]}]
    picture = own.colour_masks(stripes(0, 1, 2).astype(np.uint8), [(1, 2, 3), (7, 7, 7)], (0, 0, 9))
    assert labels(folder(tmp_path, picture, "RGB", classes=classes, ignored=[[0, 0, 9]])) == [0, 1, IGNORE]


def test_names_alone_are_numbered_from_the_offset(tmp_path: Path) -> None:
    assert labels(folder(tmp_path, stripes(1, 2, 0), classes=["a", "b"], offset=1, ignored=[0])) == [0, 1, IGNORE]


def test_black_and_white_masks_are_read_once_somebody_says_what_white_is(tmp_path: Path) -> None:
    classes = [{"name": "background", "value": 0}, {"name": "lesion", "value": 255}]
    assert labels(folder(tmp_path, stripes(0, 255), classes=classes, ignored=[])) == [0, 1]


def test_one_image_in_so_many_may_be_held_out(tmp_path: Path) -> None:
    for number in range(40):
        own.photo(tmp_path / f"x/{number}.jpg", number)
        own.save(tmp_path / f"x/{number}_m.png", stripes(0, 1), "L")
    keys = {"images": "x/{name}.jpg", "masks": "x/{name}_m.png", "held_out": 4, "classes": ["a", "b"]}
    (tmp_path / "dataset.toml").write_text(as_text(keys))
    dataset = opened(tmp_path)
    assert dataset.length("train") + dataset.length("val") == 40
    assert 4 <= dataset.length("val") <= 18


def test_a_description_of_what_is_found_keeps_the_fingerprint(tmp_path: Path) -> None:
    before = opened(trees.folder_tree(tmp_path)).fingerprint
    describe(tmp_path, None)
    assert opened(tmp_path).fingerprint == before


def test_sparse_labels_survive_a_smaller_map(tmp_path: Path) -> None:
    values = np.full((64, 96), 255)
    values[32, 1:90] = 3
    for split in ("left", "right"):
        trees.save_plain(tmp_path / f"photos/{split}/x.png", np.zeros((64, 96, 3), np.uint8))
        own.save(tmp_path / f"maps/{split}_of/m-x-1.png", values, "L")
    seen = {}
    for rule in ("nearest", "sparse"):
        (tmp_path / "dataset.toml").write_text(as_text(KEYS | {"resize": rule}))
        dataset = opened(tmp_path).at_size((32, 32))
        seen[rule] = (int((dataset.item("val", 0)[1] == 0).sum()), dataset.fingerprint)
    assert seen["sparse"][0] == 30
    assert seen["nearest"][0] == 0
    assert seen["sparse"][1] != seen["nearest"][1]


def test_a_described_white_is_what_photographs_are_scaled_by(tmp_path: Path) -> None:
    root = folder(tmp_path, stripes(3, 200), white=1000)
    for split in ("left", "right"):
        trees.save_deep(root / f"photos/{split}/x.png", np.full(own.SIZE, 500, np.uint16))
    dataset = opened(root)
    assert dataset.item("val", 0)[0].max() == 128
    assert "1000 is white" in dataset.remarks[-1]
    trees.save_deep(root / "photos/right/x.png", np.full(own.SIZE, 1001, np.uint16))
    with pytest.raises(UserError, match="its values run from 1001 to 1001, known are 0 to 1000"):
        dataset.item("val", 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clases": ["a"]}, "unknown key 'clases'; legal here: images, masks"),
        ({"classes": [{"name": "a", "vale": 1}]}, "unknown key 'classes.1.vale'; legal here: name, value, colour"),
        ({"splits": {"trian": "a"}}, "unknown key 'splits.trian'; legal here: train, val, test"),
        ({"images": "{name}"}, "images: after {name} comes a suffix"),
        ({"images": "../{split}/{name}.png"}, "images: a pattern is a path below this folder"),
        ({"images": "/data/{split}/{name}.png"}, "images: a pattern is a path below this folder"),
        ({"masks": "maps/{split}.png"}, "masks: a pattern has {name} once, in its last part"),
        ({"masks": KEYS["images"]}, "images and masks are the same files"),
        ({"images": "photos/{name}.png"}, "one of these says what is for validation"),
        (
            {"held_out": 10},
            "what is for validation: {split} in images, lists, or held_out; there are 2",
        ),
        ({"held_out": 1}, "held_out = 1 is not legal"),
        ({"lists": "lists/train.txt"}, "lists: it is a path below this folder that has {split} once"),
        ({"splits": {"train": "a", "val": "a"}}, "two splits are called 'a'"),
        ({"splits": {"train": "../a"}}, "'../a' is no name of a folder"),
        ({"classes": []}, "classes = [] is not legal"),
        ({"classes": "a"}, "classes = 'a' is not legal"),
        ({"classes": ["a", "a"]}, "two classes are called 'a'"),
        ({"classes": [{"name": "a"}]}, "each class needs a value, or each a colour"),
        ({"classes": ["a", {"name": "b", "value": 3}]}, "classes are names alone, or each has a name"),
        ({"classes": [{"name": "a", "value": 3}, {"name": "b", "value": 3}]}, "3 stands for two classes"),
        ({"classes": [{"name": "a", "value": 9}]}, "9 stands for two classes, or for one and for what is ignored"),
        ({"classes": [{"name": "a", "value": -1}]}, "classes.1.value = -1 is not legal"),
        ({"classes": [{"name": "a", "value": 70000}]}, "classes.1.value = 70000 is not legal"),
        ({"classes": [{"name": "a", "colour": [1, 2]}]}, "classes.1.colour = [1, 2] is not legal"),
        ({"ignored": [[1, 2, 3]]}, "ignored must be values, as those of the classes are"),
        ({"offset": 1}, "offset is for classes that are names alone"),
        ({"resize": "cubic"}, "resize = 'cubic' is not legal"),
        ({"black": 900, "white": 900}, "white = 900 is not above black = 900"),
        ({"threshold": 0}, "threshold = 0 is not legal"),
        ({"threshold": 128}, "threshold is for two classes that are names alone"),
        ({"white": 0}, "white = 0 is not above black = 0"),
    ],
)
def test_a_fault_is_one_sentence(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(as_text(KEYS | changes))
    with pytest.raises(UserError) as error:
        read_description(tmp_path / "dataset.toml")
    assert says in str(error.value)
    assert str(tmp_path / "dataset.toml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff", b"classes = [", b"a = 1\na = 2", b"x = " + b"9" * 5000, b"[" * 100_000])
def test_what_is_no_description_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.toml"):
        opened(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path, stripes(3, 200), splits={"train": "left", "val": "rihgt"})
    with pytest.raises(UserError, match=r"there is no folder 'photos/rihgt'; found dataset.toml, maps/, photos/"):
        opened(root)


def chosen(text: str, reading: int) -> str:
    """The text with the lines of one reading, as a person would leave it."""
    head, *blocks = text.split("\n# Reading ")
    return head + "\n" + "".join(line.removeprefix("# ") + "\n" for line in blocks[reading - 1].splitlines()[1:])


def undescribed(root: Path, values: np.ndarray, names: tuple[str, ...] = ("background", "lesion")) -> Path:
    for split in ("train", "val"):
        own.photo(root / f"images/{split}/{split}.jpg", 0)
        own.save(root / f"masks/{split}/{split}.png", values, "L")
    trees.save_lines(root / "classes.txt", names)
    return root


@pytest.mark.parametrize(("reading", "meant"), [(1, [0, 1]), (2, [0, IGNORE])])
def test_two_readings_are_written_as_comments_until_one_is_chosen(
    reading: int, meant: list[int], tmp_path: Path
) -> None:
    path, ways = describe(undescribed(tmp_path, stripes(0, 255)), None)
    assert len(ways) == 2
    with pytest.raises(UserError, match=r"dataset.toml does not say 'classes': remove the # before each line of one"):
        labels(tmp_path)
    path.write_text(chosen(path.read_text(), reading))
    assert labels(tmp_path) == meant


def test_two_folders_of_masks_are_written_as_two_readings(tmp_path: Path) -> None:
    for number, home in enumerate(("annotations", "labels")):
        own.photo(tmp_path / "images/train/a.jpg", 0)
        own.photo(tmp_path / "images/val/b.jpg", 0)
        own.save(tmp_path / home / "train/a.png", stripes(number, 1), "L")
        own.save(tmp_path / home / "val/b.png", stripes(number, 1), "L")
    trees.save_lines(tmp_path / "classes.txt", ("a", "b"))
    path, ways = describe(tmp_path, None)
    assert ways[0].startswith("images with annotations")
    path.write_text(chosen(path.read_text(), 1))
    assert labels(tmp_path) == [0, 1]


def test_without_a_class_list_every_value_is_a_class_to_be_named(tmp_path: Path) -> None:
    (undescribed(tmp_path, stripes(0, 7)) / "classes.txt").unlink()
    describe(tmp_path, None)
    assert (opened(tmp_path).class_names, labels(tmp_path)) == (("value 0", "value 7"), [0, 1])


def test_255_that_no_mask_has_is_not_said_to_be_ignored(tmp_path: Path) -> None:
    text = written(undescribed(tmp_path, stripes(0, 1))).text
    assert tomllib.loads(text)["ignored"] == []


def test_a_mask_that_says_otherwise_than_most_is_not_described_away(tmp_path: Path) -> None:
    root = undescribed(tmp_path, stripes(0, 1))
    trees.save_lines(root / "classes.csv", ["name,red,green,blue", "a,9,0,0", "b,0,0,9"])
    for number in range(3):
        own.photo(root / f"images/train/{number}.jpg", 0)
        own.save(root / f"masks/train/{number}.png", stripes(0, 1), "L")
    own.save(root / "masks/train/1.png", stripes(0, 1), "P", {0: (0, 0, 9), 1: (9, 0, 0)})
    with pytest.raises(UserError, match=r"1.png can be read in two ways"):
        describe(root, None)


def test_nothing_is_written_over_and_benchmarks_need_no_description(tmp_path: Path) -> None:
    root = undescribed(tmp_path / "mine", stripes(0, 1))
    describe(root, None)
    with pytest.raises(UserError, match="is there already; remove it, or name another file with --out"):
        describe(root, None)
    with pytest.raises(UserError, match="is laid out as ade20k, which is read without a description"):
        describe(trees.ade20k_tree(tmp_path / "ade"), None)


def test_a_description_wins_over_a_class_list(tmp_path: Path) -> None:
    root = undescribed(tmp_path, stripes(0, 1), names=("x", "y"))
    keys = {"images": "images/{split}/{name}.*", "masks": "masks/{split}/{name}.*", "classes": ["p", "q"]}
    (root / "dataset.toml").write_text(as_text(keys))
    dataset = dataset_named(str(root))
    assert isinstance(dataset, LabelledFiles)
    assert dataset.class_names == ("p", "q")

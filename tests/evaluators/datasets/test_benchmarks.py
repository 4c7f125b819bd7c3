"""Each benchmark in its own layout: which files are paired, and which class a value stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from evaluators.datasets import IGNORE, SegmentationDataset, Split
from evaluators.datasets.ade20k import opened as ade20k
from evaluators.datasets.cityscapes import opened as cityscapes
from evaluators.datasets.coco_stuff import opened_10k, opened_164k
from evaluators.datasets.files import DataError, LabelledFiles, named_classes
from evaluators.datasets.folder import opened as folder
from evaluators.datasets.pascal_context import opened as pascal_context
from evaluators.datasets.pascal_context import opened_59
from tests.support import trees
from topformer import UserError

SPLITS: tuple[Split, ...] = ("train", "val")


class Benchmark(NamedTuple):
    tree: Callable[[Path], Path]
    opened: Callable[[Path], LabelledFiles]
    classes: int
    first_pair: tuple[str, str]


BENCHMARKS = {
    "ade20k": Benchmark(
        trees.ade20k_tree,
        ade20k,
        150,
        ("images/training/ADE_train_00000001.jpg", "annotations/training/ADE_train_00000001.png"),
    ),
    "cityscapes": Benchmark(
        trees.cityscapes_tree,
        cityscapes,
        19,
        (
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
            "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
        ),
    ),
    "pascal_context": Benchmark(
        trees.pascal_context_tree,
        pascal_context,
        60,
        ("JPEGImages/2008_000000.jpg", "SegmentationClassContext/2008_000000.png"),
    ),
    "coco_stuff_164k": Benchmark(
        trees.coco_stuff_164k_tree,
        opened_164k,
        171,
        ("images/train2017/000000000009.jpg", "stuffthingmaps/train2017/000000000009.png"),
    ),
    "coco_stuff_164k converted": Benchmark(
        partial(trees.coco_stuff_164k_tree, converted=True),
        opened_164k,
        171,
        ("images/train2017/000000000009.jpg", "annotations/train2017/000000000009_labelTrainIds.png"),
    ),
    "coco_stuff_10k": Benchmark(
        trees.coco_stuff_10k_tree,
        opened_10k,
        171,
        ("images/COCO_train2014_000000000000.jpg", "annotations/COCO_train2014_000000000000.mat"),
    ),
    "coco_stuff_10k converted": Benchmark(
        partial(trees.coco_stuff_10k_tree, converted=True),
        opened_10k,
        171,
        (
            "images/train2014/COCO_train2014_000000000000.jpg",
            "annotations/train2014/COCO_train2014_000000000000_labelTrainIds.png",
        ),
    ),
    "folder": Benchmark(trees.folder_tree, folder, 3, ("images/train/train-0.jpg", "masks/train/train-0.png")),
}


@pytest.fixture(params=BENCHMARKS)
def benchmark(request: pytest.FixtureRequest) -> Benchmark:
    return BENCHMARKS[request.param]


def test_a_benchmark_is_read_as_it_was_drawn(benchmark: Benchmark, tmp_path: Path) -> None:
    dataset: SegmentationDataset = benchmark.opened(benchmark.tree(tmp_path))
    assert dataset.num_classes == len(dataset.class_names) == len(dataset.palette) == benchmark.classes
    assert [dataset.length(split) for split in SPLITS] == [3, 2]
    numbers = {"train": (0, 1, 2), "val": (0, 1)}
    if "cityscapes" in dataset.name:  # by city, then by number: aachen has 0 and 2
        numbers["train"] = (0, 2, 1)
    for split in SPLITS:
        for index, number in enumerate(numbers[split]):
            image, labels = dataset.item(split, index)
            drawn = trees.patchwork(split, number, classes=range(benchmark.classes))
            np.testing.assert_array_equal(labels, drawn)
            assert (image.shape, image.dtype, labels.dtype) == ((*labels.shape, 3), np.uint8, np.uint8)
            difference = np.abs(image.astype(int) - trees.picture_of(drawn))
            assert np.median(difference) < 8  # JPEG, and every class in its own colour


def test_pairs_come_in_the_order_of_their_names(benchmark: Benchmark, tmp_path: Path) -> None:
    dataset = benchmark.opened(benchmark.tree(tmp_path))
    assert dataset.pairs["train"][0] == benchmark.first_pair
    assert list(dataset.pairs["train"]) == sorted(dataset.pairs["train"])
    assert dataset.unpaired == ()
    dataset.require_complete()


def test_items_are_not_to_be_written_to(benchmark: Benchmark, tmp_path: Path) -> None:
    dataset = benchmark.opened(benchmark.tree(tmp_path))
    for made in (dataset, dataset.at_size((32, 40))):
        for array in made.item("val", 0):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


@pytest.mark.parametrize(
    ("name", "classes"), [("ade20k", 150), ("cityscapes", 19), ("pascal_context", 60), ("coco_stuff", 171)]
)
def test_class_names_are_distinct_and_each_has_a_colour(name: str, classes: int) -> None:
    names, palette = named_classes(name)
    assert len(set(names)) == len(palette) == classes
    assert all(name == name.strip() != "" for name in names)
    assert all(0 <= channel <= 255 for colour in palette for channel in colour)


def labels_of(opened: Callable[[Path], LabelledFiles], root: Path, values: list[int]) -> list[int]:
    """What the values of the first training map's upper left corner become."""
    dataset = opened(root)
    path = root / dataset.pairs["train"][0].labels
    if not path.exists():
        path = dataset.root / dataset.pairs["train"][0].labels
    if path.suffix == ".mat":
        ids = np.zeros(trees.SIZE, np.uint8)
        ids[0, : len(values)] = values
        savemat(path, {"S": ids})
    else:
        map_ = np.asarray(Image.open(path)).copy()
        map_[0, : len(values)] = values
        trees.save_grey(path, map_)
    found = dataset.read_labels(path)[0, : len(values)]
    return [int(value) for value in found]


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path: Path) -> None:
    assert labels_of(ade20k, trees.ade20k_tree(tmp_path), [0, 1, 150, 151, 254, 255]) == [255, 0, 149, -1, -1, 255]


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    ids = [0, 6, 7, 8, 11, 24, 25, 29, 33, 34, 255]  # road 7, person 24, rider 25, caravan 29, bicycle 33
    found = labels_of(cityscapes, trees.cityscapes_tree(tmp_path), ids)
    assert found == [255, 255, 0, 1, 2, 11, 12, 255, 18, -1, -1]
    dataset = cityscapes(tmp_path)
    assert (dataset.class_names[11], dataset.class_names[18]) == ("person", "bicycle")
    assert dataset.palette[0] == (128, 64, 128)


def test_pascal_context_has_60_classes_or_59(tmp_path: Path) -> None:
    root = trees.pascal_context_tree(tmp_path)
    values = [0, 1, 59, 60, 255]
    assert labels_of(pascal_context, root, values) == [0, 1, 59, -1, 255]
    assert labels_of(opened_59, root, values) == [255, 0, 58, -1, 255]
    with_background, without = pascal_context(root), opened_59(root)
    assert with_background.class_names[0] == "background"
    assert with_background.class_names[1:] == without.class_names
    assert with_background.palette[1:] == without.palette
    assert with_background.fingerprint != without.fingerprint


@pytest.mark.parametrize("home", [".", "VOCdevkit", "VOCdevkit/VOC2010"])
def test_pascal_context_is_found_from_any_of_its_folders(home: str, tmp_path: Path) -> None:
    dataset = pascal_context(trees.pascal_context_tree(tmp_path) / home)
    assert dataset.length("train") == 3


def test_pascal_context_takes_the_listed_photographs_only(tmp_path: Path) -> None:
    home = trees.pascal_context_tree(tmp_path) / "VOCdevkit" / "VOC2010"
    trees.save_lines(home / "ImageSets" / "SegmentationContext" / "train.txt", ["2008_000002", "2008_000007"])
    dataset = pascal_context(tmp_path)
    assert [pair.image for pair in dataset.pairs["train"]] == ["JPEGImages/2008_000002.jpg"]
    assert dataset.unpaired == ("JPEGImages/2008_000007",)
    with pytest.raises(UserError, match="1 files have no partner, the first is JPEGImages/2008_000007; complete or"):
        dataset.require_complete()


def test_coco_stuff_ids_skip_the_eleven_that_were_never_labelled(tmp_path: Path) -> None:
    less_one = [0, 10, 11, 12, 89, 90, 91, 181, 182, 255]  # id 12 (street sign) and 91 (hair brush) have no class
    maps = labels_of(opened_164k, trees.coco_stuff_164k_tree(tmp_path / "a"), less_one)
    assert maps == [0, 10, -1, 11, 79, -1, 80, 170, -1, 255]
    ids = [0, 1, 11, 12, 13, 90, 91, 92, 182, 183]
    mat = labels_of(opened_10k, trees.coco_stuff_10k_tree(tmp_path / "b"), ids)
    assert mat == [255, 0, 10, -1, 11, 79, -1, 80, 170, -1]
    names = opened_10k(tmp_path / "b").class_names
    assert (names[0], names[79], names[80], names[170]) == ("person", "toothbrush", "banner", "wood")


@pytest.mark.parametrize(("unused", "shown"), [(12, "12"), (250, "250")])
def test_a_matlab_id_without_a_class_is_told(unused: int, shown: str, tmp_path: Path) -> None:
    dataset = opened_10k(trees.coco_stuff_10k_tree(tmp_path))
    savemat(tmp_path / dataset.pairs["train"][0].labels, {"S": np.full(trees.SIZE, unused, np.uint8)})
    with pytest.raises(DataError, match=rf"stand for no class \({shown}\); legal are label ids 1 to 182, and 0"):
        dataset.item("train", 0)


def test_converted_coco_stuff_maps_hold_class_numbers(tmp_path: Path) -> None:
    large = labels_of(opened_164k, trees.coco_stuff_164k_tree(tmp_path / "a", converted=True), [0, 170, 171, 255])
    small = labels_of(opened_10k, trees.coco_stuff_10k_tree(tmp_path / "b", converted=True), [0, 1, 171, 172])
    assert (large, small) == ([0, 170, -1, 255], [255, 0, 170, -1])


@pytest.mark.parametrize("damage", ["no S", "text", "truncated", "empty", "three dimensions", "halves", "gone"])
def test_a_damaged_matlab_file_is_named(damage: str, tmp_path: Path) -> None:
    dataset = opened_10k(trees.coco_stuff_10k_tree(tmp_path))
    path = tmp_path / dataset.pairs["train"][0].labels
    match damage:
        case "no S":
            savemat(path, {"T": np.zeros((4, 4))})
        case "text":
            path.write_text("S = 1")
        case "truncated":
            path.write_bytes(path.read_bytes()[:400])  # S is the first of its variables
        case "empty":
            path.write_bytes(b"")
        case "three dimensions":
            savemat(path, {"S": np.zeros((4, 4, 3), np.uint8)})
        case "halves":
            savemat(path, {"S": np.full((4, 4), 0.5)})
        case "gone":
            path.unlink()
    with pytest.raises(DataError, match=path.name) as error:
        dataset.item("train", 0)
    assert str(error.value).count(path.name) == 1


def test_matlab_maps_of_whole_floats_are_read(tmp_path: Path) -> None:
    dataset = opened_10k(trees.coco_stuff_10k_tree(tmp_path))
    savemat(tmp_path / dataset.pairs["train"][0].labels, {"S": np.full(trees.SIZE, 2.0)})
    assert (dataset.item("train", 0)[1] == 1).all()


@pytest.mark.parametrize(
    ("opened", "looked_for"),
    [
        (ade20k, "images/training, images/validation, annotations/training, annotations/validation"),
        (cityscapes, "leftImg8bit/train, leftImg8bit/val, gtFine/train, gtFine/val"),
        (pascal_context, "JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext"),
        (opened_164k, "images/{train2017,val2017}, {stuffthingmaps or annotations}/{train2017,val2017}"),
        (opened_10k, "imageLists/{train,test}.txt"),
        (folder, "images, masks, classes.txt or classes.csv"),
    ],
)
def test_a_wrong_layout_is_told_with_what_is_there(
    opened: Callable[[Path], LabelledFiles], looked_for: str, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError) as error:
        opened(tmp_path)
    assert looked_for in str(error.value)
    assert str(error.value).endswith("found notes.txt, pictures/.")
    with pytest.raises(UserError, match="is a file"):
        opened(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no folder"):
        opened(tmp_path / "nothing")


def test_the_other_files_of_cityscapes_are_not_read(tmp_path: Path) -> None:
    root = trees.cityscapes_tree(tmp_path)
    for path in (root / "gtFine").rglob("*"):
        if path.is_file() and "labelIds" not in path.name:
            path.write_bytes(b"damaged")
    labels = cityscapes(root).item("train", 0)[1]
    assert IGNORE in labels

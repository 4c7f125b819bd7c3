"""Own images as people bring them: splits, colours, values and formats are read as meant, or refused by their cause."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets import IGNORE
from evaluators.datasets.checking import check
from evaluators.datasets.files import LabelledFiles, read_image
from evaluators.datasets.folder import opened
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.label_maps import stored
from evaluators.datasets.named import any_dataset_named, dataset_named
from evaluators.datasets.samples import spread
from tests.support import own, trees
from tests.support.own import ABC, COLOURS, NAMES, refusal, stripes, train_labels, write
from topformer import UserError


def not_looked_at(root: Path) -> tuple[int, Path]:
    """Number and path of a training mask that does not decide how the others are read."""
    pairs = opened(root).pairs
    looked_at = spread([*pairs["train"], *pairs["val"]])
    index = next(i for i, pair in enumerate(pairs["train"]) if pair not in looked_at)
    return index, root / pairs["train"][index].labels


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "LA", "I;16"])
@pytest.mark.parametrize("names", [("background", "lesion"), ("lesion",)])
def test_masks_of_0_and_255_are_refused_with_both_readings(mode: str, names: tuple[str, ...], tmp_path: Path) -> None:
    said = refusal(write(tmp_path, [stripes(0, 255)] * 4, mode=mode, names=names))
    assert "(1) 255 is 'lesion'" in said
    assert "(2) 255 is ignored, and 0 is" in said


def test_masks_of_which_some_are_0_and_1_and_some_0_and_255_are_refused(tmp_path: Path) -> None:
    values = [stripes(0, 1), stripes(0, 255), stripes(0), stripes(1, 0)]
    assert "two ways" in refusal(write(tmp_path, values, names=("background", "lesion")))


def test_white_is_not_the_third_class_by_luck(tmp_path: Path) -> None:
    assert "(1) 255 is 'c'" in refusal(write(tmp_path, [stripes(0, 1, 255)] * 3))


def test_255_beside_all_classes_is_ignored_and_said_to_be(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path, [stripes(0, 255), stripes(1, 255), stripes(2, 1), stripes(0)]))
    assert set(np.unique(dataset.item("train", 0)[1])) == {0, IGNORE}
    assert dataset.read_labels.meanings(IGNORE) == "value 255"
    assert "255 is ignored" in dataset.remarks[0]


def test_a_mask_of_0_and_255_that_was_not_in_the_sample_is_refused_by_name(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1)] * 80, names=("background", "lesion"))
    index, path = not_looked_at(root)
    own.save(path, stripes(0, 255), "L")
    with pytest.raises(UserError, match=rf"{path.name} has 255 beside 0, .*: is it ignored, or an object\?"):
        opened(root).item("train", index)


def test_a_table_that_names_both_greys_says_what_255_is(tmp_path: Path) -> None:
    table = [(0, 0, 0), (255, 255, 255)]
    assert train_labels(write(tmp_path, [stripes(0, 255)] * 3, names=("bg", "lesion"), table=table)) == [0, 1]


def test_a_table_that_ignores_white_says_what_255_is(tmp_path: Path) -> None:
    table = [(0, 0, 0), (255, 255, 255)]
    root = write(tmp_path, [stripes(0, 255)] * 3, names=("background", "ignore"), table=table)
    assert train_labels(root) == [0, IGNORE]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2)])
def test_palettes_in_the_colours_of_the_table_are_read_by_colour(order: tuple[int, ...], tmp_path: Path) -> None:
    palette = {number: COLOURS[label] for number, label in enumerate(order)}
    root = write(
        tmp_path, [stripes(0, 1, 2, 3)] * 3, mode="P", names=("a", "b", "c", "d"), table=COLOURS, palette=palette
    )
    assert train_labels(root) == list(order)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_no_reading_hangs_on_the_first_mask(first: int, tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1, 2, 3)] * 4, mode="RGB", names=("a", "b", "c", "d"), table=COLOURS)
    coloured = own.colour_masks(stripes(0, 1, 2, 3).astype(np.uint8), COLOURS, (9, 9, 9))
    for number in range(4):
        own.save(root / f"masks/{'val' if number == 3 else 'train'}/n{number}.png", coloured, "RGB")
    shuffled = {3: COLOURS[0], 0: COLOURS[1], 1: COLOURS[2], 2: COLOURS[3]}
    own.save(root / f"masks/train/n{first}.png", stripes(3, 0, 1, 2), "P", shuffled)
    dataset = opened(root)
    assert [dataset.item("train", number)[1][0, ::4].tolist() for number in range(3)] == [[0, 1, 2, 3]] * 3


def test_a_palette_that_says_otherwise_than_the_sample_is_refused_by_name(tmp_path: Path) -> None:
    usual = dict(enumerate(COLOURS))
    root = write(tmp_path, [stripes(0, 1, 2, 3)] * 80, mode="P", names=("a", "b", "c", "d"), palette=usual)
    index, path = not_looked_at(root)
    own.save(path, stripes(0, 1), "P", {0: COLOURS[0], 1: COLOURS[3]})
    with pytest.raises(UserError, match=rf"{path.name} can be read in two ways: its number 1 is shown in \(255, 255"):
        opened(root).item("train", index)


def test_palettes_that_number_a_colour_anew_in_each_mask_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1)] * 3, mode="P", palette={0: COLOURS[1], 1: COLOURS[2]})
    own.save(root / "masks/train/n1.png", stripes(0, 1), "P", {0: COLOURS[2], 1: COLOURS[1]})
    assert "has the number 1 in masks/train/n0.png and 0 in masks/train/n1.png" in refusal(root)


@pytest.mark.parametrize("palette", [{0: (255, 255, 255), 1: (0, 0, 0)}, {0: (1, 1, 1), 1: (2, 2, 2)}])
def test_palettes_whose_greys_may_be_the_numbers_are_refused(
    palette: dict[int, tuple[int, int, int]], tmp_path: Path
) -> None:
    assert "its palette shows them as the greys" in refusal(
        write(tmp_path, [stripes(0, 1)] * 3, mode="P", palette=palette)
    )


@pytest.mark.parametrize("ignored", ["ignore", "Ignore", "__ignore__", "ignored"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_row_to_ignore_keeps_its_number(ignored: str, place: int, tmp_path: Path) -> None:
    rows = ["a", "b", "c"]
    rows.insert(place, ignored)
    root = write(tmp_path, [stripes(0, 1, 2, 3)] * 3, names=tuple(rows))
    labels = [0, 1, 2]
    labels.insert(place, IGNORE)
    assert (dataset_named(str(root)).class_names, train_labels(root)) == (NAMES, labels)


def test_a_row_to_ignore_of_a_table_keeps_its_number(tmp_path: Path) -> None:
    table = [(0, 0, 0), (90, 90, 90), (200, 60, 60)]
    root = write(tmp_path, [stripes(0, 1)] * 3, names=("ignore", "road", "house"), table=table)
    assert train_labels(root) == [IGNORE, 0]


def test_lists_as_labelme_writes_them_are_numbered_from_the_background(tmp_path: Path) -> None:
    names = ("__ignore__", "_background_", "cat", "dog")
    assert train_labels(write(tmp_path / "far", [stripes(0, 1, 2, 255)] * 3, names=names)) == [0, 1, 2, IGNORE]
    assert "numbered from 0" in refusal(write(tmp_path / "near", [stripes(0, 1, 2)] * 3, names=names))


@pytest.mark.parametrize("names", [("1 a", "2 b", "3 c"), ("a: 0", "b: 128", "c: 255"), ("10,a", "20,b", "30,c")])
def test_a_list_that_numbers_its_classes_otherwise_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    assert "the values are the numbers in the class list" in refusal(write(tmp_path, ABC, names=names))


def test_a_table_that_numbers_its_classes_otherwise_is_refused_unless_masks_show_its_colours(tmp_path: Path) -> None:
    rows = ["name,red,green,blue,id", "a,0,0,0,7", "b,255,0,0,8", "c,0,255,0,11"]
    root = write(tmp_path, ABC)
    trees.save_lines(root / "classes.csv", rows)
    assert "(1) the values are the numbers in the class list, 7, 8, 11" in refusal(root)
    for path in (root / "masks").rglob("*.png"):
        own.save(path, own.colour_masks(stripes(0, 1, 2).astype(np.uint8), COLOURS[:3], (9, 9, 9)), "RGB")
    assert train_labels(root) == [0, 1, 2]


def test_a_comment_in_a_class_list_is_no_class(tmp_path: Path) -> None:
    assert "is '# mine' a class or a comment?" in refusal(write(tmp_path, ABC, names=("# mine", *NAMES)))


def test_names_that_begin_with_numbers_are_names(tmp_path: Path) -> None:
    assert opened(write(tmp_path, ABC, names=("2-wheeler", "4-wheeler", "3D"))).class_names[0] == "2-wheeler"


def test_values_from_1_are_not_taken_for_those_from_0(tmp_path: Path) -> None:
    assert "values begin at 1" in refusal(write(tmp_path, [stripes(1, 2)] * 3))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{split}/{name}.jpg", "masks/{split}/{name}.png"),
        ("{split}/images/{name}.jpg", "{split}/masks/{name}.png"),
        ("img_dir/{split}/{name}.jpg", "ann_dir/{split}/{name}.png"),
        ("images/{split}/{name}.png", "annotations/{split}/{name}.png"),
        ("images/{split}/{name}.jpg", "labels/{split}/{name}.png"),
        ("Images/{split}/{name}.jpg", "Masks/{split}/{name}.png"),
        ("{split}_images/{name}.jpg", "{split}_masks/{name}.png"),
        ("{split}/{name}.png", "{split}annot/{name}.png"),
        ("images/{split}/{name}.jpg", "masks/{name}.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}_mask.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}_gtFine_labelTrainIds.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/mask_{name}.png"),
        ("images/{split}/img_{name}.jpg", "masks/{split}/mask_{name}.png"),
        ("images/{split}/{name}_sat.jpg", "masks/{split}/{name}_mask.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}.mask.png"),
        ("{split}/{name}.jpg", "{split}/{name}_mask.png"),
        ("{split}/{name}.jpg", "{split}/{name}.png"),
        ("leftImg8bit/{split}/city/{name}_leftImg8bit.png", "gtFine/{split}/city/{name}_gtFine_labelTrainIds.png"),
    ],
)
@pytest.mark.parametrize(
    "splits",
    [("train", "val"), ("training", "validation"), ("train", "valid"), ("Train", "Val"), ("trn", "dev")],
)
def test_layouts_and_splits_of_any_common_name_are_read(
    images: str, masks: str, splits: tuple[str, str], tmp_path: Path
) -> None:
    dataset = dataset_named(str(write(tmp_path, ABC, images=images, masks=masks, splits=splits)))
    assert isinstance(dataset, LabelledFiles)
    found = [re.findall(r"n\d", Path(pair.image).stem) for pair in (*dataset.pairs["train"], *dataset.pairs["val"])]
    assert (found, dataset.length("val")) == ([["n0"], ["n1"], ["n2"], ["n3"]], 1)
    assert dataset.item("val", 0)[1][0, 0] == 1


@pytest.mark.parametrize("splits", [("train", "test"), ("training", "holdout")])
def test_half_a_split_is_refused_and_never_one_image_in_ten(splits: tuple[str, str], tmp_path: Path) -> None:
    said = refusal(write(tmp_path, ABC, splits=splits))
    assert f"(1) {splits[1]} is for validation; (2) of {splits[0]} one image in 10 is held out" in said


def test_images_for_validation_alone_are_refused(tmp_path: Path) -> None:
    assert "there is val, and none for train" in refusal(write(tmp_path, ABC, splits=("fit", "val")))


def test_two_splits_of_one_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ABC)
    write(tmp_path, ABC, splits=("train", "valid"))
    assert "val and valid both look like val" in refusal(tmp_path)


def test_two_folders_of_masks_are_refused_with_both(tmp_path: Path) -> None:
    for masks in ("annotations/{split}/{name}.png", "labels/{split}/{name}.png"):
        write(tmp_path, ABC, masks=masks)
    assert "(1) images with annotations; (2) images with labels" in refusal(tmp_path)


def test_two_endings_of_masks_are_refused_with_both(tmp_path: Path) -> None:
    for end in ("edge", "mask"):
        write(tmp_path, ABC, masks="masks/{split}/{name}_" + end + ".png")
    assert "(1) masks end in _edge; (2) masks end in _mask" in refusal(tmp_path)


def test_own_classes_in_folders_called_as_a_benchmark_are_own(tmp_path: Path) -> None:
    write(tmp_path, ABC, masks="annotations/{split}/{name}.png", splits=("training", "validation"))
    assert dataset_named(str(tmp_path)).class_names == NAMES
    (tmp_path / "classes.txt").unlink()
    assert f"ade20k:{tmp_path} reads that" in refusal(tmp_path)


def test_a_benchmark_in_other_photographs_is_read(tmp_path: Path) -> None:
    trees.ade20k_tree(tmp_path)
    for path in (tmp_path / "images").rglob("*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert dataset_named(str(tmp_path)).length("train") == 3


def test_folders_of_images_and_masks_are_no_classes_of_images(tmp_path: Path) -> None:
    root = write(tmp_path, ABC, images="{split}/images/{name}.jpg", masks="{split}/masks/{name}.png")
    assert not isinstance(any_dataset_named(str(root)), ClassFolders)


def test_a_folder_of_another_name_is_that_of_the_images(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1, 2)] * 30, images="CXR_png/{name}.png", masks="masks/{name}_mask.png")
    dataset = opened(root)
    assert (dataset.length("train") + dataset.length("val"), dataset.unpaired) == (30, ())


def test_lists_that_split_otherwise_than_folders_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, ABC)
    trees.save_lines(root / "train.txt", ["n0", "n1", "n2"])
    trees.save_lines(root / "val.txt", ["n3"])
    assert opened(root).length("val") == 1
    trees.save_lines(root / "val.txt", ["n2"])
    assert "(2) by the lists {split}.txt, which say otherwise" in refusal(root)


FLAT = {"images": "images/{name}.jpg", "masks": "masks/{name}.png"}


@pytest.mark.parametrize("home", [".", "splits", "ImageSets/Segmentation", "lists"])
@pytest.mark.parametrize(
    "line",
    [
        "{0}",
        "{0}.jpg",
        "images/{0}.jpg",
        "./images/{0}.jpg",
        "images/{0}.jpg masks/{0}.png",
        "/images/{0}.jpg\t/masks/{0}.png",
        "{0}.jpg,{0}.png",
    ],
)
def test_lists_are_read_wherever_they_lie_and_whatever_their_columns(line: str, home: str, tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    trees.save_lines(root / home / "train.txt", [line.format(name) for name in ("n0", "n1")])
    trees.save_lines(root / home / "valid.txt", [line.format(name) for name in ("n3",)])
    dataset = opened(root)
    assert [pair.labels for pair in dataset.pairs["train"]] == ["masks/n0.png", "masks/n1.png"]
    assert [pair.labels for pair in dataset.pairs["val"]] == ["masks/n3.png"]


@pytest.mark.parametrize("name", ["meta/{}.txt", "meta/one/{}_list.lst", "ImageSets/Main/{}.txt"])
def test_lists_in_a_folder_of_any_name_are_read_where_they_name_images(name: str, tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    for split, listed in (("train", ["n0", "n1"]), ("val", ["n3"])):
        trees.save_lines(root / name.format(split), listed)
        trees.save_lines(root / f"logs/{split}.txt", ["epoch 1", "epoch 2"])
    assert [len(opened(root).pairs[split]) for split in ("train", "val")] == [2, 1]  # type: ignore[index]


def test_lists_for_segmentation_come_before_others(tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    for split, name in (("train", "n0"), ("val", "n3")):
        trees.save_lines(root / f"ImageSets/Segmentation/{split}.txt", [name])
        trees.save_lines(root / f"ImageSets/Main/{split}.txt", ["n2"])
    assert [pair.image for pair in opened(root).pairs["val"]] == ["images/n3.jpg"]


def test_lists_of_several_folds_are_refused_with_all(tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    for fold, name in enumerate(("n0", "n1")):
        trees.save_lines(root / f"folds/{fold}/train.txt", ["n2", "n3"])
        trees.save_lines(root / f"folds/{fold}/val.txt", [name])
    assert "(1) by the lists folds/0/{split}.txt; (2) by the lists folds/1/{split}.txt" in refusal(root)


def test_a_column_may_name_a_mask_of_another_name(tmp_path: Path) -> None:
    root = write(tmp_path, ABC, images="images/{name}.jpg", masks="masks/{name}.png")
    (root / "masks/n0.png").rename(root / "masks/other.png")
    trees.save_lines(root / "train.txt", ["images/n0.jpg masks/other.png"])
    trees.save_lines(root / "val.txt", ["n3"])
    assert train_labels(root) == [0, 1, 2]


@pytest.mark.parametrize("name", ["train.txt", "splits/train.txt", "val.txt", "test.txt"])
def test_a_list_of_one_split_alone_is_refused(name: str, tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    trees.save_lines(root / name, ["n0", "n1"])
    assert "a part of the images held out?" in refusal(root)


def test_lines_that_name_nothing_are_told_with_what_a_line_must_be(tmp_path: Path) -> None:
    root = write(tmp_path, ABC, **FLAT)
    trees.save_lines(root / "val.txt", ["n3"])
    trees.save_lines(root / "train.txt", ["n0", "n1 1"])
    assert "train.txt, line 2: 'n1 1' names no image here; a line is the name of an image" in refusal(root)


@pytest.mark.parametrize("mode", ["npy", "F", "LA", "I;16", "GIF", "RGB"])
def test_masks_of_every_lossless_kind_are_read(mode: str, tmp_path: Path) -> None:
    assert train_labels(write(tmp_path, ABC, mode=mode)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "values", "says"),
    [
        ("JPEG", stripes(0, 1, 2), "a JPEG, which changes the numbers and colours of a label map"),
        ("F", stripes(0, 1, 2) / 2, "it holds fractions such as 0.5, not class numbers"),
        ("npy", np.zeros((2, 12, 16), np.uint8), "an array of uint8 in 3 dimensions; a label map is"),
        ("npy", np.full((12, 16), "a"), "an array of <U1"),
    ],
)
def test_masks_that_lost_something_are_refused_by_their_cause(
    mode: str, values: np.ndarray, says: str, tmp_path: Path
) -> None:
    assert says in refusal(write(tmp_path, [values] * 3, mode=mode))


def png(path: Path, values: np.ndarray, *, bits: int, colour_type: int) -> None:
    """As Pillow does not write them: 4 or 16 bits a channel, (H, W) or (H, W, channels)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    packed = rows.astype(">u2") if bits == 16 else (rows[:, ::2] << 4 | rows[:, 1::2]).astype(np.uint8)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def test_numbers_of_16_bits_in_three_channels_are_not_cut_to_their_high_byte(tmp_path: Path) -> None:
    png(tmp_path / "m.png", np.dstack([stripes(0, 1, 2)] * 3), bits=16, colour_type=2)
    assert stored(tmp_path / "m.png").used == (0, 1, 2)


def test_greys_of_4_bits_are_not_taken_for_numbers_17_times_as_large(tmp_path: Path) -> None:
    png(tmp_path / "m.png", stripes(0, 1, 2), bits=4, colour_type=0)
    with pytest.raises(UserError, match="a grey picture of 4 bits, of which it is not sure"):
        stored(tmp_path / "m.png")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_photographs_are_as_bright_as_they_were_taken(bits: int, channels: int, tmp_path: Path) -> None:
    root = write(tmp_path, ABC, images="images/{split}/{name}.png")
    bright = np.tile(np.linspace(0, 2**bits - 1, own.SIZE[1]).astype(np.uint16), (own.SIZE[0], 1))
    dark = bright // 4
    for number, path in enumerate(sorted((root / "images").rglob("*.png"))):
        values = dark if number == 1 else bright
        wide = values if channels == 1 else np.dstack([values] * 3 + [np.full_like(values, 65535)] * (channels - 3))
        png(path, wide, bits=16, colour_type={1: 0, 3: 2, 4: 6}[channels])
    dataset = opened(root)
    seen = [int(dataset.item("train", number)[0].max()) for number in range(2)]
    assert seen == [255, pytest.approx(63, abs=1)]
    assert f"{2**bits - 1} is white" in dataset.remarks[-1]


def test_a_photograph_brighter_than_the_sample_is_refused_by_name(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1, 2)] * 80, images="images/{split}/{name}.png")
    for path in (root / "images").rglob("*.png"):
        trees.save_deep(path, np.full(own.SIZE, 4000, np.uint16))
    index, path = not_looked_at(root)
    trees.save_deep(root / f"images/train/{path.name}", np.full(own.SIZE, 5000, np.uint16))
    dataset = opened(root)
    with pytest.raises(UserError, match=rf"{path.name} cannot be read \(its values run .*, known are 0 to 4095"):
        dataset.item("train", index)
    assert [problem.path for problem in check(dataset).problems] == [f"images/train/{path.name}"]


@pytest.mark.parametrize(("values", "white"), [((0.0, 1.0), 255), ((0.0, 0.5), 128), ((0.0, 200.0), 200)])
def test_fractions_are_scaled_by_what_is_white(values: tuple[float, float], white: int, tmp_path: Path) -> None:
    root = write(tmp_path, ABC)
    for path in list((root / "images").rglob("*.jpg")):
        own.save(path, np.tile(np.linspace(*values, own.SIZE[1]), (own.SIZE[0], 1)), "F")
        path.unlink()
    assert opened(root).item("train", 0)[0].max() == white


def test_a_file_of_many_bands_is_refused_by_their_number(tmp_path: Path) -> None:
    entries = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200)]
    entries += [(277, 3, 1, 5), (278, 3, 1, 4), (279, 4, 1, 160)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0"
    (tmp_path / "photo.tif").write_bytes(content.ljust(360, b"\0"))
    with pytest.raises(UserError, match=r"\(a TIFF of 5 bands of 16 bits, whole numbers, where photographs have red"):
        read_image(tmp_path / "photo.tif")


def test_pictures_of_masks_beside_masks_are_no_masks(tmp_path: Path) -> None:
    root = write(tmp_path, ABC)
    for name in ("n0.jpg", "overlay.jpg", "n1.npy"):
        (root / "masks" / "train" / name).write_bytes(b"")
    dataset = opened(root)
    assert (dataset.unpaired, dataset.pairs["train"][0].labels) == ((), "masks/train/n0.png")


def test_transparent_pixels_are_no_labels(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([stripes(0, 1), stripes(255, 0)]).astype(np.uint8), "LA").save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"mode LA: some pixels are transparent \(alpha 0 to 255\)"):
        stored(tmp_path / "m.png")


def test_a_value_of_no_class_is_told_with_where_to_say_what_it_is(tmp_path: Path) -> None:
    assert f"describe {tmp_path}" in refusal(write(tmp_path, [stripes(0, 1, 3)] * 3))


@pytest.mark.slow
def test_what_was_read_right_before_is_read_by_the_same_reader(tmp_path: Path) -> None:
    """A fingerprint is made of the reader's text, so that stores know what was evaluated on these data."""
    filled = ", ".join(["0, 1, 2", *["-1"] * 252, "255"])
    numbered = f"IndexedLabels(classes=({filled}), legal='0 to 2, and 255 for what is ignored')"
    coloured = "ColouredLabels(colours=((0, 160, 0), (90, 90, 90), (200, 40, 0)), ignored=((255, 255, 255),))"
    for masks, reader in (("palette", numbered), ("grey", numbered), ("deep", numbered), ("colours", coloured)):
        for split in ("folders", "lists", "none"):
            dataset = opened(trees.folder_tree(tmp_path / masks / split, masks=masks, split=split))
            assert (dataset.name, repr(dataset.read_labels), dataset.brightness) == ("folder", reader, None)


def test_a_bit_that_never_occurs_leaves_colours_and_numbers_two_readings(tmp_path: Path) -> None:
    table = [(1, 1, 1), (0, 0, 0)]
    root = write(tmp_path, [stripes(0)] * 3, mode="1", names=("house", "ignore"), table=table)
    assert "(1) by number, row n of classes.csv is value n" in refusal(root)


def test_white_is_only_ignored_as_the_table_says_where_masks_show_its_colours(tmp_path: Path) -> None:
    table = [(19, 49, 53), (255, 255, 255), (216, 251, 38)]
    root = write(tmp_path, [stripes(0, 2), stripes(0, 255)] * 2, names=("a", "ignore", "b"), table=table)
    assert "255 is ignored" in refusal(root)


def test_two_class_lists_in_another_order_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ABC, table=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    trees.save_lines(tmp_path / "classes.txt", NAMES)
    assert train_labels(tmp_path) == [0, 1, 2]
    trees.save_lines(tmp_path / "classes.txt", ("b", "a", "c"))
    assert "in another order, a, b, c and b, a, c; keep the one that is right" in refusal(tmp_path)


@pytest.mark.parametrize(
    "lines", [("id,name", "0,a", "1,b", "2,c"), ("names:", "  0: a", "  1: b"), ("- a", "- b", "- c"), ('["a", "b"]',)]
)
def test_headings_and_dashes_are_no_class_names(lines: tuple[str, ...], tmp_path: Path) -> None:
    assert "is no class name; a line is a name" in refusal(write(tmp_path, ABC, names=lines))


@pytest.mark.parametrize("name", ["labels", "gt"])
def test_a_second_folder_of_masks_is_not_passed_over_in_silence(name: str, tmp_path: Path) -> None:
    write(tmp_path, ABC)
    write(tmp_path, [stripes(0, 1)] * 4, masks=f"{name}/{{split}}/{{name}}.png")
    assert f"images/{{split}} with {name}" in refusal(tmp_path) or f"images with {name}" in refusal(tmp_path)


def test_photographs_that_are_turned_and_names_that_are_often_ignored_are_said(tmp_path: Path) -> None:
    write(tmp_path, ABC, names=("a", "void", "c"))
    turned = Image.Exif()
    turned[274] = 3
    path = tmp_path / "images" / "train" / "n0.jpg"
    with Image.open(path) as image:
        image.save(path, exif=turned)
    remarks = opened(tmp_path).remarks
    assert any("1 of 4 photographs looked at say how they are to be turned (EXIF)" in one for one in remarks)
    assert any("'void' is learnt like any other class" in one for one in remarks)


def test_lists_with_paths_as_windows_writes_them_are_read(tmp_path: Path) -> None:
    write(tmp_path, ABC, images="images/{name}.jpg", masks="masks/{name}.png")
    trees.save_lines(tmp_path / "train.txt", [f"images\\n{number}.jpg\tmasks\\n{number}.png" for number in range(3)])
    trees.save_lines(tmp_path / "val.txt", ["images\\n3.jpg\tmasks\\n3.png"])
    found = opened(tmp_path).pairs
    assert [len(found[split]) for split in ("train", "val")] == [3, 1]

"""Values that fit a class list in two ways, blended edges, and photographs far from black: told, never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets import IGNORE
from evaluators.datasets.acceptance import brightness_of
from evaluators.datasets.folder import opened
from evaluators.datasets.named import describe
from tests.support import own, trees
from tests.support.own import ABC, refusal, stripes, train_labels, write
from topformer import UserError

PAIR = ("background", "lesion")


def names(count: int) -> tuple[str, ...]:
    return tuple("abcdefgh"[:count])


def choose(root: Path, reading: int) -> None:
    """Describe a folder and leave the lines of one reading, as a person would."""
    path, _ = describe(root, None)
    head, *blocks = path.read_text().split("\n# Reading ")
    lines = blocks[reading - 1].splitlines()[1:]
    path.write_text(head + "\n" + "".join(line.removeprefix("# ") + "\n" for line in lines))


@pytest.mark.parametrize(
    ("values", "count", "reading", "says", "meant"),
    [
        ((0, 1, 2, 255), 4, 1, "(1) 255 is 'd'; (2) 255 is ignored", [0, 1, 2, 3]),
        ((0, 1, 3, 255), 4, 1, "(1) 255 is 'd', and 3 is 'c'", [0, 1, 2, 3]),
        ((0, 1, 2, 3, 4, 255), 6, 2, "(2) 255 is ignored", [0, 1, 2, 3, 4, IGNORE]),
        ((1, 2, 3), 3, 1, "(1) 1 is 'a', 2 is 'b', 3 is 'c'; (2) row n", [0, 1, 2]),
        ((1, 2, 3, 255), 3, 1, "3 is 'c', and 255 is ignored", [0, 1, 2, IGNORE]),
        ((1, 2, 255), 3, 3, "(3) 1 is 'a', 2 is 'b', 255 is 'c'", [0, 1, 2]),
        ((0, 128, 255), 3, 1, "(1) 0 is 'a', 128 is 'b', 255 is 'c'", [0, 1, 2]),
        ((0, 128, 255), 2, 1, "0 is 'a', 128 is 'b', and 255 is ignored", [0, 1, IGNORE]),
        ((0, 1, 2), 2, 1, "(1) 0 is a background that the class list does not name, 1 is 'a'", [0, 1, 2]),
        ((0, 1, 2), 2, 2, "(2) 0 is ignored, 1 is 'a'; (3) row n", [IGNORE, 0, 1]),
        ((0, 1), 1, 1, "(1) 0 is a background that the class list does not name, 1 is 'a'", [0, 1]),
        ((0, 1, 2, 3, 255), 3, 2, "(2) 0 is ignored, 1 is 'a', and 255 is ignored", [IGNORE, 0, 1, 2, IGNORE]),
        ((7, 24, 26), 3, 1, "(1) 7 is 'a', 24 is 'b', 26 is 'c'", [0, 1, 2]),
    ],
)
def test_values_that_fit_the_names_in_two_ways_are_refused_and_each_can_be_chosen(
    values: tuple[int, ...], count: int, reading: int, says: str, meant: list[int], tmp_path: Path
) -> None:
    root = write(tmp_path, [stripes(*values)] * 3, names=names(count))
    assert says in refusal(root)
    choose(root, reading)
    assert train_labels(root) == list(dict.fromkeys(meant))


def test_a_class_that_the_sample_lacks_is_looked_for_before_255_is_doubted(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1, 2, 255)] * 80, names=names(4))
    own.save(root / "masks" / "train" / "n2.png", stripes(0, 3), "L")
    assert train_labels(root) == [0, 1, 2, IGNORE]


def test_255_that_comes_later_where_a_class_never_came_is_refused_by_name(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 1, 2)] * 80, names=names(4))
    own.save(root / "masks" / "train" / "n2.png", stripes(0, 1, 255), "L")
    dataset = opened(root)
    index = [pair.labels for pair in dataset.pairs["train"]].index("masks/train/n2.png")
    with pytest.raises(UserError, match=r"n2.png has 255 beside 0 and 1, .*: is it ignored, or an object\?"):
        dataset.item("train", index)


def disc(low: int, high: int, *, shift: int = 0) -> np.ndarray:
    """(64, 64) with a round object whose edges are softened."""
    rows, columns = np.indices((64, 64)) - 32
    inside = np.clip(20.5 + shift - np.hypot(rows, columns), 0, 1)
    return np.round(low + (high - low) * inside).astype(np.uint8)


def soft(root: Path, levels: tuple[int, int], classes: tuple[str, ...], suffix: str = ".png") -> Path:
    for split in ("train", "val"):
        for number in range(2):
            trees.save_plain(root / f"images/{split}/{split}{number}.png", np.full((64, 64, 3), number, np.uint8))
            trees.save_grey(root / f"masks/{split}/{split}{number}{suffix}", disc(*levels, shift=number))
    trees.save_lines(root / "classes.txt", classes)
    return root


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("levels", "threshold"), [((0, 255), 128), ((10, 200), 105)])
def test_softened_masks_of_two_classes_are_refused_by_cause_and_read_by_a_threshold(
    levels: tuple[int, int], threshold: int, suffix: str, tmp_path: Path
) -> None:
    root = soft(tmp_path, levels, PAIR, suffix)
    said = refusal(root)
    assert "softened edges, probably by resizing" in said or "of a format that changes values" in said
    assert "If values from 1" in said
    choose(root, 1)
    found = opened(root)
    labels = found.item("train", 0)[1]
    assert np.array_equal(labels, disc(*levels) >= threshold) or suffix == ".jpg"
    assert (labels[32, 32], labels[0, 0], found.read_labels.meanings(0)[:13]) == (1, 0, "values below ")


def test_softened_masks_of_more_classes_are_refused_with_what_helps(tmp_path: Path) -> None:
    root = soft(tmp_path, (0, 100), names(3))
    for path in (root / "masks").rglob("*.png"):
        trees.save_grey(path, np.where(np.indices((64, 64))[0] < 5, 200, disc(0, 100)).astype(np.uint8))
    assert "softened edges, probably by resizing or by a JPEG. Save them again from what they were" in refusal(root)


def test_softened_masks_in_colours_are_refused_by_cause(tmp_path: Path) -> None:
    root = soft(tmp_path, (0, 255), PAIR)
    trees.save_lines(root / "classes.csv", ["name,red,green,blue", "background,0,0,0", "lesion,255,0,0"])
    for path in (root / "masks").rglob("*.png"):
        grey = np.asarray(Image.open(path))
        trees.save_plain(path, np.dstack([grey, np.zeros((64, 64, 2), np.uint8)]))
    assert "colours such as" in refusal(root)


def test_numbers_of_thin_classes_are_no_softened_edges(tmp_path: Path) -> None:
    root = write(tmp_path, [stripes(0, 7, 0, 3, 0, 5, 0, 9)] * 3, names=names(4))
    assert "softened" not in refusal(root)


def thermal(root: Path, low: int, high: int) -> Path:
    write(root, ABC, images="images/{split}/{name}.png")
    for path in (root / "images").rglob("*.png"):
        trees.save_deep(path, np.tile(np.linspace(low, high, own.SIZE[1]), (own.SIZE[0], 1)).astype(np.uint16))
    return root


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(40_000, 60_000, "nearly white"), (3, 5_000, ""), (20_000, 24_000, "of very low contrast"), (0, 65_535, "")],
)
def test_photographs_far_from_black_are_warned_of_and_described(low: int, high: int, says: str, tmp_path: Path) -> None:
    root = thermal(tmp_path, low, high)
    warned = brightness_of(opened(root))
    assert [says in one.says and str(root) in one.says for one in warned] == [True] * bool(says)
    text = describe(root, None)[0].read_text()
    assert (f"black = {low}\nwhite = {high}" in text.replace("\n\n", "\n")) == bool(says)
    photo = opened(root).item("train", 0)[0]
    assert not says or (photo.min(), photo.max()) == (0, 255)
    assert brightness_of(opened(root)) == ()


def test_a_photograph_darker_than_black_is_refused_with_the_keys_that_say_it(tmp_path: Path) -> None:
    root = thermal(tmp_path, 40_000, 60_000)
    describe(root, None)
    trees.save_deep(root / "images/train/n0.png", np.full(own.SIZE, 39_000, np.uint16))
    with pytest.raises(UserError, match=r"run from 39000 to 39000, known are 40000 to 60000; .* black and white"):
        opened(root).item("train", 0)


def test_black_is_part_of_what_data_are(tmp_path: Path) -> None:
    root = thermal(tmp_path, 40_000, 60_000)
    before = opened(root).fingerprint
    path, _ = describe(root, None)
    described = opened(root).fingerprint
    path.write_text(path.read_text().replace("black = 40000", "black = 39999"))
    assert len({before, described, opened(root).fingerprint}) == 3

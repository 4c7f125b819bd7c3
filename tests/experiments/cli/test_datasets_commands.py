"""`topformer-nas datasets` as a person types it: 0 for a sound data set, 1 for problems found, 2 for mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets.description import EXAMPLE
from evaluators.datasets.named import LAYOUTS, any_dataset_named
from evaluators.datasets.scenes import Scenes
from experiments.cli import terminal
from tests.support import trees
from tests.support.shell import Shell
from topformer.cache import CACHE_VARIABLE


@pytest.fixture
def mine(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell beside a sound folder `mine`, with a cache elsewhere."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    trees.folder_tree(shell.folder / "mine")
    return shell


def problems_of(shell: Shell, *words: str) -> dict[str, Any]:
    code, out, err = shell("datasets", "check", *words, "--json")
    assert (code, err) == (1, "")
    return dict(json.loads(out))


def test_a_sound_folder_is_counted_and_fingerprinted(mine: Shell) -> None:
    content = mine.json("datasets", "check", "mine", "--workers", "1")
    assert isinstance(content, dict)
    assert (content["layout"], content["num_classes"], content["sound"]) == ("folder", 3, True)
    assert content["class_names"] == list(trees.FOLDER_CLASSES)
    train = content["splits"]["train"]
    assert (train["images"], train["smallest"], train["largest"]) == (3, [48, 64], [56, 61])
    assert train["ignored_pixels"] == 189
    assert train["never_seen"] == []
    assert content["problems"] == []
    assert content["fingerprint"] == any_dataset_named("mine").fingerprint


@pytest.mark.slow
def test_a_sound_folder_for_people(mine: Shell) -> None:
    code, out, err = mine("datasets", "check", "mine", "--plot", "classes.png")
    assert (code, err) == (0, "")
    assert "folder, 3 classes" in out
    assert "48x64 to 56x61" in out
    assert f"sound\nfingerprint {any_dataset_named('mine').fingerprint}\n" in out
    assert (mine.folder / "classes.png").read_bytes().startswith(b"\x89PNG")


def test_problems_are_listed_with_exit_code_1(mine: Shell) -> None:
    (mine.folder / "mine/masks/train/train-0.png").write_bytes(b"")
    trees.save_grey(mine.folder / "mine/masks/train/train-1.png", np.full((56, 61), 3, np.uint8))
    (mine.folder / "mine/masks/val/val-1.png").unlink()
    content = problems_of(mine, "mine")
    assert [(each["kind"], each["path"]) for each in content["problems"]] == [
        ("no partner", "images/val/val-1.jpg"),
        ("unreadable", "masks/train/train-0.png"),
        ("labels", "masks/train/train-1.png"),
    ]
    assert content["sound"] is False
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 1
    assert "unreadable: masks/train/train-0.png: cannot be read (an empty file); replace or remove it" in out
    assert "3 problems" in out


def test_people_get_the_first_20_problems_and_are_told_of_the_rest(mine: Shell) -> None:
    for number in range(25):
        trees.save_photo(mine.folder / f"mine/images/train/lone-{number:02d}.jpg", np.zeros((32, 32, 3), np.uint8))
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 1
    assert out.count("no partner: ") == 20
    assert "and 5 more; all are listed with --json" in out
    assert len(problems_of(mine, "mine")["problems"]) == 25


def test_a_sample_says_that_it_is_one(mine: Shell) -> None:
    code, out, _ = mine("datasets", "check", "mine", "--sample", "1", "--seed", "3")
    assert code == 0
    assert "sound, as far as the sample goes" in out


def test_a_link_to_nothing_is_a_problem_and_leaves_no_fingerprint(mine: Shell) -> None:
    path = mine.folder / "mine/images/train/train-0.jpg"
    path.unlink()
    path.symlink_to("nowhere.jpg")
    content = problems_of(mine, "mine")
    assert (content["fingerprint"], content["problems"][0]["path"]) == (None, "images/train/train-0.jpg")
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 1
    assert "no fingerprint: mine/images/train/train-0.jpg cannot be read (No such file or directory)." in out


def test_names_that_are_not_utf8_are_printed(mine: Shell) -> None:
    folder = os.fsencode(mine.folder / "mine" / "images" / "train")
    Path(os.fsdecode(folder + b"/caf\xe9\n.jpg")).write_bytes(b"")
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 1
    assert r"no partner: images/train/caf\udce9\n.jpg: an image without labels" in out


def test_images_in_folders_of_classes_are_checked(mine: Shell) -> None:
    root = trees.imagenet_tree(mine.folder / "pictures", classes=2)
    content = mine.json("datasets", "check", "pictures", "--plot", "classes.svg")
    assert isinstance(content, dict)
    assert content["splits"]["train"]["class_counts"] == [3, 3]
    assert content["splits"]["train"]["ignored_pct"] is None
    (root / "val/n01440764/n01440764_0.JPEG").write_bytes(b"GIF")
    assert problems_of(mine, "imagenet:pictures")["problems"][0]["kind"] == "unreadable"


@pytest.mark.slow
def test_scenes_are_checked(mine: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of them; drawing the 3,300 takes ten seconds."""
    for name, count in (("train_images", 8), ("val_images", 4)):
        monkeypatch.setitem(Scenes.__init__.__kwdefaults__, name, count)
    content = mine.json("datasets", "check", "scenes", "--sample", "2")
    assert isinstance(content, dict)
    assert (content["layout"], content["num_classes"], content["sound"]) == ("scenes", 59, True)
    assert content["fingerprint"] == any_dataset_named("scenes").fingerprint


@pytest.mark.thorough
def test_scenes_of_another_number_of_classes_are_checked(mine: Shell) -> None:
    content = mine.json("datasets", "check", "scenes:150", "--sample", "2")
    assert isinstance(content, dict)
    assert (content["layout"], content["num_classes"], len(content["class_names"])) == ("scenes", 150, 150)


@pytest.mark.slow
def test_processes_find_the_same(mine: Shell) -> None:
    trees.folder_tree(mine.folder / "many", train=12)
    (mine.folder / "many/masks/train/train-7.png").write_bytes(b"")
    assert problems_of(mine, "many", "--workers", "2") == problems_of(mine, "many", "--workers", "1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere",), "no folder 'nowhere'; give the folder of a data set, LAYOUT:FOLDER, scenes or scenes:CLASSES"),
        (("scenes:151",), "scenes:151: after scenes: comes a number of classes from 2 to 150"),
        (("mine/classes.txt",), "mine/classes.txt is a file; give the folder of a data set"),
        (("mine/images",), "not laid out as any data set known here; found train/, val/; looked for ade20k"),
        ((".",), "mine is laid out as folder: give that"),
        (("ade20k:mine",), "mine is not laid out as ADE20K"),
        (("mine", "--sample", "0"), "a sample must have at least 1 image, not 0"),
        (("mine", "--workers", "0"), "workers must be from 1 to 512, not 0"),
        (("mine", "--workers", "many"), "Invalid value for '--workers'"),
        (("mine", "--plot", "classes.doc"), "cannot write the figure 'classes.doc'; name a .png, .svg or .pdf"),
        ((), "PATH"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], says: str, mine: Shell) -> None:
    assert says in mine.refusal("datasets", "check", *words)


def test_a_description_is_written_and_read(mine: Shell) -> None:
    code, out, err = mine("datasets", "describe", "mine")
    assert (code, out, err) == (0, "written: mine/dataset.toml\n", "")
    assert mine.json("datasets", "check", "mine")["class_names"] == list(trees.FOLDER_CLASSES)  # type: ignore[call-overload]
    assert "dataset.toml is there already" in mine.refusal("datasets", "describe", "mine")


def test_a_folder_of_two_readings_is_refused_until_one_is_chosen(mine: Shell) -> None:
    for path in (mine.folder / "mine" / "masks").rglob("*.png"):
        height, width = np.asarray(Image.open(path)).shape
        trees.save_grey(path, np.repeat(np.array([[0, 255]], np.uint8), width // 2 + 1, 1)[:, :width].repeat(height, 0))
    assert "(1) 255 is 'house'; (2) 255 is ignored" in mine.refusal("datasets", "check", "mine")
    code, out, _ = mine("datasets", "describe", "mine")
    assert (code, out.splitlines()[1:]) == (
        0,
        ["2 readings fit; choose one in it:", "    1: 255 is 'house'", "    2: 255 is ignored, and 0 is 'meadow'"],
    )
    assert "does not say 'classes'" in mine.refusal("datasets", "check", "mine")


@pytest.mark.parametrize("words", [("nowhere",), ("mine/classes.txt",), (".",), ("mine", "--out", "mine")])
def test_what_cannot_be_described_is_one_sentence(words: tuple[str, ...], mine: Shell) -> None:
    mine.refusal("datasets", "describe", *words)


def test_an_example_of_a_description_is_shown(shell: Shell) -> None:
    code, out, _ = shell("datasets", "layouts", "--example")
    assert (code, out) == (0, EXAMPLE)


def test_layouts_are_listed(shell: Shell) -> None:
    rows = shell.json("datasets", "layouts")
    assert isinstance(rows, list)
    assert [row["layout"] for row in rows] == [*LAYOUTS, "scenes", "scenes:CLASSES"]
    assert [row["classes"] for row in rows[-2:]] == [59, "2 to 150"]
    assert rows[0]["looks_for"][0] == "images/training"
    code, out, _ = shell("datasets", "layouts")
    assert code == 0
    assert all(name in out for name in (*LAYOUTS, "scenes:CLASSES"))


def test_every_class_is_told_with_its_share_and_how_it_was_read(mine: Shell) -> None:
    content = mine.json("datasets", "check", "mine")
    assert isinstance(content, dict)
    road = content["classes"][1]
    assert (road["name"], road["read_as"], road["images"]) == ("road", "value 1", {"train": 3, "val": 2})
    counts = content["splits"]["train"]["class_counts"]
    assert road["share_pct"]["train"] == pytest.approx(100 * counts[1] / sum(counts))
    assert content["ignored"]["read_as"] == "value 255"
    assert content["ignored"]["share_pct"]["train"] == pytest.approx(100 * 189 / (189 + sum(counts)))
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("road")] == [["road", "value", "1"]]
    assert "ignored: value 255: 1.98 % of the pixels of train" in out


def test_classes_in_colours_are_told_by_their_colours(mine: Shell) -> None:
    trees.folder_tree(mine.folder / "coloured", masks="colours")
    content = mine.json("datasets", "check", "coloured")
    assert isinstance(content, dict)
    assert content["classes"][0]["read_as"] == "colour (0, 160, 0)"
    assert content["ignored"]["read_as"] == "colour (255, 255, 255)"


def test_a_sound_folder_is_warned_of_and_stays_sound(mine: Shell) -> None:
    trees.save_lines(mine.folder / "mine/classes.txt", [*trees.FOLDER_CLASSES, "unicorn", "dragon"])
    code, out, _ = mine("datasets", "check", "mine")
    assert code == 0
    assert "warning (empty-class): 2 classes never occur in the 3 train images: unicorn, dragon; is every value" in out
    assert "\nsound, 2 warnings\n" in out
    content = mine.json("datasets", "check", "mine")
    assert isinstance(content, dict)
    assert [(one["name"], one["stops"]) for one in content["warnings"]] == [
        ("empty-class", True),
        ("empty-class", False),
    ]


def test_a_picture_in_two_splits_is_named(mine: Shell) -> None:
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        source = mine.folder / f"mine/{folder}/train/train-0.{suffix}"
        (mine.folder / f"mine/{folder}/val/other.{suffix}").write_bytes(source.read_bytes())
    content = mine.json("datasets", "check", "mine")
    assert isinstance(content, dict)
    assert content["in_two_splits"]["count"] == 1
    assert content["in_two_splits"]["files"][0]["other_path"] == "images/val/other.jpg"


def test_a_sample_of_files_has_no_fingerprint(mine: Shell) -> None:
    code, out, _ = mine("datasets", "check", "mine", "--sample", "1")
    assert code == 0
    assert "no fingerprint: a sample was looked at, not every file" in out


@pytest.mark.slow
@pytest.mark.parametrize("data", ["mine", "scribbles", "pictures", "coloured"])
def test_labels_are_drawn_over_images_with_a_legend(data: str, mine: Shell) -> None:
    trees.scribble_tree(mine.folder / "scribbles")
    trees.imagenet_tree(mine.folder / "pictures")
    trees.folder_tree(mine.folder / "coloured", masks="colours")
    (mine.folder / "coloured/classes.csv").write_text(
        "name,red,green,blue\n$草地$,0,160,0\nroad,90,90,90\nhouse,200,40,0\nignore,255,255,255\n", encoding="utf-8"
    )
    code, out, err = mine("datasets", "check", data, "--preview", "seen.png")
    assert (code, err) == (0, "")
    assert out.endswith("drawn: seen.png\n")
    with Image.open(mine.folder / "seen.png") as drawn:
        assert drawn.width > 1000


@pytest.mark.slow
def test_nothing_is_drawn_of_what_cannot_be_read(mine: Shell) -> None:
    for path in (mine.folder / "mine/masks").rglob("*.png"):
        path.write_bytes(b"none")
    code, _, err = mine("datasets", "check", "mine", "--preview", "seen.png")
    assert code == 2
    assert "there is nothing to draw of folder, 3 classes: no image with labels could be read" in err


def test_a_log_gets_lines_of_progress(mine: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SAID_EVERY_S", 0.0)
    code, _, err = mine("datasets", "check", "mine", "--workers", "1")
    assert code == 0
    assert "reading images: 2 of 5, 0 s passed, about 0 s left" in err
    assert "reading images: 5 of 5, 0 s passed" in err

"""Which layout a folder has, and what is said where it has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.named import LAYOUTS, any_dataset_named, dataset_named
from evaluators.datasets.scenes import Scenes
from tests.support import trees
from topformer import UserError

TREES: dict[str, Callable[[Path], Path]] = {
    "ade20k": trees.ade20k_tree,
    "cityscapes": trees.cityscapes_tree,
    "pascal_context": trees.pascal_context_tree,
    "coco_stuff_164k": trees.coco_stuff_164k_tree,
    "coco_stuff_10k": trees.coco_stuff_10k_tree,
    "folder": trees.folder_tree,
    "imagenet": trees.imagenet_tree,
}


@pytest.mark.parametrize("layout", TREES)
def test_a_layout_is_recognised_and_may_be_named(layout: str, tmp_path: Path) -> None:
    root = TREES[layout](tmp_path)
    assert any_dataset_named(str(root)).name == layout
    assert any_dataset_named(f"{layout}:{root}").name == layout


@pytest.mark.parametrize("layout", TREES)
@pytest.mark.parametrize("wrong", TREES)
def test_a_tree_has_no_layout_but_its_own(layout: str, wrong: str, tmp_path: Path) -> None:
    assert LAYOUTS[wrong].found_at(TREES[layout](tmp_path)) == (wrong == layout)


def test_pascal_context_without_background_must_be_named(tmp_path: Path) -> None:
    root = trees.pascal_context_tree(tmp_path)
    assert dataset_named(str(root)).num_classes == 60
    assert dataset_named(f"pascal_context_59:{root}").num_classes == 59


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_classes_is_as_listed(layout: str, tmp_path: Path) -> None:
    root = TREES[layout.removesuffix("_59")](tmp_path)
    assert LAYOUTS[layout].opened(root).num_classes == LAYOUTS[layout].classes or layout in ("folder", "imagenet")


def test_a_folder_whose_name_has_a_colon_is_a_folder(tmp_path: Path) -> None:
    assert dataset_named(str(trees.folder_tree(tmp_path / "ade20k:mine"))).name == "folder"


def test_scenes_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_named("scenes") == Scenes()
    trees.folder_tree(tmp_path / "scenes")
    assert dataset_named("./scenes").name == "folder"


def test_scenes_may_be_told_apart_by_another_number_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_named("scenes:150") == Scenes(num_classes=150)
    assert dataset_named("scenes:59") == dataset_named("scenes")
    assert dataset_named("scenes:2").name == "scenes"
    trees.folder_tree(tmp_path / "scenes:3")
    assert dataset_named("scenes:3").name == "folder"


def test_images_without_label_maps_are_no_segmentation_data(tmp_path: Path) -> None:
    root = trees.imagenet_tree(tmp_path)
    assert isinstance(any_dataset_named(str(root)), ClassFolders)
    with pytest.raises(UserError, match="label maps, which segmentation needs"):
        dataset_named(str(root))


def test_an_unknown_folder_is_told_with_every_layout_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError) as error:
        dataset_named(str(tmp_path))
    assert "found pictures/; looked for ade20k: images/training, " in str(error.value)
    assert all(f"{layout}: {', '.join(LAYOUTS[layout].looks_for)}" in str(error.value) for layout in LAYOUTS)


def test_the_folder_around_a_data_set_leads_to_it(tmp_path: Path) -> None:
    inner = trees.ade20k_tree(tmp_path / "ADEChallengeData2016")
    with pytest.raises(UserError, match=f"{inner} is laid out as ade20k: give that"):
        dataset_named(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no folder ''"),
        ("nowhere", "no folder 'nowhere'; give the folder of a data set, LAYOUT:FOLDER, scenes or scenes:CLASSES"),
        ("scene", "no folder 'scene'"),
        ("ade20k:", "names a layout but no folder; give ade20k:FOLDER"),
        ("ade20k:nowhere", "no folder 'nowhere'"),
        ("ade:nowhere", "unknown data set layout 'ade'; available: ade20k, cityscapes"),
        *(
            (f"scenes:{count}", f"scenes:{count}: after scenes: comes a number of classes from 2 to 150, such as")
            for count in ("", "1", "151", "-3", "x", "59.0", "059", "\N{ARABIC-INDIC DIGIT NINE}", "9" * 99)
        ),
        ("scene:150", "unknown data set layout 'scene'; available: .*scenes or scenes:CLASSES"),
        ("file.txt", "file.txt is a file; give the folder"),
        ("folder:file.txt", "file.txt is a file"),
        ("empty", "found nothing"),
        ("nul\0l", "no folder"),
        ("x" * 300, "cannot be read \\(File name too long\\)"),
    ],
)
def test_what_is_no_data_set_is_a_sentence(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=says) as error:
        any_dataset_named(text)
    assert "\n" not in str(error.value)

"""What a refusal advises can be typed and leads on; images that have several masks, or polygons, are told by that."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from evaluators.datasets.named import dataset_named, describe
from tests.support import own
from tests.support.own import ABC, refusal, stripes, write
from topformer import UserError


def test_a_folder_that_is_advised_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a b" / "data set", ABC)
    advised = re.search(r"; ([^;]*) is laid out as folder: give that", refusal(tmp_path))
    assert advised is not None
    assert dataset_named(advised[1]).length("train") == 3


def test_a_folder_that_would_be_refused_is_not_advised_without_its_cause(tmp_path: Path) -> None:
    (write(tmp_path / "inner", ABC) / "classes.txt").unlink()
    assert "is laid out as folder, and not read yet: " in refusal(tmp_path)
    assert "has no classes.txt" in refusal(tmp_path)


def test_several_data_sets_below_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("north", "south"):
        write(tmp_path / name, ABC)
    assert f"{tmp_path / 'north'}, {tmp_path / 'south'}: give one of them" in refusal(tmp_path)


def test_commands_that_are_advised_can_be_typed(tmp_path: Path) -> None:
    root = write(tmp_path / "my data", [stripes(0, 255)] * 3, names=("a", "b"))
    words = shlex.split(refusal(root).rpartition("choose from: ")[2])
    assert words[:3] == ["topformer-nas", "datasets", "describe"]
    assert len(describe(Path(words[3]), None)[1]) == 2


@pytest.mark.parametrize(
    "masks", ["masks/{kind}/{split}/{name}.png", "masks/{split}/{kind}/{name}.png", "masks/{split}/{name}/{kind}.png"]
)
def test_several_masks_of_an_image_are_refused_by_their_cause(masks: str, tmp_path: Path) -> None:
    for kind in ("lesion", "edge"):
        write(tmp_path, [stripes(0, 1)] * 4, masks=masks.replace("{kind}", kind), names=("none", "lesion", "edge"))
    for attempt in (refusal, refused_description):
        assert "one image has several masks, such as masks/" in attempt(tmp_path)


def refused_description(root: Path) -> str:
    with pytest.raises(UserError) as error:
        describe(root, None)
    return str(error.value)


def test_polygons_are_told_with_what_draws_them(tmp_path: Path) -> None:
    own.photo(tmp_path / "images" / "train" / "a.jpg", 0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(
        '{"images": [], "annotations": [], "categories": []}'
    )
    assert "instances_train.json holds polygons, boxes or segments of COCO" in refusal(tmp_path)

"""Class lists of other tools, in other encodings and with other separators, are read, or named where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets.folder import opened
from evaluators.datasets.named import dataset_named
from tests.support import own
from tests.support.own import ABC, COLOURS, NAMES, refusal, write
from topformer import UserError

GREYS = [(0, 0, 0), (90, 90, 90), (200, 60, 60)]


def folder(root: Path, files: dict[str, str], *, coloured: bool = False) -> Path:
    write(root, ABC)
    (root / "classes.txt").unlink()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    for path in (root / "masks").rglob("*.png") if coloured else ():
        own.save(path, own.colour_masks(own.stripes(0, 1, 2).astype(np.uint8), COLOURS[:3], (9, 9, 9)), "RGB")
    return root


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_dict.csv", "name,r,g,b\na,0,0,0\nb,255,0,0\nc,0,255,0\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\na:0,0,0::\nb:255,0,0::\nc:0,255,0::\n"),
        ("classes.csv", "Name; Red; Green; Blue\na; 0; 0; 0\nb; 255; 0; 0\nc; 0; 255; 0\n"),
        ("classes.csv", "id\tclass\tR\tG\tB\n0\ta\t0\t0\t0\n1\tb\t255\t0\t0\n2\tc\t0\t255\t0\n"),
        ("classes.csv", '"name", "red", "green", "blue"\n"a", 0, 0, 0\n"b", 255, 0, 0\n"c", 0, 255, 0\n'),
    ],
)
def test_tables_of_colours_are_read_whoever_wrote_them(name: str, content: str, tmp_path: Path) -> None:
    dataset = opened(folder(tmp_path, {name: content}, coloured=True))
    assert dataset.class_names == NAMES
    assert list(dict.fromkeys(dataset.item("train", 0)[1][0].tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "a\nb\nc\n"),
        ("labels.txt", "0: a\n1: b\n2: c\n"),
        ("classes.txt", "0\ta\n1\tb\n2\tc\n"),
        ("id2label.json", '{"0": "a", "2": "c", "1": "b"}'),
        ("label_map.json", '{"b": 1, "a": 0, "c": 2}'),
        ("label2id.json", '{"a": 0, "b": 1, "c": 2}'),
        ("train/_classes.csv", "Pixel Value, Class\n0, a\n1, b\n2, c\n"),
    ],
)
def test_lists_of_names_are_read_whoever_wrote_them(name: str, content: str, tmp_path: Path) -> None:
    dataset = dataset_named(str(folder(tmp_path, {name: content})))
    assert dataset.class_names == NAMES


def test_numbers_of_a_list_that_are_not_those_of_rows_are_two_readings(tmp_path: Path) -> None:
    assert "numbers in the class list, 1, 2, 3" in refusal(
        folder(tmp_path, {"id2label.json": '{"1": "a", "2": "b", "3": "c"}'})
    )


def test_lists_that_say_otherwise_are_refused_or_told(tmp_path: Path) -> None:
    root = folder(tmp_path, {"classes.txt": "a\nb\nc\n", "labels.txt": "x\ny\n", "id2label.json": "[]"})
    said = " ".join(opened(root).remarks)
    assert "labels.txt names other classes and is not used, since classes.txt is there" in said
    assert "id2label.json is not used, since classes.txt is there" in said
    (root / "labels.txt").write_text("c\nb\na\n")
    assert "classes.txt and labels.txt name the same classes in another order" in refusal(root)


def test_a_list_of_files_is_no_list_of_classes(tmp_path: Path) -> None:
    assert "'n0.png' is the name of a file" in refusal(folder(tmp_path, {"labels.txt": "n0.png\nn1.png\nn2.png\n"}))


def test_files_that_are_no_class_list_here_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path, {"data.yaml": "names: [a, b]", "my_classes.csv": "", "_annotations.coco.json": "{}"})
    said = refusal(root)
    assert "Found, but not read as a class list: data.yaml (YAML), _annotations.coco.json (boxes and polyg" in said
    assert "my_classes.csv (a table of another name)" in said


def test_own_classes_of_another_tool_in_folders_called_as_a_benchmark_are_own(tmp_path: Path) -> None:
    write(tmp_path, ABC, masks="annotations/{split}/{name}.png", splits=("training", "validation"))
    (tmp_path / "classes.txt").rename(tmp_path / "labels.txt")
    assert dataset_named(str(tmp_path)).class_names == NAMES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_lists_whose_encoding_is_sure_are_read(encoding: str, tmp_path: Path) -> None:
    root = write(tmp_path, ABC)
    (root / "classes.txt").write_bytes("Straße\nHäuser\nWald\n".encode(encoding))
    assert opened(root).class_names == ("Straße", "Häuser", "Wald")


@pytest.mark.parametrize(
    ("encoding", "says"),
    [("latin-1", "line 2 has the byte 0xe4, as Latin-1"), ("utf-16-le", "it holds null bytes")],
)
def test_lists_of_another_encoding_are_refused_by_it(encoding: str, says: str, tmp_path: Path) -> None:
    root = write(tmp_path, ABC)
    (root / "classes.txt").write_bytes("Wald\nHäuser\n".encode(encoding))
    assert says in refusal(root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,0,0,0\nb,1,1,1\n", "must begin with the line name,red,green,blue and have a line per class (separated by"),
        ("name,red,green,blue\na,0,0,0,7\n", "line 2: 5 columns where the first line has 4"),
        ("name;red;green;blue\na;0,5;0;0\n", "class 1: needed are a name and three numbers from 0 to 255, not 'a,0,5"),
    ],
)
def test_tables_that_are_not_sure_are_refused_with_their_cause(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        opened(folder(tmp_path, {"classes.csv": content}))
    assert says in str(error.value)

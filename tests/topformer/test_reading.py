"""Files from outside: what is no file, too large, no text, or says numbers that no machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from topformer.errors import UserError
from topformer.reading import file_content, file_text, parse_json, parse_toml
from topformer.writing import require_writable


def test_what_is_no_ordinary_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot read the recipe '.*' \(not a file\)\."):
            file_text(path, "the recipe")


@pytest.mark.parametrize("name", ["none.toml", "a\0b", "x" * 5000])
def test_what_is_not_there_is_one_short_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read the recipe '") as error:
        file_text(tmp_path / name, "the recipe")
    assert len(str(error.value)) < 400


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2**20)
    assert len(file_content(tmp_path / "file", "it", most_bytes=2**20)) == 2**20
    (tmp_path / "file").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(UserError, match="has over 1 MiB"):
        file_content(tmp_path / "file", "it", most_bytes=2**20)


def test_text_may_begin_with_a_mark_and_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa = 1")
    assert parse_toml(file_text(tmp_path / "file", "it"), "here") == {"a": 1}
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        file_text(tmp_path / "file", "it")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = 0x" + "f" * 4400, "an integer has more than 64 bits"),
        ("a = " + "9" * 5000, "not TOML"),
        ("a = 18446744073709551616", "an integer has more than 64 bits"),
        ("a = " + "[" * 200 + "]" * 200, "nested more than 64 deep"),
        (".".join("a" * 100_000) + " = 1", "a key has more than 64 parts"),
        ("[" + " . ".join("a" * 100_000) + "]", "a key has more than 64 parts"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("a = ", "not TOML"),
    ],
)
def test_toml_that_no_program_should_believe_is_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=f"here: not TOML|{why}") as error:
        parse_toml(text, "here")
    assert why in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    ["1" * 5000, "[" * 100_000, "[NaN]", "[1e999]", '"\\uD800"', "[0, -0xff]", '{"a": 9223372036854775808}', "{"],
)
def test_json_that_no_program_should_believe_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="here: not JSON") as error:
        parse_json(text, "here")
    assert len(str(error.value)) < 400


def test_long_texts_of_words_and_numbers_are_read_at_once() -> None:
    text = f"""a = "{"x" * 10**6}"\nb = [{", ".join(["1.5"] * 10_000)}]"""
    assert len(parse_toml(text, "here")["b"]) == 10_000


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError):
            require_writable(path)

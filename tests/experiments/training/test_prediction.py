"""Which images are labelled: files, and those of folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.training.prediction import images_at
from tests.support import own
from topformer import UserError


def test_a_folder_stands_for_its_images_and_one_without_is_refused(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.png", "inner/c.png"):
        own.photo(tmp_path / name, 0)
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in images_at(tmp_path)] == ["a.png", "b.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no images \(\.jpg, .*found nothing\."):
        images_at(tmp_path / "empty")

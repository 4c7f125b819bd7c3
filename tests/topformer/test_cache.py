"""Folders of a user's own, on machines that know the user and on machines that do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from topformer.cache import cache_folder, home_folder
from topformer.errors import UserError


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a home and without an entry in the list of users, as in many containers."""
    for name in ("HOME", "XDG_CACHE_HOME", "TOPFORMER_NAS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"topformer-nas-{os.getuid()}"


def test_without_a_home_there_is_a_folder_of_ones_own(nobody: Path) -> None:
    assert cache_folder() == nobody / ".cache" / "topformer-nas"
    assert nobody.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_nobodys_home(nobody: Path) -> None:
    nobody.mkdir()
    nobody.chmod(0o777)
    with pytest.raises(UserError, match="set HOME to a folder"):
        home_folder()


def test_a_home_that_is_not_known_is_not_taken_for_a_folder_named_so(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPFORMER_NAS_CACHE", "~/cache")
    with pytest.raises(UserError, match="TOPFORMER_NAS_CACHE is '~/cache'"):
        cache_folder()

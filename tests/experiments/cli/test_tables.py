"""Listings that are read in a terminal of eighty columns: one line for each row, and nothing beyond the edge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.shell import Shell

MADE_BEFORE = Path(__file__).parents[1] / "made_before" / "toy.db"
WIDTH = 80
LISTINGS = {
    ("front", "toy", "--all"): "trial",
    ("study", "list"): "study",
    ("study", "compare", "toy", "again"): "study",
    ("latency", "tables"): "table",
    ("latency", "savings", "tiny", "--space", "quickstart"): "knob",
    ("recipes",): "recipe",
}
"""With the key of the JSON that the first column shows."""


@pytest.fixture
def studied(shell: Shell) -> Shell:
    shutil.copy(MADE_BEFORE, shell.folder / "toy.db")
    shutil.copy(MADE_BEFORE.with_name("study.zip"), shell.folder)
    assert shell("study", "import", "study.zip", "--as", "again")[0] == 0
    return shell


@pytest.mark.parametrize("words", LISTINGS)
def test_a_listing_has_a_line_for_each_row(
    words: tuple[str, ...], studied: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    listed = studied.json(*words)
    rows = listed if isinstance(listed, list) else listed["savings"]  # type: ignore[index]
    code, out, _ = studied(*words)
    assert code == 0
    lines = out.splitlines()
    rule = next(number for number, line in enumerate(lines) if set(line.strip()) == {"─"})
    shown = lines[rule - 1 : rule + 1 + len(rows)]
    assert max(map(len, shown)) <= WIDTH
    assert [line.split()[0] for line in shown[2:]] == [str(row[LISTINGS[words]]) for row in rows]


def test_a_pipe_without_a_width_has_room_for_all(studied: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = studied("study", "list")[1]
    monkeypatch.setenv("COLUMNS", "40")
    narrow = studied("study", "list")[1]
    assert max(map(len, narrow.splitlines())) <= 40 < max(map(len, wide.splitlines()))

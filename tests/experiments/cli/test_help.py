"""Help that is read in a terminal of eighty columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperGroup

from experiments.cli.commands import app
from experiments.cli.help import GROUPS, summary
from tests.support.shell import Shell

ROOT = typer.main.get_command(app)
assert isinstance(ROOT, TyperGroup)
WIDTH = 80


def groups(found: TyperGroup = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperGroup]]:
    yield words, found
    for name, command in found.commands.items():
        if isinstance(command, TyperGroup):
            yield from groups(command, (*words, name))


def test_every_command_is_in_one_group() -> None:
    assert Counter(name for names in GROUPS.values() for name in names) == Counter(list(ROOT.commands))


@pytest.mark.parametrize("name", ROOT.commands)
def test_the_summary_of_a_command_fits_its_line(name: str) -> None:
    said = summary(ROOT.commands[name])
    assert 10 < len(said) <= WIDTH - 14
    assert said.endswith((".", "?"))


@pytest.mark.parametrize("words", [words for words, _ in groups()])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_no_summary_is_cut(words: tuple[str, ...], flag: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    code, out, _ = shell(*words, flag)
    assert code == 0
    assert "..." not in out.replace("[ARGS]...", "").replace("]...", "")
    assert max(map(len, out.splitlines())) <= WIDTH


def test_doctor_has_parts_and_the_old_name_of_one_still_works(shell: Shell) -> None:
    for words in (("doctor", "latency"), ("latency", "doctor")):
        found = shell.json(*words, "--table", "snapdragon865-a77-1core-fp32", "--arch", "tiny", "--measured", "43")
        assert isinstance(found, dict)
        assert found["measured_ms"] == 43
    assert isinstance(shell.json("doctor"), dict)

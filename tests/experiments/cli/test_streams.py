"""The command in a shell of its own: streams that are closed or full, languages without letters, early ends."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from experiments.cli import terminal
from experiments.cli.streams import TextOnly, visible
from topformer.errors import LONGEST_SENTENCE, UserError

COMMAND = f"{sys.executable} -m experiments"
ROOT = Path(__file__).parents[3]
HOSTILE = "\x1b]0;owned\x07 \x9b2J a\rb \u202egnp.exe \x7f"


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line that bash runs; it ends with the exit code of the command in it."""
    where = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), **variables}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"{COMMAND} recipes >&-", 0, ""),
        (f"{COMMAND} recipes 2>&-", 0, ""),
        (f"{COMMAND} recipes <&- >&- 2>&-", 0, ""),
        (f"{COMMAND} recipes >/dev/full", 2, "error: No space left on device; nothing is lost.\n"),
        (f"{COMMAND} describe none 2>/dev/full", 2, ""),
        (f"{COMMAND} recipes --json | true", 1, ""),
    ],
)
@pytest.mark.slow
def test_a_stream_that_takes_nothing_is_no_fault_of_the_tool(line: str, code: int, said: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    "language",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
@pytest.mark.slow
def test_names_beyond_ascii_are_read_and_told_of_in_any_language(language: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "ö" / "日本"
    folder.mkdir(parents=True)
    (folder / "ä.json").write_text("{}")
    done = shell(f"{COMMAND} describe ./ä.json; {COMMAND} describe ./ß.json", folder, **language)
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "missing" in first
    assert second.endswith("(No such file or directory).")


@pytest.mark.thorough
def test_a_start_that_is_broken_off_ends_without_a_traceback(tmp_path: Path) -> None:
    """Whatever is being imported meanwhile. Before 50 ms the interpreter itself is not up."""
    rng, codes = random.Random(0), set()
    for number in range(60):
        process = subprocess.Popen(
            [*COMMAND.split(), "search", "quickstart", "--storage", f"sqlite:///{tmp_path}/{number}.db"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        time.sleep(rng.uniform(0.2, 6))
        process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
        _, said = process.communicate(timeout=300)
        assert "Traceback" not in said
        codes.add(process.returncode)
    assert codes <= {130, -signal.SIGINT, -signal.SIGTERM}


def test_what_commands_a_terminal_is_written_out() -> None:
    assert visible(HOSTILE) == r"\x1b]0;owned\x07 \x9b2J a\rb \u202egnp.exe \x7f"
    assert visible("Grün, 日本, naïve, \u200cنمی\n\tfine") == "Grün, 日本, naïve, \u200cنمی\n\tfine"


def test_every_way_to_print_is_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a terminal, where the console itself draws with control characters."""
    seen = io.StringIO()
    monkeypatch.setattr(seen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", cast("io.StringIO", TextOnly(seen)))
    monkeypatch.setenv("TERM", "xterm-256color")
    print(HOSTILE)  # noqa: T201 - what it is about
    terminal.console_of().print(HOSTILE, highlight=False)
    terminal.print_rows([{HOSTILE: HOSTILE}], HOSTILE)
    terminal.print_json({HOSTILE: HOSTILE})
    assert not set(seen.getvalue()) & set("\x07\x9b\r\u202e\x7f")
    assert "\x1b]" not in seen.getvalue()


@pytest.mark.parametrize("said", ["x" * 10**6, "a b " * 10**6, "'" + "é" * 10**5 + "'"])
def test_no_sentence_is_longer_than_a_person_reads(said: str) -> None:
    sentence = str(UserError(f"unknown key {said}; legal keys: name."))
    assert len(sentence) < LONGEST_SENTENCE + 100
    assert sentence.startswith("unknown key ")
    assert sentence.endswith("legal keys: name.")

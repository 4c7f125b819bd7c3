"""How long work shows how far it is where there is no terminal."""

from __future__ import annotations

import pytest

from experiments.cli import terminal


@pytest.mark.parametrize(
    ("done", "passed_s", "pace_s", "line"),
    [
        (1, 31.0, None, "counting: 1 of 6,654, 31 s passed"),
        (1109, 600.0, 0.5, "counting: 1,109 of 6,654, 10 min passed, about 46 min left"),
        (1000, 3600.0, 3.6, "counting: 1,000 of 6,654, 60 min passed, about 5.7 h left"),
        (6654, 3600.0, 3.6, "counting: 6,654 of 6,654, 60 min passed"),
    ],
)
def test_a_line_says_how_far_it_is_and_how_long_it_takes(
    done: int, passed_s: float, pace_s: float | None, line: str
) -> None:
    assert terminal.progress_line(done, 6654, "counting", passed_s, pace_s) == line


def test_a_log_gets_lines_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SAID_EVERY_S", 0.0)
    with terminal.progress_bar() as report:
        report(1, 4, "counting")
        report(2, 4, "counting")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["counting: 1 of 4, 0 s passed", "counting: 2 of 4, 0 s passed, about 0 s left"]


def test_what_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress_bar() as report:
        report(1, 4, "counting")
    assert capsys.readouterr() == ("", "")

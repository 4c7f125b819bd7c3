"""How do commands take their common options and print? Typer annotations, JSON, tables, progress bars."""

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import DEFAULT_URL, without_password
from experiments.cli.streams import visible
from topformer.progress import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table
    from rich.text import Text

    from experiments.store.records import Study

WIDE = 160
"""Columns of a pipe, which has no width of its own."""
SAID_EVERY_S = 30.0
"""Between two lines about work that goes on, in a log."""

Arch = Annotated[
    str,
    typer.Argument(
        metavar="ARCH",
        help="tiny, small, base, base-cityscapes, base-cityscapes-half, a JSON file, STUDY#TRIAL, STUDY@50ms (the best "
        "under a budget) or STUDY@small (no slower than the anchor).",
    ),
]
Storage = Annotated[str, typer.Option("--storage", envvar="TOPFORMER_NAS_STORAGE", help="Database URL of the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="NAME",
        help="Go on in spite of a warning about the data: split-overlap, empty-class, one-class, ignored, brightness "
        "or class-order; may be given again.",
    ),
]
Size = Annotated[str | None, typer.Option("--size", help="Image size in px: 512, or 512x1024 (height x width).")]
Classes = Annotated[int | None, typer.Option("--classes", help="Number of classes.")]


def print_rows(rows: Sequence[Mapping[str, Any]], title: str, *, columns: Collection[str] = ()) -> None:
    """A table of the rows, or of those `columns` of them: what does not fit a terminal is left to `--json`."""
    shown = list(columns or rows[0]) if rows else ["nothing yet"]
    table = plain_table(title, shown, numbers=[name for name in shown if rows and _is_number(rows[0][name])])
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in shown))
    console_of().print(table)


def plain_table(title: str, columns: Sequence[str], *, numbers: Collection[str] = ()) -> "Table":
    """An empty table that spends its width on what it says; columns of `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def _is_number(value: object) -> bool:
    """Whether a cell begins with a number, whatever unit follows."""
    word = str(value).lstrip("+-").split(" ")[0].replace(",", "")
    return not isinstance(value, bool) and word.replace(".", "", 1).isdigit()


def console_of(*, stderr: bool = False) -> "Console":
    """Tables as wide as the terminal or `COLUMNS` allow; a pipe without either has room for all.

    Colours and lines are the console's own: control characters in what it is given are written out.
    """
    from rich.console import Console
    from rich.segment import Segment

    class TextConsole(Console):
        def render_str(self, text: str, **settings: Any) -> "Text":
            return super().render_str(visible(text), **settings)

        def render(self, *what: Any, **options: Any) -> "Iterator[Segment]":
            for one in super().render(*what, **options):
                yield one if one.control else Segment(visible(one.text), one.style)

    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    beneath = getattr(stream, "beneath", stream)
    return TextConsole(file=beneath, stderr=stderr, soft_wrap=True, width=None if known else WIDE, markup=False)


def bars_of(amount: "ProgressColumn", *more: "ProgressColumn", passing: bool = False) -> "Progress":
    """Bars on standard error: what is done, how much of it, and the time that passed and that is left.

    Passing ones are seen on a terminal alone, and gone when all is done.
    """
    from rich import progress

    console = console_of(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        amount,
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        *more,
        console=console,
        transient=passing,
        disable=passing and not console.is_terminal,
    )


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """On a standard error that is a terminal, with the time that passed and that is left; gone when all is done.

    Elsewhere, in a log, a line now and then.
    """
    from rich.progress import TaskProgressColumn

    bars = bars_of(TaskProgressColumn(), passing=True)
    console = bars.console
    bar = bars.add_task("", total=None)
    begun: dict[str, tuple[int, float]] = {}
    said = started = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal said
        now = time.monotonic()
        first, since = begun.setdefault(what, (done, now))
        if console.is_terminal:
            bars.start()  # not before: what is refused at once has no bar
            bars.update(bar, completed=done, total=total, description=what)
        elif now - said >= SAID_EVERY_S:
            said = now
            pace_s = (now - since) / (done - first) if done > first else None
            console.print(progress_line(done, total, what, now - started, pace_s), highlight=False)

    try:
        yield report
    finally:
        bars.stop()


def say(sentences: Iterable[str]) -> None:
    """On standard error, a line each."""
    console = console_of(stderr=True)
    for sentence in sentences:
        console.print(sentence, highlight=False)


def progress_line(done: int, total: int, what: str, passed_s: float, pace_s: float | None) -> str:
    """How far long work is, for a log; `pace_s` is what a step took so far, None where that is not known yet."""
    left = f", about {duration(pace_s * (total - done))} left" if pace_s is not None and done < total else ""
    return f"{what}: {done:,} of {total:,}, {duration(passed_s)} passed{left}"


def print_json(content: object) -> None:
    """What JSON has words for, and whatever says by `as_dict` what it is in these."""
    text = json.dumps(content, indent=2, default=methodcaller("as_dict"))
    print(text.replace("\x7f", "\\u007f"))  # JSON leaves that one as it is


def end_if_json(as_json: bool, content: object) -> None:
    """With `--json`, print the content and end the command; without, go on to the text that people read."""
    if as_json:
        print_json(content)
        raise typer.Exit


def storage_flag(storage: str) -> str:
    return "" if storage == DEFAULT_URL else f" --storage {without_password(storage)}"


def tell_of_confirmations(
    study: "Study", command: str, what: str, options: str, storage: str, *, more: str = ""
) -> None:
    """Where another fidelity, better than the one shown, has ranked some of a study's trials."""
    for rung in study.further[-1:]:
        console_of(stderr=True).print(
            f"note: by {study.fidelity}; {rung.label} has ranked the best again, maybe otherwise: topformer-nas "
            f"{command} {what}{options} --fidelity '{rung.label}'{more}{storage_flag(storage)}",
            highlight=False,
        )

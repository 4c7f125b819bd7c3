"""How do commands take their common options and print? Typer annotations, JSON, tables, progress bars."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from experiments import DEFAULT_URL, without_password

Arch = Annotated[
    str,
    typer.Argument(
        metavar="ARCH",
        help="tiny, small, base, a JSON file, STUDY#TRIAL, STUDY@50ms (the best under a budget) or STUDY@small (no "
        "slower than the anchor).",
    ),
]
Storage = Annotated[str, typer.Option("--storage", envvar="TOPFORMER_NAS_STORAGE", help="Database URL of the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Size = Annotated[str | None, typer.Option("--size", help="Image size in px: 512, or 512x1024 (height x width).")]
Classes = Annotated[int | None, typer.Option("--classes", help="Number of classes.")]


def print_rows(rows: list[dict[str, Any]], title: str) -> None:
    from rich.table import Table

    table = Table(title=title)
    for column in rows[0] if rows else ("nothing yet",):
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console_of().print(table)


def console_of(*, stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, soft_wrap=True, width=None if stream.isatty() else 160, markup=False
    )  # a pipe has no width


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """On a standard error that is a terminal, with the time that passed and that is left; gone when all is done."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    console = console_of(stderr=True)
    bars = progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar = bars.add_task("", total=None)

    def report(done: int, total: int, what: str) -> None:
        bars.start()  # not before: what is refused at once has no bar
        bars.update(bar, completed=done, total=total, description=what)

    try:
        yield report
    finally:
        bars.stop()


def print_json(content: object) -> None:
    print(json.dumps(content, indent=2))


def storage_flag(storage: str) -> str:
    return "" if storage == DEFAULT_URL else f" --storage {without_password(storage)}"

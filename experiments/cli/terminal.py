"""How do commands take their common options and print? Typer annotations, JSON, tables, progress bars."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import DEFAULT_URL, without_password
from topformer.config import Task, parse_image_size

if TYPE_CHECKING:
    from experiments.front.lookup import Chosen

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


def task_of(
    found: "Chosen", size: str | None, classes: int | None, *, output: str = "logits", classification: bool = False
) -> Task:
    """The task asked for; what is not given is the trial's, or the published one's."""
    base = found.task or (
        Task(kind="classification", image_size=(224, 224), num_classes=1000) if classification else Task()
    )
    return Task(
        kind="classification" if classification else "segmentation",
        image_size=parse_image_size(size) if size is not None else base.image_size,
        num_classes=classes if classes is not None else base.num_classes,
        output=output,  # type: ignore[arg-type]  # checked by Task
    )


def rows_named(arch: str, task: Task) -> AbstractContextManager[None]:
    """Where a table lacks rows: with the very options that measure them."""
    return _needed_for("--arch", arch, *_task_options(task))


def space_rows_named(name: str, task: Task) -> AbstractContextManager[None]:
    """Likewise, for every row of a preset on this task, or of the space of a study's file."""
    return _needed_for(*space_options(name, task))


def space_options(name: str, task: Task) -> tuple[str, ...]:
    """Of `latency measure`: a preset on this task, or a study's file, which says its own."""
    from search_space import PRESETS

    return ("--space", name, *_task_options(task)) if name in PRESETS else ("--study", name)


def _task_options(task: Task) -> tuple[str, ...]:
    output = () if task.output == "logits" else ("--output", task.output)
    return ("--size", pixels(task), "--classes", str(task.num_classes), *output)


@contextmanager
def _needed_for(*options: str) -> Iterator[None]:
    from latency_lut.table import MissingRows

    try:
        yield
    except MissingRows as error:
        raise error.needed_for(shlex.join(options)) from None


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


def pixels(task: Task) -> str:
    return "x".join(map(str, task.image_size))


def storage_flag(storage: str) -> str:
    return "" if storage == DEFAULT_URL else f" --storage {without_password(storage)}"

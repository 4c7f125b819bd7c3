"""The `topformer-nas front` command: parse, make one call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import AsJson, Storage, console_of, plain_table, print_json, tell_of_confirmations
from topformer.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.views.front import FrontView


def front(
    study: Annotated[str, typer.Argument(metavar="STUDY")],
    storage: Storage = DEFAULT_URL,
    every: Annotated[bool, typer.Option("--all", help="List every evaluation, not only the front.")] = False,
    latency_max: Annotated[
        str | None, typer.Option(metavar="MS", help="Only the best point within this budget, or an anchor's latency.")
    ] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(help="Of a [[confirm]] of the study: its members alone. [default: all, by the study's]"),
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many members: the knee, and those that keep most of it."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the front to a .png, .svg or .pdf file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the listed rows to a .csv file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front of a study, or the best under a budget."""
    from experiments.store.store import Store
    from experiments.views.front import front_view
    from topformer.writing import write_whole

    if sum((every, latency_max is not None, shortlist is not None)) > 1:
        raise UserError("--all lists all, --latency-max picks one, --shortlist some: give only one of these.")
    if csv is not None and csv.suffix != ".csv":
        raise UserError(f"--csv must be a .csv file, not {str(csv)!r}.")
    with Store.open(storage, read_only=True) as store:
        view = front_view(
            store,
            study,
            fidelity=fidelity,
            latency_max=latency_max,
            shortlist=shortlist,
            every=every,
            drawn=plot is not None,
        )
    if plot is not None:
        from experiments.reports.figures import draw_front

        draw_front(view, plot)
    if csv is not None:
        write_whole(csv, view.as_csv().encode())
    if as_json:
        print_json(view.as_dicts())
        return
    console = console_of()
    console.print(_table(view))
    for note in view.notes:
        console.print(note, highlight=False)
    asked = "" if latency_max is None else f" --latency-max {latency_max}"
    tell_of_confirmations(view.study, "front", study, asked, storage)
    for made in (plot, csv):
        if made is not None:
            console.print(f"written: {made}")


def _table(view: "FrontView") -> "Table":
    from experiments.views.front import margin_text

    columns = ("trial", "mIoU %", "latency ms", "90 % interval", "anchor", "on front", "image")
    table = plain_table(f"study {view.study.name}", columns, numbers=columns[:3])
    for row in view.rows:
        trial, latency = row.trial, row.trial.latency
        likely = "" if row.front_probability is None else f"{row.front_probability:.2f} "
        table.add_row(
            str(trial.number),
            "failed" if trial.miou_pct is None else f"{trial.miou_pct:.2f}{margin_text(row.miou_margin_pct)}",
            f"{latency.total_ms:.2f}",
            f"{latency.low_ms:.2f} to {latency.high_ms:.2f}",
            trial.anchor or "",
            f"{likely}{'*' if row.on_front else ''}{' (knee)' if row.knee else ''}",
            trial.candidate.task.pixels,
        )
    return table

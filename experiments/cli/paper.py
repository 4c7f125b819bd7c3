"""The `topformer-nas paper` command: parse, make one call, print."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Accept, AsJson, Storage, end_if_json, print_rows, progress_bar, say
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.views.paper import PaperList, PaperView


def paper(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", help="table1 to table11 and others, or all. [default: list them]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Train what is not known: scenes, a folder or LAYOUT:FOLDER. [default: train nothing]"),
    ] = None,
    fidelity: Annotated[
        str, typer.Option(help="How mIoU is found: a proxy recipe, supernet:FILE or tuned:FILE.")
    ] = "reference",
    replicates: Annotated[
        int | None, typer.Option(help="Trainings of each network. [default: 3; all that are known]", show_default=False)
    ] = None,
    known: Annotated[
        str | None, typer.Option("--known", metavar="DATA", help="Show what is known of these data, and train nothing.")
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.jsonl", help="Evaluations that are known, too; may be given again."),
    ] = None,
    table: Annotated[str | None, typer.Option(help="Latency table. [default: the Snapdragon 865's]")] = None,
    workers: Annotated[int, typer.Option(help="Processes that train. [default: all cores]")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write .md, .csv, .tex, .json, or draw .png, .svg, .pdf.")
    ] = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Put the paper's tables beside our own counts, latency and mIoU.

    Without names: list the tables. Every training is kept at once; stopped, the same command goes on.
    """
    from experiments.paper.accuracy import MOST_SEEDS, scores
    from experiments.paper.tables import paper_table, paper_tables
    from experiments.reports.paper import require_paper_file, write_paper
    from experiments.store.store import Store, store_if_any
    from experiments.views.paper import paper_list, paper_view
    from latency_lut import tables
    from latency_lut.table import find_table

    if not names or names == ["list"]:
        end_if_json(as_json, paper_list())
        _print_list(paper_list())
        return
    if replicates is not None and not 1 <= replicates <= MOST_SEEDS:
        raise UserError(f"--replicates must be from 1 to {MOST_SEEDS}, not {replicates}.")
    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    if data is not None and known is not None:
        raise UserError("--data trains on data, --known shows what is known of them; give one of the two.")
    chosen = list(paper_tables().values()) if names == ["all"] else [paper_table(name) for name in names]
    if out is not None:
        require_paper_file(out, len(chosen))
    prices = find_table(table or tables.SNAPDRAGON_865)
    train = data is not None
    opened = Store.open(storage, create=True) if train else store_if_any(storage)
    with opened as store, progress_bar() if train else nullcontext() as bar:
        found = scores(
            chosen,
            data or known or "scenes",
            fidelity=fidelity,
            replicates=replicates or (3 if train else MOST_SEEDS),
            files=records or (),
            store=store,
            workers=(workers or os.cpu_count() or 1) if train else None,
            accept=accept or (),
            tell=lambda done, of: bar(done, of, "trainings known") if bar else None,
            say=say,
        )
    views = [paper_view(one, prices, found.get(one.name)) for one in chosen]
    if out is not None:
        write_paper(views, out)
    end_if_json(as_json, views)
    for view in views:
        _print(view)
    if out is not None:
        print(f"written: {out}")


def _print_list(shown: "PaperList") -> None:
    print_rows(shown.cells, "tables of the paper: topformer-nas paper TABLE")


def _print(view: "PaperView") -> None:
    from experiments.views.paper import ACCURACY, COSTS

    title = f"{view.table.name}: {view.table.title}. {view.table.question}"
    for columns in (COSTS, ACCURACY) if view.table.shows == "costs" else (tuple(view.cells[0]),):
        shown = [name for name in columns if name in view.cells[0]]
        rows = [cells for cells in view.cells if any(cells[name] for name in shown[1:])]
        if rows:
            print_rows(rows, title, columns=shown)
        title = f"accuracy; the paper's is {view.table.measure}"
    if view.orderings:
        print_rows(view.orderings, "the paper's orderings: mIoU of the first over the second, points")
    for sentence in view.sentences:
        print(sentence)
    print()

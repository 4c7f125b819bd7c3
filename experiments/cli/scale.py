"""The `topformer-nas scale` commands: parse, make one call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import AsJson, Storage, end_if_json, print_rows
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.views.scaling import LawView

MOST_BOOTSTRAPS = 20_000

scale = typer.Typer(help="Say what more size buys. Laws of mIoU, with intervals.", no_args_is_help=True)


@scale.command("fit")
def scale_fit(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A study, a trust report, records (.jsonl), or a table (.csv).")
    ],
    axis: Annotated[
        str, typer.Option(help="latency_ms, macs_g, params_m or image_px; of a .csv also images, iterations.")
    ],
    form: Annotated[str, typer.Option(help="auto, line, power, broken or logistic.")] = "auto",
    at: Annotated[list[float] | None, typer.Option(help="A size to foretell mIoU at; may be given again.")] = None,
    step: Annotated[float | None, typer.Option(help="Say what so much more size buys.")] = None,
    fidelity: Annotated[str | None, typer.Option(help="Whose scores. [default: the study's, the reference's]")] = None,
    one_group: Annotated[bool, typer.Option("--one-group", help="Do not set apart what injects other scales.")] = False,
    bootstraps: Annotated[int, typer.Option(help="Resamplings of the points.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    table: Annotated[str | None, typer.Option(help="Latency table. [default: the Snapdragon 865's]")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw points and law to a .png, .svg or .pdf file.")] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Fit laws of mIoU by size, and choose among them by what they foretell of larger sizes."""
    from experiments.reports.figures import require_figure
    from experiments.reports.scaling import draw_law
    from experiments.scaling.laws import fit
    from experiments.scaling.points import points_of
    from experiments.store.store import store_if_any
    from experiments.views.scaling import law_view
    from latency_lut import tables
    from latency_lut.table import find_table

    if not 100 <= bootstraps <= MOST_BOOTSTRAPS:
        raise UserError(f"--bootstraps must be from 100 to {MOST_BOOTSTRAPS}, not {bootstraps}.")
    if seed < 0:
        raise UserError(f"--seed must be at least 0, not {seed}.")
    if plot is not None:
        require_figure(plot)
    prices = find_table(table or tables.SNAPDRAGON_865)
    with store_if_any(storage) as store:
        found = points_of(source, axis, fidelity=fidelity, prices=prices, store=store, grouped=not one_group)
    view = law_view(found, fit(found.points, form=form, bootstraps=bootstraps, seed=seed), at=at or (), step=step)
    if plot is not None:
        draw_law(view, plot)
    end_if_json(as_json, view)
    _print(view)


@scale.command("curve")
def scale_curve(
    run: Annotated[
        Path, typer.Argument(metavar="RUN.csv", help="Columns miou_pct and loss, a row for each tenth that is done.")
    ],
    fidelity: Annotated[str, typer.Option(help="The recipe that it and finished trainings follow.")] = "reference",
    records: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Finished trainings. [default: those of the store]")
    ] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Foretell the end of a training from its first tenths, by how others of its schedule went."""
    from experiments.scaling.curves import curves_of, foretold, read_curve
    from experiments.store.ledger import read_records
    from experiments.store.store import store_if_any

    scores, losses = read_curve(run)
    with store_if_any(storage) as store:
        known = read_records(records) if records else store.evaluations() if store else ()
    end = foretold(curves_of(known, fidelity=fidelity), scores, losses)
    end_if_json(as_json, end)
    print(
        f"after {end.tenths} tenths: {end.mean_pct:.1f} % mIoU at the end ({end.low_pct:.1f} to {end.high_pct:.1f}, "
        f"90 %), by {end.trainings} finished trainings by {fidelity}"
    )


def _print(view: "LawView") -> None:
    print_rows(view.cells, f"mIoU by {view.source.axis}")
    for sentence in view.sentences:
        print(sentence)

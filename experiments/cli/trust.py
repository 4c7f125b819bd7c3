"""The `topformer-nas trust` commands: parse, make one call, print."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL, without_password
from experiments.cli.help import WholeSentences
from experiments.cli.terminal import (
    Accept,
    AsJson,
    Storage,
    console_of,
    end_if_json,
    print_rows,
    say,
    storage_flag,
)
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.trust.run import Progress
    from experiments.views.trust import ReportView

CANDIDATES = "proxy-short,proxy-long,parameters,macs,naswot,synflow"

trust = typer.Typer(
    help="Say how far a proxy's ranking can be believed. Its order is compared with that of long trainings.",
    no_args_is_help=True,
)


records = typer.Typer(
    help="Every evaluation of a store as a file of JSON lines, without weights.", no_args_is_help=True
)
trust.add_typer(records, name="records", cls=WholeSentences)


@trust.command("run")
def trust_run(
    name: Annotated[str | None, typer.Option(help="Of the report. [default: the space's and the data's]")] = None,
    space: Annotated[
        str, typer.Option(help="pyramid, quickstart, or a study: a TOML file or one that comes with the tool.")
    ] = "pyramid",
    table: Annotated[str | None, typer.Option(help="Latency table. [default: the study's, or the shipped one]")] = None,
    data: Annotated[
        str | None, typer.Option(help="scenes, a folder or LAYOUT:FOLDER. [default: the study's, or scenes]")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", "--image-size", help="Image size in px, of a preset. [default: 512]")
    ] = None,
    reference: Annotated[str, typer.Option(help="The proxy recipe whose order counts as true.")] = "reference",
    candidates: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="What is judged, with commas: proxy recipes (proxy-short or proxy@proxy-short), parameters, macs, "
            "naswot, synflow, or zero-cost for these four, supernet:FILE and tuned:FILE.",
        ),
    ] = CANDIDATES,
    count: Annotated[int, typer.Option(help="Architectures, anchors included; at least half lie in the band.")] = 40,
    band_ms: Annotated[
        float, typer.Option(help="Middle of the band of equal latency, which is 15 % wide each way.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Of the architectures that are drawn.")] = 0,
    replicates: Annotated[int, typer.Option(help="Trainings of those that are repeated: the anchors and some.")] = 3,
    repeated: Annotated[int, typer.Option(help="How many besides the anchors are repeated.")] = 5,
    orderings: Annotated[bool, typer.Option(help="Train what the paper compares, too.")] = True,
    workers: Annotated[int, typer.Option(help="Processes that evaluate, one thread each. [default: all cores]")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the report to a file, too.")] = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Evaluate a stratified set of architectures at every fidelity, and report how well the orders agree.

    Every evaluation is kept at once: stopped, the same command goes on where it was.
    """
    from experiments.latency.plan import saying_what_measures_space
    from experiments.store.store import Store
    from experiments.trust.run import TrustSample, placeless, plan_named, run_trust
    from experiments.views.trust import report_view

    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out must be a .json file, not {str(out)!r}.")
    plan = plan_named(
        space,
        name=name,
        table=table,
        data=data,
        size=size,
        reference=reference,
        candidates=candidates,
        sample=TrustSample(
            count=count, band_ms=band_ms, seed=seed, replicates=replicates, repeated=repeated, orderings=orderings
        ),
        accept=accept or (),
    )
    say(plan.notices)
    with saying_what_measures_space(space, plan.space.task):
        members = plan.members()
    command = placeless(("topformer-nas", *sys.argv[1:]))
    with Store.open(storage, create=True) as store, _evaluations() as report:
        made = run_trust(plan, members, store, workers=workers or os.cpu_count() or 1, command=command, report=report)
    if out is not None:
        _write(out, made.to_json())
    view = report_view(made)
    end_if_json(as_json, view)
    _print(view)
    print(f"see it again with: topformer-nas trust show {made.name}{storage_flag(storage)}")


@trust.command("show")
def trust_show(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of a report. [default: the newest of the store]")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw every fidelity against the reference to a .png, .svg or .pdf file.")
    ] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """A trust report: agreement of every fidelity with the reference, and the published orderings."""
    from experiments.store.store import store_if_any
    from experiments.trust.standing import find_report
    from experiments.views.trust import report_view

    with store_if_any(storage) as store:
        view = report_view(find_report(name, store))
    if plot is not None:
        from experiments.reports.figures import draw_trust

        draw_trust(view.report, plot)
    end_if_json(as_json, view)
    _print(view)
    if plot is not None:
        print(f"drawn: {plot}")


@trust.command("fit")
def trust_fit(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="A trust report of the store or of the tool.")],
    candidates: Annotated[
        str, typer.Option(metavar="NAMES", help="Fidelities of the report, with commas: proxy-short,supernet:FILE ...")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="Where the fitted evaluator goes.")],
    data: Annotated[str | None, typer.Option(help="The report's images. [default: scenes, if they were those]")] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Fit a prediction of the reference's mIoU from several cheap fidelities and the architecture.

    The file is an evaluator with an error bar, combined:FILE: of a study, of its [[screen]], or of [[confirm]].
    """
    from evaluators.datasets.named import dataset_named
    from experiments.store.store import Store, store_if_any
    from experiments.trust.fit import fit, keep
    from experiments.trust.standing import find_report
    from topformer.writing import require_writable

    require_writable(out.parent)
    with store_if_any(storage) as there:
        known = find_report(report, there)
    found = fit(known, candidates, dataset_named(data or known.dataset), out)
    with Store.open(storage, create=True) as store:
        keep(found, store)
    end_if_json(as_json, found)
    for sentence in found.sentences:
        print(sentence)
    print(f"{out}: use it as combined:{out}; its standing: topformer-nas trust show {found.report.name}")


@trust.command("list")
def trust_list(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """The trust reports of the store, newest first, and those that come with the tool."""
    from experiments.store.store import store_if_any
    from experiments.views.trust import report_rows

    with store_if_any(storage) as store:
        rows = [row.as_dict() for row in report_rows(store)]
    end_if_json(as_json, rows)
    for row in rows:
        row["created"] = row["created"][:10]
    print_rows(rows, "trust reports", columns=("report", "from", "created", "space", "data", "architectures"))


@trust.command("delete")
def trust_delete(name: Annotated[str, typer.Argument(metavar="REPORT")], storage: Storage = DEFAULT_URL) -> None:
    """Forget a report of the store; what it evaluated stays, so writing it again trains nothing."""
    from experiments.store.store import Store

    with Store.open(storage) as store:
        store.delete_trust_report(name)
    print(f"trust report {name} is deleted from {without_password(storage)}.")


@records.command("export")
def records_export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")],
    fidelity: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    storage: Storage = DEFAULT_URL,
) -> None:
    """Write every evaluation of the store to a file, so that nobody trains it again."""
    from experiments.store.ledger import write_records
    from experiments.store.store import Store

    with Store.open(storage, read_only=True) as store:
        count = write_records(store, file, fidelities=fidelity or ())
    print(f"{file}: {count} records")


@records.command("import")
def records_import(file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")], storage: Storage = DEFAULT_URL) -> None:
    """Take in the evaluations of a file, after every key and checksum is checked: all of them, or none."""
    from experiments.store.ledger import take_in
    from experiments.store.store import Store

    with Store.open(storage, create=True) as store:
        count, new = take_in(store, file)
    print(f"{file}: {count} records, {new} of them new to {without_password(storage)}")


@contextmanager
def _evaluations() -> Iterator[Callable[["Progress"], None]]:
    """A line for each evaluation on standard error, and a bar with the time that is left."""
    from datetime import timedelta

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.description}"), console=console_of(stderr=True)) as bars:
        bar = bars.add_task("", total=None)

        def report(progress: "Progress") -> None:
            left = progress.seconds_left
            about = "" if left is None else f"left {timedelta(seconds=round(left))}"
            bars.update(bar, completed=progress.done, total=progress.total, description=about)
            if not progress.cached:
                want = progress.want
                bars.console.print(
                    f"{want.called}, replicate {want.replicate}, by {want.scorer.fidelity}: {progress.value:.4g}",
                    highlight=False,
                )

        yield report


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write the report {str(path)!r} ({error.strerror}); the store has it: topformer-nas trust show"
        ) from None


def _print(view: "ReportView") -> None:
    from experiments.views.trust import AGREEMENT, BEYOND, COSTS

    print_rows(view.agreement[1:], f"trust report {view.report.name}", columns=AGREEMENT)
    if any(cells["adds"] for cells in view.agreement):
        print_rows([cells for cells in view.agreement if cells["adds"]], "", columns=BEYOND)
    print_rows([cells for cells in view.agreement if cells["of reference"]], "", columns=COSTS)
    for sentence in view.about:
        print(sentence)
    if view.orderings:
        print_rows(view.orderings, "published orderings: mIoU % of the first over the second")
    for sentence in (*view.decided, *view.warnings):
        print(sentence)

"""The `topformer-nas trust` commands: parse, make one call, print."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from experiments import DEFAULT_URL, without_password
from experiments.cli.help import WholeSentences
from experiments.cli.terminal import AsJson, Storage, console_of, print_json, print_rows, storage_flag
from latency_lut import tables
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.study_config import StudyConfig
    from experiments.trust.run import Progress
    from experiments.trust.standing import FidelityTrust, TrustReport

CANDIDATES = "proxy-short,proxy-long,parameters,macs,naswot,synflow"

trust = typer.Typer(
    help="How far can a proxy's ranking be believed? Compare its order of architectures with that of long trainings.",
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
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Evaluate a stratified set of architectures at every fidelity, and report how well the orders agree.

    Every evaluation is kept at once: stopped, the same command goes on where it was.
    """
    from evaluators.datasets.files import LabelledFiles
    from evaluators.datasets.named import dataset_named
    from evaluators.named import scorers_named
    from evaluators.proxy import ProxyEvaluator, named_recipe
    from experiments.latency.plan import space_rows_named
    from experiments.store.store import Store
    from experiments.trust.run import TrustPlan, placeless, run_trust
    from latency_lut.table import find_table
    from search_space import PRESETS, preset
    from topformer.config import ANCHORS, Task, parse_image_size

    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out must be a .json file, not {str(out)!r}.")
    study = None if space in PRESETS else _study(space, size)  # a study of a preset's name is that preset
    dataset = dataset_named(data or (study.evaluator.dataset if study else "scenes"))
    if isinstance(dataset, LabelledFiles):
        dataset.require_complete()
    if study is not None:
        over, anchors = study.search_space(), tuple(study.search.anchors)
        if dataset.num_classes != over.task.num_classes:
            raise UserError(
                f"study {space!r} has {over.task.num_classes} classes, data set {dataset.name!r} has "
                f"{dataset.num_classes}; set the study's num_classes to {dataset.num_classes}."
            )
    else:
        task = Task(image_size=parse_image_size(size or "512"), num_classes=dataset.num_classes)
        over, anchors = preset(space, task=task), tuple(ANCHORS)
    recipe = named_recipe(reference)
    plan = TrustPlan(
        name=name or f"{over.name}-{dataset.name}",
        space=over,
        anchors=anchors,
        table=find_table(table or (study.latency.table if study else tables.SNAPDRAGON_865)),
        dataset=dataset,
        reference=ProxyEvaluator(recipe, dataset),
        scorers=scorers_named(candidates, recipe, dataset),
        count=count,
        band_ms=band_ms,
        seed=seed,
        replicates=replicates,
        repeated=repeated,
        orderings=orderings,
    )
    with space_rows_named(space, over.task):
        wanted = plan.wants()
    command = placeless(("topformer-nas", *sys.argv[1:]))
    with Store.open(storage, create=True) as store, _evaluations() as report:
        made = run_trust(plan, wanted, store, workers=workers or os.cpu_count() or 1, command=command, report=report)
    if out is not None:
        _write(out, made.to_json())
    if as_json:
        _print_json_of(made)
        return
    _print(made)
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

    with store_if_any(storage) as store:
        report = find_report(name, store)
    if plot is not None:
        from experiments.reports.figures import draw_trust

        draw_trust(report, plot)
    if as_json:
        _print_json_of(report)
        return
    _print(report)
    if plot is not None:
        print(f"drawn: {plot}")


@trust.command("list")
def trust_list(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """The trust reports of the store, newest first, and those that come with the tool."""
    from experiments.store.store import store_if_any
    from experiments.trust.standing import shipped_reports, stored_reports

    with store_if_any(storage) as store:
        found = [("store", one) for one in (stored_reports(store) if store else ())]
    found += [("shipped", one) for one in shipped_reports()]
    rows = [
        {
            "report": one.name,
            "from": source,
            "created": one.created,
            "space": one.space,
            "data": one.dataset,
            "reference": one.reference,
            "architectures": len(one.ranked),
            "kendall_tau": {f.fidelity: f.overall.kendall.value if f.overall else None for f in one.fidelities},
        }
        for source, one in found
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["kendall_tau"] = ", ".join(
            f"{fidelity} {'-' if tau is None else f'{tau:.2f}'}"
            for fidelity, tau in row["kendall_tau"].items()  # type: ignore[attr-defined]
        )
    print_rows(rows, "trust reports")


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


def _study(text: str, size: str | None) -> "StudyConfig":
    from experiments.study_config import StudyConfig
    from search_space import PRESETS

    if size is not None:
        raise UserError(f"--size goes with {' or '.join(PRESETS)}; the study {text!r} says its own.")
    try:
        return StudyConfig.load(text)
    except UserError as error:
        if os.path.exists(text):  # noqa: PTH110  # Path.exists raises for a name that no file can have
            raise
        raise UserError(f"unknown search space {text!r}; available: {', '.join(sorted(PRESETS))}; {error}") from None


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
                    f"{want.member.label}, replicate {want.replicate}, by {want.scorer.fidelity}: {progress.value:.4g}",
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


def _print_json_of(report: "TrustReport") -> None:
    from dataclasses import asdict

    print_json(asdict(report))


def _print(report: "TrustReport") -> None:
    from evaluators.trust import INTERVAL_PCT, TRUSTED_TAU, Verdict
    from experiments.trust.standing import Standing, interval_text

    rows = [_reference_row(report), *(row for one in report.fidelities for row in _fidelity_rows(one))]
    print_rows(rows, f"trust report {report.name}")
    in_band = sum(report.in_band(one) for one in report.ranked)
    print(
        f"{len(report.ranked)} architectures of {report.space} at {'x'.join(map(str, report.image_size))} px on "
        f"{report.dataset}, {in_band} of them in the band of {report.band_low_ms:.3g} to {report.band_high_ms:.3g} ms "
        f"by table {report.table}; {report.created}. tau is Kendall's, in brackets the {INTERVAL_PCT} % bootstrap "
        "interval over architectures; regret what the best of a fidelity's first 1, 3 and 5 lacks of the best, in mIoU "
        "by the reference; noise the standard deviation between trainings of one architecture; far cue the share of "
        "trainings that found what only the far side of an image tells."
    )
    for one in report.fidelities:
        if one.above_zero_cost is not None:
            print(f"{one.fidelity}: band tau above the best zero-cost proxy's by {interval_text(one.above_zero_cost)}.")
    if report.decisions:
        print_rows(_ordering_rows(report), "published orderings: mIoU % of the first over the second")
        for fidelity in dict.fromkeys(one.fidelity for one in report.decisions):
            said = [one.verdict for one in report.decisions if one.fidelity == fidelity]
            print(f"{fidelity}: {', '.join(f'{said.count(word)} {word}' for word in get_args(Verdict))}.")
        print("Decided at the noise between trainings, 90 %; * had a part in the making of scenes.")
    for one in report.fidelities:
        standing = Standing(report=report.name, trust=one)
        if not one.zero_cost and not standing.trusted:
            print(
                f"warning: {one.fidelity}: {standing.short}; a study on it says so (trusted from {TRUSTED_TAU:g} on)."
            )


_COLUMNS = (
    "fidelity",
    "over",
    "tau",
    "Spearman",
    "regret %, top 1/3/5",
    "noise %",
    "far cue %",
    "CPU s each",
    "of reference",
)


def _reference_row(report: "TrustReport") -> dict[str, Any]:
    return dict.fromkeys(_COLUMNS) | {
        "fidelity": f"{report.reference} (reference)",
        "noise %": _number(report.reference_noise_pct),
        "far cue %": _share(report.reference_far_cue_found_pct),
        "CPU s each": _seconds(report.reference_cpu_seconds),
        "of reference": "100 %",
    }


def _fidelity_rows(one: "FidelityTrust") -> Iterator[dict[str, Any]]:
    """Over all architectures, and within the band."""
    from experiments.trust.standing import interval_text

    for over, found, regrets in (("all", one.overall, one.regret_pct), ("band", one.band, one.band_regret_pct)):
        estimates = {} if found is None else {"tau": found.kendall, "Spearman": found.spearman}
        row = dict.fromkeys(_COLUMNS) | {"over": over, "tau": "none", "Spearman": "none"}
        row |= {name: interval_text(estimate) for name, estimate in estimates.items()}
        row["regret %, top 1/3/5"] = _regrets(regrets)
        if over == "all":
            row["fidelity"] = one.fidelity
            row["noise %"] = _number(one.noise_pct)
            row["far cue %"] = _share(one.far_cue_found_pct)
            row["CPU s each"] = _seconds(one.cpu_seconds)
            row["of reference"] = f"{100 * one.cost_share:.3g} %"
        yield row


def _regrets(regrets: dict[str, float]) -> str:
    return " / ".join(f"{regret:.2f}" for regret in regrets.values())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _ordering_rows(report: "TrustReport") -> list[dict[str, Any]]:
    """A row for each ordering, a column for each fidelity."""
    rows: dict[str, dict[str, Any]] = {}
    for one in report.decisions:
        name = f"{one.ordering}{' *' if one.tuned else ''}"
        row = rows.setdefault(name, {"ordering": name, "published": _number(one.published_pct)})
        row[one.fidelity] = f"{one.difference_pct:+.2f} +-{one.margin_pct:.2f} {one.verdict}"
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return [dict.fromkeys(columns) | row for row in rows.values()]

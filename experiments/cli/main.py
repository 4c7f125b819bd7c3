"""The `topformer-nas` command: parse, make one call, print. Heavy imports wait until a command needs them."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments import DEFAULT_URL
from experiments.cli import training as training_cli
from experiments.cli.architecture import describe
from experiments.cli.datasets import datasets
from experiments.cli.latency import latency
from experiments.cli.studies import study_commands
from experiments.cli.supernet import supernet
from experiments.cli.terminal import (
    Arch,
    AsJson,
    Classes,
    Size,
    Storage,
    console_of,
    print_json,
    storage_flag,
)
from experiments.cli.trust import trust
from topformer.errors import UserError, ran_out_of_memory
from topformer.version import DISTRIBUTION, tool_version

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.table import Table

    from evaluators.base import Evaluator
    from experiments.search.schedule import Schedule
    from experiments.store.records import Study, Trial
    from experiments.study_config import StudyConfig
    from experiments.trust.standing import Standing
    from experiments.views.front import FrontView
    from experiments.workers.pool import Pool

STOPPED = 130

app = typer.Typer(
    name="topformer-nas",
    help="Given a phone core and a latency budget: find, prove and export the TopFormer with the best mIoU.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(latency, name="latency")
for command in (training_cli.train, training_cli.evaluate, training_cli.predict, training_cli.recipes):
    app.command()(command)
app.add_typer(datasets, name="datasets")
app.add_typer(supernet, name="supernet")
app.add_typer(trust, name="trust")
app.add_typer(study_commands, name="study")


def main() -> None:
    """Run the command line; a mistake of the user's is one sentence on standard error and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        if "" in sys.argv[1:]:
            _fail("an argument is empty; is it a variable of the shell that was not set?")
        if strange := next((word for word in sys.argv[1:] if not _is_text(word)), None):
            _fail(f"argument {strange!r} is not UTF-8; rename the file or folder.")
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        sentence = error.format_message()
        if sentence.startswith("Usage:"):  # a command group without a command
            print(sentence)
            sys.exit(2)
        _fail(f"{sentence.rstrip('.')}. See topformer-nas --help.")
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(
            f"{error.strerror or error}{f': {str(error.filename)[:200]}' if error.filename else ''}; nothing is lost."
        )
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        _fail("out of memory; choose a smaller network or image, or fewer workers.")
    if code == STOPPED:
        print("stopped; the same command goes on from here.", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(_number: int, _frame: object) -> None:
    """A polite end is an end by Ctrl-C."""
    raise KeyboardInterrupt


def _is_text(word: str) -> bool:
    """What the shell gave as other bytes can be neither printed nor kept."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"{DISTRIBUTION} {tool_version()}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def search(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's TOML file, or the name of one that comes with the tool.")
    ],
    storage: Storage = DEFAULT_URL,
    workers: Annotated[
        int, typer.Option(help="Processes that evaluate, one thread each. [default: all cores, or the whole cluster]")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Evaluate on this Ray cluster, or on one made for the study: local."),
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPUs that one evaluation reserves, with --ray.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs, or a share of one, likewise.")] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="STUDY is the name of a study of the store; its file is not needed.")
    ] = False,
    extend: Annotated[
        int | None, typer.Option(metavar="TRIALS", help="Go on to so many trials in all, whatever the file says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a search study, or go on where it was interrupted."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from experiments.search.assembly import build_evaluator, build_schedule
    from experiments.search.study import Event, require_rows, run_study
    from experiments.store.records import BatchStatistics
    from experiments.store.store import Store
    from experiments.trust.standing import standing
    from experiments.views.studies import SearchSummary
    from latency_lut.table import find_table
    from search_space import require_anchors

    config = _study_config(study, storage, extend, resume=resume)
    evaluator = build_evaluator(config)
    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    elsewhere = _cluster(ray, workers, cpus, gpus)
    if not Store.exists(storage):  # what would be refused anyway makes no database
        require_anchors(config.search_space(), config.search.anchors)
        require_rows(config, find_table(config.latency.table))
    console = console_of(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    with Store.open(storage, create=True) as store:
        space = config.search_space()
        ranking = standing(evaluator.fingerprint, store, space)
        schedule = build_schedule(config, evaluator, lambda scorer: standing(scorer.fingerprint, store, space))
        at_once = workers or (0 if ray is not None else os.cpu_count() or 1)
        for sentence in _introduction(config, evaluator, ranking, schedule, at_once):
            console.print(sentence, highlight=False)
        with Progress(*columns, *left, console=console) as progress:
            bars: dict[str | None, TaskID] = {None: progress.add_task("evaluating", total=config.search.trials)}

            def report(event: Event) -> None:
                if event.rung not in bars:
                    bars[event.rung] = progress.add_task(str(event.rung), total=event.total)
                progress.update(bars[event.rung], completed=event.done, total=event.total)
                if event.trial is not None:
                    progress.console.print(_settled(event.trial), highlight=False)
                if event.note:
                    progress.console.print(event.note)

            result = run_study(
                config,
                store,
                evaluator=evaluator,
                schedule=schedule,
                workers=workers or os.cpu_count() or 1,
                elsewhere=elsewhere,
                report=report,
            )
        gate = BatchStatistics.total(store.batches(config.name))
    summary = SearchSummary(
        study=result.name,
        trials=result.trials,
        front=result.front,
        trained=result.trained,
        cached=result.cached,
        confirming=result.confirming,
        gate=gate,
        screens_not_used=schedule.notices,
        confirmed_by=tuple(rung.label for rung in schedule.confirmations),
        ranking=ranking,
    )
    if as_json:
        print_json(summary.as_dict())
        return
    for note in summary.notes:
        console.print(note)
    for label in () if summary.idle else summary.confirmed_by:
        command = f"topformer-nas front {result.name} --fidelity '{label}'{storage_flag(storage)}"
        console.print(f"confirmed: {command}", highlight=False)
    print(f"see the front with: topformer-nas front {result.name}{storage_flag(storage)}")


def _study_config(study: str, storage: str, extend: int | None, *, resume: bool) -> "StudyConfig":
    """From its file, or from the store; extended to no fewer trials than the store's study has."""
    from experiments.store.store import Store, store_if_any
    from experiments.study_config import StudyConfig

    if resume:
        with Store.open(storage, read_only=True) as store:
            config = store.study(study).config
    else:
        config = StudyConfig.load(study)
    if extend is None:
        return config
    with store_if_any(storage) as there:
        if there is not None and there.find_study(config.name) is not None:
            there.study(config.name).config.extended(extend)
    return config.extended(extend)


def _cluster(address: str | None, workers: int, cpus: float, gpus: float) -> "AbstractContextManager[Pool] | None":
    if address is not None:
        from experiments.workers.ray import Resources, ray_pool

        return ray_pool(address, workers, Resources(cpus=cpus, gpus=gpus))
    if (cpus, gpus) != (1.0, 0.0):
        raise UserError("--cpus and --gpus reserve parts of a Ray cluster; give --ray, too.")
    return None


def _introduction(
    config: "StudyConfig", evaluator: "Evaluator", ranking: "Standing", schedule: "Schedule", at_once: int
) -> list[str]:
    """What a study is, how far its order can be trusted, and what is left out or stands idle."""
    said = [
        f"study {config.name}: mIoU by {evaluator.fidelity} on {config.evaluator.dataset}, "
        f"latency by table {config.latency.table}",
        ranking.notice,
    ]
    said += [f"warning: {notice}" for notice in schedule.notices]
    if (there := config.search_space().size) < config.search.trials:
        said.append(f"note: the space holds {there} candidates; the study ends before {config.search.trials} trials.")
    size = config.search.batch_size
    if at_once > size and not config.search.asynchronous:
        said.append(
            f"note: a batch of {size} keeps no more of the {at_once} workers busy; raise search.batch_size, or set "
            "search.asynchronous = true."
        )
    return said


@app.command()
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
    """The Pareto front of a study, or the best architecture under a latency budget."""
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
    console.print(_front_table(view))
    for note in view.notes:
        console.print(note, highlight=False)
    asked = "" if latency_max is None else f" --latency-max {latency_max}"
    _tell_of_confirmations(view.study, "front", study, asked, storage)
    for made in (plot, csv):
        if made is not None:
            console.print(f"written: {made}")


def _tell_of_confirmations(study: "Study", command: str, what: str, options: str, storage: str) -> None:
    """Where another fidelity, better than the one shown, has ranked some of a study's trials."""
    for rung in study.further[-1:]:
        console_of(stderr=True).print(
            f"note: by {study.fidelity}; {rung.label} has ranked the best again, maybe otherwise: topformer-nas "
            f"{command} {what}{options} --fidelity '{rung.label}'{storage_flag(storage)}",
            highlight=False,
        )


app.command()(describe)


@app.command()
def export(
    arch: Arch,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file and its card.")],
    weights: Annotated[
        Path | None, typer.Option(help="Our safetensors file or a released segmentation checkpoint.")
    ] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Export an untrained network.")] = False,
    retrain: Annotated[bool, typer.Option(help="Train a trial again whose weights were not kept.")] = False,
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="What the graph returns: logits, resized or labels.")] = "logits",
    table: Annotated[str | None, typer.Option(help="Latency table for the card. [default: the study's]")] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(help="For STUDY#TRIAL and STUDY@50ms: of a [[confirm]] of the study. [default: its own]"),
    ] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Export an architecture as one ONNX file, proven equal to the network, with a JSON card beside it."""
    from experiments.export.onnx import export as write
    from experiments.export.weights import network_of
    from experiments.front.lookup import chosen, task_of
    from experiments.latency.plan import rows_named
    from latency_lut.table import find_table
    from topformer.weights import class_count

    found = chosen(arch, storage=storage, fidelity=fidelity)
    if classes is None and weights is not None and not (random_weights or retrain):
        classes = class_count(weights)
    task = task_of(found, size, classes, output=output)
    prices = find_table(table) if table else None
    with rows_named(arch, task):
        model, provenance = network_of(
            found, task, weights=weights, random_weights=random_weights, retrain=retrain, storage=storage, table=prices
        )
    result = write(model, task, out, name=found.label, provenance=provenance)
    content = {
        "onnx_path": str(result.onnx_path),
        "card_path": str(result.card_path),
        "max_abs_error": result.max_abs_error,
        "opset": result.opset,
    }
    if as_json:
        print_json(content)
        return
    print(f"{result.onnx_path}: opset {result.opset}, onnxruntime equals torch within {result.max_abs_error:.2g}")
    latency = "no latency (name a table with --table)" if provenance.latency is None else "latency"
    print(f"{result.card_path}: architecture, weights ({provenance.weights}), {latency} and checksums")
    if found.study is not None:
        _tell_of_confirmations(found.study, "export", arch, f" --out {out}", storage)


@app.command()
def dashboard(
    storage: Storage = DEFAULT_URL,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
) -> None:
    """Browse the Pareto front of every study in the browser."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise UserError(f"port {port} cannot be used, another program has it; choose one with --port.") from None
    command = [sys.executable, "-m", "dashboard", "--port", str(port), *(["--headless"] if headless else [])]
    os.execve(sys.executable, command, {**os.environ, "TOPFORMER_NAS_STORAGE": storage})  # signals reach it


@app.command()
def doctor(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """What this installation has: versions, machine, store, tables."""
    from experiments.views.installation import diagnose

    findings = diagnose(storage)
    if as_json:
        print_json(findings)
        return
    for topic, facts in findings.items():
        print(topic)
        for name, value in facts.items():
            print(f"  {name:22s} {value}")


def _front_table(view: "FrontView") -> "Table":
    from rich.table import Table

    from experiments.latency.plan import pixels
    from experiments.views.front import margin_text

    table = Table(title=f"study {view.study.name}")
    for column in ("trial", "mIoU %", "latency ms", "90 % interval", "anchor", "on front", "image", "architecture"):
        justify: Literal["left", "right"] = "right" if column in ("trial", "mIoU %", "latency ms") else "left"
        table.add_column(column, justify=justify, overflow="fold")
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
            pixels(trial.candidate.task),
            trial.candidate.arch.key,
        )
    return table


def _settled(trial: "Trial") -> str:
    name = f"trial {trial.number}{f' ({trial.anchor})' if trial.anchor else ''}"
    latency = trial.latency
    priced = f"{latency.total_ms:.2f} ms ({latency.low_ms:.2f} to {latency.high_ms:.2f}, {latency.kind})"
    if trial.miou_pct is None:
        return f"{name}: failed, {trial.record.reason if trial.record else 'no record'}; {priced}"
    source = "from the store" if trial.from_cache else f"{trial.record.seconds:.0f} s" if trial.record else ""
    return f"{name}: mIoU {trial.miou_pct:.2f} %, {priced}, {source}"

"""The `topformer-nas` command: parse, make one call, print. Heavy imports wait until a command needs them."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import DEFAULT_URL
from topformer.config import Task, parse_image_size
from topformer.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.lookup import Chosen
    from experiments.store import Study, Trial
    from latency_lut.table import LatencyEstimate, LatencyTable

STOPPED = 130

app = typer.Typer(
    name="topformer-nas",
    help="Given a phone core and a latency budget: find, prove and export the TopFormer with the best mIoU.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
latency = typer.Typer(help="Query, measure and list latency tables.", no_args_is_help=True)
study_commands = typer.Typer(help="List what the store holds.", no_args_is_help=True)
app.add_typer(latency, name="latency")
app.add_typer(study_commands, name="study")

Arch = Annotated[
    str,
    typer.Argument(
        metavar="ARCH", help="tiny, small, base, a JSON file, STUDY#TRIAL or STUDY@50ms (the best under a budget)."
    ),
]
Storage = Annotated[str, typer.Option("--storage", envvar="TOPFORMER_NAS_STORAGE", help="Database URL of the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Size = Annotated[str | None, typer.Option("--size", help="Image size in px: 512, or 512x1024 (height x width).")]
Classes = Annotated[int | None, typer.Option("--classes", help="Number of classes.")]


def main() -> None:
    """Run the command line; a mistake of the user's is one sentence on standard error and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        sentence = error.format_message()
        if sentence.startswith("Usage:"):  # a command group without a command
            print(sentence)
            sys.exit(2)
        _fail(f"{sentence} See topformer-nas --help.")
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(
            f"{error.strerror or error}{f': {str(error.filename)[:200]}' if error.filename else ''}; nothing is lost."
        )
    except MemoryError:
        _fail("out of memory; choose a smaller network or image, or fewer workers.")
    if code == STOPPED:
        print("stopped; the same command goes on from here.", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(_number: int, _frame: object) -> None:
    """A polite end is an end by Ctrl-C."""
    raise KeyboardInterrupt


def _fail(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"topformer-nas {installed('topformer-nas')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def search(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's TOML file, or the name of one that comes with the tool.")
    ],
    storage: Storage = DEFAULT_URL,
    workers: Annotated[int, typer.Option(help="Processes that evaluate, one thread each. [default: all cores]")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a search study, or go on where it was interrupted."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from experiments.pareto import UNTESTED
    from experiments.store import Store
    from experiments.study import Event, StudyConfig, require_rows, run_study
    from latency_lut.table import find_table
    from search_space import require_anchors

    config = StudyConfig.load(study)
    evaluator = config.build_evaluator()
    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    if not Store.exists(storage):  # what would be refused anyway makes no database
        require_anchors(config.search_space(), config.search.anchors)
        require_rows(config, find_table(config.latency.table))
    console = _console(stderr=True)
    console.print(
        f"study {config.name}: mIoU by {evaluator.fidelity} on {config.evaluator.dataset} "
        f"(ranking {UNTESTED}: no trust report), latency by table {config.latency.table}"
    )
    with (
        Store.open(storage, create=True) as store,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        ) as progress,
    ):
        bar = progress.add_task("evaluating", total=config.search.trials)

        def report(event: Event) -> None:
            progress.update(bar, completed=event.done, total=event.total)
            if event.trial is not None:
                progress.console.print(_settled(event.trial), highlight=False)
            if event.note:
                progress.console.print(event.note)

        result = run_study(config, store, evaluator=evaluator, workers=workers or os.cpu_count() or 1, report=report)
        statistics = store.batches(config.name)
    summary = {
        "study": result.name,
        "trials": len(result.trials),
        "trained": result.trained,
        "cached": result.cached,
        "failed": sum(trial.state == "failed" for trial in result.trials),
        "proposals_asked": sum(s.asked for s in statistics),
        "invalid_dropped": sum(s.invalid for s in statistics),
        "over_budget_dropped": sum(s.over_budget for s in statistics),
        "duplicates_dropped": sum(s.duplicates for s in statistics),
        "front": [trial.number for trial in result.front],
    }
    if as_json:
        _print_json(summary)
        return
    if not result.trained and not result.cached:
        console.print(f"study {result.name} is done: {len(result.trials)} trials, nothing left to evaluate.")
    else:
        console.print(f"{result.trained} trained, {result.cached} from the store, {summary['failed']} failed.")
        console.print(
            f"Before training, of {summary['proposals_asked']} proposals {summary['over_budget_dropped']} were dropped "
            f"as over the budget, {summary['invalid_dropped']} as beyond the proxy, {summary['duplicates_dropped']} as "
            "known."
        )
    print(f"see the front with: topformer-nas front {result.name}{_storage_flag(storage)}")


@app.command()
def front(
    study: Annotated[str, typer.Argument(metavar="STUDY")],
    storage: Storage = DEFAULT_URL,
    every: Annotated[bool, typer.Option("--all", help="List every evaluation, not only the front.")] = False,
    latency_max: Annotated[
        str | None, typer.Option(metavar="MS", help="Only the best point within this budget, or an anchor's latency.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the front to a .png, .svg or .pdf file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The Pareto front of a study, or the best architecture under a latency budget."""
    from experiments import pareto
    from experiments.store import Store

    if every and latency_max is not None:
        raise UserError("--all lists every evaluation and --latency-max picks one: give only one of them.")
    with Store.open(storage, read_only=True) as store:
        found = store.study(study)
        trials = store.trials(study)
    budget = None if latency_max is None else pareto.budget_ms(latency_max, trials, fidelity=found.fidelity)
    members = pareto.front(trials, fidelity=found.fidelity)
    if budget is not None:
        shown: tuple[Trial, ...] = (pareto.best_under(trials, budget, fidelity=found.fidelity),)
    else:
        shown = tuple(t for t in trials if t.state != "proposed") if every else members
    if plot is not None:
        from experiments.figures import draw_front

        draw_front(found, trials, plot, latency_max_ms=budget)
    table = found.table
    rows = [_row(table, trial) for trial in shown]
    if latency_max is not None:
        rows[0]["nearest_anchor"] = _against_anchor(shown[0], trials, found)
    if as_json:
        _print_json(rows)
        return
    console = _console()
    console.print(_front_table(found, rows, [t.number for t in members]))
    console.print(
        f"mIoU by {found.fidelity}; ranking {pareto.UNTESTED}: no trust report says how far its order can be believed. "
        f"Latency {table.kind}; {table.interval_note}."
    )
    if latency_max is not None and (anchor := rows[0]["nearest_anchor"]):
        console.print(
            f"nearest anchor {anchor['anchor']}: {anchor['miou_difference_pct']:+.2f} % mIoU, "
            f"{anchor['latency_difference_ms']:+.2f} ms for the chosen architecture."
        )
    if plot is not None:
        console.print(f"drawn: {plot}")


@app.command()
def describe(
    arch: Arch,
    size: Size = None,
    classes: Classes = None,
    classification: Annotated[bool, typer.Option(help="The ImageNet variant.")] = False,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Parameters and multiply-adds of an architecture, whole and per block."""
    from evaluators.cost import costs
    from experiments.lookup import chosen
    from topformer.blocks import decompose
    from topformer.config import anchor_name
    from topformer.published import published_figures

    found = chosen(arch, storage=storage)
    task = _task(found, size, classes, classification=classification)
    counted = costs(found.arch, task)
    blocks = decompose(found.arch, task)
    content: dict[str, Any] = {
        "key": found.arch.key,
        "anchor": anchor_name(found.arch),
        "params": counted.params,
        "params_by_module": dict(counted.params_by_module),
        "macs_g": counted.macs_g,
        "fvcore_g": counted.fvcore_g,
        "fvcore_unsupported_operators": dict(counted.unsupported_operators),
        "image_size": list(task.image_size),
        "num_classes": task.num_classes,
        "task": task.as_dict(),
        "published": None
        if classification
        else published_figures(anchor_name(found.arch), task.image_size, task.num_classes),
        "architecture": found.arch.as_dict(),
        "blocks": [
            {"name": b.name, "kind": b.kind, "output": list(b.output), "params": b.parameters, "macs": b.macs}
            for b in blocks
        ],
    }
    if as_json:
        _print_json(content)
        return
    from rich.table import Table

    table = Table(title=f"{found.label} ({found.arch.key}), {_pixels(task)} px, {task.num_classes} classes")
    for column in ("block", "kind", "output C x H x W", "parameters", "MMACs"):
        table.add_column(column, justify="left" if column in ("block", "kind") else "right")
    for block in blocks:
        shape = " x ".join(map(str, block.output))
        table.add_row(block.name, block.kind, shape, f"{block.parameters:,}", f"{block.macs / 1e6:,.2f}")
    console = _console()
    console.print(table)
    for module, count in counted.params_by_module.items():
        console.print(f"{module:20s} {count:>12,} parameters", highlight=False)
    console.print(
        f"{counted.params:,} parameters; {counted.macs_g:.4f} G multiply-adds of convolutions and matrix products; "
        f"{counted.fvcore_g:.4f} G by fvcore (the paper's FLOPs), which leaves out: "
        f"{', '.join(f'{n} x {op}' for op, n in counted.unsupported_operators.items()) or 'nothing'}."
    )
    if published := content["published"]:
        console.print(
            f"published: {published['params_m']} M parameters, {published['flops_g']} G, "
            f"mIoU {published['miou_pct']} % on ADE20K val, {published['latency_ms']} ms "
            f"({published['latency_protocol']}); {published['source']}."
        )


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
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Export an architecture as one ONNX file, proven equal to the network, with a JSON card beside it."""
    from experiments.export import export as write
    from experiments.lookup import chosen
    from experiments.trained import network_of
    from latency_lut.table import find_table

    found = chosen(arch, storage=storage)
    task = _task(found, size, classes, output=output)
    prices = find_table(table) if table else None
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
        _print_json(content)
        return
    print(f"{result.onnx_path}: opset {result.opset}, onnxruntime equals torch within {result.max_abs_error:.2g}")
    print(f"{result.card_path}: architecture, weights ({provenance.weights}), latency and checksums")


@app.command()
def dashboard(
    storage: Storage = DEFAULT_URL,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
) -> None:
    """Browse the Pareto front of every study in the browser."""
    import socket

    import dashboard.app

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise UserError(f"port {port} cannot be used, another program has it; choose one with --port.") from None
    command = [sys.executable, "-m", "streamlit", "run", str(Path(dashboard.app.__file__))]
    command += [f"--server.port={port}", f"--server.headless={str(headless).lower()}", "--server.address=127.0.0.1"]
    command += ["--browser.gatherUsageStats=false"]
    os.execve(sys.executable, command, {**os.environ, "TOPFORMER_NAS_STORAGE": storage})  # signals reach it


@app.command()
def doctor(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """What this installation has: versions, machine, store, tables."""
    from experiments.doctor import diagnose

    findings = diagnose(storage)
    if as_json:
        _print_json(findings)
        return
    for topic, facts in findings.items():
        print(topic)
        for name, value in facts.items():
            print(f"  {name:22s} {value}")


@study_commands.command("delete")
def study_delete(
    study: Annotated[str, typer.Argument(metavar="STUDY")], storage: Storage = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Forget a study; its evaluations stay in the store, so nothing would be trained twice."""
    from experiments.store import Store

    with Store.open(storage) as store:
        trials = len(store.trials(study))
        store.delete_study(study)
    if as_json:
        _print_json({"study": study, "trials": trials})
        return
    print(f"study {study} with {trials} trials is forgotten; its evaluations are kept.")


@study_commands.command("list")
def study_list(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """The studies of a store."""
    from experiments.store import Store

    with Store.open(storage, read_only=True) as store:
        rows = [
            {
                "study": study.name,
                "trials": len(trials := store.trials(study.name)),
                "complete": sum(trial.state == "complete" for trial in trials),
                "failed": sum(trial.state == "failed" for trial in trials),
                "wanted": study.config["search"]["trials"],
                "fidelity": study.fidelity,
                "table": study.table.header.name,
                "created": study.created,
                "finished": study.finished,
            }
            for study in store.studies()
        ]
    if as_json:
        _print_json(rows)
        return
    _print_rows(rows, "studies")


@latency.command("query")
def latency_query(
    arch: Arch,
    table: Annotated[
        str | None, typer.Option(help="Name or path of a table. [default: host, or the trial's own]")
    ] = None,
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="logits, resized or labels: what the timed graph returns.")] = "logits",
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Latency of an architecture from a table: total with interval, per block, coverage, provenance."""
    from experiments.lookup import chosen
    from latency_lut.table import find_table
    from topformer.blocks import decompose
    from topformer.config import anchor_name
    from topformer.published import published_figures

    found = chosen(arch, storage=storage)
    task = _task(found, size, classes, output=output)
    prices = found.study.table if found.study and not table else find_table(table or "host")
    blocks = decompose(found.arch, task)
    estimate = prices.estimate(blocks)
    published = published_figures(anchor_name(found.arch), task.image_size, task.num_classes)
    by_module = _ms_by_module(estimate)
    if as_json:
        _print_json(
            {
                "arch_key": found.arch.key,
                "task": task.as_dict(),
                "total_ms": estimate.total_ms,
                "low_ms": estimate.low_ms,
                "high_ms": estimate.high_ms,
                "kind": estimate.kind,
                "by_block": [{"block": name, "ms": ms} for name, ms in estimate.by_block],
                "by_module_ms": by_module,
                "published": published,
                "interval": estimate.interval_note,
                "coverage": prices.coverage(blocks),
                "validated": prices.validated,
                "table": prices.header.name,
                "table_checksum": prices.checksum,
            }
        )
        return
    _print_estimate(found, task, prices, estimate)
    for module, ms in by_module.items():
        print(f"  {module:20s} {ms:9.3f} ms {100 * ms / estimate.total_ms:5.1f} %")
    if published:
        print(f"published: {published['latency_ms']} ms ({published['latency_protocol']}); {published['source']}")


def _ms_by_module(estimate: "LatencyEstimate") -> dict[str, float]:
    from topformer.blocks import MODULES

    shares = {module: sum(ms for name, ms in estimate.by_block if name.split(".")[0] == module) for module in MODULES}
    return {module: ms for module, ms in shares.items() if ms}


def _print_estimate(found: "Chosen", task: Task, prices: "LatencyTable", estimate: "LatencyEstimate") -> None:
    longest = max(ms for _, ms in estimate.by_block)
    for name, ms in estimate.by_block:
        print(f"{name:30s} {ms:9.3f} ms {100 * ms / estimate.total_ms:5.1f} %  {'#' * round(30 * ms / longest)}")
    print(
        f"{found.label} at {_pixels(task)} px, {task.num_classes} classes, output {task.output}: "
        f"{estimate.total_ms:.2f} ms ({estimate.low_ms:.2f} to {estimate.high_ms:.2f}), {estimate.kind}; "
        f"{estimate.interval_note}"
    )
    header = prices.header
    print(
        f"table {header.name}: {header.soc}, core {header.core}, {header.threads} thread, {header.precision}, "
        f"{header.runtime} {header.runtime_version}, {header.date}; coverage 100 %"
    )


@latency.command("measure")
def latency_measure(
    device: Annotated[str, typer.Option(help="Where to time: host, this machine.")] = "host",
    runtime: Annotated[str, typer.Option(help="What runs the network: onnxruntime.")] = "onnxruntime",
    study: Annotated[str | None, typer.Option(help="What this study needs: a TOML file or a shipped name.")] = None,
    space: Annotated[str | None, typer.Option(help="Every block of this search space: quickstart or pyramid.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="The blocks of this ARCH; may be given again.")] = None,
    size: Size = None,
    classes: Annotated[list[int] | None, typer.Option(help="Number of classes; may be given again.")] = None,
    out: Annotated[str, typer.Option("--out", "--table", help="Name of the table, or a path ending in .lut.")] = "host",
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Time every block that a study, a space or the anchors need; resumes, and adds only the missing rows."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from experiments.lookup import chosen
    from experiments.measurement import measure, plan, table_path
    from latency_lut.devices import device_named
    from latency_lut.runtimes import runtime_named

    where, how = device_named(device), runtime_named(runtime)
    archs = tuple(chosen(text, storage=storage).arch for text in arch or ())
    wanted = plan(study=study, space=space, archs=archs, size=size, classes=tuple(classes or ()))
    table_path(out)  # an illegal name is found before anything is timed
    console = _console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bar = progress.add_task("preparing", total=None)

        def report(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=what)

        table = measure(wanted, device=where, runtime=how, out=out, report=report)
    header = table.header
    content = {
        "table": header.name,
        "path": str(table_path(out)),
        "rows": len(table.rows),
        "kind": table.kind,
        "soc": header.soc,
        "validation": [
            {
                "network": check.name,
                "whole_ms": check.whole_ms,
                "repeat_ms": check.repeat_ms,
                "sum_ms": check.sum_ms,
                "error_pct": check.scaled_error_pct(header.error_model.scale),
                "noise_pct": check.noise_pct,
            }
            for check in header.validation
        ],
        "scale": header.error_model.scale,
        "interval": table.interval_note,
    }
    if as_json:
        _print_json(content)
        return
    scale = header.error_model.scale
    for check in header.validation:
        print(
            f"{check.name:8s} whole {check.whole_ms:8.2f} ms, again {check.repeat_ms:8.2f} ms; "
            f"table {scale * check.sum_ms:8.2f} ms ({check.scaled_error_pct(scale):+.1f} %)"
        )
    print(f"{content['path']}: {len(table.rows)} rows on {header.soc}, core {header.core}")


@latency.command("tables")
def latency_tables(as_json: AsJson = False) -> None:
    """The latency tables at hand."""
    from latency_lut.table import available_tables, find_table

    rows = []
    for path in available_tables():
        try:
            table = find_table(path)
        except UserError as error:  # one damaged file does not hide the others
            print(f"left out: {error}", file=sys.stderr)
            continue
        rows.append(
            {
                "table": path.stem,
                "kind": table.kind,
                "device": table.header.device,
                "soc": table.header.soc,
                "runtime": table.header.runtime,
                "rows": len(table.rows),
                "validated": table.validated,
                "date": table.header.date,
                "path": str(path),
            }
        )
    if as_json:
        _print_json(rows)
        return
    _print_rows(rows, "latency tables")


def _task(
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


def _row(table: "LatencyTable", trial: "Trial") -> dict[str, Any]:
    from experiments.pareto import UNTESTED

    record = trial.record
    assert record is not None, "only settled trials are listed"
    return {
        "trial": trial.number,
        "arch_key": trial.candidate.arch.key,
        "miou_pct": trial.miou_pct,
        "fidelity": record.fidelity,
        "replicate": record.replicate,
        "latency_ms": trial.latency.total_ms,
        "latency_low_ms": trial.latency.low_ms,
        "latency_high_ms": trial.latency.high_ms,
        "latency_kind": trial.latency.kind,
        "table": table.name,
        "ranking_trust": UNTESTED,
        "anchor": trial.anchor,
        "status": trial.state,
        "reason": record.reason,
        "origin": trial.origin,
        "seconds": record.seconds,
        "architecture": trial.candidate.arch.as_dict(),
        "task": trial.candidate.task.as_dict(),
    }


def _against_anchor(trial: "Trial", trials: "tuple[Trial, ...]", study: "Study") -> dict[str, Any] | None:
    from experiments.pareto import nearest_anchor

    anchor = nearest_anchor(trial, trials, fidelity=study.fidelity)
    if anchor is None:
        return None
    assert trial.miou_pct is not None
    assert anchor.miou_pct is not None
    return {
        "anchor": anchor.anchor,
        "miou_difference_pct": trial.miou_pct - anchor.miou_pct,
        "latency_difference_ms": trial.latency.total_ms - anchor.latency.total_ms,
    }


def _front_table(study: "Study", rows: list[dict[str, Any]], front_numbers: list[int]) -> "Table":
    from rich.table import Table

    table = Table(title=f"study {study.name}")
    for column in ("trial", "mIoU %", "latency ms", "90 % interval", "anchor", "front", "architecture"):
        table.add_column(column, justify="right" if column in ("trial", "mIoU %", "latency ms") else "left")
    for row in rows:
        table.add_row(
            str(row["trial"]),
            "failed" if row["miou_pct"] is None else f"{row['miou_pct']:.2f}",
            f"{row['latency_ms']:.2f}",
            f"{row['latency_low_ms']:.2f} to {row['latency_high_ms']:.2f}",
            row["anchor"] or "",
            "*" if row["trial"] in front_numbers else "",
            row["arch_key"],
        )
    return table


def _settled(trial: "Trial") -> str:
    name = f"trial {trial.number}{f' ({trial.anchor})' if trial.anchor else ''}"
    priced = f"{trial.latency.total_ms:.2f} ms"
    if trial.miou_pct is None:
        return f"{name}: failed, {trial.record.reason if trial.record else 'no record'}; {priced}"
    source = "from the store" if trial.from_cache else f"{trial.record.seconds:.0f} s" if trial.record else ""
    return f"{name}: mIoU {trial.miou_pct:.2f} %, {priced}, {source}"


def _print_rows(rows: list[dict[str, Any]], title: str) -> None:
    from rich.table import Table

    table = Table(title=title)
    for column in rows[0] if rows else ("nothing yet",):
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    _console().print(table)


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, soft_wrap=True, width=None if stream.isatty() else 160, markup=False
    )  # a pipe has no width


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2))


def _pixels(task: Task) -> str:
    return "x".join(map(str, task.image_size))


def _storage_flag(storage: str) -> str:
    return "" if storage == DEFAULT_URL else f" --storage {storage}"

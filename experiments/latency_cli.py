"""The `topformer-nas latency` commands: parse, make one call, print."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.terminal import (
    Arch,
    AsJson,
    Classes,
    Size,
    Storage,
    console_of,
    pixels,
    print_json,
    print_rows,
    task_of,
)
from topformer.config import Task
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.lookup import Chosen
    from latency_lut.table import LatencyEstimate, LatencyTable, TableHeader

latency = typer.Typer(help="Query, measure and list latency tables.", no_args_is_help=True)


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
    task = task_of(found, size, classes, output=output)
    prices = found.study.table if found.study and not table else find_table(table or "host")
    blocks = decompose(found.arch, task)
    estimate = prices.estimate(blocks)
    published = published_figures(anchor_name(found.arch), task.image_size, task.num_classes)
    by_module = _ms_by_module(estimate)
    if as_json:
        print_json(
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
        f"{found.label} at {pixels(task)} px, {task.num_classes} classes, output {task.output}: "
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
    device: Annotated[
        str,
        typer.Option(
            help="Where to time: host, this machine; ssh://[USER@]HOST[:PORT], a 64-bit Arm machine; adb:SERIAL, a "
            "phone as adb devices lists it (adb: alone, the only one)."
        ),
    ] = "host",
    runtime: Annotated[
        str, typer.Option(help="What runs the network: onnxruntime, on the host; ncnn, on ssh:// and adb: devices.")
    ] = "onnxruntime",
    core: Annotated[
        int | None, typer.Option(help="Number of the core of an ssh:// or adb: device. [default: the fastest]")
    ] = None,
    soc: Annotated[
        str | None,
        typer.Option(help="What the SoC of an ssh:// or adb: device is called. [default: what the device says]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="What this study needs: a TOML file or a shipped name.")] = None,
    space: Annotated[str | None, typer.Option(help="Every block of this search space: quickstart or pyramid.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="The blocks of this ARCH; may be given again.")] = None,
    size: Size = None,
    classes: Annotated[list[int] | None, typer.Option(help="Number of classes; may be given again.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "--table", help="Name of the table, or a path ending in .lut. [default: host, on the host]"
        ),
    ] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Time every block that a study, a space or the anchors need; resumes, and adds only the missing rows.

    Stopped at any moment, or where the connection to a device breaks, the same command goes on where it was.
    """
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

    where, how = device_named(device, core=core, soc=soc), runtime_named(runtime)
    if out is None and device != "host":
        raise UserError(f"a table of {device} needs a name: choose one with --table.")
    name = out or "host"
    table_path(name)  # an illegal name is found before anything is timed
    where.require(how.info())
    archs = tuple(chosen(text, storage=storage).arch for text in arch or ())
    wanted = plan(study=study, space=space, archs=archs, size=size, classes=tuple(classes or ()))
    console = console_of(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bar = progress.add_task("preparing", total=None)

        def report(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=what)

        table = measure(wanted, device=where, runtime=how, out=name, report=report)
    header = table.header
    content = {
        "table": header.name,
        "path": str(table_path(name)),
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
        print_json(content)
        return
    for line in check_lines(header):
        print(line)
    print(f"{content['path']}: {len(table.rows)} rows on {header.soc}, core {header.core}")


def check_lines(header: "TableHeader") -> list[str]:
    """Whole networks beside the table's sums."""
    scale = header.error_model.scale
    lines = []
    for check in header.validation:
        again = "" if check.repeat_ms is None else f" again {check.repeat_ms:8.2f} ms;"
        table_ms, error_pct = scale * check.sum_ms, check.scaled_error_pct(scale)
        lines.append(
            f"{check.name:12s} whole {check.whole_ms:8.2f} ms;{again} table {table_ms:8.2f} ms ({error_pct:+.1f} %)"
        )
    return lines


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
        print_json(rows)
        return
    print_rows(rows, "latency tables")

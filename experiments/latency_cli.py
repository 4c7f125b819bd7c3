"""The `topformer-nas latency` commands: parse, make one call, print."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.terminal import (
    Arch,
    AsJson,
    Classes,
    Size,
    Storage,
    pixels,
    print_json,
    print_rows,
    progress_bar,
    task_of,
)
from topformer.config import Task
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.lookup import Chosen
    from latency_lut.table import LatencyEstimate, LatencyTable, NetworkCheck, TableHeader
    from latency_lut.validation import Agreement

latency = typer.Typer(help="Query, measure, validate and list latency tables.", no_args_is_help=True)


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
    from dataclasses import asdict

    from experiments.lookup import chosen
    from experiments.measurement import measure, plan, table_path
    from latency_lut.devices import device_named
    from latency_lut.runtimes import runtime_named
    from latency_lut.validation import stored_agreement

    where, how = device_named(device), runtime_named(runtime)
    archs = tuple(chosen(text, storage=storage).arch for text in arch or ())
    wanted = plan(study=study, space=space, archs=archs, size=size, classes=tuple(classes or ()))
    table_path(out)  # an illegal name is found before anything is timed
    with progress_bar() as report:
        table = measure(wanted, device=where, runtime=how, out=out, report=report)
    header = table.header
    found = stored_agreement(header)
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
                "unseen_ms": check.unseen_ms,
            }
            for check in header.validation
        ],
        "agreement": asdict(found) if found else None,
        "contradictions": header.protocol.get("contradictions"),
        "correction": asdict(header.error_model.correction),
        "scale": header.error_model.scale,
        "interval": table.interval_note,
    }
    if as_json:
        print_json(content)
        return
    for line in (*check_lines(header), *(_agreement_lines(found) if found else ())):
        print(line)
    print(f"{content['path']}: {len(table.rows)} rows on {header.soc}, core {header.core}")


def check_lines(header: "TableHeader") -> list[str]:
    """Whole networks beside the table's sums."""
    scale = header.error_model.scale
    lines = []
    for check in header.validation:
        again = "" if check.repeat_ms is None else f" again {check.repeat_ms:8.2f} ms;"
        table_ms, error_pct = scale * check.sum_ms, check.scaled_error_pct(scale)
        unseen = ""
        if check.unseen_ms is not None:
            unseen = f"; unseen {100 * (check.unseen_ms / check.reference_ms - 1):+.1f} %"
        whole = f"{check.name:28s} whole {check.whole_ms:8.2f} ms;{again}"
        lines.append(f"{whole} table {table_ms:8.2f} ms ({error_pct:+.1f} %{unseen})")
    return lines


@latency.command("validate")
def latency_validate(
    table: Annotated[str, typer.Option(help="Name or path of a table.")] = "host",
    networks: Annotated[
        int | None, typer.Option(help="Time so many random networks on the table's device now.", show_default=False)
    ] = None,
    space: Annotated[str | None, typer.Option(help="Where they are drawn from: quickstart or pyramid.")] = None,
    study: Annotated[str | None, typer.Option(help="Likewise, the space of this study.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which ones are drawn. [default: 1]")] = None,
    size: Size = None,
    classes: Classes = None,
    plot: Annotated[Path | None, typer.Option(help="Draw predicted against measured into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far a table's sums are from whole networks: its own report, or networks timed now."""
    from dataclasses import asdict

    from latency_lut.table import find_table
    from latency_lut.validation import agreement, contradictions, predicted_ms

    prices = find_table(table)
    header = prices.header
    checks = header.validation
    if networks is not None:
        checks = _timed_now(prices, networks, space=space, study=study, seed=seed, size=size, classes=classes)
    elif any(given is not None for given in (space, study, seed, size, classes)):
        raise UserError(
            "--space, --study, --seed, --size and --classes say which networks to time: give --networks too."
        )
    predictions = [predicted_ms(check, header.error_model) for check in checks]
    found = agreement(checks, predictions) if checks else None
    if plot is not None:
        if not checks:
            raise UserError(f"table {header.name} was compared with no network: there is nothing to draw.")
        from experiments.figures import draw_agreement

        measured = [check.reference_ms for check in checks]
        draw_agreement(f"table {header.name}: {len(checks)} networks", measured, predictions, plot)
    contradicting = contradictions(prices.rows.values())
    content = {
        "table": header.name,
        "kind": prices.kind,
        "validated": prices.validated,
        "timed_now": networks is not None,
        "networks": [
            {
                "network": check.name,
                "whole_ms": check.whole_ms,
                "repeat_ms": check.repeat_ms,
                "predicted_ms": ms,
                "error_pct": 100 * (ms / check.reference_ms - 1),
                "noise_pct": check.noise_pct,
            }
            for check, ms in zip(checks, predictions, strict=True)
        ],
        "agreement": asdict(found) if found else None,
        "error_model": asdict(header.error_model),
        "interval": prices.interval_note,
        "contradictions": [each._asdict() for each in contradicting],
        "source": header.source,
        "protocol": dict(header.protocol),
        "date": header.date,
        "tool_version": header.tool_version,
    }
    if as_json:
        print_json(content)
        return
    for check, ms in zip(checks, predictions, strict=True):
        again = "" if check.repeat_ms is None else f" again {check.repeat_ms:8.2f} ms;"
        error_pct = 100 * (ms / check.reference_ms - 1)
        print(f"{check.name:28s} whole {check.whole_ms:8.2f} ms;{again} predicted {ms:8.2f} ms ({error_pct:+.1f} %)")
    if found is None:
        print(f"table {header.name} has no report: its sums were never compared with whole networks.")
    else:
        for line in _agreement_lines(found):
            print(line)
    print(
        f"rows that contradict each other (slower than a larger block, beyond noise): {len(contradicting)} of "
        f"{len(prices.rows)}"
    )
    for each in contradicting[:_SHOWN]:
        print(f"  {each.key} is {each.slower_pct:.0f} % slower than {each.larger_key}")
    if len(contradicting) > _SHOWN:
        print(f"  ... {len(contradicting) - _SHOWN} more with --json")
    print(
        f"table {header.name}, {prices.kind}: {header.soc}, core {header.core}, {header.threads} thread, "
        f"{header.precision}, {header.runtime} {header.runtime_version}, {header.date}; "
        f"drift {header.protocol.get('drift_pct', 'not known')} %; {prices.interval_note}"
    )
    if plot is not None:
        print(f"drawn: {plot}")


_SHOWN = 5


def _agreement_lines(found: "Agreement") -> list[str]:
    lines = [
        f"{found.networks} networks: mean error {found.mean_error_pct:.2f} % (worst {found.worst_error_pct:.1f} %, "
        f"mean with sign {found.bias_pct:+.2f} %, but for a common factor {found.mean_error_scaled_pct:.2f} %), "
        f"{found.share_within_5_pct:.0%} within 5 %, "
        f"{found.share_within_10_pct:.0%} within 10 %"
    ]
    if found.kendall_tau is not None:
        lines[0] += f", Kendall tau {found.kendall_tau:.3f}"
    if found.noise_floor_pct is None:
        lines.append("noise floor not known: the networks were not timed twice")
    else:
        lines.append(f"noise floor {found.noise_floor_pct:.2f} %: the same networks timed twice, interleaved")
    return lines


def _timed_now(
    prices: "LatencyTable",
    networks: int,
    *,
    space: str | None,
    study: str | None,
    seed: int | None,
    size: str | None,
    classes: int | None,
) -> "tuple[NetworkCheck, ...]":
    from experiments.measurement import fresh_checks, spaces_of

    if space is None and study is None:
        raise UserError("--networks needs --space or --study: where the networks are drawn from.")
    (drawn_from,) = spaces_of(study=study, space=space, size=size, classes=() if classes is None else (classes,))
    with progress_bar() as report:
        return fresh_checks(prices, drawn_from, networks=networks, seed=1 if seed is None else seed, report=report)


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

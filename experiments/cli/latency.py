"""The `topformer-nas latency` commands: parse, make one call, print."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli import latency_analysis as analysis
from experiments.cli.terminal import (
    Arch,
    AsJson,
    Classes,
    Size,
    Storage,
    end_if_json,
    print_json,
    print_rows,
    progress_bar,
)
from latency_lut import tables
from topformer.config import Task, parse_image_size
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.views.architecture import PostProcessing, Priced
    from experiments.views.latency_table import Validation
    from experiments.views.onnx_network import EstimatedNetwork
    from latency_lut.table import TableHeader

latency = typer.Typer(help="Query, measure, validate and list latency tables.", no_args_is_help=True)


@latency.command("query")
def latency_query(
    arch: Arch,
    table: Annotated[
        str | None, typer.Option(help="Name or path of a table. [default: the trial's own, or the Snapdragon 865's]")
    ] = None,
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="logits, resized or labels: what the timed graph returns.")] = "logits",
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Latency of an architecture from a table: total with interval, per block, coverage, provenance."""
    from experiments.front.lookup import chosen, table_of, task_of
    from experiments.views.architecture import priced

    found = chosen(arch, storage=storage)
    shown = priced(found, task_of(found, size, classes, output=output), table_of(found, table))
    end_if_json(as_json, shown)
    _print_priced(shown)


def _print_priced(shown: "Priced") -> None:

    estimate, task = shown.estimate, shown.task
    longest = max(ms for _, ms in estimate.by_block)
    for name, ms in estimate.by_block:
        print(f"{name:30s} {ms:9.3f} ms {100 * ms / estimate.total_ms:5.1f} %  {'#' * round(30 * ms / longest)}")
    print(
        f"{shown.chosen.label} at {task.pixels} px, {task.num_classes} classes, output {task.output}: "
        f"{estimate.total_ms:.2f} ms ({estimate.low_ms:.2f} to {estimate.high_ms:.2f}), {estimate.kind}; "
        f"{estimate.interval_note}"
    )
    print(f"table {shown.table.name}: {_provenance(shown.table.header)}; coverage 100 %")
    for module, part in shown.by_module.items():
        print(
            f"  {module:20s} {part.total_ms:9.3f} ms ({part.low_ms:.3f} to {part.high_ms:.3f}) "
            f"{100 * part.total_ms / estimate.total_ms:5.1f} %"
        )
    print(_post_processing_line(shown.post_processing, task))
    if published := shown.published:
        print(f"published: {published['latency_ms']} ms ({published['latency_protocol']}); {published['source']}")
    if shown.note:
        print(f"note: {shown.note}")


def _post_processing_line(part: "PostProcessing", task: Task) -> str:
    share = f"post-processing (output {task.output}): {part.share_pct:.1f} % of the total"
    if task.output == "labels":
        return share
    if part.would_add_ms is None:
        return f"{share}; what --output labels would add is not in the table"
    return (
        f"{share}; --output labels would add {part.would_add_ms:.2f} ms ({part.would_add_low_ms:.2f} to "
        f"{part.would_add_high_ms:.2f})"
    )


def _provenance(header: "TableHeader") -> str:
    return (
        f"{header.soc}, core {header.core}, {header.threads} thread, {header.precision}, "
        f"{header.runtime} {header.runtime_version}, {header.date}"
    )


@latency.command("measure")
def latency_measure(
    device: Annotated[
        str,
        typer.Option(
            help="Where to time: host, this machine; ssh://[USER@]HOST[:PORT], a 64-bit Arm machine; adb:SERIAL, a "
            "phone as adb devices lists it (adb: alone, the only one); qemu counts for the Snapdragon 865's table."
        ),
    ] = "host",
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs the network. [default: onnxruntime on the host, ncnn on ssh:// and adb: devices]"),
    ] = None,
    core: Annotated[
        int | None, typer.Option(help="Number of the core of an ssh:// or adb: device. [default: the fastest]")
    ] = None,
    soc: Annotated[
        str | None,
        typer.Option(help="What the SoC of an ssh:// or adb: device is called. [default: what the device says]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="What this study needs: a TOML file or a shipped name.")] = None,
    space: Annotated[str | None, typer.Option(help="Every block of this search space: quickstart or pyramid.")] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="The blocks of this ARCH, besides the anchors'; may be given again.")
    ] = None,
    size: Size = None,
    classes: Annotated[list[int] | None, typer.Option(help="Number of classes; may be given again.")] = None,
    output: Annotated[
        str | None, typer.Option(help="resized or labels: with rows for what follows the logits. [default: logits]")
    ] = None,
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

    Stopped at any moment, or where the connection to a device breaks, the same command goes on where it was. On qemu
    blocks are counted instead: the shipped Snapdragon 865 table with the rows that it lacks, estimated.
    """
    from experiments.front.lookup import chosen
    from experiments.latency.plan import make_table
    from experiments.views.latency_table import validated

    with progress_bar() as report:
        table, path = make_table(
            device=device,
            runtime=runtime,
            core=core,
            soc=soc,
            study=study,
            space=space,
            archs=tuple(chosen(text, storage=storage).arch for text in arch or ()),
            size=size,
            classes=tuple(classes or ()),
            output=output,  # type: ignore[arg-type]  # checked by Task
            out=out,
            say=lambda sentence: print(sentence, file=sys.stderr),
            report=report,
        )
    shown = validated(table)
    end_if_json(as_json, shown.measured_dict(path))
    for line in (*_check_lines(shown), *_agreement_lines(shown)):
        print(line)
    print(f"{path}: {len(table.rows)} rows on {table.header.soc}, core {table.header.core}")


def _check_lines(shown: "Validation") -> Iterator[str]:
    """Whole networks beside the table's sums."""
    scale = shown.table.header.error_model.scale
    for check in shown.checks:
        table_ms, error_pct = scale * check.sum_ms, check.scaled_error_pct(scale)
        again = "" if check.repeat_ms is None else f" again {check.repeat_ms:8.2f} ms;"
        unseen = ""
        if check.unseen_ms is not None:
            unseen = f"; unseen {100 * (check.unseen_ms / check.reference_ms - 1):+z.1f} %"
        whole = f"{check.name:28s} whole {check.whole_ms:8.2f} ms;{again}"
        yield f"{whole} table {table_ms:8.2f} ms ({error_pct:+z.1f} %{unseen})"


@latency.command("fit")
def latency_fit(
    write: Annotated[bool, typer.Option("--write", help="Replace the shipped table and report (developers).")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the shipped Snapdragon 865 table again from the shipped counts, and say how well its scale fits."""
    from experiments.latency.shipped import refit, save_refitted

    made = refit()
    if write:
        save_refitted(made)
    content = made.report | {"identical_to_shipped": made.identical}
    end_if_json(as_json, content)
    for anchor in content["anchors"]:
        print(
            f"{anchor['anchor']:6s} {anchor['image_px']} px: published {anchor['published_ms']:g} ms, table "
            f"{anchor['fitted_ms']:.1f} ms ({anchor['error_pct']:+.1f} %), fitted without it "
            f"{anchor['left_out_ms']:.1f} ms ({anchor['left_out_error_pct']:+.1f} %)"
        )
    print(f"scale {content['scale']}; semantics extractor {content['extractor_share_of_tiny_pct']} % of T")
    for what, other in content["alternatives"].items():
        print(
            f"if {what}: {content['random_networks']}: {other['networks_mean_off_pct']:.1f} % off in the mean, "
            f"{other['networks_worst_off_pct']:.1f} at worst, {100 * other['networks_inside_interval']:.0f} % inside "
            f"the interval, Kendall tau {other['networks_kendall_tau']:.3f}"
        )
    verdict = "byte for byte the shipped table and report" if made.identical else "not the shipped table and report"
    print(f"{content['rows']} rows; {verdict}{', which now they are' if write and not made.identical else ''}")
    if not made.identical and not write:
        raise typer.Exit(1)


@latency.command("recount")
def latency_recount(
    out: Annotated[Path, typer.Option(help="File for the counts; the same command goes on where it stopped.")],
    sample: Annotated[int | None, typer.Option(help="Rows to count, drawn at random. [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Count the blocks of the shipped Snapdragon 865 table again, from nothing, and list every difference."""
    from experiments.latency.shipped import recount

    with progress_bar() as report:
        found = recount(out, sample=sample, seed=seed, report=report)
    if as_json:
        print_json({"rows": found.rows, "different": found.different})
    else:
        for key, counts in found.different.items():
            print(f"{key}: " + ", ".join(f"{name} {old} here {new}" for name, (old, new) in counts.items()))
        print(
            f"{found.rows} rows counted again: {found.rows - len(found.different)} the same, {len(found.different)} not"
        )
    if found.different:
        raise typer.Exit(1)


@latency.command("estimate")
def latency_estimate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any network of images, as one ONNX file.")],
    device_model: Annotated[str, typer.Option(help="The core to estimate for: snapdragon865.")] = "snapdragon865",
    size: Size = None,
    as_json: AsJson = False,
) -> None:
    """Latency of any ONNX network on a core that is not at hand, by counting ncnn's Arm kernels under qemu."""
    from experiments.views.onnx_network import estimated

    with progress_bar() as report:
        pixels = parse_image_size(size) if size is not None else None
        shown = estimated(model, device_model=device_model, size=pixels, report=report)
    end_if_json(as_json, shown)
    _print_estimated(shown)


def _print_estimated(shown: "EstimatedNetwork") -> None:
    found, header = shown.found, shown.header
    for row in found.by_operator:
        share_pct = 100 * row.ms / found.total_ms
        said = f"{row.ms:9.3f} ms ({row.low_ms:.3f} to {row.high_ms:.3f})"
        print(f"{row.operator:30s} {row.count:4d} x {said:32s} {share_pct:5.1f} %  {'#' * round(share_pct / 3)}")
    for flag in found.flagged:
        print(f"flagged: {flag.count} x {flag.pattern}, {flag.ms:.2f} ms, may take longer: {flag.reason}")
    for note in found.notes:
        print(f"note: {note}")
    least, most = (
        min(found.rivals_ms, key=found.rivals_ms.__getitem__),
        max(found.rivals_ms, key=found.rivals_ms.__getitem__),
    )
    print(
        f"{len(found.rivals_ms)} other core models that fit the published latencies as well: "
        f"{found.rivals_ms[least]:.2f} ms ({least}) to {found.rivals_ms[most]:.2f} ms ({most})"
    )
    print(
        f"{shown.model} at {'x'.join(map(str, found.input[1:]))} px: {found.total_ms:.2f} ms ({found.low_ms:.2f} to "
        f"{found.high_ms:.2f}), {found.kind}; {shown.interval}"
    )
    print(
        f"device model {shown.device_model} ({header.soc}), scale {header.error_model.scale:.3f} of table "
        f"{header.name}; ncnn {found.source.ncnn}, payload {found.source.payload} (the table's: "
        f"{header.runtime_checksum}), {found.converter}"
    )


@latency.command("validate")
def latency_validate(
    table: Annotated[str, typer.Option(help="Name or path of a table.")] = tables.SNAPDRAGON_865,
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
    from experiments.latency.plan import fresh_checks
    from experiments.views.latency_table import validated
    from latency_lut.table import find_table

    prices = find_table(table)
    checks = None
    if networks is not None:
        with progress_bar() as report:
            checks = fresh_checks(
                prices, networks, study=study, space=space, seed=seed, size=size, classes=classes, report=report
            )
    elif any(given is not None for given in (space, study, seed, size, classes)):
        raise UserError(
            "--space, --study, --seed, --size and --classes say which networks to time: give --networks too."
        )
    shown = validated(prices, checks)
    if plot is not None:
        if not shown.checks:
            raise UserError(f"table {prices.name} was compared with no network: there is nothing to draw.")
        from experiments.reports.figures import draw_agreement

        measured = [check.reference_ms for check in shown.checks]
        draw_agreement(f"table {prices.name}: {len(measured)} networks", measured, shown.predicted_ms, plot)
    end_if_json(as_json, shown)
    _print_validation(shown)
    if plot is not None:
        print(f"drawn: {plot}")


_SHOWN = 5


def _print_validation(shown: "Validation") -> None:
    table, header, contradicting = shown.table, shown.table.header, shown.contradictions
    for line in (*_check_lines(shown), *_agreement_lines(shown)):
        print(line)
    if shown.agreement is None:
        print(f"table {table.name} has no report: its sums were never compared with whole networks.")
    print(
        f"rows that contradict each other (slower than a larger block, beyond noise): {len(contradicting)} of "
        f"{len(table.rows)}"
    )
    for each in contradicting[:_SHOWN]:
        print(f"  {each.key} is {each.slower_pct:.0f} % slower than {each.larger_key}")
    if len(contradicting) > _SHOWN:
        print(f"  ... {len(contradicting) - _SHOWN} more with --json")
    drift = header.protocol.get("drift_pct")
    drifted = "" if drift is None else f"the machine drifted by {drift} % while it was timed; "
    print(f"table {table.name}, {table.kind}: {_provenance(header)}; {drifted}{table.interval_note}")


def _agreement_lines(shown: "Validation") -> Iterator[str]:
    """Nothing where there is no network."""
    if (found := shown.agreement) is None:
        return
    tau = "" if found.kendall_tau is None else f", Kendall tau {found.kendall_tau:.3f}"
    yield (
        f"{found.networks} network{'s' if found.networks > 1 else ''}, {shown.how}: mean error "
        f"{found.mean_error_pct:.2f} % (worst {found.worst_error_pct:.1f} %, mean with sign {found.bias_pct:+z.2f} %, "
        f"but for a common factor {found.mean_error_scaled_pct:.2f} %), {100 * found.share_within_5_pct:.0f} % within "
        f"5 %, {100 * found.share_within_10_pct:.0f} % within 10 %{tau}"
    )
    if found.noise_floor_pct is None:
        yield "noise floor not known: the networks were not timed twice"
    else:
        yield f"noise floor {found.noise_floor_pct:.2f} %: the same networks timed twice, interleaved"


@latency.command("tables")
def latency_tables(as_json: AsJson = False) -> None:
    """The latency tables at hand."""
    from experiments.views.latency_table import tables_at_hand

    listed, left_out = tables_at_hand()
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    rows = [one.as_dict() for one in listed]
    end_if_json(as_json, rows)
    print_rows(rows, "latency tables", columns=("table", "kind", "device", "rows", "validated", "date"))


latency.command(hidden=True)(analysis.doctor)  # its place is `doctor latency`
for command in (analysis.anchor, analysis.diff, analysis.savings, analysis.scan):
    latency.command()(command)

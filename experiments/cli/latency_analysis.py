"""The `topformer-nas latency` commands that compare and explain: anchor, diff, doctor, savings, scan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import (
    Arch,
    AsJson,
    Classes,
    Size,
    Storage,
    end_if_json,
    print_rows,
    progress_bar,
)
from latency_lut import tables

if TYPE_CHECKING:
    from experiments.views.latency_table import Compared
    from experiments.views.what_if import Explained, Savings, Scanned
    from latency_lut.compare import NetworkComparison
    from latency_lut.gap import Cause, Explanation
    from search_space import SearchSpace


def anchor(
    table: Annotated[str, typer.Option(help="Name or path of the table to re-anchor; it stays as it is.")],
    measured: Annotated[
        list[str],
        typer.Option(
            metavar="ARCH[@SIZE]=MS",
            help="A whole network's time on your phone: base=131.5 or tiny@448=40.2; may be given again.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Name of the new table, or a path ending in .lut.")],
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="What your graph returns: logits, resized or labels.")] = "logits",
    noise_pct: Annotated[
        float, typer.Option(help="How far one measurement of yours may be off by chance, in percent.")
    ] = 2.0,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """A new table with the scale of your own phone, from one or more whole-network measurements there."""
    from experiments.latency.own_times import anchor

    result = anchor(
        table,
        measured,
        size=size,
        classes=classes,
        output=output,
        out=out,
        noise_pct=noise_pct,
        storage=storage,
    )
    end_if_json(as_json, result)
    old, new = result.before.header.error_model, result.after.header.error_model
    factor = new.scale / old.scale
    print(f"scale of {result.before.name} {old.scale:.5g}, of {result.after.name} {new.scale:.5g} (times {factor:.4g})")
    for item in result.residuals:
        print(
            f"  {item.name:24s} measured {item.measured_ms:8.2f} ms; was {item.before.total_ms:8.2f} "
            f"({item.before.low_ms:.2f} to {item.before.high_ms:.2f}), is {item.after.total_ms:8.2f} "
            f"({item.after.low_ms:.2f} to {item.after.high_ms:.2f}) ms; residual {item.residual_pct:+z.1f} %"
        )
    known = "not known" if new.scale_pct is None else f"known to {new.scale_pct:.1f} %"
    print(f"scale {known}, with {noise_pct:g} % assumed for the noise of one measurement (--noise-pct)")
    for warning in result.warnings:
        print(f"warning: {warning}.")
    print(f"{result.path}: {len(result.after.rows)} {result.after.kind} rows; {result.after.interval_note}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Name or path of a table.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name or path of another.")],
    arch: Annotated[
        list[str] | None, typer.Option(help="Totals of this ARCH; may be given again. [default: the anchors]")
    ] = None,
    size: Size = None,
    classes: Classes = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Where two tables differ: provenance, coverage, common rows by block kind, and totals of networks."""
    from experiments.front.lookup import chosen, task_of
    from experiments.views.latency_table import compared
    from latency_lut.table import find_table
    from topformer.config import ANCHORS

    in_a, in_b = find_table(a), find_table(b)
    found = [chosen(text, storage=storage) for text in arch or ANCHORS]
    networks = [(one, task_of(one, size, classes)) for one in found]
    shown = compared(in_a, in_b, networks, leave_out=not arch)
    end_if_json(as_json, shown)
    _print_sides(shown)
    for network in shown.networks:
        _print_network(network, in_a.name, in_b.name)
    if shown.not_in_both:
        print(f"not in both tables: {', '.join(shown.not_in_both)}")


def _print_sides(shown: "Compared") -> None:
    found = shown.tables
    for letter, table, kinds in (("A", shown.a, found.a_kinds), ("B", shown.b, found.b_kinds)):
        rows = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        header = table.header
        print(
            f"{letter} = {table.name}: rows {rows}; {header.soc}, {header.precision}, {header.runtime}; "
            f"scale {header.error_model.scale:.5g}; {table.interval_note}"
        )
    if found.identical:
        print("the two are identical, header and rows.")
        return
    if found.same_times:
        print("every row and the scale are the same; only the headers differ.")
    if found.provenance:
        print_rows([{"field": item.field, "A": item.a, "B": item.b} for item in found.provenance], "what differs")
    print(f"rows only in A {len(found.only_a)}, only in B {len(found.only_b)}, in both {len(found.common)}")
    if found.common and not found.same_times:
        _print_common(shown)


def _print_common(shown: "Compared") -> None:
    """Rows that both tables have, with other times."""
    found = shown.tables
    print_rows(
        [
            {
                "block kind": item.block_kind,
                "rows": item.rows,
                "least B/A": f"{item.least_ratio:.3f}",
                "median B/A": f"{item.median_ratio:.3f}",
                "greatest B/A": f"{item.greatest_ratio:.3f}",
            }
            for item in found.by_block_kind
        ],
        f"common rows, times with the tables' scales; median B/A {found.median_ratio:.3f}",
    )
    if not (largest := shown.largest):
        same = shown.a.header.error_model.scale == shown.b.header.error_model.scale
        print("the common rows are the same." if same else "every common row has that ratio: only the scales differ.")
        return
    print_rows(
        [
            {
                "B/A": f"{row.ratio:.3f}",
                "A ms": f"{row.a_ms:.4f}",
                "B ms": f"{row.b_ms:.4f}",
                "A is": row.a_kind,
                "B is": row.b_kind,
                "block": row.key,
            }
            for row in largest
        ],
        "farthest from the median B/A",
    )


def _print_network(network: "NetworkComparison", a: str, b: str) -> None:
    told = "the intervals overlap" if network.intervals_overlap else "the intervals do not overlap"
    print(
        f"{network.name}: A {network.a.total_ms:.2f} ms ({network.a.low_ms:.2f} to {network.a.high_ms:.2f}, "
        f"{network.a.kind}), B {network.b.total_ms:.2f} ms ({network.b.low_ms:.2f} to {network.b.high_ms:.2f}, "
        f"{network.b.kind}); B/A {network.ratio:.3f}, {told}"
    )
    for name, estimate in ((a, network.a), (b, network.b)):
        if estimate.basis is None:
            print(f"  {name}: {estimate.interval_note}")
    for module, a_ms, b_ms in network.by_module:
        print(f"  {module:20s} A {a_ms:9.3f} ms  B {b_ms:9.3f} ms  B/A {b_ms / a_ms:.3f}")


def doctor(
    table: Annotated[str, typer.Option(help="Name or path of a table.")],
    arch: Annotated[str, typer.Option(help="The ARCH you measured.")],
    measured: Annotated[float, typer.Option(metavar="MS", help="Your own time of the whole network.")],
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str | None, typer.Option(help="What your graph returns: logits, resized or labels.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in one run.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of your run.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What ran the network, e.g. ncnn.")] = None,
    bits: Annotated[int | None, typer.Option(help="Of the build: 32 or 64.")] = None,
    frequency_mhz: Annotated[float | None, typer.Option(help="Clock of the core while it ran.")] = None,
    core: Annotated[str | None, typer.Option(help="The core it ran on, as tables name theirs.")] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Why is your measurement not what a table says? What you state is applied; what you leave out may be the cause."""
    from experiments.front.lookup import chosen, task_of
    from experiments.views.what_if import explained
    from latency_lut.gap import Setup

    found = chosen(arch, storage=storage)
    task = task_of(found, size, classes, output=output or "logits")
    setup = Setup(
        output=None if output is None else task.output,
        image_size=None if size is None else task.image_size,
        num_classes=classes,
        batch=batch,
        threads=threads,
        precision=precision,
        runtime=runtime,
        bits=bits,
        frequency_mhz=frequency_mhz,
        core=core,
    )
    shown = explained(found, task, measured, setup, table=table)
    end_if_json(as_json, shown)
    _print_gap(shown)


def _print_gap(shown: "Explained") -> None:
    gap, estimate = shown.gap, shown.gap.estimate
    print(
        f"table {shown.table.name} says of {shown.network}: {estimate.total_ms:.2f} ms ({estimate.low_ms:.2f} to "
        f"{estimate.high_ms:.2f}), {estimate.kind}; {estimate.interval_note}"
    )
    away = 100 * (gap.measured_ms / estimate.total_ms - 1)
    print(f"measured {gap.measured_ms:.2f} ms, {away:+.1f} %: {'inside' if gap.inside else 'outside'} that interval")
    if any(cause.role == "applied" for cause in gap.stated):
        print(
            f"with what you state: {gap.span.low_ms:.2f} to {gap.span.high_ms:.2f} ms, so "
            f"{'inside' if gap.inside_as_stated else 'outside'} what that allows"
        )
    rows = [_cause_row(cause, cause.role) for cause in gap.stated]
    rows += [
        _cause_row(item.cause, f"{item.change_ms:+.2f} ms{'' if item.cause.exact else ' at most'}")
        for item in gap.candidates
    ]
    rows += [_cause_row(cause, "no number") for cause in gap.open]
    print_rows(rows, "what may differ: as you state it, or what it would change alone")
    if gap.inside_as_stated:
        print("there is nothing to explain.")
        return
    for number, item in enumerate(gap.explanations, start=1):
        print(f"{number}. {_explanation_line(item)}")
    if gap.explanations:
        print(f"if none of these is so, re-anchor with: {shown.advice}")
    else:
        print(f"nothing known explains it; re-anchor with: {shown.advice}")


def _cause_row(cause: "Cause", change: str) -> dict[str, object]:
    factor = f"x {cause.least:.3g}" if cause.exact else f"x {cause.least:.3g} to {cause.greatest:.3g}"
    factor = "" if cause.role in ("equal", "unknown") or cause.task else factor
    return {"": cause.topic, "what": cause.says, "change": change, "factor": factor, "source": cause.source}


def _explanation_line(item: "Explanation") -> str:
    what = " and ".join(cause.says for cause in item.causes)
    certain = "exact" if item.exact else "possible, by a bound"
    needs = f", needs {item.needs}" if item.needs else ""
    return f"{what}: {item.span.low_ms:.2f} to {item.span.high_ms:.2f} ms ({certain}{needs})"


def savings(
    arch: Arch,
    space: Annotated[str, typer.Option(help="quickstart, pyramid, or a study's TOML file.")],
    table: Annotated[str, typer.Option(help="Name or path of a table.")] = tables.SNAPDRAGON_865,
    save_ms: Annotated[float, typer.Option(help="List changes that save at least this.")] = 0.0,
    size: Size = None,
    classes: Classes = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Which single change within a space saves how much? Exact by the table, which is additive; most first."""
    from experiments.front.lookup import chosen
    from experiments.latency.plan import saying_what_measures_space
    from experiments.study_config import space_named
    from experiments.views.what_if import savings
    from latency_lut.table import find_table

    found = chosen(arch, storage=storage)
    over = space_named(space, size=size, classes=classes, base=found.task)
    task = over.task if found.task is None or size is not None or classes is not None else found.task
    with saying_what_measures_space(space, over.task):
        shown = savings(found, task, over, find_table(table), save_ms=save_ms)
    end_if_json(as_json, shown)
    _print_savings(shown)


def _print_savings(shown: "Savings") -> None:

    estimate, task = shown.estimate, shown.task
    what = (
        f"{shown.chosen.label} at {task.pixels} px, {task.num_classes} classes, {estimate.total_ms:.2f} ms "
        f"({estimate.low_ms:.2f} to {estimate.high_ms:.2f})"
    )
    rows = [
        {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
        for row in shown.rows()
    ]
    if rows:
        print(f"single changes of {what}, that save at least {shown.save_ms:g} ms:")
        print_rows(rows, "", columns=("knob", "old", "new", "saved_ms", "low_ms", "high_ms", "total_ms"))
    else:
        print(f"no single change in space {shown.space.name} saves {shown.save_ms:g} ms of {what}.")
    print(f"table {shown.table.name}, {estimate.kind}; {shown.table.interval_note}")


def _task_of_space(space: "SearchSpace") -> str:

    sizes = next((knob.choices for knob in space.knobs if knob.name == "image_size"), (space.task.pixels,))
    return f"{', '.join(map(str, sizes))} px, {space.task.num_classes} classes"


def scan(
    space: Annotated[str, typer.Option(help="quickstart, pyramid, or a study's TOML file.")],
    latency_max: Annotated[float, typer.Option(metavar="MS", help="The budget.")],
    table: Annotated[str, typer.Option(help="Name or path of a table.")] = tables.SNAPDRAGON_865,
    size: Size = None,
    classes: Classes = None,
    samples: Annotated[int, typer.Option(help="Candidates drawn from a space too large to go through.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the distribution to a .png, .svg or .pdf file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Which share of a space fits a budget, and how are its latencies distributed?"""
    from experiments.latency.plan import saying_what_measures_space
    from experiments.latency.scan import ScanPlan
    from experiments.study_config import space_named
    from experiments.views.what_if import scanned
    from latency_lut.table import find_table

    plan = ScanPlan(budget_ms=latency_max, samples=samples, seed=seed)
    prices = find_table(table)
    over = space_named(space, size=size, classes=classes)
    with saying_what_measures_space(space, over.task), progress_bar() as report:
        shown = scanned(over, prices, plan, report=report)
    if plot is not None:
        from experiments.reports.figures import draw_scan

        draw_scan(shown.scan, prices, plot)
    end_if_json(as_json, shown)
    _print_scan(shown)
    if plot is not None:
        print(f"drawn: {plot}")


def _print_scan(shown: "Scanned") -> None:
    from latency_lut.table import LEVEL

    found, table, space = shown.scan, shown.table, shown.scan.space
    low, high = found.share_interval
    most = max(count for _, _, count in found.histogram())
    for a, b, count in found.histogram():
        print(f"{a:9.2f} to {b:9.2f} ms {100 * count / found.counted:6.2f} %  {'#' * round(40 * count / most)}")
    how = (
        f"exact, all {found.counted:,} candidates"
        if found.exact
        else f"{LEVEL:.0%} interval {100 * low:.3g} to {100 * high:.3g} %, a sample of {found.counted:,} "
        f"of {space.size:.3g} candidates"
    )
    share = f"{100 * found.share:.3g} % of space {space.name} ({_task_of_space(space)})"
    print(f"{share} fits {found.budget_ms:g} ms by table {table.name} ({how})")
    if (off := found.share_if_scale_is_off) is not None:
        print(f"if the table's scale is off by its {found.scale_pct:.1f} %: {100 * off[0]:.3g} to {100 * off[1]:.3g} %")
    print(f"{table.kind}; {table.interval_note}")

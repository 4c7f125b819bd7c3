"""The `topformer-nas describe` command: parse, make one call, print."""

from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Arch, AsJson, Classes, Size, Storage, console_of, end_if_json, plain_table

if TYPE_CHECKING:
    from experiments.views.architecture import Described


def describe(
    arch: Arch,
    size: Size = None,
    classes: Classes = None,
    classification: Annotated[bool, typer.Option(help="The ImageNet variant.")] = False,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Count parameters and multiply-adds, whole and per block."""
    from experiments.front.lookup import chosen, task_of
    from experiments.views.architecture import described

    found = chosen(arch, storage=storage)
    shown = described(found, task_of(found, size, classes, classification=classification))
    end_if_json(as_json, shown)
    _print(shown)


def _print(shown: "Described") -> None:

    task, costs = shown.task, shown.costs
    table = plain_table(
        f"{shown.chosen.label} ({shown.chosen.arch.key}), {task.pixels} px, {task.num_classes} classes",
        ("block", "kind", "output C x H x W", "parameters", "MMACs"),
        numbers=("output C x H x W", "parameters", "MMACs"),
    )
    for block in shown.blocks:
        shape = " x ".join(map(str, block.output))
        table.add_row(block.name, block.kind, shape, f"{block.parameters:,}", f"{block.macs / 1e6:,.2f}")
    console = console_of()
    console.print(table)
    for module, count in costs.params_by_module.items():
        console.print(f"{module:20s} {count:>12,} parameters", highlight=False)
    left_out = "operators that only a run would show: this network is too large to be run here"
    if costs.unsupported_operators is not None:
        left_out = ", ".join(f"{n} x {op}" for op, n in costs.unsupported_operators.items()) or "nothing"
    console.print(
        f"{costs.params:,} parameters; {costs.macs_g:.4f} G multiply-adds of convolutions and matrix products; "
        f"{costs.fvcore_g:.4f} G by fvcore (the paper's FLOPs), which leaves out: {left_out}."
    )
    if published := shown.published:
        console.print(
            f"published: {published['params_m']} M parameters, {published['flops_g']} G, "
            f"mIoU {published['miou_pct']} % on ADE20K val, {published['latency_ms']} ms "
            f"({published['latency_protocol']}); {published['source']}."
        )
    if shown.note:
        console.print(f"note: {shown.note}")

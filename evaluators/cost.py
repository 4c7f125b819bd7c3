"""What does a network cost, whatever the device? Parameters and multiply-adds from its blocks, fvcore's count beside.

Latency is the lookup table's business (`latency_lut`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from topformer.blocks import Block, TransformerSpec, decompose, parameters_by_module, total
from topformer.config import Task, TopFormerConfig
from topformer.errors import UserError
from topformer.model import TopFormer, TopFormerClassifier


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """For one image."""

    params: int
    """Trainable."""
    params_by_module: Mapping[str, int]
    """Of each part of the network that has any, in the order data flows."""
    macs_g: float
    """Multiply-adds of convolutions and matrix products, in 10^9."""
    fvcore_g: float
    """What `fvcore.nn.FlopCountAnalysis` reports for the built network, in 10^9: the "FLOPs" of the paper."""
    unsupported_operators: Mapping[str, int] | None
    """Operators that fvcore saw and did not count, with how often each runs, whatever the image size; None where the
    network is too large to be run at all."""


MOST_RUN_BYTES = 600 * 2**20
"""Of the largest network that is run to be counted; of a larger one `fvcore_g` is worked out from the blocks."""
MOST_EXPORT_BYTES = 2 * 2**30
_SMALL = (256, 256)


def costs(arch: TopFormerConfig, task: Task) -> Costs:
    blocks = decompose(arch, task)
    fvcore_flops, unsupported_operators = total(block.cost for block in blocks).fvcore_flops, None
    small = replace(task, image_size=_SMALL)
    if _bytes_to_run(blocks) <= MOST_RUN_BYTES:
        fvcore_flops, unsupported_operators = _count_by_running(arch, task)
    elif _bytes_to_run(decompose(arch, small)) <= MOST_RUN_BYTES:
        _, unsupported_operators = _count_by_running(arch, small)
    return Costs(
        params=sum(block.parameters for block in blocks),
        params_by_module=parameters_by_module(blocks),
        macs_g=total(block.cost for block in blocks).macs / 1e9,
        fvcore_g=fvcore_flops / 1e9,
        unsupported_operators=unsupported_operators,
    )


def require_runnable(arch: TopFormerConfig, task: Task) -> None:
    """Raise `UserError` for a network that would take gigabytes to be run for an export, several times at once."""
    wanted = _bytes_to_run(decompose(arch, task))
    if wanted > MOST_EXPORT_BYTES:
        raise UserError(
            f"to run this network at {task.pixels} px takes about {wanted / 2**30:.1f} GiB, and an export is checked "
            f"by runs of at most {MOST_EXPORT_BYTES // 2**30} GiB; choose a smaller --size."
        )


def _bytes_to_run(blocks: Sequence[Block]) -> int:
    """About what weights and the largest block's numbers take."""

    def numbers(block: Block) -> int:
        pixels = max(height * width for _, height, width in (*block.inputs, block.output))
        inner = 2 * getattr(block.spec, "hidden_channels", 0) * pixels
        if isinstance(block.spec, TransformerSpec):
            inner = block.spec.num_heads * pixels**2  # attention of every token to every other
        return sum(map(prod, (*block.inputs, block.output))) + inner

    return 4 * (sum(block.parameters for block in blocks) + 2 * max(map(numbers, blocks)))


def _count_by_running(arch: TopFormerConfig, task: Task) -> tuple[int, dict[str, int]]:
    model = (
        TopFormer(arch, num_classes=task.num_classes, output=task.output)
        if task.kind == "segmentation"
        else TopFormerClassifier(arch, num_classes=task.num_classes)
    )
    return _count_with_fvcore(model.eval(), torch.zeros(1, 3, *task.image_size))


def _count_with_fvcore(model: nn.Module, image: Tensor) -> tuple[int, dict[str, int]]:
    """fvcore's total, and the operators it left out; says nothing on the way, since both are returned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)  # fvcore's own use
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415, it warns when imported

        analysis = FlopCountAnalysis(model, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(analysis.total()), dict(sorted(analysis.unsupported_ops().items()))

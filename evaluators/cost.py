"""What does a network cost, whatever the device? Parameters and multiply-adds from its blocks, fvcore's count beside.

Latency is the lookup table's business (`latency_lut`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topformer.blocks import decompose, parameters_by_module, total
from topformer.config import Task, TopFormerConfig
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
    unsupported_operators: Mapping[str, int]
    """Operators that fvcore saw and did not count, with how often each runs."""


def costs(arch: TopFormerConfig, task: Task) -> Costs:
    blocks = decompose(arch, task)
    model = (
        TopFormer(arch, num_classes=task.num_classes, output=task.output)
        if task.kind == "segmentation"
        else TopFormerClassifier(arch, num_classes=task.num_classes)
    )
    fvcore_flops, unsupported_operators = _count_with_fvcore(model.eval(), torch.zeros(1, 3, *task.image_size))
    return Costs(
        params=sum(block.parameters for block in blocks),
        params_by_module=parameters_by_module(blocks),
        macs_g=total(block.cost for block in blocks).macs / 1e9,
        fvcore_g=fvcore_flops / 1e9,
        unsupported_operators=unsupported_operators,
    )


def _count_with_fvcore(model: nn.Module, image: Tensor) -> tuple[int, dict[str, int]]:
    """fvcore's total, and the operators it left out; says nothing on the way, since both are returned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)  # fvcore's own use
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415, it warns when imported

        analysis = FlopCountAnalysis(model, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(analysis.total()), dict(sorted(analysis.unsupported_ops().items()))

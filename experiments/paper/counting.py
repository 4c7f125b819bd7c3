"""What do the networks of a table cost, and are those the published numbers?"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import torch

from experiments.paper.tables import PaperTable, Row
from latency_lut.table import LatencyEstimate, LatencyTable
from topformer.blocks import Block, candidate_blocks, total
from topformer.config import Candidate
from topformer.model import TopFormer, TopFormerClassifier

Match = Literal["match", "mismatch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A network's parameters, multiply-adds and latency, each beside the published number where there is one."""

    row: Row
    params: int
    """Trainable."""
    macs_g: float
    """Multiply-adds of convolutions and matrix products, in 10^9."""
    fvcore_g: float
    """The paper's FLOPs, in 10^9."""
    backbone_macs_g: float
    """The part of `macs_g` before the semantics are injected."""
    latency: LatencyEstimate | None
    """None where the table lacks a row for some block, and for classification."""
    read_params: int
    """Parameters as the published number counts them."""
    read_flops_g: float
    """Multiply-adds as the published number counts them, of the network that it is of."""
    params_match: Match | None
    flops_match: Match | None
    latency_match: Match | None
    """Whether the published latency lies in the interval of the estimate."""

    @property
    def readings(self) -> tuple[str, ...]:
        """What must be assumed for the published numbers to come out."""
        said = []
        if self.row.params == "with-buffers":
            said.append(
                f"parameters: running statistics of batch norms are counted too ({self.read_params / 1e6:.3f} M)"
            )
        if self.row.flops == "without-norms":
            said.append(f"multiply-adds: batch norms are not counted ({self.read_flops_g:.3f} G)")
        if self.row.flops_changes.get("depthwise_head") is False:
            said.append(f"multiply-adds: the head's fuse convolution is dense ({self.read_flops_g:.3f} G)")
        return tuple(said)


def counted(table: PaperTable, prices: LatencyTable) -> dict[str, Counted]:
    """By the name of the row, for every row that has a network of ours."""
    return {row.name: _counted(row, row.candidate, prices) for row in table.rows if row.candidate is not None}


def _counted(row: Row, candidate: Candidate, prices: LatencyTable) -> Counted:
    blocks = candidate_blocks(candidate)
    costs = total(block.cost for block in blocks)
    params = sum(block.parameters for block in blocks)
    assert row.counted is not None
    read_params = params + (_buffers(candidate) if row.params == "with-buffers" else 0)
    read_flops_g = _flops_g(row, candidate_blocks(row.counted))
    priced = row.task.kind == "segmentation" and prices.coverage(blocks) == 1
    latency = prices.estimate(blocks) if priced else None
    said = row.published
    return Counted(
        row=row,
        params=params,
        macs_g=costs.macs / 1e9,
        fvcore_g=costs.fvcore_flops / 1e9,
        backbone_macs_g=sum(b.cost.macs for b in blocks if b.module in ("token_pyramid", "pooling", "transformer"))
        / 1e9,
        latency=latency,
        read_params=read_params,
        read_flops_g=read_flops_g,
        params_match=rounds_to(read_params / 1e6, said.params_m),
        flops_match=rounds_to(read_flops_g, said.flops_g),
        latency_match=_inside(latency, said.latency_ms),
    )


def rounds_to(value: float, published: str | None) -> Match | None:
    """Whether a value, rounded to the digits of a published number, is that number; None where there is none."""
    if published is None:
        return None
    digits = Decimal(published)
    return "match" if Decimal(repr(value)).quantize(digits) == digits else "mismatch"


def _inside(latency: LatencyEstimate | None, published: str | None) -> Match | None:
    if latency is None or published is None:
        return None
    return "match" if latency.low_ms <= float(published) <= latency.high_ms else "mismatch"


def _flops_g(row: Row, blocks: tuple[Block, ...]) -> float:
    costs = total(block.cost for block in blocks)
    if row.flops == "fvcore":
        return costs.fvcore_flops / 1e9
    assert row.counted is not None
    return (costs.fvcore_flops - 2 * _norm_elements(row.counted)) / 1e9


def _norm_elements(candidate: Candidate) -> int:
    """Elements that batch norms put out, for one image."""
    found = 0

    def count(_module: torch.nn.Module, _given: object, output: torch.Tensor) -> None:
        nonlocal found
        found += output[0].numel()

    network = _network(candidate).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *candidate.task.image_size, device="meta"))
    return found


def _buffers(candidate: Candidate) -> int:
    """Running means and variances of the batch norms."""
    return sum(buffer.numel() for buffer in _network(candidate).buffers() if buffer.is_floating_point())


def _network(candidate: Candidate) -> torch.nn.Module:
    """Without any memory for its numbers."""
    task = candidate.task
    with torch.device("meta"):
        if task.kind == "classification":
            return TopFormerClassifier(candidate.arch, num_classes=task.num_classes)
        return TopFormer(candidate.arch, num_classes=task.num_classes)

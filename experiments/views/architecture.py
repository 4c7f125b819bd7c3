"""What is an architecture made of, and what does it cost? Counts whatever the device, and prices by a latency table.

May import evaluators.cost, latency_lut, topformer, and the rooms of experiments that decide nothing about showing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.front.lookup import Chosen
from experiments.latency.plan import saying_what_measures
from latency_lut.table import LatencyEstimate, LatencyTable
from topformer.blocks import MODULES, Block, decompose
from topformer.config import Task, TopFormerConfig, anchor_name
from topformer.published import published_elsewhere, published_figures

if TYPE_CHECKING:
    from evaluators.cost import Costs


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """An architecture on a task: its blocks, and what it costs whatever the device."""

    chosen: Chosen
    task: Task
    blocks: tuple[Block, ...]
    costs: Costs
    published: Mapping[str, object] | None
    """The paper's figures for exactly this anchor and task; None where there are none."""

    @property
    def note(self) -> str | None:
        """What the name of an anchor does not mean on this task."""
        return published_elsewhere(self.chosen.arch, self.task)

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.chosen.arch.key,
            "anchor": anchor_name(self.chosen.arch),
            "params": self.costs.params,
            "params_by_module": dict(self.costs.params_by_module),
            "macs_g": self.costs.macs_g,
            "fvcore_g": self.costs.fvcore_g,
            "fvcore_unsupported_operators": None
            if (left_out := self.costs.unsupported_operators) is None
            else dict(left_out),
            "image_size": list(self.task.image_size),
            "num_classes": self.task.num_classes,
            "task": self.task.as_dict(),
            "published": self.published,
            "note": self.note,
            "architecture": self.chosen.arch.as_dict(),
            "blocks": [
                {"name": b.name, "kind": b.kind, "output": list(b.output), "params": b.parameters, "macs": b.macs}
                for b in self.blocks
            ],
        }


def described(found: Chosen, task: Task) -> Described:
    """Parameters and multiply-adds, whole and per block; fvcore's count takes a run of the network."""
    from evaluators.cost import costs

    return Described(
        chosen=found,
        task=task,
        blocks=decompose(found.arch, task),
        costs=costs(found.arch, task),
        published=None if task.kind == "classification" else _published(found.arch, task),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PostProcessing:
    """What resizing the logits and taking the argmax costs, as far as the task has them, and what the rest would add.

    What it would add is None where the table lacks a row for it.
    """

    included_ms: float
    share_pct: float
    would_add_ms: float | None
    would_add_low_ms: float | None
    would_add_high_ms: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """An architecture's latency by a table: the total with its interval, and what takes how much of it."""

    chosen: Chosen
    task: Task
    table: LatencyTable
    estimate: LatencyEstimate
    by_module: Mapping[str, LatencyEstimate]
    """Modules that the network has, in the order data flows."""
    post_processing: PostProcessing
    published: Mapping[str, object] | None
    """The paper's figures for exactly this anchor and task; None where there are none."""

    @property
    def note(self) -> str | None:
        """What the name of an anchor does not mean on this task."""
        return published_elsewhere(self.chosen.arch, self.task)

    def as_dict(self) -> dict[str, Any]:
        estimate = self.estimate
        return {
            "arch_key": self.chosen.arch.key,
            "task": self.task.as_dict(),
            "total_ms": estimate.total_ms,
            "low_ms": estimate.low_ms,
            "high_ms": estimate.high_ms,
            "kind": estimate.kind,
            "by_block": [{"block": name, "ms": ms} for name, ms in estimate.by_block],
            "by_module": [
                {"module": module, "ms": part.total_ms, "low_ms": part.low_ms, "high_ms": part.high_ms}
                for module, part in self.by_module.items()
            ],
            "post_processing": asdict(self.post_processing),
            "published": self.published,
            "note": self.note,
            "interval": estimate.interval_note,
            "coverage": 1.0,  # an estimate has a row for every block, or is none
            "validated": self.table.validated,
            "table": self.table.name,
            "table_checksum": self.table.checksum,
        }


def priced(found: Chosen, task: Task, table: LatencyTable) -> Priced:
    """Raises `UserError` naming the rows that the table lacks, and the command that measures them."""
    blocks = decompose(found.arch, task)
    with saying_what_measures(found.text, task):
        estimate = table.estimate(blocks)
    own = {module: [block for block in blocks if block.module == module] for module in MODULES}
    return Priced(
        chosen=found,
        task=task,
        table=table,
        estimate=estimate,
        by_module={module: table.estimate(part) for module, part in own.items() if part},
        post_processing=_post_processing(found.arch, task, table, estimate),
        published=_published(found.arch, task),
    )


def _post_processing(
    arch: TopFormerConfig, task: Task, table: LatencyTable, estimate: LatencyEstimate
) -> PostProcessing:
    included = {name: ms for name, ms in estimate.by_block if name.startswith("post_processing.")}
    whole = decompose(arch, replace(task, output="labels"))
    rest = [block for block in whole if block.module == "post_processing" and block.name not in included]
    known = table.coverage(rest) == 1
    more = table.estimate(rest) if rest and known else None
    nothing = 0.0 if known else None
    return PostProcessing(
        included_ms=sum(included.values()),
        share_pct=100 * sum(included.values()) / estimate.total_ms,
        would_add_ms=more.total_ms if more else nothing,
        would_add_low_ms=more.low_ms if more else nothing,
        would_add_high_ms=more.high_ms if more else nothing,
    )


def _published(arch: TopFormerConfig, task: Task) -> Mapping[str, object] | None:
    return published_figures(anchor_name(arch), task.image_size, task.num_classes)

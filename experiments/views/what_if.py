"""What would change a latency: a knob, a budget over a whole space, or another way of measuring?

May import evaluators.compiled, latency_lut, search_space, topformer, and the rooms of experiments that decide nothing
about showing; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluators.compiled import CompiledTable, Saving
from experiments.front.lookup import Chosen
from experiments.latency.plan import network_name, saying_what_measures
from experiments.latency.scan import Scan, ScanPlan, scan
from latency_lut.gap import Cause, Gap, Setup, explain
from latency_lut.table import LEVEL, LatencyEstimate, LatencyTable, find_table
from search_space import Point, SearchSpace
from topformer.blocks import candidate_blocks
from topformer.config import Candidate, Task
from topformer.errors import UserError
from topformer.progress import Progress, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """Single changes of an architecture within a space, from the one that saves most."""

    chosen: Chosen
    task: Task
    space: SearchSpace
    table: LatencyTable
    point: Point
    """The architecture's own choices."""
    estimate: LatencyEstimate
    save_ms: float
    """Least saving that is listed."""
    savings: tuple[Saving, ...]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "knob": item.knob,
                "old": item.old,
                "new": item.new,
                "saved_ms": item.saved.delta_ms,
                "low_ms": item.saved.low_ms,
                "high_ms": item.saved.high_ms,
                "total_ms": self.estimate.total_ms - item.saved.delta_ms,
                "arch_key": item.candidate.arch.key,
            }
            for item in self.savings
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "arch_key": self.chosen.arch.key,
            "table": self.table.name,
            "space": self.space.name,
            "task": self.task.as_dict(),
            **self.estimate.as_dict(),
            "point": self.point,
            "save_ms": self.save_ms,
            "savings": self.rows(),
        }


def savings(found: Chosen, task: Task, space: SearchSpace, table: LatencyTable, *, save_ms: float = 0.0) -> Savings:
    """Exact by the table, which is additive.

    Raises `UserError` for an architecture that the space does not hold, and `MissingRows` where the table lacks rows of
    the space.
    """
    if not 0 <= save_ms <= 1e12:
        raise UserError(f"--save-ms must be a number of ms from 0, not {save_ms}.")
    candidate = Candidate(arch=found.arch, task=task)
    point = space.encode(candidate)  # a stranger to the space is told so before the table is read
    with saying_what_measures(found.text, task):
        estimate = table.estimate(candidate_blocks(candidate))
    return Savings(
        chosen=found,
        task=task,
        space=space,
        table=table,
        point=point,
        estimate=estimate,
        save_ms=save_ms,
        savings=tuple(
            item for item in CompiledTable(table, space).savings(candidate) if item.saved.delta_ms >= save_ms
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """Latencies of a space by a table, and the share of them within a budget."""

    scan: Scan
    table: LatencyTable

    def as_dict(self) -> dict[str, Any]:
        found = self.scan
        low, high = found.share_interval
        off = found.share_if_scale_is_off
        return {
            "space": found.space.name,
            "size": found.space.size,
            "task": found.space.task.as_dict(),
            "table": self.table.name,
            "kind": self.table.kind,
            "interval": self.table.interval_note,
            "latency_max_ms": found.budget_ms,
            "exact": found.exact,
            "counted": found.counted,
            "fitting": found.fitting,
            "share": found.share,
            "share_low": low,
            "share_high": high,
            "level": LEVEL,
            "share_if_scale_is_off": None if off is None else list(off),
            "quantiles_ms": {f"{percent} %": ms for percent, ms in found.quantiles_ms.items()},
            "histogram": [{"from_ms": a, "to_ms": b, "candidates": count} for a, b, count in found.histogram()],
        }


def scanned(space: SearchSpace, table: LatencyTable, plan: ScanPlan, *, report: Progress = silent) -> Scanned:
    """Raises `MissingRows` where the table lacks rows of the space."""
    compiled = CompiledTable(table, space)
    found = scan(compiled, plan, report=lambda done, total: report(done, total, "pricing"))
    return Scanned(scan=found, table=table)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """A measurement beside what a table says of the network, and what may be between them."""

    network: str
    table: LatencyTable
    gap: Gap
    advice: str
    """The command that makes a table of the measurement."""

    def as_dict(self) -> dict[str, Any]:
        gap = self.gap
        return {
            "table": self.table.name,
            "measured_ms": gap.measured_ms,
            "estimate": gap.estimate.as_dict(),
            "inside": gap.inside,
            "as_stated": {"low_ms": gap.span.low_ms, "high_ms": gap.span.high_ms, "inside": gap.inside_as_stated},
            "stated": [_cause(cause) for cause in gap.stated],
            "candidates": [
                _cause(item.cause)
                | {"change_ms": item.change_ms, "low_ms": item.span.low_ms, "high_ms": item.span.high_ms}
                for item in gap.candidates
            ],
            "no_number_known": [_cause(cause) for cause in gap.open],
            "explanations": [
                {
                    "causes": [_cause(cause) for cause in item.causes],
                    "exact": item.exact,
                    "needs": item.needs,
                    "low_ms": item.span.low_ms,
                    "high_ms": item.span.high_ms,
                }
                for item in gap.explanations
            ],
            "re_anchor": None if gap.inside_as_stated else self.advice,
        }


def explained(found: Chosen, task: Task, measured_ms: float, setup: Setup, *, table: str) -> Explained:
    """Why a network of that task was not as fast as the table of that name or path says; `setup` is what is stated.

    Raises `UserError` naming the rows that the table lacks, and the command that measures them.
    """
    prices = find_table(table)
    with saying_what_measures(found.text, task):
        gap = explain(prices, found.arch, task, measured_ms, setup)
    own = f"{found.text}@{task.pixels}={measured_ms:g}"
    advice = f"topformer-nas latency anchor --table {table} --measured '{own}' --out {prices.name}-mine"
    advice += "" if setup.num_classes is None else f" --classes {setup.num_classes}"
    advice += "" if setup.output in {None, "logits"} else f" --output {setup.output}"
    return Explained(network=network_name(found.label, task), table=prices, gap=gap, advice=advice)


def _cause(cause: Cause) -> dict[str, object]:
    return {
        "topic": cause.topic,
        "role": cause.role,
        "says": cause.says,
        "exact": cause.exact,
        "least_factor": cause.least,
        "greatest_factor": cause.greatest,
        "source": cause.source,
    }

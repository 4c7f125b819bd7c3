"""What is in a latency table, how far can it be believed, and where does it differ from another?

May import latency_lut and topformer, and the rooms of experiments that decide nothing about showing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.front.lookup import Chosen
from experiments.latency.plan import network_name, saying_what_measures
from latency_lut.compare import NetworkComparison, RowRatio, TableComparison, compare_network, compare_tables
from latency_lut.table import LatencyTable, NetworkCheck, available_tables, find_table
from topformer.blocks import decompose
from topformer.config import Task
from topformer.errors import UserError

if TYPE_CHECKING:
    from latency_lut.validation import Agreement, Contradiction

_LARGEST = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedTable:
    """A table at hand, and its file."""

    path: Path
    table: LatencyTable

    def as_dict(self) -> dict[str, Any]:
        header = self.table.header
        return {
            "table": self.path.stem,
            "kind": self.table.kind,
            "device": header.device,
            "soc": header.soc,
            "runtime": header.runtime,
            "rows": len(self.table.rows),
            "validated": self.table.validated,
            "date": header.date,
            "path": str(self.path),
        }


def tables_at_hand() -> tuple[tuple[ListedTable, ...], tuple[str, ...]]:
    """(the tables, a sentence for each file that cannot be read): one damaged file does not hide the others."""
    listed, left_out = [], []
    for path in available_tables():
        try:
            listed.append(ListedTable(path=path, table=find_table(path)))
        except UserError as error:
            left_out.append(str(error))
    return tuple(listed), tuple(left_out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Whole networks beside a table's sums."""

    table: LatencyTable
    checks: tuple[NetworkCheck, ...]
    timed_now: bool
    """The networks were timed for this; else they are those of the table's own report."""
    predicted_ms: tuple[float, ...]
    agreement: Agreement | None
    """None where there is no network."""

    @property
    def how(self) -> str:
        """What predicted the networks, in words."""
        if self.timed_now:
            return "by the table, which they did not calibrate"
        if all(check.unseen_ms is not None for check in self.checks):
            return "each unseen: predicted by a table calibrated on the others"
        return "by the table that is calibrated on them"

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Rows that are slower than a larger block, beyond noise; worked out anew at each call."""
        from latency_lut.validation import contradictions

        return contradictions(self.table.rows.values())

    def as_dict(self) -> dict[str, Any]:
        header = self.table.header
        return {
            "table": header.name,
            "kind": self.table.kind,
            "validated": self.table.validated,
            "timed_now": self.timed_now,
            "networks": [
                {
                    "network": check.name,
                    "whole_ms": check.whole_ms,
                    "repeat_ms": check.repeat_ms,
                    "table_ms": header.error_model.scale * check.sum_ms,
                    "predicted_ms": ms,
                    "error_pct": 100 * (ms / check.reference_ms - 1),
                    "noise_pct": check.noise_pct,
                }
                for check, ms in zip(self.checks, self.predicted_ms, strict=True)
            ],
            "agreement": asdict(self.agreement) if self.agreement else None,
            "error_model": asdict(header.error_model),
            "interval": self.table.interval_note,
            "contradictions": [each._asdict() for each in self.contradictions],
            "source": header.source,
            "protocol": dict(header.protocol),
            "date": header.date,
            "tool_version": header.tool_version,
        }

    def measured_dict(self, path: Path) -> dict[str, Any]:
        """What is said of a table right after it was measured into a file."""
        header = self.table.header
        return {
            "table": header.name,
            "path": str(path),
            "rows": len(self.table.rows),
            "kind": self.table.kind,
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
                for check in self.checks
            ],
            "agreement": asdict(self.agreement) if self.agreement else None,
            "contradictions": header.protocol.get("contradictions"),
            "correction": asdict(header.error_model.correction),
            "scale": header.error_model.scale,
            "interval": self.table.interval_note,
        }


def validated(table: LatencyTable, timed_now: Sequence[NetworkCheck] | None = None) -> Validation:
    """By networks that were timed for this (`experiments.latency.plan.fresh_checks`), or by the table's own report."""
    from latency_lut.validation import agreement, predicted_ms  # scipy, which a list of tables does not need

    checks = table.header.validation if timed_now is None else tuple(timed_now)
    predicted = tuple(predicted_ms(check, table.header.error_model) for check in checks)
    return Validation(
        table=table,
        checks=checks,
        timed_now=timed_now is not None,
        predicted_ms=predicted,
        agreement=agreement(checks, predicted) if checks else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Two tables side by side: where they come from, their rows, and totals of networks."""

    a: LatencyTable
    b: LatencyTable
    tables: TableComparison
    networks: tuple[NetworkComparison, ...]
    not_in_both: tuple[str, ...]
    """Networks that one of the tables has not all rows of."""

    @property
    def largest(self) -> tuple[RowRatio, ...]:
        """The ten common rows that one common scale explains least."""
        return self.tables.largest(_LARGEST)

    def as_dict(self) -> dict[str, Any]:
        found = self.tables
        return {
            "identical": found.identical,
            "same_times": found.same_times,
            "a": _side(self.a, dict(found.a_kinds)),
            "b": _side(self.b, dict(found.b_kinds)),
            "provenance": [asdict(item) for item in found.provenance],
            "rows": {"only_a": len(found.only_a), "only_b": len(found.only_b), "common": len(found.common)},
            "median_ratio": found.median_ratio,
            "by_block_kind": [asdict(item) for item in found.by_block_kind],
            "largest_disagreements": [
                {
                    "key": row.key,
                    "a_ms": row.a_ms,
                    "b_ms": row.b_ms,
                    "ratio": row.ratio,
                    "a_kind": row.a_kind,
                    "b_kind": row.b_kind,
                }
                for row in self.largest
            ],
            "networks": [
                {
                    "network": network.name,
                    "a": network.a.as_dict(),
                    "b": network.b.as_dict(),
                    "ratio": network.ratio,
                    "intervals_overlap": network.intervals_overlap,
                    "by_module": [
                        {"module": module, "a_ms": a_ms, "b_ms": b_ms} for module, a_ms, b_ms in network.by_module
                    ],
                }
                for network in self.networks
            ],
            "not_in_both": list(self.not_in_both),
        }


def compared(
    a: LatencyTable, b: LatencyTable, networks: Sequence[tuple[Chosen, Task]], *, leave_out: bool = False
) -> Compared:
    """Raises `UserError` where a table lacks rows of a network, unless those may be left out."""
    both, left_out = [], []
    for found, task in networks:
        blocks, name = decompose(found.arch, task), network_name(found.label, task)
        if leave_out and min(a.coverage(blocks), b.coverage(blocks)) < 1:
            left_out.append(name)
        else:
            with saying_what_measures(found.text, task):
                both.append(compare_network(name, blocks, a, b))
    return Compared(a=a, b=b, tables=compare_tables(a, b), networks=tuple(both), not_in_both=tuple(left_out))


def _side(table: LatencyTable, kinds: dict[Any, int]) -> dict[str, Any]:
    return {
        "table": table.name,
        "checksum": table.checksum,
        "kinds": kinds,
        "scale": table.header.error_model.scale,
        "interval": table.interval_note,
    }

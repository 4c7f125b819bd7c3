"""Where do two latency tables differ? In where they come from, in what they cover, and row by row.

May import `latency_lut.table`, topformer and the standard library. Times are as estimates use them: medians times the
table's scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from latency_lut.table import LatencyEstimate, LatencyTable, RowKind, Setting
from topformer.blocks import MODULES, Block
from topformer.keys import kind_of

_ROUNDING = 1e-9
"""Relative; what two products of the same numbers may differ by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """One entry of the headers; None where a table does not have it."""

    field: str
    a: Setting
    b: Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRatio:
    """One block that both tables have."""

    key: str
    a_ms: float
    b_ms: float
    a_kind: RowKind
    b_kind: RowKind

    @property
    def ratio(self) -> float:
        """b over a: above 1 where b is slower."""
        return self.b_ms / self.a_ms

    @property
    def block_kind(self) -> str:
        return kind_of(self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class KindRatios:
    """Ratios b over a of the common rows of one block kind."""

    block_kind: str
    rows: int
    least_ratio: float
    median_ratio: float
    greatest_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TableComparison:
    identical: bool
    """Header and rows to the last digit."""
    provenance: tuple[FieldDifference, ...]
    """What differs."""
    a_kinds: Mapping[RowKind, int]
    """Rows of each kind."""
    b_kinds: Mapping[RowKind, int]
    only_a: tuple[str, ...]
    """Keys."""
    only_b: tuple[str, ...]
    common: tuple[RowRatio, ...]
    by_block_kind: tuple[KindRatios, ...]

    @property
    def same_times(self) -> bool:
        """Whether every row of both is in the other with the same time."""
        return not self.only_a and not self.only_b and all(row.a_ms == row.b_ms for row in self.common)

    @property
    def median_ratio(self) -> float | None:
        """Of all common rows; None where there are none."""
        return median(row.ratio for row in self.common) if self.common else None

    def largest(self, count: int) -> tuple[RowRatio, ...]:
        """Common rows whose ratio is farthest, up or down, from the median one: what one scale would not explain."""
        middle = self.median_ratio
        if middle is None:
            return ()
        apart = {row.key: abs(math.log(row.ratio / middle)) for row in self.common}
        found = [row for row in self.common if apart[row.key] > _ROUNDING]
        return tuple(sorted(found, key=lambda row: (-apart[row.key], row.key))[:count])


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkComparison:
    """One network in both tables."""

    name: str
    a: LatencyEstimate
    b: LatencyEstimate
    by_module: tuple[tuple[str, float, float], ...]
    """(module, milliseconds in a, in b), in the order they run."""

    @property
    def ratio(self) -> float:
        return self.b.total_ms / self.a.total_ms

    @property
    def intervals_overlap(self) -> bool:
        return self.a.low_ms <= self.b.high_ms and self.b.low_ms <= self.a.high_ms


def compare_tables(a: LatencyTable, b: LatencyTable) -> TableComparison:
    a_scale, b_scale = a.header.error_model.scale, b.header.error_model.scale
    common = tuple(
        RowRatio(
            key=key,
            a_ms=a_scale * row.median_ms,
            b_ms=b_scale * b.rows[key].median_ms,
            a_kind=row.kind,
            b_kind=b.rows[key].kind,
        )
        for key, row in a.rows.items()
        if key in b.rows
    )
    return TableComparison(
        identical=a.checksum == b.checksum,
        provenance=_differences(_provenance(a), _provenance(b)),
        a_kinds=Counter(row.kind for row in a.rows.values()),
        b_kinds=Counter(row.kind for row in b.rows.values()),
        only_a=tuple(key for key in a.rows if key not in b.rows),
        only_b=tuple(key for key in b.rows if key not in a.rows),
        common=common,
        by_block_kind=_by_block_kind(common),
    )


def compare_network(name: str, blocks: Sequence[Block], a: LatencyTable, b: LatencyTable) -> NetworkComparison:
    """Raises MissingRows where a table does not cover the network."""
    in_a, in_b = a.estimate(blocks), b.estimate(blocks)
    a_ms, b_ms = _ms_by_module(blocks, in_a), _ms_by_module(blocks, in_b)
    by_module = tuple((module, a_ms[module], b_ms[module]) for module in MODULES if module in a_ms)
    return NetworkComparison(name=name, a=in_a, b=in_b, by_module=by_module)


def _provenance(table: LatencyTable) -> dict[str, Setting]:
    header = table.header
    model = header.error_model
    protocol = {f"protocol.{name}": value for name, value in header.protocol.items()}
    return {
        "name": header.name,
        **header.source,
        "tool_version": header.tool_version,
        "date": header.date,
        **protocol,
        "scale": model.scale,
        "scale_pct": model.scale_pct,
        "row_pct": model.row_pct,
        "kind_pct": ", ".join(f"{kind} {percent:g}" for kind, percent in sorted(model.kind_pct.items())) or None,
        "level": model.level,
        "basis": table.basis,
        "validation": ", ".join(f"{check.name} {check.reference_ms:g} ms" for check in header.validation) or None,
    }


def _differences(a: Mapping[str, Setting], b: Mapping[str, Setting]) -> tuple[FieldDifference, ...]:
    names = [*a, *(name for name in b if name not in a)]
    return tuple(
        FieldDifference(field=name, a=a.get(name), b=b.get(name)) for name in names if a.get(name) != b.get(name)
    )


def _by_block_kind(rows: Iterable[RowRatio]) -> tuple[KindRatios, ...]:
    ratios: dict[str, list[float]] = {}
    for row in rows:
        ratios.setdefault(row.block_kind, []).append(row.ratio)
    return tuple(
        KindRatios(
            block_kind=kind,
            rows=len(values),
            least_ratio=min(values),
            median_ratio=median(values),
            greatest_ratio=max(values),
        )
        for kind, values in sorted(ratios.items())
    )


def _ms_by_module(blocks: Sequence[Block], estimate: LatencyEstimate) -> dict[str, float]:
    times: dict[str, float] = {}
    for block, (_, ms) in zip(blocks, estimate.by_block, strict=True):
        times[block.module] = times.get(block.module, 0.0) + ms
    return times

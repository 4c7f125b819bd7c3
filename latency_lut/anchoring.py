"""What does a table say of a person's own phone? One or a few whole-network times there give it a new scale.

A table's shape (which block costs how much beside which other) and its scale are two things. The shape comes from rows
and stays; the scale of a phone with another clock, system or build is another, and one measurement tells it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from latency_lut.calibration import calibrate, student_t
from latency_lut.table import LEVEL, ErrorModel, LatencyEstimate, LatencyTable, NetworkCheck, Setting
from topformer.blocks import Block
from topformer.errors import UserError

NOISE_PCT = 2.0
"""Assumed half-width of one person's measurement, where they say nothing else: two timings of one network on a machine
with other work differed by 1.6 % (see `latency_lut.measure.undisturbed`), and a phone's governor is no steadier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTime:
    """One network as a person timed it, whole."""

    blocks: tuple[Block, ...]
    ms: float

    def __post_init__(self) -> None:
        if isinstance(self.ms, bool) or not isinstance(self.ms, int | float) or not 0 < self.ms <= 1e12:
            raise UserError(f"a measured latency must be a positive number of ms, not {self.ms}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Residual:
    """One measurement beside both tables."""

    name: str
    measured_ms: float
    before: LatencyEstimate
    after: LatencyEstimate
    allowed_pct: float
    """How far one measurement may be from the new scale: the table's shape error of this network, and the noise."""

    @property
    def residual_pct(self) -> float:
        """Of the new estimate; positive where it is too slow."""
        return 100 * (self.after.total_ms / self.measured_ms - 1)

    @property
    def disagrees(self) -> bool:
        return abs(self.residual_pct) > self.allowed_pct


_MOST_OFF = 1000
"""Factor between a measurement and a table beyond which it was not in milliseconds."""


def anchored(
    table: LatencyTable, measured: Mapping[str, OwnTime], *, name: str, date: str, noise_pct: float = NOISE_PCT
) -> LatencyTable:
    """The table with the scale of these measurements (by the network's name, to print); its rows stay what they were.

    With r_i = measured / unscaled sum of rows, of n networks: scale = mean(r). What the old table's validation said of
    shapes is taken to hold there too: `kind_pct` and `row_pct` stay. `scale_pct` is what n measurements leave open. One
    measurement is off by its network's own shape error (the old half-width of kinds and rows, h_i) and by the noise:
    a_i = sqrt(h_i^2 + noise^2), which is `scale_pct` for n = 1. For n >= 2 it is t * s / sqrt(n), with s the standard
    deviation of r_i / scale and Student's t with n - 1 degrees, but never below sqrt(mean(a_i^2) / n): measurements
    that agree by luck do not make the scale surer than independent ones. That t is large for few networks (6.3 for
    two), so a second measurement can widen the interval.

    A table that was never compared with whole networks has no shape error to keep: one measurement then gives it a
    scale and no interval (`scale_pct` stays None), and from two on, `latency_lut.calibration.calibrate` says both.
    Raises MissingRows, and UserError where a network is there twice.
    """
    _require_usable(table, measured, noise_pct)
    old = table.header.error_model
    times = tuple(measured.values())
    checks = tuple(
        NetworkCheck(name=label, whole_ms=own.ms, repeat_ms=None, sum_ms=_unscaled_ms(table, own.blocks))
        for label, own in measured.items()
    )
    ratios = [check.whole_ms / check.sum_ms for check in checks]
    scale = float(f"{fmean(ratios):.6g}")
    alone_pct = [_alone_pct(table, own.blocks, noise_pct) for own in times]
    least_pct = math.hypot(*alone_pct) / len(times)
    basis = f"re-anchored to {len(times)} own measurement{'s' if len(times) > 1 else ''} ({', '.join(measured)})"
    if table.validated:
        scale_pct = max(least_pct, _spread_pct(ratios))
        basis += f"; kinds and rows as in table {table.name}, {old.basis}"
        model = replace(old, scale=scale, scale_pct=round(scale_pct, 4), basis=basis)
    else:
        fitted = calibrate(checks, [_ms_by_row(table, own.blocks) for own in times])
        known_pct = None if fitted.scale_pct is None else max(fitted.scale_pct, round(least_pct, 4))
        model = ErrorModel(scale=scale, scale_pct=known_pct, row_pct=fitted.row_pct, basis=basis)
    provenance: dict[str, Setting] = {
        "anchored_from": table.name,
        "anchored_from_sha256": table.checksum,
        "anchored_from_scale": old.scale,
        "assumed_noise_pct": noise_pct,
    }
    header = replace(
        table.header,
        name=name,
        date=date,
        protocol=dict(table.header.protocol) | provenance,
        error_model=model,
        validation=checks,
    )
    return LatencyTable(header=header, rows=table.rows)


def residuals(
    before: LatencyTable, after: LatencyTable, measured: Mapping[str, OwnTime], *, noise_pct: float = NOISE_PCT
) -> tuple[Residual, ...]:
    """What the one scale leaves of each measurement."""
    return tuple(
        Residual(
            name=label,
            measured_ms=own.ms,
            before=before.estimate(own.blocks),
            after=after.estimate(own.blocks),
            allowed_pct=_alone_pct(before, own.blocks, noise_pct),
        )
        for label, own in measured.items()
    )


def _require_usable(table: LatencyTable, measured: Mapping[str, OwnTime], noise_pct: float) -> None:
    if not measured:
        raise UserError("re-anchoring needs at least one measured network.")
    if not 0 <= noise_pct <= 100:
        raise UserError(f"the noise of a measurement must be from 0 to 100 %, not {noise_pct:g}.")
    if table.header.error_model.level != LEVEL:
        raise UserError(
            f"table {table.name} has intervals at {table.header.error_model.level:.0%}; only those at {LEVEL:.0%} can "
            "be re-anchored: take the table it was made from."
        )
    seen: dict[frozenset[tuple[str, int]], str] = {}
    for label, own in measured.items():
        network = frozenset(Counter(block.key for block in own.blocks).items())
        if network in seen:
            raise UserError(
                f"{seen[network]} and {label} are one network to this table; give its time once, the median of yours."
            )
        seen[network] = label
        ratio = own.ms / table.estimate(own.blocks).total_ms
        if not 1 / _MOST_OFF <= ratio <= _MOST_OFF:
            raise UserError(
                f"{label} takes {own.ms:g} ms as measured, {ratio:.3g} times what table {table.name} says; it "
                f"must be within a factor of {_MOST_OFF} of it: give milliseconds."
            )


def _spread_pct(ratios: Sequence[float]) -> float:
    """Half-width of the mean ratio as the ratios themselves tell it; 0 for one, which tells nothing."""
    n = len(ratios)
    if n == 1:
        return 0.0
    mean = fmean(ratios)
    deviation = math.sqrt(math.fsum((ratio / mean - 1) ** 2 for ratio in ratios) / (n - 1))
    return 100 * student_t(n - 1) * deviation / math.sqrt(n)


def _alone_pct(table: LatencyTable, blocks: tuple[Block, ...], noise_pct: float) -> float:
    """How far one measurement of this network may be from the table's true scale."""
    model = replace(table.header.error_model, scale_pct=0.0)
    shape = LatencyTable(header=replace(table.header, error_model=model), rows=table.rows).estimate(blocks)
    return math.hypot(100 * (shape.high_ms / shape.total_ms - 1), noise_pct)


def _unscaled_ms(table: LatencyTable, blocks: tuple[Block, ...]) -> float:
    return table.estimate(blocks).total_ms / table.header.error_model.scale


def _ms_by_row(table: LatencyTable, blocks: tuple[Block, ...]) -> dict[str, float]:
    counts = Counter(block.key for block in blocks)
    return {key: count * table.rows[key].median_ms for key, count in counts.items()}

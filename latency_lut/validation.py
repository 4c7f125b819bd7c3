"""Do a table's sums tell what whole networks take, and do its rows contradict each other? Figures, no measurements.

May import numpy, scipy and `latency_lut.table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy import stats

from latency_lut.table import ErrorModel, LatencyRow, NetworkCheck
from topformer.errors import LONGEST_NAME, UserError
from topformer.keys import SIZE_SETTINGS, parse_key

_DEVIATIONS = 3
_LEAST_PCT = 2.0
"""A row is slower than another beyond noise if by more than three standard errors and by more than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How close predictions are to whole networks timed in the same run; shares are 0 to 1."""

    networks: int
    mean_error_pct: float
    """Mean of the errors' sizes."""
    worst_error_pct: float
    bias_pct: float
    """Mean of the signed errors: positive where predictions are too slow."""
    mean_error_scaled_pct: float
    """What one factor common to all predictions leaves: a machine that is faster today is no fault of the sums."""
    share_within_5_pct: float
    share_within_10_pct: float
    kendall_tau: float | None
    """Of predicted and measured order; None under two networks."""
    noise_floor_pct: float | None
    """Mean difference of two timings of each network, interleaved: what no table can know better."""


def agreement(checks: Sequence[NetworkCheck], predicted_ms: Sequence[float]) -> Agreement:
    if not checks:
        raise UserError("an agreement needs at least one network.")
    errors = [100 * (ms / check.reference_ms - 1) for ms, check in zip(predicted_ms, checks, strict=True)]
    sizes = [abs(error) for error in errors]
    common = 1 + fmean(errors) / 100
    if not (common > 0 and math.isfinite(common)):
        worst = max(range(len(checks)), key=lambda index: abs(errors[index]))
        raise UserError(
            f"predictions and measurements cannot be compared: {checks[worst].name[:LONGEST_NAME]} is said to take "
            f"{predicted_ms[worst]:g} ms, and takes {checks[worst].reference_ms:g}; measure the table again."
        )
    noise = [check.noise_pct for check in checks if check.noise_pct is not None]
    tau = None
    if len(checks) > 1:
        tau = float(stats.kendalltau(predicted_ms, [check.reference_ms for check in checks]).statistic)
    return Agreement(
        networks=len(checks),
        mean_error_pct=fmean(sizes),
        worst_error_pct=max(sizes),
        bias_pct=fmean(errors),
        mean_error_scaled_pct=fmean(abs((100 + error) / common - 100) for error in errors),
        share_within_5_pct=fmean(size <= 5 for size in sizes),
        share_within_10_pct=fmean(size <= 10 for size in sizes),
        kendall_tau=tau,
        noise_floor_pct=fmean(noise) if noise else None,
    )


def predicted_ms(check: NetworkCheck, model: ErrorModel) -> float:
    """By a table that is calibrated on the other networks, where the check says it; else by this table."""
    return model.scale * check.sum_ms if check.unseen_ms is None else check.unseen_ms


class Contradiction(NamedTuple):
    """A row that is slower than one that is in no size smaller."""

    key: str
    larger_key: str
    slower_pct: float


def contradictions(rows: Iterable[LatencyRow]) -> tuple[Contradiction, ...]:
    """Rows beyond noise slower than a larger one, each beside the fastest such, worst first.

    Compared are rows that differ in channels, heads, classes, height and width only. What is left after a second timing
    may be true: a runtime pads channels, or has a faster kernel for some sizes.
    """
    groups: dict[tuple[object, ...], list[tuple[tuple[int, ...], LatencyRow]]] = {}
    for row in rows:
        structure, sizes = _taken_apart(row.key)
        groups.setdefault(structure, []).append((sizes, row))
    found = [contradiction for group in groups.values() for contradiction in _within(group)]
    return tuple(sorted(found, key=lambda each: (-each.slower_pct, each.key)))


def _within(group: Sequence[tuple[tuple[int, ...], LatencyRow]]) -> Iterable[Contradiction]:
    sizes = np.array([sizes for sizes, _ in group])
    times = np.array([row.median_ms for _, row in group])
    deviations = np.array([row.deviation_ms for _, row in group])
    for index, (_, row) in enumerate(group):
        noise_ms = _DEVIATIONS * np.hypot(deviations, deviations[index])
        faster = (times + noise_ms < times[index]) & (times * (1 + _LEAST_PCT / 100) < times[index])
        candidates = np.flatnonzero(faster)
        larger = candidates[(sizes[candidates] >= sizes[index]).all(axis=1)]
        if larger.size:
            other = larger[times[larger].argmin()]
            yield Contradiction(row.key, group[other][1].key, float(100 * (times[index] / times[other] - 1)))


def _taken_apart(key: str) -> tuple[tuple[object, ...], tuple[int, ...]]:
    """What must be equal, and what may grow; a key of another form has nothing to compare with."""
    try:
        parsed = parse_key(key)
    except UserError:
        return (key,), ()
    growing = {
        name: value for name, value in parsed.settings.items() if name in SIZE_SETTINGS and isinstance(value, int)
    }
    fixed = tuple((name, value) for name, value in parsed.settings.items() if name not in growing)
    shapes = (*parsed.inputs, parsed.output)
    return (parsed.kind, fixed, len(shapes)), (*growing.values(), *(size for shape in shapes for size in shape))

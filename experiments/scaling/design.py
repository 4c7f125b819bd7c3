"""Which further evaluations would make a law surer, for the least cost?

Cost is taken to grow with size. What an evaluation tells is worked out for a straight line in the logarithm of size,
which any law is like over a short way: its variance at a size follows from the sizes alone (Lindley's expected
information of a linear model, 1956), whatever will be found there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.scaling.laws import Floats, Law

MOST_EVALUATIONS = 1000
_CHOICES = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Evaluations that would about halve the interval at a size."""

    at: float
    """The size that is asked about."""
    sizes: tuple[float, ...]
    """Where to evaluate; the same number of networks at each."""
    each: int
    cost: float
    """Sum of the sizes."""

    def as_dict(self) -> dict[str, Any]:
        return {"at": self.at, "sizes": list(self.sizes), "each": self.each, "cost": self.cost}


def halving(law: Law, at: float) -> Plan | None:
    """The cheapest of evaluations at one size, or at two; None where a thousand would not do."""
    low, high = float(law.points.size.min()), float(law.points.size.max())
    choices = np.geomspace(low, max(high, at), _CHOICES)
    every: list[tuple[float, ...]] = [(float(one),) for one in choices]
    every += [(float(first), float(second)) for first in choices for second in choices if first < second]
    target = _variance(law.points.size, at) / 4
    plans = [
        Plan(at=at, sizes=sizes, each=count, cost=count * sum(sizes))
        for sizes in every
        if (count := _enough(law.points.size, sizes, at, target))
    ]
    return min(plans, key=lambda plan: plan.cost, default=None)


def _enough(known: Floats, sizes: Sequence[float], at: float, target: float) -> int | None:
    """The least number at each size that brings the variance to the target; it falls as the number grows."""

    def reached(count: int) -> bool:
        return _variance(np.concatenate([known, np.repeat(sizes, count)]), at) <= target

    most = MOST_EVALUATIONS // len(sizes)
    if not reached(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _variance(sizes: Floats, at: float) -> float:
    """Of a straight line at a size, in units of the variance of one evaluation."""
    logs = np.log(sizes)
    centred = logs - logs.mean()
    return 1 / len(logs) + (math.log(at) - float(logs.mean())) ** 2 / max(float((centred**2).sum()), 1e-12)

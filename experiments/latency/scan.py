"""How much of a search space fits a latency budget? All of a small space, a sample of a large one.

May import numpy, scipy, evaluators.compiled, search_space and latency_lut: no torch, no store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from evaluators.compiled import CHUNK, CompiledTable
from latency_lut.table import LEVEL
from search_space import SearchSpace
from topformer.errors import UserError

MOST_ENUMERATED = 100_000
"""Candidates that are gone through one by one: about 30 s."""
SAMPLES = 1_000_000
QUANTILES_PCT = (0, 5, 25, 50, 75, 95, 100)
BINS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanPlan:
    """What to count, and how many to draw where a space is too large to go through."""

    budget_ms: float
    samples: int = SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.budget_ms <= 1e12:
            raise UserError(f"a latency budget must be a positive number of ms, not {self.budget_ms:g}.")
        if not 100 <= self.samples <= 50_000_000:
            raise UserError(f"samples must be from 100 to 50000000, not {self.samples}.")
        if self.seed < 0:
            raise UserError(f"a seed must be a whole number from 0, not {self.seed}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Latencies of a space, by the table's estimates."""

    space: SearchSpace
    budget_ms: float
    exact: bool
    """Every distinct candidate was priced, not a sample."""
    latencies_ms: NDArray[np.float64]
    """Ascending."""
    scale_pct: float | None
    """How far the table's common scale may be off; None: it was never compared with whole networks."""

    @property
    def counted(self) -> int:
        return int(self.latencies_ms.size)

    @property
    def fitting(self) -> int:
        return self._within(self.budget_ms)

    @property
    def share(self) -> float:
        return self.fitting / self.counted

    @property
    def share_interval(self) -> tuple[float, float]:
        """Wilson's interval of the share in the whole space, at `LEVEL`; the share itself where it is exact."""
        if self.exact:
            return self.share, self.share
        interval = binomtest(self.fitting, self.counted).proportion_ci(confidence_level=LEVEL, method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def share_if_scale_is_off(self) -> tuple[float, float] | None:
        """The share if all latencies are in truth slower, or faster, by `scale_pct`; None where that is not known."""
        if self.scale_pct is None:
            return None
        slower, faster = 1 + self.scale_pct / 100, max(1 - self.scale_pct / 100, 1e-9)
        return self._within(self.budget_ms / slower) / self.counted, self._within(
            self.budget_ms / faster
        ) / self.counted

    @property
    def quantiles_ms(self) -> dict[int, float]:
        """By percent of the candidates that are at most as slow."""
        return {percent: float(np.percentile(self.latencies_ms, percent)) for percent in QUANTILES_PCT}

    def histogram(self) -> tuple[tuple[float, float, int], ...]:
        """(from ms, to ms, candidates) of equal bins over the whole range."""
        counts, edges = np.histogram(self.latencies_ms, bins=BINS)
        return tuple(
            (float(low), float(high), int(count))
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        )

    def _within(self, ms: float) -> int:
        return int(np.searchsorted(self.latencies_ms, ms, side="right"))


def scan(compiled: CompiledTable, plan: ScanPlan, *, report: Callable[[int, int], None]) -> Scan:
    """Enumerates a space of up to `MOST_ENUMERATED` candidates; draws from a larger one."""
    exact = compiled.space.size <= MOST_ENUMERATED
    done, total = 0, compiled.space.size if exact else plan.samples
    rng = np.random.default_rng(plan.seed)
    parts = []
    for columns in compiled.every() if exact else (compiled.sample(count, rng) for count in _chunks(plan.samples)):
        parts.append(compiled.estimate_ms(columns))
        done += parts[-1].size
        report(done, total)
    return Scan(
        space=compiled.space,
        budget_ms=plan.budget_ms,
        exact=exact,
        latencies_ms=np.sort(np.concatenate(parts)),
        scale_pct=compiled.table.header.error_model.scale_pct,
    )


def _chunks(samples: int) -> list[int]:
    return [min(CHUNK, samples - start) for start in range(0, samples, CHUNK)]

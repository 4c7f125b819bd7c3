"""How likely is each trial on the front? From the noise between trainings, and what latencies have in common.

The mIoU of a trial and the latency of every source of error are drawn together, many times; a trial's probability is
the share of the draws in which no other dominates it. Errors that two architectures share cancel, as they do between
two networks on one phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evaluators.trust import Z_90
from experiments.front.pareto import evaluated, nearest, non_dominated, points
from experiments.store.records import Trial
from latency_lut.table import LatencyTable
from topformer.blocks import candidate_blocks

DRAWS = 2000
MOST_COMPARED = 300
"""Trials nearest to the front; the others are further below it than these."""
MOST_NAMED = 8
"""Pairs that a sentence names."""
REPORT_FREEDOM = 6
"""Degrees of freedom that a trust report's noise counts for beside a race's trainings: three of T, S and B each."""
_SEED = 0
Floats = NDArray[np.float64]


def front_probabilities(
    trials: Sequence[Trial], table: LatencyTable, *, fidelity: str, noise_pct: float
) -> Mapping[int, float]:
    """By trial number, for completed trials of one fidelity.

    `noise_pct` is the standard deviation of one training's mIoU, in points of per cent; an mIoU that is the mean of
    several has less. Only the `MOST_COMPARED` nearest to the front are compared; those below them have 0.
    """
    done = evaluated(trials, fidelity=fidelity)
    if not done:
        return {}
    ms = np.array([trial.latency.total_ms for trial in done])
    miou = np.array([trial.miou_pct for trial in done], dtype=np.float64)
    near = np.array(nearest(points(done), MOST_COMPARED))
    errors = [table.error_terms(candidate_blocks(done[i].candidate)) for i in near]
    sources = sorted({name for one in errors for name in one})
    terms = np.array([[one.get(name, 0.0) for name in sources] for one in errors])
    rng = np.random.default_rng(_SEED)
    latencies = ms[near] + rng.standard_normal((DRAWS, len(sources))) @ terms.T
    spread = noise_pct / np.sqrt([done[i].trainings for i in near])
    mious = miou[near] + spread * rng.standard_normal((DRAWS, len(near)))
    on_front = np.zeros(len(near))
    for row_ms, row_miou in zip(latencies, mious, strict=True):
        on_front[list(non_dominated(np.column_stack([row_ms, row_miou])))] += 1
    found = dict.fromkeys((trial.number for trial in done), 0.0)
    return found | {done[i].number: float(count) / DRAWS for i, count in zip(near, on_front, strict=True)}


def race_noise_pct(mious: Sequence[Sequence[float]], *, known_pct: float | None) -> float | None:
    """Standard deviation of one training, in points: what repeated trainings say, and what a trust report knows.

    None where neither says anything.
    """
    repeated = [np.asarray(one, float) for one in mious if len(one) > 1]
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in repeated)
    freedom = sum(len(one) - 1 for one in repeated)
    if known_pct is not None:
        squares, freedom = squares + REPORT_FREEDOM * known_pct**2, freedom + REPORT_FREEDOM
    return math.sqrt(squares / freedom) if freedom else None


def told_apart(mious: Floats, trainings: Floats, *, noise_pct: float) -> NDArray[np.bool_]:
    """(n, n): whether mean mIoUs of so many trainings each differ by more than 90 % of such means do by noise alone.

    `noise_pct` is the standard deviation of one training.
    """
    margins = Z_90 * noise_pct * np.sqrt(1 / trainings[:, None] + 1 / trainings[None, :])
    return np.asarray(np.abs(mious[:, None] - mious[None, :]) > margins)


def undecided_pairs(trials: Sequence[Trial], *, noise_pct: float) -> tuple[tuple[Trial, Trial], ...]:
    """Pairs of completed trials that are not told apart by their mIoUs; `noise_pct` is that of one training."""
    done = [trial for trial in trials if trial.miou_pct is not None]
    mious = np.array([trial.miou_pct for trial in done], dtype=np.float64)
    apart = told_apart(mious, np.array([trial.trainings for trial in done], dtype=np.float64), noise_pct=noise_pct)
    return tuple((done[i], done[j]) for i, j in combinations(range(len(done)), 2) if not apart[i, j])


def undecided_sentence(trials: Sequence[Trial], *, noise_pct: float | None) -> str | None:
    """Which of some trials cannot be told apart by their mIoU; None where all can, or the noise is not known."""
    pairs = () if noise_pct is None else undecided_pairs(trials, noise_pct=noise_pct)
    if noise_pct is None or not pairs:
        return None
    shown = ", ".join(f"{one.number} and {other.number}" for one, other in pairs[:MOST_NAMED])
    more = f", and {len(pairs) - MOST_NAMED} more pairs" if len(pairs) > MOST_NAMED else ""
    counts = {trial.trainings for pair in pairs for trial in pair}
    margin = (
        f"less than {Z_90 * noise_pct * math.sqrt(2 / counts.pop()):.2f} points"
        if len(counts) == 1
        else (f"less than {Z_90 * noise_pct:.2f} points times the root of 1/n + 1/m, for n and m trainings")
    )
    return f"Not told apart by mIoU, which differs by {margin}: trials {shown}{more}."

"""Rungs around a study's fidelity: cheap screens before it, longer trainings after it.

A screen scores more candidates than a batch needs, and the best by non-domination become trials. A confirmation takes
the best trials, trains them longer or with more seeds, and ranks them among themselves; the sampler sees the declared
fidelity only, and no front mixes two. A screen whose order no trust report vouches for is left out, and the study says
so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.base import Evaluator, Scorer
from experiments.front.pareto import non_dominated


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """Scores candidates before they become trials."""

    scorer: Scorer
    share: float
    """Of the candidates that it scores, those that go on; above 0, below 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """Trains the best trials again."""

    evaluator: Evaluator
    keep: int | None
    """Members at most, besides the anchors."""
    replicates: int
    """Trainings of each member; in a race the most that one gets."""
    front_probability: float | None = None
    """Members are those at least so likely to be on the front, as far as the rung before can tell."""
    noise_pct: float | None = None
    """Standard deviation of one training by the rung before, in points; known where `front_probability` is given."""
    racing: bool = False
    """Whether further seeds go only where members cannot be told apart."""
    trainings: int | None = None
    """Most trainings of a race in all; None: half of what as many of each member would take."""
    own_noise_pct: float | None = None
    """Standard deviation of one training by the rung itself, where a trust report knows it; a race begins with it."""

    @property
    def label(self) -> str:
        return rung_label(self.evaluator.fidelity, self.replicates, racing=self.racing)

    def budget(self, members: int) -> int:
        """Trainings in all for so many members."""
        return math.ceil(members * self.replicates / 2) if self.trainings is None else self.trainings


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The rungs of a study; the declared fidelity stands between the two."""

    screens: tuple[Screen, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    notices: tuple[str, ...] = ()
    """What was left out, and why."""


def rung_label(fidelity: str, replicates: int, *, racing: bool = False) -> str:
    """Mean of so many trainings of a fidelity, or of up to so many in a race."""
    if racing:
        return f"{fidelity} racing x{replicates}"
    return fidelity if replicates == 1 else f"{fidelity} x{replicates}"


def promoted(points: Sequence[tuple[float, float]], count: int) -> tuple[int, ...]:
    """Indices of the best `count` (latency, value) points: front by front, the last by crowding distance.

    Of points that are alike the first goes first; ascending.
    """
    left = list(range(len(points)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        layer = [left[place] for place in non_dominated([points[index] for index in left])]
        left = [index for index in left if index not in set(layer)]
        room = count - len(chosen)
        if len(layer) > room:
            distances = _crowding([points[index] for index in layer])
            layer = sorted(layer, key=lambda index: (-distances[points[index]], index))[:room]
        chosen += layer
    return tuple(sorted(chosen))


def _crowding(layer: Sequence[tuple[float, float]]) -> dict[tuple[float, float], float]:
    """Of each point of a front by latency: extent of the gap between its neighbours, both axes as shares; ends are
    infinitely far."""
    (first_ms, first_value), (last_ms, last_value) = layer[0], layer[-1]
    distances = {layer[0]: float("inf"), layer[-1]: float("inf")}
    for before, point, after in zip(layer, layer[1:], layer[2:], strict=False):
        distances[point] = (after[0] - before[0]) / (last_ms - first_ms)
        distances[point] += (after[1] - before[1]) / (last_value - first_value)
    return distances

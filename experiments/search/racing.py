"""Which trainings decide the most? Further seeds for architectures that cannot be told apart on or near a front.

Two architectures are told apart where their mean mIoUs differ by more than 90 % of such differences would by noise
alone (`experiments.front.confidence`). One that a decidedly better architecture of no more latency beats is out of the
race, and so are all its pairs. The next training goes where it is expected to decide the most pairs of what is left,
counted per training, looking ahead over several trainings of one architecture or of both of a pair: one training alone
may decide nothing. Which that is depends on what is recorded, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evaluators.trust import Z_90
from experiments.front.confidence import Floats, told_apart

LENGTHS = (1, 2, 4)
"""Trainings of one architecture that are looked ahead over."""
PAIRED = 8
"""Architectures of which pairs are looked at, those that gain most alone."""


def undecided(ms: Floats, miou: Floats, trainings: Floats, *, noise_pct: float) -> NDArray[np.bool_]:
    """(n, n), symmetric: pairs that are not told apart, and neither of which is decidedly dominated."""
    left = in_race(ms, miou, trainings, noise_pct=noise_pct)
    pairs = left[:, None] & left[None, :] & ~told_apart(miou, trainings, noise_pct=noise_pct)
    np.fill_diagonal(pairs, val=False)
    return pairs


def in_race(ms: Floats, miou: Floats, trainings: Floats, *, noise_pct: float) -> NDArray[np.bool_]:
    """(n,): those that no architecture of at most their latency is decidedly better than."""
    apart = told_apart(miou, trainings, noise_pct=noise_pct)
    dominated = apart & (ms[None, :] <= ms[:, None]) & (miou[None, :] > miou[:, None])
    return np.asarray(~dominated.any(axis=1))


def next_trainings(
    ms: Floats, miou: Floats, trainings: Floats, *, noise_pct: float, most: int, count: int
) -> tuple[int, ...]:
    """Indices of up to `count` architectures to be trained once more each, or several times where one is there twice.

    `trainings` of each are the past ones, `miou` their mean, `most` as many as one may have. Empty: all is decided that
    may be.
    """
    race = _Race(ms=ms, miou=miou, trainings=trainings, noise_pct=noise_pct)
    planned = np.zeros(len(ms))
    while planned.sum() < count:
        move = race.best_move(planned, most=most)
        if move is None:
            break
        for one in move[: count - int(planned.sum())]:
            planned[one] += 1
    return tuple(int(one) for one in np.repeat(np.arange(len(ms)), planned.astype(int)))


class _Race:
    """What is known of the architectures, and what trainings are expected to decide."""

    def __init__(self, *, ms: Floats, miou: Floats, trainings: Floats, noise_pct: float) -> None:
        self.miou, self.trainings, self.noise_pct = miou, trainings, noise_pct
        self.rivals = (ms[None, :] <= ms[:, None]) & ~np.eye(len(ms), dtype=bool)
        """[a, b]: b takes no longer than a."""
        apart = told_apart(miou, trainings, noise_pct=noise_pct)
        self.better = (apart & (miou[None, :] > miou[:, None])).astype(float)
        """[a, b]: whether b is decidedly better than a."""
        self.open_pairs = undecided(ms, miou, trainings, noise_pct=noise_pct)
        self.towards, self.variance = _expected(miou, noise_pct**2 / trainings)

    def best_move(self, planned: Floats, *, most: int) -> tuple[int, ...] | None:
        """Whom to train beside what is planned, one architecture or both of a pair; None where nothing is gained."""
        now = float(self.settled(planned[None])[0])
        rates: dict[tuple[int, ...], float] = {}
        alone = [(int(one),) for one in np.flatnonzero(self.open_pairs.any(axis=1))]
        self._rate(alone, planned, now, most, rates)
        leading = sorted(sorted(rates, key=lambda move: -rates[move])[:PAIRED])
        pairs = [(one, other) for (one,), (other,) in combinations(leading, 2) if self.open_pairs[one, other]]
        self._rate(pairs, planned, now, most, rates)
        best = max(rates, key=lambda move: (rates[move], -len(move)), default=None)
        return best if best is not None and rates[best] > 0 else None

    def _rate(
        self,
        moves: Sequence[tuple[int, ...]],
        planned: Floats,
        now: float,
        most: int,
        rates: dict[tuple[int, ...], float],
    ) -> None:
        """Note of each move what it is expected to decide, per training, at its best length."""
        plans, of = list[Floats](), list[tuple[tuple[int, ...], int]]()
        for move in moves:
            for further in LENGTHS:
                plan = planned.copy()
                plan[list(move)] += further
                if (self.trainings + plan)[list(move)].max() <= most:
                    plans.append(plan)
                    of.append((move, further * len(move)))
        if not plans:
            return
        for (move, count), settled in zip(of, self.settled(np.array(plans)).tolist(), strict=True):
            rates[move] = max(rates.get(move, -np.inf), round((settled - now) / count, 9))

    def settled(self, plans: Floats) -> Floats:
        """(plans, n) further trainings of each -> (plans,): of how many architectures it is expected to be decided then
        whether they are on the front: off it by one decidedly better rival, on it where all rivals are decidedly
        worse."""
        better = self._better_after(plans)
        off = 1 - np.where(self.rivals, 1 - better, 1.0).prod(axis=2)
        on = np.where(self.rivals, better.transpose(0, 2, 1), 1.0).prod(axis=2)
        return np.asarray((off + on).sum(axis=1))

    def _better_after(self, plans: Floats) -> Floats:
        """(plans, n) -> (plans, n, n): probability that b will be decidedly better than a."""
        many = self.trainings + plans
        share = plans / many
        mean = self.miou + share * (self.towards - self.miou)
        moved = share**2 * (self.noise_pct**2 / np.maximum(plans, 1) + self.variance)
        margin = Z_90 * self.noise_pct * np.sqrt(1 / many[:, :, None] + 1 / many[:, None, :])
        spread = np.sqrt(moved[:, :, None] + moved[:, None, :])
        same = spread == 0
        drawn = ndtr((mean[:, None, :] - mean[:, :, None] - margin) / np.where(same, 1, spread))
        return np.where(same, self.better, drawn)


def _expected(miou: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """What the true mIoUs are expected to be, and how surely: means are partly lucky, the more the less they spread."""
    centre = float(miou.mean())
    spread = max(float(((miou - centre) ** 2).sum() / max(len(miou) - 1, 1) - variance.mean()), 1e-9)
    trust = spread / (spread + variance)
    return centre + trust * (miou - centre), trust * variance

"""Which candidates would move the front most? Asked of a predictor of mIoU, with latencies from the table itself.

Optuna's model-based samplers have to learn the latency from a study's trials; here it is known exactly for every
candidate of the space, so only mIoU is uncertain, and candidates over the budget are never looked at. A batch is
chosen together: functions drawn from the predictor say what each candidate may add to the front's hypervolume, and
each choice counts as evaluated for the next (expected hypervolume improvement for a batch, by Monte Carlo).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evaluators.compiled import CompiledTable
from experiments.front.pareto import non_dominated
from experiments.front.predictor import Floats, Predictor
from search_space.space import Knob, SearchSpace
from topformer.config import STAGE_STRIDES

Indices = NDArray[np.int32]
"""(n, knobs) of each candidate's choices, in the order of the space's knobs."""

POOL = 3000
"""Random candidates looked at for a batch."""
MOST_TRIES = 30
"""Times that as many are drawn where the budget leaves few."""
ROUNDS = 3
"""Times that the most promising are varied."""
PARENTS = 60
CHILDREN = 600
SHORTLIST = 300
"""Candidates among which a batch is chosen together."""
MOST_NEAR = 200
"""Evaluated candidates that are drawn anew with the shortlist: their values are known up to the noise."""
NEAR = 100
"""Candidates of about a latency, among which a first batch chooses what has not been tried."""
DRAWS = 64
LATENCIES = 200
"""Places at which a front's height is known."""
MOST_CHANGES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """What the predictor learns from."""

    points: Sequence[Mapping[str, int | str]]
    latency_ms: Floats
    miou_pct: Floats

    @property
    def known(self) -> Floats:
        """(n, 2): latency and mIoU of each."""
        return np.column_stack([self.latency_ms, self.miou_pct])


class Guide:
    """Proposals for one space, table and budget; compiling the table takes seconds for a large space."""

    def __init__(self, space: SearchSpace, compiled: CompiledTable, *, max_ms: float | None) -> None:
        self.space = space
        self._compiled = compiled
        self._names = [knob.name for knob in space.knobs]
        self._choices = [len(knob.choices) for knob in space.knobs]
        self._depth_of_row = _depth_of_row(space)
        self._lifted = [_lifted(knob) for knob in space.knobs]
        self._is_word = np.array([not _is_numeric(knob) for knob in space.knobs])
        self._words = self._is_word[:, None] & (np.arange(max(self._choices)) < np.array(self._choices)[:, None])
        rng = np.random.default_rng(0)
        sample = self.latency_ms(self._random(POOL, rng))
        self.reference_ms = float(max_ms or sample.max())
        self._max_ms = max_ms
        self._log_ms = float(np.log(sample.min())), float(np.log(sample.max()))

    def latency_ms(self, indices: Indices) -> Floats:
        return self._compiled.estimate_ms({name: indices[:, i] for i, name in enumerate(self._names)})

    def features(self, indices: Indices, latency_ms: Floats) -> Floats:
        """(n, d): every knob on a scale from 0 to 1, or one place for each word, and the latency's logarithm."""
        columns = [lifted[indices[:, i]] for i, lifted in enumerate(self._lifted)]
        low, high = self._log_ms
        size = (np.log(latency_ms) - low) / max(high - low, 1e-9)
        return np.hstack([*columns, size[:, None]])

    def fit(self, evaluated: Evaluated) -> Predictor:
        indices = self._indices(evaluated.points)
        return Predictor.fit(self.features(indices, evaluated.latency_ms), evaluated.miou_pct)

    def batch(
        self, evaluated: Evaluated, pending: Sequence[Mapping[str, int | str]], *, size: int, seed: int
    ) -> list[dict[str, int | str]]:
        """Up to `size` canonical points within the budget, the most telling first; none of those that are given."""
        rng = np.random.default_rng(seed)
        predictor = self.fit(evaluated)
        known = self._indices([*evaluated.points, *pending])
        front = self._indices(evaluated.points)[list(non_dominated(evaluated.known))]
        pool, ms = self._pool(predictor, evaluated, front, known, rng)
        if not len(pool):
            return []
        chosen = [self._point(pool[i]) for i in self._together(predictor, evaluated, pool, ms, size, rng)]
        untried = self._with_untried_words(known, rng)
        return [*untried, *(point for point in chosen if point not in untried)][:size]

    def _with_untried_words(self, known: Indices, rng: np.random.Generator) -> list[dict[str, int | str]]:
        """Random points that together have every word which no known candidate has, as far as the budget allows.

        No predictor can guess what a word is worth from others; a knob that has never varied seems worth nothing.
        """
        tried = self._tried(known)
        if not (self._words & ~tried).any():
            return []
        drawn, _ = self._random_within(POOL, rng)
        found: list[dict[str, int | str]] = []
        while len(drawn):
            fresh = (~tried[np.arange(len(self._choices)), drawn] & self._is_word).sum(1)
            best = int(np.argmax(fresh))
            if not fresh[best]:
                break
            found.append(self._point(drawn[best]))
            tried |= self._tried(drawn[[best]])
        return found

    def spread(
        self, known: Sequence[Mapping[str, int | str]] = (), *, size: int, seed: int
    ) -> list[dict[str, int | str]]:
        """Points within the budget for a first batch: of evenly spread latencies, and together with the known ones of
        as many choices of every knob as can be, words first: between numbers a predictor can guess."""
        rng = np.random.default_rng(seed)
        drawn, ms = self._random_within(POOL, rng)
        if not len(drawn):
            return []
        tried = self._tried(self._indices(known))
        found: list[int] = []
        for wanted in rng.permutation(np.geomspace(ms.min(), ms.max(), size)):
            free = np.setdiff1d(np.arange(len(ms)), found)
            if not len(free):
                break
            near = free[np.argsort(abs(np.log(ms[free] / wanted)), kind="stable")[:NEAR]]
            fresh = ~tried[np.arange(len(self._choices)), drawn[near]]
            found.append(int(near[np.lexsort((-fresh.sum(1), -(fresh & self._is_word).sum(1)))[0]]))
            tried |= self._tried(drawn[found[-1:]])
        return [self._point(drawn[i]) for i in found]

    def _tried(self, indices: Indices) -> NDArray[np.bool_]:
        """(knobs, most choices) whether any of the candidates has it."""
        tried = np.zeros((len(self._choices), max(self._choices)), dtype=np.bool_)
        tried[np.arange(len(self._choices)), indices] = True
        return tried

    def _pool(
        self, predictor: Predictor, evaluated: Evaluated, front: Indices, known: Indices, rng: np.random.Generator
    ) -> tuple[Indices, Floats]:
        """The shortlist: candidates of greatest expected improvement, after some rounds of varying the best."""
        step = _Staircase.of(evaluated, self.reference_ms)
        drawn = np.vstack([self._random_within(POOL, rng)[0], self._varied(front, front, CHILDREN, rng)])
        pool, ms = self._new(drawn, known)
        for last in (*[False] * ROUNDS, True):
            mean, deviation = predictor.predict(self.features(pool, ms))
            best = np.argsort(-step.expected_gain(ms, mean, deviation), kind="stable")
            if last:
                break
            parents = np.vstack([pool[best[:PARENTS]], front])
            pool, ms = self._new(
                np.vstack([pool[best[:CHILDREN]], self._varied(parents, parents, CHILDREN, rng)]), known
            )
        return pool[best[:SHORTLIST]], ms[best[:SHORTLIST]]

    def _together(
        self,
        predictor: Predictor,
        evaluated: Evaluated,
        pool: Indices,
        ms: Floats,
        size: int,
        rng: np.random.Generator,
    ) -> list[int]:
        """Greedily, by the mean improvement over functions drawn for the pool and for what is evaluated."""
        near = self._near(predictor, evaluated)
        features = np.vstack([predictor.features[near], self.features(pool, ms)])
        drawn = predictor.draws(features, DRAWS, rng)
        steps = _Staircase.drawn(evaluated.latency_ms[near], drawn[:, : len(near)], self.reference_ms)
        values = drawn[:, len(near) :]
        chosen: list[int] = []
        for _ in range(min(size, len(pool))):
            gains = steps.gains(ms, values).mean(0)
            gains[chosen] = -np.inf
            best = int(np.argmax(gains))
            chosen.append(best)
            steps = steps.raised(ms[best], values[:, best])
        return chosen

    def _near(self, predictor: Predictor, evaluated: Evaluated) -> NDArray[np.intp]:
        """Those of the evaluated that may be on the front for all that is known, the likeliest `MOST_NEAR`."""
        mean, deviation = predictor.predict(predictor.features)
        front = Evaluated(points=evaluated.points, latency_ms=evaluated.latency_ms, miou_pct=mean)
        heights = _Staircase.of(front, self.reference_ms).at(evaluated.latency_ms)
        return np.argsort(-(mean - heights) / np.maximum(deviation, 1e-9), kind="stable")[:MOST_NEAR]

    def _within(self, indices: Indices) -> tuple[Indices, Floats]:
        ms = self.latency_ms(indices)
        fitting = ms <= self._max_ms if self._max_ms is not None else np.ones(len(ms), dtype=bool)
        return indices[fitting], ms[fitting]

    def _random_within(self, count: int, rng: np.random.Generator) -> tuple[Indices, Floats]:
        """Up to `count` that fit the budget; fewer where few of the space do."""
        parts: list[tuple[Indices, Floats]] = []
        for _ in range(MOST_TRIES):
            parts.append(self._within(self._random(count, rng)))
            if sum(len(ms) for _, ms in parts) >= count:
                break
        return np.vstack([indices for indices, _ in parts])[:count], np.concatenate([ms for _, ms in parts])[:count]

    def _new(self, indices: Indices, known: Indices) -> tuple[Indices, Floats]:
        """Within the budget, each once, none that is known."""
        there = {row.tobytes() for row in known}
        kept = []
        for i, row in enumerate(indices):
            if (key := row.tobytes()) not in there:
                there.add(key)
                kept.append(i)
        return self._within(indices[kept])

    def _random(self, count: int, rng: np.random.Generator) -> Indices:
        columns = self._compiled.sample(count, rng)
        return self._canonical(np.stack([columns[name] for name in self._names], axis=1))

    def _varied(self, mothers: Indices, fathers: Indices, count: int, rng: np.random.Generator) -> Indices:
        """Children of two, half of them of one parent alone, with one to three knobs changed."""
        a = mothers[rng.integers(len(mothers), size=count)]
        b = fathers[rng.integers(len(fathers), size=count)]
        crossed = rng.random(count) < 0.5
        children = np.where((rng.random(a.shape) < 0.5) & crossed[:, None], b, a)
        changes = rng.integers(1, MOST_CHANGES + 1, size=count)
        order = rng.random(a.shape).argsort(1).argsort(1)
        changed = order < changes[:, None]
        fresh = (rng.random(a.shape) * np.array(self._choices)).astype(np.int32)
        return self._canonical(np.where(changed, fresh, children).astype(np.int32))

    def _canonical(self, indices: Indices) -> Indices:
        """Knobs of absent rows at their first choice, as `SearchSpace.canonical` has them."""
        out = indices.copy()
        for knob, (row, depths, fixed) in self._depth_of_row.items():
            deep = depths[indices[:, fixed]] if fixed is not None else depths
            out[:, knob] = np.where(row < deep, out[:, knob], 0)
        return out

    def _indices(self, points: Sequence[Mapping[str, int | str]]) -> Indices:
        columns = self._compiled.encode(points)
        return np.stack([columns[name] for name in self._names], axis=1)

    def _point(self, row: Indices) -> dict[str, int | str]:
        return {knob.name: knob.choices[int(i)] for knob, i in zip(self.space.knobs, row, strict=True)}


@dataclass(frozen=True, slots=True)
class _Staircase:
    """Fronts as heights over common latencies: (s, LATENCIES) for s functions."""

    places: Floats
    widths: Floats
    heights: Floats

    @classmethod
    def of(cls, evaluated: Evaluated, reference_ms: float) -> _Staircase:
        return cls.drawn(evaluated.latency_ms, evaluated.miou_pct[None, :], reference_ms)

    @classmethod
    def drawn(cls, latency_ms: Floats, miou_pct: Floats, reference_ms: float) -> _Staircase:
        low = min(float(latency_ms.min()), reference_ms)
        places = np.linspace(low * 0.5, reference_ms, LATENCIES)
        heights = np.zeros((len(miou_pct), LATENCIES))
        there = latency_ms[None, :] <= places[:, None]
        for i, values in enumerate(miou_pct):
            heights[i] = np.where(there, np.maximum(values, 0.0)[None, :], 0.0).max(1)
        return cls(places, np.gradient(places), heights)

    def at(self, ms: Floats) -> Floats:
        """(n,) height of the first front at each latency."""
        places = np.searchsorted(self.places, ms, side="right") - 1
        heights: Floats = self.heights[0][np.clip(places, 0, len(self.places) - 1)]
        return heights

    def gains(self, ms: Floats, values: Floats) -> Floats:
        """(s, n) area that each candidate would add to each front."""
        above = np.empty(values.shape)
        weights = self._weights(ms)
        for i, row in enumerate(values):
            above[i] = (np.maximum(row[:, None] - self.heights[i][None, :], 0.0) * weights).sum(1)
        return above

    def expected_gain(self, ms: Floats, mean: Floats, deviation: Floats) -> Floats:
        """(n,) expected area over the first front, of normally distributed values."""
        spread = np.maximum(deviation, 1e-9)[:, None]
        z = (mean[:, None] - self.heights[0][None, :]) / spread
        expected = spread * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        gain: Floats = (expected * self._weights(ms)).sum(1)
        return gain

    def _weights(self, ms: Floats) -> Floats:
        """(n, LATENCIES) widths of the places that each candidate reaches."""
        return np.where(self.places[None, :] >= ms[:, None], self.widths[None, :], 0.0)

    def raised(self, ms: float, values: Floats) -> _Staircase:
        """With one more candidate in each front."""
        reach = self.places >= ms
        heights = np.where(reach[None, :], np.maximum(self.heights, values[:, None]), self.heights)
        return _Staircase(self.places, self.widths, heights)


def _depth_of_row(space: SearchSpace) -> dict[int, tuple[int, NDArray[np.int32], int | None]]:
    """For the place of each knob of a row: the row, the depths that the stage may have, and its depth knob's place."""
    places = {knob.name: i for i, knob in enumerate(space.knobs)}
    found: dict[int, tuple[int, NDArray[np.int32], int | None]] = {}
    for i, knob in enumerate(space.knobs):
        if knob.row is None:
            continue
        place = places.get(f"depth_{STAGE_STRIDES[knob.stage]}")
        depths = (len(space.base.stages[knob.stage]),) if place is None else space.knobs[place].choices
        found[i] = knob.row, np.array([int(depth) for depth in depths], dtype=np.int32), place
    return found


def _is_numeric(knob: Knob) -> bool:
    return all(isinstance(value, int) for value in _values(knob))


def _values(knob: Knob) -> list[object]:
    return [prod(value) if knob.name == "image_size" else value for value in knob.values.values()]


def _lifted(knob: Knob) -> Floats:
    """(choices, features) of a knob: numbers by their rank from 0 to 1, words by one place each."""
    if _is_numeric(knob):
        ranks = np.argsort(np.argsort(np.array(_values(knob)))).astype(float)
        scaled: Floats = (ranks / max(len(ranks) - 1, 1))[:, None]
        return scaled
    places: Floats = np.eye(len(knob.values)) / np.sqrt(2)
    return places

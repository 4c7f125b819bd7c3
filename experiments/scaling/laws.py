"""How does a score of at most 100 % grow with size, and how sure is that beyond the sizes that were tried?

Every form is `offset of the group + factor * shape(size)`; the shape's one or two constants lie on a grid, and offsets
and factor are the weighted least squares of each grid point, in closed form, so that a thousand bootstraps are a few
matrix products. Outliers weigh less (Huber). Forms are compared by what they say of the largest sizes when fitted
without these, never by how well they fit. Saturating laws of this kind: Hestness et al., arXiv:1712.00409; the broken
one: Caballero et al., arXiv:2210.14891.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from topformer.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Form = Literal["line", "power", "broken", "logistic"]
FORMS: tuple[Form, ...] = get_args(Form)
AUTO = "auto"
LEVEL_PCT = 90
LEAST_POINTS, LEAST_SIZES, LEAST_RANGE = 8, 5, 1.3
BOOTSTRAPS = 1000
_CUTS = (0.5, 0.6, 0.7)
"""Shares of the points, the smallest, from which the largest are predicted to compare forms."""
_SURELY = 0.75
"""Share of bootstraps in which a curved form must foretell better than the line before it is preferred."""
_LEAST_FOR_A_CURVE = 50
"""With fewer points a curve bends after their noise: of 40 references, curves foretold the largest third worse."""
_HUBER = 1.345
_MOST_PCT = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Evaluations of networks, or of trainings of different size."""

    size: Floats
    """(n,), all above 0."""
    score_pct: Floats
    """(n,)"""
    group: Integers
    """(n,) index into `groups`."""
    groups: tuple[str, ...]
    """What sets points apart besides their size; each has an offset of its own."""

    def __post_init__(self) -> None:
        if len(self.size) < LEAST_POINTS or len(np.unique(self.size)) < LEAST_SIZES:
            raise UserError(
                f"{len(self.size)} points of {len(np.unique(self.size))} sizes carry no law: at least {LEAST_POINTS} "
                f"of {LEAST_SIZES} sizes are needed; evaluate more networks."
            )
        if self.size.min() <= 0 or not (np.isfinite(self.size).all() and np.isfinite(self.score_pct).all()):
            raise UserError("sizes must be above 0, and sizes and scores finite.")

    def only(self, chosen: NDArray[np.bool_]) -> Points:
        """Those that are chosen."""
        return Points(
            size=self.size[chosen], score_pct=self.score_pct[chosen], group=self.group[chosen], groups=self.groups
        )


@dataclass(frozen=True, slots=True)
class _Fits:
    """The same form fitted to one or to many weightings of the points."""

    offsets: Floats
    """(fits, groups); of a group without weight the mean of the others."""
    factor: Floats
    """(fits,)"""
    constants: Integers
    """(fits,) place in the grid."""

    def at(self, shapes: Floats, group: Integers) -> Floats:
        """(fits, m) scores at sizes with these (m, grid) shapes."""
        return np.minimum(self.offsets[:, group] + self.factor[:, None] * shapes[:, self.constants].T, _MOST_PCT)


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fitted law; make one with `fit`."""

    points: Points
    form: Form
    """The one that is told: it foretold the largest sizes best, or was asked for."""
    error_pct: Mapping[Form, float]
    """What each form errs in the mean of the largest sizes, in points, when fitted without them: the root of the median
    over bootstraps of the squared error."""
    error_reach: float
    """Mean logarithm of how many times larger these were than the largest that was fitted."""
    reference: float
    """Sizes are divided by it."""
    best: Mapping[Form, _Fits]
    bootstraps: Mapping[Form, _Fits]
    drawn: tuple[Form, ...]
    """The form that stands for each bootstrap."""
    residuals: Floats
    """(n,) of the form that is told, in points."""

    @property
    def noise_pct(self) -> float:
        """Standard deviation of a network around the law, in points."""
        return float(np.std(self.residuals, ddof=1))

    def mean(self, size: Floats, group: Integers) -> Floats:
        """(m,) scores of the form that is told."""
        return np.asarray(self.best[self.form].at(self._shapes(self.form, size), group)[0])

    def draws(self, size: Floats, group: Integers) -> Floats:
        """(bootstraps, m) what the law may be: each by its own bootstrap and form."""
        every = {form: self.bootstraps[form].at(self._shapes(form, size), group) for form in set(self.drawn)}
        return np.array([every[form][number] for number, form in enumerate(self.drawn)])

    def interval(self, size: float, group: int = 0, *, networks: int = 0, seed: int = 0) -> tuple[float, float]:
        """90 % interval of the law at a size; of the mean of so many further networks where that is above 0."""
        sizes, groups = np.full(max(networks, 1), size), np.full(max(networks, 1), group)
        return self._interval(sizes, groups, scatter=networks > 0, seed=seed)

    def mean_interval(self, size: Floats, group: Integers, *, seed: int = 0) -> tuple[float, float, float]:
        """(mean, low, high) of the mean score of further networks of these sizes."""
        return float(self.mean(size, group).mean()), *self._interval(size, group, scatter=True, seed=seed)

    def _interval(self, size: Floats, group: Integers, *, scatter: bool, seed: int) -> tuple[float, float]:
        """Of the mean over these sizes; beyond those that were tried at least as wide as the law erred there."""
        rng = np.random.default_rng(seed)
        drawn = self.draws(size, group).mean(1)
        beyond = float(np.log(np.maximum(size / self.points.size.max(), 1)).mean())
        foretold = self.error_pct[self.form] * min(1.0, beyond / self.error_reach)
        missing = math.sqrt(max(foretold**2 - float(drawn.var()), 0))
        drawn = drawn + rng.normal(0, missing, len(drawn))
        if scatter:
            centred = self.residuals - self.residuals.mean()
            drawn = drawn + rng.choice(centred, (len(drawn), len(size))).mean(1)
        return ends_of(drawn)

    @cached_property
    def ceiling(self) -> tuple[float, float, float] | None:
        """(value, low, high) of what the first group's score approaches; None for a line, which approaches nothing."""
        if self.form == "line":
            return None
        far = np.array([self.reference * 1e9])
        group = np.array([0])
        drawn = self.bootstraps[self.form].at(self._shapes(self.form, far), group)[:, 0]
        return float(self.mean(far, group)[0]), *ends_of(drawn)

    @property
    def grows(self) -> bool:
        """Whether more size surely buys something: a straight line has a slope above 0 in 95 % of bootstraps."""
        return ends_of(self.bootstraps["line"].factor)[0] > 0

    def formula(self, unit: str) -> str:
        """The law of the first group, as a paper would quote it."""
        fits = self.best[self.form]
        offset, factor = float(fits.offsets[0, 0]), float(fits.factor[0])
        constants = grid(self.form)[int(fits.constants[0])]
        x = f"(x / {self.reference:.3g} {unit})"
        match self.form:
            case "line":
                return f"mIoU = {offset:.2f} + {factor:.2f} ln {x}"
            case "power":
                return f"mIoU = {offset:.2f} - {factor:.2f} {x}^-{constants[0]:.3g}"
            case "broken":
                power, at, more = constants
                return (
                    f"mIoU = {offset:.2f} - {factor:.2f} {x}^-{power:.3g} "
                    f"(1 + (x / {self.reference * math.exp(at):.3g} {unit})^4)^-{more / 4:.3g}"
                )
            case "logistic":
                steepness, middle = constants
                return (
                    f"mIoU = {offset:.2f} + {factor:.2f} / "
                    f"(1 + (x / {self.reference * math.exp(middle):.3g} {unit})^-{steepness:.3g})"
                )

    def _shapes(self, form: Form, size: Floats) -> Floats:
        return shapes(form, np.log(size / self.reference))


def ends_of(drawn: Floats) -> tuple[float, float]:
    """Of the 90 % interval of what was drawn."""
    low, high = np.percentile(drawn, [50 - LEVEL_PCT / 2, 50 + LEVEL_PCT / 2])
    return float(low), float(high)


def fit(points: Points, *, form: str = AUTO, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> Law:
    """Fit every form, compare them by extrapolation, and resample the points.

    Raises `UserError` for a form that is unknown, and for sizes that are too alike.
    """
    if form != AUTO and form not in FORMS:
        raise UserError(f"unknown form {form[:40]!r}; available: {AUTO}, {', '.join(FORMS)}.")
    if points.size.max() < LEAST_RANGE * points.size.min():
        raise UserError(
            f"sizes from {points.size.min():.3g} to {points.size.max():.3g} are too alike to carry a law: the largest "
            f"must be at least {LEAST_RANGE:g} times the smallest; evaluate networks of other sizes."
        )
    rng = np.random.default_rng(seed)
    count = len(points.size)
    reference = float(np.exp(np.log(points.size).mean()))
    logs = np.log(points.size / reference)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=bootstraps).astype(np.float64)
    best, resampled, squared, residuals = {}, {}, {}, {}
    for name in FORMS:
        table = shapes(name, logs)
        weights = _robust_weights(table, points)
        best[name] = _fitted(name, table, points, weights[None])
        resampled[name] = _fitted(name, table, points, drawn * weights)
        residuals[name] = points.score_pct - best[name].at(table, points.group)[0]
        squared[name] = _squared_errors(name, table, points, drawn * weights, logs)
    error = {name: float(np.sqrt(np.median(values))) for name, values in squared.items()}
    told = _told(squared, count) if form == AUTO else _form(form)
    return Law(
        points=points,
        form=told,
        error_pct=error,
        error_reach=_reach(logs),
        reference=reference,
        best=best,
        bootstraps=resampled,
        drawn=_drawn_forms(told, squared, rng) if form == AUTO else (told,) * bootstraps,
        residuals=residuals[told],
    )


def grid(form: Form) -> Sequence[tuple[float, ...]]:
    """Constants of a form's shape that are tried, for sizes divided by their geometric mean."""
    match form:
        case "line":
            return [()]
        case "power":
            return [(float(power),) for power in np.geomspace(0.05, 6, 48)]
        case "logistic":
            middles = np.linspace(-4, 0, 24)  # later ones grow ever faster within the data
            return [(float(steep), float(middle)) for steep in np.geomspace(0.2, 8, 24) for middle in middles]
        case "broken":
            return [
                (float(power), float(at), float(more))
                for power in np.geomspace(0.05, 3, 10)
                for at in np.linspace(-1.5, 1.5, 9)
                for more in np.geomspace(0.1, 4, 8)
            ]


def shapes(form: Form, logs: Floats) -> Floats:
    """(n, grid) values at logarithms of sizes; all grow with size."""
    if form == "line":
        return logs[:, None]
    constants = np.array(grid(form)).T
    if form == "power":
        return -np.exp(-np.outer(logs, constants[0]))
    if form == "logistic":
        steepness, middle = constants
        return np.asarray(1 / (1 + np.exp(np.clip(-steepness * (logs[:, None] - middle), -700, 700))))
    power, at, more = constants
    return np.asarray(-np.exp(-power * logs[:, None] - more / 4 * np.logaddexp(0, 4 * (logs[:, None] - at))))


def _fitted(form: Form, table: Floats, points: Points, weights: Floats) -> _Fits:
    """Least squares for every row of the (fits, n) weights and every grid point; the best grid point of each."""
    own = np.zeros((weights.shape[0], table.shape[1]))
    with_score, score_only = own.copy(), np.zeros((weights.shape[0], 1))
    means = []
    for number in range(len(points.groups)):
        inside = points.group == number
        part, score, weight = table[inside], points.score_pct[inside], weights[:, inside]
        total = weight.sum(1, keepdims=True)
        divisor = np.where(total > 0, total, 1)
        shape_sum, score_sum = weight @ part, (weight @ score)[:, None]
        own += weight @ part**2 - shape_sum**2 / divisor
        with_score += weight @ (part * score[:, None]) - shape_sum * score_sum / divisor
        score_only += (weight @ score**2)[:, None] - score_sum**2 / divisor
        means.append((shape_sum / divisor, score_sum[:, 0] / divisor[:, 0], total[:, 0] > 0))
    factor = with_score / np.where(own < 1e-12, np.inf, own)
    if form != "line":  # a saturating law does not shrink
        factor = np.maximum(factor, 0)
    place = (score_only - 2 * factor * with_score + factor**2 * own).argmin(1)
    row = np.arange(len(place))
    chosen = factor[row, place]
    offsets = np.array([np.where(there, score - chosen * shape[row, place], np.nan) for shape, score, there in means]).T
    offsets = np.where(np.isnan(offsets), np.nanmean(offsets, axis=1, keepdims=True), offsets)
    return _Fits(offsets, chosen, place)


def _robust_weights(table: Floats, points: Points) -> Floats:
    """Huber's, after three rounds."""
    weights = np.ones(len(points.size))
    for _ in range(3):
        error = points.score_pct - _fitted("line", table, points, weights[None]).at(table, points.group)[0]
        spread = 1.4826 * float(np.median(np.abs(error - np.median(error)))) + 1e-9
        weights = np.minimum(1, _HUBER * spread / np.maximum(np.abs(error), 1e-12))
    return weights


def _squared_errors(form: Form, table: Floats, points: Points, weights: Floats, logs: Floats) -> Floats:
    """(fits,) squared error in the mean score of the largest, when fitted without them; mean over the cuts."""
    every = []
    for cut in _CUTS:
        top = logs > np.quantile(logs, cut)
        foretold = _fitted(form, table, points, weights * ~top).at(table[top], points.group[top])
        heavy = weights[:, top]
        off = (heavy * (foretold - points.score_pct[top])).sum(1) / np.maximum(heavy.sum(1), 1e-9)
        every.append(off**2)
    return np.asarray(np.mean(every, axis=0))


def _reach(logs: Floats) -> float:
    limits = [np.quantile(logs, cut) for cut in _CUTS]
    return float(np.mean([(logs[logs > limit] - logs[logs <= limit].max()).mean() for limit in limits]))


def _told(squared: Mapping[Form, Floats], points: int) -> Form:
    """The line, unless a curved form foretells better in most bootstraps."""
    wins = {form: float((squared[form] < squared["line"]).mean()) for form in FORMS if form != "line"}
    surely = [form for form, share in wins.items() if share >= _SURELY and points >= _LEAST_FOR_A_CURVE]
    return min(surely, key=lambda form: float(np.median(squared[form])), default="line")


def _drawn_forms(told: Form, squared: Mapping[Form, Floats], rng: np.random.Generator) -> tuple[Form, ...]:
    """The form that is told, and for as many bootstraps as a power law would foretell better, that one."""
    count = len(squared["line"])
    if told != "line":
        return (told,) * count
    share = float((squared["power"] < squared["line"]).mean())
    return tuple("power" if other else "line" for other in rng.random(count) < share)


def _form(name: str) -> Form:
    return next(form for form in FORMS if form == name)

"""How far are sums of rows from whole networks? The statistics of measuring: correction, scale and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

from latency_lut.table import (
    LEAST_SHARE,
    LEVEL,
    Correction,
    ErrorModel,
    LatencyRow,
    NetworkCheck,
    edge_elements,
)
from topformer.blocks import Block

_LEAST_NETWORKS = 2
"""Networks from which an error model can be calibrated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A network that was timed as a whole, and what a table knows of its blocks."""

    name: str
    whole_ms: float
    repeat_ms: float | None
    keys: tuple[str, ...]
    """Of its blocks, in the order they run; so are all that follow."""
    alone_ms: NDArray[np.float64]
    edges: NDArray[np.float64]
    """Elements of inputs and output."""
    weights: NDArray[np.float64]
    """Parameters."""

    @classmethod
    def of(
        cls,
        name: str,
        blocks: Sequence[Block],
        rows: Mapping[str, LatencyRow],
        whole_ms: float,
        repeat_ms: float | None,
    ) -> Whole:
        return cls(
            name=name,
            whole_ms=whole_ms,
            repeat_ms=repeat_ms,
            keys=tuple(block.key for block in blocks),
            alone_ms=np.array([rows[block.key].median_ms for block in blocks]),
            edges=np.array([edge_elements(block) for block in blocks], dtype=float),
            weights=np.array([block.parameters for block in blocks], dtype=float),
        )

    @property
    def reference_ms(self) -> float:
        return self.whole_ms if self.repeat_ms is None else (self.whole_ms + self.repeat_ms) / 2

    def block_ms(self, correction: Correction) -> NDArray[np.float64]:
        """As `Correction.within_network_ms`."""
        change_ms = 1e-6 * (correction.weight_ns * self.weights - correction.edge_ns * self.edges) - correction.block_ms
        return np.maximum(self.alone_ms + change_ms, LEAST_SHARE * self.alone_ms)

    def check(self, correction: Correction, unseen_ms: float) -> NetworkCheck:
        return NetworkCheck(
            name=self.name,
            whole_ms=self.whole_ms,
            repeat_ms=self.repeat_ms,
            sum_ms=round(float(self.block_ms(correction).sum()), 5),
            unseen_ms=round(unseen_ms, 5),
        )


def fit(seen: Sequence[Whole], unseen: Sequence[Whole] = ()) -> tuple[ErrorModel, tuple[NetworkCheck, ...]]:
    """Correction, scale and errors from the networks seen, and checks of all networks.

    Terms of the correction are kept where networks that they were not fitted on (each one seen is left out once) are
    predicted better with them, by more than twice the standard error of the gain in squared error. Two sets are tried,
    not all: picked from seven after noisy measurements of 14 networks, single terms made 15 others worse (5.4 and 5.8 %
    mean error where no term left 4.2 and 4.5 %). What a check of a network seen calls unseen is left out.
    """
    terms = _best_terms(seen)
    correction = _correction(seen, terms)
    by_row = [_by_key(whole, correction) for whole in seen]
    checks = [whole.check(correction, left_ms) for whole, left_ms in zip(seen, _left_out_ms(seen, terms), strict=True)]
    model = replace(calibrate(checks, by_row, fitted=1 + len(terms)), correction=correction)
    model = _as_wide_as_left_out(model, checks, by_row)
    held_out = [whole.check(correction, model.scale * float(whole.block_ms(correction).sum())) for whole in unseen]
    return model, (*checks, *held_out)


def _best_terms(seen: Sequence[Whole]) -> tuple[str, ...]:
    """Fewest first; none where there are too few networks to tell."""
    best: tuple[str, ...] = ()
    least = _left_out_squares(seen, best)
    for terms in _TERM_SETS:
        if len(seen) < len(terms) + 1 + _SPARE_NETWORKS:
            break
        squares = _left_out_squares(seen, terms)
        gain = least - squares
        if gain.mean() > _SURE * gain.std(ddof=1) / math.sqrt(len(seen)):
            best, least = terms, squares
    return best


def _left_out_squares(seen: Sequence[Whole], terms: tuple[str, ...]) -> NDArray[np.float64]:
    """Squared relative errors."""
    references = np.array([whole.reference_ms for whole in seen])
    squares: NDArray[np.float64] = (np.array(_left_out_ms(seen, terms)) / references - 1) ** 2
    return squares


def _left_out_ms(seen: Sequence[Whole], terms: tuple[str, ...]) -> list[float]:
    """Of each network, from a correction and a scale fitted on the others; a lone network has no others."""
    if len(seen) < _LEAST_NETWORKS:
        return [float(whole.alone_ms.sum()) for whole in seen]
    left_out = []
    for index, whole in enumerate(seen):
        others = [*seen[:index], *seen[index + 1 :]]
        correction = _correction(others, terms)
        scale = fmean(other.reference_ms / float(other.block_ms(correction).sum()) for other in others)
        left_out.append(scale * float(whole.block_ms(correction).sum()))
    return left_out


def _correction(seen: Sequence[Whole], terms: tuple[str, ...]) -> Correction:
    """Least squares of the relative errors of scale * (sum of rows + terms), no coefficient below 0."""
    if not terms:
        return Correction()
    columns = [
        [
            float(whole.alone_ms.sum()),
            *(sign * float(amounts(whole)) for sign, amounts in (_TERMS[term] for term in terms)),
        ]
        for whole in seen
    ]
    relative = np.array(columns) / np.array([[whole.reference_ms] for whole in seen])
    (scale, *coefficients), _ = nnls(relative, np.ones(len(seen)))
    if scale <= 0:
        return Correction()
    return Correction(**{term: round(each / scale, 6) for term, each in zip(terms, coefficients, strict=True)})


_TERMS: Mapping[str, tuple[int, Callable[[Whole], float]]] = {
    "block_ms": (-1, lambda whole: len(whole.keys)),
    "edge_ns": (-1, lambda whole: 1e-6 * float(whole.edges.sum())),
    "weight_ns": (1, lambda whole: 1e-6 * float(whole.weights.sum())),
}
"""Of a `Correction`: its sign, and a network's amount of it in milliseconds for a coefficient of 1."""
_TERM_SETS = (("edge_ns", "weight_ns"), ("block_ms", "edge_ns", "weight_ns"))
_SPARE_NETWORKS = 3
"""More networks than coefficients, at least, for a term to be tried."""
_SURE = 2


def _by_key(whole: Whole, correction: Correction) -> dict[str, float]:
    by_key: dict[str, float] = {}
    for key, ms in zip(whole.keys, whole.block_ms(correction), strict=True):
        by_key[key] = by_key.get(key, 0.0) + float(ms)
    return by_key


def calibrate(
    checks: Sequence[NetworkCheck], ms_by_row: Sequence[Mapping[str, float]], *, fitted: int = 1
) -> ErrorModel:
    """The scale and the errors that whole networks give; `ms_by_row` are each network's times by block key, `fitted` is
    how many coefficients were: the scale, and the terms of a correction that the times have already.

    With r_i = whole / sum of rows of n networks: scale = mean(r). d_i = r_i / scale - 1 is what the scale leaves,
    s = sqrt(sum(d_i^2) / (n - f)) its RMS with the degrees of freedom of the f fitted coefficients taken off; t =
    Student's t at the level with n - f degrees. What was fitted is known to about t * s * sqrt(f / n): `scale_pct`.
    What differs between networks cannot be an error of the common scale; it is laid on the rows, equally and
    independently, so that a network of the average mix gets t * s from them: `row_pct` = t * s /
    sqrt(mean_i(sum_k(share_ik^2))). Both together are the prediction interval t * s * sqrt(1 + f / n) of one more
    network. Laid on block kinds instead, the same error cancels in differences that in truth it does not: of the 36
    pairs of 9 networks, in three measurements with onnxruntime, 33 to 44 % were inside their 90 % interval, against 92
    to 94 % this way. Fewer than two networks calibrate nothing.
    """
    n = len(checks)
    if n < max(_LEAST_NETWORKS, fitted + 1):
        return ErrorModel()
    ratios = [check.reference_ms / check.sum_ms for check in checks]
    scale = fmean(ratios)
    left = math.sqrt(math.fsum((ratio / scale - 1) ** 2 for ratio in ratios) / (n - fitted))
    spread_pct = 100 * student_t(n - fitted) * left
    concentration = fmean(map(_concentration, ms_by_row))
    return ErrorModel(
        scale=round(scale, 5),
        scale_pct=round(spread_pct * math.sqrt(fitted / n), 4),
        row_pct=round(spread_pct / math.sqrt(concentration), 4),
    )


def _as_wide_as_left_out(
    model: ErrorModel, checks: Sequence[NetworkCheck], ms_by_row: Sequence[Mapping[str, float]]
) -> ErrorModel:
    """Errors so much larger that intervals hold the networks left out, where these err more than a normal distribution
    of the same spread would.

    With e_i the error of network i where it is left out, over the half-width of its interval: an interval holds one
    more network with the level's probability, whatever the distribution, if it is wider by the k-th smallest of n e_i,
    k = level * (n + 1) rounded up (split conformal prediction). Under nine networks there is no such e_i, and Student's
    t, which is large then, has to do. What this adds is in experiments/results/host_table/splits.json.
    """
    n = len(checks)
    rank = math.ceil(LEVEL * (n + 1))
    if model.scale_pct is None or rank > n:
        return model
    errors = []
    for check, by_row in zip(checks, ms_by_row, strict=True):
        assert check.unseen_ms is not None
        half_pct = math.hypot(model.scale_pct, model.row_pct * math.sqrt(_concentration(by_row)))
        errors.append(100 * abs(check.reference_ms / check.unseen_ms - 1) / half_pct if half_pct else 0.0)
    wider = max(sorted(errors)[rank - 1], 1.0)
    return replace(model, scale_pct=round(wider * model.scale_pct, 4), row_pct=round(wider * model.row_pct, 4))


def _concentration(ms_by_row: Mapping[str, float]) -> float:
    """Sum of the squared shares of a network's time: 1 where one row takes it all."""
    whole_ms = math.fsum(ms_by_row.values())
    return math.fsum((ms / whole_ms) ** 2 for ms in ms_by_row.values())


def student_t(degrees: int) -> float:
    """The point of Student's t that bounds intervals at `LEVEL`, on either side."""
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))

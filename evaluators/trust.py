"""How far can a ranking be believed? Agreement with a reference, its error, and the orderings the paper states.

Pure functions of numbers; nothing is trained here. Rank correlation alone flatters: any spread of sizes is ranked well
by the parameter count, so agreement is also given within a band of equal latency, and beside baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topformer.config import BASE, SMALL, TINY, TopFormerConfig
from topformer.errors import UserError

RESAMPLES = 2000
INTERVAL_PCT = 90
TRUSTED_TAU = 0.6
"""A search on a proxy whose Kendall tau is lower, or unknown, says so."""
FAR_CUE_IOU_PCT = 100 / 3
"""Mean IoU of the classes that only a far cue tells apart, three by three, from which on it counts as found: always
saying the same of the three gives a third to one of them and nothing to the others."""
LEAST_RANKED = 4
"""Architectures that a rank correlation is worth printing for."""
NEARLY_EQUAL_PCT = 1.0
"""mIoU that batch size alone is worth in the paper: "nearly equal" means no more than that."""
Z_90 = 1.645  # of a two-sided interval of 90 %
TOPS = (1, 3, 5)
"""First architectures of an order whose best is compared with the best of all."""
TELLS_ALL = 1e-9
"""Part of an order that is left where another tells all of it: rounding."""

Relation = Literal["better", "not worse", "nearly equal"]
Verdict = Literal["reproduced", "inverted", "undecided"]
Floats = NDArray[np.float64]
Signs = NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A statistic with its 90 % bootstrap interval over architectures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well values order architectures, by the reference's order."""

    count: int
    kendall: Estimate
    """Tau-b."""
    spearman: Estimate


def agreement(reference: Sequence[float], values: Sequence[float], *, seed: int = 0) -> Agreement | None:
    """None for fewer than 4 architectures, or where either side says the same of all."""
    pair = _paired(reference, values)
    if pair is None:
        return None
    samples = _resampled(len(reference), seed)
    return Agreement(
        count=len(reference), kendall=_estimate(_kendall, *pair, samples), spearman=_estimate(_spearman, *pair, samples)
    )


def tau_difference(
    reference: Sequence[float], values: Sequence[float], others: Sequence[float], *, seed: int = 0
) -> Estimate | None:
    """Kendall tau of `values` minus that of `others`, with a paired bootstrap; None as in `agreement`."""
    first, second = _paired(reference, values), _paired(reference, others)
    if first is None or second is None:
        return None
    samples = _resampled(len(reference), seed)
    drawn = [_kendall(*(_of_samples(signs, samples) for signs in pair)) for pair in (first, second)]
    return _interval(float(_kendall(*first) - _kendall(*second)), drawn[0] - drawn[1])


def partial_agreement(
    reference: Sequence[float], values: Sequence[float], given: Sequence[float], *, seed: int = 0
) -> Estimate | None:
    """What `values` know of the reference's order that `given` does not: Kendall's partial tau (Kendall 1942).

    None as in `agreement`, and where `given` tells the whole order of either.
    """
    pairs = [_paired(*two) for two in ((reference, values), (reference, given), (values, given))]
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs):
        return None
    samples = _resampled(len(reference), seed)
    value = float(_partial(*(_kendall(*pair) for pair in known)))
    drawn = _partial(*(_kendall(*(_of_samples(signs, samples) for signs in pair)) for pair in known))
    return _interval(value, drawn) if math.isfinite(value) else None


def tau_ceiling(reference: Sequence[float], *, noise_pct: float, seed: int = 0) -> float:
    """Mean tau that the true order would reach against one noisy evaluation of each.

    `noise_pct` is the standard deviation of an evaluation. True values are taken to spread as much less than those of
    the reference as the noise adds to them.
    """
    found = np.asarray(reference, float)
    spread = float(found.var(ddof=1))
    true = found.mean() + (found - found.mean()) * math.sqrt(max(1 - noise_pct**2 / spread, 0) if spread else 0)
    noisy = true + np.random.default_rng(seed).normal(0, noise_pct, (RESAMPLES, len(true)))
    taus = _kendall(_signs(true)[None], np.sign(noisy[:, :, None] - noisy[:, None, :]).astype(np.int8))
    return float(np.nan_to_num(taus).mean())


def top_regret(reference: Sequence[float], values: Sequence[float], *, top: int) -> float:
    """What the best of the `top` architectures by `values` lacks of the best of all, in units of the reference."""
    order = np.argsort(-np.asarray(values, float), kind="stable")[:top]
    truth = np.asarray(reference, float)
    return float(truth.max() - truth[order].max())


def replicate_noise(values: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation between replicates of one architecture, pooled; None without a second replicate."""
    repeated = [np.asarray(of_one, float) for of_one in values if len(of_one) > 1]
    freedom = sum(len(of_one) - 1 for of_one in repeated)
    if not freedom:
        return None
    return math.sqrt(sum(float(((of_one - of_one.mean()) ** 2).sum()) for of_one in repeated) / freedom)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordering:
    """What the paper says of two architectures (arXiv:2204.05525)."""

    name: str
    first: TopFormerConfig
    second: TopFormerConfig
    relation: Relation
    """Of the first to the second."""
    published_pct: float | None
    """mIoU on ADE20K by which the first is better; None: only the order is stated."""
    tuned: bool
    """`scenes` was made so that it holds; the others were held out of its making."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What trainings say of an ordering."""

    ordering: Ordering
    verdict: Verdict
    difference_pct: float
    margin_pct: float
    """Half the 90 % interval of the difference, by the noise between replicates."""


def decide(ordering: Ordering, first: Sequence[float], second: Sequence[float], *, noise_pct: float) -> Decision:
    """From the mIoU of replicates of both, and the noise of a single one."""
    difference = float(np.mean(first) - np.mean(second))
    margin = Z_90 * noise_pct * math.sqrt(1 / len(first) + 1 / len(second))
    return Decision(
        ordering=ordering,
        verdict=verdict(ordering.relation, difference - margin, difference + margin),
        difference_pct=difference,
        margin_pct=margin,
    )


def verdict(relation: Relation, low_pct: float, high_pct: float) -> Verdict:
    """What the 90 % interval of the first's mIoU less the second's says of their published relation."""
    if relation == "nearly equal":
        if low_pct >= -NEARLY_EQUAL_PCT and high_pct <= NEARLY_EQUAL_PCT:
            return "reproduced"
        return "inverted" if low_pct > NEARLY_EQUAL_PCT or high_pct < -NEARLY_EQUAL_PCT else "undecided"
    if high_pct < 0:
        return "inverted"
    return "reproduced" if low_pct > 0 else "undecided"


def published_orderings() -> tuple[Ordering, ...]:
    """Every ordering that the paper's text and tables state, on the anchors it states them for, or T where it does
    not say."""
    tiny, base = TINY, BASE

    def row(
        name: str,
        first: TopFormerConfig,
        second: TopFormerConfig,
        published: float | None = None,
        relation: Relation = "better",
        tuned: bool = False,
    ) -> Ordering:
        return Ordering(name=name, first=first, second=second, relation=relation, published_pct=published, tuned=tuned)

    return (
        row("S above T", SMALL, tiny, 3.3, tuned=True),
        row("B above S", base, SMALL, 1.7, tuned=True),
        row("T: semantics extractor above none", tiny, tiny.replace(extractor="none"), 10.0, tuned=True),
        row("T: attention above FFN only", tiny, tiny.replace(extractor="ffn"), 2.4, tuned=True),
        row("T: full injection above sigmoid attention alone", tiny, tiny.replace(injection="attention")),
        row("T: full injection above semantic information alone", tiny, tiny.replace(injection="semantics")),
        row("B: this head above concat", base, base.replace(head="concat"), 0.7),
        row("B: this head above sum", base, base.replace(head="sum"), 0.8),
        row("T: scales 1/4-1/32 not below 1/8-1/32", _scales(tiny, 4), tiny, relation="not worse"),
        row("T: scales 1/8-1/32 above 1/16-1/32", tiny, _scales(tiny, 16)),
        row("T: stacked pyramid above last token", tiny, tiny.replace(token_source="last")),
        row("B: M 256 and 192 nearly equal", base, _channels(base, 192), relation="nearly equal"),
        row("B: M 256 and 128 nearly equal", base, _channels(base, 128), relation="nearly equal"),
        row("T: semantics extractor above PPM", tiny, tiny.replace(extractor="ppm")),
        row("T: semantics extractor above ASPP", tiny, tiny.replace(extractor="aspp")),
        row("T: output stride 32 not below 64", _stride(tiny, 32), tiny, relation="not worse"),
        row("T: output stride 64 not below 128", tiny, _stride(tiny, 128), relation="not worse"),
    )


def variants() -> Mapping[str, TopFormerConfig]:
    """The architectures of `published_orderings` by their keys, each once."""
    return {arch.key: arch for ordering in published_orderings() for arch in (ordering.first, ordering.second)}


def _scales(arch: TopFormerConfig, finest: int) -> TopFormerConfig:
    return arch.replace(injected_strides=tuple(stride for stride in (4, 8, 16, 32) if stride >= finest))


def _channels(arch: TopFormerConfig, channels: int) -> TopFormerConfig:
    return arch.replace(injection_channels=channels)


def _stride(arch: TopFormerConfig, stride: int) -> TopFormerConfig:
    return arch.replace(token_stride=stride)


def _paired(reference: Sequence[float], values: Sequence[float]) -> tuple[Signs, Signs] | None:
    if len(reference) != len(values):
        raise UserError(f"{len(values)} values cannot be ranked against {len(reference)} of the reference.")
    truth, ours = np.asarray(reference, float), np.asarray(values, float)
    if not (np.isfinite(truth).all() and np.isfinite(ours).all()):
        raise UserError("values that are not finite cannot be ranked.")
    if len(truth) < LEAST_RANKED or len(set(truth)) == 1 or len(set(ours)) == 1:
        return None
    return _signs(truth), _signs(ours)


def _signs(values: Floats) -> Signs:
    """(n,) -> (n, n): of the difference of each pair."""
    return np.sign(values[:, None] - values[None, :]).astype(np.int8)


def _resampled(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _of_samples(signs: Signs, samples: NDArray[np.int64]) -> Signs:
    """(n, n), (B, n) -> (B, n, n)."""
    return signs[samples[:, :, None], samples[:, None, :]]


def _estimate(statistic: Callable[[Signs, Signs], Floats], a: Signs, b: Signs, samples: NDArray[np.int64]) -> Estimate:
    return _interval(float(statistic(a, b)), statistic(_of_samples(a, samples), _of_samples(b, samples)))


def _interval(value: float, drawn: Floats) -> Estimate:
    """Resamples without any order, a single architecture many times, say nothing and are left out."""
    tail = (100 - INTERVAL_PCT) / 2
    low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def _kendall(a: Signs, b: Signs) -> Floats:
    """Tau-b; (..., n, n) -> (...), not a number where either has no order."""
    return _cosine(a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:-2], -1))


def _partial(of_values: Floats, of_given: Floats, between: Floats) -> Floats:
    """Partial tau of three taus: values with the reference, the given with it, and values with the given."""
    rest = (1 - of_given**2) * (1 - between**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(rest > TELLS_ALL, (of_values - of_given * between) / np.sqrt(rest), np.nan))


def _spearman(a: Signs, b: Signs) -> Floats:
    """Likewise; a row of signs sums to twice the rank, less the mean rank."""
    return _cosine(a.sum(-1), b.sum(-1))


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    product, scale = (a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore"):
        return np.asarray(product / scale)

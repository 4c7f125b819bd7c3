"""Judging rankings: statistics against scipy's, verdicts by hand, orderings that are what they are called."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluators.trust import (
    Ordering,
    Relation,
    agreement,
    decide,
    published_orderings,
    replicate_noise,
    tau_difference,
    top_regret,
    variants,
)
from topformer.blocks import decompose
from topformer.config import BASE, SMALL, TINY, Task
from topformer.errors import UserError
from topformer.published import PUBLISHED

NOISE_PCT = 1.0
MARGIN_PCT = 1.645 * math.sqrt(2)
"""Of one training each, at that noise."""


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=12))
def test_agreement_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    reference, values = zip(*pairs, strict=True)
    found = agreement(reference, values)
    if len(set(reference)) == 1 or len(set(values)) == 1:
        assert found is None
        return
    assert found is not None
    assert found.kendall.value == pytest.approx(stats.kendalltau(reference, values).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(reference, values).statistic)
    assert found.kendall.low <= found.kendall.high


def test_fewer_than_four_architectures_have_no_agreement() -> None:
    assert agreement([1, 2, 3], [1, 2, 3]) is None


def test_an_order_and_its_reverse_are_certain() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    same, reverse = agreement(values, values), agreement(values, [-value for value in values])
    assert same is not None
    assert reverse is not None
    assert (same.count, same.kendall.value, same.kendall.low, same.kendall.high) == (6, 1, 1, 1)
    assert reverse.spearman.value == reverse.spearman.low == pytest.approx(-1)


@pytest.mark.slow
def test_the_interval_covers_the_true_tau_about_as_often_as_it_says() -> None:
    """Of a bivariate normal with correlation r, Kendall's tau is 2/pi asin(r)."""
    rng = np.random.default_rng(0)
    correlation, covered = 0.7, 0
    tau = 2 / math.pi * math.asin(correlation)
    for seed in range(40):
        pair = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], size=30)
        found = agreement(pair[:, 0], pair[:, 1], seed=seed)
        assert found is not None
        covered += found.kendall.low <= tau <= found.kendall.high
    assert 31 <= covered <= 40  # 36 expected; the tails below 31 have 2 %


def test_a_difference_of_taus_is_paired() -> None:
    reference = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    values = [1.0, 2.0, 3.0, 4.0, 6.0, 5.0]  # one of 15 pairs is inverted: tau 13/15
    against_itself, against_reverse = (
        tau_difference(reference, values, others) for others in (values, reference[::-1])
    )
    assert against_itself is not None
    assert against_reverse is not None
    assert (against_itself.value, against_itself.low, against_itself.high) == (0, 0, 0)
    assert against_reverse.value == pytest.approx(13 / 15 + 1)
    assert tau_difference(reference, values, [1.0] * 6) is None


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, math.nan]])
def test_what_cannot_be_ranked_is_refused(values: list[float]) -> None:
    with pytest.raises(UserError, match="cannot be ranked"):
        agreement([1.0, 2.0, 3.0, 4.0], values)


def test_regret_is_what_the_best_of_the_top_lacks() -> None:
    reference, values = [10.0, 30.0, 20.0, 40.0], [5.0, 8.0, 9.0, 1.0]  # by values: 20, 30, 10, 40
    assert [top_regret(reference, values, top=top) for top in (1, 2, 3, 4)] == [20, 10, 10, 0]


def test_replicate_noise_pools_what_is_repeated() -> None:
    """Squares around the means: 2 with 1 degree of freedom, and 8 with 2."""
    assert replicate_noise([[1, 3], [5], [2, 4, 6]]) == pytest.approx(math.sqrt(10 / 3))
    assert replicate_noise([[1], [2]]) is None


@pytest.mark.parametrize(
    ("relation", "difference", "verdict"),
    [
        ("better", 2.4, "reproduced"),
        ("better", 2.3, "undecided"),
        ("better", -2.3, "undecided"),
        ("better", -2.4, "inverted"),
        ("not worse", 2.4, "reproduced"),
        ("not worse", 0.0, "undecided"),
        ("not worse", -2.4, "inverted"),
        ("nearly equal", 0.0, "undecided"),
        ("nearly equal", -3.4, "inverted"),
        ("nearly equal", 3.3, "undecided"),
    ],
)
def test_one_training_each_decides_what_noise_leaves(relation: Relation, difference: float, verdict: str) -> None:
    decision = decide(ordering(relation), [40 + difference], [40], noise_pct=NOISE_PCT)
    assert decision.margin_pct == pytest.approx(MARGIN_PCT)
    assert decision.difference_pct == pytest.approx(difference)
    assert decision.verdict == verdict


def test_more_trainings_decide_more() -> None:
    """With 32 of each the margin is 0.41: a difference of 0.5 shows, and so does that it is below 1."""
    first, second = [40.5] * 32, [40.0] * 32
    assert decide(ordering("better"), first, second, noise_pct=NOISE_PCT).verdict == "reproduced"
    assert decide(ordering("nearly equal"), first, second, noise_pct=NOISE_PCT).verdict == "reproduced"


def ordering(relation: Relation) -> Ordering:
    return Ordering(name="S and T", first=SMALL, second=TINY, relation=relation, published_pct=None, tuned=False)


SETTINGS = {
    "S above T": None,
    "B above S": None,
    "T: semantics extractor above none": "extractor",
    "T: attention above FFN only": "extractor",
    "T: full injection above sigmoid attention alone": "injection",
    "T: full injection above semantic information alone": "injection",
    "B: this head above concat": "head",
    "B: this head above sum": "head",
    "T: scales 1/4-1/32 not below 1/8-1/32": "injected_strides",
    "T: scales 1/8-1/32 above 1/16-1/32": "injected_strides",
    "T: stacked pyramid above last token": "token_source",
    "B: M 256 and 192 nearly equal": "injection_channels",
    "B: M 256 and 128 nearly equal": "injection_channels",
    "T: semantics extractor above PPM": "extractor",
    "T: semantics extractor above ASPP": "extractor",
    "T: output stride 32 not below 64": "token_stride",
    "T: output stride 64 not below 128": "token_stride",
}

IDLE = {"extractor": {"num_blocks", "num_heads", "key_dim"}, "head": {"injection"}}
"""What another choice of a setting leaves without effect, and thus at one value."""


def test_orderings_differ_in_what_they_are_named_for_and_can_be_built() -> None:
    orderings = {one.name: one for one in published_orderings()}
    assert orderings.keys() == SETTINGS.keys()
    for name, setting in SETTINGS.items():
        first, second = orderings[name].first.as_dict(), orderings[name].second.as_dict()
        changed = {key for key in first if first[key] != second[key]}
        if setting is not None:
            assert changed - IDLE.get(setting, set()) == {setting}, name
        assert (TINY if name.startswith("T:") else BASE if name.startswith("B:") else SMALL) in (
            orderings[name].first,
            orderings[name].second,
        )
        for arch in (orderings[name].first, orderings[name].second):
            assert decompose(arch, Task())


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("T: scales 1/4-1/32 not below 1/8-1/32", (4, 8, 16, 32), (8, 16, 32)),
        ("T: scales 1/8-1/32 above 1/16-1/32", (8, 16, 32), (16, 32)),
    ],
)
def test_injected_scales_are_those_of_the_name(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    (found,) = [one for one in published_orderings() if one.name == name]
    assert (found.first.injected_strides, found.second.injected_strides) == (first, second)


def test_the_anchors_orderings_are_those_of_table_1() -> None:
    published = {one.name: one.published_pct for one in published_orderings()}
    miou = {name: PUBLISHED[name].miou_pct[512] for name in PUBLISHED}
    assert published["S above T"] == pytest.approx(miou["small"] - miou["tiny"])
    assert published["B above S"] == pytest.approx(miou["base"] - miou["small"])


def test_variants_are_all_architectures_once() -> None:
    assert {TINY.key, SMALL.key, BASE.key} <= variants().keys()
    assert all(arch.key == key for key, arch in variants().items())

"""The predictor of mIoU, and what a guide proposes from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from evaluators.compiled import CompiledTable
from experiments.front.pareto import hypervolume, non_dominated
from experiments.front.predictor import Predictor
from experiments.search.guided import Evaluated, Guide, _Staircase
from latency_lut.table import find_table
from search_space import SearchSpace, preset
from tests.support.toys import TASK, toy_table
from topformer.blocks import candidate_blocks
from topformer.config import Candidate, Task

SPACE = preset("quickstart", task=TASK)


@cache
def guide(max_ms: float | None = None) -> Guide:
    return Guide(SPACE, CompiledTable(toy_table(), SPACE), max_ms=max_ms)


def value_of(candidate: Candidate) -> float:
    """Grows with parameters and depth, and one knob interacts."""
    size_m = sum(block.parameters for block in candidate_blocks(candidate)) / 1e6
    return 20 + 3 * size_m + 2 * candidate.arch.num_blocks * (candidate.arch.num_heads > 4)


def evaluated(candidates: list[Candidate], of: Callable[[Candidate], float] = value_of) -> Evaluated:
    table = toy_table()
    return Evaluated(
        points=[SPACE.encode(one) for one in candidates],
        latency_ms=np.array([table.estimate(candidate_blocks(one)).total_ms for one in candidates]),
        miou_pct=np.array([of(one) for one in candidates]),
    )


def drawn(count: int, seed: int) -> list[Candidate]:
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def test_a_predictor_goes_through_noiseless_points_and_is_unsure_far_from_them() -> None:
    features = np.linspace(0, 1, 12)[:, None]
    predictor = Predictor.fit(features, 5 + np.sin(6 * features[:, 0]))
    mean, deviation = predictor.predict(features)
    assert mean == pytest.approx(5 + np.sin(6 * features[:, 0]), abs=0.05)
    between, _ = predictor.predict(np.array([[0.5 / 11], [7.5 / 11]]))
    assert between == pytest.approx(5 + np.sin(6 * np.array([0.5 / 11, 7.5 / 11])), abs=0.05)
    _, far = predictor.predict(np.array([[3.0]]))
    assert far[0] > 5 * deviation.max()


def test_what_is_left_out_is_predicted_from_the_others() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((30, 3))
    whole = Predictor.fit(features, 3 * features[:, 0] - features[:, 1] ** 2 + rng.normal(0, 0.2, 30))
    for i in (0, 7, 29):
        others = np.arange(30) != i
        without = Predictor(features[others], whole.values[others], whole.lengths, whole.signal, whole.noise)
        assert whole.left_out[i] == pytest.approx(without.predict(features[[i]])[0][0], abs=0.05)
    assert abs(whole.left_out - whole.values).mean() > abs(whole.predict(features)[0] - whole.values).mean()


def test_draws_and_covariance_agree_with_the_prediction() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((20, 3))
    predictor = Predictor.fit(features, features[:, 0] + rng.normal(0, 0.1, 20))
    new = rng.random((5, 3))
    mean, deviation = predictor.predict(new)
    again, covariance = predictor.posterior(new)
    assert again == pytest.approx(mean)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(deviation, rel=1e-4)
    draws = predictor.draws(new, 4000, rng)
    assert draws.mean(0) == pytest.approx(mean, abs=5 * deviation.max() / np.sqrt(4000))
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.1 * covariance.max())


def test_left_out_predictions_are_those_of_a_predictor_without_the_point() -> None:
    rng = np.random.default_rng(1)
    features = rng.random((15, 2))
    whole = Predictor.fit(features, features.sum(1) + rng.normal(0, 0.1, 15))
    _, mean, spread = whole._standard
    for left in (0, 7):
        kept = np.arange(15) != left
        rest = Predictor(features[kept], whole.values[kept], whole.lengths, whole.signal, whole.noise)
        rest.__dict__["_standard"] = ((whole.values[kept] - mean) / spread, mean, spread)  # the whole's scale
        assert rest.predict(features[left : left + 1])[0][0] == pytest.approx(whole.left_out[left])


def test_a_predictor_ranks_architectures_it_has_not_seen() -> None:
    known, new = drawn(60, 0), drawn(60, 1)
    seen, unseen = evaluated(known), evaluated(new)
    predictor = guide().fit(seen)
    features = guide().features(guide()._indices(unseen.points), unseen.latency_ms)
    assert kendalltau(predictor.predict(features)[0], unseen.miou_pct).statistic > 0.8
    assert kendalltau(predictor.left_out, seen.miou_pct).statistic > 0.8


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        Predictor.fit(np.zeros((2, 1)), np.zeros(2))


def test_equal_values_are_predicted_equal() -> None:
    mean, _ = Predictor.fit(np.linspace(0, 1, 5)[:, None], np.full(5, 7.0)).predict(np.array([[0.3]]))
    assert mean[0] == pytest.approx(7.0)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 8)  # each fits a predictor twice
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 12), size=st.integers(1, 9))
def test_a_batch_is_canonical_new_and_within_the_budget(seed: int, count: int, size: int) -> None:
    table = toy_table()
    known, pending = drawn(count, seed), drawn(2, seed + 1)
    latencies = [table.estimate(candidate_blocks(one)).total_ms for one in drawn(50, 3)]
    budget = float(np.median(latencies))
    points = guide(budget).batch(evaluated(known), [SPACE.encode(one) for one in pending], size=size, seed=seed)
    candidates = [SPACE.decode(point) for point in points]
    assert len(points) == size
    assert all(SPACE.canonical(point) == point for point in points)
    assert len({one.key for one in (*candidates, *known, *pending)}) == size + len({o.key for o in (*known, *pending)})
    assert all(table.estimate(candidate_blocks(one)).total_ms <= budget for one in candidates)
    assert points == guide(budget).batch(evaluated(known), [SPACE.encode(one) for one in pending], size=size, seed=seed)


WORDS = preset("pyramid", task=Task(num_classes=59))


@cache
def word_guide() -> Guide:
    return Guide(WORDS, CompiledTable(find_table("snapdragon865-a77-1core-fp32"), WORDS), max_ms=110.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_first_batch_tries_every_word(seed: int) -> None:
    """Two of three first batches had no four-scale injection, and what was never tried was never proposed either."""
    words = [(knob.name, choice) for knob in WORDS.knobs if isinstance(knob.choices[0], str) for choice in knob.choices]
    assert len(words) >= 5
    points = word_guide().spread(size=8, seed=seed)
    assert {(name, point[name]) for point in points for name, _ in words} == set(words)
    tried = {(name, value) for point in points for name, value in point.items()}
    plain = [WORDS.encode(WORDS.sample(random.Random(100 * seed + i))) for i in range(8)]
    assert len(tried) > len({(name, value) for point in plain for name, value in point.items()})


@pytest.mark.slow
def test_a_word_that_was_never_tried_comes_first() -> None:
    points = [point for point in word_guide().spread(size=60, seed=0) if point["injected_strides"] != "4-8-16-32"]
    ms = word_guide().latency_ms(word_guide()._indices(points))
    known = Evaluated(points=points, latency_ms=ms, miou_pct=20 + 5 * np.log(ms))
    batch = word_guide().batch(known, [], size=4, seed=0)
    assert batch[0]["injected_strides"] == "4-8-16-32"
    assert len(batch) == 4
    pending = word_guide().batch(known, batch[:1], size=4, seed=0)
    assert pending[0]["injected_strides"] != "4-8-16-32"  # it is on its way
    assert batch[1:] == word_guide().batch(known, [], size=5, seed=0)[1:4]


def test_the_first_batch_spreads_over_the_latencies_within_the_budget() -> None:
    table = toy_table()
    every = sorted(table.estimate(candidate_blocks(one)).total_ms for one in drawn(300, 0))
    budget = every[150]
    points = guide(budget).spread(size=8, seed=0)
    found = sorted(table.estimate(candidate_blocks(SPACE.decode(point))).total_ms for point in points)
    assert len(set(map(str, points))) == 8
    assert found[-1] <= budget
    assert found[0] <= every[15]
    assert found[-1] >= every[135]


def test_an_impossible_budget_gives_nothing() -> None:
    assert guide(1e-6).spread(size=4, seed=0) == []
    assert guide(1e-6).batch(evaluated(drawn(5, 0)), [], size=4, seed=0) == []


@pytest.mark.slow
def test_a_guide_beats_chance_at_the_same_number_of_evaluations() -> None:
    reference = 1.2 * max(evaluated(drawn(200, 9)).latency_ms)

    def area(candidates: list[Candidate]) -> float:
        found = evaluated(candidates)
        return hypervolume(list(zip(found.latency_ms, found.miou_pct, strict=True)), (reference, 0.0))

    known = [SPACE.decode(point) for point in guide().spread(size=6, seed=0)]
    for batch in range(4):
        points = guide().batch(evaluated(known), [], size=6, seed=batch)
        known += [SPACE.decode(point) for point in points]
    by_chance = [area(drawn(30, seed)) for seed in range(10)]
    assert area(known) > max(by_chance)


def test_expected_and_drawn_gains_agree() -> None:
    rng = np.random.default_rng(0)
    known = Evaluated(points=[], latency_ms=np.array([1.0, 2.0, 4.0]), miou_pct=np.array([10.0, 20.0, 15.0]))
    steps = _Staircase.of(known, 5.0)
    ms, mean, deviation = np.array([1.5, 3.0, 4.5]), np.array([15.0, 21.0, 10.0]), np.array([2.0, 1.0, 0.5])
    draws = rng.normal(mean, deviation, (4000, 3))
    sampled = np.mean([steps.gains(ms, row[None, :])[0] for row in draws], axis=0)
    assert steps.expected_gain(ms, mean, deviation) == pytest.approx(sampled, rel=0.05, abs=0.02)


def test_the_area_gained_is_the_hypervolume_gained() -> None:
    known = [(1.0, 10.0), (2.0, 20.0), (4.0, 25.0)]
    stairs = Evaluated(
        points=[], latency_ms=np.array([ms for ms, _ in known]), miou_pct=np.array([miou for _, miou in known])
    )
    steps = _Staircase.of(stairs, 5.0)
    for new in ((1.5, 22.0), (0.8, 12.0), (3.0, 19.0), (4.5, 30.0)):
        exact = hypervolume([*known, new], (5.0, 0.0)) - hypervolume(known, (5.0, 0.0))
        got = steps.gains(np.array([new[0]]), np.array([[new[1]]]))[0, 0]
        assert got == pytest.approx(exact, abs=0.6)  # 200 places
    assert len(non_dominated(known)) == 3


def test_a_space_with_a_knob_of_words_and_of_image_sizes() -> None:
    space = SearchSpace.from_dict(
        {
            "name": "words",
            "base": "tiny",
            "knobs": {"injected_strides": ["8-16-32", "16-32"], "image_size": [64, "64x96", 96], "num_blocks": [3, 4]},
        },
        task=TASK,
        where="test",
    )
    words = Guide(space, CompiledTable(toy_table(space), space), max_ms=None)
    candidates = list(space.candidates())
    assert len(candidates) == 12
    table = toy_table(space)
    known = Evaluated(
        points=[space.encode(one) for one in candidates[:4]],
        latency_ms=np.array([table.estimate(candidate_blocks(one)).total_ms for one in candidates[:4]]),
        miou_pct=np.array([1.0, 2.0, 3.0, 4.0]),
    )
    found = words.batch(known, [], size=20, seed=0)
    assert {space.decode(point).key for point in found} == {one.key for one in candidates[4:]}

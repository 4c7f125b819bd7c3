"""Rules that train nothing, and what a fidelity knows beyond them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from evaluators.baselines import MACS, SCALES_THEN_MACS, macs_g, ridge, rules
from evaluators.trust import partial_agreement, tau_ceiling
from search_space import preset
from topformer.config import BASE, SMALL, TINY, Candidate, Task

TASK = Task(image_size=(512, 512), num_classes=150)


def candidates(count: int) -> list[Candidate]:
    space, rng = preset("pyramid", task=TASK), random.Random(0)
    return [space.sample(rng) for _ in range(count)]


def test_more_injected_scales_go_before_any_number_of_multiply_adds() -> None:
    four = TINY.replace(injected_strides=(4, 8, 16, 32))
    found = rules([Candidate(arch=arch, task=TASK) for arch in (BASE, four, TINY)])
    assert list(np.argsort(-found[SCALES_THEN_MACS])) == [1, 0, 2]
    assert list(np.argsort(-found[MACS])) == [0, 1, 2]


def test_partial_tau_is_kendalls_formula_of_three_taus() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=30)
    values, given = truth + rng.normal(size=30), truth + rng.normal(size=30)
    xy, xz, yz = (kendalltau(a, b).statistic for a, b in ((truth, values), (truth, given), (values, given)))
    found = partial_agreement(list(truth), list(values), list(given))
    assert found is not None
    assert found.value == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))
    assert found.low < found.value < found.high


def test_values_that_repeat_a_rule_add_nothing_that_is_surely_above_zero() -> None:
    rng = np.random.default_rng(2)
    rule = rng.normal(size=40)
    truth = rule + 0.3 * rng.normal(size=40)
    repeats = partial_agreement(list(truth), list(rule + 0.05 * rng.normal(size=40)), list(rule))
    knows = partial_agreement(list(truth), list(truth + 0.05 * rng.normal(size=40)), list(rule))
    assert repeats is not None
    assert knows is not None
    assert repeats.low < 0 < knows.low
    assert partial_agreement(list(truth), list(rule), list(rule)) is None


def test_the_ceiling_falls_with_the_noise_and_is_one_without_it() -> None:
    values = list(np.linspace(40, 60, 30))
    quiet, noisy, lost = (tau_ceiling(values, noise_pct=noise_pct) for noise_pct in (0.0, 2.0, 50.0))
    assert quiet == 1
    assert lost < 0.2 < noisy < 0.95


def test_the_ceiling_is_what_a_perfect_ranker_reaches_in_a_simulation() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(50, 3, 40)
    reached = [kendalltau(true, true + rng.normal(0, 1, 40)).statistic for _ in range(200)]
    told = [tau_ceiling(list(true + rng.normal(0, 1, 40)), noise_pct=1.0) for _ in range(20)]
    assert np.mean(told) == pytest.approx(np.mean(reached), abs=0.02)


def test_ridge_predicts_each_label_from_the_others_alone() -> None:
    some = candidates(40)
    labels = np.array([10 * len(one.arch.injected_strides) + macs_g(one) for one in some])
    predicted = ridge(some, list(labels))
    assert np.abs(predicted - labels).mean() < 0.2 * labels.std()
    noise = list(np.random.default_rng(4).normal(size=40))
    assert kendalltau(ridge(some, noise), noise).statistic < 0.3


def test_ridge_ignores_what_does_not_vary() -> None:
    tasks = [replace(TASK, num_classes=classes) for classes in (11, 59, 150, 21, 5)]
    alike = [Candidate(arch=SMALL, task=task) for task in tasks]
    assert np.isfinite(ridge(alike, [1.0, 2.0, 3.0, 4.0, 5.0])).all()

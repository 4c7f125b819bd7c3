"""The probability that a trial is on the front."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from experiments.front.confidence import front_probabilities, undecided_pairs, undecided_sentence
from experiments.front.pareto import front
from experiments.store.records import Trial
from latency_lut.table import ErrorModel, LatencyTable
from tests.support.toys import run_toy, toy_config, toy_table
from topformer.blocks import candidate_blocks


def with_errors(**errors: object) -> LatencyTable:
    """The toy table with an error model."""
    table = toy_table()
    return LatencyTable.of(replace(table.header, error_model=ErrorModel(**errors)), list(table.rows.values()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, ...]:
    return run_toy(tmp_path_factory.mktemp("toy"), toy_config(trials=14)).trials


def test_without_noise_and_errors_the_front_is_certain(trials: tuple[Trial, ...]) -> None:
    table = exact(toy_table())
    found = front_probabilities(trials, table, fidelity="toy", noise_pct=0.0)
    members = {trial.number for trial in front(trials, fidelity="toy")}
    assert found == {trial.number: float(trial.number in members) for trial in trials}


def exact(table: LatencyTable) -> LatencyTable:
    rows = [replace(row, p5_ms=row.median_ms, p95_ms=row.median_ms) for row in table.rows.values()]
    return LatencyTable.of(table.header, rows)


def test_an_error_of_the_scale_changes_nothing(trials: tuple[Trial, ...]) -> None:
    """It is the same for all architectures: none becomes faster than another by it."""
    table = exact(with_errors(scale_pct=5.0))
    found = front_probabilities(trials, table, fidelity="toy", noise_pct=0.0)
    assert set(found.values()) == {0.0, 1.0}


def test_of_two_that_differ_by_noise_alone_the_better_leads_by_its_chance(trials: tuple[Trial, ...]) -> None:
    """Same architecture, same latency: P(a > b) for a difference of one noise, over root two."""
    first = trials[0]
    assert first.record is not None
    assert first.record.accuracy is not None
    worse = replace(first.record.accuracy, miou_pct=first.record.accuracy.miou_pct - 1.0)
    other = replace(first, number=99, record=replace(first.record, metrics=worse))
    found = front_probabilities([first, other], toy_table(), fidelity="toy", noise_pct=1.0)
    assert found[first.number] == pytest.approx(0.760, abs=0.03)  # the normal's share below 1 / sqrt(2)
    assert found[first.number] + found[99] == pytest.approx(1.0)


def test_noise_takes_from_the_members_and_gives_to_the_near(trials: tuple[Trial, ...]) -> None:
    certain = front_probabilities(trials, toy_table(), fidelity="toy", noise_pct=0.0)
    noisy = front_probabilities(trials, toy_table(), fidelity="toy", noise_pct=3.0)
    assert any(0 < share < 1 for share in noisy.values())
    assert sum(noisy.values()) > 1
    fastest = min(trials, key=lambda trial: trial.latency.total_ms)
    assert certain[fastest.number] == pytest.approx(noisy[fastest.number], abs=0.2)
    assert front_probabilities(trials, toy_table(), fidelity="toy", noise_pct=3.0) == noisy
    assert front_probabilities([], toy_table(), fidelity="toy", noise_pct=3.0) == {}


def test_terms_of_two_networks_give_the_error_of_their_difference(trials: tuple[Trial, ...]) -> None:
    table = with_errors(scale=1.3, scale_pct=4.0, kind_pct={"conv": 7.0}, row_pct=3.0)
    a, b = (candidate_blocks(trials[index].candidate) for index in (0, 2))
    one, other = table.error_terms(a), table.error_terms(b)
    spread = np.linalg.norm([one.get(name, 0) - other.get(name, 0) for name in {*one, *other}])
    difference = table.difference(a, b)
    assert 1.6449 * spread == pytest.approx((difference.high_ms - difference.low_ms) / 2, rel=1e-3)
    estimate = table.estimate(a)
    assert 1.6449 * np.linalg.norm(list(one.values())) == pytest.approx(estimate.high_ms - estimate.total_ms, rel=1e-3)


def test_pairs_are_undecided_within_what_two_trainings_may_differ_by(trials: tuple[Trial, ...]) -> None:
    members = front(trials, fidelity="toy")
    gaps = [abs((one.miou_pct or 0) - (other.miou_pct or 0)) for one, other in combinations(members, 2)]
    noise_pct = sorted(gaps)[len(gaps) // 2] / 1.645 / math.sqrt(2)
    found = undecided_pairs(members, noise_pct=noise_pct + 1e-9)
    assert len(found) == sum(gap <= sorted(gaps)[len(gaps) // 2] for gap in gaps)
    assert undecided_pairs(members, noise_pct=0.0) == ()


def test_a_sentence_names_the_first_pairs_and_counts_the_others(trials: tuple[Trial, ...]) -> None:
    all_of_them = undecided_sentence(trials, noise_pct=100.0)
    assert all_of_them is not None
    assert "less than 232.64 points: trials 0 and 1, 0 and 2" in all_of_them
    assert all_of_them.endswith(f", and {math.comb(len(trials), 2) - 8} more pairs.")
    assert undecided_sentence(trials, noise_pct=0.0) is undecided_sentence(trials, noise_pct=None) is None

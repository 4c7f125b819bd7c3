"""The front: what is on it, what is not, and the best under a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.front.pareto import best_under, front, hypervolume, knee, nearest_anchor, non_dominated, shortlist
from tests.support.toys import run_toy, toy_config
from topformer.errors import UserError

POINTS = st.lists(st.tuples(st.integers(1, 20).map(float), st.integers(1, 20).map(float)), max_size=40)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(POINTS)
def test_members_do_not_dominate_one_another_and_the_rest_is_dominated_or_equal(
    points: list[tuple[float, float]],
) -> None:
    members = [points[index] for index in non_dominated(points)]
    assert not any(dominates(a, b) for a in members for b in members)
    assert all(point in members or any(dominates(m, point) for m in members) for point in points)
    assert len(members) == len(set(members))


def test_a_hand_made_front() -> None:
    points = [(10, 30), (12, 29), (8, 20), (20, 40), (20, 41), (8, 20)]
    assert non_dominated([(float(a), float(b)) for a, b in points]) == (2, 0, 4)


def test_a_hypervolume_by_hand() -> None:
    assert hypervolume([(1.0, 10.0), (3.0, 20.0), (2.0, 5.0)], (5.0, 0.0)) == 2 * 10 + 2 * 20
    assert hypervolume([(1.0, 10.0)], (5.0, 4.0)) == 4 * 6
    assert hypervolume([(6.0, 10.0), (1.0, 3.0)], (5.0, 4.0)) == 0
    assert hypervolume([], (5.0, 0.0)) == 0


@given(POINTS, st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_the_hypervolume_counts_what_some_point_dominates(
    points: list[tuple[float, float]], corner: tuple[int, int]
) -> None:
    cells = sum(
        any(ms <= x and miou >= y + 1 for ms, miou in points) for x in range(corner[0]) for y in range(corner[1], 20)
    )
    assert hypervolume(points, (float(corner[0]), float(corner[1]))) == cells


def test_the_knee_of_a_hand_made_front() -> None:
    points = [(10.0, 20.0), (20.0, 38.0), (60.0, 41.0), (110.0, 42.0), (50.0, 30.0)]
    assert knee(points) == 1
    assert knee(points[:1]) == 0
    assert knee([(1.0, 1.0), (2.0, 2.0)]) == 1
    assert knee([(1.0, 1.0), (9.0, 2.0), (10.0, 10.0)]) == 2  # nothing lies above the line


@given(POINTS.filter(bool), st.integers(1, 8))
def test_a_shortlist_is_of_the_front_has_the_knee_and_loses_least(
    points: list[tuple[float, float]], count: int
) -> None:
    reference = (21.0, 0.0)
    chosen, members = shortlist(points, count, reference), non_dominated(points)
    assert len(chosen) == min(count, len(members))
    assert [index for index in members if index in chosen] == list(chosen)
    assert knee(points) in chosen
    if count > 1:
        area = hypervolume([points[index] for index in chosen], reference)
        others = [index for index in members if index not in chosen]
        last = shortlist(points, count - 1, reference)
        for index in others:  # the last step was the best there was
            assert hypervolume([points[i] for i in (*last, index)], reference) <= area


def test_the_best_under_a_budget_is_the_most_accurate_that_fits(tmp_path: Path) -> None:
    trials = run_toy(tmp_path).trials
    budget = sorted(trial.latency.total_ms for trial in trials)[6]
    best = best_under(trials, budget, fidelity="toy")
    within = [trial for trial in trials if trial.latency.total_ms <= budget]
    assert best.miou_pct == max(trial.miou_pct or 0 for trial in within)
    assert best in front(trials, fidelity="toy")


def test_a_budget_below_everything_names_the_fastest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no evaluated architecture runs within 1e-06 ms; the fastest needs"):
        best_under(run_toy(tmp_path).trials, 1e-6, fidelity="toy")


@pytest.mark.parametrize("budget", [0.0, -3.0, float("nan")])
def test_a_budget_must_be_positive(budget: float) -> None:
    with pytest.raises(UserError, match="positive number of ms"):
        best_under((), budget, fidelity="toy")


def test_points_of_another_fidelity_are_not_on_the_front(tmp_path: Path) -> None:
    assert front(run_toy(tmp_path, toy_config(trials=6)).trials, fidelity="full") == ()


def test_the_nearest_anchor_is_the_closest_in_latency(tmp_path: Path) -> None:
    trials = run_toy(tmp_path).trials
    small = next(trial for trial in trials if trial.anchor == "small")
    assert nearest_anchor(small, trials, fidelity="toy") == small

"""The front of a study as a value: what is shown, how sure it is, and what it says of itself."""

from __future__ import annotations

import csv
import math

import pytest

from experiments.front.pareto import front
from experiments.store.store import Store
from experiments.views.front import FrontView, front_view
from topformer.errors import UserError

Z_90 = 1.645  # a normal distribution holds 90 % within so many standard deviations
NOISE_PCT = 0.3  # of `toy_report`


def numbers(view: FrontView) -> list[int]:
    return [row.trial.number for row in view.rows]


def test_the_front_is_shown_with_its_knee(store: Store) -> None:
    view = front_view(store, "one")
    assert numbers(view) == [trial.number for trial in front(store.trials("one"), fidelity="toy")]
    assert all(row.on_front for row in view.rows)
    assert sum(row.knee for row in view.rows) == 1


def test_every_settled_trial_can_be_shown_failures_too(store: Store) -> None:
    view = front_view(store, "three", every=True)
    assert numbers(view) == list(range(8))
    failed = [row for row in view.rows if row.trial.state == "failed"]
    assert failed
    assert not any(row.on_front or row.knee or row.miou_margin_pct for row in failed)


def test_margins_follow_from_the_noise_between_trainings(store: Store) -> None:
    view = front_view(store, "one", every=True)
    assert {row.miou_noise_pct for row in view.rows} == {NOISE_PCT}
    assert [row.miou_margin_pct for row in view.rows] == pytest.approx([Z_90 * NOISE_PCT] * 18)
    likely = [row.front_probability for row in view.rows]
    assert all(probability is not None and 0 <= probability <= 1 for probability in likely)


def test_where_no_report_knows_the_noise_nothing_is_said_of_it(store: Store) -> None:
    view = front_view(store, "three")
    assert view.noise_pct is None
    assert {(row.front_probability, row.miou_margin_pct) for row in view.rows} == {(None, None)}
    assert view.notes[-1] == "no ±: no trust report has repeated trainings by this evaluator."


def test_a_confirmation_has_a_front_of_its_own(store: Store) -> None:
    view = front_view(store, "three", fidelity="long x2", every=True)
    assert 3 < len(view.rows) <= 6  # the best three and the anchors
    assert {row.as_dict()["fidelity"] for row in view.rows} == {"long x2"}


def test_the_best_under_a_budget_is_compared_with_its_nearest_anchor(store: Store) -> None:
    view = front_view(store, "one", latency_max="small")
    (row,), anchor = view.rows, view.nearest_anchor
    assert view.budget_ms is not None
    assert row.trial.latency.total_ms <= view.budget_ms
    assert row == front_view(store, "one", every=True).best_under(view.budget_ms)
    assert anchor is not None
    near = next(trial for trial in store.trials("one") if trial.anchor == anchor.anchor)
    assert anchor.miou_difference_pct == pytest.approx((row.trial.miou_pct or 0) - (near.miou_pct or 0))
    assert anchor.miou_difference_margin_pct == pytest.approx(math.sqrt(2) * Z_90 * NOISE_PCT)
    assert anchor.latency_difference_low_ms <= anchor.latency_difference_ms <= anchor.latency_difference_high_ms
    assert anchor.sentence in view.notes


def test_nothing_is_best_under_a_budget_that_nothing_meets(store: Store) -> None:
    assert front_view(store, "one", every=True).best_under(0.0) is None
    with pytest.raises(UserError, match=r"no evaluated architecture runs within 0\.001 ms"):
        front_view(store, "one", latency_max="0.001")


def test_a_shortlist_is_of_the_front(store: Store) -> None:
    whole, short = front_view(store, "one"), front_view(store, "one", shortlist=2)
    assert len(short.rows) == 2
    assert all(row in whole.rows for row in short.rows)
    assert any(row.knee for row in short.rows)


def test_only_the_best_under_a_budget_has_a_nearest_anchor_in_its_dictionary(store: Store) -> None:
    (best,) = front_view(store, "one", latency_max="small").as_dicts()
    assert best["nearest_anchor"]["anchor"] in ("tiny", "small", "base")
    rows = front_view(store, "one").as_dicts()
    assert all("nearest_anchor" not in row for row in rows)
    assert rows[0]["ranking_trust"]["report"] == "toy-report"


def test_a_csv_has_the_plain_columns_of_the_dictionaries(store: Store) -> None:
    view = front_view(store, "one", every=True)
    rows = list(csv.DictReader(view.as_csv().splitlines()))
    assert [int(row["trial"]) for row in rows] == numbers(view)
    assert set(view.as_dicts()[0]) - set(rows[0]) == {"architecture", "task", "ranking_trust", "not_told_apart"}

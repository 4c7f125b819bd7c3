"""What studies asked for, did and found, as values: listed, summed up, side by side, and at the end of a search."""

from __future__ import annotations

import pytest

from experiments.front.pareto import front
from experiments.search.schedule import Confirmation, Schedule
from experiments.search.study import StudyResult
from experiments.store.records import BatchStatistics
from experiments.store.store import Store
from experiments.trust.standing import Standing
from experiments.views.studies import comparison, study_rows, study_summary
from tests.support.toys import ToyEvaluator
from topformer.errors import UserError

LONG = Confirmation(evaluator=ToyEvaluator(fidelity="long"), keep=3, replicates=1)


def test_every_study_of_a_store_is_a_row(store: Store) -> None:
    rows = {row.study: row for row in study_rows(store)}
    assert (rows["one"].trials, rows["one"].complete, rows["one"].wanted) == (18, 18, 18)
    assert (rows["two"].ranking, rows["three"].ranking) == ("tau 0.71", "untested")
    assert rows["three"].complete + rows["three"].failed == 8
    assert list(rows["one"].as_dict())[:4] == ["study", "trials", "complete", "failed"]


def test_a_summary_adds_up_what_its_batches_did(store: Store) -> None:
    summary = study_summary(store, "one")
    content = summary.as_dict()
    assert content["proposals_asked"] == sum(batch.asked for batch in store.batches("one"))
    assert content["front"] == [trial.number for trial in front(summary.trials, fidelity="toy")]
    assert content["knee"] in content["front"]
    assert content["hypervolume_by_batch"] == sorted(content["hypervolume_by_batch"])
    assert content["ranking_trust"]["report"] == "toy-report"


def test_a_summary_has_what_confirming_took(store: Store) -> None:
    content = study_summary(store, "three").as_dict()
    assert content["confirmed_by"] == ["long x2"]
    (rung,) = store.study("three").rungs
    assert content["confirmation_seconds"] == sum(record.seconds for record in store.confirmations("three", rung))


def test_studies_share_a_reference_and_a_common_front(store: Store) -> None:
    one, two = comparison(store, ["one", "two"])
    assert one.reference_ms == two.reference_ms
    own, every = store.trials("one"), (*store.trials("one"), *store.trials("two"))
    common = {trial.candidate.key for trial in front(every, fidelity="toy")}
    assert one.on_common_front == sum(trial.candidate.key in common for trial in front(own, fidelity="toy"))
    assert one.on_common_front <= one.on_front == len(front(own, fidelity="toy"))


def test_studies_of_different_evaluators_do_not_compare(store: Store) -> None:
    with pytest.raises(UserError, match="do not compare: each has another evaluator"):
        comparison(store, ["one", "three"])


def searched(trained: int, *confirmed_by: Confirmation) -> StudyResult:
    gates = [
        BatchStatistics(asked=10, invalid=1, over_budget=2, duplicates=3, sampler_seconds=0.5),
        BatchStatistics(asked=6, invalid=0, over_budget=1, duplicates=0, sampler_seconds=0.5, screened=4),
    ]
    return StudyResult(
        name="one",
        trials=(),
        front=(),
        fidelity="toy",
        trained=trained,
        cached=0,
        confirming=0,
        gate=BatchStatistics.total(gates),
        schedule=Schedule(confirmations=confirmed_by, notices=("no report vouches for nano",)),
        ranking=Standing(report=None, trust=None),
    )


def test_a_search_says_what_it_dropped_before_evaluation() -> None:
    summary = searched(4)
    assert summary.notes == (
        "4 evaluated, 0 from the store, 0 failed.",
        "Before evaluation, of 16 proposals 3 were dropped as over the budget, 1 as beyond the proxy, 3 as known, "
        "4 turned away by a screen.",
    )
    assert summary.as_dict()["screened_out"] == 4
    assert summary.as_dict()["screens_not_used"] == ["no report vouches for nano"]
    assert searched(4, LONG).notes[-1] == "0 trainings confirmed the best."


def test_a_search_with_nothing_left_says_only_that() -> None:
    summary = searched(0, LONG)
    assert summary.idle
    assert summary.notes == ("study one is done: 0 trials, nothing left to evaluate.",)

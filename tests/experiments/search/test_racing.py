"""Races: seeds go where networks cannot be told apart on or near the front, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.front.confidence import race_noise_pct
from experiments.front.lookup import at_rung
from experiments.search.racing import in_race, next_trainings, undecided
from experiments.search.schedule import Confirmation, Schedule
from experiments.search.study import StudyResult, run_study
from experiments.store.store import Store
from experiments.trust.standing import study_standing
from experiments.views.front import front_view
from tests.support.toys import ToyEvaluator, toy_config, toy_table, toy_url

MS = np.array([10.0, 20.0, 30.0, 31.0, 40.0])
MIOU = np.array([30.0, 35.0, 40.0, 40.5, 36.0])  # the last is decidedly worse than faster ones
ONCE = np.ones(5)


def test_only_pairs_that_may_be_on_the_front_are_open() -> None:
    pairs = undecided(MS, MIOU, ONCE, noise_pct=0.5)
    assert {(i, j) for i, j in zip(*np.nonzero(pairs), strict=True) if i < j} == {(2, 3)}
    assert in_race(MS, MIOU, ONCE, noise_pct=0.5).tolist() == [True, True, True, True, False]


def test_seeds_go_to_the_pair_that_is_open_alone() -> None:
    assert set(next_trainings(MS, MIOU, ONCE, noise_pct=0.5, most=5, count=4)) == {2, 3}


def test_a_race_ends_where_all_is_decided_or_nobody_may_be_trained_again() -> None:
    assert next_trainings(MS, MIOU, ONCE, noise_pct=0.1, most=5, count=4) == ()
    assert next_trainings(MS, MIOU, np.full(5, 3.0), noise_pct=5.0, most=3, count=4) == ()


def test_the_noise_of_a_race_is_what_its_trainings_and_a_report_say() -> None:
    assert race_noise_pct([[1.0], [2.0]], known_pct=None) is None
    assert race_noise_pct([[1.0, 3.0], [2.0]], known_pct=None) == pytest.approx(2**0.5)
    assert race_noise_pct([[1.0, 3.0]], known_pct=1.0) == pytest.approx(((2 + 6) / 7) ** 0.5)


RACE = Confirmation(
    evaluator=ToyEvaluator(fingerprint="long-1", fidelity="long"), keep=6, replicates=5, racing=True, trainings=26
)


def run(folder: Path, rung: Confirmation = RACE, *, workers: int = 1, report: Any = lambda _: None) -> StudyResult:
    folder.mkdir(exist_ok=True)
    with Store.open(toy_url(folder), create=True) as store:
        return run_study(
            toy_config(),
            store,
            evaluator=ToyEvaluator(),
            schedule=Schedule(confirmations=(rung,)),
            table=toy_table(),
            workers=workers,
            report=report,
        )


def test_a_race_keeps_to_its_budget_and_shows_what_each_trial_has(tmp_path: Path) -> None:
    found = run(tmp_path)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        study, members = at_rung(store, "toy", "long racing x5")
        noise_pct = study_standing(study, store).noise_pct
        rows = front_view(store, "toy", fidelity="long racing x5", every=True).rows
    assert sum(trial.trainings for trial in members) == found.confirming <= 26
    assert len({trial.trainings for trial in members}) > 1
    assert noise_pct is not None
    assert {row.trial.number: row.miou_noise_pct for row in rows} == {
        trial.number: pytest.approx(noise_pct / trial.trainings**0.5) for trial in members
    }


@pytest.mark.slow
def test_a_race_that_was_broken_off_goes_on_identically_with_two_workers(tmp_path: Path) -> None:
    class BreakOffError(Exception):
        pass

    def stop(event: Any) -> None:
        if event.rung is not None and event.done in (3, 20, 23):  # the second and third are amid a step
            raise BreakOffError

    run(tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(BreakOffError):
            run(tmp_path / "broken", report=stop)
    run(tmp_path / "broken", workers=2)
    found = []
    for name in ("whole", "broken"):
        with Store.open(toy_url(tmp_path / name), read_only=True) as store:
            found.append(at_rung(store, "toy", "long racing x5")[1])
    assert found[0] == found[1]


def test_a_second_run_of_a_race_trains_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path).confirming == 0

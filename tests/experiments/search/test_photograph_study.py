"""The shipped study of photographs: on any folder, with its classes, its cost said before."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.search.assembly import build_evaluator, build_schedule
from experiments.search.forecast import forecast
from experiments.search.schedule import Schedule
from experiments.study_config import StudyConfig
from experiments.trust.standing import Standing
from tests.evaluators.test_proxy import photographs
from topformer.errors import UserError


def test_a_study_of_photographs_takes_its_classes_from_the_folder(tmp_path: Path) -> None:
    photographs(tmp_path / "mine")
    config = StudyConfig.load("photographs", dataset=str(tmp_path / "mine"), name="other")
    assert (config.name, config.task.num_classes) == ("other", 2)
    schedule = build_schedule(config, build_evaluator(config), lambda _: Standing(report=None, trust=None))
    assert [rung.label for rung in schedule.confirmations] == ["reference racing x3"]


def test_without_its_folder_the_study_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"photographs\.toml: evaluator\.dataset"):
        StudyConfig.load("photographs")


@pytest.mark.slow
def test_what_a_study_takes_is_said_before_it_begins(tmp_path: Path) -> None:
    photographs(tmp_path / "mine")
    config = StudyConfig.load("photographs", dataset=str(tmp_path / "mine"))
    evaluator = build_evaluator(config)
    said = forecast(config, evaluator, Schedule(), workers=2)
    assert said is not None
    assert said.startswith("24 trainings by proxy-short of ")
    scenes = StudyConfig.load("quickstart")
    assert forecast(scenes, build_evaluator(scenes), Schedule(), workers=2) is None

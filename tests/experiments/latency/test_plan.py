"""What names on the command line mean: a space, a task, and the options that measure what a table lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.front.lookup import Chosen, task_of
from experiments.latency.plan import saying_what_measures, space_options, spaces_of
from experiments.study_config import space_named
from latency_lut.table import MissingRows
from search_space import preset
from tests.support.toys import STUDY, TASK, TOY_HEADER
from topformer import TINY
from topformer.blocks import decompose
from topformer.config import Task
from topformer.errors import UserError

ON_448 = Chosen(text="tiny", arch=TINY, task=Task(image_size=(448, 448), num_classes=19))


def test_a_preset_is_taken_on_the_task_asked_for_then_on_the_chosen_one_s_then_on_the_published() -> None:
    assert space_named("quickstart", size="64", classes=59).task == TASK
    assert space_named("quickstart", size=None, classes=None, base=ON_448.task).task == ON_448.task
    assert space_named("quickstart", size=None, classes=7, base=ON_448.task).task == Task(
        image_size=(448, 448), num_classes=7
    )
    assert space_named("quickstart", size=None, classes=None) == preset("quickstart", task=Task())


def test_a_studys_file_means_its_space_on_its_own_task(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(trials=3, sampler="random", seed=1))
    assert space_named(str(path), size=None, classes=None) == preset("quickstart", task=TASK)
    with pytest.raises(UserError, match="says its own"):
        space_named(str(path), size="64", classes=None)
    assert spaces_of(study=str(path), space=None, size=None, classes=()) == (preset("quickstart", task=TASK),)


def test_a_name_of_no_space_is_told_what_is_legal() -> None:
    with pytest.raises(UserError, match="unknown search space 'huge'; available: pyramid, quickstart"):
        space_named("huge", size=None, classes=None)


def test_a_table_for_several_numbers_of_classes_needs_a_space_for_each() -> None:
    spaces = spaces_of(study=None, space=None, size="64", classes=(19, 59), output="labels")
    assert [space.task for space in spaces] == [
        Task(image_size=(64, 64), num_classes=count, output="labels") for count in (19, 59)
    ]


def test_a_task_is_the_trial_s_unless_it_is_said_otherwise() -> None:
    assert task_of(ON_448, None, None) == ON_448.task
    assert task_of(ON_448, "512x1024", None).image_size == (512, 1024)
    assert task_of(None, None, None) == Task()
    assert task_of(None, None, None, classification=True).num_classes == 1000


def test_missing_rows_are_named_with_the_options_that_measure_them() -> None:
    with (
        pytest.raises(UserError, match=r"--arch mine\.json --size 64x64 --classes 59 --table toy"),
        saying_what_measures("mine.json", TASK),
    ):
        raise MissingRows(TOY_HEADER, decompose(TINY, TASK)[:1])
    assert space_options("study.toml", TASK) == ("--study", "study.toml")
    assert space_options("pyramid", TASK) == ("--space", "pyramid", "--size", "64x64", "--classes", "59")


def test_a_plan_loads_neither_torch_nor_scipy() -> None:
    """A latency query names missing rows by it, and waits for neither."""
    code = "import sys, experiments.latency.plan; sys.exit(bool({'torch', 'scipy', 'sqlalchemy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

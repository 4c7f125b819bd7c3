"""What a training by names is: the same job that `train` makes, from one call."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.training.run import chosen_hardware, default_intervals, run_training, training_job
from tests.support import trees
from tests.support.trainings import MICRO
from topformer.errors import UserError

SMALL = (
    *("iterations=2", "batch_size=2", "augmentation.crop=[32, 32]"),
    *("augmentation.short_side=48", "augmentation.long_side=96", "protocol.short_side=48", "protocol.long_side=96"),
)


@pytest.fixture
def data(tmp_path: Path) -> str:
    trees.folder_tree(tmp_path / "data")
    return str(tmp_path / "data")


def test_what_is_not_said_is_a_hundredth_between_saves_and_a_tenth_between_scores(data: str, tmp_path: Path) -> None:
    job = training_job(MICRO, data, tmp_path / "run", accelerator="cpu", changes=("iterations=1000",))
    assert (job.recipe_name, job.recipe.iterations, job.protocol is None) == ("released", 1000, False)
    assert (job.execution.save_every, job.score_every) == default_intervals(1000) == (10, 100)
    assert (job.precision, job.execution.compile, job.execution.workers) == ("fp32", False, None)


def test_a_short_training_is_not_scored_all_the_time() -> None:
    assert default_intervals(20) == (1, 100)
    assert default_intervals(160_000) == (1600, 16_000)


def test_scores_fall_on_saves(data: str, tmp_path: Path) -> None:
    job = training_job(MICRO, data, tmp_path / "run", accelerator="cpu", save_every=30, score_every=100)
    assert (job.execution.save_every, job.score_every) == (30, 90)


def test_hardware_is_named_or_found() -> None:
    assert chosen_hardware("cpu", None) == ("cpu", "fp32")
    assert chosen_hardware("cuda", None) == ("cuda", "bf16")
    assert chosen_hardware("cpu", "bf16") == ("cpu", "bf16")
    with pytest.raises(UserError, match="unknown accelerator 'tpu'; available: cpu, cuda"):
        chosen_hardware("tpu", None)
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        chosen_hardware("cpu", "fp8")


def test_a_checkpoint_that_is_not_there_is_said_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint 'none'"):
        training_job(MICRO, "nowhere", tmp_path / "run", backbone=Path("none"))


@pytest.mark.slow
def test_a_result_names_its_recipe_and_its_files(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = training_job(MICRO, data, out, recipe="quick", changes=SMALL, accelerator="cpu", workers=0)
    content = run_training(job).as_dict(job)
    assert (content["recipe"], content["metric"], content["resumed_at"]) == ("quick", "miou_pct", 0)
    assert Path(content["best_weights"]).is_file()
    assert Path(content["last_weights"]) == out / "last.safetensors"

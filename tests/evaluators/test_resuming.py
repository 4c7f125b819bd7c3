"""Nothing is lost: a training that was killed anywhere ends with the weights of one that never was."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import MICRO, RECIPE, Halves
from torch import nn

from evaluators.checkpoints import RunFolder
from evaluators.recipe import Augmentation, TrainingRecipe
from evaluators.training import Execution, train
from topformer import TopFormer, UserError

AUGMENTED = replace(
    RECIPE,
    iterations=9,
    drop_path=0.2,
    ema_decay=0.9,
    recalibration_images=0,
    augmentation=Augmentation(
        long_side=128, short_side=64, scale_min=0.5, scale_max=2, crop=(64, 64), class_share_max=0.75, photometric=True
    ),
)
KILLS = 20


class Keeper:
    """State in a run folder, without scores."""

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder, {"test": 1})

    def restore(self) -> Mapping[str, Any] | None:
        return self.run.load()

    def save(self, iteration: int, state: Mapping[str, Any], network: nn.Module, averaged: nn.Module | None) -> None:
        self.run.save(state)


def trained(
    folder: Path | None, recipe: TrainingRecipe = AUGMENTED, *, progress: Any = None, **execution: Any
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=3)
    keeper = None if folder is None else Keeper(folder)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    train(
        model,
        Halves(),
        recipe,
        train_images=6,
        seed=4,
        keeper=keeper,
        progress=progress,
        execution=Execution(**({"save_every": 2} | execution)),
    )
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class Stopped(Exception):  # noqa: N818, not an error
    """In the middle of a training."""


@pytest.mark.parametrize("stop_after", [1, 2, 5, 8, 9])
def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    def stop(done: int, total: int, loss: float) -> None:
        if done == stop_after:
            raise Stopped

    with pytest.raises(Stopped):
        trained(tmp_path, progress=stop)
    assert same(trained(tmp_path), trained(None))


@pytest.mark.parametrize("workers", [1, 2, None])
def test_samples_do_not_depend_on_who_makes_them(workers: int | None) -> None:
    assert same(trained(None, workers=workers), trained(None, workers=0))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = trained(tmp_path)
    seen: list[int] = []
    again = trained(tmp_path, progress=lambda done, total, loss: seen.append(done))
    assert seen == []
    assert same(first, again)


def test_a_damaged_state_is_refused_and_stays(tmp_path: Path) -> None:
    trained(tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"state\.pt cannot be used .*; remove it to start anew"):
        trained(tmp_path)
    assert state.exists()


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"iteration": 1, "objective": subprocess.Popen}, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt cannot be used \(it holds more than numbers"):
        trained(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.update(run="another"), "it is of another training than run.json tells"),
        (lambda state: state.pop("iteration"), "it does not say its iteration"),
        (lambda state: state["losses"].fill_(math.nan), "losses has values that are not finite"),
        (lambda state: state.pop("optimiser"), "it lacks optimiser"),
        (lambda state: state.update(iteration=3), "losses after 3 of 9 iterations"),
    ],
)
def test_a_state_that_was_edited_is_refused(
    change: Callable[[dict[str, Any]], Any], reason: str, tmp_path: Path
) -> None:
    trained(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(UserError, match=reason):
        trained(tmp_path)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
from test_resuming import trained
torch.set_num_threads(1)  # as here: sums over threads are others
print("ready", flush=True)
trained(Path(sys.argv[1]), progress=lambda done, total, loss: print(done, flush=True), save_every=1)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_twenty_times_anywhere_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL, at random moments: between steps, in the middle of one, while a state is written."""
    rng, kills, starts = random.Random(0), 0, 0
    untouched = trained(None)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    while kills < KILLS:
        folder = tmp_path / str(starts)
        starts += 1
        for _ in range(2):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(folder), *paths], stdout=subprocess.PIPE, text=True
            )
            assert child.stdout
            wanted = rng.choice(["ready", *map(str, range(1, 9))])
            for line in child.stdout:
                if line.strip() in (wanted, "done"):
                    break
            try:
                child.wait(rng.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                kills += 1
            child.wait()
            child.stdout.close()
        assert same(trained(folder, save_every=1), untouched)
    assert kills >= KILLS

"""Nothing is lost: a training that was killed anywhere ends with the weights of one that never was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.checkpoints import RunFolder
from evaluators.recipe import TrainingRecipe
from evaluators.training import Execution, train
from tests.support.trainings import AUGMENTED, MICRO, Halves
from topformer import TopFormer, UserError

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
    with pytest.raises(UserError, match=r"state.pt cannot be used .*; remove it to start anew"):
        trained(tmp_path)
    assert state.exists()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """torch looks at no checksum: the training went on from other weights."""
    trained(tmp_path)
    state = tmp_path / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 64
    state.write_bytes(content)
    with pytest.raises(UserError, match=r"state.pt cannot be used \(archive/data/\d+ in it is damaged\)"):
        trained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"cos\nsystem\n(S'false'\ntR."])
def test_what_is_no_state_is_refused(content: bytes, tmp_path: Path) -> None:
    """Of "hello" torch's unpickler raises a KeyError."""
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.pt cannot be used"):
        trained(tmp_path)


NOT_FINITE = {"objective": {"weight": torch.tensor([1.0, float("nan")])}}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"run": "another"}, "cannot be used \\(it is of another training"),
        ({"iteration": "x"}, "cannot be used \\(it does not say its iteration"),
        ({"iteration": -1}, "cannot be used \\(it does not say its iteration"),
        (NOT_FINITE, "cannot be used \\(objective.weight has values that are not finite"),
        ({"iteration": 3}, "does not fit this training \\(9 losses after 3 of 9 iterations\\)"),
        ({"losses": "all"}, "does not fit this training"),
        ({"objective": {}}, "does not fit this training \\(Error\\(s\\) in loading state_dict"),
        ({"optimiser": {}}, "does not fit this training"),
        ({"averaged": None}, "does not fit this training"),
        *(({name: ...}, f"it lacks {name}") for name in ("objective", "optimiser", "averaged", "scaler", "losses")),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    trained(tmp_path)
    path = tmp_path / "state.pt"
    state = torch.load(path, weights_only=True) | change
    torch.save({name: value for name, value in state.items() if value is not ...}, path)
    with pytest.raises(UserError, match=fragment):
        trained(tmp_path)


def test_a_score_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    """The next line was written behind the rest of this one, and both were lost."""
    folder = RunFolder(tmp_path, {"test": 1})
    folder.add_score({"iteration": 1, "miou_pct": 1.5})
    with folder.log_path.open("a") as log:
        log.write('{"iteration": 2, "mi')
    assert [row["iteration"] for row in folder.scores("miou_pct", until=2)] == [1]
    folder.add_score({"iteration": 2, "miou_pct": 2.5})
    assert [row["iteration"] for row in folder.scores("miou_pct", until=2)] == [1, 2]


@pytest.mark.parametrize(
    "line", ["3", "null", "{}", '{"iteration": 1}', '{"iteration": 1, "miou_pct": NaN}', "[" * 99999]
)
def test_a_line_that_is_no_score_is_refused(line: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"test": 1})
    folder.log_path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"log.jsonl, line 1 is no score"):
        folder.scores("miou_pct", until=2)


def test_a_folder_where_nothing_was_saved_takes_another_training(tmp_path: Path) -> None:
    """What is refused for a setting is started again with another."""
    with RunFolder(tmp_path, {"devices": 3}).opened():
        pass
    with RunFolder(tmp_path, {"devices": 2}).opened():
        (tmp_path / "last.safetensors").touch()
    with pytest.raises(UserError, match="another devices: 2, now 1"), RunFolder(tmp_path, {"devices": 1}).opened():
        pass


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"iteration": 1, "objective": subprocess.Popen}, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt cannot be used \(it holds more than numbers\)"):
        trained(tmp_path)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
from tests.evaluators.test_resuming import trained
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
    root = str(Path(__file__).parents[2])
    while kills < KILLS:
        folder = tmp_path / str(starts)
        starts += 1
        for _ in range(2):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(folder), root], stdout=subprocess.PIPE, text=True
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

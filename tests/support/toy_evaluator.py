"""An evaluator that needs no training, in a file of its own: a worker process imports what it unpickles, and what
else `toys` needs, SQLAlchemy, Optuna and SciPy among it, would cost each of them 1.5 s of CPU time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evaluators.base import Metrics, Score
from topformer.blocks import candidate_blocks
from topformer.config import Candidate, anchor_name
from topformer.model import TopFormer
from topformer.weights import save_model


def marked(folder: Path, key: str, *, at_most: int = 3) -> bool:
    """Whether this is the first mark of that key, and among the first so many; workers mark at the same time."""
    if any(path.read_text() == key for path in folder.iterdir()):
        return False
    for slot in range(at_most):
        with suppress(FileExistsError), (folder / str(slot)).open("x") as file:
            file.write(key)
            return True
    return False


@dataclass(frozen=True, kw_only=True)
class ToyEvaluator:
    """mIoU grows with the parameters and has a candidate's own luck; it trains nothing, but obeys `Evaluator`."""

    fingerprint: str = "toy-1"
    fidelity: str = "toy"
    fails: Callable[[Candidate], bool] | None = None
    bars: Callable[[Candidate], bool] | None = None
    keeps_weights: bool = False
    disk_is_full: bool = False
    dies_once_in: Path | None = None
    """A folder; the first evaluation of each of three candidates kills its own process and leaves a mark there."""
    seconds: float = 0.0
    slow: Callable[[Candidate], bool] | None = None
    """Those that wait for `awaited`."""
    awaited: Path | None = None
    """A file that somebody makes."""
    luck_of: str = ""
    """Evaluators of other names give candidates other luck."""

    def why_not(self, candidate: Candidate) -> str | None:
        return "it is barred" if self.bars and self.bars(candidate) else None

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics:
        time.sleep(self.seconds)
        if self.awaited is not None and self.slow is not None and self.slow(candidate):
            wait_for(self.awaited)
        if self.dies_once_in is not None and marked(self.dies_once_in, candidate.key):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device", "/full")
        if self.fails and self.fails(candidate):
            raise RuntimeError("this architecture never works")
        luck = (
            int.from_bytes(hashlib.sha256(f"{candidate.key}/{replicate}{self.luck_of}".encode()).digest()[:2]) / 65536
        )
        size_m = sum(block.parameters for block in candidate_blocks(candidate)) / 1e6
        if self.keeps_weights and weights_out is not None:
            weights_out.parent.mkdir(parents=True, exist_ok=True)
            save_model(TopFormer(candidate.arch, num_classes=candidate.task.num_classes), weights_out)
        return Metrics(
            miou_pct=20 + 5 * size_m + 4 * luck,
            per_class_iou_pct=(50.0, None, *[30.0] * 10, *[50.0] * 47)[: candidate.task.num_classes],
            pixel_accuracy_pct=60.0,
            train_loss=1.0,
            seconds=self.seconds,
            cpu_seconds=0.5,
        )


@dataclass(frozen=True)
class SizeScorer:
    """Scores by parameters; trains nothing."""

    fingerprint: str = "size-1"
    fidelity: str = "size"
    seen: Path | None = None
    """A folder that gets a file for each evaluation."""

    def why_not(self, candidate: Candidate) -> str | None:
        return None

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Score:
        if self.seen is not None:
            with (self.seen / candidate.key).open("a") as file:
                file.write("x")
        if is_unlucky(candidate):
            raise RuntimeError("cannot be scored")
        size = float(sum(block.parameters for block in candidate_blocks(candidate)))
        return Score(value=size, seconds=0.0, cpu_seconds=0.0)


def wait_for(file: Path, *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError(file)
        time.sleep(0.02)


def always(candidate: Candidate) -> bool:
    return True


def is_base(candidate: Candidate) -> bool:
    return anchor_name(candidate.arch) == "base"


def is_unlucky(candidate: Candidate) -> bool:
    """True for one candidate in eight."""
    return candidate.key[0] in "01"

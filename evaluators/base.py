"""What does every evaluator promise? A candidate in, metrics with units out, a fingerprint that names the recipe."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from topformer.config import Candidate

if TYPE_CHECKING:
    from evaluators.segmentation import ConfusionMatrix

ProgressCallback = Callable[[int, int, float], None]
"""Called with (iterations done, iterations in all, loss of the last one)."""


STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""How pydantic reads metrics back from JSON: a record of a newer version is refused, not cut."""
ClassCounts = tuple[tuple[int, int, int], ...]
"""Pixels of each class: rightly predicted, labelled, predicted."""

_OF_A_FILE = re.compile(r"-[0-9a-f]{8}(?=$| )")
"""What a fidelity says of the supernet's file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a network did on a split."""

    confusion: ConfusionMatrix
    blocks: tuple[ClassCounts, ...] | None


@dataclass(kw_only=True, slots=True)
class Curve:
    """How a training went, at even points; filled while it runs."""

    miou_pct: list[float]
    loss: tuple[float, ...] = ()
    cpu_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What one evaluation found."""

    __pydantic_config__: ClassVar = STRICT
    miou_pct: float
    """Mean over the classes that are labelled or predicted somewhere."""
    per_class_iou_pct: tuple[float | None, ...]
    """None for a class that is neither labelled nor predicted."""
    pixel_accuracy_pct: float | None
    """None where the mIoU is a prediction."""
    train_loss: float | None
    """Mean over the last tenth of the iterations, auxiliary loss left out; None where nothing was trained."""
    seconds: float
    """Wall clock, drawing of missing data included."""
    cpu_seconds: float | None = None
    """CPU seconds of this process, all threads together: what an evaluation costs, whatever else the machine does.
    None in records of versions that did not measure it."""
    curve_loss: tuple[float, ...] | None = None
    """Mean loss over each tenth of the iterations; None where nothing was trained, and in older records."""
    curve_miou_pct: tuple[float, ...] | None = None
    """mIoU on the first validation images after each tenth of the iterations, by the weights that would be kept."""
    curve_cpu_seconds: float | None = None
    """Part of `cpu_seconds` that the scores of the curve took."""
    blocks: tuple[ClassCounts, ...] | None = None
    """Pixels of each class in each block of neighbouring validation images; None for images of one size."""
    judge_miou_pct: float | None = None
    """mIoU on the split `test`, by which nothing is chosen; None where the evaluator does not judge."""
    judge_per_class_iou_pct: tuple[float | None, ...] | None = None
    judge_blocks: tuple[ClassCounts, ...] | None = None
    """Pixels of each class in each block of neighbouring images of `test`."""
    miou_margin_pct: float | None = None
    """Half the 90 % interval of an mIoU that is a prediction; None where it was found by scoring."""

    @classmethod
    def of(
        cls,
        scored: Scored,
        *,
        since: tuple[float, float],
        train_loss: float | None = None,
        curve: Curve | None = None,
        judged: Scored | None = None,
    ) -> Self:
        """Metrics of a scored network; `since` is what `clocks` said when its evaluation began."""
        wall, cpu = clocks()
        return cls(
            miou_pct=scored.confusion.miou_pct,
            per_class_iou_pct=scored.confusion.per_class_iou_pct,
            pixel_accuracy_pct=scored.confusion.pixel_accuracy_pct,
            train_loss=train_loss,
            seconds=wall - since[0],
            cpu_seconds=cpu - since[1],
            curve_loss=curve.loss if curve else None,
            curve_miou_pct=tuple(curve.miou_pct) if curve else None,
            curve_cpu_seconds=curve.cpu_seconds if curve else None,
            blocks=scored.blocks,
            judge_miou_pct=judged.confusion.miou_pct if judged else None,
            judge_per_class_iou_pct=judged.confusion.per_class_iou_pct if judged else None,
            judge_blocks=judged.blocks if judged else None,
        )

    @property
    def value(self) -> float:
        """What architectures are ranked by."""
        return self.miou_pct


def clocks() -> tuple[float, float]:
    """Seconds by the wall and by this process."""
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What an evaluation without accuracy found: a number to rank by, greater is better."""

    __pydantic_config__: ClassVar = STRICT
    value: float
    seconds: float
    cpu_seconds: float | None = None
    """None in records of versions that did not measure it."""


class Scorer(Protocol):
    """Ranks candidates, by an accuracy or otherwise. Must survive pickling: worker processes evaluate."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of evaluator version, data and recipe; records with equal ones may be compared."""

    @property
    def fidelity(self) -> str:
        """Short name, such as "proxy-short"."""

    def why_not(self, candidate: Candidate) -> str | None:
        """Why `candidate` cannot be evaluated, in one sentence, without trying; None where it can."""

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics | Score:
        """Depends on candidate, replicate and fingerprint only. Raises `UserError` for what it cannot evaluate."""


class Evaluator(Scorer, Protocol):
    """Finds an mIoU: what studies search by."""

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics:
        """Metrics that depend on candidate, replicate and fingerprint only.

        Writes the weights to `weights_out` where it is given. Raises `UserError` for a candidate it cannot evaluate.
        """


def short_names(fidelities: Iterable[str]) -> dict[str, str]:
    """Each fidelity without the digits of its supernet's file, unless only those tell it from another one."""
    short = {one: _OF_A_FILE.sub("", one) for one in fidelities}
    counts = Counter(short.values())
    return {one: name if counts[name] == 1 else one for one, name in short.items()}

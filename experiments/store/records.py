"""What was proposed, evaluated and kept? The values that cross every boundary; no database is needed for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from evaluators.base import Metrics, Score
from experiments.study_config import MOST_REPLICATES, StudyConfig
from latency_lut.table import LatencyEstimate, LatencyTable
from topformer.config import Candidate

Origin = Literal["anchor", "sampler", "neighbour", "random"]
Status = Literal["complete", "failed"]
State = Literal["proposed", "complete", "failed"]
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_CLOSE_PCT = 1e-6
_T = TypeVar("_T")


def like(kind: type[_T], source: object, **given: Any) -> _T:
    """A value of that data class with what another one, a row of a table or a line of a file has under the same names,
    but for what is given."""
    names = (one.name for one in fields(kind) if one.name not in given)  # type: ignore[arg-type]  # a data class
    return kind(**{name: getattr(source, name) for name in names}, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One evaluation of one candidate."""

    candidate_key: str
    evaluator: str
    """Fingerprint: evaluator version, data and recipe."""
    fidelity: str
    replicate: int
    status: Status
    metrics: Metrics | Score | None
    """None for a failure."""
    reason: str | None
    """Why it failed."""
    seconds: float

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no evaluation brings."""
        if (self.metrics is None) != (self.status == "failed"):
            raise ValueError(f"it is {self.status}, and {'has no' if self.metrics is None else 'has'} metrics")
        for name in ("seconds", "cpu_seconds"):
            value = getattr(self if name == "seconds" else self.metrics, name, None)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"its {name} is {value:g}")
        if self.accuracy is not None:
            _require_shares(self.accuracy)

    @property
    def accuracy(self) -> Metrics | None:
        """What an evaluator of accuracy found; None for a failure, and for a score without accuracy."""
        return self.metrics if isinstance(self.metrics, Metrics) else None

    @property
    def value(self) -> float | None:
        """The mIoU in per cent, or the score where there is none; None for a failure."""
        return None if self.metrics is None else self.metrics.value

    def require_sound(self, *, classes: int | None = None) -> None:
        """Raise `ValueError` where an evaluation contradicts itself, or is not of so many classes.

        The evaluators of this tool say an mIoU that is the mean of the IoUs; another's may mean another.
        """
        if (found := self.accuracy) is None:
            return
        for ious, miou_pct, name in (
            (found.per_class_iou_pct, found.miou_pct, "miou_pct"),
            (found.judge_per_class_iou_pct or (), found.judge_miou_pct, "judge_miou_pct"),
        ):
            if ious and classes is not None and len(ious) != classes:
                raise ValueError(f"it has IoUs of {len(ious)} classes, its task has {classes}")
            known = [one for one in ious if one is not None]
            if known and miou_pct is not None and self.is_of_this_tool and abs(fmean(known) - miou_pct) > _CLOSE_PCT:
                raise ValueError(f"its {name} is {miou_pct:g}, the mean over its classes {fmean(known):g}")

    @property
    def is_of_this_tool(self) -> bool:
        """Whether the evaluator's fingerprint is of the form that this tool's evaluators have."""
        return _FINGERPRINT.fullmatch(self.evaluator) is not None

    @property
    def judge_miou_pct(self) -> float | None:
        """mIoU in per cent on the images by which nothing is chosen; None where the evaluator does not judge."""
        return None if self.accuracy is None else self.accuracy.judge_miou_pct


def _require_shares(found: Metrics) -> None:
    shares = [(name, getattr(found, name)) for name in ("miou_pct", "pixel_accuracy_pct", "judge_miou_pct")]
    for name in ("per_class_iou_pct", "judge_per_class_iou_pct", "curve_miou_pct"):
        shares += [(name, value) for value in getattr(found, name) or ()]
    for name, value in shares:
        if value is not None and not -_CLOSE_PCT <= value <= 100 + _CLOSE_PCT:
            raise ValueError(f"its {name} is {value:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A record with its candidate and the time it was written."""

    candidate: Candidate
    record: Record
    created: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A candidate on its way into a study."""

    candidate: Candidate
    point: Mapping[str, int | str]
    origin: Origin
    anchor: str | None
    latency: LatencyEstimate


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatistics:
    """What the gate before a batch did."""

    asked: int
    invalid: int
    """The evaluator cannot evaluate them."""
    over_budget: int
    duplicates: int
    sampler_seconds: float
    screened: int = 0
    """Turned away by a screen, after the gate."""

    @classmethod
    def total(cls, batches: Sequence[BatchStatistics]) -> BatchStatistics:
        """What the gate did before all of some batches."""
        return cls(**{one.name: sum(getattr(batch, one.name) for batch in batches) for one in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A proposal and what became of it."""

    number: int
    batch: int
    candidate: Candidate
    point: Mapping[str, int | str]
    origin: Origin
    anchor: str | None
    latency: LatencyEstimate
    state: State
    record: Record | None
    from_cache: bool
    weights: Path | None
    weights_sha256: str | None
    trainings: int = 1
    """Of which its record is the mean."""

    @property
    def miou_pct(self) -> float | None:
        return None if self.record is None or self.record.accuracy is None else self.record.accuracy.miou_pct


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlines:
    """A study's trials in a few numbers of each, by number."""

    number: NDArray[np.int64]
    batch: NDArray[np.int64]
    is_anchor: NDArray[np.bool_]
    total_ms: NDArray[np.float64]
    miou_pct: NDArray[np.float64]
    """Not a number for one that failed or is not evaluated yet."""


class Counts(NamedTuple):
    """Of a study's trials; those that are neither are open."""

    trials: int
    complete: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A fidelity at which a study's best trials are confirmed."""

    label: str
    """Unique in the study; the fidelity of what it ranks."""
    fidelity: str
    evaluator: str
    """Fingerprint."""
    replicates: int
    racing: bool = False
    """Whether `replicates` is the most, and a trial has fewer where that decided."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicates <= MOST_REPLICATES:
            raise ValueError(f"a rung's replicates must be from 1 to {MOST_REPLICATES}, not {self.replicates}")

    def as_dict(self) -> dict[str, Any]:
        """Without `racing` where it is not so, as rungs have always been written."""
        return {name: value for name, value in asdict(self).items() if name != "racing" or value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study as stored."""

    config: StudyConfig
    evaluator: str
    fidelity: str
    table_text: str
    created: str
    finished: str | None
    rungs: tuple[Rung, ...] = ()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def table(self) -> LatencyTable:
        """The latency table as it was when the study began."""
        return _snapshot(self.table_text, self.name)

    @property
    def further(self) -> tuple[Rung, ...]:
        """Confirmations of what `fidelity` ranks."""
        labels = [rung.label for rung in self.rungs]
        return self.rungs[labels.index(self.fidelity) + 1 if self.fidelity in labels else 0 :]


@lru_cache(maxsize=8)
def _snapshot(text: str, study: str) -> LatencyTable:
    """A command asks several times; to read a table takes longer than to use it."""
    return LatencyTable.from_text(text, where=f"table snapshot of study {study!r}")


def mean_of(replicates: Sequence[Record], *, fidelity: str) -> Record:
    """One record of several trainings of a candidate: the mean of every number, and all their seconds."""

    def mean(values: list[Any]) -> Any:
        known = [value for value in values if value is not None]
        if known and all(isinstance(value, tuple) for value in known):
            return tuple(mean(list(items)) for items in zip(*known, strict=True))
        return sum(known) / len(known) if known else None

    first, found = replicates[0], [record.metrics for record in replicates]
    assert first.metrics is not None
    return replace(
        first,
        fidelity=fidelity,
        metrics=replace(
            first.metrics, **{one.name: mean([getattr(m, one.name) for m in found]) for one in fields(first.metrics)}
        ),
        seconds=sum(record.seconds for record in replicates),
    )


def require_moment(what: str, text: str | None) -> None:
    """Raise `ValueError` for what is no time as this tool writes times: with a day, of this century, and its zone."""
    if text is None:
        return
    try:
        year = datetime.fromisoformat(text).astimezone(UTC).year
    except (ValueError, OverflowError):
        year = 0
    if not 2000 <= year < 2200:
        raise ValueError(f"{what} is {text[:40]!r}, which is no time")


def _kind(values: object) -> str:
    return "|score" if isinstance(values, Mapping) and "value" in values else "|metrics"


StoredMetrics = Annotated[Annotated[Metrics, Tag("|metrics")] | Annotated[Score, Tag("|score")], Discriminator(_kind)]
"""How pydantic reads the JSON of what an evaluation found."""


METRICS: TypeAdapter[Metrics | Score] = TypeAdapter(StoredMetrics)


def first_mistake(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("|"))  # "|" marks which metrics
    return f"{place or 'its content'}: {first['msg']}"


def stored(metrics: Metrics | Score | None) -> dict[str, Any] | None:
    """Metrics as JSON has them; without what was not found and older records do not have."""
    if metrics is None:
        return None
    always = {one.name for one in fields(metrics) if one.default is MISSING}
    return {name: value for name, value in asdict(metrics).items() if value is not None or name in always}

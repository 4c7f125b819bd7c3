"""From the values of studies to rows of the database and back; what this tool has not written is refused by its row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from experiments.store.artefacts import file_sha256
from experiments.store.records import (
    METRICS,
    BatchStatistics,
    Origin,
    Proposal,
    Record,
    Rung,
    Status,
    Study,
    Trial,
    first_mistake,
    like,
    require_moment,
    stored,
)
from experiments.store.schema import Base, BatchRow, CandidateRow, ProposalRow, RecordRow, StudyRow, TrustReportRow
from experiments.study_config import StudyConfig
from latency_lut.table import LatencyEstimate
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig
from topformer.errors import UserError, unknown_name
from topformer.reading import MOST_VALUES, require_few, strict_json

_RUNGS = TypeAdapter(list[Rung])
_ESTIMATE = TypeAdapter(LatencyEstimate)
_POINT = TypeAdapter(dict[str, int | str])
_CLOSE = 1e-9


def now() -> str:
    return datetime.now(UTC).isoformat()


def study_row(session: Session, name: str, *, lock: bool = False) -> StudyRow:
    query = select(StudyRow).where(StudyRow.name == name)
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise unknown_name("study", name, session.scalars(select(StudyRow.name)))
    return row


def name_of_weights(candidate_key: str, evaluator: str, replicate: int) -> str:
    return f"{candidate_key}-{evaluator[:16]}-{replicate}.safetensors"


def weights_name(row: RecordRow) -> str:
    """The file of a record's weights, in the folder of the store. Raises `ValueError` for any other name: whoever edits
    a database must not choose which files are read and deleted."""
    wanted = name_of_weights(row.candidate_key, row.evaluator, row.replicate)
    if row.weights_path != wanted:
        raise ValueError(f"its weights are {str(row.weights_path)[:100]!r}, not {wanted[:100]!r}")
    return wanted


def row_of_record(record: Record, *, weights: Path | None = None) -> RecordRow:
    return RecordRow(
        candidate_key=record.candidate_key,
        evaluator=record.evaluator,
        fidelity=record.fidelity,
        replicate=record.replicate,
        status=record.status,
        metrics_json=None if record.metrics is None else json.dumps(stored(record.metrics)),
        reason=record.reason,
        seconds=record.seconds,
        created=now(),
        weights_path=None if weights is None else weights.name,
        weights_sha256=None if weights is None else file_sha256(weights),
    )


def row_of_proposal(
    study_id: int,
    number: int,
    batch: int,
    proposal: Proposal,
    *,
    record_id: int | None = None,
    miou_pct: float | None = None,
    from_cache: bool = False,
) -> ProposalRow:
    return ProposalRow(
        study_id=study_id,
        number=number,
        batch=batch,
        candidate_key=proposal.candidate.key,
        point_json=json.dumps(dict(proposal.point)),
        origin=proposal.origin,
        anchor=proposal.anchor,
        latency_json=_estimate_json(proposal.latency),
        record_id=record_id,
        from_cache=from_cache,
        total_ms=proposal.latency.total_ms,
        miou_pct=miou_pct,
    )


def _estimate_json(estimate: LatencyEstimate) -> str:
    return json.dumps(asdict(estimate) | {"kinds": sorted(estimate.kinds)})


def estimate_of(text: str) -> LatencyEstimate:
    """Raises `ValueError` for what no table says: a time below 0, an interval beside it, another sum of blocks."""
    found = _ESTIMATE.validate_json(few(text), strict=True)
    times = [found.low_ms, found.total_ms, found.high_ms, *(ms for _, ms in found.by_block)]
    if not all(math.isfinite(ms) and ms >= 0 for ms in times) or times[:3] != sorted(times[:3]):
        raise ValueError(
            f"its latency is {found.total_ms:g} ms, from {found.low_ms:g} to {found.high_ms:g}, or a block's"
        )
    total_ms = math.fsum(ms for _, ms in found.by_block)
    if abs(total_ms - found.total_ms) > _CLOSE * max(total_ms, 1.0) or not (found.kinds and 0 < found.level < 1):
        raise ValueError(f"its latency is {found.total_ms:g} ms, the sum of its blocks {total_ms:g}")
    return found


def few(text: str) -> str:
    """The same JSON; raises `ValueError` where a row holds more than any that this tool writes."""
    if len(text) > MOST_VALUES:  # no shorter one can
        require_few(strict_json(text))
    return text


@contextmanager
def undamaged(what: str) -> Iterator[None]:
    """What this tool wrote reads back; anything else was written by someone else."""
    try:
        yield
    except ValidationError as error:
        raise UserError(f"{what} in the store is damaged ({first_mistake(error)}); restore a backup.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, UserError) as error:
        raise UserError(
            f"{what} in the store is damaged ({type(error).__name__}: {error}); restore a backup."
        ) from error


@lru_cache
def _column_types(kind: type[Base]) -> tuple[tuple[str, type | tuple[type, ...], bool], ...]:
    """Of each column: name, what it may hold, whether it may be empty."""
    columns = inspect(kind).columns
    return tuple(
        (one.key, (int, float) if one.type.python_type is float else one.type.python_type, bool(one.nullable))
        for one in columns
        if one.key != "id"  # no row has another kind of it, and a new one has none yet
    )


def require_types(row: Base) -> None:
    """SQLite keeps anything in any column; raises `TypeError` for what this tool has not written."""
    for name, wanted, optional in _column_types(type(row)):
        if not (optional and getattr(row, name) is None):
            _require_type(name, getattr(row, name), wanted)


def _require_type(name: str, value: object, wanted: type | tuple[type, ...]) -> None:
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{name} is {str(value)[:40]!r}")


def study_of(row: StudyRow) -> Study:
    with undamaged(f"study {str(row.name)[:100]!r}"):
        require_types(row)
        config = StudyConfig.checked(strict_json(row.config_json), where="its configuration")
        if config.name != row.name:
            raise ValueError(f"its configuration is of {config.name!r}")
        require_moment("its beginning", row.created)
        require_moment("its end", row.finished)
        rungs = tuple(_RUNGS.validate_json(few(row.rungs_json), strict=True))
    return like(Study, row, config=config, rungs=rungs)


def trial_of(row: ProposalRow, settled: Mapping[str, Any]) -> Trial:
    """With what a record and its weights give a trial. Raises `ValueError` for what contradicts itself."""
    require_types(row)
    candidate = candidate_of(row.candidate)
    if row.origin not in get_args(Origin) or row.anchor not in (None, *ANCHORS):
        raise ValueError(f"its origin is {row.origin[:40]!r}, its anchor {str(row.anchor)[:40]!r}")
    if row.anchor is not None and candidate.arch != ANCHORS[row.anchor]:
        raise ValueError(f"it is said to be the anchor {row.anchor}, and is another architecture")
    latency = estimate_of(row.latency_json)
    record: Record | None = settled["record"]
    if record is not None:
        if record.candidate_key != candidate.key:
            raise ValueError(f"its record is of candidate {record.candidate_key[:40]!r}")
        record.require_sound(classes=candidate.task.num_classes)
    said = (row.total_ms, row.miou_pct)
    if said != (latency.total_ms, record and record.value):  # as add_study and settle write them
        raise ValueError(f"it is listed with {said[0]:g} ms and mIoU {said[1]}, and has others")
    point = _POINT.validate_json(few(row.point_json), strict=True)
    return like(Trial, row, candidate=candidate, point=point, latency=latency, trainings=1, **settled)


def candidate_of(row: CandidateRow | None) -> Candidate:
    if row is None:
        raise ValueError("its candidate is not there")
    require_types(row)
    found = Candidate(
        arch=TopFormerConfig.from_dict(strict_json(row.arch_json)), task=Task.from_dict(strict_json(row.task_json))
    )
    if (found.key, found.arch.key) != (row.key, row.arch_key):
        raise ValueError(f"candidate {row.key[:40]!r} has another architecture or task than its key says")
    return found


def trust_report_of(row: TrustReportRow) -> tuple[str, str]:
    require_types(row)
    return row.name, row.report_json


def batch_of(row: BatchRow) -> BatchStatistics:
    require_types(row)
    return like(BatchStatistics, row)


def record_of(row: RecordRow) -> Record:
    require_types(row)
    if row.status not in get_args(Status):
        raise ValueError(f"its status is {row.status[:40]!r}")
    metrics = None if row.metrics_json is None else METRICS.validate_json(few(row.metrics_json), strict=True)
    found = like(Record, row, metrics=metrics)
    found.require_sound()
    return found

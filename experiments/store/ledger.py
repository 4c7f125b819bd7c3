"""Evaluations as a file: JSON lines without weights, to be committed, handed on and taken in by another store.

The first line says what the file is. Every other line is one evaluation, with a checksum of its content; the key of its
candidate follows from architecture and task. A file is taken in whole or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import Field, ValidationError

from experiments.store.records import Evaluation, Record, StoredMetrics, first_mistake, like, stored
from experiments.store.store import Store
from experiments.study_config import Strict
from topformer.config import Candidate, Task, TopFormerConfig, content_key
from topformer.errors import UserError, first_line, unknown_name
from topformer.reading import MIB, file_content, require_few, strict_json
from topformer.writing import write_whole

FORMAT = "topformer-nas records"
VERSION = 1
MOST_BYTES = 128 * MIB
MOST_LINE_BYTES = 8 * MIB


class _Line(Strict):
    """One evaluation."""

    candidate_key: str = Field(max_length=16)
    architecture: dict[str, Any]
    task: dict[str, Any]
    evaluator: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    fidelity: str = Field(pattern=r"^[\x20-\x7e]{1,64}$")
    replicate: int = Field(ge=0, lt=2**31)
    status: Literal["complete", "failed"]
    metrics: StoredMetrics | None
    reason: str | None = Field(max_length=10_000)
    seconds: float = Field(ge=0)
    created: str = Field(pattern=r"^[0-9T:.+-]{10,40}$")
    checksum: str


def write_records(store: Store, path: Path, *, fidelities: Collection[str] = ()) -> int:
    """Write the evaluations of a store, or those of some fidelities; gives how many.

    Raises `UserError` for a fidelity that the store does not have, and where the file cannot be written.
    """
    every = store.evaluations()
    known = {one.record.fidelity for one in every}
    for name in fidelities:
        if name not in known:
            raise unknown_name("fidelity", name, known, advice=f"They are those of {store.url}.")
    chosen = [one for one in every if not fidelities or one.record.fidelity in fidelities]
    head = {"format": FORMAT, "version": VERSION, "records": len(chosen)}
    lines = [json.dumps(head), *(json.dumps(_as_line(one), separators=(",", ":")) for one in chosen)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise UserError(f"cannot write the records {str(path)!r} ({error.strerror}).") from None
    return len(chosen)


def read_records(path: Path) -> tuple[Evaluation, ...]:
    """Read and check every line; raises `UserError` naming the first that is wrong, and why."""
    lines = _lines(path)
    try:
        head = strict_json(next(lines, b"{}"))
        said = (head.get("format"), head.get("version"), head.get("records"))
    except (ValueError, AttributeError, RecursionError):
        said = (None, None, None)
    if said[0] != FORMAT:
        raise UserError(f"{path} is no file of records: its first line does not say {FORMAT!r}.")
    if said[1] != VERSION:
        raise UserError(f"{path} has version {str(said[1])[:20]} of {FORMAT}, this tool reads {VERSION}.")
    found = tuple(_evaluation(path, number, line) for number, line in enumerate(lines, start=2))
    if len(found) != said[2]:
        raise UserError(
            f"{path} has {len(found)} records, its first line says {str(said[2])[:20]}: it was cut or added to."
        )
    fidelities: dict[str, str] = {}
    for number, one in enumerate(found, start=2):
        if (other := fidelities.setdefault(one.record.evaluator, one.record.fidelity)) != one.record.fidelity:
            _refuse(path, number, f"evaluator {one.record.evaluator} is {one.record.fidelity!r}, and {other!r} before")
    return found


def take_in(store: Store, path: Path) -> tuple[int, int]:
    """Bring the records of a file into a store, all or none: how many it has, and how many were new.

    Raises `UserError` for a file that is wrong, and where the store knows another result of an evaluation.
    """
    found = read_records(path)
    return len(found), store.add_evaluations(found)


def _as_line(one: Evaluation) -> dict[str, Any]:
    record = one.record
    content: dict[str, Any] = {
        "candidate_key": record.candidate_key,
        "architecture": one.candidate.arch.as_dict(),
        "task": one.candidate.task.as_dict(),
        "evaluator": record.evaluator,
        "fidelity": record.fidelity,
        "replicate": record.replicate,
        "status": record.status,
        "metrics": stored(record.metrics),
        "reason": record.reason,
        "seconds": record.seconds,
        "created": one.created,
    }
    return content | {"checksum": content_key(content)}


def _lines(path: Path) -> Iterator[bytes]:
    for line in io.BytesIO(file_content(path, "the records", most_bytes=MOST_BYTES)):
        if len(line) > MOST_LINE_BYTES:
            raise UserError(f"{path} has a line of over {MOST_LINE_BYTES // MIB} MiB; records are not that long.")
        yield line


def _evaluation(path: Path, number: int, text: bytes) -> Evaluation:
    try:
        require_few(values := strict_json(text))
        line = _Line.model_validate_json(text)
        arch, task = TopFormerConfig.from_dict(line.architecture), Task.from_dict(line.task)
        found = Evaluation(
            candidate=Candidate(arch=arch, task=task),
            record=like(Record, line),
            created=line.created,
        )
    except ValidationError as error:
        _refuse(path, number, first_mistake(error))
    except (ValueError, TypeError, KeyError, RecursionError, UserError) as error:
        _refuse(path, number, first_line(error).rstrip("."))
    if found.candidate.key != line.candidate_key:
        _refuse(path, number, f"its candidate has the key {found.candidate.key}, not {line.candidate_key!r}")
    if content_key({key: value for key, value in values.items() if key != "checksum"}) != line.checksum:
        _refuse(path, number, "its content is not that of its checksum: it was changed")
    return found


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise UserError(f"{path}, line {number}: {what[:300]}; nothing was taken in.")

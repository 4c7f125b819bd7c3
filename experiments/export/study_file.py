"""One file that holds a study: configuration, latency table, proposals, records, front; checked before it is believed.

A zip archive of seven members with fixed names, the manifest among them with the checksum of every other. Nothing in it
is run, and nothing of it is unpacked to a path: members are read by name, up to a size, and parsed as JSON or as a
latency table. Weights stay behind.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import lzma
import platform
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, FailFast, Field, TypeAdapter, ValidationError

from experiments.front.pareto import front, hypervolume_of, hypervolume_reference
from experiments.store.records import (
    BatchStatistics,
    Proposal,
    Record,
    Rung,
    StoredMetrics,
    Study,
    Trial,
    first_mistake,
    like,
    require_moment,
    stored,
)
from experiments.store.store import Store
from experiments.study_config import Strict, StudyConfig
from latency_lut.devices.host import cpu_model
from latency_lut.table import LatencyTable, available_tables
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig
from topformer.errors import UserError, first_line
from topformer.reading import MIB, ordinary_file, require_few, strict_json
from topformer.version import DISTRIBUTION, tool_version
from topformer.writing import write_whole

FORMAT = 1
MOST_MEMBER_BYTES = 256 * MIB
"""Of the trials, or of the confirmations; other members are smaller."""
_MOST_BYTES = {"manifest.json": MIB, "study.json": 4 * MIB, "table.lut": 64 * MIB, "batches.json": 16 * MIB}
_MOST_BYTES |= {"front.json": 16 * MIB}
_MOST_LINE_BYTES = 8 * MIB
_MOST_PACKED = 200
"""How much smaller a member may be packed than it is: records pack to a tenth, only a bomb to a thousandth."""
_MANIFEST = "manifest.json"
_MEMBERS = ("study.json", "table.lut", "batches.json", "trials.jsonl", "confirmations.jsonl", "front.json")
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member: equal studies make equal archives."""
_LIBRARIES = ("torch", "numpy", "optuna", "sqlalchemy")
_CLOSE_MS = 1e-9


class _Manifest(Strict):
    format: int
    made_by: dict[str, str]
    """Versions of packages."""
    machine: dict[str, Any]
    sha256: dict[str, str]
    """By member."""


class _StudyEntry(Strict):
    name: str
    config: StudyConfig
    evaluator: str
    fidelity: str
    created: str
    finished: str | None
    rungs: Annotated[list[Rung], FailFast()]
    screens: Annotated[list[str], FailFast()]


class _RecordEntry(Strict):
    status: Literal["complete", "failed"]
    metrics: StoredMetrics | None
    reason: str | None
    seconds: float


class _TrialEntry(Strict):
    number: int
    batch: int
    candidate_key: str
    architecture: dict[str, Any]
    task: dict[str, Any]
    point: dict[str, int | str]
    origin: Literal["anchor", "sampler", "neighbour", "random"]
    anchor: str | None
    latency_ms: float
    from_cache: bool
    record: _RecordEntry | None
    """None for one that was in flight."""


class _ConfirmationEntry(_RecordEntry):
    candidate_key: str
    evaluator: str
    fidelity: str
    replicate: int = Field(ge=0)


class _FrontEntry(Strict):
    trials: Annotated[list[int], FailFast()]
    hypervolume: float
    reference_ms: float
    reference_miou_pct: float


Entry = TypeVar("Entry", bound=BaseModel)
_BATCHES = TypeAdapter(Annotated[list[BatchStatistics], FailFast()])


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A study as an archive has it, after all checks."""

    study: _StudyEntry
    table: LatencyTable
    table_text: str
    batches: tuple[BatchStatistics, ...]
    trials: tuple[_TrialEntry, ...]
    proposals: tuple[Proposal, ...]
    records: tuple[Record | None, ...]
    """What was found of each trial; None for one that was in flight."""
    confirmations: tuple[Record, ...]
    front: _FrontEntry
    made_by: Mapping[str, str]
    machine: Mapping[str, Any]


def export_study(store: Store, name: str, path: Path) -> Path:
    """Write a study to an archive; raises `UserError` for an unknown one."""
    study, trials, batches = store.study(name), store.trials(name), store.batches(name)
    members = {
        "study.json": _json(
            {key: getattr(study, key) for key in ("name", "evaluator", "fidelity", "created", "finished")}
            | {"config": study.config.model_dump()}
            | {"rungs": [rung.as_dict() for rung in study.rungs], "screens": store.screens(name)}
        ),
        "table.lut": study.table_text.encode(),
        "batches.json": _json([asdict(batch) for batch in batches]),
        "trials.jsonl": b"".join(_json(_entry(trial)) for trial in trials),
        "confirmations.jsonl": b"".join(
            _json(asdict(record) | {"metrics": stored(record.metrics)})
            for rung in study.rungs
            for record in store.confirmations(name, rung)
        ),
        "front.json": _json(_front_of(study, trials)),
    }
    for member, content in members.items():
        if len(content) > (most := _MOST_BYTES.get(member, MOST_MEMBER_BYTES)):
            raise UserError(
                f"study {name!r} is too large for an archive: {member} has {len(content):,} bytes of {most:,}."
            )
    manifest = {
        "format": FORMAT,
        "made_by": {DISTRIBUTION: tool_version()}
        | {library: importlib.metadata.version(library) for library in _LIBRARIES}
        | {"python": platform.python_version()},
        "machine": {"cpu": cpu_model(), "system": platform.platform()},
        "sha256": {member: hashlib.sha256(content).hexdigest() for member, content in members.items()},
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for member, content in {_MANIFEST: _json(manifest), **members}.items():
            archive.writestr(zipfile.ZipInfo(member, _DATE), content, zipfile.ZIP_DEFLATED)
    write_whole(path, packed.getvalue())
    return path


def read_archive(path: Path) -> Archive:
    """Read and check: checksums, candidates, latencies from the table, front and hypervolume from the records.

    Raises `UserError` that names the member and what is wrong with it.
    """
    members = _contents(path)
    manifest = _parsed(path, _MANIFEST, _Manifest, members[_MANIFEST])
    if manifest.format != FORMAT:
        _refuse(path, _MANIFEST, f"format {manifest.format}, this tool reads {FORMAT}")
    for member in _MEMBERS:
        if hashlib.sha256(members[member]).hexdigest() != manifest.sha256.get(member):
            _refuse(path, member, "its content is not that of its checksum")
    study = _parsed(path, "study.json", _StudyEntry, members["study.json"])
    text = _text(path, "table.lut", members["table.lut"])
    try:
        study.config.search_space()
    except UserError as error:
        _refuse(path, "study.json", str(error).rstrip("."))
    if study.config.name != study.name or not (study.evaluator and study.fidelity):
        _refuse(path, "study.json", f"its name is {study.name[:100]!r}, its configuration's {study.config.name!r}")
    try:
        require_moment("its beginning", study.created)
        require_moment("its end", study.finished)
    except ValueError as error:
        _refuse(path, "study.json", str(error))
    try:
        table = LatencyTable.from_text(text, where="table.lut")
    except UserError as error:
        _refuse(path, "table.lut", str(error).rstrip("."))
    try:
        strict_json(members["batches.json"])
        batches = tuple(_BATCHES.validate_json(members["batches.json"]))
    except ValidationError as error:
        _refuse(path, "batches.json", first_mistake(error))
    except (ValueError, RecursionError) as error:
        _refuse(path, "batches.json", first_line(error))
    if any(value < 0 for batch in batches for value in asdict(batch).values()):
        _refuse(path, "batches.json", "a batch has counts below 0")
    trials = tuple(_trials(path, members["trials.jsonl"]))
    found = Archive(
        study=study,
        table=table,
        table_text=text,
        batches=batches,
        trials=trials,
        proposals=tuple(_proposal(path, table, trial) for trial in trials),
        records=tuple(_record(path, study, trial) for trial in trials),
        confirmations=tuple(_confirmations(path, study, trials, members["confirmations.jsonl"])),
        front=_parsed(path, "front.json", _FrontEntry, members["front.json"]),
        made_by=manifest.made_by,
        machine=manifest.machine,
    )
    _require_order(path, found)
    _require_in_space(path, found)
    _require_same_front(path, found)
    return found


def unproven(archive: Archive, signer: str | None = None) -> tuple[str, ...]:
    """What no check of an archive can show: sentences for whoever is to believe it, or who signed it."""
    entry = archive.study
    doubts = [
        f"that {entry.evaluator} found these mIoUs: only training shows it, as `topformer-nas export STUDY#TRIAL "
        "--retrain` does once it is imported",
        "who made it, on which machine and when: that stands in it as its maker wrote it"
        if signer is None
        else f"on which machine and when it was made: that stands in it as its maker wrote it, and {signer} signed it",
    ]
    known = {path.stem: path for path in available_tables()}.get(archive.table.name)
    if known is None:
        doubts.insert(0, f"that the rows of table {archive.table.name} are measured: no table of that name is here")
    elif LatencyTable.load(known).checksum != archive.table.checksum:
        doubts.insert(
            0, f"that the rows of table {archive.table.name} are measured: the table of that name here differs"
        )
    if any(record and record.accuracy and not record.is_of_this_tool for record in archive.records):
        doubts.insert(0, f"that mIoUs are the means over classes: {entry.evaluator} is no evaluator of this tool")
    return tuple(doubts)


def import_study(store: Store, archive: Archive, *, name: str | None = None) -> str:
    """Write a checked archive's study to a store, all of it or nothing; gives its name.

    Raises `UserError` for a name that is taken, and for a store that has other results of the same evaluations.
    """
    entry = archive.study
    wanted = name or entry.name
    config = StudyConfig.model_validate(entry.config.model_dump() | {"name": wanted})
    store.add_study(
        replace(_study_of(archive), config=config),
        batches=archive.batches,
        confirmations=archive.confirmations,
        screens=entry.screens,
        trials=[
            (trial.number, trial.batch, proposal, record, trial.from_cache)
            for trial, proposal, record in zip(archive.trials, archive.proposals, archive.records, strict=True)
        ],
    )
    return wanted


def rebuilt_trials(archive: Archive) -> tuple[Trial, ...]:
    """The archive's trials as a store would give them."""
    return tuple(
        like(
            Trial,
            proposal,
            number=trial.number,
            batch=trial.batch,
            state="proposed" if trial.record is None else trial.record.status,
            record=record,
            from_cache=trial.from_cache,
            weights=None,
            weights_sha256=None,
            trainings=1,
        )
        for trial, proposal, record in zip(archive.trials, archive.proposals, archive.records, strict=True)
    )


def _study_of(archive: Archive) -> Study:
    return like(Study, archive.study, table_text=archive.table_text, rungs=tuple(archive.study.rungs))


def _entry(trial: Trial) -> dict[str, Any]:
    record = trial.record
    return {
        "number": trial.number,
        "batch": trial.batch,
        "candidate_key": trial.candidate.key,
        "architecture": trial.candidate.arch.as_dict(),
        "task": trial.candidate.task.as_dict(),
        "point": dict(trial.point),
        "origin": trial.origin,
        "anchor": trial.anchor,
        "latency_ms": trial.latency.total_ms,
        "from_cache": trial.from_cache,
        "record": None
        if record is None
        else {
            "status": record.status,
            "metrics": stored(record.metrics),
            "reason": record.reason,
            "seconds": record.seconds,
        },
    }


def _front_of(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    reference = hypervolume_reference(study, trials)
    return {
        "trials": [trial.number for trial in front(trials, fidelity=study.fidelity)],
        "hypervolume": hypervolume_of(trials, fidelity=study.fidelity, reference=reference),
        "reference_ms": reference[0],
        "reference_miou_pct": reference[1],
    }


def _contents(path: Path) -> dict[str, bytes]:
    """Of every member; refuses names, sizes and kinds of members that no export writes."""
    try:
        with ordinary_file(path, "the archive") as file, zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist()]
            if sorted(names) != sorted((_MANIFEST, *_MEMBERS)):
                strange = sorted(set(names) - {_MANIFEST, *_MEMBERS}) or ["members missing or there twice"]
                raise UserError(
                    f"{path} is no study archive: it must hold {', '.join((_MANIFEST, *_MEMBERS))} and nothing else "
                    f"({strange[0][:80]!r})."
                )
            found = {}
            for info in archive.infolist():
                most = _MOST_BYTES.get(info.filename, MOST_MEMBER_BYTES)
                if info.file_size > most:
                    _refuse(path, info.filename, f"{info.file_size:,} bytes, more than {most:,}")
                if info.file_size > max(_MOST_PACKED * info.compress_size, MIB):
                    _refuse(path, info.filename, f"{info.file_size:,} bytes, packed into {info.compress_size:,}")
                with archive.open(info) as member:
                    found[info.filename] = member.read(info.file_size + 1)
                if len(found[info.filename]) > info.file_size:
                    _refuse(path, info.filename, f"more than the {info.file_size:,} bytes that it says")
            return found
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise UserError(f"{path} is not a readable archive ({error}); copy it again.") from None


def _parsed(path: Path, member: str, kind: type[Entry], content: bytes) -> Entry:
    try:
        require_few(strict_json(content))  # what a field may be at will holds no other numbers either
        found = kind.model_validate_json(content)
    except ValidationError as error:
        _refuse(path, member, first_mistake(error))
    except (ValueError, RecursionError, UserError) as error:
        _refuse(path, member, first_line(error).rstrip("."))
    return found


def _lines(path: Path, member: str, content: bytes) -> Iterator[bytes]:
    for line in io.BytesIO(content):
        if len(line) > _MOST_LINE_BYTES or not line.strip():
            _refuse(
                path, member, f"a line is {'empty' if not line.strip() else f'over {_MOST_LINE_BYTES:,} bytes long'}"
            )
        yield line


def _trials(path: Path, content: bytes) -> Iterator[_TrialEntry]:
    member = "trials.jsonl"
    for number, line in enumerate(_lines(path, member, content)):
        trial = _parsed(path, member, _TrialEntry, line)
        if trial.number != number:
            _refuse(path, member, f"trial {number} is numbered {trial.number}")
        yield trial


def _text(path: Path, member: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        _refuse(path, member, "it is not text")


def _proposal(path: Path, table: LatencyTable, trial: _TrialEntry) -> Proposal:
    """With its latency anew from the table."""
    member = "trials.jsonl"
    try:
        candidate = Candidate(
            arch=TopFormerConfig.from_dict(trial.architecture), task=Task.from_dict(trial.task, where="task")
        )
        latency = table.estimate(candidate_blocks(candidate))
    except UserError as error:
        _refuse(path, member, f"trial {trial.number}: {error}")
    if candidate.key != trial.candidate_key:
        _refuse(path, member, f"trial {trial.number} has the key of another architecture")
    if abs(latency.total_ms - trial.latency_ms) > _CLOSE_MS * max(latency.total_ms, 1.0):
        _refuse(
            path,
            member,
            f"trial {trial.number} is said to take {trial.latency_ms:g} ms, its table says {latency.total_ms:g}",
        )
    return Proposal(candidate=candidate, point=trial.point, origin=trial.origin, anchor=trial.anchor, latency=latency)


def _confirmations(path: Path, study: _StudyEntry, trials: Sequence[_TrialEntry], content: bytes) -> Iterator[Record]:
    """Of the study's own candidates, at its own rungs."""
    member = "confirmations.jsonl"
    keys = {trial.candidate_key for trial in trials}
    places = {(rung.evaluator, rung.fidelity, number) for rung in study.rungs for number in range(rung.replicates)}
    seen: dict[tuple[str, str, int], list[_ConfirmationEntry]] = {}
    for line in _lines(path, member, content):
        entry = _parsed(path, member, _ConfirmationEntry, line)
        what = f"the confirmation of {entry.candidate_key}"
        if entry.candidate_key not in keys or (entry.evaluator, entry.fidelity, entry.replicate) not in places:
            _refuse(path, member, f"{what} is of no trial, or of no rung, of study {study.name!r}")
        identity = (entry.candidate_key, entry.evaluator, entry.replicate)
        before = seen.setdefault(identity, [])
        if any(one != entry for one in before) or len(before) == len(study.rungs):  # rungs may share trainings
            _refuse(path, member, f"{what} is there twice")
        before.append(entry)
        with _sound(path, member, what):
            record = like(Record, entry)
            record.require_sound(classes=study.config.task.num_classes)
        yield record


def _record(path: Path, study: _StudyEntry, trial: _TrialEntry) -> Record | None:
    if trial.record is None:
        return None
    own = {"candidate_key": trial.candidate_key, "evaluator": study.evaluator, "fidelity": study.fidelity}
    with _sound(path, "trials.jsonl", f"trial {trial.number}"):
        record = like(Record, trial.record, **own, replicate=0)
        record.require_sound(classes=study.config.task.num_classes)
    if record.metrics is not None and record.accuracy is None:
        _refuse(path, "trials.jsonl", f"trial {trial.number} has no mIoU")
    return record


@contextmanager
def _sound(path: Path, member: str, what: str) -> Iterator[None]:
    """No record has what no evaluation brings."""
    try:
        yield
    except ValueError as error:
        _refuse(path, member, f"{what}: {error}")


def _require_order(path: Path, archive: Archive) -> None:
    numbers = [trial.number for trial in archive.trials]
    keys = [trial.candidate_key for trial in archive.trials]
    batches = [trial.batch for trial in archive.trials]
    if numbers != list(range(len(numbers))) or len(set(keys)) < len(keys) or batches != sorted(batches):
        _refuse(path, "trials.jsonl", "trials are not numbered from 0, or one candidate or batch is there twice")
    if set(batches) != set(range(len(archive.batches))):
        _refuse(path, "batches.json", f"{len(archive.batches)} batches, but trials of {len(set(batches))}")


def _require_in_space(path: Path, archive: Archive) -> None:
    """Every trial is a candidate of the study's space and what its point means, every anchor that anchor."""
    space, entry = archive.study.config.search_space(), archive.study
    for trial, proposal in zip(archive.trials, archive.proposals, strict=True):
        what = f"trial {trial.number}"
        if wrong := space.why_not(proposal.candidate):
            _refuse(path, "trials.jsonl", f"{what} is not of the study's space ({wrong.rstrip('.')})")
        try:
            meant = space.decode(proposal.point)
        except UserError as error:
            _refuse(path, "trials.jsonl", f"the point of {what}: {str(error).rstrip('.')}")
        if meant != proposal.candidate:
            _refuse(path, "trials.jsonl", f"{what} is another architecture than its point says")
        if (trial.anchor is not None) != (trial.origin == "anchor") or (
            trial.anchor is not None and ANCHORS.get(trial.anchor) != proposal.candidate.arch
        ):
            _refuse(path, "trials.jsonl", f"{what} is said to be the anchor {trial.anchor}, and is not")
    if entry.finished is not None and not all(archive.records):
        _refuse(path, "study.json", "it is said to be finished, and has trials without a record")


def _require_same_front(path: Path, archive: Archive) -> None:
    """Scored again, offline, from records and table alone."""
    again = _FrontEntry(**_front_of(_study_of(archive), rebuilt_trials(archive)))
    for name in ("reference_ms", "reference_miou_pct"):
        now, then = getattr(again, name), getattr(archive.front, name)
        if abs(now - then) > _CLOSE_MS * max(now, 1.0):
            _refuse(path, "front.json", f"its {name} is {then:g}, the study's {now:g}")
    if again.trials != archive.front.trials or abs(again.hypervolume - archive.front.hypervolume) > 1e-6 * max(
        again.hypervolume, 1.0
    ):
        _refuse(
            path,
            "front.json",
            f"records and table give the front {again.trials} with hypervolume {again.hypervolume:g}, not "
            f"{archive.front.trials} with {archive.front.hypervolume:g}",
        )


def _refuse(path: Path, member: str, what: str) -> NoReturn:
    raise UserError(f"{path}, {member}: {what}; export the study again from the store that has it.")


def _json(content: object) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()

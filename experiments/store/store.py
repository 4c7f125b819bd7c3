"""What has been proposed, evaluated and kept? The one persistent truth of all studies, and its only reader-writer.

A SQLite file by default (write-ahead log, so that the dashboard reads while a study writes), any SQLAlchemy URL
otherwise. Weights lie beside the file, in `<database>.artefacts/`; those of a server's database where
`TOPFORMER_NAS_ARTEFACTS` says, a folder or object storage.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from sqlalchemy import (
    Engine,
    delete,
    func,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
)
from sqlalchemy.orm import Session

from experiments import DEFAULT_URL, without_password
from experiments.store.artefacts import Artefacts, file_sha256
from experiments.store.database import BEGUN_AGAIN, await_server, engine_of, one_sentence, outlasting, sqlite_file
from experiments.store.lease import Lease, driver_of
from experiments.store.records import (
    BatchStatistics,
    Counts,
    Evaluation,
    Outlines,
    Proposal,
    Record,
    Rung,
    Study,
    Trial,
    mean_of,
)
from experiments.store.rows import (
    batch_of,
    candidate_of,
    name_of_weights,
    now,
    record_of,
    row_of_proposal,
    row_of_record,
    study_of,
    study_row,
    trial_of,
    trust_report_of,
    undamaged,
    weights_name,
)
from experiments.store.schema import (
    HEAD,
    REVISIONS,
    BatchRow,
    CandidateRow,
    ProposalRow,
    RecordRow,
    StudyRow,
    TrustReportRow,
    bring_up,
    foreign_tables,
    holds_studies,
    newest_copy,
    revision_of,
)
from experiments.study_config import StudyConfig
from topformer.config import Candidate
from topformer.errors import UserError, unknown_name
from topformer.reading import strict_json

CHUNK = 500
"""Rows asked for, or written, at once."""
T = TypeVar("T")


@outlasting
class Store:
    """Open with `Store.open`; usable as a context manager."""

    def __init__(self, engine: Engine, url: str, artefacts: Artefacts, *, read_only: bool) -> None:
        self.engine = engine
        self.url = without_password(url)
        self._whole_url = url
        self.artefacts = artefacts
        self.read_only = read_only

    @classmethod
    def open(cls, url: str = DEFAULT_URL, *, create: bool = False, read_only: bool = False) -> Self:
        """Open a store, creating it only when asked to.

        Raises `UserError` for a missing, foreign, corrupt or unreachable database.
        """
        engine, artefacts = engine_of(url, create=create, read_only=read_only)
        store = cls(engine, url, artefacts, read_only=read_only)
        try:
            with one_sentence(url):
                store._require_schema(create=create)
        except BaseException:
            engine.dispose()
            raise
        return store

    @staticmethod
    def exists(url: str) -> bool:
        """Whether there may be a store: a SQLite file, or any database that is asked for over the network."""
        try:
            parsed = make_url(url)
        except ArgumentError:
            return True  # opening it says what is wrong
        return parsed.get_backend_name() != "sqlite" or (bool(parsed.database) and Path(str(parsed.database)).is_file())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()

    def _require_schema(self, *, create: bool) -> None:
        with self.engine.connect() as connection:
            revision, others = revision_of(connection), foreign_tables(connection)
            unmarked = revision is None and holds_studies(connection)
        if revision is None:  # new, or a first start that was broken off
            if others:
                raise UserError(
                    f"{self.url} is a database of another program (tables {', '.join(others[:4])}); "
                    "name a new file with --storage."
                )
            if unmarked:
                raise UserError(
                    f"{self.url} has studies, but not the revision of its tables: it was edited, or is another "
                    "program's; restore a backup, or name a new file with --storage."
                )
            if not create:
                raise UserError(f"{self.url} holds no studies yet; launch one with: topformer-nas search quickstart")
        elif revision not in REVISIONS:
            raise UserError(
                f"{self.url} has schema revision {revision}, this tool reads {REVISIONS[0]} to {HEAD}; "
                "open it with the version of topformer-nas that wrote it."
            )
        if self.read_only and revision != HEAD:
            if self.engine.dialect.name != "sqlite":
                raise UserError(
                    f"{self.url} has schema revision {revision}, and {HEAD} is the newest; run any command that writes "
                    "to it, like topformer-nas search, to bring it up."
                )
            self.engine = newest_copy(self.engine)
        if not self.read_only:
            bring_up(self.engine, backup=sqlite_file(self.url, suffix=f".{revision}-backup"))

    @contextmanager
    def session(self) -> Iterator[Session]:
        with one_sentence(self._whole_url):
            await_server(self.engine)
            with Session(self.engine) as session, session.begin():
                yield session

    # ---- studies

    def create_study(self, config: StudyConfig, *, evaluator: str, fidelity: str, table_text: str) -> Study:
        with self.session() as session:
            if BEGUN_AGAIN.get() and (row := session.scalar(select(StudyRow).where(StudyRow.name == config.name))):
                return study_of(row)
            row = StudyRow(
                name=config.name,
                config_json=json.dumps(config.model_dump()),
                evaluator=evaluator,
                fidelity=fidelity,
                table_text=table_text,
                created=now(),
            )
            session.add(row)
            session.flush()
            return study_of(row)

    def add_study(
        self,
        study: Study,
        *,
        batches: Sequence[BatchStatistics],
        trials: Iterable[tuple[int, int, Proposal, Record | None, bool]],
        confirmations: Iterable[Record] = (),
        screens: Sequence[str] = (),
    ) -> None:
        """Write a whole study from elsewhere, or nothing: (number, batch, proposal, record, from cache) of each trial.

        Raises `UserError` for a name that is taken, and where the store knows another result of an evaluation.
        """
        with self.session() as session:
            created = session.scalar(select(StudyRow.created).where(StudyRow.name == study.name))
            if created == study.created and BEGUN_AGAIN.get():
                return
            if created is not None:
                raise UserError(f"{self.url} has a study {study.name!r} already; give this one another name.")
            row = StudyRow(
                name=study.name,
                config_json=json.dumps(study.config.model_dump()),
                evaluator=study.evaluator,
                fidelity=study.fidelity,
                table_text=study.table_text,
                created=study.created,
                finished=study.finished,
                rungs_json=json.dumps([rung.as_dict() for rung in study.rungs]),
                screens_json=json.dumps(list(screens)),
            )
            session.add(row)
            session.flush()
            for number, statistics in enumerate(batches):
                session.add(BatchRow(study_id=row.id, batch=number, **asdict(statistics)))
            for chunk in _chunks(trials):
                self._add_trials(session, row.id, chunk)
            for records in _chunks(confirmations):
                self._same_or_new(session, records)

    def _add_trials(
        self, session: Session, study_id: int, trials: Sequence[tuple[int, int, Proposal, Record | None, bool]]
    ) -> None:
        _add_candidates(session, [proposal.candidate for _, _, proposal, _, _ in trials])
        found = self._same_or_new(session, [record for _, _, _, record, _ in trials if record is not None])
        session.add_all(
            row_of_proposal(
                study_id,
                number,
                batch,
                proposal,
                record_id=None if record is None else found[_identity(record)].id,
                miou_pct=None if record is None else record.value,
                from_cache=from_cache,
            )
            for number, batch, proposal, record, from_cache in trials
        )

    def _same_or_new(
        self, session: Session, records: Sequence[Record], created: Mapping[tuple[str, str, int], str] | None = None
    ) -> dict[tuple[str, str, int], RecordRow]:
        """Rows of the records, by identity; those that are not there are written, with the times `created`."""
        keys = {record.candidate_key for record in records}
        found = {
            (row.candidate_key, row.evaluator, row.replicate): row
            for row in session.scalars(select(RecordRow).where(RecordRow.candidate_key.in_(keys)))
        }
        for record in records:
            known = found.get(_identity(record))
            if known is None:
                found[_identity(record)] = row = row_of_record(record)
                row.created = (created or {}).get(_identity(record), row.created)
                session.add(row)
            elif (value := record_of(known).value) != record.value:
                raise UserError(
                    f"{self.url} has another result of candidate {record.candidate_key} by {record.fidelity}: "
                    f"{value}, not {record.value}; import into a new --storage."
                )
        session.flush()
        return found

    def find_study(self, name: str) -> Study | None:
        with self.session() as session:
            row = session.scalar(select(StudyRow).where(StudyRow.name == name))
            return study_of(row) if row else None

    def study(self, name: str) -> Study:
        found = self.find_study(name)
        if found is None:
            raise unknown_name(
                "study", name, [study.name for study in self.studies()], advice=f"They are those of {self.url}."
            )
        return found

    def studies(self) -> tuple[Study, ...]:
        with self.session() as session:
            return tuple(study_of(row) for row in session.scalars(select(StudyRow).order_by(StudyRow.id)))

    def screens(self, name: str) -> list[str]:
        """Fingerprints of the screens that a study uses, in order."""
        with self.session() as session, undamaged(f"study {name!r}"):
            return [str(one) for one in strict_json(study_row(session, name).screens_json)]

    def set_screens(self, name: str, fingerprints: Sequence[str]) -> None:
        with self.session() as session:
            study_row(session, name).screens_json = json.dumps(list(fingerprints))

    def set_rungs(self, name: str, rungs: Sequence[Rung]) -> None:
        with self.session() as session:
            study_row(session, name).rungs_json = json.dumps([rung.as_dict() for rung in rungs])

    def update_config(self, config: StudyConfig) -> None:
        with self.session() as session:
            row = study_row(session, config.name)
            row.config_json = json.dumps(config.model_dump())
            row.finished = None

    def delete_study(self, name: str) -> None:
        """Forget a study and its trials; its evaluations stay, for other studies to draw on."""
        with self.session() as session:
            if BEGUN_AGAIN.get() and session.scalar(select(StudyRow.id).where(StudyRow.name == name)) is None:
                return
            row = study_row(session, name)
            if driver := driver_of(row):
                raise UserError(f"study {name!r} is being driven by {driver}; stop it first.")
            for table in (ProposalRow, BatchRow):
                session.execute(delete(table).where(table.study_id == row.id))
            session.delete(row)

    def finish_study(self, name: str) -> None:
        with self.session() as session:
            row = study_row(session, name)
            row.finished = row.finished or now()  # run again when it is done, it was done before

    @contextmanager
    def lease(self, name: str) -> Iterator[Lease]:
        """Be the one driver of a study; a second is refused until the lease is given back or expires."""
        lease = Lease(self, name, f"{socket.gethostname()} process {os.getpid()} {uuid.uuid4().hex[:8]}")
        lease.take()
        try:
            yield lease
        finally:
            lease.give_back()

    # ---- proposals and records

    def add_batch(
        self, name: str, *, batch: int, proposals: Sequence[Proposal], statistics: BatchStatistics
    ) -> tuple[Trial, ...]:
        """Write a whole batch, or nothing; gives its trials, numbered on from the study's last."""
        with self.session() as session:
            study = study_row(session, name)
            study.finished, study_id = None, study.id
            if BEGUN_AGAIN.get() and session.get(BatchRow, (study_id, batch)) is not None:
                of_batch = select(ProposalRow).where(ProposalRow.study_id == study_id, ProposalRow.batch == batch)
                return tuple(
                    self._trial(row) for row in session.scalars(of_batch.order_by(ProposalRow.number)).unique()
                )
            last = session.scalar(select(func.max(ProposalRow.number)).where(ProposalRow.study_id == study_id))
            start = 0 if last is None else last + 1
            _add_candidates(session, [proposal.candidate for proposal in proposals])
            rows = [row_of_proposal(study_id, number, batch, one) for number, one in enumerate(proposals, start=start)]
            session.add_all(rows)
            session.add(BatchRow(study_id=study_id, batch=batch, **asdict(statistics)))
            session.flush()
            return tuple(self._trial(row) for row in rows)

    def known_records(self, identities: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str, int], Record]:
        """Those of the evaluations (candidate key, evaluator, replicate) that are there."""
        wanted: dict[tuple[str, int], list[str]] = {}
        for candidate_key, evaluator, replicate in identities:
            wanted.setdefault((evaluator, replicate), []).append(candidate_key)
        known: dict[tuple[str, str, int], Record] = {}
        with self.session() as session:
            for (evaluator, replicate), keys in wanted.items():
                for chunk in _chunks(keys):
                    rows = session.scalars(
                        select(RecordRow).where(
                            RecordRow.candidate_key.in_(chunk),
                            RecordRow.evaluator == evaluator,
                            RecordRow.replicate == replicate,
                        )
                    )
                    with undamaged(f"a record by {evaluator}"):
                        known |= {(row.candidate_key, evaluator, replicate): record_of(row) for row in rows}
        return known

    def find_record(self, candidate_key: str, evaluator: str, replicate: int) -> Record | None:
        with self.session() as session, undamaged(f"the record of candidate {candidate_key}"):
            row = _row_found(session, candidate_key, evaluator, replicate)
            return record_of(row) if row else None

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation of the store, in the order in which they were written."""
        with self.session() as session, undamaged("a record"):
            rows = session.execute(
                select(RecordRow, CandidateRow)
                .outerjoin(CandidateRow, CandidateRow.key == RecordRow.candidate_key)
                .order_by(RecordRow.id)
            )
            return tuple(
                Evaluation(candidate=candidate_of(candidate), record=record_of(row), created=row.created)
                for row, candidate in rows
            )

    def add_evaluations(self, evaluations: Sequence[Evaluation]) -> int:
        """Write evaluations from elsewhere, all or none, without weights; gives how many were new.

        Raises `UserError` where the store knows another result of one.
        """
        with self.session() as session:
            before = session.scalar(select(func.count(RecordRow.id))) or 0
            for chunk in _chunks(evaluations):
                _add_candidates(session, [one.candidate for one in chunk])
                times = {_identity(one.record): one.created for one in chunk}
                rows = self._same_or_new(session, [one.record for one in chunk], times)
                assert rows.keys() >= times.keys()
            return (session.scalar(select(func.count(RecordRow.id))) or 0) - before

    def add_record(self, record: Record, *, candidate: Candidate | None = None, weights: Path | None = None) -> None:
        """Write an evaluation; one that is already there stays (nothing is completed twice).

        `candidate` is written too where no proposal has brought it. Raises `UserError` where the weights cannot be
        kept, with the record written.
        """
        with self._kept(weights) as kept, self.session() as session:
            if candidate is not None:
                _add_candidates(session, [candidate])
            if _row_found(session, record.candidate_key, record.evaluator, record.replicate):
                return
            session.add(row_of_record(record, weights=kept))

    @contextmanager
    def _kept(self, weights: Path | None) -> Iterator[Path | None]:
        """The weights, brought where they belong; what goes wrong there is told after the record is written."""
        trouble = None
        if weights is not None:
            try:
                self.artefacts.keep(weights.name)
            except UserError as error:
                trouble, weights = error, None
        yield weights
        if trouble is not None:
            raise trouble

    def settle(
        self, name: str, trial: Trial, record: Record, *, from_cache: bool, weights: Path | None = None
    ) -> Trial:
        """Tie a trial to its record, and write this where it is not there yet (nothing is completed twice).

        Raises `UserError` where the weights cannot be kept, with the record written.
        """
        with self._kept(weights) as kept, self.session() as session:
            row = _row_found(session, record.candidate_key, record.evaluator, record.replicate)
            if row is None:
                row = row_of_record(record, weights=kept)
                session.add(row)
                session.flush()
            settled = replace(trial, from_cache=from_cache, **self._of_record(row))
            study_id = select(StudyRow.id).where(StudyRow.name == name).scalar_subquery()
            session.execute(
                update(ProposalRow)
                .where(ProposalRow.study_id == study_id, ProposalRow.number == trial.number)
                .values(record_id=row.id, miou_pct=settled.miou_pct, from_cache=from_cache)
                .execution_options(synchronize_session=False)
            )
            return settled

    def _of_record(self, row: RecordRow | None) -> dict[str, Any]:
        """What of a trial its record decides."""
        if row is None:
            return {"state": "proposed", "record": None, "weights": None, "weights_sha256": None}
        return {
            "state": row.status,
            "record": record_of(row),
            "weights": None if row.weights_path is None else self.artefacts.path(weights_name(row)),
            "weights_sha256": row.weights_sha256,
        }

    def confirmed(self, name: str, rung: Rung) -> tuple[Trial, ...]:
        """The trials that a rung has trained as often as it wants, in a race at least once: their records with the
        means of its replicates, and the weights of the first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for settled in self._confirmations(name, rung):
            if settled["state"] == "complete":
                found.setdefault(settled["record"].candidate_key, []).append(settled)
        members = []
        for trial in self.trials(name):
            repeats = found.get(trial.candidate.key, [])
            records = [one["record"] for one in repeats]
            whole = [one.replicate for one in records] == list(range(len(records)))  # none before the last one failed
            if records and whole and (rung.racing or len(records) == rung.replicates):
                with undamaged(f"a confirmation of trial {trial.number}"):
                    mean = {"record": mean_of(records, fidelity=rung.label), "trainings": len(records)}
                    members.append(replace(trial, **repeats[0] | mean))
        return tuple(members)

    def confirmations(self, name: str, rung: Rung) -> tuple[Record, ...]:
        """Records of a study's candidates at a rung, by replicate."""
        return tuple(settled["record"] for settled in self._confirmations(name, rung))

    def _confirmations(self, name: str, rung: Rung) -> list[dict[str, Any]]:
        with self.session() as session, undamaged(f"a record of study {name!r}"):
            rows = session.scalars(
                select(RecordRow)
                .join(ProposalRow, ProposalRow.candidate_key == RecordRow.candidate_key)
                .where(
                    ProposalRow.study_id == study_row(session, name).id,
                    RecordRow.evaluator == rung.evaluator,
                    RecordRow.replicate < rung.replicates,
                )
                .order_by(RecordRow.replicate, ProposalRow.number)
            )
            return [self._of_record(row) for row in rows]

    def trials(self, name: str, *, numbers: Iterable[int] | None = None) -> tuple[Trial, ...]:
        """Trials of a study, by number: all of them, or those of these numbers."""
        with self.session() as session:
            study_id = study_row(session, name).id
            chosen = select(ProposalRow).where(ProposalRow.study_id == study_id).order_by(ProposalRow.number)
            if numbers is not None:
                chosen = chosen.where(ProposalRow.number.in_(list(numbers)))
            return tuple(self._trial(row) for row in session.scalars(chosen).unique())

    def outlines(self, name: str) -> Outlines:
        """What a front needs to know of every trial; read from an index, without the trials."""
        with self.session() as session, undamaged(f"a trial of study {name!r}"):
            rows = session.execute(
                select(
                    ProposalRow.number,
                    ProposalRow.batch,
                    ProposalRow.anchor,
                    ProposalRow.total_ms,
                    ProposalRow.miou_pct,
                )
                .where(ProposalRow.study_id == study_row(session, name).id)
                .order_by(ProposalRow.number)
            ).all()
            number, batch, anchor, total_ms, miou_pct = zip(*rows, strict=True) if rows else ((),) * 5
            found = Outlines(
                number=np.array(number, dtype=np.int64),
                batch=np.array(batch, dtype=np.int64),
                is_anchor=np.array([one is not None for one in anchor], dtype=np.bool_),
                total_ms=np.array(total_ms, dtype=np.float64),
                miou_pct=np.array(miou_pct, dtype=np.float64),
            )
            sound = np.isfinite(found.total_ms) & (found.total_ms >= 0)
            sound &= np.isnan(found.miou_pct) | ((found.miou_pct >= 0) & (found.miou_pct <= 100))
            if not sound.all():
                at = int(np.argmin(sound))
                raise ValueError(
                    f"trial {found.number[at]} is listed with {found.total_ms[at]:g} ms and mIoU {found.miou_pct[at]:g}"
                )
            return found

    def counts(self, name: str) -> Counts:
        """How many trials a study has, without reading them."""
        with self.session() as session:
            trials, settled, complete = session.execute(
                select(
                    func.count(ProposalRow.id), func.count(ProposalRow.record_id), func.count(ProposalRow.miou_pct)
                ).where(ProposalRow.study_id == study_row(session, name).id)
            ).one()
        return Counts(trials, complete, settled - complete)

    def batches(self, name: str) -> tuple[BatchStatistics, ...]:
        with self.session() as session:
            study_id = study_row(session, name).id
            rows = session.scalars(select(BatchRow).where(BatchRow.study_id == study_id).order_by(BatchRow.batch))
            with undamaged(f"a batch of study {name!r}"):
                return tuple(batch_of(row) for row in rows)

    # ---- trust reports

    def add_trust_report(self, name: str, report_json: str) -> None:
        """Keep a report; one of the same name is replaced."""
        with self.session() as session:
            session.execute(delete(TrustReportRow).where(TrustReportRow.name == name))
            session.add(TrustReportRow(name=name, created=now(), report_json=report_json))

    def trust_reports(self) -> tuple[tuple[str, str], ...]:
        """Names and contents, the newest first."""
        with self.session() as session:
            rows = session.scalars(select(TrustReportRow).order_by(TrustReportRow.id.desc()))
            with undamaged("a trust report"):
                return tuple(trust_report_of(row) for row in rows)

    def delete_trust_report(self, name: str) -> None:
        with self.session() as session:
            found = session.scalars(select(TrustReportRow.name)).all()
            if name not in found and not BEGUN_AGAIN.get():
                raise unknown_name("trust report", name, found, advice=f"They are those of {self.url}.")
            session.execute(delete(TrustReportRow).where(TrustReportRow.name == name))

    # ---- weights

    def weights_path(self, candidate_key: str, evaluator: str, replicate: int) -> Path:
        """Where an evaluation's weights are written."""
        return self.artefacts.path(name_of_weights(candidate_key, evaluator, replicate))

    def fetched_weights(self, trial: Trial) -> Path | None:
        """The kept weights of a trial, as a local file; None where they are not kept or gone."""
        return trial.weights and self.artefacts.fetched(trial.weights.name, sha256=trial.weights_sha256)

    def drop_weights(self, records: Iterable[tuple[str, str, int]]) -> None:
        """Delete the weights of records, each given by candidate key, evaluator and replicate; the records stay."""
        with self.session() as session:
            for key in records:
                row = _row_found(session, *key)
                if row is not None and row.weights_path is not None:
                    with undamaged(f"the record of candidate {str(row.candidate_key)[:100]}"):
                        self.artefacts.delete(weights_name(row))
                    row.weights_path = row.weights_sha256 = None

    def restore_weights(self, candidate_key: str, evaluator: str, replicate: int, weights: Path) -> None:
        """Note weights that were trained again for a record."""
        self.artefacts.keep(weights.name)
        with self.session() as session:
            row = _row_found(session, candidate_key, evaluator, replicate)
            assert row is not None, "weights belong to a record"
            row.weights_path, row.weights_sha256 = weights.name, file_sha256(weights)

    def _trial(self, row: ProposalRow) -> Trial:
        with undamaged(f"trial {str(row.number)[:40]}"):
            return trial_of(row, self._of_record(row.record))


@contextmanager
def store_if_any(url: str) -> Iterator[Store | None]:
    """The store of a URL to read from; None where there is none yet."""
    if not Store.exists(url):
        yield None
        return
    with Store.open(url, read_only=True) as store:
        yield store


def _row_found(session: Session, candidate_key: str, evaluator: str, replicate: int) -> RecordRow | None:
    return session.scalar(
        select(RecordRow).where(
            RecordRow.candidate_key == candidate_key, RecordRow.evaluator == evaluator, RecordRow.replicate == replicate
        )
    )


def _identity(record: Record) -> tuple[str, str, int]:
    return record.candidate_key, record.evaluator, record.replicate


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _add_candidates(session: Session, candidates: Iterable[Candidate]) -> None:
    """Write those that are not there."""
    by_key = {candidate.key: candidate for candidate in candidates}
    known = set(session.scalars(select(CandidateRow.key).where(CandidateRow.key.in_(by_key))))
    session.add_all(
        CandidateRow(
            key=key,
            arch_key=candidate.arch.key,
            arch_json=candidate.arch.to_json(),
            task_json=json.dumps(candidate.task.as_dict()),
        )
        for key, candidate in by_key.items()
        if key not in known
    )
    session.flush()

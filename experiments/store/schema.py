"""What a store's database looks like, and how an older one is brought up to it.

The tables are as the models here say; `experiments/store/migrations` has the steps from each revision to the next
(Alembic). Optuna's own storage uses `alembic_version` and `studies`, so that one belongs in another database.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    Connection,
    Engine,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    inspect,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.pool import StaticPool

VERSION_TABLE = "topformer_nas_revision"
OLD_VERSION_TABLE = "topformer_nas_schema"
"""Before Alembic: one row with the number 1 or 2, the first two revisions."""
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]
LOCK = 7_061_945
"""Of PostgreSQL's advisory locks: of two that bring a store up at once, one waits."""


class Base(DeclarativeBase):
    pass


class StudyRow(Base):
    __tablename__ = "studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    config_json: Mapped[str] = mapped_column(Text)
    evaluator: Mapped[str] = mapped_column(String(64))
    fidelity: Mapped[str] = mapped_column(String(64))
    table_text: Mapped[str] = mapped_column(Text)
    created: Mapped[str] = mapped_column(String(40))
    finished: Mapped[str | None] = mapped_column(String(40))
    rungs_json: Mapped[str] = mapped_column(Text, server_default="[]")
    screens_json: Mapped[str] = mapped_column(Text, server_default="[]")
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[str | None] = mapped_column(String(40))


class CandidateRow(Base):
    __tablename__ = "candidates"
    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    arch_key: Mapped[str] = mapped_column(String(16), index=True)
    arch_json: Mapped[str] = mapped_column(Text)
    task_json: Mapped[str] = mapped_column(Text)


class RecordRow(Base):
    __tablename__ = "records"
    __table_args__ = (UniqueConstraint("candidate_key", "evaluator", "replicate"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    candidate_key: Mapped[str] = mapped_column(ForeignKey("candidates.key"))
    evaluator: Mapped[str] = mapped_column(String(64))
    fidelity: Mapped[str] = mapped_column(String(64))
    replicate: Mapped[int]
    status: Mapped[str] = mapped_column(String(16))
    metrics_json: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]
    created: Mapped[str] = mapped_column(String(40))
    weights_path: Mapped[str | None] = mapped_column(String(300))
    weights_sha256: Mapped[str | None] = mapped_column(String(64))


class ProposalRow(Base):
    __tablename__ = "proposals"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        UniqueConstraint("study_id", "candidate_key"),
        Index("proposal_points", "study_id", "number", "batch", "anchor", "total_ms", "miou_pct"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    batch: Mapped[int]
    candidate_key: Mapped[str] = mapped_column(ForeignKey("candidates.key"))
    point_json: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(String(16))
    anchor: Mapped[str | None] = mapped_column(String(16))
    latency_json: Mapped[str] = mapped_column(Text)
    record_id: Mapped[int | None] = mapped_column(ForeignKey("records.id"))
    from_cache: Mapped[bool] = mapped_column(default=False)
    total_ms: Mapped[float] = mapped_column(server_default="0")
    """As `latency_json` has it."""
    miou_pct: Mapped[float | None]
    """As the record has it; None for one that failed, and while there is none."""
    candidate: Mapped[CandidateRow] = relationship(lazy="joined")
    record: Mapped[RecordRow | None] = relationship(lazy="joined")


class BatchRow(Base):
    __tablename__ = "batches"
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    batch: Mapped[int] = mapped_column(primary_key=True)
    asked: Mapped[int]
    invalid: Mapped[int]
    over_budget: Mapped[int]
    duplicates: Mapped[int]
    screened: Mapped[int] = mapped_column(server_default="0")
    sampler_seconds: Mapped[float]


class TrustReportRow(Base):
    __tablename__ = "trust_reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[str] = mapped_column(String(40))
    report_json: Mapped[str] = mapped_column(Text)


def revision_of(connection: Connection) -> str | None:
    """The revision of the tables that are there; None where there are none, or a first start was broken off."""
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return revision
    if OLD_VERSION_TABLE in tables:
        number = connection.scalar(text(f"SELECT max(version) FROM {OLD_VERSION_TABLE}"))
        return None if number is None else f"{number:04}"
    return None


def foreign_tables(connection: Connection) -> list[str]:
    """Tables that are none of ours."""
    own = {*Base.metadata.tables, VERSION_TABLE, OLD_VERSION_TABLE}
    return sorted(set(inspect(connection).get_table_names()) - own)


def holds_studies(connection: Connection) -> bool:
    """Whether a table of that name has rows, ours or not."""
    return inspect(connection).has_table("studies") and bool(connection.scalar(text("SELECT count(*) FROM studies")))


def bring_up(engine: Engine, *, backup: Path | None) -> None:
    """All steps to the newest revision, or none of them; of two that start at once, one does it.

    A SQLite file that has a revision is copied to `backup` first.
    """
    config = Config()
    config.set_main_option("script_location", "experiments.store:migrations")
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
            connection.rollback()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself would begin after the tables
        else:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        found = revision_of(connection)
        if found == HEAD and inspect(connection).has_table(VERSION_TABLE):
            connection.rollback()
            return
        if found not in (None, HEAD) and backup is not None and engine.dialect.name == "sqlite":
            with closing(sqlite3.connect(backup)) as copy:
                _copy(engine, copy)
        config.attributes["connection"] = connection
        if found is not None and not inspect(connection).has_table(VERSION_TABLE):
            command.stamp(config, found)
        command.upgrade(config, HEAD)
        connection.execute(text(f"DROP TABLE IF EXISTS {OLD_VERSION_TABLE}"))
        connection.commit()


def newest_copy(engine: Engine) -> Engine:
    """Of a SQLite file that is only read: a copy in memory, brought up, that refuses to be written to."""
    copy = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with closing(copy.raw_connection()) as connection:
        assert isinstance(connection.dbapi_connection, sqlite3.Connection)
        _copy(engine, connection.dbapi_connection)
    bring_up(copy, backup=None)
    with copy.connect() as opened:
        opened.exec_driver_sql("PRAGMA query_only = ON")
    return copy


def _copy(engine: Engine, copy: sqlite3.Connection) -> None:
    """What is committed, by a connection of its own: readers may go on beside the writer's lock."""
    with closing(engine.raw_connection()) as reader:
        assert isinstance(reader.dbapi_connection, sqlite3.Connection)
        reader.dbapi_connection.backup(copy)

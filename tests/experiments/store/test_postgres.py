"""The same store in PostgreSQL: a real server, also one that goes away in the middle of a study."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from experiments.search.study import Event, StudyResult, run_study
from experiments.store import database, schema
from experiments.store.database import ARTEFACTS_VARIABLE
from experiments.store.store import Store
from tests.support import postgres
from tests.support.toys import ToyEvaluator, outline, run_toy, toy_config, toy_table
from topformer.errors import UserError

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(postgres.binaries() is None, reason="no PostgreSQL server is installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as running:
        yield running


@pytest.fixture
def url(server: postgres.Server) -> str:
    """Of an empty database."""
    with Store.open(server.url, create=True) as opened, opened.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    return server.url


@pytest.fixture(autouse=True)
def artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ARTEFACTS_VARIABLE, str(tmp_path / "bucket"))
    return tmp_path / "bucket"


def run(url: str, *, report: object = lambda _: None, seed: int = 0, keeps_weights: bool = False) -> StudyResult:
    with Store.open(url, create=True) as opened:
        return run_study(
            toy_config(seed=seed),
            opened,
            evaluator=ToyEvaluator(keeps_weights=keeps_weights),
            table=toy_table(),
            report=report,  # type: ignore[arg-type]
        )


@pytest.mark.slow
def test_a_study_is_the_same_as_in_a_file(url: str, tmp_path: Path, artefacts: Path) -> None:
    found = run(url, keeps_weights=True)
    members = [trial.candidate.key for trial in found.front]
    assert {key for key in members if any(artefacts.glob(f"{key}-*.safetensors"))} == set(members)
    assert outline(found) == outline(run_toy(tmp_path))
    with Store.open(url, read_only=True) as opened:
        assert [trial.record for trial in opened.trials("toy")] == [trial.record for trial in found.trials]
        assert [study.name for study in opened.studies()] == ["toy"]


def test_the_steps_lead_to_what_the_models_say(url: str) -> None:
    with Store.open(url, create=True) as opened, opened.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.Base.metadata) == []
        assert context.get_current_revision() == schema.HEAD


def test_an_old_store_is_brought_up_by_writing_to_it(url: str, tmp_path: Path) -> None:
    found = run(url)
    with Store.open(url) as opened, opened.engine.begin() as connection:
        connection.execute(text("DROP INDEX proposal_points"))
        for table, column in (
            ("proposals", "total_ms"),
            ("proposals", "miou_pct"),
            ("studies", "rungs_json"),
            ("studies", "screens_json"),
            ("batches", "screened"),
        ):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0002'"))
    with pytest.raises(UserError, match="has schema revision 0002, and 0004 is the newest"):
        Store.open(url, read_only=True)
    with Store.open(url) as opened:
        assert opened.trials("toy") == found.trials
        assert opened.screens("toy") == []


def test_first_starts_at_once_all_open_the_store(url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            Store.open(url, create=True).engine.dispose()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("fidelity", ["x" * 65, "toy\0"])
def test_what_the_server_cannot_keep_is_one_sentence(fidelity: str, url: str) -> None:
    run(url)
    with Store.open(url) as opened:
        toy = opened.study("toy")
        study = replace(toy, config=toy.config.model_copy(update={"name": "long"}), fidelity=fidelity)
        with pytest.raises(UserError, match="cannot keep this, nothing was written"):
            opened.add_study(study, batches=(), trials=())
        assert [one.name for one in opened.studies()] == ["toy"]


def test_a_second_driver_is_refused(url: str, tmp_path: Path) -> None:
    run(url)
    with (
        Store.open(url) as opened,
        opened.lease("toy"),
        pytest.raises(UserError, match="is being driven by"),
        opened.lease("toy"),
    ):
        pass


def test_a_study_goes_on_when_the_server_comes_back(server: postgres.Server, url: str, tmp_path: Path) -> None:
    restarts: list[threading.Timer] = []

    def report(event: Event) -> None:
        if event.done == 7:
            server.stop()
            restarts.append(threading.Timer(1.5, server.start))
            restarts[0].start()

    found = run(url, report=report)
    restarts[0].join()
    assert outline(found) == outline(run_toy(tmp_path))


def test_a_server_that_stays_away_is_one_sentence_and_loses_nothing(
    server: postgres.Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.5)

    def report(event: Event) -> None:
        if event.done == 7:
            server.stop()

    with pytest.raises(UserError, match="cannot be used") as error:
        run(url, report=report)
    assert "\n" not in str(error.value)
    server.start()
    with Store.open(url) as opened, opened.engine.begin() as connection:  # as if this process had ended with the study
        connection.execute(text("UPDATE studies SET lease_until = '2000-01-01'"))
    found = run(url)
    assert outline(found) == outline(run_toy(tmp_path))
    assert found.trained == len(found.trials) - 7


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used") as error:
        Store.open(f"postgresql+psycopg://postgres@/postgres?host={tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.slow
def test_a_transaction_that_the_server_broke_off_is_begun_again(
    kept: bool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the server had kept it: both times the driver hears of a closed connection alone."""
    commit, commits = PGDialect_psycopg.do_commit, 0

    def broken_off(dialect: Any, connection: Any) -> None:
        nonlocal commits
        commits += 1
        if commits % 3 == 0:
            if kept:
                commit(dialect, connection)
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        commit(dialect, connection)

    with Store.open(url, create=True):
        monkeypatch.setattr(PGDialect_psycopg, "do_commit", broken_off)
        monkeypatch.setattr(database, "RETRY_S", 0.0)
    found = run(url)
    assert commits > 30
    assert outline(found) == outline(run_toy(tmp_path))
    assert found.trained == len(found.trials)


def test_what_was_there_before_is_no_repetition(url: str) -> None:
    run(url)
    with Store.open(url) as opened, pytest.raises(UserError, match="unknown study 'other'"):
        opened.delete_study("other")

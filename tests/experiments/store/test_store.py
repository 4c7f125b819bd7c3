"""The store: what goes in comes out, and databases of every wrong kind are one sentence."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from experiments.search.study import Event
from experiments.store import schema
from experiments.store.database import one_sentence
from experiments.store.store import Store
from tests.support.toys import ToyEvaluator, outline, run_toy, toy_config, toy_url
from topformer.errors import UserError


def test_a_study_reads_back_as_it_ran(tmp_path: Path) -> None:
    result = run_toy(tmp_path)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        study, trials = store.study("toy"), store.trials("toy")
    assert trials == result.trials
    assert (study.fidelity, study.table.header.name, study.finished is not None) == ("toy", "toy", True)


def test_opening_without_creating_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="launch a study first"):
        Store.open(toy_url(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_store_refuses_to_write(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with (
        Store.open(toy_url(tmp_path), read_only=True) as store,
        pytest.raises(UserError, match="attempt to write a readonly database"),
    ):
        store.add_trust_report("mine", "{}")


def test_a_database_of_another_program_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "toy.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"database of another program \(tables alembic_version\)"):
        Store.open(toy_url(tmp_path), create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database, but text of some length" * 40, b"SQLite format 3\0" + b"x" * 4000])
def test_a_damaged_database_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "toy.db").write_bytes(content)
    with pytest.raises(UserError) as error:
        Store.open(toy_url(tmp_path), create=True)
    assert "\n" not in str(error.value)
    assert (tmp_path / "toy.db").read_bytes() == content


@pytest.mark.parametrize("tables", [[], ["topformer_nas_schema"], ["topformer_nas_schema", "studies"]])
def test_a_first_start_that_was_broken_off_is_begun_anew(tables: list[str], tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        for table in tables:
            columns = "version INTEGER PRIMARY KEY" if table.endswith("schema") else "id INTEGER PRIMARY KEY, name TEXT"
            if table != "studies":
                connection.execute(f"CREATE TABLE {table} ({columns})")
    assert len(run_toy(tmp_path, toy_config(trials=6)).trials) == 6


def test_two_first_starts_at_once_both_open_the_store(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store.open(toy_url(tmp_path), create=True), range(8)))
    for store in stores:
        assert store.studies() == ()
        store.engine.dispose()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE studies SET config_json = '{'",
        "UPDATE studies SET config_json = '{}'",
        "UPDATE candidates SET arch_json = '{'",
        "UPDATE records SET metrics_json = '[]'",
        "UPDATE proposals SET latency_json = 'x'",
        "UPDATE proposals SET latency_json = '{}'",
        "UPDATE proposals SET candidate_key = 'none' WHERE number = 1",
        "UPDATE proposals SET number = 'one' WHERE number = 1",
        "UPDATE studies SET fidelity = x'00ff'",
        "UPDATE studies SET created = x'31'",
        "UPDATE studies SET config_json = replace(config_json, '\"seed\": 0', '\"seed\": null')",
        "UPDATE studies SET config_json = replace(config_json, '\"max_ms\": null', '\"max_ms\": Infinity')",
        'UPDATE studies SET rungs_json = \'[{"label": 1, "fidelity": "a", "evaluator": "b", "replicates": 1}]\'',
        'UPDATE studies SET rungs_json = \'[{"label": "a", "fidelity": "a", "evaluator": "b", "replicates": -5}]\'',
        "UPDATE records SET seconds = 9e999",
        "UPDATE records SET status = 'odd'",
        "UPDATE records SET status = 'failed'",
        "UPDATE records SET metrics_json = '{\"miou_pct\": NaN}'",
        "UPDATE records SET metrics_json = '{\"miou_pct\": 1e999}'",
        'UPDATE records SET metrics_json = \'{"miou_pct": "50"}\'',
        'UPDATE records SET metrics_json = \'{"miou_pct": 50, "per_class_iou_pct": [{}]}\'',
        "UPDATE batches SET asked = 'many'",
        "UPDATE candidates SET arch_json = (SELECT arch_json FROM candidates LIMIT 1)",
        "UPDATE proposals SET latency_json = replace(latency_json, '\"total_ms\": ', '\"total_ms\": -')",
        "UPDATE proposals SET latency_json = replace(latency_json, '\"total_ms\": 0.0', '\"total_ms\": 0.00')",
        "UPDATE proposals SET latency_json = replace(latency_json, '\"kinds\": [', '\"kinds\": [[[[')",
        "UPDATE proposals SET latency_json = replace(latency_json, 'estimated', 'divined')",
        "UPDATE proposals SET latency_json = json_set(latency_json, '$.by_block', json('[[1, 2]]'))",
        "UPDATE proposals SET total_ms = -total_ms",
        "UPDATE proposals SET miou_pct = 99",
        "UPDATE proposals SET anchor = 'base' WHERE number = 0",
        "UPDATE proposals SET point_json = '[1]'",
        "UPDATE records SET metrics_json = json_set(metrics_json, '$.miou_pct', 200)",
        "UPDATE records SET metrics_json = json_set(metrics_json, '$.per_class_iou_pct', json('[1, 2]'))",
        "UPDATE records SET metrics_json = json_set(metrics_json, '$.pixel_accuracy_pct', -1)",
        "UPDATE records SET seconds = -1",
        "UPDATE studies SET created = ''",
        "UPDATE studies SET finished = 'yesterday'",
        "UPDATE batches SET sampler_seconds = -9e999",
    ],
)
def test_damaged_content_is_one_sentence(damage: str, tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute(damage)
    with Store.open(toy_url(tmp_path), read_only=True) as store, pytest.raises(UserError, match="damaged"):
        assert all((store.study("toy"), store.trials("toy"), store.batches("toy")))


@pytest.mark.parametrize("damage", ["total_ms = -1", "total_ms = 9e999", "miou_pct = 200", "miou_pct = -0.1"])
def test_a_listed_point_that_cannot_be_is_told_with_its_trial(damage: str, tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute(f"UPDATE proposals SET {damage} WHERE number = 4")
    with (
        Store.open(toy_url(tmp_path), read_only=True) as store,
        pytest.raises(UserError, match="trial 4 is listed with"),
    ):
        store.outlines("toy")


@pytest.fixture(scope="module")
def with_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose study keeps weights."""
    folder = tmp_path_factory.mktemp("with-weights")
    run_toy(folder, toy_config(trials=6), ToyEvaluator(keeps_weights=True))
    return folder


@pytest.mark.parametrize(
    "name", ["/{}", "../{}", "..", "", "other.safetensors", "toy.db.artefacts/{}", "a\\{}", "{}\0"]
)
@pytest.mark.parametrize("renamed", [False, True])
def test_whoever_edits_a_database_does_not_choose_which_files_are_deleted(
    name: str, renamed: bool, with_weights: Path, tmp_path: Path
) -> None:
    """A record's weights were any path once, and pruning deleted it."""
    shutil.copytree(with_weights, tmp_path, dirs_exist_ok=True)
    precious = tmp_path / "precious.safetensors"
    precious.write_bytes(b"somebody's")
    path = name.format(str(precious).removeprefix("/") if name.startswith("/") else precious.name)
    with Store.open(toy_url(tmp_path)) as store:
        trial = next(trial for trial in store.trials("toy") if trial.weights)
        assert trial.record is not None
        key = (trial.candidate.key, trial.record.evaluator, 0)
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("UPDATE records SET weights_path = ? WHERE candidate_key = ?", (path, key[0]))
        if renamed:  # so that the name fits the record
            connection.execute("UPDATE candidates SET key = ? WHERE key = ?", (path, key[0]))
            connection.execute("UPDATE proposals SET candidate_key = ? WHERE candidate_key = ?", (path, key[0]))
            connection.execute("UPDATE records SET candidate_key = ? WHERE candidate_key = ?", (path, key[0]))
            key = (path, *key[1:])
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with Store.open(toy_url(tmp_path)) as store:
        with pytest.raises(UserError, match=r"its weights are|another architecture or task than its key says"):
            store.trials("toy")
        with pytest.raises(UserError, match=r"its weights are|another architecture or task than its key says"):
            store.drop_weights([key])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("name", ["a#b", "a%b", "ä b"])
def test_any_file_name_is_that_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    run_toy(tmp_path / name, toy_config(trials=6))
    with Store.open(toy_url(tmp_path / name), read_only=True) as store:
        assert len(store.trials("toy")) == 6
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute("UPDATE topformer_nas_revision SET version_num = '0099'")
    with pytest.raises(UserError, match="schema revision 0099"):
        Store.open(toy_url(tmp_path))


@pytest.mark.parametrize(
    ("url", "fragment"),
    [
        ("nonsense", "not a database URL"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("foo://host/name", "driver that is not installed"),
        ("sqlite:////", "is a folder"),
        ("sqlite:///a?b.db", "write a '\\?' in its name as %3F"),
        ("sqlite:////dev/null/x.db", "cannot make the folder"),
    ],
)
def test_an_unusable_url_is_refused(url: str, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        Store.open(url, create=True)


def test_an_unknown_study_lists_the_known_ones(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with (
        Store.open(toy_url(tmp_path)) as store,
        pytest.raises(UserError, match="unknown study 'other'; available: toy"),
    ):
        store.study("other")


def test_a_dashboard_reads_while_a_study_writes(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(event: Event) -> None:
        if event.trial is None:
            return  # what is told after a batch
        with Store.open(toy_url(tmp_path), read_only=True) as store:
            seen.append(sum(trial.state == "complete" for trial in store.trials("toy")))

    result = run_toy(tmp_path, report=look)
    assert seen == list(range(1, len(result.trials) + 1))


def test_a_record_is_never_completed_twice(tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=6))
    record = result.trials[0].record
    assert record is not None
    with Store.open(toy_url(tmp_path)) as store:
        store.add_record(record)
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (6,)


def test_a_store_without_write_permission_still_reads(tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=6))
    (tmp_path / "toy.db").chmod(stat.S_IRUSR)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert outline(result)[0][2] == store.trials("toy")[0].candidate.key


def back_to(version: int, folder: Path) -> Path:
    """As a store of before Alembic was."""
    path = folder / "toy.db"
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE topformer_nas_revision")
        connection.execute("CREATE TABLE topformer_nas_schema (version INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO topformer_nas_schema VALUES (?)", (version,))
        for column in ("rungs_json", "screens_json"):
            connection.execute(f"ALTER TABLE studies DROP COLUMN {column}")
        connection.execute("ALTER TABLE batches DROP COLUMN screened")
        connection.execute("DROP INDEX proposal_points")
        for column in ("total_ms", "miou_pct"):
            connection.execute(f"ALTER TABLE proposals DROP COLUMN {column}")
        if version == 1:
            connection.execute("DROP TABLE trust_reports")
    return path


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_store_is_read_and_left_as_it_is(version: int, tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=6))
    path = back_to(version, tmp_path)
    before = tables(path)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert store.trials("toy") == result.trials
        outlines = store.outlines("toy")
        assert list(outlines.number) == [trial.number for trial in result.trials]
        assert list(outlines.batch) == [trial.batch for trial in result.trials]
        assert list(outlines.is_anchor) == [trial.anchor is not None for trial in result.trials]
        assert list(outlines.total_ms) == [trial.latency.total_ms for trial in result.trials]
        assert list(outlines.miou_pct) == [trial.miou_pct for trial in result.trials]
        assert store.trust_reports() == ()
        with pytest.raises(UserError, match="attempt to write a readonly database"):
            store.add_trust_report("mine", "{}")
    assert tables(path) == before


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_store_is_brought_up_by_writing_to_it_and_kept(version: int, tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=6))
    path = back_to(version, tmp_path)
    before = tables(path)
    for content in ("old", "new"):
        with Store.open(toy_url(tmp_path)) as store:
            store.add_trust_report("mine", content)
            assert store.trust_reports() == (("mine", content),)
            assert store.trials("toy") == result.trials
    assert tables(path) == before - {"topformer_nas_schema"} | {"topformer_nas_revision", "trust_reports"}
    backup = tmp_path / f"toy.db.{version:04}-backup"
    assert tables(backup) == before
    with Store.open(f"sqlite:///{backup}", read_only=True) as store:
        assert [trial.record for trial in store.trials("toy")] == [trial.record for trial in result.trials]


def test_a_store_without_its_revision_is_not_called_empty(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute("DELETE FROM topformer_nas_revision")
    for options in ({"read_only": True}, {"create": True}, {}):
        with pytest.raises(UserError, match="has studies, but not the revision of its tables"):
            Store.open(toy_url(tmp_path), **options)


def test_a_step_that_fails_leaves_the_old_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    path = back_to(1, tmp_path)
    before = tables(path)
    monkeypatch.setattr(schema.command, "upgrade", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Store.open(toy_url(tmp_path))
    assert tables(path) == before


def test_the_steps_lead_to_what_the_models_say(tmp_path: Path) -> None:
    with Store.open(toy_url(tmp_path), create=True) as store, store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.Base.metadata) == []
        assert context.get_current_revision() == schema.HEAD


def test_the_newest_trust_report_is_first_even_where_it_replaces_one(tmp_path: Path) -> None:
    with Store.open(toy_url(tmp_path), create=True) as store:
        for name in ("a", "b", "a"):
            store.add_trust_report(name, "")
        assert [name for name, _ in store.trust_reports()] == ["a", "b"]


@pytest.mark.parametrize("damage", ["DROP TABLE batches", "ALTER TABLE records DROP COLUMN seconds"])
def test_a_store_that_lacks_a_table_or_column_is_told_to_be_restored(damage: str, tmp_path: Path) -> None:
    """It was told to be read-only, locked or full."""
    run_toy(tmp_path, toy_config(trials=6))
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute(damage)
    with Store.open(toy_url(tmp_path), read_only=True) as store, pytest.raises(UserError) as error:
        _ = store.batches("toy"), store.trials("toy")
    assert "lacks a table or column of this tool (no such" in str(error.value)
    assert str(error.value).endswith("restore a backup.")


def test_a_store_on_a_read_only_file_system_is_read(tmp_path: Path) -> None:
    source, disk = tmp_path / "source", tmp_path / "disk"
    run_toy(source, toy_config(trials=6))
    disk.mkdir()
    mount = ["mount", "--bind", str(source), str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
        with Store.open(toy_url(disk), read_only=True) as store:
            assert store.counts("toy").trials == 6
        with pytest.raises(UserError, match=r"readonly|read-only|unable to open"):
            run_toy(disk, toy_config(trials=8))
        (source / "toy.db-wal").write_bytes(b"")  # a crash left a log that could not be brought in there
        with pytest.raises(UserError, match="toy"), Store.open(toy_url(disk), read_only=True) as store:
            store.counts("toy")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_name_in_a_database_that_is_no_text_is_a_sentence() -> None:
    """A fuzzed file whose schema held a byte that is no UTF-8 brought a traceback."""
    with pytest.raises(UserError, match=r"is damaged .* restore a backup"), one_sentence("sqlite:///a.db"):
        b"\xc5\x20".decode()

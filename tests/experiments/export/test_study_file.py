"""A study as one file: whole, checked, and nothing in it believed before."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.export import study_file as archive
from experiments.export.study_file import export_study, import_study, read_archive, unproven
from experiments.front.pareto import front
from experiments.search.study import run_study
from experiments.store.store import Store
from tests.support.toys import ToyEvaluator, is_unlucky, outline, run_toy, toy_config, toy_table, toy_url
from topformer.errors import UserError
from topformer.version import tool_version


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with failures, and its archive."""
    folder = tmp_path_factory.mktemp("study")
    run_toy(folder, toy_config(trials=20), ToyEvaluator(fails=is_unlucky))
    with Store.open(toy_url(folder), read_only=True) as store:
        export_study(store, "toy", folder / "toy.zip")
    return folder


def changed(folder: Path, out: Path, member: str, change: Callable[[bytes], bytes], *, resign: bool = True) -> Path:
    """The archive with one member changed; with `resign`, its checksum too."""
    with zipfile.ZipFile(folder / "toy.zip") as old:
        members = {name: old.read(name) for name in old.namelist()}
    members[member] = change(members[member])
    if resign and member != "manifest.json":
        manifest = json.loads(members["manifest.json"])
        manifest["sha256"][member] = hashlib.sha256(members[member]).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(out, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return out


def edited(key: str, value: Any, *, line: int | None = None) -> Callable[[bytes], bytes]:
    """JSON, or one line of JSON lines, with another value; a dot leads into a table."""

    def change(content: bytes) -> bytes:
        lines = content.splitlines() if line is not None else [content]
        entry = json.loads(lines[line or 0])
        *path, last = key.split(".")
        place = entry
        for part in path:
            place = place[part]
        place[last] = value
        lines[line or 0] = json.dumps(entry).encode()
        return b"\n".join(lines) + b"\n"

    return change


METRICS = {"per_class_iou_pct": [], "pixel_accuracy_pct": 50.0, "train_loss": None, "seconds": 1.0}
STRAY = json.dumps(
    {
        "candidate_key": "0123456789abcdef",
        "evaluator": "toy-1",
        "fidelity": "toy",
        "replicate": 0,
        "status": "complete",
        "metrics": METRICS | {"miou_pct": 99.0},
        "reason": None,
        "seconds": 0.0,
    }
).encode()


def test_an_imported_study_is_the_study(folder: Path, tmp_path: Path) -> None:
    found = read_archive(folder / "toy.zip")
    with Store.open(toy_url(tmp_path), create=True) as store, Store.open(toy_url(folder), read_only=True) as old:
        assert import_study(store, found) == "toy"
        assert store.trials("toy") == old.trials("toy")
        assert store.batches("toy") == old.batches("toy")
        assert store.study("toy") == old.study("toy")
        export_study(store, "toy", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (folder / "toy.zip").read_bytes()


def test_an_imported_study_goes_on_as_it_would_have(folder: Path, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    whole = run_toy(tmp_path / "here", toy_config(trials=26), ToyEvaluator(fails=is_unlucky))
    with Store.open(toy_url(tmp_path / "there"), create=True) as store:
        import_study(store, read_archive(folder / "toy.zip"))
        grown = run_study(
            toy_config(trials=26), store, evaluator=ToyEvaluator(fails=is_unlucky), table=toy_table(), workers=1
        )
    assert grown.trained == 6
    assert outline(grown)[:20] == outline(whole)[:20]


def test_a_study_may_come_under_another_name_and_not_twice_under_one(folder: Path, tmp_path: Path) -> None:
    found = read_archive(folder / "toy.zip")
    with Store.open(toy_url(tmp_path), create=True) as store:
        import_study(store, found)
        with pytest.raises(UserError, match="has a study 'toy' already"):
            import_study(store, found)
        assert import_study(store, found, name="other") == "other"
        assert [study.name for study in store.studies()] == ["toy", "other"]
        assert store.study("other").config.name == "other"


def test_what_a_configuration_leaves_to_its_defaults_is_imported_with_them(folder: Path, tmp_path: Path) -> None:
    def shortened(content: bytes) -> bytes:
        study = json.loads(content)
        del study["config"]["search"]["seed"], study["config"]["search"]["anchors"]
        return json.dumps(study).encode()

    found = read_archive(changed(folder, tmp_path / "short.zip", "study.json", shortened))
    with Store.open(toy_url(tmp_path), create=True) as store, Store.open(toy_url(folder), read_only=True) as old:
        import_study(store, found)
        assert store.study("toy") == old.study("toy")


def test_numbers_that_no_database_can_keep_are_refused(folder: Path, tmp_path: Path) -> None:
    def grown(content: bytes) -> bytes:
        batches = json.loads(content)
        batches[0]["asked"] = 10**20
        return json.dumps(batches).encode()

    with pytest.raises(UserError, match="an integer has more than 64 bits"):
        read_archive(changed(folder, tmp_path / "large.zip", "batches.json", grown))


def test_a_store_with_another_result_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    found = read_archive(folder / "toy.zip")
    other = found.records[0]
    assert other is not None
    assert other.accuracy is not None
    with Store.open(toy_url(tmp_path), create=True) as store:
        store.add_record(
            replace(other, metrics=replace(other.accuracy, miou_pct=1.0)),
            candidate=found.proposals[0].candidate,
        )
        with pytest.raises(UserError, match=r"another result of candidate .* import into a new --storage"):
            import_study(store, found)
        assert store.studies() == ()


def test_what_is_in_flight_comes_along(tmp_path: Path) -> None:
    class BreakOffError(Exception):
        pass

    def stop(event: Any) -> None:
        if event.done == 4:
            raise BreakOffError

    with pytest.raises(BreakOffError):
        run_toy(tmp_path, toy_config(), report=stop)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        export_study(store, "toy", tmp_path / "toy.zip")
    found = read_archive(tmp_path / "toy.zip")
    assert [trial.record is None for trial in found.trials] == [False] * 4 + [True] * 2


def test_the_archive_says_what_the_study_says(folder: Path) -> None:
    found = read_archive(folder / "toy.zip")
    with Store.open(toy_url(folder), read_only=True) as store:
        assert found.front.trials == [trial.number for trial in front(store.trials("toy"), fidelity="toy")]
    assert found.front.hypervolume > 0
    assert {"torch", "topformer-nas", "python"} <= found.made_by.keys()
    assert found.made_by["topformer-nas"] == tool_version()
    assert found.table.checksum == toy_table().checksum


@pytest.mark.parametrize(
    ("member", "change", "fragment"),
    [
        ("front.json", edited("trials", [0]), r"front\.json: records and table give the front"),
        ("front.json", edited("hypervolume", 1.0), "give the front .* with hypervolume"),
        ("trials.jsonl", edited("record.metrics.miou_pct", 99.0, line=3), "give the front"),
        ("trials.jsonl", edited("record.metrics.miou_pct", 101.0, line=3), "trial 3: its miou_pct is 101"),
        (
            "trials.jsonl",
            edited("record.metrics.miou_pct", "30", line=3),
            r"record\.metrics\.miou_pct: Input should be a valid number",
        ),
        (
            "trials.jsonl",
            edited("record.metrics.seconds", "long", line=3),
            r"record\.metrics\.seconds: Input should be a valid number",
        ),
        ("trials.jsonl", edited("record.metrics.seconds", float("nan"), line=3), "finite number"),
        ("trials.jsonl", edited("record.metrics", None, line=3), "trial 3: it is complete, and has no metrics"),
        ("trials.jsonl", edited("latency_ms", 0.01, line=3), r"said to take 0\.01 ms, its table says"),
        ("trials.jsonl", edited("architecture.num_blocks", 5, line=3), "key of another architecture"),
        ("trials.jsonl", edited("architecture.num_heads", -1, line=3), "trial 3: "),
        ("trials.jsonl", edited("number", 9, line=3), "trial 3 is numbered 9"),
        ("trials.jsonl", lambda content: content + b"\n" * 10**6, "a line is empty"),
        ("trials.jsonl", edited("record.metrics.per_class_iou_pct", ["a"] * 300_000, line=3), "over 250,000 values"),
        ("trials.jsonl", edited("record.seconds", -1e300, line=3), "trial 3: its seconds is -1e"),
        ("trials.jsonl", edited("record.metrics.per_class_iou_pct", 30.0, line=3), "per_class_iou_pct"),
        (
            "trials.jsonl",
            edited("record.metrics.per_class_iou_pct", [30.0], line=3),
            "IoUs of 1 classes, its task has 59",
        ),
        (
            "trials.jsonl",
            edited("record.metrics.per_class_iou_pct", [200.0] * 59, line=3),
            "its per_class_iou_pct is 200",
        ),
        ("trials.jsonl", edited("record.metrics.pixel_accuracy_pct", -3.0, line=3), "its pixel_accuracy_pct is -3"),
        ("trials.jsonl", edited("anchor", "base", line=1), "said to be the anchor base, and is not"),
        ("trials.jsonl", edited("origin", "random", line=1), "said to be the anchor small, and is not"),
        ("trials.jsonl", edited("point.num_heads", 8, line=1), "another architecture than its point says"),
        ("trials.jsonl", edited("point.num_heads", 7, line=1), "the point of trial 1: "),
        ("trials.jsonl", edited("record", None, line=3), "said to be finished, and has trials without a record"),
        ("study.json", edited("config.space", {"preset": "pyramid"}), "is not of the study's space|the point of trial"),
        ("study.json", edited("created", ""), "its beginning is '', which is no time"),
        ("study.json", edited("finished", "9999-12-31T23:59:59+00:00"), "its end is .* which is no time"),
        ("front.json", edited("reference_ms", 12345.0), "its reference_ms is 12345, the study's"),
        ("front.json", edited("reference_miou_pct", 77.0), "its reference_miou_pct is 77, the study's 0"),
        ("trials.jsonl", edited("weights", "/etc/passwd", line=3), r"weights: Extra inputs are not permitted"),
        ("trials.jsonl", edited("origin", "thin air", line=3), "origin: "),
        ("trials.jsonl", lambda content: content[: len(content) // 2], r"trials\.jsonl"),
        ("trials.jsonl", lambda _: b"", r"batches\.json|give the front"),
        ("batches.json", lambda _: b"[]", r"batches\.json: 0 batches"),
        ("batches.json", lambda _: b"{", r"batches\.json"),
        ("batches.json", lambda content: content.replace(b'"asked": ', b'"asked": -', 1), "counts below 0"),
        ("batches.json", lambda content: content.replace(b'_seconds": 0.', b'_seconds": 1e999', 1), "no finite number"),
        ("table.lut", lambda content: content.replace(b"0.0", b"0.1", 1), r"study\.json|table\.lut"),
        ("table.lut", lambda _: b"\xff\xfe", "not text"),
        ("study.json", edited("config.search.sampler", "evil.module:run"), "study.json"),
        ("study.json", edited("name", 3), "name: "),
        ("study.json", edited("rungs", [{"label": "x"}]), r"rungs\.0"),
        ("confirmations.jsonl", lambda _: b"{}\n", r"confirmations\.jsonl: "),
        ("confirmations.jsonl", lambda _: STRAY, "is of no trial, or of no rung"),
        ("manifest.json", edited("format", 2), "format 2, this tool reads 1"),
        ("manifest.json", lambda _: b"[1]", r"manifest\.json"),
    ],
)
def test_a_changed_archive_is_refused_in_one_sentence(
    member: str, change: Callable[[bytes], bytes], fragment: str, folder: Path, tmp_path: Path
) -> None:
    path = changed(folder, tmp_path / "bad.zip", member, change)
    with pytest.raises(UserError, match=fragment) as error:
        read_archive(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "member", ["study.json", "table.lut", "batches.json", "trials.jsonl", "confirmations.jsonl", "front.json"]
)
def test_a_member_that_is_not_that_of_its_checksum_is_refused(member: str, folder: Path, tmp_path: Path) -> None:
    path = changed(folder, tmp_path / "bad.zip", member, lambda content: content + b" ", resign=False)
    with pytest.raises(UserError, match=f"{member}: its content is not that of its checksum"):
        read_archive(path)


@pytest.mark.parametrize("strange", ["/etc/passwd", "../up.json", "a/b.json", "study.json"])
def test_members_that_no_export_writes_are_refused(strange: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes((folder / "toy.zip").read_bytes())
    with zipfile.ZipFile(path, "a") as added, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # a name that is there twice
        added.writestr(strange, b"{}")
    with pytest.raises(UserError, match="is no study archive"):
        read_archive(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad.zip"]


def test_what_agrees_with_itself_is_still_not_proven(folder: Path) -> None:
    doubts = unproven(read_archive(folder / "toy.zip"))
    assert [
        words for words in ("table toy", "toy-1 found", "who made it") if not any(words in one for one in doubts)
    ] == []


def test_a_mean_that_is_not_that_of_its_classes_is_refused_of_this_tools_evaluators(folder: Path) -> None:
    record = read_archive(folder / "toy.zip").records[0]
    assert record is not None
    record.require_sound()
    with pytest.raises(ValueError, match=r"its miou_pct is .*, the mean over its classes 46\.5517"):
        replace(record, evaluator="0123456789abcdef").require_sound()


def test_a_bomb_is_refused_before_it_is_unpacked(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(folder / "toy.zip") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (b"\n" * 50_000_000 if name == "trials.jsonl" else b""))
    tracemalloc.start()
    with pytest.raises(UserError, match="bytes, packed into"):
        read_archive(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_member_beyond_the_limit_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBER_BYTES", 1000)
    with pytest.raises(UserError, match="bytes, more than 1,000"):
        read_archive(folder / "toy.zip")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(UserError, match="is not a readable archive"):
        read_archive(tmp_path / "bad.zip")
    with pytest.raises(UserError, match="cannot read the archive"):
        read_archive(tmp_path / "none.zip")

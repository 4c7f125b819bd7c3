"""Evaluations as a file: what one store writes another takes in, and nothing of a file that was changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import Metrics
from experiments.store.ledger import read_records, take_in, write_records
from experiments.store.records import Evaluation, Record
from experiments.store.store import Store
from tests.support.toys import ToyEvaluator, is_unlucky, run_toy, toy_config, toy_url
from topformer.config import TINY, Candidate, Task, content_key
from topformer.errors import UserError

METRICS = {"miou_pct": 5, "per_class_iou_pct": [], "pixel_accuracy_pct": 50.0, "train_loss": None, "seconds": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of eight evaluations and its ledger."""
    folder = tmp_path_factory.mktemp("made")
    run_toy(folder, toy_config(trials=8), ToyEvaluator(fails=is_unlucky))
    with Store.open(toy_url(folder), read_only=True) as store:
        assert write_records(store, folder / "ledger.jsonl") == 8
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Path:
    for name in ("toy.db", "ledger.jsonl"):
        shutil.copy(made / name, tmp_path)
    return tmp_path / "ledger.jsonl"


def test_another_store_takes_in_what_one_has_written_and_trains_none_of_it(ledger: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Store.open(toy_url(elsewhere), create=True) as store:
        assert take_in(store, ledger) == (8, 8)
        assert take_in(store, ledger) == (8, 0)
        assert write_records(store, elsewhere / "ledger.jsonl") == 8
    assert (elsewhere / "ledger.jsonl").read_bytes() == ledger.read_bytes()
    result = run_toy(elsewhere, toy_config(trials=8), ToyEvaluator(fails=is_unlucky))
    assert result.trained == 0


def changed(ledger: Path, change: Callable[[dict[str, Any]], Any], *, sealed: bool) -> None:
    """The last record of the file after a change, with a new checksum where it is `sealed`."""
    *before, last = ledger.read_text().splitlines()
    line = json.loads(last)
    change(line)
    if sealed:
        line.pop("checksum")
        line["checksum"] = content_key(line)
    ledger.write_text("\n".join([*before, json.dumps(line)]) + "\n")


@pytest.mark.parametrize(
    ("change", "sealed", "fragment"),
    [
        (lambda line: line.update(seconds=line["seconds"] + 1), False, "not that of its checksum"),
        (lambda line: line.update(evaluator="another"), False, "not that of its checksum"),
        (lambda line: line["architecture"].update(num_blocks=2), True, "its candidate has the key"),
        (lambda line: line["architecture"].update(num_blocks=-2), True, "num_blocks"),
        (lambda line: line["task"].update(num_classes=7), True, "its candidate has the key"),
        (lambda line: line.update(fidelity="long"), True, "evaluator toy-1 is 'long', and 'toy' before"),
        (lambda line: line.update(fidelity="\x1b[2J"), True, "fidelity: String should match"),
        (lambda line: line.update(replicate=-1), True, "replicate: Input should be greater"),
        (lambda line: line.update(status="failed", metrics=METRICS), True, "it is failed, and has metrics"),
        (
            lambda line: line.update(status="complete", metrics=METRICS | {"miou_pct": 200.0}),
            True,
            "its miou_pct is 200",
        ),
        (
            lambda line: line.update(status="complete", metrics=METRICS | {"miou_pct": "x"}),
            True,
            r"metrics\.miou_pct: Input should be a valid number",
        ),
        (
            lambda line: line.update(status="complete", metrics=METRICS | {"miou_pct": None}),
            True,
            r"metrics\.miou_pct: ",
        ),
        (lambda line: line.update(status="complete", metrics={}), True, "miou_pct: Field required"),
        (lambda line: line.update(weights="/etc/passwd"), True, "weights: Extra inputs"),
    ],
)
def test_a_changed_line_is_refused_and_nothing_is_taken_in(
    ledger: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], sealed: bool, fragment: str
) -> None:
    changed(ledger, change, sealed=sealed)
    with Store.open(f"sqlite:///{tmp_path}/other.db", create=True) as store:
        with pytest.raises(UserError, match=rf"line 9: .*{fragment}.*; nothing was taken in"):
            take_in(store, ledger)
        assert store.evaluations() == ()


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "does not say 'topformer-nas records'"),
        (b"[" * 10_000, "does not say 'topformer-nas records'"),
        (b'{"format": "topformer-nas records", "version": 9, "records": 0}\n', "has version 9"),
        (b'{"format": "topformer-nas records", "version": 1, "records": 2}\n', "has 0 records, its first line says 2"),
        (b'{"format": "topformer-nas records", "version": 1, "records": 1}\n{"a": NaN}\n', "line 2: "),
        (
            b'{"format": "topformer-nas records", "version": 1, "records": 1}\n' + b"[" * 9_000_000,
            "a line of over 8 MiB",
        ),
        (b'{"format": "topformer-nas records", "version": 1, "records": 1}\n\xff\n', "line 2: "),
    ],
)
def test_what_is_no_file_of_records_is_one_sentence(content: bytes, fragment: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=fragment) as error:
        read_records(tmp_path / "x.jsonl")
    assert len(str(error.value)) < 1000


def test_a_pipe_is_no_file_of_records(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        read_records(tmp_path / "pipe")
    with pytest.raises(UserError, match="No such file"):
        read_records(tmp_path / "none.jsonl")


def test_another_result_of_a_known_evaluation_is_refused(ledger: Path, tmp_path: Path) -> None:
    changed(
        ledger,
        lambda line: line.update(status="complete", metrics=METRICS | {"miou_pct": 1.5}, reason=None),
        sealed=True,
    )
    with (
        Store.open(toy_url(tmp_path)) as store,
        pytest.raises(UserError, match=r"another result of candidate .* by toy: .*not 1\.5"),
    ):
        take_in(store, ledger)


def test_blocks_and_curves_of_a_record_come_back(tmp_path: Path) -> None:
    candidate = Candidate(arch=TINY, task=Task(num_classes=2))
    counts = ((3, 4, 5), (6, 7, 8))
    metrics = Metrics(
        miou_pct=40.0,
        per_class_iou_pct=(50.0, None),
        pixel_accuracy_pct=60.0,
        train_loss=None,
        seconds=1.0,
        cpu_seconds=1.0,
        curve_loss=(2.0, 1.0),
        curve_miou_pct=(10.0, 40.0),
        blocks=(counts, counts),
        judge_miou_pct=39.0,
        judge_blocks=(counts,),
    )
    record = Record(
        candidate_key=candidate.key,
        evaluator="e",
        fidelity="reference",
        replicate=0,
        status="complete",
        metrics=metrics,
        reason=None,
        seconds=1.0,
    )
    with Store.open(toy_url(tmp_path), create=True) as store:
        store.add_evaluations([Evaluation(candidate=candidate, record=record, created="2026-11-28T00:00:00")])
        (found,) = store.evaluations()
    assert found.record.judge_miou_pct == 39.0
    assert found.record.metrics is not None
    assert found.record.accuracy.blocks == (counts,) * 2
    assert found.record.accuracy.curve_miou_pct == (10.0, 40.0)


def test_the_commands_say_what_they_did(ledger: Path, tmp_path: Path, shell: Any) -> None:
    storage = f"sqlite:///{tmp_path}/shell.db"
    assert shell("trust", "records", "import", str(ledger), "--storage", storage)[1] == (
        f"{ledger}: 8 records, 8 of them new to {storage}\n"
    )
    out = tmp_path / "again.jsonl"
    code, said, _ = shell("trust", "records", "export", str(out), "--fidelity", "toy", "--storage", storage)
    assert (code, said) == (0, f"{out}: 8 records\n")
    code, _, err = shell("trust", "records", "export", str(out), "--fidelity", "tyo", "--storage", storage)
    assert (code, "unknown fidelity 'tyo'" in err) == (2, True)

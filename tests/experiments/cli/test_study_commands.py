"""The commands about studies that are there: list, show, compare, export, verify, import; shortlists of a front."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from experiments.front import confidence, lookup
from experiments.front.lookup import at_rung
from experiments.front.pareto import front, hypervolume, hypervolume_reference, knee_of, shortlisted
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.trust.standing import Standing
from experiments.views.front import front_rows
from tests.support.shell import Shell
from tests.support.toys import ToyEvaluator, is_unlucky, run_toy, toy_config, toy_report, toy_table, toy_url


def named(name: str, **settings: Any) -> StudyConfig:
    config = toy_config(**settings)
    return config.model_copy(update={"name": name})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of one evaluator, one of which has failures' reasons, and a third of another evaluator."""
    folder = tmp_path_factory.mktemp("finished")
    toy_table().save(folder / "tables" / "toy.lut")
    run_toy(folder, named("one", trials=18))
    run_toy(folder, named("two", trials=12, seed=1, sampler="random"))
    run_toy(folder, named("three", trials=8), ToyEvaluator(fingerprint="toy-2", fails=is_unlucky))
    return folder


@pytest.fixture
def studied(shell: Shell, finished: Path) -> Shell:
    shutil.copytree(finished, shell.folder, dirs_exist_ok=True)
    return shell


def test_show_adds_up(studied: Shell) -> None:
    content: Any = studied.json("study", "show", "one")
    with Store.open(toy_url(studied.folder), read_only=True) as store:
        trials = store.trials("one")
    assert (content["trials"], content["complete"], content["failed"], content["in_flight"]) == (18, 18, 0, 0)
    assert content["front"] == [trial.number for trial in front(trials, fidelity="toy")]
    assert content["knee"] in content["front"]
    reference = max(trial.latency.total_ms for trial in trials if trial.batch == 0)
    points = [(trial.latency.total_ms, trial.miou_pct or 0.0) for trial in trials]
    assert content["hypervolume_reference_ms"] == reference
    assert content["hypervolume_by_batch"][-1] == pytest.approx(hypervolume(points, (reference, 0.0)))
    assert content["hypervolume_by_batch"] == sorted(content["hypervolume_by_batch"])
    assert len(content["hypervolume_by_batch"]) == 3
    assert content["proposals_asked"] >= 18 - 3
    failing: Any = studied.json("study", "show", "three")
    assert failing["failed"] == len(failing["failures"]) > 0
    assert failing["failures"][0]["reason"] == "RuntimeError: this architecture never works"


def test_what_is_written_replaces_no_database_folder_or_device(studied: Shell) -> None:
    before = (studied.folder / "toy.db").read_bytes()
    for words, sentence in (
        (("front", "one", "--csv", "toy.db"), "--csv must be a .csv file, not 'toy.db'"),
        (("study", "export", "one", "--out", "toy.db"), "this is a database, which is not overwritten"),
        (("study", "export", "one", "--out", "."), "Is a directory"),
        (("study", "export", "one", "--out", "/dev/full"), "this is no ordinary file"),
    ):
        assert sentence in studied.refusal(*words)
    assert (studied.folder / "toy.db").read_bytes() == before
    assert Path("/dev/full").is_char_device()


def test_archives_that_are_damaged_or_lie_are_refused(studied: Shell) -> None:
    assert studied("study", "export", "one", "--out", "one.zip")[0] == 0
    path = studied.folder / "one.zip"
    whole = path.read_bytes()
    broken = bytearray(whole)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("trials.jsonl")
        content = {name: archive.read(name) for name in archive.namelist()}
    start = info.header_offset + 30 + len(info.filename)
    broken[start + 20 : start + 60] = bytes(byte ^ 0xFF for byte in broken[start + 20 : start + 60])
    path.write_bytes(broken)
    assert "is not a readable archive" in studied.refusal("study", "verify", "one.zip")

    def edited(member: str, old: bytes, new: bytes) -> str:
        assert old in content[member]
        changed = content | {member: content[member].replace(old, new, 1)}
        manifest = json.loads(changed["manifest.json"])
        manifest["sha256"][member] = hashlib.sha256(changed[member]).hexdigest()
        changed["manifest.json"] = json.dumps(manifest).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in changed.items():
                archive.writestr(name, value)
        return studied.refusal("study", "verify", "one.zip")

    assert "front.json: NaN is no finite number" in edited(
        "front.json", b'"hypervolume": ', b'"hypervolume": NaN, "x": '
    )
    assert "study.json: its name is" in edited("study.json", b'"name": "one"', b'"name": "../one"')
    assert "trials.jsonl: NaN is no finite number" in edited(
        "trials.jsonl", b'"latency_ms": ', b'"latency_ms": NaN, "x": '
    )
    path.write_bytes(whole)
    assert "'a b' cannot be a study's name" in studied.refusal("study", "import", "one.zip", "--as", "a b")


def test_what_leads_says_the_same_as_all(studied: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large study only those near the front are read."""
    known = Standing(report="toy-report", trust=toy_report(0.9).fidelities[0], noise_pct=0.3)
    for module in (lookup, confidence):
        monkeypatch.setattr(module, "MOST_COMPARED", 7)
    with Store.open(toy_url(studied.folder), read_only=True) as store:
        for name in ("one", "two", "three"):
            study, every = at_rung(store, name, None)
            _, leading = at_rung(store, name, None, every=False)
            assert len(leading) < len(every)
            assert all(trial in leading for trial in every if trial.anchor)
            assert knee_of(study, leading) == knee_of(study, every)
            assert shortlisted(study, leading, 2) == shortlisted(study, every, 2)
            assert hypervolume_reference(study, leading) == hypervolume_reference(study, every)
            members = front(every, fidelity="toy")
            few, all_of_them = (front_rows(study, given, members, known) for given in (leading, every))
            assert few == all_of_them


def test_show_for_people(studied: Shell) -> None:
    code, out, _ = studied("study", "show", "three")
    assert code == 0
    assert "this architecture never works" in out
    assert "hypervolume after batch 0" in out
    assert "ranking untested" in out


def test_compare_measures_from_one_reference(studied: Shell) -> None:
    rows: Any = studied.json("study", "compare", "one", "two")
    shown: Any = studied.json("study", "show", "one")
    assert [row["study"] for row in rows] == ["one", "two"]
    assert rows[0]["reference_ms"] == rows[1]["reference_ms"] >= shown["hypervolume_reference_ms"]
    with Store.open(toy_url(studied.folder), read_only=True) as store:
        trials = {name: store.trials(name) for name in ("one", "two")}
    together = {trial.candidate.key for trial in front([*trials["one"], *trials["two"]], fidelity="toy")}
    for row in rows:
        own = front(trials[row["study"]], fidelity="toy")
        assert row["on_front"] == len(own)
        assert row["on_common_front"] == len({trial.candidate.key for trial in own} & together)
    code, out, _ = studied("study", "compare", "one", "two")
    assert code == 0
    assert "on_common_front" in out


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("study compare one", "at least two studies"),
        ("study compare one one", "at least two studies"),
        ("study compare one three", "do not compare: each has another evaluator"),
        ("study compare one four", "unknown study 'four'"),
        ("study show four", "unknown study 'four'"),
        ("study export four --out four.zip", "unknown study 'four'"),
        ("study verify none.zip", "cannot read the archive"),
        ("study verify tables/toy.lut", "is not a readable archive"),
        ("study import tables/toy.lut", "is not a readable archive"),
        ("front one --shortlist 0", "at least 1 architecture, not 0"),
        ("front one --shortlist 3 --all", "give only one"),
        ("front one --csv tables/toy.lut/front.csv", "toy.lut"),
    ],
)
def test_bad_input_is_one_sentence(words: str, fragment: str, studied: Shell) -> None:
    assert fragment in studied.refusal(*words.split())


def test_a_study_travels_in_one_file(studied: Shell, tmp_path: Path) -> None:
    made: Any = studied.json("study", "export", "one", "--out", "out/one.zip")
    assert made["bytes"] == Path(made["archive"]).stat().st_size
    checked: Any = studied.json("study", "verify", "out/one.zip")
    shown: Any = studied.json("study", "show", "one")
    assert checked["front"] == shown["front"]
    assert checked["hypervolume"] == pytest.approx(shown["hypervolume_by_batch"][-1])
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    known: Any = studied.json("study", "import", "out/one.zip", "--as", "copy", "--storage", elsewhere)
    assert known == {"study": "copy", "trials": 18, "storage": elsewhere}
    there: Any = studied.json("study", "show", "copy", "--storage", elsewhere)
    assert {**there, "study": "one", "created": 0, "finished": 0} == {**shown, "created": 0, "finished": 0}
    assert "already" in studied.refusal("study", "import", "out/one.zip")
    for words in (["verify", "out/one.zip"], ["export", "one", "--out", "out/one.zip"]):
        code, out, err = studied("study", *words)
        assert (code, err) == (0, "")
        assert "out/one.zip" in out


def test_a_shortlist_is_of_the_front_and_has_its_knee(studied: Shell) -> None:
    every: Any = studied.json("front", "one")
    shown: Any = studied.json("study", "show", "one")
    some: Any = studied.json("front", "one", "--shortlist", "2")
    assert len(some) == min(2, len(every))
    assert {row["trial"] for row in some} <= {row["trial"] for row in every}
    assert shown["knee"] in {row["trial"] for row in some}
    many: Any = studied.json("front", "one", "--shortlist", "99")
    assert many == every
    code, out, _ = studied("front", "one")
    assert code == 0
    assert out.count("(knee)") == 1


def test_a_front_may_be_written_as_csv(studied: Shell) -> None:
    rows: Any = studied.json("front", "one", "--all", "--csv", "out/all.csv")
    with (studied.folder / "out" / "all.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) == 18
    for row, line in zip(rows, read, strict=True):
        assert float(line["miou_pct"]) == row["miou_pct"]
        assert int(line["trial"]) == row["trial"]
        assert line["on_front"] == str(row["on_front"])
    assert "architecture" not in read[0]


def test_a_front_says_how_likely_where_the_noise_is_known(studied: Shell) -> None:
    before: Any = studied.json("front", "one")
    assert {row["front_probability"] for row in before} == {None}
    with Store.open(toy_url(studied.folder)) as store:
        store.add_trust_report("mine", toy_report(0.9).to_json())
    rows: Any = studied.json("front", "one", "--all")
    noise = rows[0]["miou_noise_pct"]
    assert noise > 0
    assert all(0 <= row["front_probability"] <= 1 for row in rows)
    assert sum(row["front_probability"] for row in rows) >= 1
    code, out, _ = studied("front", "one")
    assert code == 0
    assert f"noise is {noise:.2f} points of mIoU" in out
    assert all(f"{row['miou_pct']:.2f} ±{1.645 * noise:.2f}" in out for row in before)
    (best,) = studied.json("front", "one", "--latency-max", "base")  # type: ignore[misc]
    assert best["miou_margin_pct"] == pytest.approx(1.645 * noise)
    assert best["nearest_anchor"]["miou_difference_margin_pct"] == pytest.approx(2**0.5 * 1.645 * noise)
    assert f" ±{2**0.5 * 1.645 * noise:.2f} points of mIoU" in studied("front", "one", "--latency-max", "base")[1]

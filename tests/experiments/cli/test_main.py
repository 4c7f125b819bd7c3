"""The command line as a person types it: results on standard output, mistakes as one sentence and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from experiments import studies
from experiments.cli.terminal import storage_flag
from experiments.search.schedule import Confirmation, Schedule
from experiments.store.artefacts import file_sha256
from latency_lut import tables
from latency_lut.onnx_estimate import DEVICE_MODELS
from latency_lut.table import ErrorModel, LatencyTable, NetworkCheck
from tests.support.shell import Shell
from tests.support.topformer_oracle import released_segmentation_checkpoint
from tests.support.toys import ToyEvaluator, run_toy, toy_config, toy_table
from topformer import ANCHORS, TINY
from topformer.model import TopFormer
from topformer.version import tool_version
from topformer.weights import save_model

NO_PAYLOAD = [name for name in ("qemu-aarch64", "cc") if not shutil.which(name)]
NO_PAYLOAD += [name for name in ("ziglang", "unearth", "pnnx") if not find_spec(name)]


def save_device_table(folder: Path, errors: ErrorModel) -> None:
    """Toy rows under the name of the Snapdragon 865's table."""
    name = DEVICE_MODELS["snapdragon865"].table
    header = dataclasses.replace(toy_table().header, name=name, error_model=errors)
    dataclasses.replace(toy_table(), header=header).save(folder / "tables" / f"{name}.lut")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished toy study, its weights and its table."""
    folder = tmp_path_factory.mktemp("finished")
    toy_table().save(folder / "tables" / "toy.lut")
    run_toy(folder, toy_config(trials=12), ToyEvaluator(keeps_weights=True))
    return folder


@pytest.fixture
def studied(shell: Shell, finished: Path) -> Shell:
    """A shell in a copy of that folder."""
    shutil.copytree(finished, shell.folder, dirs_exist_ok=True)
    return shell


def test_front_lists_records_and_all_lists_every_evaluation(studied: Shell) -> None:
    front, every = studied.json("front", "toy"), studied.json("front", "toy", "--all")
    assert isinstance(front, list)
    assert isinstance(every, list)
    assert len(every) == 12 > len(front)
    wanted = {"trial", "arch_key", "miou_pct", "fidelity", "replicate", "latency_ms", "latency_low_ms"}
    wanted |= {"latency_high_ms", "latency_kind", "table", "ranking_trust", "anchor"}
    assert all(wanted <= set(row) for row in every)
    assert {row["anchor"] for row in every} == {"tiny", "small", "base", None}
    assert {(row["ranking_trust"]["verdict"], row["latency_kind"], row["table"]) for row in every} == {
        ("untested", "estimated", "toy")
    }
    assert all(row["latency_low_ms"] < row["latency_ms"] < row["latency_high_ms"] for row in every)


def test_the_best_under_a_budget_is_compared_with_the_nearest_anchor(studied: Shell) -> None:
    every = studied.json("front", "toy", "--all")
    assert isinstance(every, list)
    small = next(row for row in every if row["anchor"] == "small")
    for budget in ("small", str(small["latency_ms"] + 1e-9)):
        (best,) = studied.json("front", "toy", "--latency-max", budget)  # type: ignore[misc]
        within = [row for row in every if row["latency_ms"] <= small["latency_ms"] + 1e-9]
        assert best["miou_pct"] == max(row["miou_pct"] for row in within)
        assert best["nearest_anchor"]["anchor"] in ANCHORS
        slower = best["nearest_anchor"]
        assert (
            slower["latency_difference_low_ms"]
            <= slower["latency_difference_ms"]
            <= slower["latency_difference_high_ms"]
        )


def test_front_for_people_says_that_the_ranking_is_untested(studied: Shell) -> None:
    code, out, _ = studied("front", "toy", "--plot", "front.png")
    assert code == 0
    assert "ranking untested" in out
    assert "not validated on whole networks" in out
    assert (studied.folder / "front.png").read_bytes().startswith(b"\x89PNG")


def test_latency_query_adds_up(studied: Shell) -> None:
    content = studied.json("latency", "query", "tiny", "--table", "toy", "--size", "64", "--classes", "59")
    assert isinstance(content, dict)
    assert content["total_ms"] == pytest.approx(sum(block["ms"] for block in content["by_block"]))
    assert (content["kind"], content["table"], content["coverage"]) == ("estimated", "toy", 1.0)
    trial = studied.json("latency", "query", "toy#0")
    assert isinstance(trial, dict)
    assert trial["total_ms"] == content["total_ms"]


def checked_table(folder: Path, **header: Any) -> None:
    """A measured table, "own", whose header has three networks."""
    times = [("tiny", 24, 26, 50, 26.0), ("small", 40, 40, 80, 40.4), ("base", 60, 60, 121, None)]
    names = ("name", "whole_ms", "repeat_ms", "sum_ms", "unseen_ms")
    checks = tuple(NetworkCheck(**dict(zip(names, values, strict=True))) for values in times)
    toy = toy_table()
    rows = [replace(row, kind="measured", n=8) for row in toy.rows.values()]
    model = ErrorModel(scale=0.5, scale_pct=3)
    changes = {"name": "own", "error_model": model, "validation": checks} | header
    LatencyTable.of(replace(toy.header, **changes), rows).save(folder / "tables" / "own.lut")


def test_a_tables_report_is_printed_without_measuring(shell: Shell) -> None:
    checked_table(shell.folder)
    content = shell.json("latency", "validate", "--table", "own", "--plot", "own.png")
    assert isinstance(content, dict)
    assert (content["table"], content["validated"], content["timed_now"]) == ("own", True, False)
    assert [row["predicted_ms"] for row in content["networks"]] == [26.0, 40.4, 60.5]
    assert [row["error_pct"] for row in content["networks"]] == pytest.approx([4, 1, 100 / 120])
    assert content["agreement"]["mean_error_pct"] == pytest.approx((4 + 1 + 100 / 120) / 3)
    assert content["agreement"]["noise_floor_pct"] == pytest.approx(8 / 3)
    assert (content["agreement"]["kendall_tau"], content["agreement"]["share_within_5_pct"]) == (1, 1)
    assert (content["contradictions"], content["source"]["soc"]) == ([], "none")
    assert (shell.folder / "own.png").read_bytes().startswith(b"\x89PNG")


def test_a_tables_report_for_people_has_the_same_figures(shell: Shell) -> None:
    checked_table(shell.folder)
    code, out, _ = shell("latency", "validate", "--table", "own")
    assert code == 0
    for words in (
        "tiny",
        "mean error 1.94 %",
        "100 % within 5 %",
        "Kendall tau 1.000",
        "noise floor 2.67 %",
        "90% inter",
    ):
        assert words in out


def test_a_table_without_a_report_says_so(studied: Shell) -> None:
    code, out, _ = studied("latency", "validate", "--table", "toy")
    assert code == 0
    assert "table toy has no report: its sums were never compared with whole networks" in out
    content = studied.json("latency", "validate", "--table", "toy")
    assert isinstance(content, dict)
    assert (content["agreement"], content["validated"]) == (None, False)


def test_published_checks_have_no_noise_floor(shell: Shell) -> None:
    checked_table(shell.folder, validation=(NetworkCheck(name="tiny", whole_ms=43, repeat_ms=None, sum_ms=88),))
    code, out, _ = shell("latency", "validate", "--table", "own")
    assert code == 0
    assert "mean error 2.33 %" in out
    assert "noise floor not known" in out


def test_rows_that_contradict_each_other_are_listed(shell: Shell) -> None:
    checked_table(shell.folder)
    table = LatencyTable.load(shell.folder / "tables" / "own.lut")
    stem = next(key for key in table.rows if key.startswith("stem"))
    larger = stem.replace("3x64x64->16x32x32", "3x96x96->16x48x48")
    quick = replace(table.rows[stem], key=larger, median_ms=1e-5, p5_ms=1e-5, p95_ms=1e-5)
    LatencyTable.of(table.header, [*table.rows.values(), quick]).save(shell.folder / "tables" / "own.lut")
    content = shell.json("latency", "validate", "--table", "own")
    assert isinstance(content, dict)
    (found,) = content["contradictions"]
    assert (found["key"], found["larger_key"]) == (stem, larger)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--networks 0 --space quickstart", "--networks must be at least 1, not 0"),
        ("--networks 2", "--networks needs --space or --study"),
        ("--networks 2 --space tiny", "'tiny'; available: pyramid, quickstart"),
        ("--seed 3", "say which networks to time: give --networks too"),
        ("--networks 2 --space quickstart --study quickstart", "leave --space, --size, --classes and --output out"),
        (
            "--networks 2 --space quickstart --size 96",
            "--device host --space quickstart --size 96x96 --classes 150 --table own",
        ),
        ("--networks 2 --space quickstart --size 64 --classes 59", "own was measured with soc 'Elsewhere', but here"),
        ("--plot own.doc", "cannot write the figure"),
        ("--table toy --networks 1 --space quickstart", "table toy is estimated, not measured"),
        ("--table toy --plot toy.png", "was compared with no network: there is nothing to draw"),
    ],
)
def test_what_validate_cannot_do_is_one_sentence(words: str, fragment: str, studied: Shell) -> None:
    checked_table(studied.folder, device="host", soc="Elsewhere", runtime="onnxruntime")
    options = words if "--table" in words else f"--table own {words}"
    assert fragment in studied.refusal("latency", "validate", *options.split())


@pytest.mark.thorough
def test_fresh_networks_are_timed_on_this_machine_and_the_table_stays(shell: Shell) -> None:
    (shell.folder / "mine.toml").write_text(SMALL_STUDY)
    shell.json("latency", "measure", "--study", "mine.toml", "--out", "mine")
    before = (shell.folder / "tables" / "mine.lut").read_bytes()
    calibrated = {check.name for check in LatencyTable.load(shell.folder / "tables" / "mine.lut").header.validation}
    content = shell.json("latency", "validate", "--table", "mine", "--networks", "2", "--study", "mine.toml")
    assert isinstance(content, dict)
    assert content["timed_now"]
    assert len({row["network"] for row in content["networks"]} - calibrated) == 2
    assert 0 < content["agreement"]["mean_error_pct"] < 100
    assert (shell.folder / "tables" / "mine.lut").read_bytes() == before
    assert sorted(path.name for path in (shell.folder / "tables").iterdir()) == ["mine.lut"]


SMALL_STUDY = """
name = "mine"
[space]
name = "heads"
base = "tiny"
[space.knobs]
num_heads = [2, 4, 6, 8]
num_blocks = [1, 2, 3, 4]
[task]
image_size = "64x64"
num_classes = 7
[latency]
table = "mine"
[evaluator]
recipe = "proxy-short"
[search]
trials = 2
batch_size = 2
anchors = ["tiny"]
"""


def test_tables_and_studies_are_listed(studied: Shell) -> None:
    (study,) = studied.json("study", "list")  # type: ignore[misc]
    assert (study["study"], study["complete"], study["wanted"]) == ("toy", 12, 12)
    tables = studied.json("latency", "tables")
    assert isinstance(tables, list)
    assert "toy" in {table["table"] for table in tables}


def test_a_damaged_table_does_not_hide_the_others(studied: Shell) -> None:
    (studied.folder / "tables" / "bad.lut").write_text("nonsense")
    code, out, err = studied("latency", "tables", "--json")
    assert (code, [table["table"] for table in json.loads(out)]) == (0, ["toy", tables.SNAPDRAGON_865])
    assert "bad.lut" in err


def test_an_estimate_needs_the_scale_of_its_device_models_table(shell: Shell) -> None:
    save_device_table(shell.folder, ErrorModel())
    assert "was not compared with whole networks" in shell.refusal("latency", "estimate", "net.onnx")


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.skipif(bool(NO_PAYLOAD), reason=f"not installed: {', '.join(NO_PAYLOAD)}")
def test_any_onnx_file_is_estimated_with_the_tables_scale(shell: Shell) -> None:
    save_device_table(shell.folder, ErrorModel(scale=1.5, scale_pct=10, basis="four anchors"))
    weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "weight")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 32, 32))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 8, 30, 30))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["logits"])], "net", [image], [logits], [weight]
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (shell.folder / "net.onnx").write_bytes(network.SerializeToString())
    content = shell.json("latency", "estimate", "net.onnx", "--device-model", "snapdragon865")
    assert isinstance(content, dict)
    assert (content["kind"], content["scale"], content["flagged"]) == ("estimated", 1.5, [])
    said = (1.1 * content["total_ms"], *content["other_core_models_ms"].values())
    assert content["high_ms"] == pytest.approx(max(said))
    assert [row["operator"] for row in content["by_operator"]] == ["Convolution 3x3"]
    code, out, err = shell("latency", "estimate", "net.onnx")
    assert (code, err) == (0, "")
    assert "net.onnx at 32x32 px" in out


def test_a_card_is_an_architecture_too(studied: Shell) -> None:
    card = {"architecture": TINY.as_dict(), "task": {"image_size": [64, 64], "num_classes": 59}, "other": 1}
    (studied.folder / "card.json").write_text(json.dumps(card))
    content = studied.json("latency", "query", "card.json", "--table", "toy")
    assert isinstance(content, dict)
    assert (content["arch_key"], content["task"]["image_size"]) == (TINY.key, [64, 64])


def test_a_study_can_be_forgotten_and_its_evaluations_stay(studied: Shell) -> None:
    assert studied.json("study", "delete", "toy") == {"study": "toy", "trials": 12}
    assert studied.json("study", "list") == []
    assert run_toy(studied.folder, toy_config(trials=12), ToyEvaluator(keeps_weights=True)).trained == 0


def test_the_version_is_printed(shell: Shell) -> None:
    code, out, _ = shell("--version")
    assert (code, out.split()) == (0, ["topformer-nas", tool_version()])


def test_doctor_reports_without_a_store(shell: Shell) -> None:
    content = shell.json("doctor")
    assert isinstance(content, dict)
    assert content["packages"]["torch"].startswith("2.")
    assert content["packages"]["topformer-nas"] == tool_version()
    assert "no database" in content["store"]["state"]


@pytest.mark.slow
def test_export_takes_a_released_checkpoint(shell: Shell) -> None:
    released_segmentation_checkpoint("tiny", shell.folder / "released.pth", seed=3)
    content = shell.json("export", "tiny", "--weights", "released.pth", "--size", "96", "--out", "out")
    assert isinstance(content, dict)
    assert {"onnx_path", "card_path", "opset"} <= set(content)
    assert content["max_abs_error"] < 1e-4


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("describe huge", "unknown architecture 'huge'; available: base, small, tiny"),
        ("describe missing.json", "cannot read the architecture 'missing.json'"),
        ("describe tiny --size 0", "image size in pixels must be a whole number from 32"),
        ("describe tiny --size 512y", "image size must look like 512"),
        ("describe tiny --classes 0", "num_classes must be a whole number from 1"),
        ("describe tiny --colour red", "No such option: --colour"),
        ("describe toy#99", "has trials 0 to 11, not 99"),
        ("describe toy@0.0000001ms", "no evaluated architecture runs within"),
        ("describe other#1", "unknown study 'other'; available: toy"),
        ("front other", "unknown study 'other'; available: toy"),
        ("front toy --latency-max -1", "positive number of ms"),
        ("front toy --latency-max soon", "neither a number of ms nor an anchor"),
        ("front toy --latency-max 3 --all", "give only one"),
        ("front toy --storage sqlite:///none.db", "no database 'none.db'"),
        ("front toy --plot front.doc", "cannot write the figure"),
        ("search nowhere.toml", "no study file 'nowhere.toml'"),
        ("search quickstart --workers -1", "workers must be"),
        ("latency query tiny --table none", "unknown latency table 'none'; available: "),
        (
            "latency query tiny --table toy --size 96 --output labels",
            "latency measure --device toy --arch tiny --size 96x96 --classes 150 --output labels --table toy",
        ),
        (
            "latency query tiny@448 --table toy",
            "tiny is an anchor, not a study; its image size is said with --size 448",
        ),
        ("latency query tiny --table toy --output rgb", "task output must be one of"),
        ("latency measure --device phone", "unknown device 'phone'"),
        ("latency measure --study quickstart --size 64", "leave --space, --size, --classes and --output out"),
        ("latency measure --output rgb --arch tiny", "task output must be one of"),
        ("latency measure --space tiny", "'tiny'; available: pyramid, quickstart"),
        ("latency estimate net.onnx --device-model pixel", "unknown device model 'pixel'; available: snapdragon865"),
        ("latency estimate net.onnx", "no file net.onnx"),
        ("latency estimate toy.db", "toy.db is not an ONNX file"),
        ("latency estimate net.onnx --size 0", "image size in pixels must be"),
        ("export tiny --out out", "has no trained weights"),
        ("export toy#0 --out out --weights a --random-weights", "exclude one another"),
        ("export tiny --out out --weights nothing.pth", "no weights file 'nothing.pth'"),
        ("export toy#0 --out out --classes 19", "was trained for 59 classes, not 19"),
        ("front toy --latency-max nan --plot late.png", "positive number of ms"),
        ("latency measure --size 64 --out my/table!.lut", "a table's name must consist of"),
        ("describe tiny --size " + "9" * 5000, "image size must look like 512"),
        ("describe toy#" + "9" * 5000, "unknown architecture"),
        ("describe " + "a" * 5000, "unknown architecture"),
        ("search " + "a" * 5000, "no study file"),
        ("study delete other", "unknown study 'other'"),
        ("dashboard --port 99999999", "port 99999999 cannot be used"),
        ("frobnicate", "No such command 'frobnicate'"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words: str, fragment: str, studied: Shell) -> None:
    save_device_table(studied.folder, ErrorModel(scale_pct=10))
    assert fragment in studied.refusal(*words.split())


def test_an_empty_argument_is_not_taken_for_this_folder(shell: Shell) -> None:
    assert "an argument is empty" in shell.refusal("export", "tiny", "--random-weights", "--out", "")


def test_a_search_without_its_table_makes_no_database(shell: Shell) -> None:
    text = (Path(studies.__path__[0]) / "quickstart.toml").read_text(encoding="utf-8")
    (shell.folder / "mine.toml").write_text(text.replace(tables.SNAPDRAGON_865, "my-phone"), encoding="utf-8")
    assert "unknown latency table 'my-phone'" in shell.refusal("search", "mine.toml")


@pytest.mark.slow
def test_changed_weights_are_not_exported(studied: Shell) -> None:
    for path in (studied.folder / "toy.db.artefacts").iterdir():
        *head, last = path.read_bytes()
        path.write_bytes(bytes((*head, last ^ 1)))
    assert "has changed since it was trained" in studied.refusal("export", "toy#0", "--out", "out")


def test_weights_trained_on_another_data_set_are_not_taken_for_the_trials_own(studied: Shell) -> None:
    """Three classes: it said to leave out a --classes that was not given, where only a row was missing."""
    every = studied.json("front", "toy", "--all")
    assert isinstance(every, list)
    trial, anchor = next((row["trial"], row["anchor"]) for row in every if row["anchor"] is not None)
    save_model(TopFormer(ANCHORS[anchor], num_classes=3), studied.folder / "own.safetensors")
    said = studied.refusal("export", f"toy#{trial}", "--weights", "own.safetensors", "--out", "out")
    assert "head(" in said
    assert f"--arch 'toy#{trial}' --size 64x64 --classes 3" in said


def test_weights_of_a_dominated_trial_are_not_kept(studied: Shell) -> None:
    every, front = studied.json("front", "toy", "--all"), studied.json("front", "toy")
    assert isinstance(every, list)
    assert isinstance(front, list)
    dominated = next(r["trial"] for r in every if r["anchor"] is None and r["trial"] not in {m["trial"] for m in front})
    assert "are not here: a store keeps those" in studied.refusal("export", f"toy#{dominated}", "--out", "out")


def test_weights_that_are_gone_are_said_to_be(studied: Shell) -> None:
    shutil.rmtree(studied.folder / "toy.db.artefacts")
    assert "are no longer at" in studied.refusal("export", "toy#0", "--out", "out")


@pytest.fixture
def confirmed(shell: Shell) -> Shell:
    """Where the best trials were trained longer, twice, by which they rank otherwise."""
    toy_table().save(shell.folder / "tables" / "toy.lut")
    longer = ToyEvaluator(fingerprint="long", fidelity="long", keeps_weights=True, luck_of="long")
    rung = Confirmation(evaluator=longer, keep=6, replicates=2)
    evaluator = ToyEvaluator(keeps_weights=True)
    run_toy(shell.folder, toy_config(trials=12), evaluator, schedule=Schedule(confirmations=(rung,)))
    return shell


@pytest.mark.slow
def test_a_choice_by_a_confirmation_is_exported_with_its_weights(confirmed: Shell) -> None:
    every: Any = confirmed.json("front", "toy")
    members: Any = confirmed.json("front", "toy", "--fidelity", "long x2")
    by_trial = {row["trial"]: row for row in members}
    assert [row["miou_pct"] for row in every if row["trial"] in by_trial] != [row["miou_pct"] for row in members]
    best = max(members, key=lambda row: row["miou_pct"])
    code, _, err = confirmed("export", f"toy@{best['latency_ms'] + 0.01}", "--fidelity", "long x2", "--out", "out")
    assert (code, "note" in err) == (0, False)
    card = card_in(confirmed.folder / "out")
    assert (card["trial"], card["miou_pct"]) == (best["trial"], best["miou_pct"])
    assert (card["fidelity"], card["evaluator"]) == ("long x2", "long")
    files = {path.name: path for path in (confirmed.folder / "toy.db.artefacts").glob("*-long-*")}
    assert len(files) == 9  # of the six, and of the anchors: the first training of each
    own = next(path for path in files.values() if file_sha256(path) == card["weights_sha256"])
    assert own.name.endswith("-long-0.safetensors")


def tells_of_the_confirmation(said: tuple[int, str, str], *words: str) -> bool:
    code, out, err = said
    again = f"topformer-nas {' '.join(words)} --fidelity 'long x2'"
    note = "note: by toy; long x2 has ranked the best again"
    return code == 0 and note in err and again in " ".join(err.split()) and "note" not in out


def test_a_front_tells_of_a_confirmation(confirmed: Shell) -> None:
    for words in (("front", "toy"), ("front", "toy", "--latency-max", "1e6")):
        assert tells_of_the_confirmation(confirmed(*words), *words)
        code, _, err = confirmed(*words, "--fidelity", "long x2")
        assert (code, "note" in err) == (0, False)


@pytest.mark.slow
def test_export_of_a_trial_takes_its_weights_and_tells_of_a_confirmation(confirmed: Shell) -> None:
    words = ("export", "toy#0", "--out", "out")
    assert tells_of_the_confirmation(confirmed(*words), *words)
    card = card_in(confirmed.folder / "out")
    assert (card["study"], card["trial"], card["ranking_trust"]["verdict"]) == ("toy", 0, "untested")
    assert (card["anchor"], card["task"]["image_size"], card["latency"]["table"]) == ("tiny", [64, 64], "toy")


def card_in(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_an_export_by_a_fidelity_that_is_not_there_is_one_sentence(confirmed: Shell) -> None:
    every: Any = confirmed.json("front", "toy", "--all")
    members: Any = confirmed.json("front", "toy", "--all", "--fidelity", "long x2")
    others = {row["trial"] for row in every} - {row["trial"] for row in members}
    for words, fragment in (
        ((f"toy#{min(others)}", "--fidelity", "long x2"), "was not confirmed by long x2; those are 0, "),
        (("toy#0", "--fidelity", "other"), "unknown fidelity 'other'"),
        (("toy@1e6", "--fidelity", "other"), "unknown fidelity 'other'"),
        (("tiny", "--fidelity", "long x2"), "'tiny' is none"),
    ):
        assert fragment in confirmed.refusal("export", *words, "--out", "out")


def test_passwords_are_not_shown(shell: Shell) -> None:
    url = "postgresql://nas:geheim@127.0.0.1:9/studies"
    code, out, err = shell("study", "list", "--storage", url)
    assert (code, out, "geheim" in err, "nas:***@" in err) == (2, "", False, True)
    _, out, err = shell("doctor", "--storage", url)
    assert "geheim" not in out + err
    assert storage_flag(url) == " --storage postgresql://nas:***@127.0.0.1:9/studies"
    assert storage_flag("postgresql://nas@h/s?host=/run&port=5&sslmode=require&sslkey=k") == (
        " --storage postgresql://nas@h/s?host=/run&port=5&sslmode=require&sslkey=***"
    )
    assert storage_flag("sqlite:///a:b@c.db") == " --storage sqlite:///a:b@c.db"
    for other in (
        "postgresql://nas@127.0.0.1:9/s?password=geheim&x=1",
        "postgresql://nas@127.0.0.1:9/s?pass%77ord=geheim",
        "postgresql://nas@127.0.0.1:9/s?PASSWORD=geheim",
        "postgresql://nas@127.0.0.1:9/s?x=1&sslpassword=geheim",
        "postgresql://nas@127.0.0.1:9/s?host=a;password=geheim",
        "postgresql://nas@127.0.0.1:9/s?options=-c%20password=geheim",
        "postgresql://nas@127.0.0.1:9/s?pass%2577ord=geheim#geheim=geheim",
        "none://nas:ge/geheim@h/s",
        "none://n:geheim@h@s",
    ):
        _, out, err = shell("study", "list", "--storage", other)
        assert "geheim" not in out + err


def test_the_command_without_words_shows_its_help(shell: Shell) -> None:
    code, out, _ = shell()
    assert code == 2
    assert "describe" in out


def test_every_command_has_help(shell: Shell) -> None:
    for words in (
        ["search"],
        ["front"],
        ["describe"],
        ["export"],
        ["dashboard"],
        ["latency", "query"],
        ["latency", "validate"],
        ["study", "list"],
    ):
        code, out, _ = shell(*words, "--help")
        assert (code, "Usage" in out) == (0, True), words

"""The latency commands over tables: anchor, diff, doctor, savings, scan, and what a query says besides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from latency_lut.table import ErrorModel, LatencyRow, LatencyTable
from search_space import preset
from tests.support.shell import Shell
from tests.support.toys import TASK, TOY_HEADER, toy_table
from topformer import ANCHORS, TINY
from topformer.blocks import candidate_blocks, decompose
from topformer.config import Candidate

SMALL_TASK = ("--size", "64", "--classes", "59")
PHONE = replace(
    toy_table(),
    header=replace(
        TOY_HEADER, name="phone", soc="SD865", error_model=ErrorModel(scale=2, scale_pct=5, row_pct=10, basis="toys")
    ),
)
STUDY = """
name = "mine"
[space]
name = "two widths"
base = "small"
[space.knobs]
width_4 = [16, 24, 32]
width_32 = [96, 128, 160]
[task]
image_size = "64x64"
num_classes = 59
[latency]
table = "phone"
[evaluator]
recipe = "proxy-short"
[search]
trials = 2
batch_size = 2
"""
TINY_MS = PHONE.estimate(decompose(TINY, TASK)).total_ms


def wide_table() -> LatencyTable:
    """Rows of 1 ms for the anchors at 448 and 512 pixels, 150 and 19 classes, up to labels."""
    blocks = {
        block.key: block
        for arch in ANCHORS.values()
        for px in (448, 512)
        for classes in (19, 150)
        for block in decompose(arch, replace(TASK, image_size=(px, px), num_classes=classes, output="labels"))
    }
    rows = [LatencyRow(key=key, median_ms=1, p5_ms=1, p95_ms=1, n=3, kind="measured") for key in blocks]
    return LatencyTable.of(replace(TOY_HEADER, name="wide", error_model=ErrorModel(scale_pct=10)), rows)


@pytest.fixture
def tables(shell: Shell) -> Shell:
    """A shell with three tables: toy (never validated), phone (the same times doubled, validated) and wide."""
    for table in (toy_table(), PHONE, wide_table()):
        table.save(shell.folder / "tables" / f"{table.name}.lut")
    return shell


def answer(shell: Shell, *words: str) -> dict[str, Any]:
    content = shell.json("latency", *words)
    assert isinstance(content, dict)
    return content


def test_a_table_is_anchored_to_a_measurement_and_the_old_one_stays(tables: Shell) -> None:
    before = (tables.folder / "tables" / "phone.lut").read_bytes()
    measured = ("--measured", f"tiny={3 * TINY_MS}", *SMALL_TASK)
    content = answer(tables, "anchor", "--table", "phone", *measured, "--out", "mine")
    assert (content["old_scale"], content["scale"]) == (2, pytest.approx(6))
    assert content["anchored_from"]["checksum"] == PHONE.checksum
    assert (content["measurements"][0]["network"], content["warnings"]) == ("tiny@64, 59 classes", [])
    assert content["measurements"][0]["residual_pct"] == pytest.approx(0, abs=1e-3)
    assert (tables.folder / "tables" / "phone.lut").read_bytes() == before
    query = answer(tables, "query", "tiny", "--table", "mine", *SMALL_TASK)
    assert query["total_ms"] == pytest.approx(3 * TINY_MS, rel=1e-5)
    assert query["kind"] == "estimated"
    assert "re-anchored to 1 own measurement (tiny@64, 59 classes)" in query["interval"]


def test_measurements_state_their_own_size_and_files_are_architectures(tables: Shell) -> None:
    (tables.folder / "mine.json").write_text(ANCHORS["base"].to_json())
    measured = ("--measured", "tiny@448=40", "--measured", "mine.json@512x512=50ms")
    out = ("--out", "here/new.lut", "--noise-pct", "3")
    content = answer(tables, "anchor", "--table", "wide", *measured, *out)
    assert [item["network"] for item in content["measurements"]] == ["tiny@448", "base@512"]
    assert content["noise_pct"] == 3
    assert LatencyTable.load(tables.folder / "here" / "new.lut").name == "new"


def test_anchoring_for_people_warns_where_measurements_disagree(tables: Shell) -> None:
    measured = ("--measured", "tiny=20", "--measured", "base=60")
    code, out, _ = tables("latency", "anchor", "--table", "wide", *measured, "--out", "mine")
    assert code == 0
    assert out.count("warning: ") == 2
    assert "tiny@512 disagrees with the others" in out
    assert "2 % assumed for the noise" in out
    code, out, _ = tables("latency", "anchor", "--table", "toy", "--measured", "tiny=9", *SMALL_TASK, "--out", "bare")
    assert code == 0
    assert "table toy was never compared with whole networks" in out


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--table none --measured tiny=9 --out new", "unknown latency table 'none'"),
        ("--table phone --measured tiny=9 --out new", "table phone has no row for"),
        ("--table wide --measured tiny=fast --out new", "must be a positive number of ms, not 'fast'"),
        ("--table wide --measured tiny=nan --out new", "must be a positive number of ms, not 'nan'"),
        ("--table wide --measured tiny=-3 --out new", "must be a positive number of ms, not '-3'"),
        ("--table wide --measured tiny --out new", "--measured must look like base=131.5"),
        ("--table wide --measured huge=3 --out new", "unknown architecture 'huge'"),
        ("--table wide --measured tiny@7=3 --out new", "image size in pixels must be a whole number from 32"),
        ("--table wide --measured tiny=3 --measured tiny@512=4 --out new", "--measured has tiny@512 twice"),
        ("--table wide --measured tiny=3 --out ../new", "a table's name must consist of"),
        ("--table wide --measured tiny=3 --out wide", "there is a table 'wide' already"),
        ("--table wide --measured tiny=3 --out tables/phone.lut", "there is a table 'tables/phone.lut' already"),
        ("--table wide --measured tiny=3 --out new --noise-pct -1", "noise of a measurement must be from 0"),
        ("--table wide --out new", "Missing option"),
    ],
)
def test_anchoring_refuses_with_a_sentence_and_writes_nothing(words: str, fragment: str, tables: Shell) -> None:
    assert fragment in tables.refusal("latency", "anchor", *words.split())


def test_tables_are_compared_field_by_field_and_row_by_row(tables: Shell) -> None:
    content = answer(tables, "diff", "toy", "phone", "--arch", "tiny", *SMALL_TASK)
    assert (content["identical"], content["same_times"]) == (False, False)
    assert {"field": "soc", "a": "none", "b": "SD865"} in content["provenance"]
    assert content["rows"] == {"only_a": 0, "only_b": 0, "common": len(PHONE.rows)}
    assert content["median_ratio"] == pytest.approx(2)  # the scale
    assert sum(item["rows"] for item in content["by_block_kind"]) == len(PHONE.rows)
    assert content["largest_disagreements"] == []  # nothing but the scale differs
    (network,) = content["networks"]
    assert (network["ratio"], network["b"]["total_ms"]) == (pytest.approx(2), pytest.approx(TINY_MS))
    assert sum(item["b_ms"] for item in network["by_module"]) == pytest.approx(TINY_MS)
    assert (content["a"]["kinds"], content["b"]["kinds"]) == ({"estimated": len(PHONE.rows)},) * 2


def test_without_an_architecture_the_anchors_that_both_have_are_compared(tables: Shell) -> None:
    content = answer(tables, "diff", "wide", "wide")
    assert [network["network"] for network in content["networks"]] == ["tiny@512", "small@512", "base@512"]
    assert content["identical"]
    content = answer(tables, "diff", "toy", "wide")
    assert (content["networks"], len(content["not_in_both"])) == ([], 3)


def test_a_comparison_for_people_shows_kinds_and_says_when_tables_are_identical(tables: Shell) -> None:
    code, out, _ = tables("latency", "diff", "wide", "wide")
    assert code == 0
    assert "identical" in out
    code, out, _ = tables("latency", "diff", "toy", "phone", *SMALL_TASK)
    assert code == 0
    assert f"A = toy: rows {len(PHONE.rows)} estimated" in out
    assert "not validated on whole networks" in out
    assert "median B/A 2.000" in out
    assert "only the scales differ" in out
    assert "the intervals do not overlap" in out


def test_a_table_with_rows_added_is_not_said_to_differ_in_scale(tables: Shell) -> None:
    rows = [row for key, row in PHONE.rows.items() if not key.startswith("stem")]
    LatencyTable.of(replace(PHONE.header, name="fewer"), rows).save(tables.folder / "tables" / "fewer.lut")
    code, out, _ = tables("latency", "diff", "fewer", "phone", *SMALL_TASK)
    assert (code, "the common rows are the same" in out, "only the scales differ" in out) == (0, True, False)


def test_comparing_refuses_what_is_not_there(tables: Shell) -> None:
    assert "unknown latency table 'none'" in tables.refusal("latency", "diff", "toy", "none")
    assert "table toy has no row for" in tables.refusal("latency", "diff", "toy", "wide", "--arch", "tiny")


def test_a_gap_is_explained_by_post_processing(tables: Shell) -> None:
    network = decompose(TINY, replace(TASK, image_size=(512, 512), num_classes=150))
    words = ("doctor", "--table", "wide", "--arch", "tiny", "--measured", str(len(network) + 3))
    content = answer(tables, *words)
    assert (content["estimate"]["total_ms"], content["inside"]) == (len(network), False)
    first = content["explanations"][0]
    assert [cause["topic"] for cause in first["causes"]] == ["output"]
    assert first["exact"]
    changes = [item["change_ms"] for item in content["candidates"] if item["topic"] == "output"]
    assert changes == pytest.approx([1, 2])  # resize; and argmax
    assert "--measured 'tiny@512x512=" in content["re_anchor"]
    stated = answer(tables, *words, "--output", "labels")
    assert (stated["inside"], stated["re_anchor"], stated["explanations"]) == (True, None, [])


def test_a_gap_for_people_names_every_source_and_what_to_do(tables: Shell) -> None:
    words = ("latency", "doctor", "--table", "wide", "--arch", "tiny", "--measured", "1000")
    code, out, _ = tables(*words, "--threads", "4", "--precision", "fp16", "--runtime", "TNN")
    assert code == 0
    for word in ("outside", "no factor is known", "n threads are at most n times as fast", "rows of this table"):
        assert word in out
    advice = "latency anchor --table wide --measured 'tiny@512x512=1000' --out wide-mine"
    assert "nothing known explains it; re-anchor with: topformer-nas " + advice in out
    code, out, _ = tables(*words[:-1], "1", "--threads", "1", "--precision", "fp32")
    assert code == 0
    assert "nothing known explains it" in out


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--arch tiny --measured 0", "must be a positive number of ms"),
        ("--arch tiny --measured nan", "must be a positive number of ms"),
        ("--arch tiny --measured soon", "should be a valid number"),
        ("--arch tiny --measured 3 --precision fp8", "unknown precision 'fp8'"),
        ("--arch tiny --measured 3 --output all", "task output must be one of"),
        ("--arch tiny --measured 3 --bits 16", "bits must be 32 or 64"),
        ("--arch tiny --measured 3 --size 64", "table wide has no row for"),
    ],
)
def test_the_latency_doctor_refuses_with_a_sentence(words: str, fragment: str, tables: Shell) -> None:
    assert fragment in tables.refusal("latency", "doctor", "--table", "wide", *words.split())


def test_every_module_of_a_query_has_an_interval(tables: Shell) -> None:
    modules = answer(tables, "query", "tiny", "--table", "phone", *SMALL_TASK)["by_module"]
    assert sum(item["ms"] for item in modules) == pytest.approx(TINY_MS)
    for item in modules:
        own = [block for block in decompose(TINY, TASK) if block.module == item["module"]]
        estimate = PHONE.estimate(own)
        assert (item["low_ms"], item["high_ms"]) == (estimate.low_ms, estimate.high_ms)
        assert item["low_ms"] < item["ms"] < item["high_ms"]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("scan --space quickstart --latency-max 3 --size 96", "--space quickstart --size 96x96 --classes 150"),
        ("scan --space mine.toml --latency-max 3", "--study mine.toml"),
        ("savings tiny --space quickstart --size 96 --classes 7", "--arch tiny --size 96x96 --classes 7"),
        ("anchor --measured base@96=3 --out new", "--arch base --size 96x96 --classes 150"),
    ],
)
def test_missing_rows_are_named_with_the_very_options_that_measure_them(
    words: str, options: str, tables: Shell
) -> None:
    """The hint said `--space SPACE` to who scanned a space or anchored a table."""
    (tables.folder / "mine.toml").write_text(STUDY.replace('"64x64"', '"96x96"'))
    refusal = tables.refusal("latency", *words.split(), "--table", "phone")
    assert " more. Measure them" in refusal
    assert f"latency measure --device {TOY_HEADER.device} {options} --table phone" in refusal


def test_a_studys_file_is_measured_as_a_study(tables: Shell) -> None:
    (tables.folder / "mine.toml").write_text(STUDY)
    assert "is measured with --study mine.toml" in tables.refusal("latency", "measure", "--space", "mine.toml")


def test_validation_tells_what_the_networks_were_predicted_by(tables: Shell) -> None:
    """A table anchored to one network showed an error of 0 % with that network, and did not say why."""
    measured = ("--measured", f"tiny={3 * TINY_MS}", *SMALL_TASK)
    answer(tables, "anchor", "--table", "phone", *measured, "--out", "mine")
    code, out, _ = tables("latency", "validate", "--table", "mine")
    assert (code, "1 network, by the table that is calibrated on them: mean error 0.00 %" in out) == (0, True)
    assert "drift" not in out  # not known
    code, out, _ = tables("latency", "validate")
    assert (code, "4 networks, each unseen: predicted by a table calibrated on the others" in out) == (0, True)
    assert "42.31 ms (-1.6 %; unseen -2.1 %)" in out  # what a query of tiny says too


def test_a_query_tells_the_share_of_post_processing_and_what_it_would_add(tables: Shell) -> None:
    logits = answer(tables, "query", "tiny", "--table", "wide")
    more = logits["post_processing"]
    assert (more["included_ms"], more["share_pct"], more["would_add_ms"]) == (0, 0, 2)
    assert (more["would_add_low_ms"], more["would_add_high_ms"]) == pytest.approx((1.8, 2.2))  # the scale's 10 %
    labels = answer(tables, "query", "tiny", "--table", "wide", "--output", "labels")
    assert labels["post_processing"]["included_ms"] == 2
    assert labels["post_processing"]["share_pct"] == pytest.approx(200 / labels["total_ms"])
    resized = answer(tables, "query", "tiny", "--table", "wide", "--output", "resized")
    assert (resized["post_processing"]["included_ms"], resized["post_processing"]["would_add_ms"]) == (1, 1)
    bare = answer(tables, "query", "tiny", "--table", "toy", *SMALL_TASK)
    assert bare["post_processing"]["would_add_ms"] is None
    code, out, _ = tables("latency", "query", "tiny", "--table", "wide")
    assert (code, "would add 2.00 ms (1.80 to 2.20)" in out) == (0, True)
    code, out, _ = tables("latency", "query", "tiny", "--table", "toy", *SMALL_TASK)
    assert (code, "is not in the table" in out) == (0, True)


def test_savings_are_listed_from_the_largest_and_are_exact(tables: Shell) -> None:
    words = ("savings", "base", "--space", "quickstart", "--table", "phone", *SMALL_TASK)
    content = answer(tables, *words)
    saved = [item["saved_ms"] for item in content["savings"]]
    assert saved == sorted(saved, reverse=True)
    base = Candidate(arch=ANCHORS["base"], task=TASK)
    space = preset("quickstart", task=TASK)
    for item in content["savings"]:
        point = content["point"] | {item["knob"]: item["new"]}
        after = PHONE.estimate(candidate_blocks(space.decode(point))).total_ms
        assert item["saved_ms"] == pytest.approx(PHONE.estimate(candidate_blocks(base)).total_ms - after)
    least = saved[2]
    assert len(answer(tables, *words, "--save-ms", str(least))["savings"]) == 3
    code, out, _ = tables("latency", *words, "--save-ms", "1000")
    assert (code, "no single change" in out) == (0, True)
    code, out, _ = tables("latency", *words, "--save-ms", str(least))
    assert (code, content["savings"][0]["knob"] in out) == (0, True)
    assert content["low_ms"] < content["total_ms"] < content["high_ms"]
    assert "64x64 px, 59 classes" in " ".join(out.split())


def test_savings_outside_the_space_are_refused(tables: Shell) -> None:
    (tables.folder / "mine.json").write_text(TINY.replace(num_heads=2).to_json())
    words = ("latency", "savings", "mine.json", "--table", "phone", *SMALL_TASK)
    assert "num_heads is 2, and the legal values are" in tables.refusal(*words, "--space", "quickstart")
    named = tables.refusal("latency", "savings", "tiny", "--space", "nowhere")
    assert "unknown search space 'nowhere'; available: pyramid, quickstart. A study's TOML file works too" in named


def test_a_scan_of_a_small_space_is_exact(tables: Shell) -> None:
    (tables.folder / "mine.toml").write_text(STUDY)
    scan = ("scan", "--space", "mine.toml", "--table", "phone", "--latency-max")
    content = answer(tables, *scan, "1e6")
    assert (content["exact"], content["counted"], content["size"], content["share"]) == (True, 9, 9, 1)
    middle = content["quantiles_ms"]["50 %"]
    half = answer(tables, *scan, str(middle))
    assert half["share"] == half["share_low"] == half["share_high"] == pytest.approx(5 / 9)
    low, high = half["share_if_scale_is_off"]
    assert low < half["share"] < high
    assert sum(item["candidates"] for item in half["histogram"]) == 9
    code, out, _ = tables("latency", *scan, str(middle), "--plot", "scan.png")
    assert (code, "exact, all 9 candidates" in out) == (0, True)
    assert "of space two widths (64x64 px, 59 classes) fits" in out
    assert content["task"]["num_classes"] == 59
    assert (tables.folder / "scan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--space none --latency-max 3", "unknown search space 'none'"),
        ("--space quickstart --latency-max 0", "budget must be a positive number of ms, not 0"),
        ("--space quickstart --latency-max 3 --samples 1", "samples must be from 100"),
        ("--space quickstart --latency-max 3 --size 96", "table phone has no row for"),
    ],
)
def test_a_scan_refuses_with_a_sentence(words: str, fragment: str, tables: Shell) -> None:
    given = words.split() if "--size" in words else [*words.split(), *(SMALL_TASK if "none" not in words else ())]
    assert fragment in tables.refusal("latency", "scan", "--table", "phone", *given)


def test_a_studys_space_states_its_own_task(tables: Shell) -> None:
    (tables.folder / "mine.toml").write_text(STUDY)
    content = answer(tables, "savings", "small", "--space", "mine.toml", "--table", "phone")
    assert content["savings"]
    words = ("latency", "savings", "small", "--space", "mine.toml", "--table", "phone", *SMALL_TASK)
    assert "the study 'mine.toml' says its own" in tables.refusal(*words)


def test_every_command_over_tables_has_help(shell: Shell) -> None:
    for command in ("anchor", "diff", "doctor", "savings", "scan"):
        code, out, _ = shell("latency", command, "--help")
        assert (code, "Usage" in out) == (0, True), command


def test_the_json_of_a_table_compared_with_itself_is_json(tables: Shell) -> None:
    code, out, _ = tables("latency", "diff", "phone", "phone", "--json")
    assert (code, json.loads(out)["identical"]) == (0, True)

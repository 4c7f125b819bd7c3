"""Tables worked out by hand: Tiny's stem and first rows with round numbers for times."""

from __future__ import annotations

import hashlib
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_lut.table import (
    ESTIMATING_DEVICE,
    TABLES_VARIABLE,
    Correction,
    ErrorModel,
    LatencyRow,
    LatencyTable,
    MissingRows,
    NetworkCheck,
    TableHeader,
    available_tables,
    find_table,
)
from topformer import TINY, Task, UserError
from topformer.blocks import Block, decompose

BLOCKS = decompose(TINY, Task())
STEM, ROW, OTHER_ROW = BLOCKS[:3]  # two inverted residuals, so of one kind
BLOCK_A, BLOCK_B = (next(b for b in BLOCKS if b.name == f"transformer.{i}") for i in (0, 1))  # equal but for the name


def header(**changes: Any) -> TableHeader:
    values: dict[str, Any] = {
        "name": "toy",
        "device": "host",
        "soc": "Toy SoC",
        "core": "cpu0",
        "frequency_mhz": 2841.6,
        "governor": "performance",
        "threads": 1,
        "precision": "float32",
        "runtime": "toyrt",
        "runtime_version": "1.0",
        "runtime_checksum": "abc",
        "protocol": {"passes": 8},
        "tool_version": "0.1.0",
        "date": "2026-11-21T05:00:00+00:00",
    }
    return TableHeader(**(values | changes))


def row(block: Block, median_ms: float, half_ms: float = 0.0, *, n: int = 0, kind: Any = "estimated") -> LatencyRow:
    low, high = median_ms - half_ms, median_ms + half_ms
    return LatencyRow(key=block.key, median_ms=median_ms, p5_ms=low, p95_ms=high, n=n, kind=kind)


def table(*rows: LatencyRow, **changes: Any) -> LatencyTable:
    return LatencyTable.of(header(**changes), rows)


def test_an_estimate_is_the_scaled_sum_with_blocks_in_order() -> None:
    estimate = table(row(STEM, 2), row(ROW, 3), error_model=ErrorModel(scale=0.9)).estimate([ROW, STEM])
    assert estimate.total_ms == pytest.approx(4.5)
    assert estimate.by_block == ((ROW.name, pytest.approx(2.7)), (STEM.name, pytest.approx(1.8)))


def test_every_row_is_corrected_before_the_scale() -> None:
    # Tiny's stem: 3 x 512 x 512 in, 16 x 256 x 256 out, 3 x 16 x 9 weights and 2 x 16 of its norm
    model = ErrorModel(scale=0.9, correction=Correction(block_ms=0.1, edge_ns=0.2, weight_ns=3))
    toy = table(row(STEM, 2), row(ROW, 3), error_model=model)
    stem_ms = 2 - 0.1 - 0.2e-6 * (3 * 512 * 512 + 16 * 256 * 256) + 3e-6 * (432 + 32)
    assert toy.block_ms(STEM) == pytest.approx(stem_ms)
    assert toy.estimate([STEM]).total_ms == pytest.approx(0.9 * stem_ms)
    assert toy.difference([STEM, ROW], [ROW]).delta_ms == pytest.approx(0.9 * stem_ms)


def test_a_correction_leaves_a_tenth_of_a_row_at_least() -> None:
    toy = table(row(STEM, 2), error_model=ErrorModel(correction=Correction(block_ms=5)))
    assert toy.estimate([STEM]).total_ms == pytest.approx(0.2)


def test_the_error_of_a_row_is_a_share_of_its_corrected_time() -> None:
    model = ErrorModel(scale_pct=0, row_pct=20, correction=Correction(block_ms=1))
    assert table(row(STEM, 5), error_model=model).estimate([STEM]).high_ms == pytest.approx(4.8)


def test_a_table_without_a_correction_is_written_as_before_there_was_one() -> None:
    corrected = table(row(STEM, 2), error_model=ErrorModel(correction=Correction(block_ms=1)))
    assert "correction" not in TOY.text
    assert '"block_ms": 1' in corrected.text
    assert LatencyTable.from_text(corrected.text) == corrected


def test_scale_error_kind_error_and_row_noise_add_in_squares() -> None:
    model = ErrorModel(scale_pct=10, kind_pct={"stem": 50, "inverted_residual": 20})
    estimate = table(row(STEM, 4, 1), row(ROW, 6), row(OTHER_ROW, 10), error_model=model).estimate(BLOCKS[:3])
    # scale 10 % of 20; stem 50 % of 4; inverted residuals 20 % of 6 + 10 together; noise 1
    half = math.sqrt(2.0**2 + 2.0**2 + 3.2**2 + 1.0**2)
    assert (estimate.low_ms, estimate.high_ms) == pytest.approx((20 - half, 20 + half))


def test_noise_of_a_measured_row_shrinks_with_its_samples_and_adds_up_when_the_row_is_used_twice() -> None:
    estimate = table(row(BLOCK_A, 5, 1, n=25, kind="measured")).estimate([BLOCK_A, BLOCK_B])
    assert estimate.high_ms - 10 == pytest.approx(2 * math.sqrt(math.pi / 2) * 1 / 5)


def test_the_error_of_a_row_adds_up_in_a_network_that_has_it_twice_and_cancels_in_a_difference() -> None:
    toy = table(row(BLOCK_A, 5), row(STEM, 4), error_model=ErrorModel(scale_pct=0, row_pct=20))
    assert toy.estimate([BLOCK_A, BLOCK_B, STEM]).high_ms == pytest.approx(14 + math.hypot(2, 0.8))
    assert toy.difference([BLOCK_A, BLOCK_B, STEM], [STEM, BLOCK_A]) == pytest.approx((5, 4, 6))


def test_a_kind_without_an_error_of_its_own_takes_the_largest() -> None:
    model = ErrorModel(scale_pct=0, kind_pct={"head": 5, "transformer_block": 25})
    assert table(row(STEM, 4), error_model=model).estimate([STEM]).high_ms == pytest.approx(5)


def test_an_interval_never_goes_below_zero() -> None:
    assert table(row(STEM, 4), error_model=ErrorModel(scale_pct=200)).estimate([STEM]).low_ms == 0


def test_an_estimate_is_of_its_weakest_kind() -> None:
    toy = table(row(STEM, 2, n=3, kind="measured"), row(ROW, 3, kind="interpolated"), row(OTHER_ROW, 1))
    assert toy.estimate([STEM]).kind == "measured"
    assert toy.estimate([STEM, ROW]).kind == "interpolated"
    assert toy.estimate(BLOCKS[:3]).kind == toy.kind == "estimated"


def test_a_table_without_a_scale_error_says_that_it_was_not_validated() -> None:
    bare = table(row(STEM, 2))
    assert not bare.validated
    assert "not validated on whole networks" in bare.interval_note
    assert bare.estimate([STEM]).interval_note == bare.interval_note
    assert "not validated" not in table(row(STEM, 2), error_model=ErrorModel(scale_pct=3)).interval_note


def test_rows_of_an_estimated_table_are_counted_into_another_one() -> None:
    counted = LatencyTable.of(replace(table(row(STEM, 2)).header, device=ESTIMATING_DEVICE), [row(STEM, 2)])
    assert (counted.header.estimated, table(row(STEM, 2)).header.estimated) == (True, False)
    with pytest.raises(MissingRows, match=r"Count them into .* --device qemu --space SPACE --table toy-mine"):
        counted.estimate([BLOCK_A])


def test_a_missing_row_is_an_error_that_names_it_not_a_zero() -> None:
    with pytest.raises(
        MissingRows, match=r"no row for 2 blocks: .*latency measure --device host .* --table toy"
    ) as error:
        table(row(STEM, 2)).estimate([STEM, BLOCK_A, BLOCK_B, ROW])
    assert error.value.blocks == (BLOCK_A, ROW)
    assert "measure --device host --arch tiny --table toy" in str(error.value.needed_for("--arch tiny"))
    assert pickle.loads(pickle.dumps(error.value)).blocks == error.value.blocks  # as it crosses processes


def test_an_empty_network_has_no_latency() -> None:
    with pytest.raises(UserError, match="at least one block"):
        table(row(STEM, 2)).estimate([])


def test_coverage_is_the_share_of_distinct_blocks_with_a_row() -> None:
    assert table(row(STEM, 2)).coverage([STEM, ROW, BLOCK_A, BLOCK_B]) == pytest.approx(1 / 3)


def test_identical_rows_cancel_in_a_difference() -> None:
    toy = table(row(STEM, 4, 3), row(ROW, 6, 2), row(BLOCK_A, 5, 1))
    assert toy.difference([STEM, ROW, BLOCK_A], [STEM, ROW]) == pytest.approx((5, 4, 6))
    assert toy.difference([STEM, ROW], [STEM, ROW]) == (0, 0, 0)


def test_scale_and_kind_errors_apply_to_what_differs() -> None:
    model = ErrorModel(scale_pct=10, kind_pct={"inverted_residual": 20, "stem": 99})
    toy = table(row(STEM, 4), row(ROW, 6), row(OTHER_ROW, 11), error_model=model)
    half = math.hypot(0.10 * 5, 0.20 * 5)
    assert toy.difference([STEM, OTHER_ROW], [STEM, ROW]) == pytest.approx((5, 5 - half, 5 + half))


def test_a_check_tells_bias_from_noise() -> None:
    check = NetworkCheck(name="tiny", whole_ms=9, repeat_ms=11, sum_ms=12)
    assert (check.error_pct, check.noise_pct, check.scaled_error_pct(0.75)) == pytest.approx((20, 20, -10))


TIMES = st.floats(min_value=1e-6, max_value=1e6)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    keys = draw(st.lists(TEXT.filter(lambda key: bool(key) and key.isprintable()), min_size=1, unique=True))
    rows = []
    for key in keys:
        low, middle, high = sorted(draw(st.tuples(TIMES, TIMES, TIMES)))
        kind = draw(st.sampled_from(("measured", "interpolated", "estimated")))
        rows.append(
            LatencyRow(key=key, median_ms=middle, p5_ms=low, p95_ms=high, n=draw(st.integers(1, 99)), kind=kind)
        )
    checks = st.builds(
        NetworkCheck, name=TEXT, whole_ms=TIMES, repeat_ms=st.none() | TIMES, sum_ms=TIMES, unseen_ms=st.none() | TIMES
    )
    percent = st.floats(0, 100)
    model = st.builds(
        ErrorModel,
        scale=TIMES,
        correction=st.builds(Correction, block_ms=TIMES, edge_ns=TIMES, weight_ns=TIMES),
        scale_pct=st.none() | percent,
        kind_pct=st.dictionaries(TEXT, percent, max_size=3),
        row_pct=percent,
        level=st.floats(0.5, 0.99),
    )
    return table(
        *rows,
        soc=draw(TEXT),
        frequency_mhz=draw(st.none() | TIMES),
        governor=draw(st.none() | TEXT),
        protocol=draw(st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT, max_size=3)),
        error_model=draw(model),
        validation=tuple(draw(st.lists(checks, max_size=3))),
    )


@given(tables())
def test_a_table_survives_its_text(toy: LatencyTable) -> None:
    again = LatencyTable.from_text(toy.text)
    assert again == toy
    assert again.checksum == toy.checksum


TOY = table(row(STEM, 2, 0.5), row(ROW, 3), error_model=ErrorModel(scale_pct=3))


def signed(old: str, new: str) -> str:
    """The toy table's text, changed and given a checksum that fits."""
    body = TOY.text.split("\n", 2)[2]
    assert old in body
    changed = body.replace(old, new, 1)
    return f"topformer-nas latency table, format 1\nsha256 {hashlib.sha256(changed.encode()).hexdigest()}\n{changed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("median_ms,key\n1,stem\n", "not a latency table"),
        ("", "not a latency table"),
        (TOY.text.replace("format 1", "format 2"), "table format 2, but this version reads 1"),
        (TOY.text.replace("2.0,1.5", "1.9,1.5"), "truncated or edited"),
        (TOY.text.replace("Toy SoC", "Snapdragon 865"), "truncated or edited"),
        (TOY.text[:-5], "truncated or edited"),
        (TOY.text[:60], "truncated or edited"),
        (signed('"soc"', '"chip"'), "header: unknown key 'chip'; legal keys: name, device"),
        (signed('"scale_pct"', '"scale_percent"'), "error_model: unknown key"),
        (
            signed('"scale_pct": 3', '"correction": {"edge_ms": 0}'),
            "correction: unknown key 'edge_ms'; legal keys: block_ms, edge_ns",
        ),
        (signed('"scale_pct": 3', '"correction": {"edge_ns": -1}'), "correction: edge_ns must be a number from 0"),
        (signed('  "threads": 1,\n', ""), "header: missing threads"),
        (signed('"threads": 1', '"threads": 0'), "threads must be a whole number from 1"),
        (signed("2026-11-21", "21 November"), "date must be ISO 8601"),
        (signed('"name": "toy"', '"name": "../toy"'), "a table's name must consist of"),
        (signed('"scale_pct": 3', '"scale_pct": -3'), "scale_pct must be a number from 0"),
        (signed("median_ms,p5_ms", "p50_ms,p5_ms"), "columns must be median_ms"),
        (signed(ROW.key, STEM.key), "two rows for stem"),
        (signed("3.0,3.0,3.0", "-3.0,-3.0,-3.0"), "must be a number from 0 to 1e12, not -3.0"),
        (signed("3.0,3.0,3.0", "0,0,0"), "must be above 0"),
        (signed("3.0,3.0,3.0", "nan,nan,nan"), "not nan"),
        (signed("3.0,3.0,3.0", "inf,inf,inf"), "not inf"),
        (signed("3.0,3.0,3.0", "fast,3.0,3.0"), "must be numbers"),
        (signed("3.0,3.0,3.0", "3.0,3.1,3.2"), "percentiles must ascend"),
        (signed("3.0,0,estimated", "3.0,0,measured"), "count n of at least 1"),
        (signed("0,estimated", "0,guessed"), "kind must be one of measured, interpolated, estimated"),
        (signed("0,estimated,", "0,"), "a row must have"),
        (signed('"name": "toy"', '"name" "toy"'), "delimiter"),
    ],
)
def test_a_broken_table_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        LatencyTable.from_text(text, where="toy.lut")
    assert str(error.value).startswith("toy.lut: ")


def test_saving_and_loading_keep_the_table_and_leave_no_other_file(tmp_path: Path) -> None:
    TOY.save(tmp_path / "new" / "toy.lut")
    assert LatencyTable.load(tmp_path / "new" / "toy.lut") == TOY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["toy.lut"]


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.lut").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        LatencyTable.load(tmp_path / "toy.lut")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's tables."""
    monkeypatch.setenv(TABLES_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_table_is_found_by_name_in_the_users_folder_and_by_path(folder: Path) -> None:
    TOY.save(folder / "toy.lut")
    assert find_table("toy") == find_table(folder / "toy.lut") == find_table(str(folder / "toy.lut")) == TOY
    assert folder / "toy.lut" in available_tables()


def test_an_unknown_table_is_an_error_that_lists_the_known_ones(folder: Path) -> None:
    TOY.save(folder / "toy.lut")
    with pytest.raises(UserError, match=r"unknown latency table 'toi'; available: .*toy"):
        find_table("toi")


def test_a_path_without_a_file_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the latency table .*nowhere.lut' \(No such file"):
        find_table(folder / "nowhere.lut")


def test_two_versions_of_a_table_have_two_checksums() -> None:
    assert replace(TOY, header=header(soc="other")).checksum != TOY.checksum


def test_a_query_does_not_import_torch_or_numpy() -> None:
    code = (
        "import sys, latency_lut, latency_lut.table, topformer; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'onnx', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

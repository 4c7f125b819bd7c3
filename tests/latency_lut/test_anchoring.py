"""Re-anchoring, worked out by hand: two blocks of 2 and 3 ms, and what a person times."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_lut.anchoring import OwnTime, anchored, residuals
from latency_lut.calibration import calibrate
from latency_lut.table import ErrorModel, LatencyRow, LatencyTable, MissingRows
from tests.support.toys import TOY_HEADER
from topformer import TINY, Task, UserError
from topformer.blocks import decompose

STEM, ROW, OTHER_ROW = decompose(TINY, Task())[:3]
DATE = "2026-11-22"


def table(model: ErrorModel) -> LatencyTable:
    rows = [
        LatencyRow(key=block.key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=0, kind="estimated")
        for block, ms in ((STEM, 2.0), (ROW, 3.0))
    ]
    return LatencyTable.of(replace(TOY_HEADER, error_model=model, protocol={"passes": 8}), rows)


OLD = table(ErrorModel(scale=0.9, scale_pct=5, kind_pct={"stem": 50, "inverted_residual": 0}, row_pct=0))
ROWWISE = table(ErrorModel(scale=0.9, scale_pct=5, row_pct=10))


def test_one_measurement_sets_the_scale_and_leaves_the_shape_error_and_the_noise_open() -> None:
    new = anchored(OLD, {"base@512": OwnTime(blocks=(STEM, ROW), ms=10)}, name="mine", date=DATE, noise_pct=2)
    model = new.header.error_model
    assert model.scale == 2  # 10 ms over 2 + 3
    # of the 5 ms, the stem's 50 % are 1 ms or 20 %
    assert model.scale_pct == pytest.approx(math.hypot(20, 2), abs=1e-4)
    assert (model.kind_pct, model.row_pct) == (OLD.header.error_model.kind_pct, 0)
    assert new.rows == OLD.rows
    assert new.kind == "estimated"


def test_provenance_is_kept() -> None:
    new = anchored(OLD, {"base@512": OwnTime(blocks=(STEM, ROW), ms=10)}, name="mine", date=DATE)
    assert (new.name, new.header.date) == ("mine", DATE)
    assert new.header.protocol == {
        "passes": 8,
        "anchored_from": "toy",
        "anchored_from_sha256": OLD.checksum,
        "anchored_from_scale": 0.9,
        "assumed_noise_pct": 2.0,
    }
    assert new.header.source == OLD.header.source
    (check,) = new.header.validation
    assert (check.name, check.whole_ms, check.repeat_ms) == ("base@512", 10, None)
    assert check.sum_ms == pytest.approx(5)
    assert "re-anchored to 1 own measurement (base@512); kinds and rows as in table toy" in new.interval_note
    assert LatencyTable.from_text(new.text) == new


def test_two_measurements_give_the_mean_ratio_and_students_t() -> None:
    own = {"a": OwnTime(blocks=(STEM,), ms=4.0), "b": OwnTime(blocks=(ROW,), ms=6.6)}
    new = anchored(ROWWISE, own, name="mine", date=DATE).header.error_model
    assert new.scale == pytest.approx(2.1)  # of 2.0 and 2.2
    # they are 4.7619 % from it, so s is 4.7619 % times sqrt(2), and t for one degree of freedom 6.3138
    assert new.scale_pct == pytest.approx(6.3138 * 4.7619, abs=1e-2)


def test_measurements_that_agree_by_luck_are_no_surer_than_independent_ones() -> None:
    own = {"a": OwnTime(blocks=(STEM,), ms=4.0), "b": OwnTime(blocks=(ROW,), ms=6.0)}
    new = anchored(ROWWISE, own, name="mine", date=DATE, noise_pct=2).header.error_model
    assert new.scale == 2
    assert new.scale_pct == pytest.approx(math.hypot(10, 2) / math.sqrt(2), abs=1e-4)


@pytest.mark.parametrize("ms", [1e-308, 1e-3, 1e7])
def test_what_is_not_in_milliseconds_is_refused(ms: float) -> None:
    with pytest.raises(UserError, match="must be within a factor of 1000 of it: give milliseconds"):
        anchored(OLD, {"a": OwnTime(blocks=(STEM, ROW), ms=ms)}, name="mine", date=DATE)


@given(ms=st.floats(0.1, 1000))
def test_a_lone_measurement_is_what_the_new_table_says(ms: float) -> None:
    new = anchored(OLD, {"a": OwnTime(blocks=(STEM, ROW), ms=ms)}, name="mine", date=DATE)
    estimate = new.estimate((STEM, ROW))
    assert estimate.total_ms == pytest.approx(ms, rel=1e-5)
    assert estimate.low_ms < ms < estimate.high_ms


def test_a_table_that_was_never_validated_gets_a_scale_but_no_interval_from_one_network() -> None:
    bare = table(ErrorModel())
    new = anchored(bare, {"a": OwnTime(blocks=(STEM, ROW), ms=10)}, name="mine", date=DATE)
    assert (new.header.error_model.scale, new.validated) == (2, False)
    assert "not validated" in new.interval_note


def test_a_table_that_was_never_validated_is_calibrated_by_two_networks() -> None:
    own = {"a": OwnTime(blocks=(STEM,), ms=4.0), "b": OwnTime(blocks=(ROW,), ms=6.6)}
    new = anchored(table(ErrorModel()), own, name="mine", date=DATE)
    fitted = calibrate(new.header.validation, [{"stem": 2.0}, {"row": 3.0}])
    assert fitted.scale_pct is not None
    assert (new.header.error_model.scale_pct, new.header.error_model.row_pct) == (fitted.scale_pct, fitted.row_pct)


def test_a_measurement_that_the_shapes_and_the_noise_do_not_allow_disagrees() -> None:
    own = {"a": OwnTime(blocks=(STEM,), ms=4.0), "b": OwnTime(blocks=(ROW,), ms=9.0)}
    new = anchored(ROWWISE, own, name="mine", date=DATE)
    a, b = residuals(ROWWISE, new, own)
    assert (a.residual_pct, b.residual_pct) == pytest.approx((25, 100 * (2.5 / 3 - 1)))  # scale 2.5
    assert a.allowed_pct == pytest.approx(math.hypot(10, 2))
    assert (a.disagrees, b.disagrees) == (True, True)
    assert (a.before.total_ms, a.after.total_ms) == pytest.approx((1.8, 5.0))
    close = {"a": OwnTime(blocks=(STEM,), ms=4.0), "b": OwnTime(blocks=(ROW,), ms=6.6)}
    kept = residuals(ROWWISE, anchored(ROWWISE, close, name="mine", date=DATE), close)
    assert [item.disagrees for item in kept] == [False, False]


def test_what_cannot_be_anchored_is_refused() -> None:
    one = {"a": OwnTime(blocks=(STEM, ROW), ms=10)}
    with pytest.raises(UserError, match="a and b are one network"):
        anchored(OLD, one | {"b": OwnTime(blocks=(ROW, STEM), ms=11)}, name="mine", date=DATE)
    with pytest.raises(UserError, match="at least one measured network"):
        anchored(OLD, {}, name="mine", date=DATE)
    with pytest.raises(UserError, match="from 0 to 100 %, not -1"):
        anchored(OLD, one, name="mine", date=DATE, noise_pct=-1)
    with pytest.raises(UserError, match="intervals at 80%"):
        anchored(table(ErrorModel(scale_pct=5, level=0.8)), one, name="mine", date=DATE)
    with pytest.raises(MissingRows):
        anchored(OLD, {"a": OwnTime(blocks=(OTHER_ROW,), ms=1)}, name="mine", date=DATE)


@pytest.mark.parametrize("ms", [0, -1.0, math.nan, math.inf, True])
def test_a_time_is_a_positive_number(ms: float) -> None:
    with pytest.raises(UserError, match="a measured latency must be a positive number of ms"):
        OwnTime(blocks=(STEM,), ms=ms)


@pytest.mark.parametrize("module", ["anchoring", "compare", "gap"])
def test_what_works_on_tables_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, latency_lut.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

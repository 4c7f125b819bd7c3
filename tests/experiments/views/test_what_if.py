"""What would change a latency, as values that commands and pages show; sums are those of the table itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.front.lookup import Chosen
from experiments.latency.own_times import anchor
from experiments.latency.scan import ScanPlan
from experiments.views.what_if import explained, savings, scanned
from latency_lut.gap import Setup
from latency_lut.table import ErrorModel, MissingRows
from search_space import SearchSpace
from tests.support.toys import TASK, TOY_HEADER, toy_table
from topformer import ANCHORS
from topformer.blocks import candidate_blocks, decompose
from topformer.errors import UserError

SMALL = Chosen(text="small", arch=ANCHORS["small"])
WIDTHS = SearchSpace.from_dict(
    {"name": "two widths", "base": "small", "knobs": {"width_4": [16, 24, 32], "width_32": [96, 128, 160]}},
    task=TASK,
    where="a test",
)
PHONE = replace(toy_table(), header=replace(TOY_HEADER, name="phone", error_model=ErrorModel(scale=2, scale_pct=5)))
SMALL_MS = PHONE.estimate(decompose(SMALL.arch, TASK)).total_ms


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(tmp_path))
    PHONE.save(tmp_path / "phone.lut")
    return "phone"


def test_a_saving_is_the_difference_of_two_prices() -> None:
    shown = savings(SMALL, TASK, WIDTHS, PHONE)
    assert shown.estimate.total_ms == SMALL_MS
    saved = [row["saved_ms"] for row in shown.rows()]
    assert saved == sorted(saved, reverse=True)
    for row in shown.rows():
        after = PHONE.estimate(candidate_blocks(WIDTHS.decode(shown.point | {row["knob"]: row["new"]}))).total_ms
        assert row["saved_ms"] == pytest.approx(SMALL_MS - after)
        assert row["total_ms"] == pytest.approx(after)
    content = shown.as_dict()
    assert (content["arch_key"], content["space"], content["save_ms"]) == (SMALL.arch.key, "two widths", 0)
    assert content["savings"] == shown.rows()
    assert len(savings(SMALL, TASK, WIDTHS, PHONE, save_ms=saved[0]).savings) == 1


def test_savings_are_refused_for_a_stranger_to_the_space_and_for_rows_that_are_missing() -> None:
    stranger = Chosen(text="mine.json", arch=SMALL.arch.replace(num_heads=2))
    with pytest.raises(UserError, match="num_heads is 2"):
        savings(stranger, TASK, WIDTHS, PHONE)
    fewer = replace(PHONE, rows={key: row for key, row in PHONE.rows.items() if not key.startswith("stem")})
    with pytest.raises(UserError, match="--arch small --size 64x64 --classes 59"):
        savings(SMALL, TASK, WIDTHS, fewer)
    with pytest.raises(UserError, match="must be a number of ms from 0, not -1"):
        savings(SMALL, TASK, WIDTHS, PHONE, save_ms=-1)


def test_a_small_space_is_gone_through_and_its_middle_splits_it() -> None:
    reported: list[tuple[int, int, str]] = []
    shown = scanned(WIDTHS, PHONE, ScanPlan(budget_ms=1e6), report=lambda *done: reported.append(done))
    content = shown.as_dict()
    assert (content["exact"], content["counted"], content["share"], content["table"]) == (True, 9, 1, "phone")
    assert reported[-1] == (9, 9, "pricing")
    half = scanned(WIDTHS, PHONE, ScanPlan(budget_ms=content["quantiles_ms"]["50 %"])).as_dict()
    assert half["share"] == half["share_low"] == half["share_high"] == pytest.approx(5 / 9)
    assert sum(item["candidates"] for item in half["histogram"]) == 9


def test_a_scan_names_the_rows_that_are_missing() -> None:
    fewer = replace(PHONE, rows={key: row for key, row in PHONE.rows.items() if not key.startswith("stem")})
    with pytest.raises(MissingRows):
        scanned(WIDTHS, fewer, ScanPlan(budget_ms=1))


def test_a_measurement_as_the_table_says_needs_no_explanation(phone: str) -> None:
    shown = explained(SMALL, TASK, SMALL_MS, Setup(), table=phone)
    assert (shown.network, shown.gap.inside, shown.gap.explanations) == ("small@64, 59 classes", True, ())
    assert (shown.as_dict()["re_anchor"], shown.as_dict()["estimate"]["total_ms"]) == (None, SMALL_MS)


def test_a_measurement_far_off_comes_with_the_command_that_re_anchors_the_table(phone: str) -> None:
    setup = Setup(num_classes=59, image_size=(64, 64), threads=1)
    shown = explained(SMALL, TASK, 1000, setup, table=phone)
    command = "topformer-nas latency anchor --table phone --measured 'small@64x64=1000' --out phone-mine --classes 59"
    assert shown.as_dict()["re_anchor"] == shown.advice == command


def test_an_anchored_table_has_the_scale_of_the_measurement(phone: str, tmp_path: Path) -> None:
    made = anchor(
        phone,
        [f"small={3 * SMALL_MS}"],
        size="64",
        classes=59,
        output="logits",
        out="mine",
        noise_pct=2,
        storage="sqlite:///none.db",
    )
    content = made.as_dict()
    assert (content["old_scale"], content["scale"], content["noise_pct"]) == (2, pytest.approx(6), 2)
    assert (content["path"], content["measurements"][0]["network"]) == (
        str(tmp_path / "mine.lut"),
        "small@64, 59 classes",
    )


def test_what_would_change_a_latency_is_known_without_torch() -> None:
    code = "import sys, experiments.views.what_if; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

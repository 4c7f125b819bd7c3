"""What is in a table, how far it can be believed and where it differs from another, as values that others show."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiments.front.lookup import Chosen
from experiments.views.latency_table import compared, tables_at_hand, validated
from latency_lut.table import ErrorModel, LatencyTable, NetworkCheck
from tests.support.toys import TASK, TOY_HEADER, toy_table
from topformer import TINY
from topformer.blocks import decompose
from topformer.errors import UserError

CHECKS = (
    NetworkCheck(name="tiny", whole_ms=24, repeat_ms=26, sum_ms=50, unseen_ms=26.0),
    NetworkCheck(name="base", whole_ms=60, repeat_ms=60, sum_ms=121, unseen_ms=None),
)
PHONE = replace(
    toy_table(),
    header=replace(TOY_HEADER, name="phone", soc="SD865", error_model=ErrorModel(scale=2, scale_pct=5, basis="toys")),
)
CHECKED = replace(
    toy_table(), header=replace(TOY_HEADER, name="own", error_model=ErrorModel(scale=0.5), validation=CHECKS)
)
ON_TINY = (Chosen(text="tiny", arch=TINY), TASK)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(tmp_path))
    return tmp_path


def test_a_damaged_table_is_left_out_with_a_sentence_and_hides_no_other(folder: Path) -> None:
    toy_table().save(folder / "toy.lut")
    (folder / "broken.lut").write_text("nonsense")
    listed, left_out = tables_at_hand()
    toy = next(one for one in listed if one.path == folder / "toy.lut").as_dict()
    assert (toy["table"], toy["rows"], toy["kind"]) == ("toy", len(toy_table().rows), "estimated")
    assert (toy["validated"], toy["path"]) == (False, str(folder / "toy.lut"))
    assert ["broken.lut" in sentence for sentence in left_out] == [True]


def test_a_report_s_networks_are_predicted_by_the_others_where_that_is_known() -> None:
    shown = validated(CHECKED)
    assert shown.predicted_ms == (26.0, 60.5)  # unseen; and half of 121
    assert shown.agreement is not None
    assert shown.agreement.mean_error_pct == pytest.approx((4 + 100 * 0.5 / 60) / 2)
    assert (shown.timed_now, shown.how) == (False, "by the table that is calibrated on them")
    assert shown.as_dict()["networks"][1] == {
        "network": "base",
        "whole_ms": 60,
        "repeat_ms": 60,
        "table_ms": 60.5,
        "predicted_ms": 60.5,
        "error_pct": pytest.approx(100 * 0.5 / 60),
        "noise_pct": 0,
    }


def test_networks_that_were_timed_now_take_the_place_of_the_report() -> None:
    shown = validated(CHECKED, CHECKS[1:])
    assert ([check.name for check in shown.checks], shown.timed_now) == (["base"], True)
    assert shown.how == "by the table, which they did not calibrate"


def test_a_table_without_networks_has_no_agreement() -> None:
    shown = validated(toy_table())
    assert (shown.agreement, shown.as_dict()["agreement"], shown.as_dict()["networks"]) == (None, None, [])


def test_a_table_just_measured_says_where_it_is_and_how_its_sums_fit() -> None:
    content = validated(CHECKED).measured_dict(Path("own.lut"))
    assert (content["path"], content["rows"], content["scale"]) == ("own.lut", len(CHECKED.rows), 0.5)
    assert [row["sum_ms"] for row in content["validation"]] == [50, 121]
    assert content["agreement"] == asdict(validated(CHECKED).agreement)  # type: ignore[arg-type]


def test_two_tables_of_the_same_rows_differ_by_their_scale() -> None:
    shown = compared(toy_table(), PHONE, [ON_TINY])
    assert (shown.tables.identical, shown.largest) == (False, ())
    (network,) = shown.networks
    assert (network.name, network.ratio) == ("tiny@64, 59 classes", pytest.approx(2))
    content = shown.as_dict()
    assert content["rows"] == {"only_a": 0, "only_b": 0, "common": len(PHONE.rows)}
    assert {"field": "soc", "a": "none", "b": "SD865"} in content["provenance"]
    assert content["networks"][0]["b"] == network.b.as_dict()
    assert content["b"]["scale"] == 2


def test_a_network_that_a_table_lacks_is_left_out_only_where_that_is_asked_for() -> None:
    stem = decompose(TINY, TASK)[0].key
    fewer = LatencyTable.of(TOY_HEADER, [row for key, row in toy_table().rows.items() if key != stem])
    shown = compared(fewer, PHONE, [ON_TINY], leave_out=True)
    assert (shown.networks, shown.not_in_both) == ((), ("tiny@64, 59 classes",))
    with pytest.raises(UserError, match="--arch tiny --size 64x64 --classes 59"):
        compared(fewer, PHONE, [ON_TINY])

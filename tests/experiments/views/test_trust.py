"""Trust reports as people read them: in a list, and one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.store.store import Store
from experiments.trust.standing import OrderingRow, shipped_reports
from experiments.views.trust import AGREEMENT, COSTS, report_rows, report_view
from tests.support.toys import toy_report


def test_reports_of_a_store_are_listed_before_those_that_come_with_the_tool(store: Store) -> None:
    first, *others = report_rows(store)
    assert (first.source, first.report.name) == ("store", "toy-report")
    assert others == list(report_rows(None))
    assert {row.source for row in others} == {"shipped"}
    content = first.as_dict()
    assert (content["from"], content["kendall_tau"]) == ("store", {"toy": 0.71})


def test_a_report_has_a_row_for_its_reference_and_for_each_fidelity() -> None:
    reference, toy = report_view(toy_report(0.71)).agreement
    assert (reference["fidelity"], reference["noise %"]) == ("reference", "0.20")
    assert (toy["fidelity"], toy["tau"], toy["tau in band"]) == ("toy", "0.71 (0.61 to 0.81)", "none")
    assert toy["of reference"] == "10 %"
    assert reference.keys() == toy.keys() >= {*AGREEMENT, *COSTS}


def test_only_an_order_that_cannot_be_relied_upon_is_warned_of() -> None:
    assert report_view(toy_report(0.71)).warnings == ()
    (warning,) = report_view(toy_report(0.41)).warnings
    assert warning == "warning: toy: ranking tau 0.41, below 0.6; a study on it says so (trusted from 0.6 on)."


def test_each_fidelity_stands_beside_rules_that_train_nothing_and_a_perfect_ranker() -> None:
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    rows = {str(cells["fidelity"]): cells for cells in report_view(report).agreement}
    assert rows["scales, then MACs"]["tau"] == "0.84 (0.76 to 0.90)"
    assert rows["proxy-short"]["adds"] == "0.31 (0.13 to 0.47)"
    assert (rows["a perfect ranker"]["tau"], rows["a perfect ranker"]["tau in band"]) == ("0.89", "0.83")
    assert "ridge" in rows
    assert "MACs" not in rows  # the report has it as macs
    content = report_view(report).as_dict()
    assert content["beyond"]["proxy-short"]["adds"]["value"] == pytest.approx(0.306, abs=0.001)
    assert [cells["fidelity"] for cells in content["baselines"]] == ["scales, then MACs", "ridge", "a perfect ranker"]


def test_published_orderings_are_a_row_each_and_counted_by_verdict() -> None:
    rows = [
        OrderingRow(
            fidelity=fidelity,
            ordering="base over tiny",
            relation="better",
            published_pct=2.0,
            tuned=True,
            difference_pct=1.5,
            margin_pct=0.5,
            verdict="reproduced",
        )
        for fidelity in ("reference", "toy")
    ]
    view = report_view(replace(toy_report(0.71), decisions=rows))
    (row,) = view.orderings
    assert row == {
        "ordering": "base over tiny *",
        "paper": "2.00",
        "reference": "+1.50 ±0.50 r",
        "toy": "+1.50 ±0.50 r",
    }
    assert view.decided[0].startswith("reference: 1 reproduced")
    assert len(view.decided) == 3
    assert report_view(toy_report(0.71)).orderings == report_view(toy_report(0.71)).decided == ()

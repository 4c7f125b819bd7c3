"""Two tables side by side, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from latency_lut.compare import FieldDifference, KindRatios, compare_network, compare_tables
from latency_lut.table import ErrorModel, LatencyRow, LatencyTable, MissingRows
from tests.support.toys import TOY_HEADER
from topformer import TINY, Task
from topformer.blocks import Block, decompose

BLOCKS = decompose(TINY, Task())
STEM, ROW, OTHER_ROW = BLOCKS[:3]
HEAD = next(block for block in BLOCKS if block.name == "head")


def table(*rows: tuple[Block, float], kind: Any = "estimated", **changes: Any) -> LatencyTable:
    made = [
        LatencyRow(key=block.key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=1 if kind == "measured" else 0, kind=kind)
        for block, ms in rows
    ]
    return LatencyTable.of(replace(TOY_HEADER, **changes), made)


A = table((STEM, 2.0), (ROW, 3.0), (OTHER_ROW, 4.0))
B = table(
    (STEM, 1.0),
    (ROW, 3.0),
    (OTHER_ROW, 8.0),
    (HEAD, 1.0),
    kind="measured",
    name="other",
    soc="phone",
    error_model=ErrorModel(scale=2, scale_pct=10),
)


def test_ratios_are_of_the_times_that_estimates_use() -> None:
    found = compare_tables(A, B)
    assert [row.ratio for row in found.common] == [1, 2, 4]  # B's scale is 2
    assert found.by_block_kind == (
        KindRatios(block_kind="inverted_residual", rows=2, least_ratio=2, median_ratio=3, greatest_ratio=4),
        KindRatios(block_kind="stem", rows=1, least_ratio=1, median_ratio=1, greatest_ratio=1),
    )
    assert found.median_ratio == 2


def test_the_largest_disagreements_are_from_the_median_ratio() -> None:
    (first, second) = compare_tables(A, B).largest(2)  # 1 and 4 are equally far from 2, 2 is not at all
    assert {first.key, second.key} == {STEM.key, OTHER_ROW.key}


def test_tables_that_differ_by_a_scale_disagree_nowhere() -> None:
    scaled = replace(A, header=replace(A.header, error_model=ErrorModel(scale=1.7)))
    assert compare_tables(A, scaled).median_ratio == pytest.approx(1.7)
    assert compare_tables(A, scaled).largest(10) == ()


def test_kinds_and_coverage_of_both_are_told() -> None:
    found = compare_tables(A, B)
    assert (found.a_kinds, found.b_kinds) == ({"estimated": 3}, {"measured": 4})
    assert (found.only_a, found.only_b) == ((), (HEAD.key,))
    assert (found.common[0].a_kind, found.common[0].b_kind) == ("estimated", "measured")


def test_provenance_names_what_differs_and_nothing_else() -> None:
    differing = {item.field: item for item in compare_tables(A, B).provenance}
    assert set(differing) == {"name", "soc", "scale", "scale_pct", "basis"}
    assert differing["soc"] == FieldDifference(field="soc", a="none", b="phone")


def test_a_protocol_entry_of_one_table_only_is_a_difference() -> None:
    (item,) = compare_tables(A, replace(A, header=replace(A.header, protocol={"passes": 8}))).provenance
    assert item == FieldDifference(field="protocol.passes", a=None, b=8)


def test_one_table_twice_is_identical_and_another_name_is_not() -> None:
    assert compare_tables(A, A).identical
    renamed = compare_tables(A, replace(A, header=replace(A.header, name="copy")))
    assert (renamed.identical, renamed.same_times) == (False, True)
    assert not compare_tables(A, B).same_times


def test_tables_without_a_common_row_have_no_ratio() -> None:
    found = compare_tables(A, table((HEAD, 1.0)))
    assert (found.common, found.median_ratio, found.largest(10), found.same_times) == ((), None, (), False)


def test_a_network_is_compared_with_both_intervals_and_per_module() -> None:
    extended = table((STEM, 2.0), (ROW, 3.0), (HEAD, 1.0))
    found = compare_network("toy", (STEM, ROW, HEAD), extended, B)
    assert (found.a.total_ms, found.b.total_ms) == (6, 10)
    assert found.ratio == pytest.approx(10 / 6)
    assert found.by_module == (("token_pyramid", 5, 8), ("head", 1, 2))
    assert not found.intervals_overlap  # 6 exactly, and 9 to 11
    wide = replace(extended, header=replace(extended.header, error_model=ErrorModel(scale_pct=60)))
    assert compare_network("toy", (STEM, ROW, HEAD), wide, B).intervals_overlap
    with pytest.raises(MissingRows):
        compare_network("toy", (HEAD,), A, B)

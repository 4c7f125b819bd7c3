"""Explanations of a gap, worked out by hand on a table where TopFormer-T takes 20 ms, 18 to 22.

Resizing the logits adds 3 ms and the argmax 2; at 96 pixels all of it takes 40 ms, and with 19 classes 16 ms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from latency_lut.gap import Explanation, Gap, Setup, explain
from latency_lut.table import ErrorModel, LatencyRow, LatencyTable, MissingRows
from tests.support.toys import TOY_HEADER
from topformer import SMALL, TINY, Task, UserError
from topformer.blocks import decompose

TASK = Task(image_size=(64, 64), num_classes=59)


def toy_table() -> LatencyTable:
    base = decompose(TINY, TASK)
    rest_ms = 14 / (len(base) - 1)
    times = {block.key: rest_ms for block in base[:-1]} | {base[-1].key: 6.0}
    larger = decompose(TINY, replace(TASK, image_size=(96, 96)))
    times |= {block.key: 40 / len(larger) for block in larger}
    times[decompose(TINY, replace(TASK, num_classes=19))[-1].key] = 2.0
    for block in decompose(TINY, replace(TASK, output="labels"))[-2:]:
        times[block.key] = {"resize": 3.0, "argmax": 2.0}[block.kind]
    rows = [LatencyRow(key=key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=0, kind="estimated") for key, ms in times.items()]
    return LatencyTable.of(replace(TOY_HEADER, frequency_mhz=2000.0, error_model=ErrorModel(scale_pct=10)), rows)


TABLE = toy_table()
ALL_STATED = Setup(
    output="logits",
    image_size=(64, 64),
    num_classes=59,
    batch=1,
    threads=1,
    precision="fp32",
    runtime="none",
    bits=64,
    frequency_mhz=2000,
    core="none",
)


def gap(measured_ms: float, table: LatencyTable = TABLE, **said: Any) -> Gap:
    return explain(table, TINY, TASK, measured_ms, Setup(**said))


def table_with(**changes: Any) -> LatencyTable:
    return replace(TABLE, header=replace(TABLE.header, **changes))


def topics(found: Gap) -> list[tuple[str, ...]]:
    return [tuple(cause.topic for cause in item.causes) for item in found.explanations]


def says(item: Explanation) -> str:
    return " and ".join(cause.says for cause in item.causes)


def test_a_measurement_inside_the_interval_needs_no_explanation() -> None:
    found = gap(21.9)
    assert (found.estimate.low_ms, found.estimate.high_ms) == pytest.approx((18, 22))
    assert (found.inside, found.inside_as_stated, found.explanations) == (True, True, ())


def test_every_candidate_says_what_it_changes_alone() -> None:
    found = gap(30)
    changes = {item.cause.says: item.change_ms for item in found.candidates if item.cause.task}
    assert changes == {
        "the graph resizes the logits to the image": pytest.approx(3),
        "the graph resizes the logits to the image and takes the argmax": pytest.approx(5),
        "image 96x96": pytest.approx(20),
        "19 classes": pytest.approx(-4),
    }
    factors = {item.cause.topic: (item.cause.least, item.cause.greatest) for item in found.candidates}
    assert factors["threads"] == (1 / 8, 1)
    assert factors["bits"] == (1, 1.13)
    assert factors["frequency"] == (1, pytest.approx(2841.6 / 844.8))
    precisions = {item.cause.says: item.cause.least for item in found.candidates if item.cause.topic == "precision"}
    assert precisions == {"fp16, the table has fp32": 0.5, "int8, the table has fp32": 0.25}
    assert all(item.cause.source for item in found.candidates)
    assert {cause.topic for cause in found.open} == {"runtime", "core"}


def test_explanations_come_likeliest_first_and_bounds_say_what_they_need() -> None:
    found = gap(24)
    # resized 20.7 to 25.3, labels 22.5 to 27.5; a clock of at most 22 / 24 of 2000 MHz; 22 x 1.13 = 24.86
    assert topics(found) == [("output",), ("output",), ("frequency",), ("bits",)]
    assert [item.exact for item in found.explanations] == [True, True, False, False]
    assert [item.needs for item in found.explanations] == [
        None,
        None,
        "a clock of at most 1833 MHz",
        "a slow-down of at least 1.09 times",
    ]


def test_a_fast_measurement_may_have_had_threads_or_fewer_bits() -> None:
    found = gap(8, output="logits", num_classes=59)
    # 18 / 8 is over 2 threads; fp16 comes to 9 ms at least, int8 to 4.5
    assert [says(item) for item in found.explanations[:2]] == [
        "more threads than the table's 1",
        "int8, the table has fp32",
    ]
    assert found.explanations[0].needs == "at least 3 threads"
    assert found.explanations[1].needs == "a speed-up of at least 2.25 times"


def test_two_causes_explain_together_what_neither_does_alone() -> None:
    found = gap(30, image_size=(64, 64), batch=1, threads=1, precision="fp32", frequency_mhz=2000)
    # labels and a 32-bit build: 22.5 to 27.5 x 1.13 = 31.1; resized and 32 bits end at 28.6
    assert [says(item) for item in found.explanations] == [
        "the graph resizes the logits to the image and takes the argmax and a 32-bit build, the table's is taken as "
        "64-bit"
    ]
    (pair,) = found.explanations
    assert pair.span == pytest.approx((22.5, 27.5 * 1.13))
    assert (pair.exact, pair.needs) == (False, "a slow-down of at least 1.09 times")


def test_a_bound_is_not_paired_with_what_works_the_other_way() -> None:
    # 96 pixels take 36 ms at least, and threads could bring any of it down to 27; so could anything else
    assert ("threads", "size") not in topics(gap(27, output="logits", frequency_mhz=2000))


def test_two_exact_causes_are_priced_together() -> None:
    stated = {"output": "logits", "threads": 1, "precision": "fp32", "frequency_mhz": 2000, "bits": 64}
    found = gap(32, **stated)  # 16 ms with 19 classes, two of them 28.8 to 35.2; 96 pixels take 36 to 44
    assert topics(found) == [("classes", "batch")]
    assert found.explanations[0].span == pytest.approx((28.8, 35.2))
    assert found.explanations[0].exact


def test_what_is_said_to_equal_the_table_is_no_cause() -> None:
    found = explain(TABLE, TINY, TASK, 34, ALL_STATED)
    assert {cause.role for cause in found.stated} == {"equal"}
    assert len(found.stated) == 10
    assert (found.candidates, found.open, found.explanations) == ((), (), ())
    assert not found.inside_as_stated


@pytest.mark.parametrize(
    ("said", "span"),
    [
        ({"threads": 4}, (4.5, 22)),
        ({"precision": "fp16"}, (9, 22)),
        ({"precision": "int8"}, (4.5, 22)),
        ({"frequency_mhz": 1000.0}, (18, 44)),
        ({"frequency_mhz": 4000.0}, (9, 22)),
        ({"bits": 32}, (18, 22 * 1.13)),
        ({"batch": 3}, (54, 66)),
        ({"threads": 2, "bits": 32}, (9, 22 * 1.13)),
    ],
)
def test_what_is_said_to_differ_is_applied(said: dict[str, Any], span: tuple[float, float]) -> None:
    found = gap(1000, **said)
    assert found.span == pytest.approx(span)
    assert {cause.role for cause in found.stated} == {"applied"}
    assert not {cause.topic for cause in found.stated} & {item.cause.topic for item in found.candidates}


def test_a_stated_difference_may_leave_nothing_to_explain() -> None:
    found = gap(6, threads=4)
    assert (found.inside, found.inside_as_stated, found.explanations) == (False, True, ())


def test_a_table_of_half_precision_is_slower_in_full() -> None:
    assert gap(1000, table_with(precision="float16"), precision="fp32").span == pytest.approx((18, 44))


def test_a_32_bit_table_says_so_in_its_protocol() -> None:
    found = gap(1000, table_with(protocol={"bits": 32}), bits=64)
    assert found.span == pytest.approx((18 / 1.13, 22))


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({"runtime": "TNN"}, "no factor is known"),
        ({"core": "Cortex-A55"}, "no factor is known"),
        ({"frequency_mhz": 1000.0}, "no ratio without the table's clock"),
        ({"precision": "fp16"}, "no bound is known"),
    ],
)
def test_what_has_no_number_is_said_and_changes_nothing(said: dict[str, Any], source: str) -> None:
    found = gap(1000, table_with(frequency_mhz=None, precision="bf16"), **said)
    (cause,) = found.stated
    assert cause.role == "unknown"
    assert source in cause.source
    assert found.span == pytest.approx((18, 22))


def test_a_table_without_its_clock_tells_a_share_of_it() -> None:
    found = gap(44, table_with(frequency_mhz=None), output="logits", image_size=(64, 64), batch=1)
    assert found.explanations[0].needs == "a clock of at most 50 % of the table's"


def test_post_processing_without_rows_is_said_to_be_missing() -> None:
    bare = LatencyTable.of(TABLE.header, [row for key, row in TABLE.rows.items() if not key.startswith("argmax")])
    found = gap(24, bare)
    (missing,) = [cause for cause in found.open if cause.topic == "output"]
    assert "argmax" in missing.says
    assert missing.source == "the table has no rows for it"
    assert [item.cause.says for item in found.candidates if item.cause.topic == "output"] == [
        "the graph resizes the logits to the image"
    ]


def test_post_processing_may_also_be_left_out() -> None:
    found = explain(TABLE, TINY, replace(TASK, output="labels"), 20, Setup())
    assert topics(found)[0] == ("output",)
    assert found.explanations[0].causes[0].says == "the graph ends at the logits"


def test_a_network_that_the_table_does_not_cover_is_an_error() -> None:
    with pytest.raises(MissingRows):
        explain(TABLE, SMALL, TASK, 30, Setup())


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"threads": 0}, "threads must be a whole number from 1 to 1024, not 0"),
        ({"batch": -1}, "batch must be"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; available: fp16, fp32, int8"),
        ({"bits": 16}, "bits must be 32 or 64, not 16"),
        ({"frequency_mhz": float("nan")}, "a clock must be from 1 to 100000 MHz"),
        ({"output": "logit"}, "unknown output 'logit'"),
        ({"core": " "}, "core must be a name of at most 60 printable characters, not ' '"),
        ({"runtime": "nc\nnn"}, "runtime must be a name"),
    ],
)
def test_a_setup_that_cannot_be_is_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Setup(**said)


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_measurement_is_a_positive_number(ms: float) -> None:
    with pytest.raises(UserError, match="must be a positive number of ms"):
        gap(ms)

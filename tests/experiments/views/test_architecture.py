"""What an architecture is made of and costs, as values that commands, pages and reports show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.front.lookup import Chosen, chosen, table_of, task_of
from experiments.views.architecture import described, priced
from latency_lut.table import ErrorModel, LatencyRow, LatencyTable
from tests.support.toys import TASK, TOY_HEADER, toy_table
from topformer import BASE, TINY
from topformer.blocks import decompose
from topformer.config import Task
from topformer.errors import UserError

CHOSEN = Chosen(text="tiny", arch=TINY)


def table_up_to(output: str) -> LatencyTable:
    """Rows of 1 ms for T at 64 pixels and 59 classes, with a scale known to 10 %."""
    blocks = {block.key: block for block in decompose(TINY, replace(TASK, output=output))}  # type: ignore[arg-type]
    rows = [LatencyRow(key=key, median_ms=1, p5_ms=1, p95_ms=1, n=3, kind="measured") for key in blocks]
    return LatencyTable.of(replace(TOY_HEADER, name="ones", error_model=ErrorModel(scale_pct=10)), rows)


def test_an_anchor_is_described_with_what_is_published_of_it() -> None:
    shown = described(CHOSEN, Task())
    assert (shown.chosen.label, shown.costs.params, shown.chosen.arch) == ("tiny", 1_389_654, TINY)
    assert shown.published is not None
    assert shown.published["miou_pct"] == 32.8
    content = shown.as_dict()
    assert (content["key"], content["anchor"], content["image_size"]) == (TINY.key, "tiny", [512, 512])
    assert sum(block["params"] for block in content["blocks"]) == content["params"] == 1_389_654
    assert list(content)[:4] == ["key", "anchor", "params", "params_by_module"]


@pytest.mark.parametrize(("name", "size"), [("base-cityscapes", (1024, 2048)), ("base-cityscapes-half", (512, 1024))])
def test_the_published_networks_of_cityscapes_have_names(name: str, size: tuple[int, int]) -> None:
    found = chosen(name, storage="none")
    assert (found.label, found.arch) == (name, BASE.replace(injection_channels=128))
    assert task_of(found, None, None) == Task(image_size=size, num_classes=19)


def test_base_at_the_size_of_cityscapes_names_the_network_that_was_published() -> None:
    base = Chosen(text="base", arch=BASE)
    task = Task(image_size=(512, 1024), num_classes=19)
    shown = priced(base, task, table_of(base, None))
    assert "name it base-cityscapes-half" in (shown.note or "")
    assert shown.as_dict()["note"] == shown.note
    assert priced(base, replace(task, num_classes=150), table_of(base, None)).note is None


def test_a_classifier_is_described_without_figures_of_segmentation() -> None:
    shown = described(CHOSEN, task_of(CHOSEN, None, None, classification=True))
    assert (shown.costs.params, shown.published, shown.as_dict()["published"]) == (1_503_304, None, None)


def test_a_price_is_the_sum_of_its_blocks_and_of_its_modules() -> None:
    shown = priced(CHOSEN, TASK, toy_table())
    parts = [part.total_ms for part in shown.by_module.values()]
    assert sum(parts) == pytest.approx(shown.estimate.total_ms)
    content = shown.as_dict()
    assert sum(block["ms"] for block in content["by_block"]) == pytest.approx(content["total_ms"])
    assert (content["coverage"], content["table"], content["kind"]) == (1.0, "toy", "estimated")
    assert content["published"] is None  # nothing is, at 64 pixels


def test_post_processing_is_what_the_task_has_of_it_and_what_labels_would_add() -> None:
    table = table_up_to("labels")
    logits = priced(CHOSEN, TASK, table).post_processing
    assert (logits.included_ms, logits.share_pct, logits.would_add_ms) == (0, 0, 2)  # resizing, and the argmax
    assert (logits.would_add_low_ms, logits.would_add_high_ms) == pytest.approx((1.8, 2.2))
    labels = priced(CHOSEN, replace(TASK, output="labels"), table)
    assert (labels.post_processing.included_ms, labels.post_processing.would_add_ms) == (2, 0)
    assert labels.post_processing.share_pct == pytest.approx(200 / labels.estimate.total_ms)
    unknown = priced(CHOSEN, TASK, table_up_to("logits")).post_processing
    assert (unknown.would_add_ms, unknown.would_add_low_ms) == (None, None)


def test_rows_that_are_missing_are_named_with_the_argument_that_was_typed() -> None:
    with pytest.raises(UserError, match="--arch tiny --size 96x96 --classes 59"):
        priced(CHOSEN, replace(TASK, image_size=(96, 96)), toy_table())


def test_an_anchor_is_priced_by_the_shipped_table_unless_another_is_named() -> None:
    found = chosen("tiny", storage="sqlite:///none.db")
    assert table_of(found, None).name.startswith("snapdragon865")
    with pytest.raises(UserError, match="unknown latency table 'none'"):
        table_of(found, "none")

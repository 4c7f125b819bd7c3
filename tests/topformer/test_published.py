"""Published figures stand beside ours only where they are about the same thing."""

from __future__ import annotations

import pytest

from topformer import ANCHORS, Task
from topformer.blocks import decompose, total
from topformer.published import CITYSCAPES, PUBLISHED, published_elsewhere, published_figures


def test_figures_are_shown_for_the_published_tasks_only() -> None:
    assert (published_figures("tiny", (448, 448), 150) or {})["latency_ms"] == 32
    assert published_figures("small", (448, 448), 150) is None
    assert published_figures("tiny", (512, 1024), 150) is None
    assert published_figures("tiny", (512, 512), 19) is None
    assert published_figures(None, (512, 512), 150) is None


@pytest.mark.parametrize("name", ANCHORS)
def test_published_flops_are_our_fvcore_totals_with_a_dense_fuse_convolution(name: str) -> None:
    arch = ANCHORS[name].replace(depthwise_head=False)
    for side, published_g in PUBLISHED[name].flops_g.items():
        counted = total(block.cost for block in decompose(arch, Task(image_size=(side, side)))).fvcore_flops
        assert round(counted / 1e9, 1) == published_g


@pytest.mark.parametrize("name", CITYSCAPES)
def test_the_networks_of_cityscapes_have_the_published_flops(name: str) -> None:
    known = CITYSCAPES[name]
    cost = total(block.cost for block in decompose(known.arch, known.task))
    assert round(cost.macs / 1e9, 1) <= known.flops_g <= round(cost.fvcore_flops / 1e9, 1)
    base = total(block.cost for block in decompose(ANCHORS["base"], known.task))
    assert round(base.macs / 1e9, 1) > known.flops_g


def test_base_says_that_the_published_network_of_cityscapes_is_another() -> None:
    task = CITYSCAPES["base-cityscapes"].task
    assert "M = 256; the network published on Cityscapes at 1024x2048 has M = 128" in (
        published_elsewhere(ANCHORS["base"], task) or ""
    )
    assert published_elsewhere(CITYSCAPES["base-cityscapes"].arch, task) is None
    assert published_elsewhere(ANCHORS["base"], Task()) is None

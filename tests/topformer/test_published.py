"""Published figures stand beside ours only where they are about the same thing."""

from __future__ import annotations

import pytest

from topformer import ANCHORS, Task
from topformer.blocks import decompose, total
from topformer.published import PUBLISHED, published_figures


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

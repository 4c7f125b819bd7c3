"""Counted costs: sums over the blocks equal the built network, and the published figures."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from evaluators.cost import costs, require_runnable
from topformer import ANCHORS, BASE, TINY, MBConv, Task, TopFormer, TopFormerConfig, UserError
from topformer.blocks import decompose, total

TASK = Task(image_size=(64, 96), num_classes=7)
MICRO = TINY.replace(
    stages=tuple((MBConv(3, 2, channels, 2),) for channels in (8, 12, 16, 24)),
    num_blocks=1,
    num_heads=2,
    key_dim=4,
    injection_channels=16,
)
VARIANTS = {
    "full": MICRO,
    "without extractor": MICRO.replace(extractor="none"),
    "feed-forward only": MICRO.replace(extractor="ffn"),
    "pyramid pooling module": MICRO.replace(extractor="ppm"),
    "atrous pyramid pooling": MICRO.replace(extractor="aspp"),
    "summing head": MICRO.replace(head="sum"),
    "concatenating head": MICRO.replace(head="concat", depthwise_head=False),
    "last token at stride 128": MICRO.replace(token_source="last", token_stride=128),
    "attention alone at 1/4": MICRO.replace(injection="attention", injected_strides=(4, 8)),
}


def require_equal_to_blocks(arch: TopFormerConfig, task: Task) -> None:
    found, blocks = costs(arch, task), decompose(arch, task)
    assert round(found.fvcore_g * 1e9) == total(block.cost for block in blocks).fvcore_flops
    assert round(found.macs_g * 1e9) == sum(block.macs for block in blocks)


@pytest.mark.parametrize("arch", VARIANTS.values(), ids=VARIANTS.keys())
def test_fvcore_on_the_network_finds_what_the_blocks_say(arch: TopFormerConfig) -> None:
    require_equal_to_blocks(arch, TASK)


@pytest.mark.parametrize("name", ANCHORS)
def test_fvcore_on_the_anchors_finds_what_the_blocks_say(name: str) -> None:
    require_equal_to_blocks(ANCHORS[name], TASK)


def test_fvcore_counts_the_post_processing_too() -> None:
    require_equal_to_blocks(MICRO, Task(image_size=(64, 96), num_classes=7, output="labels"))


@pytest.mark.parametrize("arch", VARIANTS.values(), ids=VARIANTS.keys())
def test_macs_are_what_the_convolutions_and_matrix_products_of_the_network_do(arch: TopFormerConfig) -> None:
    model = TopFormer(arch, num_classes=7).eval()
    convolutions = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal convolutions
        assert isinstance(module, nn.Conv2d)
        convolutions += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 96))
    tokens = 1 if arch.token_stride == 128 else 2  # the grid is 2x3 at 1/32, 1x2 at 1/64, 1x1 at 1/128
    products = arch.num_blocks * arch.num_heads * tokens**2 * 3 * arch.key_dim  # keys once, values twice as wide
    assert round(costs(arch, TASK).macs_g * 1e9) == convolutions + products


def test_parameters_by_module_add_up_and_match_the_released_tiny() -> None:
    found = costs(TINY, Task(image_size=(64, 64)))
    assert found.params == sum(found.params_by_module.values()) == 1_389_654
    assert list(found.params_by_module) == ["token_pyramid", "transformer", "semantic_injection", "head"]


def test_published_gigaflops_of_base_at_512_px() -> None:
    assert round(costs(BASE, Task()).fvcore_g, 1) == 1.8  # Table 1


def test_operators_that_fvcore_leaves_out_are_listed() -> None:
    found = costs(MICRO, TASK)
    assert found.unsupported_operators["aten::softmax"] == MICRO.num_blocks
    assert "aten::softmax" not in costs(MICRO.replace(extractor="none"), TASK).unsupported_operators


def test_classification_is_counted_too() -> None:
    task = Task(kind="classification", image_size=(224, 224), num_classes=1000)
    found = costs(TINY, task)
    assert found.params == 1_503_304
    assert found.fvcore_g == pytest.approx(0.12626, abs=5e-6)


WIDE = BASE.replace(
    injection_channels=4096,
    stages=tuple(tuple(dataclasses.replace(row, channels=4096) for row in rows) for rows in BASE.stages),
)


@pytest.mark.parametrize(("arch", "size"), [(WIDE, 512), (BASE, 8192)])
def test_a_network_too_large_to_be_run_is_counted_by_its_blocks(arch: TopFormerConfig, size: int) -> None:
    """The largest legal widths took 4.6 GB of memory."""
    task = Task(image_size=(size, size))
    found = costs(arch, task)
    assert found.fvcore_g == total(block.cost for block in decompose(arch, task)).fvcore_flops / 1e9
    assert found.unsupported_operators == (None if arch is WIDE else costs(BASE, Task()).unsupported_operators)
    with pytest.raises(UserError, match=r"takes about [\d.]+ GiB.*choose a smaller --size"):
        require_runnable(arch, task)

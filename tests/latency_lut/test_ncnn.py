"""ncnn's text and weights: every block is written from its spec, and a network from its blocks. The payload runs in
test_qemu.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from latency_lut.runtimes.ncnn import LONE_BLOCK, block_network, candidate_network
from topformer.blocks import Conv, candidate_blocks
from topformer.config import ANCHORS, TINY, Candidate, Task, TopFormerConfig
from topformer.model import BlockModule, TopFormer

SMALL_TASK = Task(image_size=(64, 96), num_classes=5)
VARIANTS = {
    **ANCHORS,
    "ffn": TINY.replace(extractor="ffn"),
    "none": TINY.replace(extractor="none"),
    "ppm": TINY.replace(extractor="ppm"),
    "aspp": TINY.replace(extractor="aspp"),
    "sum": TINY.replace(head="sum"),
    "concat": TINY.replace(head="concat", depthwise_head=False),
    "gate only": TINY.replace(injection="attention"),
    "information only": TINY.replace(injection="semantics"),
    "last token": TINY.replace(token_source="last"),
    "stride 32": TINY.replace(token_stride=32),
    "two scales": TINY.replace(injected_strides=(4, 16)),
}
CANDIDATES = {name: Candidate(arch=arch, task=SMALL_TASK) for name, arch in VARIANTS.items()} | {
    "labels": Candidate(arch=TINY, task=Task(image_size=(64, 64), num_classes=5, output="labels")),
    "classification": Candidate(arch=TINY, task=Task(kind="classification", image_size=(64, 64), num_classes=5)),
}
each_candidate = pytest.mark.parametrize("name", CANDIDATES)


@each_candidate
def test_every_block_writes_each_convolution_of_its_spec_once(name: str) -> None:
    for block in candidate_blocks(CANDIDATES[name]):
        written = Counter(layer.conv for layer in block_network(block).layers if layer.conv)
        assert written == Counter(layer for layer in block.spec.layers if isinstance(layer, Conv)), block.name


@each_candidate
def test_a_network_is_written_by_the_writers_of_its_blocks(name: str) -> None:
    candidate = CANDIDATES[name]
    joints = {"Split", "Slice", "Input"}
    whole = [layer for layer in candidate_network(candidate).layers if layer.kind not in joints]
    for block in candidate_blocks(candidate):
        alone = [layer for layer in block_network(block).layers if layer.kind not in joints]
        inside = [layer for layer in whole if layer.block == block.name]
        assert [(x.kind, x.params, x.name.partition("/")[2]) for x in inside] == [
            (x.kind, x.params, x.name.removeprefix(f"{LONE_BLOCK}/")) for x in alone
        ]


@each_candidate
def test_every_blob_is_made_before_it_is_read_and_read_at_most_once(name: str) -> None:
    made: set[str] = set()
    for layer in candidate_network(CANDIDATES[name]).layers:
        assert made.issuperset(layer.bottoms), layer.line
        made = made.difference(layer.bottoms).union(layer.tops)


def test_param_text_of_a_stem_is_what_ncnn_documents() -> None:
    stem = candidate_blocks(Candidate(arch=TINY, task=Task(image_size=(64, 96))))[0]
    assert block_network(stem).param == (
        "7767517\n2 2\nInput near0 0 1 near0 0=96 1=64 2=3\n"
        "Convolution body/conv 1 1 near0 body/conv 0=16 1=3 2=1 3=2 4=1 5=1 6=432 9=1\n"
    )


def test_batch_norm_is_folded_into_weight_and_bias() -> None:
    stem = candidate_blocks(Candidate(arch=TINY, task=SMALL_TASK))[0]
    module = BlockModule(stem)
    conv, norm = module.get_submodule("body.conv.conv"), module.get_submodule("body.conv.norm")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    nn.init.ones_(conv.weight)
    nn.init.constant_(norm.weight, 6.0)
    nn.init.constant_(norm.bias, 7.0)
    norm.running_mean.fill_(2.0)
    norm.running_var = torch.full((16,), 9 - norm.eps)
    values = np.frombuffer(block_network(stem).weights(module), "<f4")
    assert values[0] == 0  # the tag
    np.testing.assert_allclose(values[1:433], 1 * 6 / 3, rtol=1e-6)
    np.testing.assert_allclose(values[433:], 7 - 2 * 6 / 3, rtol=1e-6)


@pytest.mark.parametrize("arch", [TINY, VARIANTS["aspp"]])
def test_weights_have_a_tag_and_a_bias_for_each_convolution(arch: TopFormerConfig) -> None:
    network = candidate_network(Candidate(arch=arch, task=SMALL_TASK))
    convs = [layer.conv for layer in network.layers if layer.conv]
    numbers = sum(c.out_channels * (c.in_channels // c.groups) * c.kernel**2 + c.out_channels + 1 for c in convs)
    assert len(network.weights(TopFormer(arch, num_classes=5))) == 4 * numbers

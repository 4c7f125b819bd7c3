"""The real payload, under QEMU: what it computes, and what is counted of it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latency_lut.devices import qemu
from latency_lut.runtimes.ncnn import LONE_BLOCK, block_network, candidate_network
from topformer.blocks import Block, MBConvSpec, SemanticsSpec, candidate_blocks
from topformer.config import ANCHORS, TINY, Candidate, Task, TopFormerConfig
from topformer.model import BlockModule, TopFormer, TopFormerClassifier

missing = [name for name in (qemu.QEMU, "cc") if not shutil.which(name)]
missing += [name for name in ("ziglang", "unearth") if not find_spec(name)]
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")]

POINTWISE = Block(
    name="pointwise",
    spec=SemanticsSpec(in_channels=64, out_channels=96),
    inputs=((64, 32, 32),),
    output=(96, 32, 32),
)


def images(count: int, height: int, width: int) -> Tensor:
    """(count, 3, height, width) with content at every scale: of white noise pooling to 1/64 leaves none."""
    scales = (F.interpolate(torch.randn(count, 3, n, n), (height, width), mode="bilinear") for n in (2, 8, 32, 128))
    return torch.stack(list(scales)).sum(0)


def settled(model: nn.Module, size: int = 256) -> nn.Module:
    """With activations of unit variance on images of that size, as when trained."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.train()(images(4, size, size))
    return model.eval()


def worst_difference(candidate: Candidate, model: nn.Module) -> float:
    """Between the payload's logits and torch's, relative to max(1, |logit|)."""
    image = images(1, *candidate.task.image_size)
    with torch.no_grad():
        expected = model(image)[0].numpy()
    network = candidate_network(candidate)
    got = qemu.infer(network, network.weights(model), [image[0].numpy()])
    return float(np.max(np.abs(got - expected.reshape(got.shape)) / np.maximum(1, np.abs(expected).reshape(got.shape))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, (64, 96)) for name in ANCHORS),
        pytest.param("tiny", (512, 512), marks=pytest.mark.thorough),
    ],
)
def test_the_payload_computes_the_logits_of_an_anchor(name: str, size: tuple[int, int]) -> None:
    """At 512 random weights decide how much rounding grows: with seeds 1 and 2 the payload's logits of Tiny are 5e-4
    and 1e-3 from torch's, but torch's own float32 logits are 2e-4 and 1e-3 from its float64 ones.
    """
    torch.manual_seed(0)
    model = settled(TopFormer(ANCHORS[name], num_classes=150), size=max(256, *size))
    candidate = Candidate(arch=ANCHORS[name], task=Task(image_size=size, num_classes=150))
    assert worst_difference(candidate, model) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        TINY.replace(extractor="ffn", injection="attention"),
        TINY.replace(extractor="none", injection="semantics"),
        TINY.replace(extractor="ppm", head="sum"),
        TINY.replace(extractor="aspp", head="concat", depthwise_head=False),
        TINY.replace(token_source="last", injected_strides=(4, 16), token_stride=32),
    ],
)
def test_the_payload_computes_the_logits_of_ablations(arch: TopFormerConfig) -> None:
    torch.manual_seed(0)
    model = settled(TopFormer(arch, num_classes=5))
    assert worst_difference(Candidate(arch=arch, task=Task(image_size=(65, 97), num_classes=5)), model) <= 1e-4


@pytest.mark.slow
def test_the_payload_computes_classification() -> None:
    torch.manual_seed(0)
    model = TopFormerClassifier(TINY, num_classes=7)
    norm = model.get_submodule("head.norm")
    assert isinstance(norm, nn.BatchNorm1d)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    task = Task(kind="classification", image_size=(64, 64), num_classes=7)
    assert worst_difference(Candidate(arch=TINY, task=task), settled(model)) <= 1e-4


@pytest.mark.slow
def test_the_payload_computes_labels() -> None:
    torch.manual_seed(0)
    task = Task(image_size=(64, 64), num_classes=5, output="labels")
    model = settled(TopFormer(TINY, num_classes=5, output="labels"))
    assert worst_difference(Candidate(arch=TINY, task=task), model) <= 1e-2  # no label may differ


@pytest.mark.slow
def test_the_payload_computes_a_lone_block_of_two_inputs() -> None:
    torch.manual_seed(0)
    candidate = Candidate(arch=TINY, task=Task(image_size=(64, 96)))
    block = next(block for block in candidate_blocks(candidate) if block.name == "semantic_injection.8")
    module = BlockModule(block).eval()
    inputs = [torch.randn(1, *shape) for shape in block.inputs]
    network = block_network(block)
    got = qemu.infer(network, network.weights(module), [x[0].numpy() for x in inputs])
    with torch.no_grad():
        np.testing.assert_allclose(got, module(*inputs)[0].numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_pointwise_convolution_takes_one_vector_fma_for_four_multiply_adds() -> None:
    assert qemu.count(block_network(POINTWISE))[LONE_BLOCK].vector_fma == POINTWISE.macs / 4


@pytest.mark.slow
def test_counts_are_the_same_each_time() -> None:
    network = candidate_network(Candidate(arch=TINY, task=Task(image_size=(64, 64))))
    assert qemu.count_layers(network) == qemu.count_layers(network)


@pytest.mark.slow
def test_counts_come_by_block_and_none_is_without() -> None:
    candidate = Candidate(arch=TINY, task=Task(image_size=(64, 64)))
    counts = qemu.count(candidate_network(candidate))
    assert set(counts) == {block.name for block in candidate_blocks(candidate)}
    assert all(each.instructions > 0 for each in counts.values())


@pytest.mark.slow
def test_data_larger_than_all_caches_is_missed_in_each_of_them() -> None:
    """A depthwise convolution over 16 MiB of input and as much output: 64 bytes a line, each missed once at least."""
    spec = MBConvSpec(in_channels=16, hidden_channels=16, out_channels=16, kernel=3, stride=1, expands=False)
    block = Block(name="wide", spec=spec, inputs=((16, 512, 512),), output=(16, 512, 512))
    lines = 2 * 16 * 512 * 512 * 4 // qemu.LINE_BYTES
    counts = qemu.count_layers(block_network(block))
    depthwise = next(each for name, each in counts if name.endswith("depthwise"))
    assert depthwise.l1_miss >= depthwise.l2_miss >= depthwise.l3_miss >= lines

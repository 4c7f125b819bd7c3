"""The onnxruntime runtime: static pooling, and timing graphs that are the graphs people export."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from latency_lut.runtimes.onnxruntime import OnnxRuntime, StaticPool, exportable, normalise, timed_inputs, timing_graph
from topformer import BASE, TINY, Task, TopFormer, TopFormerClassifier, TopFormerConfig
from topformer.blocks import Block, decompose
from topformer.model import BlockModule, Pool

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, st.data())
def test_static_pooling_equals_adaptive_pooling(height: int, width: int, data: st.DataObject) -> None:
    grid = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    token = torch.randn(1, 3, height, width)
    torch.testing.assert_close(StaticPool((height, width), grid)(token), F.adaptive_avg_pool2d(token, grid))


def test_sizes_that_divide_stay_average_pooling() -> None:
    assert StaticPool((64, 32), (8, 8)).window == (8, 4)
    assert StaticPool((64, 30), (8, 8)).window is None


def settled(model: nn.Module) -> nn.Module:
    """With activations of unit variance, as when trained: a saturated softmax turns rounding into differences."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 256, 256))  # 32 tokens
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (160, 96)])
@pytest.mark.parametrize("extractor", ["attention", "ppm", "aspp"])
def test_an_exportable_network_gives_the_same_logits(size: tuple[int, int], extractor: str) -> None:
    torch.manual_seed(0)
    model = settled(TopFormer(TINY.replace(extractor=extractor), num_classes=5))
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected, got = model(image), exportable(model, ((3, *size),))(image)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_exportable_leaves_the_network_as_it_was() -> None:
    model = TopFormer(TINY, num_classes=5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    static = exportable(model, ((3, 65, 65),))
    assert model.training
    assert not any(part._forward_pre_hooks for part in (*model.modules(), *static.modules()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(isinstance(part, Pool) for part in model.modules())
    assert not any(isinstance(part, Pool) for part in static.modules())
    assert static.state_dict().keys() == before.keys()


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
@pytest.mark.parametrize("extractor", ["attention", "ppm", "aspp"])
def test_graphs_of_blocks_compute_what_the_modules_do(size: tuple[int, int], extractor: str) -> None:
    arch = TINY.replace(extractor=extractor)
    by_kind: dict[str, Block] = {block.kind: block for block in decompose(arch, Task(image_size=size, output="labels"))}
    for block in by_kind.values():
        module = BlockModule(block).eval()
        inputs = [torch.randn(1, *shape) for shape in block.inputs]
        session = onnxruntime.InferenceSession(timing_graph(module, block.inputs))
        feeds = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, feeds)[0], module(*inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", [TINY, BASE])
def test_activations_neither_grow_nor_vanish_along_a_network(arch: TopFormerConfig) -> None:
    torch.manual_seed(0)
    network = TopFormer(arch, num_classes=5)
    normalise(network, ((3, 128, 128),))
    spreads: list[float] = []
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda _part, _given, out: spreads.append(float(out.std())))
    assert network.training
    with torch.no_grad():
        network.eval()(*map(torch.from_numpy, timed_inputs([(1, 3, 128, 128)])))
    assert 0.5 < min(spreads) <= max(spreads) < 2


@pytest.mark.slow
def test_subnormal_numbers_are_flushed_although_onnxruntimes_first_session_stops_that() -> None:
    code = """
import torch
from latency_lut.devices import Burst
from latency_lut.devices.host import Host
from latency_lut.runtimes.onnxruntime import OnnxRuntime
from topformer.blocks import decompose
from topformer.config import TINY, Task
class Multiply:
    inputs = ()
    def __call__(self):
        products.append(float(torch.tensor([1e-38]) * torch.tensor([0.01])))
class Toy:
    def load(self, graph):
        return Multiply()
host, runtime, products = Host(), OnnxRuntime(), []
with host.hold():
    host.load(runtime, runtime.build(decompose(TINY, Task(image_size=(64, 64)))[0]), alone=True)
    tuple(host.time([host.load(Toy(), b"", alone=False)], Burst(warm_up=0, runs=1, ms=0)))
assert products == [0.0], products
assert float(torch.tensor([1e-38]) * torch.tensor([0.01])) > 0
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_a_classifier_builds_and_runs() -> None:
    model = TopFormerClassifier(TINY, num_classes=7).eval()
    OnnxRuntime().load(timing_graph(model, ((3, 96, 96),)))()


def optimised_operators(graph: bytes, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.slow
def test_both_exporters_optimise_to_the_same_operators(tmp_path: Path) -> None:
    model = TopFormer(TINY, num_classes=150).eval()
    shape = (3, 512, 512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own; only the graph is of interest
        program = torch.onnx.export(
            exportable(model, (shape,)), (torch.zeros(1, *shape),), dynamo=True, opset_version=18, verbose=False
        )
    assert program is not None
    dynamo = program.model_proto.SerializeToString()
    assert optimised_operators(dynamo, tmp_path) == optimised_operators(timing_graph(model, (shape,)), tmp_path)

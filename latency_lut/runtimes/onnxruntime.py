"""onnxruntime on the CPU: one thread, full optimisation, inputs and outputs bound once.

Timing graphs come from the TorchScript exporter: `torch.onnx.export(dynamo=True)` takes 0.85 s a block and 9 s a
network, TorchScript a tenth of it, and onnxruntime optimises both to the same nodes
(tests/latency_lut/test_onnxruntime.py).
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state
from torch import Tensor, nn
from torch.nn import functional as F

from latency_lut.runtimes import Inference, RuntimeInfo
from topformer.blocks import PPM_BINS, Block
from topformer.config import Candidate
from topformer.keys import Shape
from topformer.model import BlockModule, Pool, PyramidPoolingModule, TopFormer, TopFormerClassifier, upsample

OPSET = 17
"""The newest that torch's TorchScript exporter supports without conversion."""
_INPUT_SEED = 0
_WEIGHT_SEED = 0


class OnnxRuntime:
    """The `Runtime` of onnxruntime's CPU provider, float32."""

    def info(self) -> RuntimeInfo:
        return RuntimeInfo(
            name="onnxruntime",
            version=onnxruntime.__version__,
            checksum=_library_checksum(),
            precision="float32",
            threads=1,
        )

    def build(self, what: Block | Candidate) -> bytes:
        """An ONNX model."""
        with torch.random.fork_rng():
            torch.manual_seed(_WEIGHT_SEED)
            module, inputs = _module_of(what)
            normalise(module, inputs)
        return timing_graph(module, inputs)

    def load(self, graph: bytes) -> Inference:
        """Binding spares a copy of the inputs and an allocation of the outputs, which no block in a network pays."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; the optimiser's warnings are about graphs it leaves as they are
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return _BoundSession(session)


def timing_graph(module: nn.Module, inputs: tuple[Shape, ...]) -> bytes:
    """An ONNX model of `module`, which stays as it is, for one image; `inputs` are (channels, height, width)."""
    out = io.BytesIO()
    static = exportable(module, inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        # the guard against images under 32 px, decided here for good because the size is static
        warnings.filterwarnings(
            "ignore",
            "Converting a tensor to a Python boolean",
            torch.jit.TracerWarning,  # type: ignore[attr-defined]
        )
        torch.onnx.export(static, _examples(inputs), out, dynamo=False, opset_version=OPSET)  # type: ignore[arg-type]  # buffers too
    return out.getvalue()


def normalise(module: nn.Module, inputs: tuple[Shape, ...]) -> None:
    """Give every batch norm the statistics of what reaches it from the timed inputs, as training would.

    Without, activations of made-up weights grow or vanish along a whole network, and time depends on them: a softmax
    that underflows took 1.1 ms there and 0.08 ms in the lone block, and a network up to 34 % longer than its blocks.
    """

    def take(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        values = given[0].transpose(0, 1).flatten(1)  # (channels, values)
        if values.shape[1] > 1:
            norm.running_mean.copy_(values.mean(1))
            norm.running_var.copy_(values.var(1))

    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take) for norm in norms]
    training = module.training
    module.eval()
    with torch.no_grad():
        module(*(torch.from_numpy(values) for values in timed_inputs([(1, *shape) for shape in inputs])))
    module.train(training)
    for hook in hooks:
        hook.remove()


def timed_inputs(shapes: Iterable[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
    """Of these shapes, the same each time."""
    random = np.random.default_rng(_INPUT_SEED)
    return (random.standard_normal(tuple(shape), dtype=np.float32) for shape in shapes)


def _module_of(what: Block | Candidate) -> tuple[nn.Module, tuple[Shape, ...]]:
    """With the shapes of its inputs."""
    if isinstance(what, Block):
        return BlockModule(what), what.inputs
    arch, task = what.arch, what.task
    image = ((3, *task.image_size),)
    if task.kind == "classification":
        return TopFormerClassifier(arch, num_classes=task.num_classes), image
    return TopFormer(arch, num_classes=task.num_classes, output=task.output), image


class _BoundSession:
    """A session with inputs and outputs of its own; calling it is one inference."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.binding = session.io_binding()
        self.inputs: list[NDArray[np.float32]] = []
        self.values: list[Any] = []  # kept here because the binding does not own them
        nodes = session.get_inputs()
        for node, numbers in zip(nodes, timed_inputs([node.shape for node in nodes]), strict=True):
            self.inputs.append(numbers)
            self.values.append(onnxruntime.OrtValue.ortvalue_from_numpy(numbers))  # which shares the memory
            self.binding.bind_ortvalue_input(node.name, self.values[-1])
        for node in session.get_outputs():
            kind = np.int64 if node.type == "tensor(int64)" else np.float32
            self.values.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(node.shape, kind))
            self.binding.bind_ortvalue_output(node.name, self.values[-1])

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def exportable(module: nn.Module, inputs: tuple[Shape, ...]) -> nn.Module:
    """A copy in evaluation mode, for exactly these inputs (channels, height, width), without adaptive pooling.

    Exporters refuse adaptive pooling to a size that does not divide, or write hundreds of nodes for it. Here it becomes
    two products with constant averaging matrices, or an ordinary average pooling where the size divides.
    """
    static = copy.deepcopy(module).eval()
    sizes = _pooled_sizes(static, inputs)
    for name, (size, grid) in sizes.items():
        old = static.get_submodule(name)
        if isinstance(old, PyramidPoolingModule):
            static.set_submodule(name, _StaticPyramidPooling(old, size))
        else:
            assert grid is not None
            static.set_submodule(name, StaticPool(size, grid))
    return static


class StaticPool(nn.Module):
    """Adaptive average pooling between two known sizes (height, width)."""

    def __init__(self, size: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.window: tuple[int, int] | None = None
        if size[0] % grid[0] == 0 and size[1] % grid[1] == 0:
            self.window = (size[0] // grid[0], size[1] // grid[1])
            return
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", averaging_matrix(size[0], grid[0]), persistent=False)
        self.register_buffer("columns", averaging_matrix(size[1], grid[1]).T.contiguous(), persistent=False)

    def forward(self, token: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, C, h, w) -> (B, C, *grid); `grid` is what the replaced module was called with."""
        if self.window:
            return F.avg_pool2d(token, self.window)
        return self.rows @ token @ self.columns


def averaging_matrix(size: int, bins: int) -> Tensor:
    """(bins, size): row i averages floor(i * size / bins) up to ceil((i + 1) * size / bins), as adaptive pooling."""
    matrix = torch.zeros(bins, size)
    for row in range(bins):
        start, stop = row * size // bins, math.ceil((row + 1) * size / bins)
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


class _StaticPyramidPooling(nn.Module):
    """A `PyramidPoolingModule` on one size."""

    def __init__(self, module: PyramidPoolingModule, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.pools = nn.ModuleList(StaticPool(size, (bins, bins)) for bins in PPM_BINS)
        self.branches = module.branches
        self.fuse = module.fuse

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        branches = zip(self.pools, self.branches, strict=True)
        maps = [x, *(upsample(F.relu(branch(pool(x))), self.size) for pool, branch in branches)]
        return F.relu(self.fuse(torch.cat(maps, dim=1)))


_Sizes = tuple[tuple[int, int], tuple[int, int] | None]


def _pooled_sizes(module: nn.Module, inputs: tuple[Shape, ...]) -> dict[str, _Sizes]:
    """Input size and grid (None where the module decides it) of every pooling, seen in one forward pass."""
    sizes: dict[str, _Sizes] = {}
    probe = copy.deepcopy(module).to("meta")  # shapes without arithmetic
    for name, part in probe.named_modules():
        if not isinstance(part, Pool | PyramidPoolingModule):
            continue

        def note(_part: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
            seen = (tuple(given[0].shape[-2:]), tuple(given[1]) if len(given) > 1 else None)
            assert sizes.setdefault(name, seen) == seen, f"{name} pools maps of two sizes"

        part.register_forward_pre_hook(note)
    with torch.no_grad():
        probe(*(example.to("meta") for example in _examples(inputs)))
    return sizes


def _examples(inputs: tuple[Shape, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(1, *shape) for shape in inputs)


@cache
def _library_checksum() -> str:
    return hashlib.sha256(Path(onnxruntime_pybind11_state.__file__).read_bytes()).hexdigest()[:16]

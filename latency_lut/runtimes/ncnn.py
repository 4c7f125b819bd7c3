"""ncnn: the `.param` text and the weights of a block or of a whole network, for the payload that runs them on Arm.

One function writes every kind of block from its spec; `block_network` calls it once, `candidate_network` once for each
block of `decompose`. Batch norms are folded into the convolutions and ReLUs fused, as in any deployment. Importing this
needs neither torch nor ncnn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from latency_lut.payload import build
from latency_lut.runtimes import Inference, RuntimeInfo
from topformer.blocks import (
    PPM_BINS,
    AdditionSpec,
    ArgmaxSpec,
    ASPPSpec,
    Block,
    ClassifierSpec,
    ConcatSpec,
    Conv,
    HeadSpec,
    InjectionSpec,
    MBConvSpec,
    PoolSpec,
    PPMSpec,
    ResizeSpec,
    SemanticsSpec,
    StemSpec,
    TransformerSpec,
    candidate_blocks,
)
from topformer.config import Candidate
from topformer.errors import UserError
from topformer.keys import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from topformer.model import ClassificationHead, ConvNorm

LONE_BLOCK = "body"
"""Name of the block in the network that `block_network` gives; as in `topformer.model.BlockModule`."""

EVICT_BYTES = 8 << 20
"""Twice the largest cache of a phone's core."""

_MAGIC = 7767517
_FLOAT32 = bytes(4)
"""ncnn's tag before an array of weights in float32."""
_FLOAT16 = (0x01306B47).to_bytes(4, "little")
"""ncnn's tag before an array of weights in float16, which is padded to whole words; biases are always float32."""
_RELU = "9=1"
_RELU6 = "9=3 -23310=2,0.0,6.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class NcnnLayer:
    """One line of a `.param` file."""

    kind: str
    name: str
    """Block and part of it, as "token_pyramid.stem/conv"; with a dot for the slash, the path of a torch module."""
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: str = ""
    conv: Conv | None = None
    """Of a layer with weights."""

    @property
    def block(self) -> str:
        return self.name.partition("/")[0]

    @property
    def line(self) -> str:
        counts = f"{len(self.bottoms)} {len(self.tops)}"
        return " ".join((self.kind, self.name, counts, *self.bottoms, *self.tops, self.params)).rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class NcnnNetwork:
    """A network as ncnn reads it; the blob of the last layer is the output."""

    layers: tuple[NcnnLayer, ...]
    inputs: tuple[Shape, ...]
    output: Shape
    evict_bytes: int = 0
    """To go through before each run (`lutbench --evict`)."""

    @property
    def param(self) -> str:
        """The `.param` file."""
        blobs = sum(len(layer.tops) for layer in self.layers)
        return "\n".join((str(_MAGIC), f"{len(self.layers)} {blobs}", *(layer.line for layer in self.layers), ""))

    def weights(self, module: nn.Module, *, half: bool = False) -> bytes:
        """The `.bin` file of `module`: a `TopFormer` or `TopFormerClassifier`, or the `BlockModule` of a lone block.

        `half`: weights in float16, at half the size; biases stay.
        """
        arrays = (_folded(layer, module) for layer in self.layers if layer.conv)
        return b"".join(_stored(weight, half=half) + bias.astype("<f4").tobytes() for weight, bias in arrays)


class Ncnn:
    """The `Runtime` of the payload `lutbench`, which an Arm device runs; float32, one thread."""

    def info(self) -> RuntimeInfo:
        """Of the payload; builds it if need be."""
        return RuntimeInfo(
            name="ncnn",
            version=build.NCNN_VERSION,
            checksum=build.checksum(build.payload()),
            precision="float32",
            threads=1,
        )

    def build(self, what: Block | Candidate) -> bytes:
        """A `.param` file; the payload makes the weights up."""
        network = block_network(what) if isinstance(what, Block) else candidate_network(what)
        return network.param.encode()

    def load(self, graph: bytes) -> Inference:
        raise UserError("ncnn's payload is a program for Arm: it does not run in this process.")


def block_network(block: Block) -> NcnnNetwork:
    """The block alone, on its inputs: `near0` of the layer just before it in a network, `far0` of one long before.

    What was written long before has left the caches, see `lutbench --evict`: the tokens that are pooled or injected.
    """
    graph = _Graph()
    far = isinstance(block.spec, PoolSpec | InjectionSpec | AdditionSpec)
    names = (f"{'far' if far and index == 0 else 'near'}{index}" for index in range(len(block.inputs)))
    inputs = [graph.input(name, shape) for name, shape in zip(names, block.inputs, strict=True)]
    _write(graph, dataclasses.replace(block, name=LONE_BLOCK), inputs)
    return dataclasses.replace(graph.network(block.inputs, block.output), evict_bytes=EVICT_BYTES)


def candidate_network(candidate: Candidate) -> NcnnNetwork:
    """The whole network, wired as `topformer.model.TopFormer.forward` and `TopFormerClassifier.forward`."""
    blocks = candidate_blocks(candidate)
    graph = _Graph()
    x = graph.input("image", blocks[0].inputs[0])
    semantics = shared = ""
    tokens: dict[str, str] = {}  # by stride
    shares: dict[str, str] = {}
    pooled: list[str] = []
    injected: list[str] = []
    for block in blocks:
        match block.name.split("."):
            case ["token_pyramid", stage, *_]:
                x = _write(graph, block, [x])
                tokens[stage.removeprefix("stage")] = x  # of each stage the last row stays
            case ["pooling", "concatenation"]:
                semantics = _write(graph, block, pooled)
            case ["pooling", stride]:
                semantics = _write(graph, block, [tokens[stride]])
                pooled.append(semantics)
            case ["transformer", _]:
                semantics = _write(graph, block, [semantics])
            case ["semantic_injection", "semantics"]:
                shared = _write(graph, block, [semantics])
            case ["semantic_injection", stride]:
                if not shared and not shares:
                    shares = _split_semantics(graph, candidate, semantics, tokens)
                injected.append(_write(graph, block, [tokens[stride], shared or shares[stride]]))
            case ["head"]:
                x = _write(graph, block, injected or [semantics])
            case ["post_processing", _]:
                x = _write(graph, block, [x])
            case _:
                raise AssertionError(f"no place in the network for block {block.name}")
    return graph.network(blocks[0].inputs, blocks[-1].output)


def _split_semantics(graph: _Graph, candidate: Candidate, semantics: str, tokens: Iterable[str]) -> dict[str, str]:
    """Each scale's share of the semantics, by stride; belongs to the block that made them."""
    strides = [stride for stride in tokens if stride.isdecimal()]
    if candidate.arch.token_source == "last":
        return dict.fromkeys(strides, semantics)
    widths = candidate.arch.widths
    params = f"-23300={len(widths)},{','.join(map(str, widths))} 1=0"
    name = f"{semantics.partition('/')[0]}/shares"
    return dict(zip(strides, graph.add_many(name, "Slice", semantics, len(widths), params), strict=True))


class _Graph:
    """Collects layers; a blob has the name of the layer that makes it."""

    def __init__(self) -> None:
        self.layers: list[NcnnLayer] = []

    def input(self, name: str, shape: Shape) -> str:
        channels, height, width = shape
        return self.add(name, "Input", params=f"0={width} 1={height} 2={channels}")

    def add(self, name: str, kind: str, *bottoms: str, params: str = "", conv: Conv | None = None) -> str:
        self.layers.append(NcnnLayer(kind=kind, name=name, bottoms=bottoms, tops=(name,), params=params, conv=conv))
        return name

    def add_many(self, name: str, kind: str, bottom: str, count: int, params: str) -> tuple[str, ...]:
        """A layer with `count` outputs."""
        tops = tuple(f"{name}.{index}" for index in range(count))
        self.layers.append(NcnnLayer(kind=kind, name=name, bottoms=(bottom,), tops=tops, params=params))
        return tops

    def conv(self, name: str, conv: Conv, bottom: str, activation: str = "") -> str:
        """With the norm folded in there is always a bias."""
        assert conv.norm or conv.bias, f"{name} has neither norm nor bias"
        size = conv.out_channels * (conv.in_channels // conv.groups) * conv.kernel**2
        params = (
            f"0={conv.out_channels} 1={conv.kernel} 2={conv.dilation} 3={conv.stride} "
            f"4={conv.kernel // 2 * conv.dilation} 5=1 6={size}"
        )
        kind = "Convolution"
        if conv.groups > 1:
            kind, params = "ConvolutionDepthWise", f"{params} 7={conv.groups}"
        return self.add(name, kind, bottom, params=f"{params} {activation}".rstrip(), conv=conv)

    def linear(self, name: str, linear: Conv, bottom: str) -> str:
        params = f"0={linear.out_channels} 1=1 2={linear.out_channels * linear.in_channels}"
        return self.add(name, "InnerProduct", bottom, params=params, conv=linear)

    def plus(self, name: str, a: str, b: str) -> str:
        return self.add(name, "BinaryOp", a, b, params="0=0")

    def times(self, name: str, a: str, b: str) -> str:
        return self.add(name, "BinaryOp", a, b, params="0=2")

    def pool(self, name: str, bottom: str, size: tuple[int, int]) -> str:
        """Adaptive average."""
        height, width = size
        return self.add(name, "Pooling", bottom, params=f"0=1 7=1 8={width} 18={height}")

    def resize(self, name: str, bottom: str, size: tuple[int, int]) -> str:
        """Bilinear, corners not aligned."""
        height, width = size
        return self.add(name, "Interp", bottom, params=f"0=2 3={height} 4={width} 6=0")

    def concat(self, name: str, bottoms: Iterable[str]) -> str:
        return self.add(name, "Concat", *bottoms, params="0=0")

    def reshape(self, name: str, bottom: str, shape: Shape) -> str:
        channels, height, width = shape
        return self.add(name, "Reshape", bottom, params=f"0={width} 1={height} 2={channels}")

    def network(self, inputs: tuple[Shape, ...], output: Shape) -> NcnnNetwork:
        """ncnn wants each blob read once: a `Split`, which copies nothing, goes behind those that are read again."""
        readers = Counter(blob for layer in self.layers for blob in layer.bottoms)
        copies: dict[str, list[str]] = {}
        layers: list[NcnnLayer] = []
        for layer in self.layers:
            bottoms = tuple(copies[blob].pop(0) if blob in copies else blob for blob in layer.bottoms)
            layers.append(dataclasses.replace(layer, bottoms=bottoms))
            for blob in layer.tops:
                if readers[blob] < 2:
                    continue
                copies[blob] = [f"{blob}@{index}" for index in range(readers[blob])]
                layers.append(
                    NcnnLayer(
                        kind="Split",
                        name=f"{blob}@" if "/" in blob else f"{blob}/split",
                        bottoms=(blob,),
                        tops=tuple(copies[blob]),
                    )
                )
        return NcnnNetwork(layers=tuple(layers), inputs=inputs, output=output)


def _write(graph: _Graph, block: Block, inputs: Sequence[str]) -> str:
    """The layers of a block behind the blobs `inputs`; gives its output blob. Parts have `topformer.model`'s names."""
    at = f"{block.name}/"
    x = inputs[0]
    size = block.output[1:]
    match block.spec:
        case StemSpec() as spec:
            return graph.conv(f"{at}conv", spec.conv, x, _RELU)
        case MBConvSpec() as spec:
            hidden = graph.conv(f"{at}expansion", spec.expansion, x, _RELU) if spec.expansion else x
            hidden = graph.conv(f"{at}depthwise", spec.depthwise, hidden, _RELU)
            out = graph.conv(f"{at}projection", spec.projection, hidden)
            return graph.plus(f"{at}sum", x, out) if spec.skip else out
        case PoolSpec():
            return graph.pool(f"{at}pool", x, size)
        case ConcatSpec():
            return graph.concat(f"{at}concat", inputs)
        case TransformerSpec() as spec:
            if spec.num_heads:
                x = graph.plus(f"{at}attention.sum", x, _write_attention(graph, f"{at}attention.", spec, x, size))
            hidden = graph.conv(f"{at}ffn.expansion", spec.ffn_in, x)
            hidden = graph.conv(f"{at}ffn.depthwise", spec.ffn_depthwise, hidden, _RELU6)
            return graph.plus(f"{at}ffn.sum", x, graph.conv(f"{at}ffn.projection", spec.ffn_out, hidden))
        case PPMSpec() as spec:
            maps = [x]
            for index, bins in enumerate(PPM_BINS):
                pooled = graph.pool(f"{at}branches.{index}.pool", x, (bins, bins))
                branch = graph.conv(f"{at}branches.{index}", spec.branch, pooled, _RELU)
                maps.append(graph.resize(f"{at}branches.{index}.resize", branch, size))
            return graph.conv(f"{at}fuse", spec.fuse, graph.concat(f"{at}concat", maps), _RELU)
        case ASPPSpec() as spec:
            maps = [graph.conv(f"{at}pointwise", spec.pointwise, x, _RELU)]
            maps += [graph.conv(f"{at}dilated.{i}", conv, x, _RELU) for i, conv in enumerate(spec.dilated)]
            image = graph.conv(f"{at}image", spec.pointwise, graph.pool(f"{at}image.pool", x, (1, 1)), _RELU)
            maps.append(graph.resize(f"{at}image.resize", image, size))
            return graph.conv(f"{at}fuse", spec.fuse, graph.concat(f"{at}concat", maps), _RELU)
        case InjectionSpec() as spec:
            out = graph.conv(f"{at}local", spec.local, x)
            if spec.gated:
                gate = graph.conv(f"{at}gate", spec.semantic, inputs[1])
                gate = graph.add(f"{at}gate.squash", "HardSigmoid", gate, params=f"0={1 / 6:.9g} 1=0.5")
                out = graph.times(f"{at}product", out, graph.resize(f"{at}gate.resize", gate, size))
            if spec.informed:
                information = graph.conv(f"{at}information", spec.semantic, inputs[1])
                out = graph.plus(f"{at}sum", out, graph.resize(f"{at}information.resize", information, size))
            return out
        case SemanticsSpec() as spec:
            return graph.conv(f"{at}conv", spec.conv, x)
        case AdditionSpec() as spec:
            local = graph.conv(f"{at}local", spec.local, x)
            return graph.plus(f"{at}sum", local, graph.resize(f"{at}resize", inputs[1], size))
        case HeadSpec() as spec:
            return _write_head(graph, at, spec, inputs, size)
        case ClassifierSpec() as spec:
            mean = graph.add(f"{at}mean", "Pooling", x, params="0=1 4=1")
            return graph.linear(f"{at}linear", spec.linear, mean)
        case ResizeSpec():
            return graph.resize(f"{at}resize", x, size)
        case ArgmaxSpec():
            return graph.add(f"{at}argmax", "ChannelArgmax", x)
    raise AssertionError(f"no ncnn layers for block kind {block.kind}")


def _write_attention(graph: _Graph, at: str, spec: TransformerSpec, x: str, size: tuple[int, int]) -> str:
    height, width = size
    heads, places = spec.num_heads, height * width
    query = graph.conv(f"{at}query", spec.query, x)
    key = graph.conv(f"{at}key", spec.query, x)
    value = graph.conv(f"{at}value", spec.value, x)
    query = graph.reshape(f"{at}query.heads", query, (heads, spec.key_dim, places))
    key = graph.reshape(f"{at}key.heads", key, (heads, spec.key_dim, places))
    value = graph.reshape(f"{at}value.heads", value, (heads, spec.value_dim, places))
    query = graph.add(f"{at}query.transposed", "Permute", query, params="0=1")
    scores = graph.add(f"{at}scores", "MatMul", query, key, params="0=0")  # (H, hw, hw)
    weights = graph.add(f"{at}softmax", "Softmax", scores, params="0=-1 1=1")
    mixed = graph.add(f"{at}mixed", "MatMul", value, weights, params="0=1")  # (H, value_dim, hw)
    mixed = graph.reshape(f"{at}mixed.map", mixed, (heads * spec.value_dim, height, width))
    mixed = graph.add(f"{at}mixed.clip", "Clip", mixed, params="0=0.0 1=6.0")
    return graph.conv(f"{at}projection", spec.projection, mixed)


def _write_head(graph: _Graph, at: str, spec: HeadSpec, inputs: Sequence[str], size: tuple[int, int]) -> str:
    maps = list(inputs)
    if spec.reduction:
        maps = [graph.conv(f"{at}reductions.{index}", spec.reduction, x) for index, x in enumerate(maps)]
    joined, *rest = (x if index == 0 else graph.resize(f"{at}resize.{index}", x, size) for index, x in enumerate(maps))
    if spec.reduction:
        joined = graph.concat(f"{at}concat", (joined, *rest))
    else:
        for index, x in enumerate(rest, start=1):
            joined = graph.plus(f"{at}sum.{index}", joined, x)
    return graph.conv(f"{at}classifier", spec.classifier, graph.conv(f"{at}fuse", spec.fuse, joined, _RELU))


def _stored(weight: NDArray[np.float64], *, half: bool) -> bytes:
    if not half:
        return _FLOAT32 + weight.astype("<f4").tobytes()
    content = weight.astype("<f2").tobytes()
    return _FLOAT16 + content + bytes(-len(content) % 4)


def _folded(layer: NcnnLayer, module: nn.Module) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (out, ...) and bias (out) that do the work of the layer's convolution and batch norm."""
    if layer.kind == "InnerProduct":  # here the norm comes first
        head = cast("ClassificationHead", module.get_submodule(layer.block))
        scale, shift = _scale_and_shift(head.norm)
        weight = _array(head.linear.weight)
        return weight * scale, _array(head.linear.bias) + weight @ shift
    part = cast("ConvNorm", module.get_submodule(layer.name.replace("/", ".")))
    weight = _array(part.conv.weight)
    bias = _array(part.conv.bias) if part.conv.bias is not None else np.zeros(len(weight))
    assert layer.conv is not None
    if layer.conv.norm:
        scale, shift = _scale_and_shift(cast("nn.BatchNorm2d", part.norm))
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift
    return weight, bias


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    return scale, _array(norm.bias) - _array(norm.running_mean) * scale


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()

"""What is the network made of? `decompose(arch, task)` is its one description; everything else is built from it.

Modules, parameters, multiply-adds, latency-table keys and the dashboard's bars all read the same list of `Block`s.
Standard library only. Counting conventions: `macs` are the multiply-adds of convolutions and matrix products for
one image; `fvcore_flops` is what fvcore's default handlers report (those, plus 2 per batch-norm element, 1 per
adaptive-pooling input element and 4 per bilinear output element), the "FLOPs" of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import prod
from typing import ClassVar, NamedTuple, Protocol

from topformer.config import STAGE_STRIDES, Candidate, InjectionKind, Task, TopFormerConfig
from topformer.keys import Shape, write_key

VALUE_RATIO = 2
"""Value channels per key channel of the attention."""
FFN_RATIO = 2
PPM_BINS = (1, 2, 3, 6)
"""PSPNet, arXiv:1612.01105."""
ASPP_RATES = (6, 12, 18)
"""DeepLabV3, arXiv:1706.05587, at output stride 16."""
MODULES = ("token_pyramid", "pooling", "transformer", "semantic_injection", "head", "post_processing")
"""First parts of block names, in the order data flows."""


class Cost(NamedTuple):
    """Per image."""

    macs: int
    fvcore_flops: int

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.macs + other.macs, self.fvcore_flops + other.fvcore_flops)


FREE = Cost(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conv:
    """A convolution, padded to keep the size up to its stride, with batch norm unless `norm` is off."""

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    norm: bool = True

    @property
    def parameters(self) -> int:
        weights = self.out_channels * (self.in_channels // self.groups) * self.kernel**2
        return weights + self.out_channels * (self.bias + 2 * self.norm)

    def cost(self, height: int, width: int) -> Cost:
        """For an output of that size."""
        elements = self.out_channels * height * width
        macs = elements * (self.in_channels // self.groups) * self.kernel**2
        return Cost(macs, macs + 2 * self.norm * elements)


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """A batch norm that follows no convolution."""

    channels: int

    @property
    def parameters(self) -> int:
        return 2 * self.channels

    def cost(self, height: int, width: int) -> Cost:
        return Cost(0, 2 * self.channels * height * width)


Layer = Conv | Norm


class Spec(Protocol):
    """The size-free part of a block; as it stands here, of one without parameters that keeps the shape."""

    kind: ClassVar[str]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Everything with parameters."""
        return ()

    def output(self, inputs: tuple[Shape, ...]) -> Shape | None:
        """Output shape, or None where the task decides it."""
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        """What the layers cost on the grid of the output."""
        return total(layer.cost(*output[1:]) for layer in self.layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class StemSpec(Spec):
    """conv3x3 of stride 2, BN, ReLU."""

    kind: ClassVar[str] = "stem"
    out_channels: int

    @property
    def conv(self) -> Conv:
        return Conv(in_channels=3, out_channels=self.out_channels, kernel=3, stride=2)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.conv,)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.out_channels, *halved(inputs[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class MBConvSpec(Spec):
    """Inverted residual; the skip exists iff stride is 1 and the channels match."""

    kind: ClassVar[str] = "inverted_residual"
    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel: int
    stride: int
    expands: bool
    """False for an expansion factor of 1, which has no expansion convolution."""

    @property
    def expansion(self) -> Conv | None:
        return Conv(in_channels=self.in_channels, out_channels=self.hidden_channels) if self.expands else None

    @property
    def depthwise(self) -> Conv:
        hidden = self.hidden_channels
        return Conv(in_channels=hidden, out_channels=hidden, kernel=self.kernel, stride=self.stride, groups=hidden)

    @property
    def projection(self) -> Conv:
        return Conv(in_channels=self.hidden_channels, out_channels=self.out_channels)

    @property
    def skip(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def layers(self) -> tuple[Layer, ...]:
        first = (self.expansion,) if self.expansion else ()
        return (*first, self.depthwise, self.projection)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        size = halved(inputs[0]) if self.stride == 2 else inputs[0][1:]
        return (self.out_channels, *size)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        before = self.expansion.cost(*inputs[0][1:]) if self.expansion else FREE
        return before + self.depthwise.cost(*output[1:]) + self.projection.cost(*output[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSpec(Spec):
    """Adaptive average pooling of one token to the grid of the semantics."""

    kind: ClassVar[str] = "pooling"
    channels: int

    def output(self, inputs: tuple[Shape, ...]) -> None:
        return None

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost(0, prod(inputs[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcatSpec(Spec):
    """Stacking of the pooled tokens along the channels."""

    kind: ClassVar[str] = "concatenation"

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerSpec(Spec):
    """Attention (absent for zero heads) and feed-forward network, each added to its input; no norm besides conv-BN."""

    kind: ClassVar[str] = "transformer_block"
    channels: int
    num_heads: int
    key_dim: int

    @property
    def value_dim(self) -> int:
        return VALUE_RATIO * self.key_dim

    @property
    def query(self) -> Conv:
        """Also the keys."""
        return Conv(in_channels=self.channels, out_channels=self.num_heads * self.key_dim)

    @property
    def value(self) -> Conv:
        return Conv(in_channels=self.channels, out_channels=self.num_heads * self.value_dim)

    @property
    def projection(self) -> Conv:
        return Conv(in_channels=self.num_heads * self.value_dim, out_channels=self.channels)

    @property
    def ffn_in(self) -> Conv:
        return Conv(in_channels=self.channels, out_channels=FFN_RATIO * self.channels)

    @property
    def ffn_depthwise(self) -> Conv:
        hidden = FFN_RATIO * self.channels
        return Conv(in_channels=hidden, out_channels=hidden, kernel=3, groups=hidden, bias=True, norm=False)

    @property
    def ffn_out(self) -> Conv:
        return Conv(in_channels=FFN_RATIO * self.channels, out_channels=self.channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        attention = (self.query, self.query, self.value, self.projection) if self.num_heads else ()
        return (*attention, self.ffn_in, self.ffn_depthwise, self.ffn_out)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        _, height, width = output
        products = self.num_heads * (height * width) ** 2 * (self.key_dim + self.value_dim)
        return Spec.cost(self, inputs, output) + Cost(products, products)


@dataclass(frozen=True, kw_only=True, slots=True)
class PPMSpec(Spec):
    """Pyramid pooling module (PSPNet): 1x1 convolutions of 4 pooled maps, stacked on the input, fused by conv3x3.

    Branches have a quarter of the channels, as in PSPNet; the paper does not print its own reading.
    """

    kind: ClassVar[str] = "pyramid_pooling_module"
    channels: int

    @property
    def branch(self) -> Conv:
        return Conv(in_channels=self.channels, out_channels=max(self.channels // len(PPM_BINS), 1))

    @property
    def fuse(self) -> Conv:
        stacked = self.channels + len(PPM_BINS) * self.branch.out_channels
        return Conv(in_channels=stacked, out_channels=self.channels, kernel=3)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (*[self.branch] * len(PPM_BINS), self.fuse)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        _, height, width = output
        resized = 4 * self.branch.out_channels * height * width
        branches = total(self.branch.cost(bins, bins) + Cost(0, prod(inputs[0]) + resized) for bins in PPM_BINS)
        return branches + self.fuse.cost(height, width)


@dataclass(frozen=True, kw_only=True, slots=True)
class ASPPSpec(Spec):
    """Atrous spatial pyramid pooling (DeepLabV3): 1x1, three dilated 3x3 and an image-pooling branch, fused by 1x1.

    Every branch keeps the channels; the paper does not print its own reading.
    """

    kind: ClassVar[str] = "atrous_pyramid_pooling"
    channels: int

    @property
    def pointwise(self) -> Conv:
        """Also the image-pooling branch's."""
        return Conv(in_channels=self.channels, out_channels=self.channels)

    @property
    def dilated(self) -> tuple[Conv, ...]:
        return tuple(
            Conv(in_channels=self.channels, out_channels=self.channels, kernel=3, dilation=rate) for rate in ASPP_RATES
        )

    @property
    def fuse(self) -> Conv:
        return Conv(in_channels=(2 + len(ASPP_RATES)) * self.channels, out_channels=self.channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.pointwise, *self.dilated, self.pointwise, self.fuse)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        _, height, width = output
        full = total(conv.cost(height, width) for conv in (self.pointwise, *self.dilated, self.fuse))
        return full + self.pointwise.cost(1, 1) + Cost(0, prod(inputs[0]) + 4 * prod(output))


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectionSpec(Spec):
    """Semantic injection of one scale (section 3.3): inputs are the token and its share of the semantics."""

    kind: ClassVar[str] = "injection"
    local_channels: int
    semantic_channels: int
    out_channels: int
    injection: InjectionKind

    @property
    def local(self) -> Conv:
        return Conv(in_channels=self.local_channels, out_channels=self.out_channels)

    @property
    def semantic(self) -> Conv:
        """Of the gate and of the information, each."""
        return Conv(in_channels=self.semantic_channels, out_channels=self.out_channels)

    @property
    def gated(self) -> bool:
        return self.injection in ("full", "attention")

    @property
    def informed(self) -> bool:
        return self.injection in ("full", "semantics")

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.local, *[self.semantic] * (self.gated + self.informed))

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.out_channels, *inputs[0][1:])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        embedded = self.semantic.cost(*inputs[1][1:]) + Cost(0, 4 * prod(output))
        return self.local.cost(*output[1:]) + total([embedded] * (self.gated + self.informed))


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticsSpec(Spec):
    """conv1x1-BN of the unsplit semantics, shared by all scales (sum and concat heads)."""

    kind: ClassVar[str] = "semantics_projection"
    in_channels: int
    out_channels: int

    @property
    def conv(self) -> Conv:
        return Conv(in_channels=self.in_channels, out_channels=self.out_channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.conv,)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.out_channels, *inputs[0][1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class AdditionSpec(Spec):
    """conv1x1-BN of one token plus the upsampled shared semantics (sum and concat heads)."""

    kind: ClassVar[str] = "addition"
    local_channels: int
    out_channels: int

    @property
    def local(self) -> Conv:
        return Conv(in_channels=self.local_channels, out_channels=self.out_channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.local,)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.out_channels, *inputs[0][1:])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.local.cost(*output[1:]) + Cost(0, 4 * prod(output))


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec(Spec):
    """Segmentation head: scales joined at the finest one by sum or concatenation, conv1x1-BN-ReLU, classifier.

    Concatenation first reduces each scale to an equal share of the channels (conv1x1-BN). Dropout (0.1) in training.
    """

    kind: ClassVar[str] = "head"
    channels: int
    num_scales: int
    num_classes: int
    depthwise: bool
    concatenates: bool

    @property
    def reduction(self) -> Conv | None:
        """Of each scale."""
        share = self.channels // self.num_scales
        return Conv(in_channels=self.channels, out_channels=share) if self.concatenates else None

    @property
    def fuse(self) -> Conv:
        joined = self.reduction.out_channels * self.num_scales if self.reduction else self.channels
        groups = self.channels if self.depthwise else 1
        return Conv(in_channels=joined, out_channels=self.channels, groups=groups)

    @property
    def classifier(self) -> Conv:
        return Conv(in_channels=self.channels, out_channels=self.num_classes, bias=True, norm=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        reductions = [self.reduction] * self.num_scales if self.reduction else []
        return (*reductions, self.fuse, self.classifier)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.num_classes, *inputs[0][1:])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        _, height, width = output
        joined = self.reduction.out_channels if self.reduction else self.channels
        resized = Cost(0, 4 * joined * height * width * (self.num_scales - 1))
        reduced = total(self.reduction.cost(*shape[1:]) for shape in inputs) if self.reduction else FREE
        return reduced + resized + self.fuse.cost(height, width) + self.classifier.cost(height, width)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSpec(Spec):
    """Classification head: global average pool, BatchNorm1d, linear layer."""

    kind: ClassVar[str] = "classifier"
    channels: int
    num_classes: int

    @property
    def linear(self) -> Conv:
        return Conv(in_channels=self.channels, out_channels=self.num_classes, bias=True, norm=False)

    @property
    def norm(self) -> Norm:
        return Norm(channels=self.channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.norm, self.linear)

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (self.num_classes, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeSpec(Spec):
    """Bilinear resize of the logits to the image."""

    kind: ClassVar[str] = "resize"
    channels: int

    def output(self, inputs: tuple[Shape, ...]) -> None:
        return None

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost(0, 4 * prod(output))


@dataclass(frozen=True, kw_only=True, slots=True)
class ArgmaxSpec(Spec):
    """Label of the greatest logit."""

    kind: ClassVar[str] = "argmax"
    channels: int

    def output(self, inputs: tuple[Shape, ...]) -> Shape:
        return (1, *inputs[0][1:])


@dataclass(frozen=True, kw_only=True)
class Block:
    """One node of the network: where it is, what it is, and the shapes it runs on."""

    name: str = field(compare=False)
    """Path of the module in `topformer.model.TopFormer`."""
    spec: Spec
    inputs: tuple[Shape, ...]
    output: Shape

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def module(self) -> str:
        """The part of the network it belongs to, one of `MODULES`."""
        return self.name.partition(".")[0]

    @cached_property
    def key(self) -> str:
        """Latency-table key (`topformer.keys`); a query reads it thousands of times.

        Settings are the spec's fields by name and in their order. To rename, add or move a field would change keys that
        tables hold: write the old name here, then.
        """
        if isinstance(self.spec, ConcatSpec):
            return write_key(self.kind, {"parts": len(self.inputs)}, (), self.output)
        settings = {item.name: getattr(self.spec, item.name) for item in fields(self.spec)}  # type: ignore[arg-type]
        return write_key(self.kind, settings, self.inputs, self.output)

    @property
    def parameters(self) -> int:
        """Trainable."""
        return sum(layer.parameters for layer in self.spec.layers)

    @property
    def cost(self) -> Cost:
        return self.spec.cost(self.inputs, self.output)

    @property
    def macs(self) -> int:
        return self.cost.macs


def decompose(arch: TopFormerConfig, task: Task) -> tuple[Block, ...]:
    """The network as blocks, in the order they run."""
    walk = _Walk()
    tokens = _token_pyramid(walk, arch, task)
    grid = token_grid(*tokens[-1][1:], 32 if task.kind == "classification" else arch.token_stride)
    semantics = _semantics(walk, arch, tokens, grid)
    if task.kind == "classification":
        classifier = ClassifierSpec(channels=arch.semantic_channels, num_classes=task.num_classes)
        walk.add("head", classifier, semantics)
        return tuple(walk.blocks)
    logits = _segmentation_head(walk, arch, task, tokens, semantics)
    if task.output in ("resized", "labels"):
        logits = walk.add("post_processing.resize", ResizeSpec(channels=task.num_classes), logits, size=task.image_size)
    if task.output == "labels":
        walk.add("post_processing.argmax", ArgmaxSpec(channels=task.num_classes), logits)
    return tuple(walk.blocks)


def halved(shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) after a layer of stride 2: odd sizes round up."""
    return (shape[-2] + 1) // 2, (shape[-1] + 1) // 2


def token_grid(height: int, width: int, token_stride: int) -> tuple[int, int]:
    """Grid of the semantics, from the size of the tokens at stride 32."""
    divisor = token_stride // 32
    return (height - 1) // divisor + 1, (width - 1) // divisor + 1


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, FREE)


def parameters_by_module(blocks: Iterable[Block]) -> dict[str, int]:
    """Trainable parameters of each part that has any, in the order of `MODULES`."""
    counts = dict.fromkeys(MODULES, 0)
    for block in blocks:
        counts[block.module] += block.parameters
    return {name: count for name, count in counts.items() if count}


def candidate_blocks(candidate: Candidate) -> tuple[Block, ...]:
    return decompose(candidate.arch, candidate.task)


class _Walk:
    """Collects blocks while shapes flow through them."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def add(self, name: str, spec: Spec, *inputs: Shape, size: tuple[int, int] | None = None) -> Shape:
        output = spec.output(inputs)
        if output is None:
            assert size is not None, f"{name} needs a size"
            output = (inputs[0][0], *size)
        self.blocks.append(Block(name=name, spec=spec, inputs=inputs, output=output))
        return output


def _token_pyramid(walk: _Walk, arch: TopFormerConfig, task: Task) -> tuple[Shape, ...]:
    """Tokens at strides 4, 8, 16 and 32."""
    shape = walk.add("token_pyramid.stem", StemSpec(out_channels=arch.stem_channels), (3, *task.image_size))
    tokens = []
    stages = (
        ("stride2", arch.stride2),
        *((f"stage{s}", rows) for s, rows in zip(STAGE_STRIDES, arch.stages, strict=True)),
    )
    for stage_name, rows in stages:
        for index, row in enumerate(rows):
            spec = MBConvSpec(
                in_channels=shape[0],
                hidden_channels=round(shape[0] * row.expand),
                out_channels=row.channels,
                kernel=row.kernel,
                stride=row.stride,
                expands=row.expand != 1,
            )
            shape = walk.add(f"token_pyramid.{stage_name}.{index}", spec, shape)
        if stage_name != "stride2":
            tokens.append(shape)
    return tuple(tokens)


def _semantics(walk: _Walk, arch: TopFormerConfig, tokens: tuple[Shape, ...], grid: tuple[int, int]) -> Shape:
    """Pooled tokens through the semantics extractor."""
    sources = dict(zip(STAGE_STRIDES, tokens, strict=True))
    if arch.token_source == "last":
        sources = {32: tokens[-1]}
    pooled = [
        walk.add(f"pooling.{stride}", PoolSpec(channels=token[0]), token, size=grid)
        for stride, token in sources.items()
    ]
    semantics = pooled[0] if len(pooled) == 1 else walk.add("pooling.concatenation", ConcatSpec(), *pooled)
    for index, spec in enumerate(_extractor_specs(arch)):
        semantics = walk.add(f"transformer.{index}", spec, semantics)
    return semantics


def _extractor_specs(arch: TopFormerConfig) -> list[Spec]:
    channels = arch.semantic_channels
    match arch.extractor:
        case "attention" | "ffn":
            block = TransformerSpec(channels=channels, num_heads=arch.num_heads, key_dim=arch.key_dim)
            return [block] * arch.num_blocks
        case "ppm":
            return [PPMSpec(channels=channels)]
        case "aspp":
            return [ASPPSpec(channels=channels)]
        case "none":
            return []


def _segmentation_head(
    walk: _Walk, arch: TopFormerConfig, task: Task, tokens: tuple[Shape, ...], semantics: Shape
) -> Shape:
    """Injection of the semantics into the chosen scales, and the head on top."""
    width = arch.injection_channels
    local = dict(zip(STAGE_STRIDES, tokens, strict=True))
    shared = None
    if arch.head != "topformer":
        shared = walk.add(
            "semantic_injection.semantics", SemanticsSpec(in_channels=semantics[0], out_channels=width), semantics
        )
    injected = []
    for stride in arch.injected_strides:
        token = local[stride]
        if shared:
            addition = AdditionSpec(local_channels=token[0], out_channels=width)
            injected.append(walk.add(f"semantic_injection.{stride}", addition, token, shared))
            continue
        share = token[0] if arch.token_source == "pyramid" else semantics[0]  # a lone token's semantics are not split
        injection = InjectionSpec(
            local_channels=token[0], semantic_channels=share, out_channels=width, injection=arch.injection
        )
        injected.append(walk.add(f"semantic_injection.{stride}", injection, token, (share, *semantics[1:])))
    head = HeadSpec(
        channels=width,
        num_scales=len(injected),
        num_classes=task.num_classes,
        depthwise=arch.depthwise_head,
        concatenates=arch.head == "concat",
    )
    return walk.add("head", head, *injected)

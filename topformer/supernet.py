"""How do many architectures share one network's weights? A subnet runs on slices of a maximal TopFormer's tensors.

A subnet is an ordinary TopFormer without tensors of its own, called with slices of the supernet's: the first channels
of every width, the first heads, blocks and rows, the centres of kernels, and of the stacked semantics the first
channels of each token (slimmable networks, arXiv:1812.08928; Once-for-All, arXiv:1908.09791). Nothing in the supernet
says which subnet is active.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from topformer.blocks import (
    PPM_BINS,
    AdditionSpec,
    ASPPSpec,
    Block,
    Conv,
    HeadSpec,
    InjectionSpec,
    MBConvSpec,
    PPMSpec,
    SemanticsSpec,
    StemSpec,
    TransformerSpec,
    decompose,
)
from topformer.config import Task, TopFormerConfig
from topformer.errors import UserError
from topformer.model import SegmentationHead, TopFormer

Index = slice | tuple[int, ...]
"""Of one dimension: a run of entries, or these."""

_FUSE = "head.fuse."


class Supernet(nn.Module):
    """All subnets of one maximal architecture, and their weights."""

    def __init__(self, maximal: TopFormerConfig, *, num_classes: int) -> None:
        """`maximal` is at least as large as every subnet in every respect, but for the output stride, which has no
        weights; the head's fuse convolution is there both dense and depthwise, whatever `maximal` has."""
        super().__init__()
        self.maximal = maximal.replace(depthwise_head=False)
        self.num_classes = num_classes
        self.network = TopFormer(self.maximal, num_classes=num_classes)
        self.depthwise_fuse: nn.Module | None = None
        if maximal.head != "concat":
            depthwise = TopFormer(maximal.replace(depthwise_head=True), num_classes=num_classes)
            self.depthwise_fuse = cast(SegmentationHead, depthwise.head).fuse

    def forward(
        self, image: Tensor, arch: TopFormerConfig, statistics: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits and semantics of subnet `arch`, like `TopFormer.segment`.

        Batch norms use `statistics`, the buffers of an ordinary TopFormer by name, or else the batch's own. Raises
        `UserError` for an architecture that is no subnet.
        """
        subnet = _subnet(arch, self.num_classes, statistics is not None)
        subnet.train(self.training and statistics is None)
        tensors = self.weights_of(arch) | dict(statistics or {})
        return cast(
            tuple[Tensor, Tensor], functional_call(subnet, {f"network.{n}": t for n, t in tensors.items()}, (image,))
        )

    def weights_of(self, arch: TopFormerConfig) -> dict[str, Tensor]:
        """The slices, by the names of the parameters of a TopFormer of `arch`; gradients flow through them."""
        own = dict(self.network.named_parameters())
        if arch.depthwise_head and self.depthwise_fuse is not None:
            own |= {_FUSE + name: parameter for name, parameter in self.depthwise_fuse.named_parameters()}
        return {name: _taken(own[name], indices) for name, indices in self.slices_of(arch).items()}

    def slices_of(self, arch: TopFormerConfig) -> Mapping[str, tuple[Index, ...]]:
        """Which entries of each dimension a subnet's parameters are, by their names. Raises as `forward` does."""
        return _slices(arch, self.maximal.replace(depthwise_head=arch.depthwise_head), self.num_classes)

    def semantic_slice(self, weight: Tensor, arch: TopFormerConfig) -> Tensor:
        """Of a weight (out, S, ...) over the channels of the semantics, those that a subnet has."""
        return _taken(weight, (slice(0, len(weight)), _semantics(arch, self.maximal)))

    def why_not(self, arch: TopFormerConfig) -> str | None:
        """Why `arch` is no subnet, as a sentence; None for a subnet."""
        try:
            self.slices_of(arch)
        except UserError as error:
            return str(error)
        return None

    def extract(self, arch: TopFormerConfig, statistics: Mapping[str, Tensor] | None = None) -> TopFormer:
        """An ordinary TopFormer with copies of the slices, in eval mode.

        Without `statistics` its batch norms know of no data yet: recalibrate them before it is used.
        """
        network = TopFormer(arch, num_classes=self.num_classes).to(next(self.parameters()).device)
        weights = {name: tensor.detach().clone() for name, tensor in self.weights_of(arch).items()}
        network.load_state_dict(network.state_dict() | weights | dict(statistics or {}))
        return network.eval()


class _Subnet(nn.Module):
    """A TopFormer without tensors."""

    def __init__(self, network: TopFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.segment(image)


@lru_cache(maxsize=64)
def _subnet(arch: TopFormerConfig, num_classes: int, keeps_statistics: bool) -> _Subnet:
    with torch.device("meta"):
        network = TopFormer(arch, num_classes=num_classes)
    if not keeps_statistics:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    return _Subnet(network)


class _Part(NamedTuple):
    """A convolution of a subnet, and the one of the supernet that it is a slice of."""

    path: str
    conv: Conv
    whole: Conv | None
    inputs: Index
    """Ignored for a depthwise convolution."""
    outputs: Index


@lru_cache(maxsize=1024)
def _slices(arch: TopFormerConfig, maximal: TopFormerConfig, num_classes: int) -> Mapping[str, tuple[Index, ...]]:
    task = Task(num_classes=num_classes)
    whole = {block.name: block for block in decompose(maximal, task)}
    found: dict[str, tuple[Index, ...]] = {}
    for block in decompose(arch, task):
        if block.name not in whole or type(block.spec) is not type(whole[block.name].spec):
            raise _no_subnet(arch, f"it has {block.name} of kind {block.kind}, which the supernet lacks")
        for part in _parts(block, whole[block.name], arch, maximal):
            _require_fit(arch, block, part)
            assert part.whole is not None
            prefix = f"{block.name}.{part.path}" if part.path else block.name
            margin = (part.whole.kernel - part.conv.kernel) // 2
            kernel = slice(margin, margin + part.conv.kernel)
            inputs = slice(0, 1) if part.conv.groups > 1 else part.inputs
            found[f"{prefix}.conv.weight"] = (part.outputs, inputs, kernel, kernel)
            if part.conv.bias:
                found[f"{prefix}.conv.bias"] = (part.outputs,)
            if part.conv.norm:
                found[f"{prefix}.norm.weight"] = found[f"{prefix}.norm.bias"] = (part.outputs,)
    return found


def _require_fit(arch: TopFormerConfig, block: Block, part: _Part) -> None:
    if part.whole is None:
        raise _no_subnet(arch, f"its {block.name} has {part.path}, which the supernet's lacks")
    for what, needed, there in (
        ("input channels", part.conv.in_channels, part.whole.in_channels),
        ("output channels", part.conv.out_channels, part.whole.out_channels),
        ("pixels of kernel", part.conv.kernel, part.whole.kernel),
    ):
        if needed > there:
            raise _no_subnet(arch, f"{block.name}, {part.path}, has {needed} {what}, the supernet's {there}")


def _no_subnet(arch: TopFormerConfig, reason: str) -> UserError:
    return UserError(f"architecture {arch.key} is no subnet of this supernet: {reason}.")


def _parts(block: Block, whole: Block, arch: TopFormerConfig, maximal: TopFormerConfig) -> Iterator[_Part]:
    """The convolutions of a block, by their paths within its module."""
    match block.spec, whole.spec:
        case StemSpec() as spec, StemSpec() as of:
            yield _part("conv", spec.conv, of.conv)
        case MBConvSpec() as spec, MBConvSpec() as of:
            if spec.expansion:
                yield _part("expansion", spec.expansion, of.expansion)
            yield _part("depthwise", spec.depthwise, of.depthwise)
            yield _part("projection", spec.projection, of.projection)
        case TransformerSpec() as spec, TransformerSpec() as of:
            yield from _transformer_parts(spec, of, _semantics(arch, maximal))
        case PPMSpec() as spec, PPMSpec() as of:
            semantics = _semantics(arch, maximal)
            for index in range(len(PPM_BINS)):
                yield _part(f"branches.{index}", spec.branch, of.branch, inputs=semantics)
            stacked = [
                range(of.channels + i * of.branch.out_channels, of.fuse.in_channels) for i in range(len(PPM_BINS))
            ]
            pooled = [channel for some in stacked for channel in some[: spec.branch.out_channels]]
            yield _part("fuse", spec.fuse, of.fuse, inputs=(*_entries(semantics), *pooled), outputs=semantics)
        case ASPPSpec() as spec, ASPPSpec() as of:
            semantics = _semantics(arch, maximal)
            for path in ("pointwise", "image"):
                yield _part(path, spec.pointwise, of.pointwise, inputs=semantics)
            for index, (conv, model) in enumerate(zip(spec.dilated, of.dilated, strict=True)):
                yield _part(f"dilated.{index}", conv, model, inputs=semantics)
            yield _part(
                "fuse", spec.fuse, of.fuse, inputs=_repeated(spec.fuse, of.fuse, spec.channels), outputs=semantics
            )
        case InjectionSpec() as spec, InjectionSpec() as of:
            yield _part("local", spec.local, of.local)
            if spec.gated:
                yield _part("gate", spec.semantic, of.semantic if of.gated else None)
            if spec.informed:
                yield _part("information", spec.semantic, of.semantic if of.informed else None)
        case SemanticsSpec() as spec, SemanticsSpec() as of:
            yield _part("conv", spec.conv, of.conv, inputs=_semantics(arch, maximal))
        case AdditionSpec() as spec, AdditionSpec() as of:
            yield _part("local", spec.local, of.local)
        case HeadSpec() as spec, HeadSpec() as of:
            yield from _head_parts(spec, of, arch, maximal)


def _transformer_parts(spec: TransformerSpec, of: TransformerSpec, semantics: Index) -> Iterator[_Part]:
    if spec.num_heads:
        keys = _per_head(spec.num_heads, spec.key_dim, of.key_dim)
        values = _per_head(spec.num_heads, spec.value_dim, of.value_dim)
        for path in ("attention.query", "attention.key"):
            yield _part(path, spec.query, of.query, inputs=semantics, outputs=keys)
        yield _part("attention.value", spec.value, of.value, inputs=semantics, outputs=values)
        yield _part("attention.projection", spec.projection, of.projection, inputs=values, outputs=semantics)
    yield _part("ffn.expansion", spec.ffn_in, of.ffn_in, inputs=semantics)
    yield _part("ffn.depthwise", spec.ffn_depthwise, of.ffn_depthwise)
    yield _part("ffn.projection", spec.ffn_out, of.ffn_out, outputs=semantics)


def _head_parts(spec: HeadSpec, of: HeadSpec, arch: TopFormerConfig, maximal: TopFormerConfig) -> Iterator[_Part]:
    inputs: Index | None = None
    if spec.reduction:
        if of.reduction is None or arch.injected_strides != maximal.injected_strides[: spec.num_scales]:
            raise _no_subnet(
                arch, "a concat head reduces its scales in order, so the finest ones must be the supernet's"
            )
        for index in range(spec.num_scales):
            yield _part(f"reductions.{index}", spec.reduction, of.reduction)
        inputs = _repeated(spec.fuse, of.fuse, spec.reduction.out_channels, of.reduction.out_channels)
    yield _part("fuse", spec.fuse, of.fuse, inputs=inputs)
    yield _part("classifier", spec.classifier, of.classifier)


def _part(
    path: str, conv: Conv, whole: Conv | None, inputs: Index | None = None, outputs: Index | None = None
) -> _Part:
    """The first channels, unless others are given."""
    return _Part(path, conv, whole, inputs or slice(0, conv.in_channels), outputs or slice(0, conv.out_channels))


def _semantics(arch: TopFormerConfig, maximal: TopFormerConfig) -> Index:
    """Channels of the semantics: the first of each token's."""
    if arch.token_source != maximal.token_source:
        raise _no_subnet(
            arch, f"its semantics come from the tokens {arch.token_source!r}, the supernet's {maximal.token_source!r}"
        )
    if arch.token_source == "last":
        return slice(0, arch.semantic_channels)
    starts = accumulate((0, *maximal.widths[:-1]))
    return _compact([start + c for start, width in zip(starts, arch.widths, strict=True) for c in range(width)])


def _per_head(heads: int, channels: int, there: int) -> Index:
    """The first channels of each of the first heads."""
    return _compact([head * there + channel for head in range(heads) for channel in range(channels)])


def _repeated(conv: Conv, whole: Conv, channels: int, there: int | None = None) -> Index:
    """The first channels of each of the parts that a fuse convolution takes."""
    parts = conv.in_channels // channels
    return _per_head(parts, channels, there or whole.in_channels // parts)


def _compact(entries: list[int]) -> Index:
    """As a slice where they are a run: a slice is a view, everything else is copied."""
    first, last = entries[0], entries[-1]
    return slice(first, last + 1) if last - first + 1 == len(entries) else tuple(entries)


def _entries(index: Index) -> tuple[int, ...]:
    return tuple(range(index.start, index.stop)) if isinstance(index, slice) else index


def _taken(tensor: Tensor, indices: tuple[Index, ...]) -> Tensor:
    for dimension, index in enumerate(indices):
        if isinstance(index, slice):
            tensor = tensor.narrow(dimension, index.start, index.stop - index.start)
        else:
            tensor = tensor.index_select(dimension, _on_device(index, tensor.device))
    return tensor


@lru_cache(maxsize=1024)
def _on_device(index: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(index, device=device)

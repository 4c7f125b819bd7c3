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
    ASPP_RATES,
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
from topformer.model import ConvNorm, TopFormer, initialise

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
            channels = maximal.injection_channels
            self.depthwise_fuse = ConvNorm(Conv(in_channels=channels, out_channels=channels, groups=channels))
            self.depthwise_fuse.apply(initialise)

    def forward(
        self, image: Tensor, arch: TopFormerConfig, statistics: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits and semantics of subnet `arch`, like `TopFormer.segment`.

        Batch norms use the batch's own statistics, or, in eval mode whatever the supernet's, the given ones: all
        buffers of an ordinary TopFormer, by name. Raises `UserError` for an architecture that is no subnet.
        """
        tensors = self.weights_of(arch) | dict(statistics or {})
        subnet = _subnet(arch, self.num_classes, statistics is not None)
        subnet.train(self.training and statistics is None)
        named = {f"network.{name}": tensor for name, tensor in tensors.items()}
        return cast(tuple[Tensor, Tensor], functional_call(subnet, named, (image,), strict=True))

    def weights_of(self, arch: TopFormerConfig) -> dict[str, Tensor]:
        """The slices, by the names of the parameters of a TopFormer of `arch`; gradients flow through them."""
        own = dict(self.network.named_parameters())
        if arch.depthwise_head and self.depthwise_fuse is not None:
            own |= {_FUSE + name: parameter for name, parameter in self.depthwise_fuse.named_parameters()}
        return {name: _taken(own[name], indices) for name, indices in self.slices_of(arch).items()}

    def slices_of(self, arch: TopFormerConfig) -> Mapping[str, tuple[Index, ...]]:
        """Which entries of each dimension a subnet's parameters are, by their names. Raises as `forward` does."""
        return _slices(arch, self.maximal, self.num_classes)

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
        weights = self.weights_of(arch)
        network = _empty(arch, self.num_classes).to_empty(device=next(self.parameters()).device)
        for norm in _batch_norms(network):
            norm.reset_running_stats()
        network.load_state_dict(weights | dict(network.named_buffers() if statistics is None else statistics))
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
    network = _empty(arch, num_classes)
    if not keeps_statistics:
        for norm in _batch_norms(network):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return _Subnet(network)


def _empty(arch: TopFormerConfig, num_classes: int) -> TopFormer:
    """On the meta device: no numbers are drawn, and none are there."""
    with torch.device("meta"):
        return TopFormer(arch, num_classes=num_classes)


def _batch_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


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
    for what in ("head", "token_source"):
        own, there = getattr(arch, what), getattr(maximal, what)
        if own != there:
            raise _no_subnet(arch, f"its {what} is {own!r}, the supernet's {there!r}")
    task = Task(num_classes=num_classes)
    whole = {block.name: block for block in decompose(maximal.replace(depthwise_head=arch.depthwise_head), task)}
    found: dict[str, tuple[Index, ...]] = {}
    for block in decompose(arch, task):
        _require_block(arch, block, whole)
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


def _require_block(arch: TopFormerConfig, block: Block, whole: Mapping[str, Block]) -> None:
    if block.name not in whole:
        parent = block.name.rpartition(".")[0]
        there = [name.rpartition(".")[2] for name in whole if name.rpartition(".")[0] == parent]
        raise _no_subnet(arch, f"it has {block.name}, and the supernet's {parent} has {', '.join(there) or 'nothing'}")
    if block.kind != whole[block.name].kind:
        raise _no_subnet(arch, f"its {block.name} is of kind {block.kind}, the supernet's {whole[block.name].kind}")


def _require_fit(arch: TopFormerConfig, block: Block, part: _Part) -> None:
    if part.whole is None:
        raise _no_subnet(arch, f"its {block.name} has {part.path}, which the supernet's lacks")
    for what, own, there in (
        ("input channels", part.conv.in_channels, part.whole.in_channels),
        ("output channels", part.conv.out_channels, part.whole.out_channels),
        ("pixels of kernel", part.conv.kernel, part.whole.kernel),
    ):
        if own > there:
            raise _no_subnet(arch, f"its {block.name}.{part.path} has {own} {what}, the supernet's {there}")


def _no_subnet(arch: TopFormerConfig, reason: str) -> UserError:
    return UserError(f"architecture {arch.key} is no subnet of this supernet: {reason}.")


def _parts(block: Block, whole: Block, arch: TopFormerConfig, maximal: TopFormerConfig) -> Iterator[_Part]:
    """The convolutions of a block, by their paths within its module."""
    semantics = _semantics(arch, maximal)
    match block.spec, whole.spec:
        case StemSpec() as spec, StemSpec() as of:
            yield _part("conv", spec.conv, of.conv)
        case MBConvSpec() as spec, MBConvSpec() as of:
            if spec.expansion:
                yield _part("expansion", spec.expansion, of.expansion)
            yield _part("depthwise", spec.depthwise, of.depthwise)
            yield _part("projection", spec.projection, of.projection)
        case TransformerSpec() as spec, TransformerSpec() as of:
            for what, own, there in (
                ("heads", spec.num_heads, of.num_heads),
                ("key channels per head", spec.key_dim, of.key_dim),
            ):
                if own > there:
                    raise _no_subnet(arch, f"its {block.name} has {own} {what}, the supernet's {there}")
            yield from _transformer_parts(spec, of, semantics)
        case PPMSpec() as spec, PPMSpec() as of:
            for index in range(len(PPM_BINS)):
                yield _part(f"branches.{index}", spec.branch, of.branch, inputs=semantics)
            inputs = [*_entries(semantics)]
            inputs += [
                of.channels + c for c in _per_part(len(PPM_BINS), spec.branch.out_channels, of.branch.out_channels)
            ]
            yield _part("fuse", spec.fuse, of.fuse, inputs=_compact(inputs), outputs=semantics)
        case ASPPSpec() as spec, ASPPSpec() as of:
            for path in ("pointwise", "image"):
                yield _part(path, spec.pointwise, of.pointwise, inputs=semantics)
            for index, (conv, model) in enumerate(zip(spec.dilated, of.dilated, strict=True)):
                yield _part(f"dilated.{index}", conv, model, inputs=semantics)
            inputs = _per_part(2 + len(ASPP_RATES), spec.channels, of.channels)
            yield _part("fuse", spec.fuse, of.fuse, inputs=_compact(inputs), outputs=semantics)
        case InjectionSpec() as spec, InjectionSpec() as of:
            yield _part("local", spec.local, of.local)
            if spec.gated:
                yield _part("gate", spec.semantic, of.semantic if of.gated else None)
            if spec.informed:
                yield _part("information", spec.semantic, of.semantic if of.informed else None)
        case SemanticsSpec() as spec, SemanticsSpec() as of:
            yield _part("conv", spec.conv, of.conv, inputs=semantics)
        case AdditionSpec() as spec, AdditionSpec() as of:
            yield _part("local", spec.local, of.local)
        case HeadSpec() as spec, HeadSpec() as of:
            yield from _head_parts(spec, of, arch, maximal)


def _transformer_parts(spec: TransformerSpec, of: TransformerSpec, semantics: Index) -> Iterator[_Part]:
    if spec.num_heads:
        keys = _compact(_per_part(spec.num_heads, spec.key_dim, of.key_dim))
        values = _compact(_per_part(spec.num_heads, spec.value_dim, of.value_dim))
        for path in ("attention.query", "attention.key"):
            yield _part(path, spec.query, of.query, inputs=semantics, outputs=keys)
        yield _part("attention.value", spec.value, of.value, inputs=semantics, outputs=values)
        yield _part("attention.projection", spec.projection, of.projection, inputs=values, outputs=semantics)
    yield _part("ffn.expansion", spec.ffn_in, of.ffn_in, inputs=semantics)
    yield _part("ffn.depthwise", spec.ffn_depthwise, of.ffn_depthwise)
    yield _part("ffn.projection", spec.ffn_out, of.ffn_out, outputs=semantics)


def _head_parts(spec: HeadSpec, of: HeadSpec, arch: TopFormerConfig, maximal: TopFormerConfig) -> Iterator[_Part]:
    inputs: Index | None = None
    if spec.reduction and of.reduction:
        finest = maximal.injected_strides[: spec.num_scales]
        if arch.injected_strides != finest:
            raise _no_subnet(
                arch,
                f"its head concatenates strides {_listed(arch.injected_strides)}, and the first reductions of the "
                f"supernet's are of strides {_listed(finest)}",
            )
        for index in range(spec.num_scales):
            yield _part(f"reductions.{index}", spec.reduction, of.reduction)
        inputs = _compact(_per_part(spec.num_scales, spec.reduction.out_channels, of.reduction.out_channels))
    yield _part("fuse", spec.fuse, of.fuse, inputs=inputs)
    yield _part("classifier", spec.classifier, of.classifier)


def _part(
    path: str, conv: Conv, whole: Conv | None, inputs: Index | None = None, outputs: Index | None = None
) -> _Part:
    """The first channels, unless others are given."""
    return _Part(path, conv, whole, inputs or slice(0, conv.in_channels), outputs or slice(0, conv.out_channels))


def _semantics(arch: TopFormerConfig, maximal: TopFormerConfig) -> Index:
    """Channels of the semantics: the first of each token's."""
    if arch.token_source == "last":
        return slice(0, arch.semantic_channels)
    starts = accumulate((0, *maximal.widths[:-1]))
    return _compact([start + c for start, width in zip(starts, arch.widths, strict=True) for c in range(width)])


def _per_part(parts: int, channels: int, there: int) -> list[int]:
    """The first channels of each of the first parts (heads, branches or scales), `there` channels apart."""
    return [part * there + channel for part in range(parts) for channel in range(channels)]


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
    with torch.inference_mode(False):  # kept for later calls, and those may need gradients
        return torch.tensor(index, device=device)


def _listed(strides: tuple[int, ...]) -> str:
    return "-".join(map(str, strides))

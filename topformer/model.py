"""Every `nn.Module` of the network, built from the blocks of `decompose`; leaves first, TopFormer last.

Tensors are (B, C, H, W). Numerics follow the released weights: TopFormer, arXiv:2204.05525.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    Spec,
    StemSpec,
    TransformerSpec,
    decompose,
    token_grid,
)
from topformer.config import MIN_IMAGE_PX, STAGE_STRIDES, OutputKind, Task, TopFormerConfig
from topformer.errors import UserError

HEAD_DROPOUT = 0.1
MAX_PARAMETERS = 500_000_000


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def hard_sigmoid(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


class ConvNorm(nn.Module):
    """A `Conv`: convolution, batch norm where it has one, no activation."""

    def __init__(self, spec: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel,
            spec.stride,
            padding=spec.kernel // 2 * spec.dilation,
            dilation=spec.dilation,
            groups=spec.groups,
            bias=spec.bias,
        )
        self.norm = nn.BatchNorm2d(spec.out_channels) if spec.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""
        return cast(Tensor, self.norm(self.conv(x)))


class Stem(nn.Module):
    def __init__(self, spec: StemSpec) -> None:
        super().__init__()
        self.conv = ConvNorm(spec.conv)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return F.relu(self.conv(image))


class InvertedResidual(nn.Module):
    """MobileNetV2, arXiv:1801.04381, with ReLU."""

    def __init__(self, spec: MBConvSpec) -> None:
        super().__init__()
        self.skip = spec.skip
        self.expansion = ConvNorm(spec.expansion) if spec.expansion else None
        self.depthwise = ConvNorm(spec.depthwise)
        self.projection = ConvNorm(spec.projection)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.expansion(x)) if self.expansion else x
        projected = cast(Tensor, self.projection(F.relu(self.depthwise(hidden))))
        return x + projected if self.skip else projected


class Pool(nn.Module):
    def forward(self, token: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, C, *grid)."""
        return F.adaptive_avg_pool2d(token, grid)


class Concatenation(nn.Module):
    def forward(self, *tokens: Tensor) -> Tensor:
        """(B, C_i, h, w) each -> (B, sum of C_i, h, w)."""
        return torch.cat(tokens, dim=1)


class Attention(nn.Module):
    """Multi-head attention over the grid; queries are not scaled, and a ReLU6 precedes the projection."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.query = ConvNorm(spec.query)
        self.key = ConvNorm(spec.query)
        self.value = ConvNorm(spec.value)
        self.projection = ConvNorm(spec.projection)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        query, key, value = (self.split(conv(x)) for conv in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(-2, -1) @ key, dim=-1)  # (B, H, hw, hw), over the keys
        mixed = value @ weights.transpose(-2, -1)  # (B, H, value_dim, hw)
        mixed = mixed.reshape(x.shape[0], -1, *x.shape[-2:])
        return cast(Tensor, self.projection(F.relu6(mixed)))

    def split(self, x: Tensor) -> Tensor:
        """(B, H * D, h, w) -> (B, H, D, hw)."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, self.num_heads, channels // self.num_heads, height * width)


class FeedForward(nn.Module):
    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.expansion = ConvNorm(spec.ffn_in)
        self.depthwise = ConvNorm(spec.ffn_depthwise)
        self.projection = ConvNorm(spec.ffn_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return cast(Tensor, self.projection(F.relu6(self.depthwise(self.expansion(x)))))


class TransformerBlock(nn.Module):
    """Attention and feed-forward network, each added to its input."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.attention = Attention(spec) if spec.num_heads else None
        self.ffn = FeedForward(spec)
        self.drop_path = 0.0
        """Probability that a branch is left out for an image, in training (stochastic depth, arXiv:1603.09382)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if self.attention:
            x = x + self._kept(self.attention(x))
        return x + self._kept(self.ffn(x))

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return branch
        keep = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * (keep / (1 - self.drop_path))


class PyramidPoolingModule(nn.Module):
    """PSPNet, arXiv:1612.01105."""

    def __init__(self, spec: PPMSpec) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNorm(spec.branch) for _ in PPM_BINS)
        self.fuse = ConvNorm(spec.fuse)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        maps = [x]
        for bins, branch in zip(PPM_BINS, self.branches, strict=True):
            maps.append(upsample(F.relu(branch(F.adaptive_avg_pool2d(x, (bins, bins)))), size))
        return F.relu(self.fuse(torch.cat(maps, dim=1)))


class AtrousPyramidPooling(nn.Module):
    """DeepLabV3, arXiv:1706.05587."""

    def __init__(self, spec: ASPPSpec) -> None:
        super().__init__()
        self.pointwise = ConvNorm(spec.pointwise)
        self.dilated = nn.ModuleList(ConvNorm(conv) for conv in spec.dilated)
        self.image = ConvNorm(spec.pointwise)
        self.fuse = ConvNorm(spec.fuse)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        maps = [F.relu(branch(x)) for branch in (self.pointwise, *self.dilated)]
        image = F.relu(self.image(F.adaptive_avg_pool2d(x, (1, 1))))
        maps.append(upsample(image, (x.shape[-2], x.shape[-1])))
        return F.relu(self.fuse(torch.cat(maps, dim=1)))


class SemanticInjection(nn.Module):
    """Gate local tokens with global semantics and add the semantic information (section 3.3), or either alone."""

    def __init__(self, spec: InjectionSpec) -> None:
        super().__init__()
        self.local = ConvNorm(spec.local)
        self.gate = ConvNorm(spec.semantic) if spec.gated else None
        self.information = ConvNorm(spec.semantic) if spec.informed else None

    def forward(self, token: Tensor, semantics: Tensor) -> Tensor:
        """(B, C, h, w), (B, S, h', w')  ->  (B, M, h, w)."""
        size = (token.shape[-2], token.shape[-1])
        out = cast(Tensor, self.local(token))
        if self.gate:
            out = out * upsample(hard_sigmoid(self.gate(semantics)), size)  # the gate is squashed before it is resized
        if self.information:
            out = out + upsample(self.information(semantics), size)
        return out


class SemanticsProjection(nn.Module):
    def __init__(self, spec: SemanticsSpec) -> None:
        super().__init__()
        self.conv = ConvNorm(spec.conv)

    def forward(self, semantics: Tensor) -> Tensor:
        """(B, S, h, w) -> (B, M, h, w)."""
        return cast(Tensor, self.conv(semantics))


class SemanticAddition(nn.Module):
    def __init__(self, spec: AdditionSpec) -> None:
        super().__init__()
        self.local = ConvNorm(spec.local)

    def forward(self, token: Tensor, semantics: Tensor) -> Tensor:
        """(B, C, h, w), (B, M, h', w')  ->  (B, M, h, w)."""
        return cast(Tensor, self.local(token) + upsample(semantics, (token.shape[-2], token.shape[-1])))


class SegmentationHead(nn.Module):
    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        reductions = [ConvNorm(spec.reduction) for _ in range(spec.num_scales)] if spec.reduction else []
        self.reductions = nn.ModuleList(reductions) if reductions else None
        self.fuse = ConvNorm(spec.fuse)
        self.dropout = nn.Dropout2d(HEAD_DROPOUT)
        self.classifier = ConvNorm(spec.classifier)

    def forward(self, *features: Tensor) -> Tensor:
        """(B, M, h_i, w_i) per scale, finest first -> logits (B, classes, h_0, w_0)."""
        size = (features[0].shape[-2], features[0].shape[-1])
        if self.reductions is not None:
            features = tuple(reduce(x) for reduce, x in zip(self.reductions, features, strict=True))
        joined = [features[0], *(upsample(x, size) for x in features[1:])]
        fused = torch.cat(joined, dim=1) if self.reductions is not None else _added(joined)
        return cast(Tensor, self.classifier(self.dropout(F.relu(self.fuse(fused)))))


class ClassificationHead(nn.Module):
    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(spec.channels)
        self.linear = nn.Linear(spec.channels, spec.num_classes)

    def forward(self, semantics: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, classes)."""
        return cast(Tensor, self.linear(self.norm(semantics.mean(dim=(2, 3)))))


class Resize(nn.Module):
    def forward(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, classes, h, w) -> (B, classes, *size)."""
        return upsample(logits, size)


class Argmax(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        """(B, classes, h, w) -> int64 labels (B, 1, h, w)."""
        return logits.argmax(dim=1, keepdim=True)


_MODULES: Mapping[type, Callable[..., nn.Module]] = {
    StemSpec: Stem,
    MBConvSpec: InvertedResidual,
    PoolSpec: Pool,
    ConcatSpec: Concatenation,
    TransformerSpec: TransformerBlock,
    PPMSpec: PyramidPoolingModule,
    ASPPSpec: AtrousPyramidPooling,
    InjectionSpec: SemanticInjection,
    SemanticsSpec: SemanticsProjection,
    AdditionSpec: SemanticAddition,
    HeadSpec: SegmentationHead,
    ClassifierSpec: ClassificationHead,
    ResizeSpec: Resize,
    ArgmaxSpec: Argmax,
}


def build(spec: Spec) -> nn.Module:
    """The module of a block's spec; one without parameters does not look at it."""
    made = _MODULES[type(spec)]
    return made(spec) if spec.layers else made()


class BlockModule(nn.Module):
    """One block alone, on the shapes it was described with: forward takes `block.inputs`, gives `block.output`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.body = build(block.spec)
        self.size = block.output[1:] if block.spec.output(block.inputs) is None else None

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, self.body(*inputs, self.size) if self.size else self.body(*inputs))


class TokenPyramid(nn.Module):
    """Stem and stages; gives the tokens at strides 4, 8, 16 and 32."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.stem = build(blocks[0].spec)
        self.stride2 = _stack(blocks, "token_pyramid.stride2.")
        self.stage4 = _stack(blocks, "token_pyramid.stage4.")
        self.stage8 = _stack(blocks, "token_pyramid.stage8.")
        self.stage16 = _stack(blocks, "token_pyramid.stage16.")
        self.stage32 = _stack(blocks, "token_pyramid.stage32.")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> (B, C_s, ceil(H / s), ceil(W / s)) for s in 4, 8, 16, 32."""
        x = self.stride2(self.stem(image))
        tokens = []
        for stage in (self.stage4, self.stage8, self.stage16, self.stage32):
            x = stage(x)
            tokens.append(x)
        return tuple(tokens)


class _Backbone(nn.Module):
    """Token pyramid and semantics extractor: what segmentation and classification share."""

    def __init__(self, arch: TopFormerConfig, blocks: tuple[Block, ...], token_stride: int) -> None:
        super().__init__()
        count = sum(block.parameters for block in blocks)
        if count > MAX_PARAMETERS:
            raise UserError(
                f"architecture {arch.key} has {count:,} parameters; networks of more than {MAX_PARAMETERS:,} are not "
                "built (T, S and B have 1.4 to 5.1 million). Choose fewer channels or rows."
            )
        self.arch = arch
        self.token_stride = token_stride
        self.token_pyramid = TokenPyramid(blocks)
        self.pooling = _by_name(blocks, "pooling")
        self.transformer = _stack(blocks, "transformer.")

    def encode(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """(B, 3, H, W) -> tokens at strides 4, 8, 16, 32, and semantics (B, S, h, w)."""
        height, width = image.shape[-2:]
        if min(height, width) < MIN_IMAGE_PX:
            raise UserError(f"images must be at least {MIN_IMAGE_PX} px on each side, not {height}x{width}.")
        tokens = self.token_pyramid(image)
        grid = token_grid(tokens[-1].shape[-2], tokens[-1].shape[-1], self.token_stride)
        if self.arch.token_source == "last":
            return tokens, self.transformer(self.pooling["32"](tokens[-1], grid))
        pooled = [self.pooling[str(s)](token, grid) for s, token in zip(STAGE_STRIDES, tokens, strict=True)]
        return tokens, self.transformer(self.pooling["concatenation"](*pooled))


class TopFormer(_Backbone):
    """Segmentation network; `output` as in `Task.output`."""

    def __init__(self, arch: TopFormerConfig, *, num_classes: int, output: OutputKind = "logits") -> None:
        blocks = decompose(arch, Task(num_classes=num_classes, output=output))
        super().__init__(arch, blocks, arch.token_stride)
        self.num_classes = num_classes
        self.semantic_injection = _by_name(blocks, "semantic_injection")
        self.head = next(build(block.spec) for block in blocks if block.module == "head")
        self.post_processing = _by_name(blocks, "post_processing")
        self.apply(initialise)
        nn.init.normal_(cast(SegmentationHead, self.head).classifier.conv.weight, std=0.01)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes, ceil(H / s), ceil(W / s)), s the finest injected stride (8 for T, S, B).

        With output "resized", logits (B, classes, H, W); with "labels", int64 (B, 1, H, W).
        Images are normalised RGB, at least 32 px on each side.
        """
        out, _ = self.segment(image)
        if "resize" in self.post_processing:
            out = self.post_processing["resize"](out, (image.shape[-2], image.shape[-1]))
        if "argmax" in self.post_processing:
            out = self.post_processing["argmax"](out)
        return out

    def segment(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits at the finest injected stride, whatever the output, and semantics (B, S, h, w)."""
        tokens, semantics = self.encode(image)
        return cast(Tensor, self.head(*self.inject(tokens, semantics))), semantics

    def inject(self, tokens: tuple[Tensor, ...], semantics: Tensor) -> list[Tensor]:
        """Tokens and semantics -> (B, M, h_s, w_s) per injected scale, finest first."""
        injection = self.semantic_injection
        if self.arch.head != "topformer":
            shares = dict.fromkeys(STAGE_STRIDES, injection["semantics"](semantics))
        elif self.arch.token_source == "last":
            shares = dict.fromkeys(STAGE_STRIDES, semantics)
        else:
            shares = dict(zip(STAGE_STRIDES, torch.split(semantics, list(self.arch.widths), dim=1), strict=True))
        local = dict(zip(STAGE_STRIDES, tokens, strict=True))
        return [injection[str(stride)](local[stride], shares[stride]) for stride in self.arch.injected_strides]


class TopFormerClassifier(_Backbone):
    """ImageNet variant: semantics at stride 32, no injection."""

    def __init__(self, arch: TopFormerConfig, *, num_classes: int) -> None:
        blocks = decompose(arch, Task(kind="classification", num_classes=num_classes))
        super().__init__(arch, blocks, token_stride=32)
        self.num_classes = num_classes
        self.head = build(blocks[-1].spec)
        self.apply(initialise)
        nn.init.normal_(cast(ClassificationHead, self.head).linear.weight, std=0.01)
        nn.init.zeros_(cast(ClassificationHead, self.head).linear.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        return cast(Tensor, self.head(self.encode(image)[1]))


def zero_start_residuals(model: nn.Module) -> None:
    """Start every residual branch at zero: the network begins shallow (short trainings gain from it)."""
    for module in model.modules():
        branches: list[ConvNorm] = []
        if isinstance(module, InvertedResidual) and module.skip:
            branches = [module.projection]
        elif isinstance(module, TransformerBlock):
            branches = [module.ffn.projection, *([module.attention.projection] if module.attention else [])]
        for branch in branches:
            nn.init.zeros_(cast(nn.BatchNorm2d, branch.norm).weight)


def set_drop_path(model: nn.Module, last: float) -> None:
    """Stochastic depth in training: 0 in the first transformer block, rising linearly to `last` in the last one."""
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    for index, block in enumerate(blocks):
        block.drop_path = last * index / max(len(blocks) - 1, 1)


def _stack(blocks: Iterable[Block], prefix: str) -> nn.Sequential:
    return nn.Sequential(*(build(block.spec) for block in blocks if block.name.startswith(prefix)))


def _by_name(blocks: Iterable[Block], module: str) -> nn.ModuleDict:
    """The modules of one part of the network, by the last part of their blocks' names."""
    return nn.ModuleDict({b.name.rpartition(".")[2]: build(b.spec) for b in blocks if b.module == module})


def _added(features: Iterable[Tensor]) -> Tensor:
    first, *rest = features
    for feature in rest:
        first = first + feature
    return first


def initialise(module: nn.Module) -> None:
    """Convolutions from N(0, sqrt(2 / fan_out)), batch norms 1 and 0, as the released code trains."""
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would draw nothing, slowly
        fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

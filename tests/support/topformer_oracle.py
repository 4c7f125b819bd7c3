"""A plain, independent PyTorch rendering of the published TopFormer networks, for tests only.

Written from the facts alone (shared/facts/topformer.md, sections 1 and 2) and sharing no code with the product, so
that agreement between the two means something. The names in ``state_dict()`` are those of the released checkpoints.
It is an inference oracle: drop path, which only acts in training, is left out. Shapes are (batch, channels, H, W).
"""

from __future__ import annotations

import argparse
import math
import os
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name = Literal["tiny", "small", "base"]
CheckpointKey = Literal["state_dict_ema", "state_dict", "model"]

BLOCKS, KEY_DIM, VALUE_DIM, FFN_RATIO = 4, 16, 32, 2


class Variant(NamedTuple):
    """One column of the facts' table; a row is (kernel, expand, channels, stride)."""

    rows: tuple[tuple[int, int, int, int], ...]
    taps: tuple[int, ...]  # 0-based rows whose outputs are the tokens, 1/4 .. 1/32
    heads: int
    width: int  # M, the channels of the injected features
    depthwise_fuse: bool

    @property
    def token_channels(self) -> list[int]:
        return [self.rows[tap][2] for tap in self.taps]


VARIANTS: dict[str, Variant] = {
    "tiny": Variant(
        rows=(
            (3, 1, 16, 1),
            (3, 4, 16, 2),
            (3, 3, 16, 1),
            (5, 3, 32, 2),
            (5, 3, 32, 1),
            (3, 3, 64, 2),
            (3, 3, 64, 1),
            (5, 6, 96, 2),
            (5, 6, 96, 1),
        ),
        taps=(2, 4, 6, 8),
        heads=4,
        width=128,
        depthwise_fuse=True,
    ),
    "small": Variant(
        rows=(
            (3, 1, 16, 1),
            (3, 4, 24, 2),
            (3, 3, 24, 1),
            (5, 3, 48, 2),
            (5, 3, 48, 1),
            (3, 3, 96, 2),
            (3, 3, 96, 1),
            (5, 6, 128, 2),
            (5, 6, 128, 1),
            (3, 6, 128, 1),
        ),
        taps=(2, 4, 6, 9),
        heads=6,
        width=192,
        depthwise_fuse=False,
    ),
    "base": Variant(
        rows=(
            (3, 1, 16, 1),
            (3, 4, 32, 2),
            (3, 3, 32, 1),
            (5, 3, 64, 2),
            (5, 3, 64, 1),
            (3, 3, 128, 2),
            (3, 3, 128, 1),
            (5, 6, 160, 2),
            (5, 6, 160, 1),
            (3, 6, 160, 1),
        ),
        taps=(2, 4, 6, 9),
        heads=8,
        width=256,
        depthwise_fuse=False,
    ),
}


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), with H and W those of `like`; bilinear."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch norm, under the two given names; (B, cin, H, W) -> (B, cout, H', W')."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        names: tuple[str, str] = ("c", "bn"),
    ) -> None:
        super().__init__()
        self.add_module(names[0], nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module(names[1], nn.BatchNorm2d(cout))


class InvertedResidual(nn.Module):
    """(B, cin, H, W) -> (B, cout, ceil(H / stride), ceil(W / stride)); linear bottleneck."""

    def __init__(self, cin: int, cout: int, kernel: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = round(cin * expand)
        expansion = [] if expand == 1 else [ConvBN(cin, hidden), nn.ReLU()]
        depthwise = [ConvBN(hidden, hidden, kernel, stride, hidden), nn.ReLU()]
        self.conv = nn.Sequential(*expansion, *depthwise, ConvBN(hidden, cout))
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.skip else y


class TokenPyramid(nn.Module):
    """(B, 3, H, W) -> the four tokens, at 1/4, 1/8, 1/16 and 1/32 of the input (sides rounded up)."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBN(3, 16, 3, 2), nn.ReLU())
        self.layers: list[str] = []
        cin = 16
        for number, (kernel, expand, cout, stride) in enumerate(variant.rows, start=1):
            self.layers.append(f"layer{number}")
            self.add_module(self.layers[-1], InvertedResidual(cin, cout, kernel, expand, stride))
            cin = cout
        self.taps = variant.taps

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        tokens = []
        for row, name in enumerate(self.layers):
            x = self.get_submodule(name)(x)
            if row in self.taps:
                tokens.append(x)
        return tokens


class Attention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W); dot products are not scaled, and a head's channels are contiguous."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = ConvBN(dim, heads * KEY_DIM)
        self.to_k = ConvBN(dim, heads * KEY_DIM)
        self.to_v = ConvBN(dim, heads * VALUE_DIM)
        self.proj = nn.Sequential(nn.ReLU6(), ConvBN(heads * VALUE_DIM, dim))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = (f(x).reshape(batch, self.heads, -1, height * width) for f in (self.to_q, self.to_k, self.to_v))
        attention = torch.einsum("bhdq,bhdk->bhqk", q, k).softmax(dim=-1)  # (B, heads, H*W queries, H*W keys)
        y = torch.einsum("bhqk,bhdk->bhdq", attention, v)  # (B, heads, VALUE_DIM, H*W)
        out: Tensor = self.proj(y.reshape(batch, -1, height, width))
        return out


class FeedForward(nn.Module):
    """(B, C, H, W) -> (B, C, H, W); the depthwise convolution has a bias and no batch norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = FFN_RATIO * dim
        self.fc1 = ConvBN(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = ConvBN(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu6(self.dwconv(self.fc1(x))))
        return out


class Block(nn.Module):
    """(B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.mlp = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        out: Tensor = x + self.mlp(x)
        return out


class SemanticsExtractor(nn.Module):
    """The blocks; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(Block(dim, heads) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return x


def _pool_tokens(tokens: list[Tensor], divisor: int) -> Tensor:
    """The tokens (B, C_i, H_i, W_i) -> (B, sum of C_i, ceil(H32 / divisor), ceil(W32 / divisor))."""
    height, width = ((side - 1) // divisor + 1 for side in tokens[-1].shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(token, (height, width)) for token in tokens], dim=1)


class SemanticInjection(nn.Module):
    """token (B, C, H, W), its semantics (B, C, h, w) -> (B, M, H, W)."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        self.local_embedding = ConvBN(cin, width, names=("conv", "bn"))
        self.global_embedding = ConvBN(cin, width, names=("conv", "bn"))
        self.global_act = ConvBN(cin, width, names=("conv", "bn"))

    def forward(self, token: Tensor, semantics: Tensor) -> Tensor:
        gate = F.relu6(self.global_act(semantics) + 3) / 6  # before the upsampling
        added = _upsample(self.global_embedding(semantics), token)
        out: Tensor = self.local_embedding(token) * _upsample(gate, token) + added
        return out


class Backbone(nn.Module):
    """(B, 3, H, W) -> the injected features at 1/8, 1/16 and 1/32, each with M channels; semantics at 1/64."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.channels = variant.token_channels
        self.tpm = TokenPyramid(variant)
        self.trans = SemanticsExtractor(sum(self.channels), variant.heads)
        injections = [SemanticInjection(channels, variant.width) for channels in self.channels[1:]]
        self.SIM = nn.ModuleList([nn.Identity(), *injections])  # nothing is injected at 1/4

    def forward(self, x: Tensor) -> list[Tensor]:
        tokens = self.tpm(x)
        semantics = self.trans(_pool_tokens(tokens, divisor=2)).split(self.channels, dim=1)
        return [self.SIM[i](tokens[i], semantics[i]) for i in (1, 2, 3)]


class DecodeHead(nn.Module):
    """The injected features (B, M, H_i, W_i), finest first -> logits (B, classes, H_0, W_0)."""

    def __init__(self, width: int, num_classes: int, *, depthwise: bool) -> None:
        super().__init__()
        self.linear_fuse = ConvBN(width, width, groups=width if depthwise else 1, names=("conv", "bn"))
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        finest, *coarser = features
        total = finest
        for feature in coarser:
            total = total + _upsample(feature, finest)
        logits: Tensor = self.conv_seg(self.dropout(F.relu(self.linear_fuse(total))))
        return logits


class SegmentationOracle(nn.Module):
    """(B, 3, H, W) -> logits (B, classes, ceil(H / 8), ceil(W / 8))."""

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(variant)
        self.decode_head = DecodeHead(variant.width, num_classes, depthwise=variant.depthwise_fuse)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decode_head(self.backbone(x))
        return logits


class ClassificationHead(nn.Module):
    """(B, C) -> (B, classes)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(dim)
        self.l = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.l(self.bn(x))
        return logits


class ClassificationOracle(nn.Module):
    """(B, 3, H, W) -> logits (B, classes); the tokens are pooled to 1/32 and nothing is injected."""

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        dim = sum(variant.token_channels)
        self.tpm = TokenPyramid(variant)
        self.trans = SemanticsExtractor(dim, variant.heads)
        self.head = ClassificationHead(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        semantics = self.trans(_pool_tokens(self.tpm(x), divisor=1))
        logits: Tensor = self.head(semantics.mean(dim=(2, 3)))
        return logits


def segmentation_oracle(name: Name, *, num_classes: int = 150) -> nn.Module:
    """The segmentation network, (B, 3, H, W) -> logits (B, classes, ceil(H / 8), ceil(W / 8)).

    Tiny has the depthwise fuse convolution, as its released weights need it.
    """
    return SegmentationOracle(VARIANTS[name], num_classes)


def classification_oracle(name: Name, *, num_classes: int = 1000) -> nn.Module:
    """The classification network, (B, 3, H, W) -> logits (B, classes)."""
    return ClassificationOracle(VARIANTS[name], num_classes)


_BEFORE_RELU6 = ("to_v.bn.bias", "dwconv.bias", "global_act.bn.bias")
_BRANCH_ENDS = ("attn.proj.1.bn.weight", "mlp.fc2.bn.weight")


@torch.no_grad()
def randomise(module: nn.Module, *, seed: int) -> None:
    """Fill every parameter and buffer with tame random values, which depend on names, shapes and seed alone.

    Kernels are scaled by fan-in, and running statistics and affine terms differ from their defaults everywhere. The
    scales are chosen so that, for O(1) inputs, logits have a standard deviation of a few units and vary with image
    and place (an error anywhere must show), and so that float32 rounding is not amplified: the blocks' branches are
    damped, as undamped they saturate the unscaled softmax. Biases just before a ReLU6 make both its bounds act.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        leaf = name.rpartition(".")[2]
        uniform = torch.rand(tensor.shape, generator=generator)
        normal = torch.randn(tensor.shape, generator=generator)
        if leaf == "num_batches_tracked":
            value = 1 + (uniform * 100_000).floor()
        elif leaf == "running_var":
            value = 0.5 + uniform
        elif leaf == "weight" and tensor.ndim == 1:  # batch norm's scale
            value = (0.5 + 0.5 * uniform) * (0.2 if name.endswith(_BRANCH_ENDS) else 1)
        elif leaf == "weight":
            value = normal * math.sqrt(2 / tensor[0].numel())
        else:  # biases and running means
            value = normal * (3 if name.endswith(_BEFORE_RELU6) else 0.1)
        tensor.copy_(value)


def _cloned(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, apart from the module's own storage."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def released_segmentation_checkpoint(
    name: Name, path: str | os.PathLike[str], *, seed: int, num_classes: int = 150
) -> nn.Module:
    """Write {'meta', 'state_dict'} to `path`, as released segmentation checkpoints look; the oracle, in eval mode.

    The meta hold objects beyond plain containers, which a weights-only load refuses unless they are allowed.
    """
    oracle = segmentation_oracle(name, num_classes=num_classes).eval()
    randomise(oracle, seed=seed)
    meta: dict[str, Any] = {
        "env_info": "sys.platform: linux\nPyTorch: 1.8.1",
        "config": f"model = dict(type='EncoderDecoder', backbone=dict(variant='{name}'))\n",
        "time": "Tue Apr 12 05:25:00 2022",
        "CLASSES": tuple(f"class {i}" for i in range(num_classes)),
        "PALETTE": [[i * 7 % 256, i * 31 % 256, i * 101 % 256] for i in range(num_classes)],
        "epoch": 127,
        "args": argparse.Namespace(work_dir="work_dirs/example", seed=seed, deterministic=False),
        "best_miou": np.float64(0.25),
    }
    torch.save({"meta": meta, "state_dict": _cloned(oracle)}, path)
    return oracle


def released_classification_checkpoint(
    name: Name, path: str | os.PathLike[str], *, seed: int, key: CheckpointKey = "state_dict_ema"
) -> nn.Module:
    """Write a classification checkpoint, with the oracle's weights under `key`; the oracle, in eval mode.

    Beside 'state_dict_ema', 'state_dict' holds other weights of the same shapes; the other keys stand alone.
    """
    oracle = classification_oracle(name).eval()
    randomise(oracle, seed=seed)
    checkpoint: dict[str, Any] = {}
    if key == "state_dict_ema":
        other = classification_oracle(name)
        randomise(other, seed=seed + 1)
        checkpoint["state_dict"] = _cloned(other)
    checkpoint[key] = _cloned(oracle)
    checkpoint["args"] = argparse.Namespace(model=name, lr=1.2e-4, seed=seed)
    checkpoint["epoch"] = 299
    checkpoint["metric"] = np.float64(70.0)
    torch.save(checkpoint, path)
    return oracle

"""Where do published networks of other families land? `python experiments/benchmarks/peers.py OUT.json [NAME ...]`

Rebuilds rows of TopFormer's Table 1 (arXiv:2204.05525) in plain torch from the papers that describe them, exports each
to ONNX, estimates it like `topformer-nas latency estimate`, without a fitted scale, and prints the time beside the
published one: none of these networks had a part in the core model. A row counts only where its parameters are within
3 % of the published ones. Weights are made up; graphs end at the logits. Needs the extra `arm` and qemu-user; ten
minutes for the light networks, an hour for all.

Published parameters of the MMSegmentation networks (PSPNet, FCN, DeepLabV3+) hold only with their auxiliary head, which
inference does not run.
"""

# mypy: disable-error-code="no-any-return"
# a module that is called gives Any

from __future__ import annotations

import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from latency_lut.counting import CountSource
from latency_lut.estimate import SNAPDRAGON_865
from latency_lut.onnx_estimate import DEVICE_MODELS, estimate_onnx
from topformer.progress import silent

CLASSES = 150
SIDE_PX = 512


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    padding = kernel // 2 * dilation
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), *([act()] if act else []))


def depthwise(
    channels: int, kernel: int, stride: int = 1, *, dilation: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    return conv(channels, channels, kernel, stride, dilation=dilation, groups=channels, act=act)


def separable(in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(depthwise(in_channels, 3, dilation=dilation), conv(in_channels, out_channels))


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class SqueezeExcite(nn.Module):
    """MobileNetV3's: ReLU inside, hard sigmoid outside, a quarter of the channels rounded to eights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        kernel: int,
        stride: int,
        *,
        dilation: int = 1,
        squeeze_excite: bool = False,
        act: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.skip = stride == 1 and in_channels == out_channels
        self.body = nn.Sequential(
            *([conv(in_channels, hidden, act=act)] if hidden != in_channels else []),
            depthwise(hidden, kernel, stride, dilation=dilation, act=act),
            *([SqueezeExcite(hidden)] if squeeze_excite else []),
            conv(hidden, out_channels, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class MobileNetV2(nn.Module):
    """Table 2 of arXiv:1801.04381 up to its 320 channels; strides beyond the output stride become dilations."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.stem = conv(3, 32, 3, 2, act=nn.ReLU6)
        rows = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        self.stages = nn.ModuleList()
        channels, reached, dilation = 32, 2, 1
        for expand, width, count, wanted in rows:
            stride = wanted if reached * wanted <= output_stride else 1
            reached, dilation = reached * stride, dilation * wanted // stride
            blocks = []
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, expand * channels, width, 3, step, dilation=dilation))
                channels = width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> stride 4 with 24 channels, output stride with 320."""
        x = self.stages[1](self.stages[0](self.stem(x)))
        low = x
        for stage in self.stages[2:]:
            x = stage(x)
        return low, x


class MobileNetV3Large(nn.Module):
    """Table 1 of arXiv:1905.02244 to its last 1x1 convolution, output stride 16 by dilation; `reduce` halves what
    follows stride 16's 112 channels, as its section 6.4 does for segmentation.
    """

    def __init__(self, *, reduce: bool) -> None:
        super().__init__()
        r = 2 if reduce else 1
        rows = (  # kernel, hidden, out, squeeze-excite, h-swish, stride, dilation
            (3, 16, 16, False, False, 1, 1),
            (3, 64, 24, False, False, 2, 1),
            (3, 72, 24, False, False, 1, 1),
            (5, 72, 40, True, False, 2, 1),
            (5, 120, 40, True, False, 1, 1),
            (5, 120, 40, True, False, 1, 1),
            (3, 240, 80, False, True, 2, 1),
            (3, 200, 80, False, True, 1, 1),
            (3, 184, 80, False, True, 1, 1),
            (3, 184, 80, False, True, 1, 1),
            (3, 480, 112, True, True, 1, 1),
            (3, 672, 112, True, True, 1, 1),
            (5, 672 // r, 160 // r, True, True, 1, 2),
            (5, 960 // r, 160 // r, True, True, 1, 2),
            (5, 960 // r, 160 // r, True, True, 1, 2),
        )
        self.stem = conv(3, 16, 3, 2, act=nn.Hardswish)
        self.blocks = nn.ModuleList()
        channels = 16
        for kernel, hidden, width, squeeze_excite, swish, stride, dilation in rows:
            act = nn.Hardswish if swish else nn.ReLU
            block = InvertedResidual(
                channels, hidden, width, kernel, stride, dilation=dilation, squeeze_excite=squeeze_excite, act=act
            )
            self.blocks.append(block)
            channels = width
        self.last = conv(channels, 960 // r, act=nn.Hardswish)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> stride 8 with 40 channels, stride 16 with 960."""
        x = self.stem(x)
        for block in self.blocks[:6]:
            x = block(x)
        low = x
        for block in self.blocks[6:]:
            x = block(x)
        return low, self.last(x)


class LiteReducedASPP(nn.Module):
    """LR-ASPP: figure 10 of arXiv:1905.02244, with the mean of the whole map for its 49x49 pooling; logits at 1/8."""

    def __init__(self, *, reduce: bool) -> None:
        super().__init__()
        self.backbone = MobileNetV3Large(reduce=reduce)
        channels = 480 if reduce else 960
        self.pointwise = conv(channels, 128)
        self.gate = nn.Conv2d(channels, 128, 1, bias=False)
        self.high = nn.Conv2d(128, CLASSES, 1)
        self.low = nn.Conv2d(40, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.backbone(x)
        gated = self.pointwise(high) * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(high, 1)))
        return self.high(resize(gated, low)) + self.low(low)


class ReducedASPP(nn.Module):
    """R-ASPP: section 6.3 of arXiv:1801.04381, a 1x1 convolution and the image's mean beside it; logits at 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MobileNetV2(16)
        self.pointwise = conv(320, 256)
        self.image = conv(320, 256)
        self.fuse = conv(512, 256)
        self.classifier = nn.Conv2d(256, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, x = self.backbone(x)
        image = resize(self.image(F.adaptive_avg_pool2d(x, 1)), x)
        return self.classifier(self.fuse(torch.cat((self.pointwise(x), image), 1)))


class FCN(nn.Module):
    """Two 3x3 convolutions, their input beside them (MMSegmentation's FCN on MobileNetV2, output stride 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MobileNetV2(8)
        self.body = nn.Sequential(conv(320, 512, 3), conv(512, 512, 3))
        self.fuse = conv(832, 512, 3)
        self.classifier = nn.Conv2d(512, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, x = self.backbone(x)
        return self.classifier(self.fuse(torch.cat((x, self.body(x)), 1)))


class PSPNet(nn.Module):
    """Pyramid pooling (arXiv:1612.01105) as in MMSegmentation on MobileNetV2, output stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MobileNetV2(8)
        self.branches = nn.ModuleList(conv(320, 512) for _ in range(4))
        self.fuse = conv(320 + 4 * 512, 512, 3)
        self.classifier = nn.Conv2d(512, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, x = self.backbone(x)
        side = x.shape[-1]  # 64: kernel 14 and stride 10 for 6 bins, where adaptive pooling mixes 11 and 12
        bins = zip((1, 2, 3, 6), self.branches, strict=True)
        pooled = [resize(branch(F.avg_pool2d(x, side - (n - 1) * (side // n), side // n)), x) for n, branch in bins]
        return self.classifier(self.fuse(torch.cat((x, *pooled), 1)))


class DeepLabV3Plus(nn.Module):
    """arXiv:1802.02611 with separable convolutions, as MMSegmentation's on MobileNetV2; strides 16 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MobileNetV2(16)
        self.image = conv(320, 512)
        self.pointwise = conv(320, 512)
        self.dilated = nn.ModuleList(separable(320, 512, dilation=rate) for rate in (6, 12, 18))
        self.fuse = conv(5 * 512, 512, 3)
        self.low = conv(24, 48)
        self.decoder = nn.Sequential(separable(560, 512), separable(512, 512))
        self.classifier = nn.Conv2d(512, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, x = self.backbone(x)
        image = resize(self.image(F.adaptive_avg_pool2d(x, 1)), x)
        x = self.fuse(torch.cat((image, self.pointwise(x), *(branch(x) for branch in self.dilated)), 1))
        return self.classifier(self.decoder(torch.cat((resize(x, low), self.low(low)), 1)))


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a reduced map (arXiv:2105.15203, equation 2)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C), (height, width) with N of their product -> (B, N, C)."""
        batch, places, width = x.shape
        depth = width // self.heads
        source = x
        if self.reduce is not None and self.norm is not None:
            source = self.reduce(x.transpose(1, 2).reshape(batch, width, *size))
            source = self.norm(source.flatten(2).transpose(1, 2))
        query = self.query(x).reshape(batch, places, self.heads, depth).transpose(1, 2)
        key, value = self.key_value(source).chunk(2, 2)
        key = key.reshape(batch, -1, self.heads, depth).transpose(1, 2)
        value = value.reshape(batch, -1, self.heads, depth).transpose(1, 2)
        weights = torch.softmax(query @ key.transpose(2, 3) * depth**-0.5, -1)
        return self.projection((weights @ value).transpose(1, 2).reshape(batch, places, width))


class MixTransformerBlock(nn.Module):
    """Attention and mix-FFN, each behind a LayerNorm (arXiv:2105.15203, equation 3)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = EfficientAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.expansion = nn.Linear(width, 4 * width)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, 1, 1, groups=4 * width)
        self.projection = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.attention(self.norm1(x), size)
        hidden = self.expansion(self.norm2(x))
        batch, places, width = hidden.shape
        hidden = self.depthwise(hidden.transpose(1, 2).reshape(batch, width, *size))
        hidden = F.gelu(hidden.reshape(batch, width, places).transpose(1, 2))
        return x + self.projection(hidden)


class SegFormerB0(nn.Module):
    """MiT-B0 and the all-MLP head, 256 wide (arXiv:2105.15203, table 6 and section 3.2); logits at 1/4."""

    def __init__(self) -> None:
        super().__init__()
        widths, heads, reductions = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1)
        self.patches, self.norms, self.out_norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.stages, self.maps = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for index, width in enumerate(widths):
            kernel, stride = (7, 4) if index == 0 else (3, 2)
            self.patches.append(nn.Conv2d(channels, width, kernel, stride, kernel // 2))
            self.norms.append(nn.LayerNorm(width))
            blocks = (MixTransformerBlock(width, heads[index], reductions[index]) for _ in range(2))
            self.stages.append(nn.ModuleList(blocks))
            self.out_norms.append(nn.LayerNorm(width))
            self.maps.append(nn.Linear(width, 256))
            channels = width
        self.fuse = conv(4 * 256, 256)
        self.classifier = nn.Conv2d(256, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        parts = zip(self.patches, self.norms, self.stages, self.out_norms, self.maps, strict=True)
        for patch, norm, blocks, out_norm, to_head in parts:
            x = patch(x)
            size = (x.shape[2], x.shape[3])
            tokens = norm(x.flatten(2).transpose(1, 2))
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                tokens = block(tokens, size)
            x = out_norm(tokens).transpose(1, 2).reshape(x.shape)
            levels.append(to_head(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], 256, *size))
        same = [levels[0], *(resize(level, levels[0]) for level in levels[1:])]
        return self.classifier(self.fuse(torch.cat(same[::-1], 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A row of TopFormer's Table 1."""

    build: Callable[[], nn.Module]
    params_m: float
    macs_g: float
    latency_ms: float
    auxiliary: bool = False
    """Published parameters include MMSegmentation's auxiliary FCN head: 3x3, 96 -> 256, and a classifier."""


PEERS = {
    "LR-ASPP MobileNetV3-Large-reduce": Peer(
        build=lambda: LiteReducedASPP(reduce=True), params_m=1.6, macs_g=1.3, latency_ms=81
    ),
    "LR-ASPP MobileNetV3-Large": Peer(
        build=lambda: LiteReducedASPP(reduce=False), params_m=3.2, macs_g=2.0, latency_ms=126
    ),
    "R-ASPP MobileNetV2": Peer(build=ReducedASPP, params_m=2.2, macs_g=2.8, latency_ms=177),
    "SegFormer-B0": Peer(build=SegFormerB0, params_m=3.8, macs_g=8.4, latency_ms=770),
    "DeepLabV3+ MobileNetV2": Peer(build=DeepLabV3Plus, params_m=15.4, macs_g=25.8, latency_ms=1035, auxiliary=True),
    "FCN MobileNetV2": Peer(build=FCN, params_m=9.8, macs_g=39.6, latency_ms=1015, auxiliary=True),
    "PSPNet MobileNetV2": Peer(build=PSPNet, params_m=13.7, macs_g=52.2, latency_ms=1065, auxiliary=True),
}
AUXILIARY_PARAMS = 96 * 256 * 9 + 2 * 256 + 256 * CLASSES + CLASSES


def main() -> None:
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(PEERS)
    rows = json.loads(out.read_text())["networks"] if out.exists() else {}
    for name in names:
        rows[name] = row_of(PEERS[name])
        row = rows[name]
        print(
            f"{name}: {row['unfitted_ms']:.1f} ms unfitted ({row['error_pct']:+.1f} %), published "
            f"{row['published_ms']} ms; flagged {row['flagged_pct']:.0f} %; {row['params_m']:.2f} M parameters",
            flush=True,
        )
        content = {
            "command": f"python experiments/benchmarks/peers.py {out}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.system()} {platform.machine()}; counts do not depend on it",
            "core_model": asdict(SNAPDRAGON_865),
            "source": asdict(CountSource.here()),
            "published": "TopFormer Table 1 (arXiv:2204.05525): Snapdragon 865, one thread, TNN, 512x512, ADE20K",
            "networks": {known: rows[known] for known in PEERS if known in rows},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def row_of(peer: Peer) -> dict[str, Any]:
    torch.manual_seed(0)
    network = peer.build().eval()
    image = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    params_m = (sum(p.numel() for p in network.parameters()) + peer.auxiliary * AUXILIARY_PARAMS) / 1e6
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "peer.onnx"
        torch.onnx.export(network, (image,), path, dynamo=True, external_data=False, verbose=False)
        found = estimate_onnx(
            path,
            core=SNAPDRAGON_865,
            scale=1,
            interval_pct=0,
            rivals=DEVICE_MODELS["snapdragon865"].rivals(),
            size=None,
            progress=silent,
        )
    return {
        "published_ms": peer.latency_ms,
        "unfitted_ms": found.total_ms,
        "error_pct": 100 * (found.total_ms / peer.latency_ms - 1),
        "params_m": params_m,
        "published_params_m": peer.params_m,
        "params_within_3_pct": abs(params_m / peer.params_m - 1) <= 0.03,
        "macs_g": counter.get_total_flops() / 2e9,
        "published_macs_g": peer.macs_g,
        "flagged_pct": 100 * found.flagged_ms / found.total_ms,
        "flagged": [asdict(each) for each in found.flagged],
        "by_operator": [asdict(each) for each in found.by_operator],
        "difference_from_onnxruntime": found.difference,
    }


if __name__ == "__main__":
    main()

"""What has been published about T, S and B, to print beside our own numbers; never an input to any of them.

Source: TopFormer, arXiv:2204.05525, Table 1 (ADE20K val, 512x512, 160k iterations, batch 16) unless stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topformer.config import BASE, Task, TopFormerConfig

SOURCE = "TopFormer, arXiv:2204.05525, Table 1"
LATENCY_PROTOCOL = "Snapdragon 865, one Arm core, TNN, 1 thread, stride-8 logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Of one anchor at 150 classes."""

    params_m: float
    flops_g: Mapping[int, float]
    """Multiply-adds as fvcore counts them, by side of the square image."""
    miou_pct: Mapping[int, float]
    """ADE20K val, single scale, by side of the square image."""
    latency_ms: Mapping[int, float]
    """Under `LATENCY_PROTOCOL`, by side of the square image."""


PUBLISHED: Mapping[str, Published] = {
    "tiny": Published(
        params_m=1.4,
        flops_g={512: 0.6, 448: 0.5},
        miou_pct={512: 32.8, 448: 32.5},
        latency_ms={512: 43, 448: 32},
    ),
    "small": Published(params_m=3.1, flops_g={512: 1.2}, miou_pct={512: 36.1}, latency_ms={512: 74}),
    "base": Published(params_m=5.1, flops_g={512: 1.8}, miou_pct={512: 37.8}, latency_ms={512: 110}),
}


def published_figures(anchor: str | None, image_size: tuple[int, int], num_classes: int) -> dict[str, object] | None:
    """The figures published for exactly this anchor and task, JSON-ready; None where there are none."""
    height, width = image_size
    known = PUBLISHED.get(anchor or "")
    if known is None or height != width or num_classes != 150 or height not in known.flops_g:
        return None
    return {
        "params_m": known.params_m,
        "flops_g": known.flops_g[height],
        "miou_pct": known.miou_pct[height],
        "latency_ms": known.latency_ms[height],
        "latency_protocol": LATENCY_PROTOCOL,
        "source": SOURCE,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class CityscapesNetwork:
    """A network published on Cityscapes val, 19 classes; its latency was not."""

    arch: TopFormerConfig
    task: Task
    flops_g: float
    """Multiply-adds as fvcore counts them, but for those of batch norms."""
    miou_pct: float


_CITYSCAPES_ARCH = BASE.replace(injection_channels=128)
"""B injects 256 channels on ADE20K; with these its multiply-adds are the published ones, at both sizes."""

CITYSCAPES: Mapping[str, CityscapesNetwork] = {
    "base-cityscapes": CityscapesNetwork(
        arch=_CITYSCAPES_ARCH,
        task=Task(image_size=(1024, 2048), num_classes=19),
        flops_g=11.2,
        miou_pct=75.0,
    ),
    "base-cityscapes-half": CityscapesNetwork(
        arch=_CITYSCAPES_ARCH,
        task=Task(image_size=(512, 1024), num_classes=19),
        flops_g=2.7,
        miou_pct=70.7,
    ),
}
"""By the name that `ARCH` takes."""


def published_elsewhere(arch: TopFormerConfig, task: Task) -> str | None:
    """A sentence where the network published for this task is another than the anchor asked for; else None."""
    names = [name for name, known in CITYSCAPES.items() if known.task.image_size == task.image_size]
    if arch != BASE or task.num_classes != CITYSCAPES["base-cityscapes"].task.num_classes or not names:
        return None
    (name,) = names
    known = CITYSCAPES[name]
    return (
        f"base has M = {BASE.injection_channels}; the network published on Cityscapes at {task.pixels} has M = "
        f"{known.arch.injection_channels} ({known.flops_g} G, mIoU {known.miou_pct} %): name it {name}"
    )

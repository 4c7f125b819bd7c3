"""What has been published about T, S and B, to print beside our own numbers; never an input to any of them.

Source: TopFormer, arXiv:2204.05525, Table 1 (ADE20K val, 512x512, 160k iterations, batch 16) unless stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

"""Declarative search spaces over TopFormer candidates: knobs, canonical points, presets, and the blocks they need."""

from __future__ import annotations

from search_space.cover import blocks
from search_space.presets import PRESETS, preset
from search_space.space import Choice, Knob, Point, SearchSpace, Suggests, require_anchors

__all__ = [
    "PRESETS",
    "Choice",
    "Knob",
    "Point",
    "SearchSpace",
    "Suggests",
    "blocks",
    "preset",
    "require_anchors",
]

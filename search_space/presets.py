"""Which search spaces come with the product? Written as a user writes one: copy, change, put it into a study's TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_space.space import SearchSpace
from topformer.config import Task, parse_image_size
from topformer.errors import unknown_name

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pyramid": {  # everything around and between T, S and B; of a row's choices the anchors' own comes first
        "name": "pyramid",
        "base": "small",
        "knobs": {
            "width_4": [16, 24, 32, 40],
            "width_8": [32, 40, 48, 56, 64, 80],
            "width_16": [48, 64, 80, 96, 112, 128, 160],
            "width_32": [80, 96, 112, 128, 144, 160, 192],
            "depth_4": [1, 2, 3],
            "depth_8": [1, 2, 3],
            "depth_16": [1, 2, 3, 4],
            "depth_32": [1, 2, 3, 4],
            "kernel_4_0": [3, 5],
            "expand_4_0": [4, 2, 3, 6],
            "kernel_4_1": [3, 5],
            "expand_4_1": [3, 2, 4, 6],
            "kernel_4_2": [3, 5],
            "expand_4_2": [3, 2, 4, 6],
            "kernel_8_0": [5, 3],
            "expand_8_0": [3, 2, 4, 6],
            "kernel_8_1": [5, 3],
            "expand_8_1": [3, 2, 4, 6],
            "kernel_8_2": [5, 3],
            "expand_8_2": [3, 2, 4, 6],
            "kernel_16_0": [3, 5],
            "expand_16_0": [3, 2, 4, 6],
            "kernel_16_1": [3, 5],
            "expand_16_1": [3, 2, 4, 6],
            "kernel_16_2": [3, 5],
            "expand_16_2": [3, 2, 4, 6],
            "kernel_16_3": [3, 5],
            "expand_16_3": [3, 2, 4, 6],
            "kernel_32_0": [5, 3],
            "expand_32_0": [6, 2, 3, 4],
            "kernel_32_1": [5, 3],
            "expand_32_1": [6, 2, 3, 4],
            "kernel_32_2": [3, 5],
            "expand_32_2": [6, 2, 3, 4],
            "kernel_32_3": [3, 5],
            "expand_32_3": [6, 2, 3, 4],
            "num_blocks": [2, 3, 4, 5, 6],
            "num_heads": [2, 4, 6, 8, 10],
            "injection_channels": [64, 96, 128, 160, 192, 256],
            "token_stride": [32, 64, 128],
            "injected_strides": ["8-16-32", "4-8-16-32", "16-32"],
            "head_fuse": ["depthwise", "dense"],
            "image_size": [384, 448, 512],  # or 3/4, 7/8 and all of the task's, where that is not among these
        },
    },
    "quickstart": {  # small enough to enumerate; kernels and expands are the anchors' own
        "name": "quickstart",
        "base": "small",
        "knobs": {
            "width_4": [16, 24, 32],
            "width_8": [32, 48, 64],
            "width_16": [64, 96, 128],
            "width_32": [96, 128, 160],
            "depth_32": [2, 3],
            "num_blocks": [2, 4],
            "num_heads": [4, 6, 8],
            "injection_channels": [128, 192, 256],
            "head_fuse": ["depthwise", "dense"],
        },
    },
}
"""The declarative form of each preset (see `SearchSpace`), by name."""


def preset(name: str, *, task: Task) -> SearchSpace:
    """The preset of that name on a task; `pyramid` has the task's image size among its choices."""
    if name not in PRESETS:
        raise unknown_name("search space", name, PRESETS, advice="A study's TOML file can declare its own.")
    values = PRESETS[name]
    knobs = dict(values["knobs"])
    sizes = knobs.get("image_size", ())
    if sizes and task.image_size not in {parse_image_size(str(size)) for size in sizes}:
        knobs["image_size"] = _scaled_sizes(task.image_size)
    return SearchSpace.from_dict({**values, "knobs": knobs}, task=task, where=f"preset {name!r}")


def _scaled_sizes(size: tuple[int, int]) -> list[int | str]:
    """3/4, 7/8 and all of an image size; sides rounded to multiples of 32, none under 64 or over the size itself."""
    scaled = [tuple(min(side, max(64, round(side * scale / 32) * 32)) for side in size) for scale in (3 / 4, 7 / 8)]
    return [height if height == width else f"{height}x{width}" for height, width in dict.fromkeys([*scaled, size])]

"""How fast are scenes drawn, and trained on? `python experiments/benchmarks/scenes_speed.py OUT.json`

Everything on one core that this process is pinned to and on one thread, in turns, in one run: drawing at three sizes,
reading what is in the cache, and training T on 64x576 pixels as proxies do. Rates by CPU time are what to compare where
other work shares the core; rates by wall time are what a person waits for. Under a minute on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from evaluators.datasets.scenes import Scenes, draw_item
from evaluators.proxy import LONG, one_torch_thread
from evaluators.training import train
from latency_lut.devices.host import cpu_model
from topformer.cache import CACHE_VARIABLE
from topformer.config import TINY
from topformer.model import TopFormer

DRAWN = {(64, 576): 120, (256, 256): 80, (512, 512): 40}
"""Images a round, by size."""
ITERATIONS = 25
ROUNDS = 5
STRIP = Scenes(train_images=100, val_images=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder, one_torch_thread():
        os.environ[CACHE_VARIABLE] = folder
        content = {
            "command": shlex.join(("python", *sys.argv)),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "cpu": cpu_model(),
                "cores": os.cpu_count(),
                "pinned_to": core,
                "numpy": np.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "load": os.getloadavg(),
            },
            "seed": STRIP.seed,
            "rounds": ROUNDS,
            **measured(),
        }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))


def measured() -> dict[str, Any]:
    started = time.process_time()
    for size in DRAWN:
        draw_item(STRIP.at_size(size), "train", 0)
    textures_s = time.process_time() - started  # of all sizes together, once in a process
    STRIP.item("train", 0)
    jobs: dict[str, Callable[[], int]] = {f"draw {h}x{w}": _drawing((h, w), n) for (h, w), n in DRAWN.items()}
    jobs |= {"read 64x576 from the cache": _read, "train T on 64x576": _train}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            rates[name].append(_rates(job))
    by_cpu = {name: median(cpu for cpu, _ in found) for name, found in rates.items()}
    training = by_cpu["train T on 64x576"]
    return {
        "first_images_of_all_sizes_s": round(textures_s, 2),
        "images_per_cpu_s": {name: round(rate, 1) for name, rate in by_cpu.items()},
        "images_per_wall_s": {name: round(median(wall for _, wall in found), 1) for name, found in rates.items()},
        "times_as_fast_as_training_T_on_64x576": {name: round(rate / training, 1) for name, rate in by_cpu.items()},
    }


def _rates(job: Callable[[], int]) -> tuple[float, float]:
    """Images a second of CPU time and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    images = job()
    return images / (time.process_time() - cpu), images / (time.perf_counter() - wall)


def _drawing(size: tuple[int, int], images: int) -> Callable[[], int]:
    def draw() -> int:
        for index in range(images):
            draw_item(STRIP.at_size(size), "train", index)
        return images

    return draw


def _read() -> int:
    rounds = 20
    for _ in range(rounds):
        for index in range(STRIP.train_images):
            for array in STRIP.item("train", index):
                array.copy()
    return rounds * STRIP.train_images


def _train() -> int:
    recipe = replace(LONG.training, iterations=ITERATIONS, recalibration_images=0)
    torch.manual_seed(0)
    model = TopFormer(TINY, num_classes=STRIP.num_classes)
    train(model, STRIP, recipe, train_images=STRIP.train_images, seed=0)
    return ITERATIONS * recipe.batch_size


if __name__ == "__main__":
    main()

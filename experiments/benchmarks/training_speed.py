"""How fast does the loop train? `python experiments/benchmarks/training_speed.py OUT.json [ARCH ...] [--gpu]`

Images a second of the training loop and of a plain eager one in float32 (the same network, samples, loss and optimiser,
written as a tutorial would), in turns, in one run: the ratio is what counts. On a CPU the released recipe with crops of
512 px, two at a time; with --gpu its whole batch, the loop in bf16 and compiled, not compiled, and in fp32, with its
memory. And samples a second that one process prepares from photographs of ADE20K's usual size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch.nn import functional as F

from evaluators.datasets import IGNORE
from evaluators.datasets.files import LabelledFiles, Pair
from evaluators.datasets.label_maps import contiguous
from evaluators.evaluation import normalised
from evaluators.recipe import TrainingRecipe
from evaluators.samples import Samples, batches
from evaluators.training import Execution, train
from experiments.training.recipe_files import recipe_named
from latency_lut.devices.host import cpu_model
from topformer.config import named_arch
from topformer.model import TopFormer, upsample

PHOTOGRAPH = (512, 683)
IMAGES = 16
CLASSES = 150
ITERATIONS = 12
WARM_UP = 4
ROUNDS = 3


def photographs(root: Path) -> LabelledFiles:
    """Noise with structure at several scales as JPEG, and label maps, in files."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(IMAGES):
        coarse = rng.integers(0, 256, (8, 11, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(picture).astype(int) + rng.normal(0, 12, (*PHOTOGRAPH, 3)).astype(int)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / f"{index}.jpg", quality=90)
        labels = rng.integers(0, CLASSES + 1, (8, 11), dtype=np.uint8)
        Image.fromarray(labels).resize(PHOTOGRAPH[::-1], Image.Resampling.NEAREST).save(root / f"{index}.png")
        pairs.append(Pair(f"{index}.jpg", f"{index}.png"))
    return LabelledFiles(
        name="photographs",
        root=root,
        class_names=tuple(map(str, range(CLASSES))),
        palette=((0, 0, 0),) * CLASSES,
        pairs={"train": tuple(pairs), "val": tuple(pairs[:1])},
        read_labels=contiguous(CLASSES, zero_is_ignored=True),
    )


def plain(
    arch: str, data: LabelledFiles, recipe: TrainingRecipe, device: torch.device, *, iterations: int | None = None
) -> float:
    """Images a second of a loop without anything that makes it fast."""
    torch.manual_seed(0)
    model = TopFormer(named_arch(arch), num_classes=CLASSES).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    samples = Samples(dataset=data, images=IMAGES, seed=0, augmentation=recipe.augmentation)
    size = recipe.batch_size
    started = now(device)
    with batches(samples, first=0, size=size, stride=size, workers=workers_for(device)) as made:
        for iteration, batch in enumerate(islice(made, iterations or ITERATIONS)):
            if iteration == WARM_UP:
                started = now(device)
            images, labels = batch.images.to(device), batch.targets.to(device)
            logits = model(normalised(images).contiguous())
            resized = upsample(logits, (labels.shape[-2], labels.shape[-1]))
            loss = F.cross_entropy(resized, labels.long(), ignore_index=IGNORE)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss.item()
    return (ITERATIONS - WARM_UP) * size / (now(device) - started)


@dataclass(frozen=True)
class Variant:
    """A way to run the loop."""

    precision: Any
    compiled: bool


def ours(
    arch: str,
    data: LabelledFiles,
    recipe: TrainingRecipe,
    device: torch.device,
    variant: Variant,
    *,
    iterations: int | None = None,
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = TopFormer(named_arch(arch), num_classes=CLASSES)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trained = train(
        model,
        data,
        replace(recipe, iterations=iterations or ITERATIONS),
        train_images=IMAGES,
        seed=0,
        fabric=Fabric(accelerator=device.type, devices=1, precision=variant.precision),
        execution=Execution(workers=workers_for(device), compile=variant.compiled),
    )
    speed = trained.speed
    return {
        "images_per_s": speed.images / speed.seconds,
        "waiting_share": speed.waiting_s / speed.seconds if speed.seconds else None,
        "peak_memory_gib": None if speed.peak_memory_bytes is None else speed.peak_memory_bytes / 2**30,
    }


def workers_for(device: torch.device) -> int:
    return 0 if device.type == "cpu" else max((os.cpu_count() or 2) - 2, 1)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def prepared_per_s(data: LabelledFiles, recipe: TrainingRecipe) -> float:
    """Samples that one process prepares in a second."""
    samples = Samples(dataset=data, images=IMAGES, seed=0, augmentation=recipe.augmentation)
    samples(0)
    started = time.perf_counter()
    for number in range(40):
        samples(number)
    return 40 / (time.perf_counter() - started)


def memory_gib(arch: str, data: LabelledFiles, recipe: TrainingRecipe, loop: str) -> float:
    """Of the whole process, at most, on a CPU; to be called in a process of its own."""
    once = replace(recipe, iterations=2)
    if loop == "plain":
        plain(arch, data, once, torch.device("cpu"), iterations=2)
    else:
        ours(arch, data, once, torch.device("cpu"), Variant("32-true", False), iterations=2)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**20  # getrusage would inherit the peak of the parent


def memory_per_image_gib(arch: str, loop: str) -> float:
    """What six images take more than two, by four."""
    found = {}
    for size in (2, 6):
        command = [sys.executable, "-W", "ignore", __file__, "-", arch, "--memory", loop, "--batch-size", str(size)]
        found[size] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    return (found[6] - found[2]) / 4


def main() -> None:
    global ITERATIONS  # noqa: PLW0603, a script's own setting
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("arch", nargs="*", default=["tiny"])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--memory", choices=("plain", "loop"), help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, default=2, help="on a CPU")
    asked = parser.parse_args()
    device = torch.device("cuda" if asked.gpu else "cpu")
    recipe = recipe_named("released", dataset="ade20k", anchor=None).training
    if asked.gpu:
        ITERATIONS = 60
    else:
        recipe = replace(recipe, batch_size=asked.batch_size)
    if asked.memory:
        with tempfile.TemporaryDirectory() as folder:
            print(memory_gib(asked.arch[0], photographs(Path(folder)), recipe, asked.memory))
        return
    variants = {"fp32": Variant("32-true", False)}
    if asked.gpu:
        variants |= {"bf16": Variant("bf16-mixed", False), "bf16 compiled": Variant("bf16-mixed", True)}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder))
        for arch in asked.arch:
            plain_rates, found = [], {name: [] for name in variants}  # type: ignore[var-annotated]
            for _ in range(ROUNDS):
                plain_rates.append(plain(arch, data, recipe, device))
                for name, variant in variants.items():
                    found[name].append(ours(arch, data, recipe, device, variant))
            rows[arch] = {"plain_images_per_s": statistics.median(plain_rates), "loop": {}}
            for name, results in found.items():
                ratios = [result["images_per_s"] / rate for result, rate in zip(results, plain_rates, strict=True)]
                rows[arch]["loop"][name] = {
                    "images_per_s": statistics.median(result["images_per_s"] for result in results),
                    "ratio_to_plain": statistics.median(ratios),
                    "ratios": ratios,
                    "waiting_share": statistics.median(result["waiting_share"] for result in results),
                    "peak_memory_gib": results[-1]["peak_memory_gib"],
                }
            if not asked.gpu:
                rows[arch]["memory_per_image_gib"] = {
                    loop: memory_per_image_gib(arch, loop) for loop in ("plain", "loop")
                }
            print(arch, json.dumps(rows[arch], indent=1), flush=True)
        content = {
            "command": shlex.join(("python", *sys.argv)),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "cpu": cpu_model(),
                "cores": os.cpu_count(),
                "gpu": torch.cuda.get_device_name() if asked.gpu else None,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "load": os.getloadavg(),
            },
            "recipe": "released for ADE20K, 512x512 crops",
            "batch_size": recipe.batch_size,
            "rounds": ROUNDS,
            "samples_prepared_per_s_by_one_process": prepared_per_s(data, recipe),
            "architectures": rows,
        }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Make docs/overlay.png: `python docs/make_overlay.py [ITERATIONS]`, some minutes; the commands of the README's section
"Training", typed on a folder of images and masks that is drawn first, in runs/mine."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from evaluators.datasets.scenes import Scenes

RUNS = Path("runs")
MINE = RUNS / "mine"
SHOWN = ("0000", "0003", "0007")


def main() -> None:
    iterations = sys.argv[1] if len(sys.argv) > 1 else "400"
    draw(Scenes(image_size=(128, 384), train_images=300, val_images=24))
    shorter = ("--set", f"iterations={iterations}", "--set", "augmentation.crop=[128, 256]")
    sides = ("--set", "augmentation.short_side=128", "--set", "augmentation.long_side=384")
    judged = ("--recipe", "quick", "--set", "protocol.short_side=128", "--set", "protocol.long_side=384")
    weights = str(RUNS / "trained" / "best.safetensors")
    images = [str(MINE / "images" / "val" / f"{name}.png") for name in SHOWN]
    nas("datasets", "check", str(MINE))
    nas("train", "small", "--data", str(MINE), "--out", str(RUNS / "trained"), *shorter, *sides, *judged)
    nas("evaluate", weights, "--data", str(MINE), "--pictures", str(RUNS / "scored"))
    nas("predict", weights, *images, "--out", str(RUNS / "predicted"))
    rows = []
    for name in SHOWN:
        parts = [MINE / "images" / "val" / f"{name}.png", RUNS / "predicted" / f"{name}.overlay.png"]
        rows.append(np.concatenate([np.asarray(Image.open(part).convert("RGB")) for part in parts], axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save("docs/overlay.png")


def draw(scenes: Scenes) -> None:
    """As files of the layout `folder`."""
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (MINE / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(scenes.length(split)):
            image, labels = scenes.item(split, index)
            Image.fromarray(np.array(image)).save(MINE / "images" / split / f"{index:04d}.png")
            Image.fromarray(np.array(labels)).save(MINE / "masks" / split / f"{index:04d}.png")
    with (MINE / "classes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("name", "red", "green", "blue"))
        table.writerows((name, *colour) for name, colour in zip(scenes.class_names, scenes.palette, strict=True))


def nas(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "experiments", *words], check=True)


if __name__ == "__main__":
    main()

"""Is a data set checked as fast as before? `python experiments/benchmarks/dataset_check.py --old WORKTREE`

Draws pairs of 512 px (a JPEG and a palette of classes in PNG) into a folder that is removed again, and types
`datasets check` in turns by the code of WORKTREE, such as one made by `git worktree add WORKTREE c297f8f`, and by this
one, each time with an empty cache. The ratio is of the medians; the machine may be busy, and both are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from experiments.benchmarks.evidence import keep
from topformer.cache import CACHE_VARIABLE

SIDE_PX = 512
CLASSES = 19
VAL_ONE_IN = 10
HERE = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", type=Path, required=True, help="Folder of the code to compare with.")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, help="For both. [default: what each one takes]")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dataset-check-") as folder:
        root = Path(folder) / "data"
        drawn(root, asked.pairs)
        codes = {"old": asked.old.resolve(), "new": HERE}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
        for turn in range(asked.rounds):
            for name, code in list(codes.items())[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(timed(code, root, Path(folder) / "cache", asked.workers))
                print(name, found[name][-1], file=sys.stderr)
    files = 2 * asked.pairs
    rates = {name: files / median(one["seconds"] for one in turns) for name, turns in found.items()}
    by_cpu = {name: files / median(one["cpu_seconds"] for one in turns) for name, turns in found.items()}
    keep(
        {
            "pairs": asked.pairs,
            "side_px": SIDE_PX,
            "workers": asked.workers or "as each takes",
            "old_commit": commit(codes["old"]),
            "new_commit": commit(HERE),
            "load": os.getloadavg(),
            "turns": found,
            "files_per_s": rates,
            "files_per_cpu_s": by_cpu,
            "ratio_of_files_per_s": rates["new"] / rates["old"],
            "ratio_of_files_per_cpu_s": by_cpu["new"] / by_cpu["old"],
        },
        asked.out,
    )


def drawn(root: Path, pairs: int) -> None:
    """Pictures of smooth colours with a little noise, about 100 kB each, and patches of classes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 12, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    for number in range(pairs):
        part = "val" if number % VAL_ONE_IN == 0 else "train"
        for kind in ("images", "masks"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 240, (48, 48, 3)).astype(np.uint8))
        picture = np.asarray(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)) // 2 + noise
        Image.fromarray(picture).save(root / "images" / part / f"{number:06d}.jpg", quality=90)
        patches = Image.fromarray(rng.integers(0, CLASSES, (16, 16)).astype(np.uint8))
        labels = patches.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)
        labels.save(root / "masks" / part / f"{number:06d}.png")
    (root / "classes.txt").write_text("".join(f"class {label}\n" for label in range(CLASSES)))


def timed(code: Path, root: Path, cache: Path, workers: int | None) -> dict[str, float]:
    """Seconds by the wall and of all processes together, with nothing known of the files."""
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "experiments", "datasets", "check", str(root), "--json"]
    command += [] if workers is None else ["--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(code), CACHE_VARIABLE: str(cache)}
    before, started = os.times(), time.perf_counter()
    said = subprocess.run(command, cwd=code, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, after = time.perf_counter() - started, os.times()
    report = json.loads(said)
    assert report["sound"], report["problems"][:3]
    assert report["fingerprint"]
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_s, 2)}


def commit(code: Path) -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=code, check=True, capture_output=True, text=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main()

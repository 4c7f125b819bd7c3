"""Do exported files give what torch gives? `python experiments/benchmarks/export_parity.py OUT.json [COUNT] [FORMATS]`

Random architectures, over every head, injection, extractor, token source and odd size, are trained for 50 iterations on
drawn scenes, exported in every format and compared with torch on drawn scenes that they were not trained on. Written
after every architecture; what is there already is not done again.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from evaluators.datasets.scenes import Scenes, draw_item
from evaluators.evaluation import normalised
from experiments.export.formats import Network, Options
from experiments.export.formats.named import formats_asked
from experiments.export.gates import parity
from experiments.export.images import drawn_images
from topformer.config import STAGE_STRIDES, TINY, MBConv, Task, TopFormerConfig
from topformer.errors import UserError
from topformer.model import TopFormer

ITERATIONS = 50
BATCH = 4
IMAGES = 4
CLASSES = 8


def main() -> None:
    out, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50
    formats = formats_asked(sys.argv[3] if len(sys.argv) > 3 else "onnx,mnn,ncnn")
    done: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"runs": []}
    known = {(run["seed"], run["format"]) for run in done["runs"]}
    for seed in range(count):
        wanted = [one for one in formats if (seed, one.name) not in known]
        if not wanted:
            continue
        arch, task = drawn(seed)
        network = Network(model=trained(arch, task, seed), task=task)
        images = drawn_images(task, IMAGES)
        for one in wanted:
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                files = one.write(network, Path(folder), "network", Options()).files
                found = parity(one, network, files, images)
            run = {"seed": seed, "format": one.name, "arch": arch.key, "size": list(task.image_size)}
            run |= {"seconds": round(time.monotonic() - started, 1), **found.as_dict()}
            run |= {"heads": arch.head, "injection": arch.injection, "extractor": arch.extractor}
            done["runs"].append(run)
            print(
                f"{seed} {one.name} {task.pixels} {arch.extractor}: {found.relative:.2g}, torch itself "
                f"{found.torch_rounding:.2g}, {found.differing} px, close {found.close_pct:.2f} %",
                flush=True,
            )
        done["torch"], done["iterations"] = torch.__version__, ITERATIONS
        done["worst"] = {
            one.name: max((run["relative_error"] for run in done["runs"] if run["format"] == one.name), default=None)
            for one in formats
        }
        out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def drawn(seed: int) -> tuple[TopFormerConfig, Task]:
    """An architecture and a task of odd sides; every kind of block comes in turn."""
    chance = random.Random(seed)
    while True:
        try:
            arch = TINY.replace(
                stages=tuple(
                    tuple(
                        MBConv(chance.choice((3, 5)), chance.choice((1, 2, 3)), width, 2 if row == 0 else 1)
                        for row in range(chance.choice((1, 2)))
                    )
                    for width in (chance.choice((8, 12, 16)), *(chance.choice((16, 24, 36)) for _ in range(3)))
                ),
                num_blocks=chance.choice((1, 2)),
                num_heads=chance.choice((1, 3)),
                key_dim=chance.choice((8, 12)),
                injection_channels=chance.choice((24, 40)),
                token_stride=chance.choice((32, 64)),
                injected_strides=chance.choice(((8, 16, 32), STAGE_STRIDES, (16, 32), (8,))),
                depthwise_head=chance.random() < 0.5,
                token_source=("pyramid", "last")[seed // 5 % 2],
            )
            head = ("topformer", "topformer", "sum", "concat")[seed % 4]
            changes: dict[str, Any] = {"extractor": ("attention", "ffn", "none", "ppm", "aspp")[seed % 5], "head": head}
            changes |= {"injection": ("full", "attention", "semantics")[seed % 3]} if head == "topformer" else {}
            changes |= {"depthwise_head": False} if head == "concat" else {}
            arch = arch.replace(**changes)
        except UserError:
            continue
        return arch, Task(image_size=(chance.randrange(64, 130), chance.randrange(64, 130)), num_classes=CLASSES)


def trained(arch: TopFormerConfig, task: Task, seed: int) -> TopFormer:
    """After some iterations of training on drawn scenes, in eval mode."""
    torch.manual_seed(seed)
    model = TopFormer(arch, num_classes=task.num_classes).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scenes = Scenes(image_size=task.image_size, num_classes=task.num_classes)
    for step in range(ITERATIONS):
        items = [draw_item(scenes, "train", (step * BATCH + index) % 24) for index in range(BATCH)]
        images, labels = (torch.stack([torch.tensor(part) for part in parts]) for parts in zip(*items, strict=True))
        logits = model(normalised(images))
        logits = F.interpolate(logits, size=task.image_size, mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, labels.long(), ignore_index=255)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


if __name__ == "__main__":
    main()

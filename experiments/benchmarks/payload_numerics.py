"""Does the Arm payload compute what torch does? `python experiments/benchmarks/payload_numerics.py OUT.json [SEEDS]`

Runs T, S and B at 512x512 in the payload under qemu with random weights and random batch-norm statistics, and compares
all logits with torch's, relative to max(1, |logit|). Beside it is what torch's own float32 differs from its float64:
convolutions are scaled by fan-in and statistics vary by a fifth, because networks as initialised for training, or with
wild statistics, amplify any rounding a thousandfold. Needs the extra `arm` and qemu-user; about a minute for each seed.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from experiments.export.weights import settle_random_weights
from latency_lut.devices import qemu
from latency_lut.payload import build
from latency_lut.runtimes.ncnn import candidate_network
from topformer.config import ANCHORS, Candidate, Task
from topformer.model import TopFormer

TOLERANCE = 1e-4


def main() -> None:
    out, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    findings = []
    for name, arch in ANCHORS.items():
        for seed in range(seeds):
            candidate = Candidate(arch=arch, task=Task())
            torch.manual_seed(seed)
            model = random_model(candidate, seed)
            image = sum(F.interpolate(torch.randn(1, 3, n, n), (512, 512), mode="bilinear") for n in (2, 8, 32, 128))
            assert isinstance(image, torch.Tensor)
            with torch.inference_mode():
                expected = model(image)[0].numpy()
                exact = copy.deepcopy(model).double()(image.double())[0].numpy()
            network = candidate_network(candidate)
            got = qemu.infer(network, network.weights(model), [image[0].numpy()])
            error, rounding = worst_difference(got, expected), worst_difference(expected, exact)
            run = {"anchor": name, "seed": seed, "max_error": error, "torch_float32_to_float64": rounding}
            findings.append(run | {"greatest_logit": float(abs(expected).max())})
            print(f"{name}, seed {seed}: {error:.2g}, torch itself {rounding:.2g}", flush=True)
    content = {"payload_sha256": build.checksum(build.payload()), "tolerance": TOLERANCE, "runs": findings}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def worst_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))


def random_model(candidate: Candidate, seed: int) -> TopFormer:
    """In evaluation mode."""
    model = settle_random_weights(TopFormer(candidate.arch, num_classes=candidate.task.num_classes), seed=seed)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.weight.uniform_(0.8, 1.2)
                part.bias.uniform_(-0.2, 0.2)
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.8, 1.2)
    return model


if __name__ == "__main__":
    main()

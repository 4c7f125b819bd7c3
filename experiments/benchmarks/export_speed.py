"""Is our ONNX file faster than a straightforward export? `python experiments/benchmarks/export_speed.py OUT.json`

T, S and B at 512x512 px, 150 classes, random weights, on one core by onnxruntime. The straightforward file is what
`torch.onnx.export` makes of the network as it is. Both are timed turn by turn; the ratio is the median over the turns,
with its 90 % interval by resampling turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from experiments.benchmarks.evidence import keep
from experiments.export.formats import Network, Options
from experiments.export.formats.onnx import ONNX
from experiments.export.weights import settle_random_weights
from topformer.config import ANCHORS, Task
from topformer.model import TopFormer

TURNS = 60
WARM_UP = 5


def plain(model: torch.nn.Module, image: torch.Tensor) -> bytes:
    """What anybody's first try would be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (image,), dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def ratios(ours: bytes, theirs: bytes, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(turns, 2) seconds of both, ours first, and their ratios."""
    pair = [session(graph) for graph in (ours, theirs)]
    names = [one.get_inputs()[0].name for one in pair]
    seconds = np.zeros((TURNS, 2))
    for turn in range(-WARM_UP, TURNS):
        for number in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            pair[number].run(None, {names[number]: image})
            if turn >= 0:
                seconds[turn, number] = time.perf_counter() - began
    return seconds, seconds[:, 0] / seconds[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    task, rng = Task(), np.random.default_rng(0)
    image = rng.normal(size=(1, 3, *task.image_size)).astype(np.float32)
    found = {}
    for name, arch in ANCHORS.items():
        torch.manual_seed(0)
        model = settle_random_weights(TopFormer(arch, num_classes=task.num_classes)).eval()
        with tempfile.TemporaryDirectory() as folder:
            (path,) = ONNX.write(Network(model=model, task=task), Path(folder), name, Options()).files
            ours = path.read_bytes()
        seconds, ratio = ratios(ours, plain(model, torch.from_numpy(image)), image)
        drawn = np.median(rng.choice(ratio, (1000, len(ratio))), axis=1)
        found[name] = {
            "ours_ms": round(1e3 * float(seconds[:, 0].min()), 2),
            "plain_ms": round(1e3 * float(seconds[:, 1].min()), 2),
            "ratio": round(float(np.median(ratio)), 3),
            "interval_90": [round(float(one), 3) for one in np.percentile(drawn, [5, 95])],
            "ratio_of_fastest": round(float(seconds[:, 0].min() / seconds[:, 1].min()), 3),
        }
    keep({"turns": TURNS, "onnxruntime": onnxruntime.__version__, "found": found}, asked.out)


if __name__ == "__main__":
    main()

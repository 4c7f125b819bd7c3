"""What does the card beside an exported file say, and where are its numbers from?"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import onnx
import onnxruntime
import torch

from evaluators.datasets import Colour, numbered_palette
from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from evaluators.trust import Z_90
from experiments.export.formats import INPUT, Network
from experiments.front.lookup import CARD_FORMAT
from experiments.store.records import Study, Trial
from experiments.trust.standing import Standing
from latency_lut.table import LatencyEstimate
from topformer.blocks import decompose
from topformer.config import ANCHORS, TopFormerConfig, anchor_name
from topformer.version import tool_version


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the exported numbers come from; None where there is nothing to cite."""

    weights: str
    """"random", or where the weights were read from."""
    weights_sha256: str | None = None
    latency: LatencyEstimate | None = None
    table: str | None = None
    table_checksum: str | None = None
    study: Study | None = None
    trial: Trial | None = None
    ranking: Standing | None = None
    """Of the evaluator that the mIoU is by."""
    classes: tuple[tuple[str, Colour], ...] = ()
    """Name and colour of each class; empty where neither weights nor data set say them."""
    command: str = ""
    """What was typed."""

    @property
    def trained(self) -> bool:
        return self.weights != "random"

    def named_classes(self, count: int) -> tuple[tuple[str, Colour], ...]:
        """Of the classes, numbers where they have no names."""
        if len(self.classes) == count:
            return self.classes
        return tuple((f"class {index}", colour) for index, colour in enumerate(numbered_palette(count)))

    @property
    def miou_margin_pct(self) -> float | None:
        """Half the 90 % interval of a repeated training; None where no trust report has repeated any."""
        if self.trial is None or self.ranking is None:
            return None
        noise_pct = self.ranking.noise_of(self.trial.trainings)
        return None if noise_pct is None else Z_90 * noise_pct


PROVEN = "Every format was run in its own runtime on this machine and compared with torch on the images named above. "
UNTRAINED = (
    "The weights are random. What was compared shows that the graph is wired as the network is; it says nothing of the "
    "differences that trained weights will show, and labels of such a network mean nothing."
)
TRAINED = (
    "Where torch's two best logits of a pixel differ by more than 0.001, every format with float32 weights gave the "
    "same label; what it gives on another machine's kernels, rounding differently, was not measured."
)


def card(
    network: Network, *, name: str, made: Mapping[str, Mapping[str, Any]], provenance: Provenance, step: int
) -> dict[str, Any]:
    """What a card says: the architecture, its task, what the files take and give, and where its numbers are from.

    `made`: what each format says of itself, by its name; `step`: of the rows and columns of the output, every so many
    are kept as reference.
    """
    arch, task = network.arch, network.task
    latency, trial = provenance.latency, provenance.trial
    onnx_made = made.get("onnx", {})
    blocks = decompose(arch, task)
    return {
        "format": CARD_FORMAT,
        "name": name,
        "architecture": arch.as_dict(),
        "arch_key": arch.key,
        "anchor": anchor_name(arch),
        "nearest": nearest_anchor(arch),
        "task": task.as_dict(),
        "input": {
            "name": INPUT,
            "shape": [1, 3, *task.image_size],
            "colour": "RGB",
            "mean": list(MEAN),
            "std": list(STANDARD_DEVIATION),
            "normalised": "inside" if network.normalise_inside else "before",
            "dynamic": network.dynamic,
        },
        "output": {"name": task.output, "shape": [1, *blocks[-1].output]},
        "classes": [[label, list(colour)] for label, colour in provenance.named_classes(task.num_classes)],
        "parameters": sum(block.parameters for block in blocks),
        "macs": sum(block.macs for block in blocks),
        "blocks": [
            {"name": one.name, "parameters": one.parameters, "macs": one.macs, "output": list(one.output)}
            for one in blocks
        ],
        "formats": {name: dict(said) for name, said in made.items()},
        "reference": {"step": step},
        "proves": PROVEN + (TRAINED if provenance.trained else UNTRAINED),
        "command": provenance.command,
        "licence": None,
        "onnx_sha256": next((one["sha256"] for one in onnx_made.get("files", {}).values()), None),
        "opset": onnx_made.get("opset"),
        "parity": (onnx_made or next(iter(made.values())))["parity"],
        "weights": provenance.weights,
        "weights_sha256": provenance.weights_sha256,
        "latency": None
        if latency is None
        else {
            "total_ms": latency.total_ms,
            "low_ms": latency.low_ms,
            "high_ms": latency.high_ms,
            "interval": latency.interval_note,
            "kind": latency.kind,
            "table": provenance.table,
            "table_checksum": provenance.table_checksum,
        },
        "study": None if provenance.study is None else provenance.study.name,
        "trial": None if trial is None else trial.number,
        "miou_pct": None if trial is None else trial.miou_pct,
        "miou_margin_pct": provenance.miou_margin_pct,
        "fidelity": None if trial is None or trial.record is None else trial.record.fidelity,
        "evaluator": None if trial is None or trial.record is None else trial.record.evaluator,
        "ranking_trust": None if provenance.ranking is None else provenance.ranking.as_dict(),
        "made_by": {
            "topformer-nas": tool_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def nearest_anchor(arch: TopFormerConfig) -> str | None:
    """The anchor with the fewest other settings, and what differs; None where it is an anchor itself."""
    if anchor_name(arch) is not None:
        return None
    own = arch.as_dict()
    others = {name: anchor.as_dict() for name, anchor in ANCHORS.items()}
    differing = {name: [key for key in own if own[key] != values[key]] for name, values in others.items()}
    nearest = min(differing, key=lambda name: len(differing[name]))
    said = [
        key if isinstance(own[key], list) else f"{key} {own[key]}, not {others[nearest][key]}"
        for key in differing[nearest]
    ]
    return f"{nearest}, which differs in {'; '.join(said)}"

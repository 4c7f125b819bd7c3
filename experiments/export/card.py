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

from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from evaluators.trust import Z_90
from experiments.export.formats import INPUT, Network
from experiments.front.lookup import CARD_FORMAT
from experiments.store.records import Study, Trial
from experiments.trust.standing import Standing
from latency_lut.table import LatencyEstimate
from topformer.config import anchor_name
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

    @property
    def miou_margin_pct(self) -> float | None:
        """Half the 90 % interval of a repeated training; None where no trust report has repeated any."""
        if self.trial is None or self.ranking is None:
            return None
        noise_pct = self.ranking.noise_of(self.trial.trainings)
        return None if noise_pct is None else Z_90 * noise_pct


def card(network: Network, *, made: Mapping[str, Mapping[str, Any]], provenance: Provenance) -> dict[str, Any]:
    """What a card says: the architecture, its task, what the files take and give, and where its numbers are from.

    `made`: what each format says of itself, by its name.
    """
    arch, task = network.arch, network.task
    latency, trial = provenance.latency, provenance.trial
    onnx_made = made.get("onnx", {})
    return {
        "format": CARD_FORMAT,
        "architecture": arch.as_dict(),
        "arch_key": arch.key,
        "anchor": anchor_name(arch),
        "task": task.as_dict(),
        "input": {
            "name": INPUT,
            "shape": [1, 3, *task.image_size],
            "colour": "RGB",
            "mean": MEAN,
            "std": STANDARD_DEVIATION,
            "normalised": "inside" if network.normalise_inside else "before",
        },
        "output": {"name": task.output},
        "formats": {name: dict(said) for name, said in made.items()},
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

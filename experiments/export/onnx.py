"""How does an architecture leave the tool? As one ONNX file, proven equal to the network, with a card beside it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from evaluators.trust import Z_90
from experiments.store.records import Study, Trial
from experiments.trust.standing import Standing
from latency_lut.runtimes.onnxruntime import exportable
from latency_lut.table import LatencyEstimate
from topformer.config import Task, TopFormerConfig, anchor_name
from topformer.errors import UserError
from topformer.model import TopFormer

OPSET = 20
"""What the exporter of torch 2.13 writes without converting."""
TOLERANCE = 1e-4
"""Largest difference of a logit between onnxruntime and torch, relative to the greatest logit where that is above 1."""
PARITY_IMAGES = 3
ALLOWED_OPERATORS = frozenset(
    (
        *("Add", "ArgMax", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "MatMul", "Mul"),
        *("ReduceMean", "Relu", "Reshape", "Resize", "Softmax", "Split", "Transpose"),
    )
)
"""No Shape, Slice, Gather or Where: converters for phones stumble over them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A finished export."""

    onnx_path: Path
    card_path: Path
    max_abs_error: float
    """Between onnxruntime and torch, over all logits of the test images."""
    opset: int


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
        if self.study is None or self.ranking is None:
            return None
        noise_pct = self.ranking.noise_of(self.study.replicates)
        return None if noise_pct is None else Z_90 * noise_pct


def export(model: TopFormer, task: Task, out: Path, *, name: str, provenance: Provenance) -> Export:
    """Write `out/name.onnx` and `out/name.json`; nothing is left behind when a check fails.

    The graph is static: input `image` (1, 3, H, W), normalised RGB; output as `task.output`.
    Raises `UserError` when onnxruntime does not reproduce torch within the tolerance.
    """
    graph = onnx_graph(model, task)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r} ({error.strerror}); name another folder with --out.") from None
    opset = checked_opset(graph)
    difference, scale = parity(graph, model, task)
    if difference > TOLERANCE * max(1.0, scale):
        raise UserError(
            f"onnxruntime differs from torch by {difference:.2g} on logits up to {scale:.3g} "
            f"(tolerance {TOLERANCE:g} x max(1, greatest logit)); nothing was written. Torch itself differs by "
            f"{_conditioning(model, task):.2g} between float32 and float64: as much means untrained weights."
        )
    onnx_path, card_path = out / f"{name}.onnx", out / f"{name}.json"
    card = _card(model, task, graph, opset, difference, scale, provenance)
    _write_all({onnx_path: graph, card_path: (json.dumps(card, indent=2) + "\n").encode()})
    return Export(onnx_path=onnx_path, card_path=card_path, max_abs_error=difference, opset=opset)


def onnx_graph(model: TopFormer, task: Task) -> bytes:
    """One self-contained ONNX file of the network on the task's image size."""
    height, width = task.image_size
    image = torch.zeros(1, 3, height, width)
    network = exportable(model.eval(), ((3, height, width),))
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (image,),
            None,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[task.output],
        )
    assert program is not None, "the dynamo exporter returns a program"
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def checked_opset(graph: bytes) -> int:
    """The opset the file really has; the exporter is known to change it silently."""
    proto = onnx.load_model_from_string(graph)
    onnx.checker.check_model(proto)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("") != OPSET:
        raise UserError(f"the exporter wrote opset {opsets.get('')} instead of {OPSET}; use the pinned torch version.")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise UserError("the exporter put weights into a side file; use the pinned torch version.")
    if foreign := {node.op_type for node in proto.graph.node} - ALLOWED_OPERATORS:
        raise UserError(f"the exported graph has operators that phone runtimes lack: {', '.join(sorted(foreign))}.")
    return int(opsets[""])


def parity(graph: bytes, model: nn.Module, task: Task) -> tuple[float, float]:
    """(greatest absolute difference, greatest absolute value) of the outputs on seeded test images.

    Labels are compared by the share of pixels that differ.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = scale = 0.0
    for _ in range(PARITY_IMAGES):
        image = torch.randn(1, 3, *task.image_size, generator=generator)
        with torch.inference_mode():
            expected = model(image).numpy()
        (actual,) = session.run(None, {"image": image.numpy()})
        if task.output == "labels":
            worst, scale = max(worst, float(np.mean(actual != expected))), 1.0
            continue
        if not np.isfinite(expected).all():
            raise UserError("the network's logits are not finite; its weights are damaged.")
        worst = max(worst, float(np.abs(actual - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    return worst, scale


def _conditioning(model: nn.Module, task: Task) -> float:
    """Greatest difference of torch's own float32 and float64 outputs on one test image."""
    image = torch.randn(1, 3, *task.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(image.double())
        return float((model(image).double() - exact).abs().max())


def settle_random_weights(model: TopFormer, *, seed: int = 0) -> TopFormer:
    """Weights scaled by fan-in, so that an untrained network's activations have a sane scale without batch statistics.

    As initialised for training, it would amplify rounding errors a thousandfold, and no parity could be shown.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()


def _card(
    model: TopFormer, task: Task, graph: bytes, opset: int, error: float, scale: float, provenance: Provenance
) -> dict[str, Any]:
    latency, trial = provenance.latency, provenance.trial
    arch: TopFormerConfig = model.arch
    return {
        "architecture": arch.as_dict(),
        "arch_key": arch.key,
        "anchor": anchor_name(arch),
        "task": task.as_dict(),
        "input": {
            "name": "image",
            "shape": [1, 3, *task.image_size],
            "colour": "RGB",
            "mean": MEAN,
            "std": STANDARD_DEVIATION,
        },
        "output": {"name": task.output},
        "onnx_sha256": hashlib.sha256(graph).hexdigest(),
        "opset": opset,
        "parity": {"max_abs_error": error, "greatest_logit": scale, "images": PARITY_IMAGES, "tolerance": TOLERANCE},
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
            "topformer-nas": version("topformer-nas"),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter prints, logs and warns of matters inside torch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """All files whole, or none."""
    partials = {path: path.with_name(path.name + ".partial") for path in contents}
    try:
        if folders := [path for path in contents if path.is_dir()]:
            raise UserError(f"cannot write {folders[0]}: it is a folder; nothing was exported.")
        for path, content in contents.items():
            partials[path].write_bytes(content)
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror}); nothing was exported.") from None
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)

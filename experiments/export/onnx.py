"""How does an architecture leave the tool? As one ONNX file, proven equal to the network, with a card beside it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from experiments.export.card import Provenance, card
from latency_lut.runtimes.onnxruntime import exportable
from topformer.config import Task
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
    proof = {
        "max_abs_error": difference,
        "greatest_logit": scale,
        "images": PARITY_IMAGES,
        "tolerance": TOLERANCE,
    }
    said = card(model.arch, task, graph=graph, opset=opset, parity=proof, provenance=provenance)
    _write_all({onnx_path: graph, card_path: (json.dumps(said, indent=2) + "\n").encode()})
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

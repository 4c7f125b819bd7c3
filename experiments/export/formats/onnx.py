"""ONNX: one file, static unless asked otherwise, in the opset that was asked for; run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from experiments.export.formats import INPUT, Network, Options, Session, Written
from experiments.export.program import example, program
from topformer.errors import UserError, first_line

OPSET = 20
"""What the exporter of torch 2.13 writes without converting."""
ALLOWED_OPERATORS = frozenset(
    (
        *("Add", "ArgMax", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "MatMul", "Mul"),
        *("ReduceMean", "Relu", "Reshape", "Resize", "Softmax", "Split", "Transpose"),
    )
)
"""No Shape, Slice, Gather or Where: converters for phones stumble over them."""


class Onnx:
    """The `Format` of ONNX, float32."""

    name = "onnx"
    title = "ONNX, float32"
    extra = None
    packages = ("onnx", "onnxscript", "onnxruntime")
    suffixes = (".onnx",)
    tolerance = 1e-4

    def why_not(self, network: Network, options: Options) -> str | None:
        if network.dynamic:
            return "a dynamic batch and size are not written yet"
        if options.opset not in (None, OPSET):
            return f"its opset is {OPSET}, not {options.opset}"
        return None

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        graph = onnx_graph(network)
        opset = checked_opset(graph)
        path = folder / f"{stem}{self.suffixes[0]}"
        path.write_bytes(graph)
        return Written(files=(path,), report={"opset": opset})

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        return onnx_session(files[0], threads)

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        return Counter(node.op_type for node in onnx.load_model(files[0]).graph.node)

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        nodes = onnx.load_model(files[0]).graph.node
        return tuple(f"{node.name} ({node.op_type})" for node in nodes if node.op_type not in ALLOWED_OPERATORS)

    def recognises(self, head: bytes) -> bool:
        """The first field of a model is its IR version, one small number, and the second the name of its producer."""
        return len(head) > 2 and head[0] == 0x08 and 3 <= head[1] < 32 and head[2] in (0x12, 0x3A, 0x42)


ONNX = Onnx()


def onnx_graph(network: Network) -> bytes:
    """One self-contained ONNX file of the network on the task's image size."""
    with _quiet_exporter():
        made = torch.onnx.export(
            program(network),
            (example(network),),
            None,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(network.outputs),
        )
    assert made is not None, "the dynamo exporter returns a program"
    graph: bytes = made.model_proto.SerializeToString()
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
    return int(opsets[""])


def onnx_session(path: Path, threads: int) -> Session:
    """Raises `UserError` where onnxruntime cannot read the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; the optimiser's warnings are about graphs it leaves as they are
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds derive from nothing narrower
        raise UserError(f"onnxruntime cannot read {path} ({first_line(error)}).") from None
    name = session.get_inputs()[0].name

    def run(image: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        return tuple(session.run(None, {name: image}))

    return run


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

"""ONNX: one file, static unless asked otherwise, in the opset that was asked for; run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
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

from experiments.export.folding import fold_gates
from experiments.export.formats import INPUT, Network, Options, Session, Written
from experiments.export.program import example, program
from topformer.errors import UserError, first_line

OPSET = 20
"""What the exporter of torch 2.13 writes without converting, and what is written unless another is asked for."""
OPSETS = range(13, 27)
"""The newest is that of onnxruntime 1.31."""
_LEAST_DYNAMIC = 15
"""Sizes are read with a `Shape` of parts since."""
ALLOWED_OPERATORS = frozenset(
    (
        *("Add", "ArgMax", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "MatMul", "Mul"),
        *("ReduceMean", "Relu", "Reshape", "Resize", "Softmax", "Split", "Transpose"),
    )
)
"""No Shape, Slice, Gather or Where: converters for phones stumble over them. A dynamic graph needs some of them."""
_NEWER_ATTRIBUTES = {
    "antialias": 18,
    "keep_aspect_ratio_policy": 18,
    "axes": 18,
    "num_outputs": 18,
    "saturate": 19,
    "dilations": 19,
    "allowzero": 14,
    "round_mode": 24,
}
"""Attributes that say what was the only way before that opset; "dilations" of poolings alone."""


class Onnx:
    """The `Format` of ONNX, float32."""

    name = "onnx"
    title = "ONNX, float32"
    extra = None
    packages = ("onnx", "onnxscript", "onnxruntime")
    suffixes = (".onnx",)
    tolerance = 1e-4

    def why_not(self, network: Network, options: Options) -> str | None:
        if options.opset is not None and options.opset not in OPSETS:
            return f"opset {options.opset} is none of {OPSETS[0]} to {OPSETS[-1]}"
        if network.dynamic and options.opset is not None and options.opset < _LEAST_DYNAMIC:
            return f"a dynamic batch and size need opset {_LEAST_DYNAMIC} or newer, not {options.opset}"
        return None

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        wanted = options.opset or OPSET
        proto = onnx.load_model_from_string(onnx_graph(network, options.metadata))
        fold_gates(proto)
        graph = at_opset(proto.SerializeToString(), wanted)
        opset = checked_opset(graph, wanted)
        path = folder / f"{stem}{self.suffixes[0]}"
        path.write_bytes(graph)
        return Written(files=(path,), report={"opset": opset})

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        return onnx_session(files[0], threads)

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        return Counter(node.op_type for node in onnx.load_model(files[0]).graph.node)

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        graph = onnx.load_model(files[0]).graph
        if any(side.dim_param for side in graph.input[0].type.tensor_type.shape.dim):
            return ()  # onnxruntime checked every operator as it loaded the file, and sizes have to be computed
        return tuple(f"{node.name} ({node.op_type})" for node in graph.node if node.op_type not in ALLOWED_OPERATORS)

    def recognises(self, head: bytes) -> bool:
        """The first field of a model is its IR version, one small number, and the second the name of its producer."""
        return len(head) > 2 and head[0] == 0x08 and 3 <= head[1] < 32 and head[2] in (0x12, 0x3A, 0x42)


ONNX = Onnx()


def onnx_graph(network: Network, metadata: Mapping[str, str] | None = None) -> bytes:
    """One self-contained ONNX file of the network, on the task's image size unless it is dynamic."""
    sides = {0: "batch", 2: "height", 3: "width"}
    with _quiet_exporter():
        made = torch.onnx.export(
            program(network),
            (example(network, batch=2 if network.dynamic else 1),),
            None,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(network.outputs),
            dynamic_shapes=(dict.fromkeys(sides, torch.export.Dim.DYNAMIC),) if network.dynamic else None,
        )
    assert made is not None, "the dynamo exporter returns a program"
    proto = made.model_proto
    _tidy(proto)
    if network.dynamic:
        for axis, name in sides.items():
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    graph: bytes = proto.SerializeToString()
    return graph


def _tidy(proto: onnx.ModelProto) -> None:
    """Nodes are called by the modules that they are of; what the exporter noted of this machine's folders goes."""
    inside = "network."
    names = {tensor.name: tensor.name.removeprefix(inside) for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = names[tensor.name]
    used: Counter[str] = Counter()
    for node in proto.graph.node:
        scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
        modules = [word for word in re.findall(r"'([^']*)'", scopes) if word.startswith(inside)]
        place = modules[-1].removeprefix(inside) if modules else "network"
        used[f"{place}/{node.op_type}"] += 1
        again = used[f"{place}/{node.op_type}"]
        node.name = f"{place}/{node.op_type}{f'_{again}' if again > 1 else ''}"
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        node.doc_string = ""
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]


def at_opset(graph: bytes, opset: int) -> bytes:
    """The same graph as that opset says it. Raises `UserError` where it cannot.

    Upwards nothing changes for the operators that are here; downwards, defaults that were the only way then are left
    out, and axes become attributes.
    """
    proto = onnx.load_model_from_string(graph)
    if opset == OPSET:
        return graph
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        _lower(node, opset, constants)
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = opset
    proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import))
    content: bytes = proto.SerializeToString()
    return content


def _lower(node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto]) -> None:
    attributes = {
        one.name: one
        for one in node.attribute
        if _NEWER_ATTRIBUTES.get(one.name, 0) <= opset
        or (one.name in ("axes", "dilations") and node.op_type not in ("Resize", "AveragePool"))
    }
    if node.op_type == "ReduceMean" and opset < 18 and len(node.input) > 1:
        axes = onnx.numpy_helper.to_array(constants[node.input[1]])
        attributes["axes"] = onnx.helper.make_attribute("axes", [int(axis) for axis in axes])
        del node.input[1:]
    kept = list(attributes.values())
    del node.attribute[:]
    node.attribute.extend(kept)


def checked_opset(graph: bytes, wanted: int = OPSET) -> int:
    """The opset the file really has; the exporter is known to change it silently.

    Raises `UserError` where it is another, or where a node is none of that opset.
    """
    proto = onnx.load_model_from_string(graph)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("") != wanted:
        raise UserError(f"the exporter wrote opset {opsets.get('')} instead of {wanted}; use the pinned torch version.")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"the network cannot be said in opset {wanted} ({first_line(error)}).") from None
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

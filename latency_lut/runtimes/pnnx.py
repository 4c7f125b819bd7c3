"""How does anybody's ONNX file become a network for the ncnn payload? Checked here, converted by `pnnx`.

pnnx comes from ncnn's authors and has ncnn's version. It runs the model to learn its shapes, so it gets a copy without
references to other files, in a folder of its own, with limits on memory and time.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_lut.payload import build
from latency_lut.runtimes.ncnn import NcnnLayer, NcnnNetwork
from topformer.errors import UserError
from topformer.keys import Shape

if TYPE_CHECKING:
    import onnx

PNNX_VERSION = "20261020"
"""Of the same day as the payload's ncnn; what is counted depends on what it fuses."""
OPSETS = range(7, 27)
"""Of ONNX, that the onnxruntime inside pnnx loads."""
MAX_FILE_BYTES = (1 << 31) - 1
"""Protobuf's limit; larger models keep their weights in other files."""

_MEMORY_BYTES = 16 << 30
_SECONDS = 600
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
_LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
_FLOPS = re.compile(r"^FLOPS = ([\d.]+)([KMGT]?)$", re.MULTILINE)
_UNKNOWN_OPERATOR = re.compile(r"^todo (\S+)$", re.MULTILINE)
_OUTPUT = re.compile(r"^pnnx\.Output .*=\((.*)\)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_ADVICE = "install it with: pip install 'topformer-nas[arm]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """An ONNX model as ncnn reads it."""

    network: NcnnNetwork
    weights: bytes
    """ncnn's .bin, float32."""
    outputs: tuple[int, ...]
    """The file's outputs by number, in the order the payload writes them, after blobs that nothing reads."""
    operations_g: float
    """Arithmetic operations in one inference as pnnx counts them, two for a multiply-add, in 1e9."""


def read_onnx(path: Path, *, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The model with its input made static, batch 1 and `size` (height, width) where the file leaves them open.

    Raises UserError for whatever cannot be converted or should not be opened. Other files are never read.
    """
    proto = _parsed(path)
    if proto.functions:
        import onnx.inliner  # noqa: PLC0415

        proto = onnx.inliner.inline_local_functions(proto)
    _require_operators(path, proto)
    _fix_input(path, proto, size)
    return proto


def input_shape(proto: onnx.ModelProto) -> Shape:
    """(channels, height, width) of a model that `read_onnx` gave."""
    _, channels, height, width = (dim.dim_value for dim in _inputs(proto)[0].type.tensor_type.shape.dim)
    return channels, height, width


def input_name(proto: onnx.ModelProto) -> str:
    return _inputs(proto)[0].name


def convert(proto: onnx.ModelProto) -> Converted:
    """Of a model that `read_onnx` gave; UserError that names the operators ncnn does not have."""
    program = _program()
    shape = input_shape(proto)
    with tempfile.TemporaryDirectory(prefix="pnnx-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        arguments = ("model.onnx", f"inputshape=[1,{','.join(map(str, shape))}]", "fp16=0")
        log = _run(folder, str(program), *arguments)
        if unknown := sorted(set(_UNKNOWN_OPERATOR.findall(log))):
            raise _unsupported(unknown)
        try:
            param = (folder / "model.ncnn.param").read_text()
            weights = (folder / "model.ncnn.bin").read_bytes()
            shapes = (folder / "model.pnnx.param").read_text()
        except OSError:
            raise UserError(f"pnnx wrote no ncnn network: {_last_words(log)}") from None
    layers = tuple(_layers(param, shape))
    registered = build.payload().read_bytes()
    if foreign := sorted({layer.kind for layer in layers if f"{layer.kind}\0".encode() not in registered}):
        raise _unsupported(foreign)
    flops, output = _FLOPS.search(log), _OUTPUT.findall(shapes)
    if flops is None or not output:
        raise UserError(f"pnnx gave no shapes for the network: {_last_words(log)}")
    operations_g = float(flops[1]) * 1e3 ** (" KMGT".index(flops[2] or " ") - 3)
    network = NcnnNetwork(layers=layers, inputs=(shape,), output=_output_shape(output[-1]))
    outputs = tuple(int(blob.removeprefix("out")) for blob in _blobs(layers) if blob.startswith("out"))
    return Converted(network=network, weights=weights, outputs=outputs, operations_g=operations_g)


def _parsed(path: Path) -> onnx.ModelProto:
    import onnx  # noqa: PLC0415, a second that other commands do not wait for
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        if not path.is_file():
            raise UserError(f"no file {path}; name an ONNX file.")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise UserError(f"{path} has {size / 2**30:.1f} GiB, and an ONNX file at most 2.")
        proto = onnx.load_model_from_string(path.read_bytes())
        if any(_is_external(tensor) for tensor in _tensors(proto)):  # before the checker, which looks for the files
            raise UserError(f"{path} keeps weights in other files, which are not read; save it as one file.")
        onnx.checker.check_model(proto)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except DecodeError:
        raise UserError(f"{path} is not an ONNX file, or a truncated one; take a fresh copy.") from None
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the latter of a name that is no text
        raise UserError(f"{path} is not a valid ONNX model, or a truncated one: {_first_line(error)}") from None
    return proto


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor wherever it stands: initializers, attributes, subgraphs, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else (value,):
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL or tensor.external_data)


def _require_operators(path: Path, proto: onnx.ModelProto) -> None:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}), None)
    if opset not in OPSETS:
        raise UserError(f"{path} has opset {opset}, not {OPSETS[0]} to {OPSETS[-1]}; export it again with another.")
    nodes = proto.graph.node
    if found := sorted({node.op_type for node in nodes} & _CONTROL_FLOW):
        raise UserError(f"{path} has control flow ({', '.join(found)}), whose time depends on data; export without.")
    if foreign := sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in {"", "ai.onnx"}}):
        raise _unsupported(foreign)
    if not any(node.op_type == "Conv" for node in nodes):
        raise UserError(f"{path} has no convolution: the model is for networks of images.")


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Old files list their weights too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def _fix_input(path: Path, proto: onnx.ModelProto, size: tuple[int, int] | None) -> None:
    from onnx import TensorProto  # noqa: PLC0415

    inputs = _inputs(proto)
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise UserError(f"{path} must have one input, an image, not {len(inputs)} ({names}).")
    kind = inputs[0].type.tensor_type
    dims = kind.shape.dim
    name = TensorProto.DataType.Name(kind.elem_type)
    if len(dims) != 4 or name != "FLOAT":
        raise UserError(f"{path} must have a FLOAT input (1, channels, height, width), not {name} of {len(dims)} axes.")
    if not dims[1].dim_value:
        raise UserError(f"{path} leaves the number of channels open; export it with a fixed one.")
    wanted = (1, dims[1].dim_value, *(size or (dims[2].dim_value, dims[3].dim_value)))
    if 0 in wanted:
        raise UserError(f"{path} leaves the image size open; give it with --size, as in --size 512.")
    if any(dim.dim_value not in {0, value} for dim, value in zip(dims, wanted, strict=True)):
        fixed = "x".join(str(dim.dim_value or dim.dim_param) for dim in dims)
        raise UserError(f"{path} has a fixed input of {fixed}, not {'x'.join(map(str, wanted))}; export it for that.")
    for dim, value in zip(dims, wanted, strict=True):
        dim.dim_value = value
    if any(dim.dim_value < 1 for dim in dims):
        raise UserError(f"{path} has an input with an axis below 1.")
    del proto.graph.value_info[:]  # may hold the names of open axes


def _program() -> Path:
    try:
        found = version("pnnx")
    except PackageNotFoundError:
        raise UserError(f"no pnnx package, which converts ONNX for ncnn; {_ADVICE}") from None
    if found != PNNX_VERSION:
        raise UserError(f"pnnx must be {PNNX_VERSION}, as the payload's ncnn, not {found}; {_ADVICE}")
    spec = find_spec("pnnx")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("pnnx")  # not through the package, which imports torch


def _run(folder: Path, *command: str) -> str:
    """What it prints."""
    limited = (sys.executable, "-I", "-S", "-c", _LIMITED, str(_MEMORY_BYTES), *command)
    try:
        done = subprocess.run(
            limited,
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"pnnx has not converted the network within {_SECONDS} s; it is too large.") from None
    log = done.stdout.decode(errors="replace")
    if done.returncode:
        raise UserError(f"pnnx cannot convert the network (exit code {done.returncode}): {_last_words(log)}")
    return log


def _last_words(log: str) -> str:
    lines = [line.strip() for line in _COLOUR.sub("", log).splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it says nothing"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _unsupported(operators: list[str]) -> UserError:
    return UserError(
        f"ncnn's payload has no {', '.join(operators)}; export the network without, up to the logits for instance."
    )


def _layers(param: str, shape: Shape) -> Iterator[NcnnLayer]:
    channels, height, width = shape
    for line in param.splitlines()[2:]:
        kind, name, n_bottoms, n_tops, *rest = line.split()
        bottoms, tops = int(n_bottoms), int(n_tops)
        blobs, params = rest[: bottoms + tops], " ".join(rest[bottoms + tops :])
        yield NcnnLayer(
            kind=kind,
            name=name,
            bottoms=tuple(blobs[:bottoms]),
            tops=tuple(blobs[bottoms:]),
            params=f"0={width} 1={height} 2={channels}" if kind == "Input" else params,
            conv=None,
        )


def _blobs(layers: Iterable[NcnnLayer]) -> Iterator[str]:
    for layer in layers:
        yield from layer.tops


def _output_shape(text: str) -> Shape:
    """Of "1,150,64,64" without its batch; axes that are not there are 1."""
    sizes = [int(size) for size in text.split(",")][1:]
    height, width = sizes[-2:] if len(sizes) > 2 else (1, 1)
    return prod(sizes) // (height * width), height, width

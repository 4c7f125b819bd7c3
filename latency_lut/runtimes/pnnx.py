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
from latency_lut.runtimes.rewriting import TRY_INSTEAD, channels_last, inputs_of, opset_of
from topformer.errors import UserError
from topformer.keys import Shape
from topformer.reading import ordinary_file

if TYPE_CHECKING:
    import onnx

PNNX_VERSION = "20261020"
"""Of the same day as the payload's ncnn; what is counted depends on what it fuses."""
OPSETS = range(7, 27)
"""Of ONNX, that the onnxruntime inside pnnx loads."""
MAX_FILE_BYTES = (1 << 31) - 1
"""Protobuf's limit, of a model with all its weights."""

_MEMORY_BYTES = 16 << 30
_SECONDS = 600
_ONE_FILE = (
    """save it as one file: python -c "import onnx; onnx.save(onnx.load('MODEL.onnx'), 'one.onnx')" where both lie"""
)
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
_LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
_FLOPS = re.compile(r"^FLOPS = ([\d.]+)([KMGT]?)$", re.MULTILINE)
_UNKNOWN_OPERATOR = re.compile(r"^todo (\S+)$", re.MULTILINE)
_OUTPUT = re.compile(r"^pnnx\.Output .*=\((.*)\)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_NAMES = {"Tensor.slice": "slices with steps that do not divide the size"}
"""Of pnnx's operators, for people."""
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

    Raises UserError for whatever cannot be converted or should not be opened. Of other files, those are read that have
    its weights and lie beside it.
    """
    proto = _parsed(path)
    if proto.functions:
        import onnx.inliner  # noqa: PLC0415

        proto = onnx.inliner.inline_local_functions(proto)
    _require_operators(path, proto)
    _fix_input(path, proto, size)
    return proto


def input_shape(proto: onnx.ModelProto) -> Shape:
    """(channels, height, width) of a model whose image is one of planes, and static."""
    _, channels, height, width = (dim.dim_value for dim in inputs_of(proto)[0].type.tensor_type.shape.dim)
    return channels, height, width


def input_name(proto: onnx.ModelProto) -> str:
    return inputs_of(proto)[0].name


def convert(proto: onnx.ModelProto) -> Converted:
    """Of a model whose input is static; UserError that names the operators ncnn does not have."""
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
            raise UserError(f"pnnx wrote no ncnn network ({_last_words(log)}); {TRY_INSTEAD}.") from None
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
        _take_in(path, proto)  # before the checker, which looks for the files
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


def _take_in(path: Path, proto: onnx.ModelProto) -> None:
    """Put weights that other files have into the model; these must lie in its folder, as exporters write them."""
    taken = 0
    files: dict[Path, int] = {}
    for tensor in _tensors(proto):
        if not _is_external(tensor):
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        found = _beside(path, told.get("location", ""))
        files[found] = found.stat().st_size
        taken += (length := _stored_bytes(path, tensor))
        if taken > MAX_FILE_BYTES:
            raise UserError(
                f"{path} has over 2 GiB of weights with those in other files; a network here has at most 2."
            )
        if taken > sum(files.values()):  # or a small file would fill the memory
            raise _not_held(found, path)
        tensor.raw_data = _part_of(found, told, length, path)
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]


def _stored_bytes(path: Path, tensor: onnx.TensorProto) -> int:
    from onnx import helper  # noqa: PLC0415

    try:
        size = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        raise UserError(f"{path} is not a valid ONNX model: tensor {tensor.name!r} has no known type.") from None
    if any(dim < 0 for dim in tensor.dims):
        raise UserError(f"{path} is not a valid ONNX model: tensor {tensor.name!r} has an axis below 0.")
    dims = [int(dim) for dim in tensor.dims]
    return size * prod(dims)


def _beside(path: Path, location: str) -> Path:
    """A data file in the model's folder or below it; what leads elsewhere is refused."""
    try:
        folder = path.parent.resolve()
        found = (folder / location).resolve()
        inside = location and "\\" not in location and found.is_relative_to(folder)
    except (OSError, ValueError):  # a name that no file can have
        inside = False
    if not inside:
        raise UserError(
            f"{path} keeps weights in other files outside its folder ({location[:200]!r}), which are not read; "
            f"{_ONE_FILE}."
        )
    if not found.is_file():
        raise UserError(
            f"{path} keeps weights in other files, and {location[:200]!r} does not lie beside it; put it there, or "
            f"{_ONE_FILE}."
        )
    return found


def _part_of(found: Path, told: dict[str, str], length: int, path: Path) -> bytes:
    """The bytes of one tensor."""
    try:
        offset, said = int(told.get("offset", "0")), int(told.get("length", length))
    except ValueError:
        offset, said = -1, -1
    with ordinary_file(found, "the weights") as file:
        if offset >= 0 and said == length and offset + length <= found.stat().st_size:
            file.seek(offset)
            return file.read(length)
    raise _not_held(found, path)


def _not_held(found: Path, path: Path) -> UserError:
    return UserError(f"{found} does not hold the weights that {path} says it does; take a fresh copy of both.")


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL or tensor.external_data)


def _require_operators(path: Path, proto: onnx.ModelProto) -> None:
    if (opset := opset_of(proto)) not in OPSETS:
        raise UserError(f"{path} has opset {opset}, not {OPSETS[0]} to {OPSETS[-1]}; export it again with another.")
    nodes = proto.graph.node
    if found := sorted({node.op_type for node in nodes} & _CONTROL_FLOW):
        raise UserError(f"{path} has control flow ({', '.join(found)}), whose time depends on data; export without.")
    if foreign := sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in {"", "ai.onnx"}}):
        raise _unsupported(foreign)
    if not any(node.op_type == "Conv" for node in nodes):
        raise UserError(f"{path} has no convolution: the model is for networks of images.")


def _fix_input(path: Path, proto: onnx.ModelProto, size: tuple[int, int] | None) -> None:
    from onnx import TensorProto  # noqa: PLC0415

    inputs = inputs_of(proto)
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise UserError(f"{path} must have one input, an image, not {len(inputs)} ({names}).")
    kind = inputs[0].type.tensor_type
    dims = kind.shape.dim
    name = TensorProto.DataType.Name(kind.elem_type)
    if len(dims) != 4 or name != "FLOAT":
        raise UserError(f"{path} must have a FLOAT input (1, channels, height, width), not {name} of {len(dims)} axes.")
    last = channels_last(proto)
    channels, height, width = (dims[axis] for axis in ((3, 1, 2) if last else (1, 2, 3)))
    if not channels.dim_value:
        where = "last axis" if last else "second axis"
        raise UserError(f"{path} leaves the number of channels open (its {where}); export it with a fixed one.")
    pixels = size or (height.dim_value, width.dim_value)
    wanted = (1, *pixels, channels.dim_value) if last else (1, channels.dim_value, *pixels)
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
        raise UserError(
            f"pnnx cannot convert the network (exit code {done.returncode}: {_last_words(log)}); {TRY_INSTEAD}."
        )
    return log


def _last_words(log: str) -> str:
    lines = [line.strip() for line in _COLOUR.sub("", log).splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it says nothing"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _unsupported(operators: list[str]) -> UserError:
    return UserError(
        f"ncnn's payload has no {', '.join(_NAMES.get(name, name) for name in operators)}; export the network without, "
        f"up to the logits for instance. Or {TRY_INSTEAD}."
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

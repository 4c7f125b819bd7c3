"""What does pnnx misread in an ONNX file, and which graph that takes as long does it read?

Two kinds of change. Exact ones say the same in other words: axes as attributes in opset 17, pads in numbers, an image
of planes where the file has it of pixels. Stand-ins take as long and compute something else, as a resize that rounds
otherwise; each is named. Whoever prices the result compares both kinds with the file, by running them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topformer.errors import UserError, first_line

if TYPE_CHECKING:
    import onnx

TRY_INSTEAD = (
    "another export may be read: torch.onnx.export(..., dynamo=False, opset_version=17), or the file after "
    "`onnxsim MODEL.onnx SIMPLER.onnx`"
)
"""What a person can do about a file that is not read."""

_READ_OPSET = 17
"""The last in which reductions have their axes as attributes, which is what pnnx reads."""
_FIRST_RESIZE_OPSET = 11
_TO_PLANES = [0, 3, 1, 2]
_TO_PIXELS = [0, 2, 3, 1]
_AXES_AS_INPUT = frozenset(
    f"Reduce{what}" for what in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)
"""Reductions whose axes became an input with opset 18, and are not read from there; ReduceSum's are."""
_BY_ELEMENT = frozenset(("Identity", "Cast", "Relu", "Clip", "Neg", "Add", "Sub", "Mul", "Div"))
"""What may stand between an image and the change of its layout."""
_OF_PLANES = frozenset(
    ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization", "InstanceNormalization")
)
_WEIGHTS_OF = frozenset(("Conv", "ConvTranspose"))
_GREY_OR_COLOUR = (1, 3, 4)
_SHOWN = 200

Rule = Callable[["_Graph", "onnx.NodeProto"], "list[onnx.NodeProto]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewritten:
    """A model in the words that pnnx reads."""

    exact: onnx.ModelProto
    """Computes what the file does; its image is one of planes, (1, channels, height, width)."""
    priced: onnx.ModelProto
    """With the stand-ins."""
    notes: tuple[str, ...]
    """Sentences about what was read in another way than it is written."""
    stand_ins: tuple[str, ...]
    """What is priced as something else, in words."""


def rewritten(proto: onnx.ModelProto) -> Rewritten:
    """Of a model whose input is static; `proto` itself stays as it is.

    Raises UserError where a newer operator has no equal in opset 17, but for those files only that need it, and for a
    file that contradicts itself.
    """
    try:
        return _rewritten(proto)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # values that no checker has looked at
        raise UserError(
            f"the file's operators contradict each other ({first_line(error)[:_SHOWN]}); {TRY_INSTEAD}."
        ) from None


def _rewritten(proto: onnx.ModelProto) -> Rewritten:
    notes = []
    if channels_last(proto):
        proto = _with_planes(proto)
        notes.append(
            "the file's image has its channels last (NHWC): priced as planes (NCHW), in which ncnn takes images"
        )
    exact = _changed(_lowered(_with_resize(proto)), _EXACT)
    if any(node.op_type == "Erf" for node in exact.graph.node):
        exact = _changed(exact, {"Mul": _halved_last})
    graph = _Graph(exact)
    priced = _changed(exact, _STAND_INS, graph)
    return Rewritten(exact=exact, priced=priced, notes=tuple(notes), stand_ins=tuple(dict.fromkeys(graph.stand_ins)))


def channels_last(proto: onnx.ModelProto) -> bool:
    """Whether the image is (1, height, width, channels), as TensorFlow has it: planes are made of it before the first
    convolution. Where nothing tells, by the last axis, which is as short as colours are."""
    (image,) = inputs_of(proto)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    seen, todo = {image.name}, [image.name]
    told: set[bool] = set()
    while todo:
        for node in readers.get(todo.pop(), ()):
            if node.op_type == "Transpose":
                told.add(_attributes(node).get("perm") == _TO_PLANES)
            elif node.op_type in _OF_PLANES:
                told.add(False)
            elif node.op_type not in {"Reshape", "Flatten", "Shape"}:
                todo += [name for name in node.output if name not in seen]
                seen.update(node.output)
    if told:
        return told == {True}
    _, first, _, last = (dim.dim_value for dim in image.type.tensor_type.shape.dim)
    return last in _GREY_OR_COLOUR and first not in _GREY_OR_COLOUR


def inputs_of(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Old files list their weights among them, too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def opset_of(proto: onnx.ModelProto) -> int | None:
    return next((entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}), None)


class _Graph:
    """What is known of a model's values without running it, and names for new ones."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        import onnx.shape_inference  # noqa: PLC0415
        from onnx import numpy_helper  # noqa: PLC0415

        self.proto = proto
        self.opset = opset_of(proto)
        self.stand_ins: list[str] = []
        self.added: list[onnx.TensorProto] = []
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._array = numpy_helper.to_array
        self._tensor = numpy_helper.from_array
        for node in proto.graph.node:
            if node.op_type == "Constant":
                values = _attributes(node)
                if "value" in values:
                    self._tensors[node.output[0]] = values["value"]
        self.maker = {name: node for node in proto.graph.node for name in node.output}
        self.readers = Counter(name for node in proto.graph.node for name in node.input)
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except (onnx.shape_inference.InferenceError, MemoryError):  # of a file that says absurd sizes, too
            inferred = proto
        known = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        self._types = {value.name: value.type.tensor_type for value in known}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Its value; None for what is computed."""
        return self._array(self._tensors[name]) if name in self._tensors else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """None where it is not known in full."""
        if name in self._tensors:
            return tuple(self._tensors[name].dims)
        if name not in self._types or not self._types[name].HasField("shape"):
            return None
        sizes = tuple(dim.dim_value for dim in self._types[name].shape.dim)
        return sizes if all(sizes) else None

    def add(self, values: Any, kind: type[np.generic], like: str) -> str:
        """The name of a new constant."""
        name = f"{like}/rewritten{len(self.added)}"
        self.added.append(self._tensor(np.asarray(values, kind), name))
        return name

    def instead(self, what: str, stand_in: str) -> None:
        self.stand_ins.append(f"{what} as {stand_in}")


def _changed(proto: onnx.ModelProto, rules: Mapping[str, Rule], graph: _Graph | None = None) -> onnx.ModelProto:
    """With each node replaced by what its rule says; the very model where no rule is about it."""
    if not any(node.op_type in rules and node.domain in {"", "ai.onnx"} for node in proto.graph.node):
        return proto
    graph = graph or _Graph(proto)
    parts = [rules.get(node.op_type, _as_it_is)(graph, node) for node in proto.graph.node]
    if all(len(part) == 1 and part[0] is node for part, node in zip(parts, proto.graph.node, strict=True)):
        return proto
    return _with_nodes(proto, (node for part in parts for node in part), graph.added)


def _with_nodes(
    proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], added: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    kept = list(nodes)
    changed = type(proto)()
    changed.CopyFrom(proto)
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
    changed.graph.initializer.extend(added)
    return changed


def _as_it_is(_: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [node]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper  # noqa: PLC0415

    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _node(kind: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any) -> onnx.NodeProto:
    from onnx import helper  # noqa: PLC0415

    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def _with(node: onnx.NodeProto, inputs: Iterable[str] | None = None, **attributes: Any) -> onnx.NodeProto:
    """The node with other inputs and attributes; an attribute that is None is left out."""
    values = {name: value for name, value in (_attributes(node) | attributes).items() if value is not None}
    return _node(node.op_type, node.input if inputs is None else inputs, node.output, **values)


def _with_planes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network of an image of planes: the change of layout at its beginning goes, and what works element by
    element before it works on planes."""
    graph = _Graph(proto)
    (image,) = inputs_of(proto)
    outputs = {value.name for value in proto.graph.output}
    planes = {image.name: image.name}  # a value that was of pixels, and what is it in planes now
    pixels: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        inside = [name for name in node.input if name in planes]
        if not inside:
            nodes.append(node)
            continue
        if node.op_type == "Transpose" and _attributes(node).get("perm") == _TO_PLANES:
            nodes.append(_node("Identity", [planes[inside[0]]], node.output))
        elif turned := _turned(graph, node, planes):
            nodes.append(turned)
            planes |= {name: name for name in node.output}
        else:
            for name in inside:
                if name not in pixels:
                    pixels[name] = f"{name}/pixels"
                    nodes.append(_node("Transpose", [planes[name]], [pixels[name]], perm=_TO_PIXELS))
            nodes.append(_with(node, [pixels.get(name, name) if name in planes else name for name in node.input]))
    assert not outputs & planes.keys(), "an image that is not computed with is no network"
    changed = _with_nodes(proto, _without_identities(nodes, outputs), graph.added)
    dims = inputs_of(changed)[0].type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims]
    for dim, axis in zip(dims, _TO_PLANES, strict=True):
        dim.dim_value = sizes[axis]
    return changed


def _turned(graph: _Graph, node: onnx.NodeProto, planes: Mapping[str, str]) -> onnx.NodeProto | None:
    """An operation element by element, or a constant padding, on planes; None for any other."""
    if node.op_type == "Pad" and len(node.input) in (2, 3) and (pads := graph.constant(node.input[1])) is not None:
        turned = pads.reshape(2, 4)[:, _TO_PLANES].reshape(-1)
        return _with(node, [planes[node.input[0]], graph.add(turned, np.int64, node.output[0]), *node.input[2:]])
    if node.op_type not in _BY_ELEMENT:
        return None
    inputs = []
    for name in node.input:
        constant = graph.constant(name) if name else None
        if name in planes or not name:
            inputs.append(planes.get(name, ""))
        elif constant is None or constant.ndim > 4:
            return None
        elif constant.ndim == 0:
            inputs.append(name)
        else:
            spread = constant.reshape((1,) * (4 - constant.ndim) + constant.shape).transpose(_TO_PLANES)
            inputs.append(graph.add(spread, constant.dtype.type, node.output[0]))
    return _with(node, inputs)


def _without_identities(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Readers read what it copies; one that makes an output stays."""
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
        else:
            kept.append(_with(node, [same.get(name, name) for name in node.input]))
    return kept


def _with_resize(proto: onnx.ModelProto) -> onnx.ModelProto:
    """In an opset whose Resize says how it rounds; the older ones' says nothing, and pnnx takes it for another."""
    from onnx import version_converter  # noqa: PLC0415

    old = (opset_of(proto) or _FIRST_RESIZE_OPSET) < _FIRST_RESIZE_OPSET
    if not old or not any(node.op_type in {"Resize", "Upsample"} for node in proto.graph.node):
        return proto
    try:
        changed = version_converter.convert_version(proto, _FIRST_RESIZE_OPSET + 2)
    except RuntimeError:  # of an operator that it does not know; pnnx may
        return proto
    before = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }  # what it did, the converter omits
    nodes = [
        _with(node, [node.input[0], "", *node.input[2:]], **before) if node.op_type == "Resize" else node
        for node in changed.graph.node
    ]
    return _with_nodes(changed, nodes, ())


def _lowered(proto: onnx.ModelProto) -> onnx.ModelProto:
    """In opset 17, where a reduction has its axes as an input; any other file stays as it is."""
    opset = opset_of(proto)
    assert opset is not None
    new = opset > _READ_OPSET
    if new and any(node.op_type == "Attention" for node in proto.graph.node):
        proto = _changed(proto, {"Attention": _attention})
    if not new or not any(node.op_type in _AXES_AS_INPUT for node in proto.graph.node):
        return proto
    graph = _Graph(proto)
    nodes = [
        part
        for node in proto.graph.node
        for part in (_LOWER[node.op_type](graph, node) if node.op_type in _LOWER else [_said_before(node, opset)])
    ]
    changed = _with_nodes(proto, nodes, graph.added)
    for entry in changed.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            entry.version = _READ_OPSET
    return changed


def _said_before(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """The node as opset 17 has it; UserError where it says something that opset 17 cannot."""
    from onnx import defs, helper  # noqa: PLC0415

    now = defs.get_schema(node.op_type, opset, "")
    if now.since_version <= _READ_OPSET:
        return node
    try:
        then = defs.get_schema(node.op_type, _READ_OPSET, "")
    except defs.SchemaError:
        raise _not_before(node, opset) from None
    left: dict[str, None] = {}
    for item in node.attribute:
        if item.name in then.attributes:
            continue
        default = now.attributes[item.name].default_value
        if helper.get_attribute_value(item) != (helper.get_attribute_value(default) if default.type else None):
            raise _not_before(node, opset)
        left[item.name] = None
    if len([name for name in node.input if name]) > then.max_input:
        raise _not_before(node, opset)
    return _with(node, **left) if left else node


def _not_before(node: onnx.NodeProto, opset: int) -> UserError:
    return UserError(
        f"the file's {node.op_type} of opset {opset} has no equal in opset {_READ_OPSET}, in which its reductions "
        f"can be read; {TRY_INSTEAD}."
    )


def _reduction(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Axes as an attribute."""
    axes = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else np.array([], np.int64)
    if axes is None:
        raise UserError(f"the axes of the file's {node.op_type} are computed, not constant; {TRY_INSTEAD}.")
    if axes.size == 0 and _attributes(node).get("noop_with_empty_axes"):
        return [_node("Identity", node.input[:1], node.output)]
    return [_with(node, node.input[:1], axes=axes.tolist() or None, noop_with_empty_axes=None)]


def _split(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Into parts of sizes, not so many parts."""
    parts = _attributes(node).get("num_outputs")
    if parts is None:
        return [node]
    shape = graph.shape(node.input[0])
    if shape is None:
        raise UserError(f"the file's Split is of something whose size is not told; {TRY_INSTEAD}.")
    whole = shape[_attributes(node).get("axis", 0)]
    size = math.ceil(whole / parts)
    sizes = [max(min(size, whole - size * index), 0) for index in range(parts)]
    return [_with(node, [node.input[0], graph.add(sizes, np.int64, node.output[0])], num_outputs=None)]


def _padding(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Pads of all axes, not of some."""
    if _attributes(node).get("mode") == "wrap":
        raise _not_before(node, graph.opset or 0)
    if len(node.input) < 4 or not node.input[3]:
        return [_said_before(node, graph.opset or 0)]
    pads, axes, shape = graph.constant(node.input[1]), graph.constant(node.input[3]), graph.shape(node.input[0])
    if pads is None or axes is None or shape is None:
        raise UserError(f"the pads of the file's Pad are computed, not constant; {TRY_INSTEAD}.")
    every = np.zeros((2, len(shape)), np.int64)
    every[:, axes] = pads.reshape(2, len(axes))
    given = [node.input[0], graph.add(every.reshape(-1), np.int64, node.output[0]), node.input[2]]
    return [_said_before(_with(node, given if given[2] else given[:2]), graph.opset or 0)]


def _resized(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Of all axes, by sizes that keep no proportion. Antialiasing widens the kernel where an image becomes smaller: it
    stays, and is refused."""
    values = _attributes(node)
    shape, made = graph.shape(node.input[0]), graph.shape(node.output[0])
    given = [*node.input, "", "", ""][:4]
    whole = values.get("keep_aspect_ratio_policy", "stretch") == "stretch" and "axes" not in values
    larger = shape is not None and made is not None and all(a <= b for a, b in zip(shape, made, strict=True))
    left: dict[str, Any] = {"keep_aspect_ratio_policy": None, "axes": None}
    if values.get("coordinate_transformation_mode") == "half_pixel_symmetric":
        graph.instead("Resize of half_pixel_symmetric", "half_pixel")
    if not whole:
        if made is None:
            raise UserError(f"the file's Resize is of something whose size is not told; {TRY_INSTEAD}.")
        given = [given[0], "", "", graph.add(made, np.int64, node.output[0])]
    if larger or not values.get("antialias"):
        left["antialias"] = None
    return [_said_before(_with(node, given, **left), graph.opset or 0)]


def _gelu(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """As exporters of opset 17 write it, which pnnx knows again."""
    (x,), (out,) = node.input, node.output
    dtype = np.float32

    def constant(value: float) -> str:
        return graph.add(value, dtype, out)

    if _attributes(node).get("approximate", "none") == "tanh":
        steps = [("Mul", x, x), ("Mul", x, 0), ("Mul", 1, constant(0.044715)), ("Add", x, 2)]
        steps += [("Mul", 3, constant(math.sqrt(2 / math.pi))), ("Tanh", 4, None)]
    else:
        steps = [("Div", x, constant(math.sqrt(2))), ("Erf", 0, None)]
    last = len(steps) - 1
    steps += [("Add", last, constant(1.0)), ("Mul", x, last + 1), ("Mul", last + 2, constant(0.5))]
    names = [*(f"{out}/gelu{index}" for index in range(len(steps) - 1)), out]
    return [
        _node(kind, [names[part] if isinstance(part, int) else part for part in parts if part is not None], [name])
        for (kind, *parts), name in zip(steps, names, strict=True)
    ]


def _mish(_: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (x,), (out,) = node.input, node.output
    return [
        _node("Softplus", [x], [f"{out}/softplus"]),
        _node("Tanh", [f"{out}/softplus"], [f"{out}/tanh"]),
        _node("Mul", [x, f"{out}/tanh"], [out]),
    ]


def _attention(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Products and a softmax, as exporters before opset 23 write it; masks and caches stay, and are refused."""
    values = {name: value for name, value in _attributes(node).items() if value or name == "scale"}
    shape = graph.shape(node.input[0])
    if len([name for name in node.input if name]) > 3 or len(node.output) > 1 or values.keys() - {"scale"}:
        return [node]
    if shape is None or len(shape) != 4 or graph.shape(node.input[1]) is None:
        return [node]
    query, key, value = node.input[:3]
    out = node.output[0]
    half = graph.add(math.sqrt(values.get("scale", 1 / math.sqrt(shape[3]))), np.float32, out)
    return [
        _node("Transpose", [key], [f"{out}/key"], perm=[0, 1, 3, 2]),
        _node("Mul", [query, half], [f"{out}/query"]),
        _node("Mul", [f"{out}/key", half], [f"{out}/scaled"]),
        _node("MatMul", [f"{out}/query", f"{out}/scaled"], [f"{out}/scores"]),
        _node("Softmax", [f"{out}/scores"], [f"{out}/shares"], axis=-1),
        _node("MatMul", [f"{out}/shares", value], [out]),
    ]


_LOWER: Mapping[str, Rule] = {
    **dict.fromkeys(_AXES_AS_INPUT, _reduction),
    "Split": _split,
    "Pad": _padding,
    "Resize": _resized,
    "Gelu": _gelu,
    "Mish": _mish,
}


def _padded(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A convolution or pooling with its pads in numbers; pooling with other pads at one end than at the other, which
    ncnn's has not, behind a padding of its own."""
    values = _attributes(node)
    how = values.get("auto_pad", "NOTSET")
    pools = node.op_type in {"MaxPool", "AveragePool"}
    pads = values.get("pads")
    uneven = pads is not None and len(pads) == 4 and pads[:2] != pads[2:]
    if how == "NOTSET" and not (pools and uneven):
        return [node]
    if how == "VALID" or (how == "SAME_UPPER" and node.op_type == "Conv"):
        return [node]  # read rightly
    kernel = values.get("kernel_shape") or (graph.shape(node.input[1]) or ())[2:]
    if how != "NOTSET":
        shape = graph.shape(node.input[0])
        if shape is None or len(shape) != 4 or len(kernel) != 2:
            raise UserError(f"the pads of the file's {node.op_type} ({how}) follow from sizes not told; {TRY_INSTEAD}.")
        pads = _same_pads(shape[2:], kernel, values, lower=how == "SAME_LOWER")
    assert pads is not None
    explicit = _with(node, auto_pad=None, kernel_shape=list(kernel), pads=pads)
    left_out = node.op_type == "AveragePool" and not values.get("count_include_pad")
    if not pools or pads[:2] == pads[2:] or left_out:
        return [explicit]
    return _behind_padding(graph, explicit)


def _behind_padding(graph: _Graph, pool: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A pooling whose pads are another node's."""
    pads, wide = _attributes(pool)["pads"], f"{pool.output[0]}/padded"
    filling = -3.4e38 if pool.op_type == "MaxPool" else 0.0
    amounts = graph.add([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64, wide)
    given = [pool.input[0], amounts, graph.add(filling, np.float32, wide)]
    return [_node("Pad", given, [wide], mode="constant"), _with(pool, [wide], pads=[0, 0, 0, 0])]


def _same_pads(size: tuple[int, ...], kernel: Iterable[int], values: Mapping[str, Any], *, lower: bool) -> list[int]:
    """(top, left, bottom, right) of auto_pad, whose output is the input's size over the stride, rounded up."""
    strides, dilations = values.get("strides", [1, 1]), values.get("dilations", [1, 1])
    before, after = [], []
    for length, taps, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max((math.ceil(length / stride) - 1) * stride + (taps - 1) * dilation + 1 - length, 0)
        before.append(total - total // 2 if lower else total // 2)
        after.append(total - before[-1])
    return before + after


def _halved_last(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """GELU as x * (1 + erf) * 0.5, which pnnx knows, where it is written x * (0.5 * (1 + erf))."""
    if _half_of_erf(graph, node):
        return []
    for half in node.input:
        if half in graph.maker and (erf := _half_of_erf(graph, graph.maker[half])):
            (other,) = [name for name in node.input if name != half]
            whole = f"{node.output[0]}/whole"
            halved = [whole, graph.add(0.5, np.float32, whole)]
            return [_node("Mul", [other, erf], [whole]), _node("Mul", halved, node.output)]
    return [node]


def _half_of_erf(graph: _Graph, node: onnx.NodeProto) -> str | None:
    """The name of 1 + erf, where the node halves that for one other node."""
    if node.op_type != "Mul" or graph.readers[node.output[0]] != 1:
        return None
    for factor, name in (node.input, reversed(node.input)):
        constant, made_by = graph.constant(factor), graph.maker.get(name)
        if constant is not None and constant.size == 1 and constant.item() == 0.5 and made_by is not None:
            sources = [graph.maker[part].op_type for part in made_by.input if part in graph.maker]
            if made_by.op_type == "Add" and "Erf" in sources:
                return str(name)
    return None


def _filled(_: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A padding that says its mode, though it is the usual one."""
    return [node] if "mode" in _attributes(node) else [_with(node, mode="constant")]


def _stepped(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A slice with a step as one of every so many in an axis of its own: ncnn's slices have none."""
    shape = graph.shape(node.input[0])
    given = [graph.constant(name) if name else None for name in node.input[1:]]
    if len(given) < 4 or shape is None or any(values is None for values in given):
        return [node]
    starts, ends, axes, steps = (values.tolist() for values in given if values is not None)
    if max(steps) == 1 or min(steps) < 1 or any(shape[axis] % step for axis, step in zip(axes, steps, strict=True)):
        return [node]
    nodes, name, sizes = [], node.input[0], list(shape)
    ahead = [axis % len(shape) for axis in axes]
    for index, (start, end, axis, step) in enumerate(zip(starts, ends, ahead, steps, strict=True)):
        first, last, _ = slice(start, end).indices(sizes[axis])
        count = max(math.ceil((last - first) / step), 0)
        whole = [*sizes[:axis], sizes[axis] // step, step, *sizes[axis + 1 :]]
        sizes[axis] = count
        wide, cut, out = (f"{node.output[0]}/{what}{index}" for what in ("wide", "cut", "step"))
        bounds = ([first // step, first % step], [first // step + count, first % step + 1], [axis, axis + 1])
        nodes += [
            _node("Reshape", [name, graph.add(whole, np.int64, wide)], [wide]),
            _node("Slice", [wide, *(graph.add(values, np.int64, cut) for values in bounds)], [cut]),
            _node("Reshape", [cut, graph.add(sizes, np.int64, out)], [out]),
        ]
        name = out
    nodes[-1].output[0] = node.output[0]
    return nodes


_EXACT: Mapping[str, Rule] = {
    "Slice": _stepped,
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _padded),
    "Pad": _filled,
}


def _known_resize(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Of the resizes of a kernel, which differ in where they look and not in how often, the one that ncnn has."""
    values = _attributes(node)
    mode = values.get("mode", "nearest")
    where = values.get("coordinate_transformation_mode", "half_pixel")
    if where == "tf_crop_and_resize" or values.get("antialias") or values.get("keep_aspect_ratio_policy"):
        return [node]  # of another kernel, of sizes that are not told
    known: dict[str, Any] = {"coordinate_transformation_mode": where}
    if mode == "nearest":
        if where == "half_pixel" and len(values) <= 1:
            return [node]
        known = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif where not in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        known = {"coordinate_transformation_mode": "half_pixel"}
    if mode == "cubic":
        known |= {"cubic_coeff_a": -0.75, "exclude_outside": 0}
    changed = _with(node, **known)
    wanted = values | known
    usual = {"nearest_mode": "round_prefer_floor", "cubic_coeff_a": -0.75, "exclude_outside": 0}
    if any(usual.get(name) != value and values.get(name) != value for name, value in wanted.items()):
        graph.instead(f"Resize ({_words(mode, values)})", f"({_words(mode, wanted)})")
    return [changed]


def _words(mode: str, values: Mapping[str, Any]) -> str:
    """What distinguishes one resize of a mode from another."""
    parts = [mode, values.get("coordinate_transformation_mode", "half_pixel")]
    if mode == "nearest":
        parts.append(values.get("nearest_mode", "round_prefer_floor"))
    if mode == "cubic":
        parts.append(f"a {values.get('cubic_coeff_a', -0.75):g}")
        parts += ["exclude_outside"] if values.get("exclude_outside") else []
    return ", ".join(parts)


def _extreme(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A greatest value over the whole map by pooling, over one axis as a least one, which is what pnnx reads."""
    values = _attributes(node)
    shape, axes = graph.shape(node.input[0]), values.get("axes")
    if shape is None or axes is None or len(node.input) > 1:
        return [node]
    over = sorted(axis % len(shape) for axis in axes)
    if len(shape) == 4 and over == [2, 3]:
        if node.op_type == "ReduceMin":
            graph.instead("ReduceMin over a map", "GlobalMaxPool")
        if values.get("keepdims", 1):
            return [_node("GlobalMaxPool", node.input, node.output)]
        kept = f"{node.output[0]}/kept"
        squeezed = [kept, graph.add([2, 3], np.int64, kept)]
        pooled = _node("GlobalMaxPool", node.input, [kept])
        old = (graph.opset or 0) < 13
        return [
            pooled,
            _node("Squeeze", [kept], node.output, axes=[2, 3]) if old else _node("Squeeze", squeezed, node.output),
        ]
    if node.op_type == "ReduceMin":
        return [node]
    graph.instead("ReduceMax", "ReduceMin")
    return [_node("ReduceMin", node.input, node.output, **values)]


def _counted(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A mean over pads, too, where there are more of them at one end."""
    pads = _attributes(node).get("pads", [0, 0, 0, 0])
    if len(pads) != 4 or pads[:2] == pads[2:]:
        return [node]
    graph.instead("AveragePool that leaves its uneven pads out of the mean", "one that counts them")
    return _behind_padding(graph, node)


def _shuffled(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The order of channels that ncnn has."""
    if _attributes(node).get("mode", "DCR") == "CRD":
        return [node]
    graph.instead("DepthToSpace (DCR)", "(CRD)")
    return [_with(node, mode="CRD")]


def _unshuffled(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Blocks of pixels into channels, in the order of channels that ncnn has."""
    shape, block = graph.shape(node.input[0]), _attributes(node)["blocksize"]
    if shape is None or len(shape) != 4:
        return [node]
    batch, channels, height, width = shape
    graph.instead("SpaceToDepth", "one in another order of channels")
    apart, turned = (f"{node.output[0]}/{what}" for what in ("apart", "turned"))
    into = [batch, channels, height // block, block, width // block, block]
    flat = [batch, channels * block**2, height // block, width // block]
    return [
        _node("Reshape", [node.input[0], graph.add(into, np.int64, apart)], [apart]),
        _node("Transpose", [apart], [turned], perm=[0, 1, 3, 5, 2, 4]),
        _node("Reshape", [turned, graph.add(flat, np.int64, turned)], node.output),
    ]


def _mirrored(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A transposed convolution with a pad more at one end: cut there by output padding, at whichever end it may be."""
    values = _attributes(node)
    how, pads = values.get("auto_pad", "NOTSET"), values.get("pads", [0, 0, 0, 0])
    kernel = values.get("kernel_shape") or (graph.shape(node.input[1]) or ())[2:]
    strides, more = values.get("strides", [1, 1]), values.get("output_padding", [0, 0])
    if len(kernel) != 2 or len(pads) != 4 or "output_shape" in values:
        return [node]
    if how.startswith("SAME"):
        dilations = values.get("dilations", [1, 1])
        totals = [
            max(extra + (taps - 1) * dilation + 1 - stride, 0)
            for extra, taps, dilation, stride in zip(more, kernel, dilations, strides, strict=True)
        ]
        ends = [total // 2 for total in totals]
        rest = [total - end for total, end in zip(totals, ends, strict=True)]
        pads = rest + ends if how == "SAME_LOWER" else ends + rest
    if pads[:2] == pads[2:]:
        return [_with(node, auto_pad=None, kernel_shape=list(kernel), pads=pads)] if how != "NOTSET" else [node]
    most = [max(pair) for pair in zip(pads[:2], pads[2:], strict=True)]
    extra = [more[axis] + 2 * most[axis] - pads[axis] - pads[axis + 2] for axis in (0, 1)]
    if any(amount >= stride for amount, stride in zip(extra, strides, strict=True)):
        return [node]
    if any(before < after for before, after in zip(pads[:2], pads[2:], strict=True)):
        graph.instead("ConvTranspose with its longer pads at the end", "one with them at the beginning")
    return [_with(node, auto_pad=None, kernel_shape=list(kernel), pads=most + most, output_padding=extra)]


_STAND_INS: Mapping[str, Rule] = {
    "Resize": _known_resize,
    "ReduceMax": _extreme,
    "ReduceMin": _extreme,
    "DepthToSpace": _shuffled,
    "SpaceToDepth": _unshuffled,
    "ConvTranspose": _mirrored,
    "AveragePool": _counted,
}

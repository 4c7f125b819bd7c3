"""Which arithmetic of an ONNX graph can be done beforehand? Hard sigmoids: their scale and shift go into a convolution.

relu6(x + 3) / 6 is x / 6 + 1/2 held between 0 and 1. With the first part in the weights, one Clip is left of three
nodes: onnxruntime fuses it with the convolution and keeps its blocked layout through the resizing and multiplication
behind it, and where activations are integers the saturation of a convolution's output is that Clip, for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def fold_gates(model: onnx.ModelProto) -> int:
    """Rewrite every Conv - Add a number - Clip - Div or Mul by a number, in place; returns how many there were."""
    graph = model.graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    returned = {value.name for value in graph.output}

    def only_user(node: onnx.NodeProto, *kinds: str) -> onnx.NodeProto | None:
        after = users[node.output[0]]
        alone = len(after) == 1 and node.output[0] not in returned
        return after[0] if alone and after[0].op_type in kinds else None

    folded = 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        add = only_user(conv, "Add")
        clip = add and only_user(add, "Clip")
        scale = clip and only_user(clip, "Div", "Mul")
        if not add or not clip or not scale:
            continue
        shift, factor = _number(add, constants), _number(scale, constants)
        ends = [_value(constants.get(name)) for name in clip.input[1:]]
        if shift is None or not factor or len(ends) != 2 or None in ends:
            continue
        if scale.op_type == "Div":
            if scale.input[0] != clip.output[0]:
                continue
            factor = 1 / factor
        if factor <= 0:
            continue
        weight = constants[conv.input[1]]
        bias = constants[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight), np.float32)
        if len(conv.input) == 2:
            conv.input.append(f"{conv.input[1]}_bias")
        for place, name in enumerate(conv.input[1:], start=1):
            if len(users[name]) > 1:  # equal constants may be one
                conv.input[place] = f"{name}_of_{conv.output[0]}"
        clip.input[1], clip.input[2] = f"{clip.output[0]}_low", f"{clip.output[0]}_high"
        made: dict[str, NDArray[Any]] = {
            conv.input[1]: weight * factor,
            conv.input[2]: (bias + shift) * factor,
            **{name: np.array(float(end or 0) * factor) for name, end in zip(clip.input[1:], ends, strict=True)},
        }
        _set(graph, made)
        clip.input[0], clip.output[0] = conv.output[0], scale.output[0]
        graph.node.remove(add)
        graph.node.remove(scale)
        folded += 1
    _forget_unused(graph)
    return folded


def _set(graph: onnx.GraphProto, values: dict[str, NDArray[Any]]) -> None:
    """Constants, in place of those of the same name."""
    others = [one for one in graph.initializer if one.name not in values]
    del graph.initializer[:]
    graph.initializer.extend(others)
    graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items())


def _number(node: onnx.NodeProto, constants: dict[str, NDArray[np.float32]]) -> float | None:
    """The constant among a node's two inputs."""
    found = [_value(constants.get(name)) for name in node.input]
    return next((value for value in found if value is not None), None)


def _value(constant: NDArray[np.float32] | None) -> float | None:
    return float(constant.reshape(())) if constant is not None and constant.size == 1 else None


def _forget_unused(graph: onnx.GraphProto) -> None:
    """Constants and notes of shapes that no node has any more."""
    read = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    for kept, there in ((read, graph.initializer), (made, graph.value_info)):
        left = [one for one in there if one.name in kept]
        del there[:]
        there.extend(left)

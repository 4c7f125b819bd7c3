"""Between which numbers do the values of an ONNX graph lie? Measured on images, for integers of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from topformer.errors import UserError

BINS = 2048
LEVELS = 255
"""Steps of an activation."""
_LEAST_LIMIT = 1e-30
"""Of a channel whose weights are all 0."""
_CUTS = np.linspace(1.0, 0.3, 15)
"""Parts of the largest and of the smallest value that are tried as ends of the range."""

Range = tuple[float, float]
"""Smallest and largest value that integers stand for; 0 lies between them."""


@dataclass(slots=True)
class _Seen:
    low: float = 0.0
    high: float = 0.0
    counts: NDArray[np.int64] | None = None


def measured_ranges(
    model: onnx.ModelProto, images: Sequence[NDArray[np.float32]], *, seen: Callable[[int, int], None]
) -> dict[str, Range]:
    """Of the input and of every float tensor computed: the range with the least mean squared error of 256 steps.

    Every image is run twice, for the ends and for the histogram between them; nothing is kept of it. `seen` is told how
    many of how many runs are done. Raises `UserError` where a value is not finite.
    """
    run, names = _all_values(model)
    found = {name: _Seen() for name in names}
    for step in range(2 * len(images)):
        for name, values in zip(names, run(images[step % len(images)]), strict=True):
            if step < len(images):
                _widen(found[name], values, name)
            else:
                _count(found[name], values)
        seen(step + 1, 2 * len(images))
    return {name: _best(one) for name, one in found.items()}


def _all_values(
    model: onnx.ModelProto,
) -> tuple[Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]], tuple[str, ...]]:
    """A function that runs the graph as it stands and gives every float tensor in it, and their names."""
    whole = onnx.shape_inference.infer_shapes(model)
    made = {name for node in whole.graph.node for name in node.output}
    kinds = {value.name: value for value in (*whole.graph.value_info, *whole.graph.output)}
    names = tuple(n for n in kinds if n in made and kinds[n].type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    there = {value.name for value in whole.graph.output}
    whole.graph.output.extend(kinds[name] for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name

    def run(image: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        return [image, *session.run(list(names), {given: image})]

    return run, (given, *names)


def _widen(one: _Seen, values: NDArray[np.float32], name: str) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise UserError(f"the network computes values that are not finite ({name}); its weights are damaged.")
    one.low, one.high = min(one.low, low), max(one.high, high)


def _count(one: _Seen, values: NDArray[np.float32]) -> None:
    if one.high > one.low:
        counts, _ = np.histogram(values, bins=BINS, range=(one.low, one.high))
        one.counts = counts if one.counts is None else one.counts + counts


def _best(one: _Seen) -> Range:
    """Cutting off a few far values makes the steps of all others finer."""
    if one.counts is None:
        return one.low, one.high
    edges = np.linspace(one.low, one.high, BINS + 1)
    middles, counts = ((edges[1:] + edges[:-1]) / 2)[one.counts > 0], one.counts[one.counts > 0]
    ends = [(one.low * a, one.high * b) for a in (_CUTS if one.low else _CUTS[:1]) for b in _CUTS]
    return min(ends, key=lambda end: _error(middles, counts, end))


def _error(values: NDArray[np.float64], counts: NDArray[np.int64], ends: Range) -> float:
    low, high = ends
    step = (high - low) / LEVELS
    if step <= 0:
        return float("inf")
    zero = round(-low / step)
    nearest = (np.clip(np.round(values / step) + zero, 0, LEVELS) - zero) * step
    return float((counts * (nearest - values) ** 2).sum())


def weight_limits(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, in, h, w) -> (out,): the weight that 127 stands for in each output channel, so that no processor overflows.

    Without VNNI, x86 adds the products of two neighbouring inputs in 16 bits: 255 * (a + b) must not exceed 32767, or
    the sum is cut off. Two weights of one sign in one of these places may thus be 128 together. Which are neighbours
    depends on the layout, so both are looked at; depthwise kernels, which are computed in 32 bits, need no care.
    """
    out = len(weights)
    largest = np.abs(weights).reshape(out, -1).max(axis=1)
    if weights.shape[1] > 1:
        for laid in (weights, weights.transpose(0, 2, 3, 1)):
            row = laid.reshape(out, -1)
            if row.shape[1] % 2:
                row = np.pad(row, ((0, 0), (0, 1)))
            pairs = row.reshape(out, -1, 2)
            for sign in (1, -1):
                together = np.maximum(sign * pairs, 0).sum(axis=2).max(axis=1)
                largest = np.maximum(largest, together * (127 / 127.5))
    limits: NDArray[np.float32] = np.maximum(largest, _LEAST_LIMIT).astype(np.float32)
    return limits


def as_mapping(ranges: Mapping[str, Range]) -> dict[str, tuple[np.float32, np.float32]]:
    """As onnxruntime's quantiser wants them."""
    return {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}

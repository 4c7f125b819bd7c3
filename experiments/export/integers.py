"""Which layers of an ONNX graph compute in integers, what does that cost, and which must stay in float32?

Quantised with onnxruntime's own quantiser: weights signed, one scale for each output channel; activations unsigned,
ranges measured on images. In float32 stay the products of the attention, what runs before the first stage (few channels
at full resolution: integer kernels are slower there), and as many sensitive layers as a bound on the loss asks for.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from evaluators.segmentation import ConfusionMatrix
from experiments.export.folding import fold_gates
from experiments.export.ranges import Range, as_mapping, measured_ranges, weight_limits
from latency_lut.runtimes.onnxruntime import OnnxRuntime
from topformer.errors import UserError
from topformer.model import upsample
from topformer.progress import Progress, silent

MAX_DROP_PCT = 1.0
"""Points of mIoU that may be lost where nobody says otherwise."""
LEAST_INTEGER_PCT = 80.0
"""Of the multiply-adds; a network with fewer gains too little for what it loses."""
NAMED = 5
"""Layers that cost most, named."""
_FIRST = ("token_pyramid.stem.", "token_pyramid.stride2.")
_FIRST_AT_MOST_PCT = 15.0
_SAMPLED = 8
"""Images that each layer is left out on, to order them."""
_PAIRS = 25
_ARITHMETIC = ("Conv", "Relu", "Clip", "Add", "Mul", "Concat", "Resize", "AveragePool", "Split")
"""Operators that may be quantised. Resizing is computed in float32 between integers: onnxruntime's bilinear kernel for
integers takes six times as long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Labelled images that decide what stays in float32."""

    source: str
    inputs: Sequence[NDArray[np.float32]]
    """(1, 3, H, W) each."""
    labels: Sequence[NDArray[np.uint8]]
    """(H, W) each."""
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one layer loses by being computed in integers."""

    layer: str
    labels_changed_pct: float
    """Of the pixels, when this layer alone stays in float32."""
    saved_pct: float
    """By how much that is less than with all layers in integers."""
    macs_pct: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantised:
    """A graph in integers, and what is known of it."""

    graph: bytes
    calibration_images: int
    judged_on: str
    judged_images: int
    miou_before_pct: float
    miou_after_pct: float
    max_drop_pct: float
    labels_changed_pct: float
    costly: tuple[Cost, ...]
    """The layers that cost most, worst first."""
    float_layers: tuple[str, ...]
    """Kept in float32 because of what they cost."""
    first_layers: tuple[str, ...]
    """Kept in float32 because integers are slower there."""
    integer_macs_pct: float
    """Share of the multiply-adds that onnxruntime's kernels here really did in integers."""
    float_ms: float
    integer_ms: float
    """Medians on one core of this machine, run in turns."""
    time_ratio: float
    """Median of the ratios of neighbouring runs."""

    @property
    def sentence(self) -> str:
        """What came of it, for people."""
        kept = f"; in float32 for accuracy: {', '.join(self.float_layers)}" if self.float_layers else ""
        return (
            f"mIoU {self.miou_after_pct:.2f} % on {self.judged_images} images, {self.miou_before_pct:.2f} % in "
            f"float32; {self.integer_macs_pct:.0f} % of the multiply-adds in integers, {self.time_ratio:.2f} of the "
            f"time on a core of this machine{kept}; costliest layers: {', '.join(cost.layer for cost in self.costly)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON for the card."""
        return {
            "calibration_images": self.calibration_images,
            "judged_on": self.judged_on,
            "judged_images": self.judged_images,
            "miou_before_pct": self.miou_before_pct,
            "miou_after_pct": self.miou_after_pct,
            "max_drop_pct": self.max_drop_pct,
            "labels_changed_pct": self.labels_changed_pct,
            "costliest_layers": [
                {
                    "layer": cost.layer,
                    "labels_changed_without_pct": cost.labels_changed_pct,
                    "saved_pct": cost.saved_pct,
                    "macs_pct": cost.macs_pct,
                }
                for cost in self.costly
            ],
            "float32_for_accuracy": list(self.float_layers),
            "float32_for_speed": list(self.first_layers),
            "integer_macs_pct": self.integer_macs_pct,
            "float32_ms": self.float_ms,
            "int8_ms": self.integer_ms,
            "time_ratio": self.time_ratio,
        }


def quantised(
    graph: bytes,
    calibration: Sequence[NDArray[np.float32]],
    judged: Judged,
    *,
    macs: int,
    max_drop_pct: float = MAX_DROP_PCT,
    report: Progress = silent,
) -> Quantised:
    """The graph in integers; `macs` are the multiply-adds of the network for one image.

    Layers are left out one by one, to see what each costs; the costliest stay in float32 until the loss is within the
    bound. Raises `UserError` where less than `LEAST_INTEGER_PCT` of the multiply-adds would be left.
    """
    search = _Search(graph, calibration, judged, macs=macs, report=report)
    search.look_at_each_layer()
    made, kept, miou_pct, changed_pct = search.within(max_drop_pct)
    float_ms, integer_ms, ratio = in_turns(graph, made)
    report(1, 1, f"mIoU {search.before_pct:.2f} % in float32, {miou_pct:.2f} % in integers")
    return Quantised(
        graph=made,
        calibration_images=len(calibration),
        judged_on=judged.source,
        judged_images=len(judged.inputs),
        miou_before_pct=search.before_pct,
        miou_after_pct=miou_pct,
        max_drop_pct=max_drop_pct,
        labels_changed_pct=changed_pct,
        costly=search.costs[:NAMED],
        float_layers=kept,
        first_layers=search.first,
        integer_macs_pct=100 * integer_macs(made, judged.inputs[0]) / macs,
        float_ms=float_ms,
        integer_ms=integer_ms,
        time_ratio=ratio,
    )


class _Search:
    """The graph with its ranges, and what was found of its layers."""

    def __init__(
        self,
        graph: bytes,
        calibration: Sequence[NDArray[np.float32]],
        judged: Judged,
        *,
        macs: int,
        report: Progress,
    ) -> None:
        model = onnx.load_model_from_string(graph)
        fold_gates(model)
        self.model = save_and_reload_model_with_shape_infer(model)
        self.layers = layers_of(self.model)
        self.judging, self.macs, self.report = judged, macs, report
        self.steps = 2 * len(calibration) + len(judged.inputs) + len(self.layers) + 1
        self.ranges = measured_ranges(
            self.model, calibration, seen=lambda done, _: report(done, self.steps, "measuring ranges")
        )
        self.limits = _limits(self.model)
        first = tuple(name for name in self.layers if name.startswith(_FIRST))
        few = 100 * sum(self.layers[name] for name in first) <= _FIRST_AT_MOST_PCT * macs
        self.first = first if few else ()
        self.wanted = self._labels(graph, judged.inputs)
        self.before_pct = miou_pct(self.wanted, judged)
        self.costs: tuple[Cost, ...] = ()

    def look_at_each_layer(self) -> None:
        """What each costs: labels that change less when it alone stays in float32."""
        few = self.judging.inputs[:: max(len(self.judging.inputs) // _SAMPLED, 1)][:_SAMPLED]
        whole = self.made(())
        _, whole_pct = self.judged(whole, few)
        proto = onnx.load_model_from_string(whole)
        done = self.steps - len(self.layers)
        found = []
        for layer, macs in self.layers.items():
            done += 1
            if layer in self.first:
                continue
            self.report(done, self.steps, "leaving out each layer")
            _, changed_pct = self.judged(_left_out(proto, self.model, layer), few)
            found.append(
                Cost(
                    layer=layer,
                    labels_changed_pct=changed_pct,
                    saved_pct=whole_pct - changed_pct,
                    macs_pct=100 * macs / self.macs,
                )
            )
        self.costs = tuple(sorted(found, key=lambda cost: cost.labels_changed_pct))

    def within(self, max_drop_pct: float) -> tuple[bytes, tuple[str, ...], float, float]:
        """The graph that loses at most so many points of mIoU, the layers that stay in float32 for it, the costliest
        first; its mIoU, and the share of labels that change."""
        kept: tuple[str, ...] = ()
        for layer in ("", *(cost.layer for cost in self.costs)):
            tried = (*kept, layer) if layer else ()
            if self.share_pct(tried) < LEAST_INTEGER_PCT:
                continue
            kept = tried
            made = self.made(kept)
            score_pct, changed_pct = self.judged(made, self.judging.inputs)
            self.report(self.steps, self.steps, f"layers in float32: {len(kept)}")
            if self.before_pct - score_pct <= max_drop_pct:
                return made, kept, score_pct, changed_pct
        raise self._too_few(kept, max_drop_pct)

    def _too_few(self, kept: tuple[str, ...], max_drop_pct: float) -> UserError:
        share = f"{self.share_pct(kept):.0f} % of the multiply-adds are"
        if not kept:
            return UserError(
                f"only {share} in convolutions that can be in integers, at least {LEAST_INTEGER_PCT:.0f} % should be: "
                "the products of the attention stay in float32, and are many on large images; take a smaller --size."
            )
        return UserError(
            f"in integers the network loses more than {max_drop_pct:g} points of mIoU on {self.judging.source}, even "
            f"with {', '.join(kept)} in float32, and no other layer can be: {share} in integers, at least "
            f"{LEAST_INTEGER_PCT:.0f} % should be. Allow more with --max-drop."
        )

    def share_pct(self, kept: Collection[str]) -> float:
        """Multiply-adds in integers when these layers, too, stay in float32."""
        return 100 * sum(n for name, n in self.layers.items() if name not in (*kept, *self.first)) / self.macs

    def made(self, kept: Collection[str]) -> bytes:
        """The graph in integers, but for the first layers and these."""
        return _quantise(self.model, self.ranges, self.limits, kept=(*self.first, *kept))

    def judged(self, graph: bytes, inputs: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
        """mIoU and share of labels that are not those of float32, both in percent; mIoU of all images only."""
        labels = self._labels(graph, inputs)
        wanted = self.wanted
        if len(inputs) < len(wanted):
            places = {id(one): index for index, one in enumerate(self.judging.inputs)}
            wanted = [self.wanted[places[id(one)]] for one in inputs]
            score = float("nan")
        else:
            score = miou_pct(labels, self.judging)
        changed = np.mean([np.mean(a != b) for a, b in zip(labels, wanted, strict=True)])
        return score, 100 * float(changed)

    def _labels(self, graph: bytes, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
        size = self.judging.labels[0].shape
        session = _session(graph)
        name = session.get_inputs()[0].name
        return [labels_of(session.run(None, {name: image})[0], (size[0], size[1])) for image in inputs]


def labels_of(output: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    """Labels (H, W) from what the network returns: logits of whatever stride, or labels."""
    if output.dtype == np.int64:
        return np.asarray(output[0, 0])
    found: NDArray[np.int64] = upsample(torch.from_numpy(output), size)[0].argmax(dim=0).numpy()
    return found


def miou_pct(labels: Iterable[NDArray[np.int64]], judged: Judged) -> float:
    """Of labels of all the images, in their order."""
    matrix = ConfusionMatrix(judged.num_classes)
    for predicted, wanted in zip(labels, judged.labels, strict=True):
        matrix.update(predicted, wanted)
    return matrix.miou_pct


def layers_of(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of every convolution, by the path of its module, in the order in which they run."""
    weights = {one.name: tuple(one.dims) for one in model.graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.output)
    }
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    return {_layer(node): prod(shapes[node.output[0]]) * prod(weights[node.input[1]][1:]) for node in convs}


def _layer(conv: onnx.NodeProto) -> str:
    name: str = conv.input[1]
    return name.removeprefix("network.").removesuffix(".weight").removesuffix(".conv")


def _limits(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Of every weight: the largest and smallest value of each output channel, as onnxruntime's quantiser wants them."""
    constants = {one.name: one for one in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            ends = weight_limits(numpy_helper.to_array(constants[node.input[1]]))
            rows = [{"quant_type": QuantType.QInt8, "rmin": -end, "rmax": end, "symmetric": True} for end in ends]
            found[node.input[1]] = [rows[0] | {"axis": 0}, *rows[1:]]
    return found


def _quantise(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    limits: dict[str, list[dict[str, Any]]],
    *,
    kept: Collection[str],
) -> bytes:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with _silent_root():
        made = QDQQuantizer(
            copied,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, as_mapping(ranges)),
            nodes_to_quantize=None,
            nodes_to_exclude=_excluded(copied, frozenset(kept)),
            op_types_to_quantize=list(_ARITHMETIC),
            extra_options={"TensorQuantOverrides": limits},
        ).quantize_model()
    noted = [prop for prop in made.metadata_props if not prop.key.startswith("onnx.")]  # the quantiser's own notes go
    del made.metadata_props[:]
    made.metadata_props.extend(noted)
    graph: bytes = made.SerializeToString()
    return graph


def _left_out(integers: onnx.ModelProto, floats: onnx.ModelProto, layer: str) -> bytes:
    """The graph in integers with the weights of one convolution as they were, so that it is computed in float32.

    It differs from quantising anew without that layer in nothing that a label depends on, and takes no second.
    """
    made = onnx.ModelProto()
    made.CopyFrom(integers)
    conv = next(node for node in floats.graph.node if node.op_type == "Conv" and _layer(node) == layer)
    here = next(node for node in made.graph.node if node.name == conv.name)
    for place, name in enumerate(conv.input[1:], start=1):
        weight = made.graph.initializer.add()
        weight.CopyFrom(next(one for one in floats.graph.initializer if one.name == name))
        weight.name = here.input[place] = f"{name}_float"
    graph: bytes = made.SerializeToString()
    return graph


def _excluded(model: onnx.ModelProto, kept: Collection[str]) -> list[str]:
    """Nodes that stay in float32: the kept convolutions, and what has its inputs from float32 alone."""
    integers: set[str] = set()
    excluded = []
    for node in model.graph.node:
        wanted = _layer(node) not in kept if node.op_type == "Conv" else bool(integers.intersection(node.input))
        if wanted and node.op_type in _ARITHMETIC:
            integers.update(node.output)
        else:
            excluded.append(node.name)
    return excluded


class _silent_root:  # noqa: N801, a context of a few lines
    """The quantiser logs to the root logger what it leaves as it is."""

    def __enter__(self) -> None:
        self.level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self.level)


def integer_macs(graph: bytes, image: NDArray[np.float32]) -> int:
    """Multiply-adds of the convolutions that onnxruntime runs here in integers, told by its profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(graph, profile=str(Path(folder) / "run"))
        session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    found = 0
    for event in events:
        told = event.get("args", {})
        if event["name"].endswith("_kernel_time") and told.get("op_name") == "QLinearConv":
            (out,) = (tuple(*one.values()) for one in told["output_type_shape"][:1])
            weight = next(tuple(*one.values()) for one in told["input_type_shape"] if "int8" in one)
            found += prod(out) * prod(weight[1:])
    return found


def in_turns(one: bytes, other: bytes, *, pairs: int = _PAIRS) -> tuple[float, float, float]:
    """Medians of both graphs on one core, in ms, and the median of the ratios of neighbouring runs, other to one."""
    runtime = OnnxRuntime()
    loaded = runtime.load(one), runtime.load(other)
    times = np.zeros((pairs, 2))
    for run in loaded:
        run()
    for pair in range(pairs):
        for index in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            loaded[index]()
            times[pair, index] = 1e3 * (time.perf_counter() - start)
    first, second = np.median(times, axis=0)
    return float(first), float(second), float(np.median(times[:, 1] / times[:, 0]))


def _session(graph: bytes, *, profile: str | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
        options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

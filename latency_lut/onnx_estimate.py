"""How long would any network take on a core that is not at hand? Its ONNX file, counted on ncnn's Arm kernels.

The time is that of `latency_lut.estimate`: counts times few constants times one scale, which the published TopFormers
set. The core model knows vector operations and memory traffic. LayerNorm, GELU, hard-swish and squeeze-excite cost
besides what it does not see: chains of operations that wait for each other, divisions, maps that are walked once more.
Blocks with them are underestimated by 20 to 35 %, so what is flagged adds `FLAGGED_PCT` of its time to the upper end of
the interval, and to that end only:

* LayerNorm and GELU: their branch, from them to the sum or concatenation that ends it; matrix products over tokens come
  out too fast with them. SegFormer-B0 is 22 % below its published latency without any scale.
* squeeze-excite: everything from the pooling to the product, and the layer whose map it gates; and hard-swish alone.
  That is cautious: LR-ASPP on MobileNetV3-Large is 1 to 3 % above its published latency.

What the core model does not see at all, because it moves data by single values (transposes, slices, concatenations,
paddings and nearest resizes of small maps), other core models see, which fit the published latencies as well. The
interval reaches from the least to the greatest that they say of the very network.

The gates of TopFormer's own semantic injection, which are resized before they multiply, are in the networks that set
the scale and are not flagged. Numbers are in experiments/results/peers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latency_lut import tables
from latency_lut.counting import SUFFIX, CountSource, CountTable
from latency_lut.devices.qemu import Counts, count_and_infer
from latency_lut.estimate import SNAPDRAGON_865, CoreModel, rivals
from latency_lut.runtimes.ncnn import NcnnLayer, NcnnNetwork
from latency_lut.runtimes.pnnx import PNNX_VERSION, convert, input_name, input_shape, read_onnx
from latency_lut.runtimes.rewriting import TRY_INSTEAD, Rewritten, channels_last, rewritten
from topformer.errors import UserError, first_line, unknown_name
from topformer.keys import Shape
from topformer.progress import Progress

if TYPE_CHECKING:
    import onnx

FLAGGED_PCT = 54.0
"""100 / 0.65 - 100: how much longer than its estimate something takes that is underestimated by 35 %."""
MAX_OPERATIONS_G = 400.0
"""Two for a multiply-add; about an hour of counting."""
MAX_DIFFERENCE = 0.01
"""Between ncnn's output and onnxruntime's, relative to the greatest value: rounding is far below, another network far
above."""
MAX_REWRITTEN_DIFFERENCE = 1e-3
"""Between the file and what is said in other words for pnnx, both run by onnxruntime."""

_RUN_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
"""Of onnxruntime, about a network."""
_SHOWN = 300

_SECONDS_PER_G = 8.0
"""Of counting, on one core of an ordinary machine, for light networks; those of dense 3x3 convolutions take less."""

REASONS = {
    "squeeze-excite": "a second walk over its map, and a chain of small layers that wait for each other",
    "gate": "a sigmoid over a whole map: divisions, and another walk",
    "hard-swish": "another walk over the map, where ReLU is done on the way",
    "LayerNorm": "sums over short rows that wait for each other, and divisions",
    "GELU": "a transcendental function of every value",
}
"""Why a pattern is flagged."""

_PATTERN_OF = {
    "HardSwish": "hard-swish",
    "Swish": "hard-swish",
    "LayerNorm": "LayerNorm",
    "GELU": "GELU",
    "Erf": "GELU",
}
_OF_BRANCHES = frozenset(("LayerNorm", "GELU"))
_JOINTS = frozenset(("BinaryOp", "Eltwise", "Concat"))
_WITH_ACTIVATION = frozenset(("Convolution", "ConvolutionDepthWise", "InnerProduct"))
_SAME_VALUES = frozenset(("Split", "Reshape", "Squeeze", "ExpandDims"))
_SMALL = _SAME_VALUES | _WITH_ACTIVATION | {"ReLU", "HardSwish", "Swish", "Clip", "BatchNorm", "Permute", "Gemm"}
"""What stands between pooling and gate of a squeeze-excite block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceModel:
    """A core that is not at hand, by the name it has on command lines."""

    core: CoreModel
    table: str
    """Name of the latency table whose header has the scale and its error."""

    def rivals(self) -> dict[str, Callable[[Counts], float]]:
        """Other core models that fit the published latencies as well, by name; see `latency_lut.estimate.rivals`."""
        counts = CountTable.load(Path(tables.__path__[0]) / f"{self.table}{SUFFIX}")
        return rivals(counts.rows)


DEVICE_MODELS = {"snapdragon865": DeviceModel(core=SNAPDRAGON_865, table=tables.SNAPDRAGON_865)}


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorTime:
    """All layers of one kind."""

    operator: str
    """ncnn's name, with the kernel of a convolution."""
    count: int
    ms: float
    low_ms: float
    high_ms: float
    """The least and the greatest that any core model says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flagged:
    """Layers that the core model is known to underestimate."""

    pattern: str
    count: int
    ms: float
    """As estimated; a layer in two patterns is in the time of both, but widens the interval once."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkEstimate:
    """The time of a network, one image, one core, float32."""

    total_ms: float
    low_ms: float
    high_ms: float
    by_operator: tuple[OperatorTime, ...]
    """Longest first; they sum to the total."""
    flagged: tuple[Flagged, ...]
    flagged_ms: float
    """Of all flagged layers, each once."""
    rivals_ms: Mapping[str, float]
    """What other core models say of the network, by name; the interval has them all."""
    notes: tuple[str, ...]
    """What was read or priced in another way than the file says it, in sentences."""
    input: Shape
    """(channels, height, width)."""
    model_sha256: str
    difference: float
    """Of the counted network's output from onnxruntime's, relative to the greatest value."""
    source: CountSource
    converter: str

    @property
    def kind(self) -> str:
        return "estimated"


def device_model_named(name: str) -> DeviceModel:
    if name not in DEVICE_MODELS:
        raise unknown_name("device model", name, DEVICE_MODELS)
    return DEVICE_MODELS[name]


def estimate_onnx(
    path: Path,
    *,
    core: CoreModel,
    scale: float,
    interval_pct: float,
    rivals: Mapping[str, Callable[[Counts], float]],
    size: tuple[int, int] | None,
    progress: Progress,
) -> NetworkEstimate:
    """Convert, check that the result computes what the file does, count, and price.

    `scale` and `interval_pct` are those of a table's error model; `rivals` are core models whose milliseconds are to be
    multiplied by the same scale; `size` (height, width) is for files that leave it open. Counting takes a third of a
    second for a millisecond of latency.
    """
    progress(0, 1, "converting")
    proto = read_onnx(path, size=size)
    made = rewritten(proto)
    converted = convert(made.priced)
    if converted.operations_g > MAX_OPERATIONS_G:
        raise UserError(
            f"{path} takes {converted.operations_g:.0f} G operations, about "
            f"{_SECONDS_PER_G * converted.operations_g / 60:.0f} minutes of counting; the limit is "
            f"{MAX_OPERATIONS_G:.0f} G. Export it for a smaller image."
        )
    network = converted.network
    shape = input_shape(made.exact)
    image = _made_up_image(shape)
    reference, notes = _checked(path, proto, made, image, converted.outputs)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(count_and_infer, network, converted.weights, [image])
        _wait(future, round(_SECONDS_PER_G * converted.operations_g) + 1, progress)
        counts, output = future.result()
    difference = _difference(output, reference)
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"pnnx's conversion of {path} computes something else than the file (difference {difference:.2g} of the "
            f"greatest value, at most {MAX_DIFFERENCE:g} is rounding), so its time would be another network's; "
            f"{TRY_INSTEAD}."
        )
    ms_of = {name: scale * core.milliseconds(each) for name, each in counts}
    rival_ms_of = {what: {name: scale * rival(each) for name, each in counts} for what, rival in rivals.items()}
    rivals_ms = {what: sum(each.values()) for what, each in rival_ms_of.items()}
    total_ms = sum(ms_of.values())
    patterns = flagged_layers(network)
    flagged_ms = sum(ms_of[name] for name in _union(name for places in patterns.values() for name in places))
    progress(1, 1, f"{total_ms:.1f} ms")
    return NetworkEstimate(
        total_ms=total_ms,
        low_ms=min((total_ms * max(1 - interval_pct / 100, 0), *rivals_ms.values())),
        high_ms=max((total_ms * (1 + interval_pct / 100), *rivals_ms.values())) + flagged_ms * FLAGGED_PCT / 100,
        by_operator=_by_operator(network, ms_of, tuple(rival_ms_of.values())),
        flagged=tuple(
            Flagged(
                pattern=pattern,
                count=len(places),
                ms=sum(ms_of[name] for name in _union(places)),
                reason=REASONS[pattern],
            )
            for pattern, places in patterns.items()
        ),
        flagged_ms=flagged_ms,
        rivals_ms=rivals_ms,
        notes=notes,
        input=shape,
        model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        difference=difference,
        source=CountSource.here(),
        converter=f"pnnx {PNNX_VERSION}",
    )


def flagged_layers(network: NcnnNetwork) -> dict[str, tuple[frozenset[str], ...]]:
    """By pattern of `REASONS`, the names of the layers at each place it occurs."""
    graph = _Graph(network)
    found: dict[str, list[frozenset[str]]] = {}
    for layer in network.layers:
        if pattern := _PATTERN_OF.get(layer.kind):
            branch = graph.branch(layer) if pattern in _OF_BRANCHES else {layer.name}
            found.setdefault(pattern, []).append(frozenset(branch))
        if _is_sigmoid(layer) and (product := graph.product_of(layer)):
            squeezed = graph.squeezed(layer)
            gated = {graph.source(blob) for blob in product.bottoms}
            pattern = "squeeze-excite" if squeezed else "gate"
            found.setdefault(pattern, []).append(frozenset({product.name, layer.name} | squeezed | gated))
    return {pattern: tuple(places) for pattern, places in found.items()}


class _Graph:
    """Who makes and who reads a blob; ncnn's `Split`, which copies nothing, is seen through."""

    def __init__(self, network: NcnnNetwork) -> None:
        self.maker = {blob: layer for layer in network.layers for blob in layer.tops}
        self.readers: defaultdict[str, list[NcnnLayer]] = defaultdict(list)
        for layer in network.layers:
            for blob in layer.bottoms:
                self.readers[blob].append(layer)

    def source(self, blob: str) -> str:
        """Name of the layer that computes the blob."""
        layer = self.maker[blob]
        return self.source(layer.bottoms[0]) if layer.kind == "Split" else layer.name

    def product_of(self, gate: NcnnLayer) -> NcnnLayer | None:
        """The multiplication of two maps that reads the gate as it is, not resized."""
        for blob in gate.tops:
            for reader in self.readers[blob]:
                if reader.kind == "BinaryOp" and len(reader.bottoms) == 2 and _settings(reader)["0"] == "2":
                    return reader
                if reader.kind in _SAME_VALUES and (found := self.product_of(reader)):
                    return found
        return None

    def branch(self, first: NcnnLayer) -> set[str]:
        """Names of the layers from this one to the next sum or concatenation of maps, which are not among them."""
        names: set[str] = set()
        todo = [first]
        while todo:
            layer = todo.pop()
            joins = layer.kind in _JOINTS and len(layer.bottoms) > 1
            if layer.name in names or (joins and layer is not first):
                continue
            names.add(layer.name)
            todo += [reader for blob in layer.tops for reader in self.readers[blob]]
        return names

    def squeezed(self, gate: NcnnLayer) -> set[str]:
        """Names of the layers from the pooling of a whole map to the gate; none where nothing is pooled."""
        names: set[str] = set()
        layer = gate
        while len(layer.bottoms) == 1:
            layer = self.maker[layer.bottoms[0]]
            names.add(layer.name)
            if layer.kind == "Reduction" or (layer.kind == "Pooling" and _settings(layer).get("4") == "1"):
                return names
            if layer.kind not in _SMALL:
                break
        return set()


def _union(places: Iterable[frozenset[str]]) -> set[str]:
    return set().union(*places)


def _is_sigmoid(layer: NcnnLayer) -> bool:
    fused = layer.kind in _WITH_ACTIVATION and _settings(layer).get("9") == "4"
    return fused or layer.kind in {"Sigmoid", "HardSigmoid"}


def _settings(layer: NcnnLayer) -> dict[str, str]:
    """Of a .param line, by number."""
    pairs = (text.partition("=") for text in layer.params.split())
    return {number: value for number, _, value in pairs}


def _by_operator(
    network: NcnnNetwork, ms_of: Mapping[str, float], rivals: tuple[Mapping[str, float], ...]
) -> tuple[OperatorTime, ...]:
    count: Counter[str] = Counter()
    ms: defaultdict[str, float] = defaultdict(float)
    rival_ms: defaultdict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(rivals)))
    for layer in network.layers:
        if layer.name not in ms_of or layer.kind == "Split":
            continue
        operator = layer.kind
        if operator in _WITH_ACTIVATION - {"InnerProduct"}:
            settings = _settings(layer)
            operator = f"{operator} {settings.get('11', settings['1'])}x{settings['1']}"
        count[operator] += 1
        ms[operator] += ms_of[layer.name]
        rival_ms[operator] += np.array([each[layer.name] for each in rivals])
    said = {name: (ms[name], *map(float, rival_ms[name])) for name in ms}
    rows = (
        OperatorTime(operator=name, count=count[name], ms=ms[name], low_ms=min(said[name]), high_ms=max(said[name]))
        for name in ms
    )
    return tuple(sorted(rows, key=lambda row: row.ms, reverse=True))


def _checked(
    path: Path, proto: onnx.ModelProto, made: Rewritten, image: NDArray[np.float32], order: tuple[int, ...]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """(what the counted network should compute, sentences about what is not as the file has it).

    Raises UserError where what was said in other words computes something else than the file.
    """
    given = image.transpose(1, 2, 0) if channels_last(proto) else image
    reference = _reference(proto, given, order)
    if made.priced is proto:
        return reference, ()
    difference = _difference(_reference(made.exact, image, order), reference)
    if not difference <= MAX_REWRITTEN_DIFFERENCE:
        raise UserError(
            f"{path} could not be said in words that pnnx reads: what came out computes something else (difference "
            f"{difference:.2g} of the greatest value); {TRY_INSTEAD}."
        )
    if not made.stand_ins:
        return reference, made.notes
    priced = _reference(made.priced, image, order)
    if _difference(priced, reference) <= MAX_REWRITTEN_DIFFERENCE:
        return reference, made.notes
    return priced, (*made.notes, f"priced as what takes as long: {'; '.join(made.stand_ins)}")


def _made_up_image(shape: Shape) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _wait(future: Future[Any], seconds: int, progress: Progress) -> None:
    """Seconds that passed, of those that it may take."""
    start = time.monotonic()
    while True:
        try:
            future.exception(timeout=0.5)
        except NotYet:
            passed = round(time.monotonic() - start)
            progress(min(passed, seconds - 1), seconds, "counting")
        else:
            return


def _reference(proto: onnx.ModelProto, image: NDArray[np.float32], order: Iterable[int]) -> NDArray[np.float32]:
    """Outputs of onnxruntime, those of these numbers, in a row."""
    import onnxruntime  # noqa: PLC0415, only where there is something to compare
    from onnxruntime.capi import onnxruntime_pybind11_state as errors  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {input_name(proto): image[None]})
    except tuple(getattr(errors, name) for name in _RUN_ERRORS) as error:
        raise UserError(f"onnxruntime cannot run the network: {first_line(error)[:_SHOWN]}; {TRY_INSTEAD}.") from None
    return np.concatenate([np.asarray(outputs[number], np.float32).ravel() for number in order])


def _difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Greatest absolute difference relative to the greatest value; infinite where there are fewer of ours, of which
    the last count.
    """
    if len(ours) < len(theirs):
        return math.inf
    return float(np.abs(ours[-len(theirs) :] - theirs).max() / np.abs(theirs).max())

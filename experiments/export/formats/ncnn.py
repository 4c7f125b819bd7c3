"""ncnn: the `.param` text and the `.bin` weights written from our own blocks, as latency tables time them on phones.

The `ncnn` package runs them here, without half precision in its arithmetic, which phones switch on by default.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from experiments.export.formats import INPUT, Network, Options, Session, Written
from latency_lut.runtimes.ncnn import NcnnLayer, NcnnNetwork, candidate_network
from topformer.errors import UserError
from topformer.reading import MIB, file_content

_MAGIC = b"7767517\n"
_MOST_PARAM_BYTES = 16 * MIB
_NORMALISED = f"{INPUT}/normalised"
_PROBE = "@probe"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Ncnn:
    """The `Format` of ncnn; weights in float32, or stored in float16 at half the size."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    tolerance: float | None
    half: bool
    extra: str | None = "ncnn"
    packages: tuple[str, ...] = ("ncnn",)

    def why_not(self, network: Network, options: Options) -> str | None:
        if network.task.output == "labels":
            return "ncnn has no layer that gives the class with the largest logit of every pixel; take --output resized"
        if network.dynamic:
            return "its pooling and resizing are written for one image size"
        return None

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        described = _described(network)
        param, weights = (folder / f"{stem}{suffix}" for suffix in self.suffixes)
        param.write_text(described.param, encoding="ascii")
        weights.write_bytes(_scale_weights(network) + described.weights(network.model, half=self.half))
        return Written(files=(param, weights))

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        return ncnn_session(files[0], files[1], threads)

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        return Counter(line[0] for line in _lines(files[0]))

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        import ncnn  # noqa: PLC0415, comes with an extra

        known = {kind: ncnn.layer_to_index(kind) >= 0 for kind in {line[0] for line in _lines(files[0])}}
        return tuple(f"{line[1]} ({line[0]})" for line in _lines(files[0]) if not known[line[0]])

    def recognises(self, head: bytes) -> bool:
        return head.startswith(_MAGIC)


FLOAT32 = _Ncnn(name="ncnn", title="ncnn, float32", suffixes=(".ncnn.param", ".ncnn.bin"), tolerance=1e-4, half=False)
FLOAT16 = _Ncnn(
    name="ncnn-fp16",
    title="ncnn, weights stored in float16",
    suffixes=(".fp16.ncnn.param", ".fp16.ncnn.bin"),
    tolerance=2e-2,
    half=True,
)


def _described(network: Network) -> NcnnNetwork:
    """Layers of the whole network, with normalisation and probes where they were asked for; its output has our name."""
    layers = list(candidate_network(network.candidate).layers)
    layers[-1] = dataclasses.replace(layers[-1], tops=(network.task.output,))
    if network.normalise_inside:
        first = next(index for index, layer in enumerate(layers) if INPUT in layer.bottoms)
        layers[first] = dataclasses.replace(layers[first], bottoms=(_NORMALISED,))
        scale = NcnnLayer(
            kind="Scale", name=_NORMALISED, bottoms=(INPUT,), tops=(_NORMALISED,), params=f"0={len(MEAN)} 1=1"
        )
        layers.insert(first, scale)
    for name in network.probes:
        _probe(layers, name)
    described = candidate_network(network.candidate)
    return dataclasses.replace(described, layers=tuple(layers))


def _scale_weights(network: Network) -> bytes:
    """Of the layer that normalises: scale and bias, before all other weights."""
    if not network.normalise_inside:
        return b""
    mean, deviation = np.array(MEAN), np.array(STANDARD_DEVIATION)
    content: bytes = np.stack([1 / deviation, -mean / deviation]).astype("<f4").tobytes()
    return content


def _probe(layers: list[NcnnLayer], name: str) -> None:
    """Give the output of a block a second reader, which is nobody: it stays to be extracted."""
    made = max(i for i, one in enumerate(layers) if one.block == name and one.kind not in ("Split", "Slice"))
    blob = layers[made].tops[0]
    reader = next((i for i, one in enumerate(layers) if blob in one.bottoms), None)
    if reader is None:  # the output of the whole network is there anyway
        return
    if layers[reader].kind == "Split":
        layers[reader] = dataclasses.replace(layers[reader], tops=(*layers[reader].tops, f"{blob}{_PROBE}"))
        return
    goes_on = f"{blob}@0"
    bottoms = tuple(goes_on if one == blob else one for one in layers[reader].bottoms)
    layers[reader] = dataclasses.replace(layers[reader], bottoms=bottoms)
    split = NcnnLayer(kind="Split", name=f"{blob}@", bottoms=(blob,), tops=(goes_on, f"{blob}{_PROBE}"))
    layers.insert(made + 1, split)


def _lines(param: Path) -> list[list[str]]:
    """Words of every layer's line. Raises `UserError` for a file that is none of ncnn's."""
    content = file_content(param, "the network", most_bytes=_MOST_PARAM_BYTES)
    if not content.startswith(_MAGIC):
        raise UserError(f"{param} is no .param file of ncnn.")
    return [words for line in content.decode("ascii", "replace").splitlines()[2:] if len(words := line.split()) >= 4]


def _outputs(param: Path) -> tuple[str, ...]:
    """The blob of the last layer, and those that were probed, in their order."""
    made: list[str] = []
    for words in _lines(param):
        bottoms, tops = int(words[2]), int(words[3])
        made += words[4 + bottoms : 4 + bottoms + tops]
    return (made[-1], *(blob for blob in made if blob.endswith(_PROBE)))


def ncnn_session(param: Path, weights: Path, threads: int) -> Session:
    """Raises `UserError` where ncnn cannot read the files."""
    import ncnn  # noqa: PLC0415, comes with an extra

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    outputs = _outputs(param)
    if not weights.is_file():
        raise UserError(f"{weights} is missing: ncnn reads the layers from {param.name} and the weights from there.")
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise UserError(f"ncnn cannot read {param} and {weights.name}; are both of one export?")

    def run(image: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        singles = [_run_one(net, one, outputs) for one in image]
        return tuple(np.stack(parts) for parts in zip(*singles, strict=True))

    return run


def _run_one(net: Any, image: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
    import ncnn  # noqa: PLC0415, comes with an extra

    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    extractor.input(INPUT, ncnn.Mat(np.ascontiguousarray(image)))
    found = []
    for name in outputs:
        failed, blob = extractor.extract(name)
        if failed:
            raise UserError(f"ncnn failed at blob {name} (code {failed}).")
        found.append(np.array(blob))
    return found

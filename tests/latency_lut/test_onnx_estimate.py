"""Anybody's ONNX file: what is refused, what is flagged, and that what is counted computes what the file does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.export.onnx import onnx_graph, settle_random_weights
from latency_lut.devices import qemu
from latency_lut.estimate import SNAPDRAGON_865
from latency_lut.onnx_estimate import FLAGGED_PCT, NetworkEstimate, estimate_onnx, flagged_layers
from latency_lut.runtimes.ncnn import NcnnLayer, NcnnNetwork, candidate_network
from latency_lut.runtimes.pnnx import convert, input_shape, read_onnx
from topformer.config import ANCHORS, TINY, Candidate, Task
from topformer.errors import UserError
from topformer.model import TopFormer
from topformer.progress import silent

missing = [name for name in (qemu.QEMU, "cc") if not shutil.which(name)]
missing += [name for name in ("ziglang", "unearth", "pnnx") if not find_spec(name)]
needs_payload = [
    pytest.mark.slow,
    pytest.mark.qemu,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]

IMAGE = (1, 3, 32, 48)
YES = numpy_helper.from_array(np.array(True), "yes")
CONV = helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1])
Dims = Sequence[int | str]
ANY = ("a", "b", "c", "d")


def weight(name: str = "weight") -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 3, 3, 3), dtype=np.float32), name)


def elsewhere(name: str = "weight") -> onnx.TensorProto:
    """A tensor whose data are another file's."""
    tensor = weight(name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def branches(tensor: onnx.TensorProto) -> onnx.NodeProto:
    """An `If` whose both sides give the tensor."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ANY)
    side = helper.make_graph([helper.make_node("Constant", [], ["inner"], value=tensor)], "side", [], [value])
    return helper.make_node("If", ["yes"], ["chosen"], then_branch=side, else_branch=side)


def model(
    *nodes: onnx.NodeProto,
    images: Sequence[Dims] = (IMAGE,),
    opset: int = 17,
    weights: Sequence[onnx.TensorProto] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A convolution, and then `nodes`; the last output is the model's."""
    names = ("image", *(f"image{index}" for index in range(1, len(images))))
    chain = nodes or (CONV,)
    graph = helper.make_graph(
        chain,
        "network",
        [helper.make_tensor_value_info(name, kind, dims) for name, dims in zip(names, images, strict=True)],
        [helper.make_tensor_value_info(chain[-1].output[0], TensorProto.FLOAT, ANY)],
        [YES, *([weight()] if weights is None else weights)],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("strange", 1)], ir_version=8
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def refusal(path: Path, proto: onnx.ModelProto | bytes, size: tuple[int, int] | None = None) -> str:
    """The sentence that a file is refused with before anything is converted."""
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(UserError) as error:
        read_onnx(path, size=size)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*model\.onnx"):
        read_onnx(path, size=None)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 20, b"not a model\n", bytes(1000)])
def test_what_is_no_onnx_file_is_refused(path: Path, content: bytes) -> None:
    assert "truncated one" in refusal(path, content)


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    whole = model().SerializeToString()
    for end in range(0, len(whole) - 1, 37):
        assert "truncated one" in refusal(path, whole[:end])


@pytest.mark.parametrize(
    "proto",
    [
        model(weights=[elsewhere()]),
        model(CONV, helper.make_node("Constant", [], ["constant"], value=elsewhere("value"))),
        model(CONV, branches(elsewhere("deep"))),
    ],
)
def test_data_in_other_files_are_refused_before_anything_looks_for_them(path: Path, proto: onnx.ModelProto) -> None:
    assert "other files" in refusal(path, proto)


def test_data_in_other_files_are_found_in_functions_too(path: Path) -> None:
    proto = model(CONV, helper.make_node("Local", ["features"], ["out"], domain="strange"))
    inside = helper.make_node("Constant", [], ["out"], value=elsewhere("value"))
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("strange", "Local", ["x"], ["out"], [inside], opsets))
    assert "other files" in refusal(path, proto)


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (model(helper.make_node("Relu", ["image"], ["out"])), "no convolution"),
        (model(images=(IMAGE, IMAGE)), "one input, an image, not 2 ('image', 'image1')"),
        (model(images=((3, 32, 48),)), "not FLOAT of 3 axes"),
        (model(kind=TensorProto.DOUBLE), "not DOUBLE of 4 axes"),
        (model(images=((2, 3, 32, 48),)), "fixed input of 2x3x32x48, not 1x3x32x48"),
        (model(images=((1, "channels", 32, 48),)), "number of channels open"),
        (model(images=(("batch", 3, "height", "width"),)), "give it with --size"),
        (model(opset=5), "opset 5, not 7 to 26"),
        (model(opset=27), "opset 27, not 7 to 26"),
        (model(CONV, branches(weight("deep"))), "control flow (If)"),
        (model(CONV, helper.make_node("Magic", ["features"], ["out"], domain="strange")), "no strange.Magic"),
    ],
)
def test_what_cannot_be_estimated_is_refused_in_a_sentence(path: Path, proto: onnx.ModelProto, what: str) -> None:
    assert what in refusal(path, proto)


def test_another_size_than_the_fixed_one_is_refused(path: Path) -> None:
    assert "fixed input of 1x3x32x48, not 1x3x64x64" in refusal(path, model(), size=(64, 64))


def test_an_open_size_is_the_one_given_and_the_batch_one(path: Path) -> None:
    path.write_bytes(model(images=(("batch", 3, "height", "width"),)).SerializeToString())
    assert input_shape(read_onnx(path, size=(64, 96))) == (3, 64, 96)


def test_weights_among_the_inputs_of_an_old_file_are_no_images(path: Path) -> None:
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, (8, 3, 3, 3)))
    path.write_bytes(proto.SerializeToString())
    assert input_shape(read_onnx(path, size=None)) == (3, 32, 48)


def network(*lines: str) -> NcnnNetwork:
    """Of lines "kind bottom,bottom top,top params", where a layer has the name of its first top."""
    layers = []
    for line in lines:
        kind, bottoms, tops, *params = line.split()
        layers.append(
            NcnnLayer(
                kind=kind,
                name=tops.split(",")[0],
                bottoms=() if bottoms == "-" else tuple(bottoms.split(",")),
                tops=tuple(tops.split(",")),
                params=" ".join(params),
                conv=None,
            )
        )
    return NcnnNetwork(layers=tuple(layers), inputs=((8, 4, 4),), output=(8, 4, 4))


def test_a_squeeze_excite_block_is_flagged_from_the_gated_layer_to_the_product() -> None:
    found = flagged_layers(
        network(
            "Input - image",
            "ConvolutionDepthWise image map 1=3",
            "Split map a,b",
            "Reduction b mean 0=3",
            "Convolution mean squeeze 1=1 9=1",
            "Convolution squeeze excite 1=1",
            "HardSigmoid excite gate",
            "BinaryOp a,gate product 0=2",
            "Convolution product out 1=1",
        )
    )
    assert found == {"squeeze-excite": (frozenset(("map", "mean", "squeeze", "excite", "gate", "product")),)}


def test_a_gate_fused_into_its_convolution_is_flagged_with_what_it_gates() -> None:
    found = flagged_layers(
        network(
            "Input - image",
            "Split image a,b",
            "Convolution a map 1=1",
            "Convolution b gate 1=1 9=4",
            "BinaryOp map,gate product 0=2",
        )
    )
    assert found == {"gate": (frozenset(("map", "gate", "product")),)}


def test_layer_norm_is_flagged_with_its_branch_up_to_the_residual_sum() -> None:
    found = flagged_layers(
        network(
            "Input - image",
            "Gemm image x",
            "Split x skip,branch",
            "LayerNorm branch norm",
            "Gemm norm hidden",
            "GELU hidden gelu",
            "Gemm gelu back",
            "BinaryOp skip,back sum 0=0",
            "Gemm sum out",
        )
    )
    branch = {"norm", "hidden", "gelu", "back"}
    assert found == {"LayerNorm": (branch,), "GELU": (branch - {"norm", "hidden"},)}


def test_hard_swish_is_flagged_alone_and_a_sigmoid_that_gates_nothing_is_not() -> None:
    found = flagged_layers(network("Input - image", "HardSwish image a", "HardSwish a b", "Sigmoid b probability"))
    assert found == {"hard-swish": ({"a"}, {"b"})}


@pytest.mark.parametrize("name", ANCHORS)
def test_nothing_of_the_networks_that_set_the_scale_is_flagged(name: str) -> None:
    assert flagged_layers(candidate_network(Candidate(arch=ANCHORS[name], task=Task()))) == {}


class SqueezeExcited(nn.Module):
    """What MobileNetV3 is made of, and a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 5, 1, 4, 2, groups=16)
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(image)))
        x = F.relu6(self.depthwise(x))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return F.interpolate(self.out(x), scale_factor=2, mode="bilinear", align_corners=False)


class Tokens(nn.Module):
    """What SegFormer is made of: LayerNorm over channels, attention, GELU; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.expansion = nn.Linear(16, 32)
        self.projection = nn.Linear(32, 16)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch(image)
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        query, key, value = (part.reshape(1, -1, 2, 8).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, 2))
        mixed = torch.softmax(query @ key.transpose(2, 3) * 8**-0.5, -1) @ value
        x = x + mixed.transpose(1, 2).reshape(1, -1, 16)
        x = x + self.projection(F.gelu(self.expansion(x)))
        maps = x.transpose(1, 2).reshape(1, 16, height, width)
        return maps, F.avg_pool2d(maps, 2)


def exported(module: nn.Module, path: Path) -> Path:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    torch.onnx.export(
        module.eval(), (torch.zeros(1, 3, 32, 48),), path, dynamo=True, external_data=False, verbose=False
    )
    return path


def estimate(path: Path) -> NetworkEstimate:
    return estimate_onnx(path, core=SNAPDRAGON_865, scale=2.0, interval_pct=10, size=None, progress=silent)


class TestWithPayload:
    """Converted by pnnx and run by the payload under qemu."""

    pytestmark = needs_payload

    @pytest.mark.parametrize(
        ("module", "patterns"),
        [(SqueezeExcited, {"hard-swish": 1, "squeeze-excite": 1}), (Tokens, {"LayerNorm": 1, "GELU": 1})],
    )
    @pytest.mark.filterwarnings("ignore")  # torch's exporter
    def test_what_is_counted_computes_what_the_file_does(
        self, module: type[nn.Module], patterns: dict[str, int], path: Path
    ) -> None:
        found = estimate(exported(module(), path))
        assert found.difference <= 1e-4
        assert {flag.pattern: flag.count for flag in found.flagged} == patterns
        assert sum(row.ms for row in found.by_operator) == pytest.approx(found.total_ms, rel=0.01)
        assert found.low_ms == pytest.approx(0.9 * found.total_ms)
        assert found.high_ms == pytest.approx(1.1 * found.total_ms + found.flagged_ms * FLAGGED_PCT / 100)

    def test_our_own_export_takes_as_long_as_our_own_network(self, path: Path) -> None:
        task = Task(image_size=(128, 128))
        path.write_bytes(onnx_graph(settle_random_weights(TopFormer(TINY, num_classes=150)), task))
        counts = sum(qemu.count(candidate_network(Candidate(arch=TINY, task=task))).values(), qemu.NOTHING)
        found = estimate(path)
        assert found.total_ms == pytest.approx(2.0 * SNAPDRAGON_865.milliseconds(counts), rel=0.03)
        assert found.flagged == ()

    @pytest.mark.parametrize(
        ("node", "named"),
        [
            (helper.make_node("ArgMax", ["features"], ["out"], axis=1), "ArgMax"),
            (helper.make_node("Det", ["features"], ["out"]), "Det"),
        ],
    )
    def test_an_operator_that_ncnn_lacks_is_named(self, node: onnx.NodeProto, named: str, path: Path) -> None:
        path.write_bytes(model(CONV, node, images=((1, 3, 32, 32),)).SerializeToString())
        with pytest.raises(UserError, match=f"no {named};"):
            convert(read_onnx(path, size=None))

    def test_an_open_size_is_converted_at_the_size_given(self, path: Path) -> None:
        path.write_bytes(model(images=(("batch", 3, "height", "width"),)).SerializeToString())
        converted = convert(read_onnx(path, size=(64, 96)))
        assert converted.network.inputs == ((3, 64, 96),)
        assert converted.network.output == (8, 64, 96)

    def test_too_much_work_is_refused_before_it_is_counted(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("latency_lut.onnx_estimate.MAX_OPERATIONS_G", 0.0)
        path.write_bytes(model().SerializeToString())
        with pytest.raises(UserError, match="minutes of counting; the limit is 0 G"):
            estimate(path)

    def test_a_network_that_wants_more_memory_than_there_may_be_is_refused(self, path: Path) -> None:
        wide = numpy_helper.from_array(np.zeros((4096, 8, 1, 1), np.float32), "wide")
        nodes = (CONV, helper.make_node("Conv", ["features", "wide"], ["out"]))  # out has 16 GiB
        path.write_bytes(model(*nodes, weights=[weight(), wide], images=((1, 3, 1024, 1024),)).SerializeToString())
        with pytest.raises(UserError, match="pnnx cannot convert the network"):
            convert(read_onnx(path, size=None))


@pytest.mark.parametrize("name", [b"Relu"])
def test_a_name_that_is_no_text_is_refused(name: bytes, tmp_path: Path) -> None:
    """Found by `make fuzz`: the checker's own message could not be read."""
    node = onnx.helper.make_node("Relu", ["first"], ["second"])
    ends = [onnx.helper.make_tensor_value_info(end, 1, [1, 3, 8, 8]) for end in ("first", "second")]
    content = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:])).SerializeToString()
    (tmp_path / "a.onnx").write_bytes(content.replace(name, name[:-1] + b"\xdf"))
    with pytest.raises(UserError, match=r"a\.onnx is not"):
        read_onnx(tmp_path / "a.onnx", size=None)

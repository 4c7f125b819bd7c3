"""Anybody's ONNX file: what is refused, what is flagged, and that what is counted computes what the file does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from _pytest.mark import ParameterSet
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.export.formats import Network
from experiments.export.formats.onnx import onnx_graph
from experiments.export.weights import settle_random_weights
from latency_lut.devices import qemu
from latency_lut.estimate import SNAPDRAGON_865
from latency_lut.onnx_estimate import DEVICE_MODELS, FLAGGED_PCT, NetworkEstimate, estimate_onnx, flagged_layers
from latency_lut.runtimes.ncnn import NcnnLayer, NcnnNetwork, candidate_network
from latency_lut.runtimes.pnnx import convert, input_shape, read_onnx
from latency_lut.runtimes.rewriting import rewritten
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


def of_open_channels() -> onnx.ModelProto:
    """Of pixels that may have any number of channels."""
    planes = helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])
    conv = helper.make_node("Conv", ["planes", "weight"], ["features"])
    return model(planes, conv, images=((1, 32, 48, "channels"),))


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
        (model(images=((1, "channels", 32, 48),)), "number of channels open (its second axis)"),
        (of_open_channels(), "number of channels open (its last axis)"),
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


@pytest.mark.parametrize(
    ("image", "size", "shape"),
    [
        ((1, 32, 48, 3), None, (3, 32, 48)),
        (("n", "h", "w", 3), (64, 96), (3, 64, 96)),
        ((1, 32, 48, 1), None, (1, 32, 48)),
    ],
)
def test_an_image_with_its_channels_last_is_as_high_and_wide_as_it_says(
    image: Dims, size: tuple[int, int] | None, shape: tuple[int, ...], path: Path
) -> None:
    path.write_bytes(of_pixels(image).SerializeToString())
    assert input_shape(rewritten(read_onnx(path, size=size)).exact) == shape


def of_pixels(image: Dims) -> onnx.ModelProto:
    """What TensorFlow's converters write: pixels are scaled and padded, made planes of, and convolved."""
    channels = int(image[3])
    tensors = [
        numpy_helper.from_array(weight_of(8, channels, 3), "weight"),
        numpy_helper.from_array(np.linspace(0.1, 0.5, channels, dtype=np.float32), "mean"),
        numpy_helper.from_array(np.array(2, np.float32), "scale"),
        numpy_helper.from_array(np.array([0, 1, 1, 0, 0, 1, 1, 0]), "pads"),
    ]
    nodes = (
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Mul", ["scale", "centred"], ["scaled"]),
        helper.make_node("Pad", ["scaled", "pads"], ["padded"]),
        helper.make_node("Transpose", ["padded"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"], strides=[2, 2]),
        helper.make_node("Transpose", ["features"], ["out"], perm=[0, 2, 3, 1]),
    )
    return model(*nodes, images=(image,), weights=tensors)


def weight_of(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((shape[0], shape[1], shape[2], shape[2]), dtype=np.float32)


def test_a_network_of_pixels_computes_the_same_of_planes(path: Path) -> None:
    path.write_bytes(of_pixels((1, 32, 48, 3)).SerializeToString())
    proto = read_onnx(path, size=None)
    planes = rewritten(proto).exact
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 48), dtype=np.float32)
    assert "Transpose" not in [node.op_type for node in planes.graph.node][:-1]
    np.testing.assert_allclose(ran(planes, image), ran(proto, image.transpose(0, 2, 3, 1)), atol=1e-5)


def ran(proto: onnx.ModelProto, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


def constant(name: str, values: object, kind: type[np.generic] = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


Given = Sequence[onnx.TensorProto]
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
WIDE = constant("wide", weight_of(8, 8, 3), np.float32)
AXES = [constant("axes", [-1])]
TWICE = [constant("scales", [1, 1, 2, 2], np.float32)]


def operator(kind: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, ["features", *inputs], ["out"], **attributes)


def sliced(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> list[onnx.TensorProto]:
    return [constant(*pair) for pair in (("on", starts), ("to", ends), ("axes", axes), ("by", steps))]


MEAN = helper.make_node("ReduceMean", ["features", "axes"], ["mean"])

EXACT: list[tuple[onnx.NodeProto, Given, int]] = [
    *((operator(f"Reduce{what}", "axes", keepdims=1), AXES, 20) for what in ("Mean", "Max", "Min", "L1", "SumSquare")),
    (operator("ReduceMean", "", noop_with_empty_axes=1), [], 18),
    (operator("ReduceMean"), [], 18),
    (operator("ReduceMax", axes=[2, 3]), [], 17),
    (operator("MaxPool", pads=[1, 1, 0, 0], **POOL), [], 17),
    (operator("MaxPool", auto_pad="SAME_UPPER", **POOL), [], 17),
    (operator("AveragePool", auto_pad="SAME_LOWER", count_include_pad=1, **POOL), [], 17),
    (operator("Conv", "wide", auto_pad="SAME_LOWER", strides=[2, 2]), [WIDE], 17),
    (operator("Conv", "wide", auto_pad="SAME_LOWER"), [WIDE], 17),
    (operator("Pad", "pads"), [constant("pads", [0, 0, 1, 2, 0, 0, 0, 1])], 17),
    (operator("Slice", "on", "to", "axes", "by"), sliced([1, 0], [99, 99], [2, 3], [2, 3]), 17),
    (operator("Slice", "on", "to", "axes", "by"), sliced([-31, 2], [30, -1], [-2, 1], [4, 2]), 17),
    (operator("Resize", "", "scales", mode="nearest", nearest_mode="round_prefer_floor"), TWICE, 17),
    (operator("Resize", "scales", mode="nearest"), TWICE, 10),
    (operator("Upsample", "scales", mode="nearest"), TWICE, 9),
]
"""Operators that pnnx misreads or does not read as they stand, and what they need, by opset."""


def of_operator(node: onnx.NodeProto, given: Given, opset: int) -> onnx.ModelProto:
    return model(CONV, node, weights=[weight(), *given], opset=opset)


@pytest.mark.parametrize(("node", "given", "opset"), EXACT, ids=lambda value: getattr(value, "op_type", ""))
def test_what_is_said_in_other_words_computes_the_same(
    node: onnx.NodeProto, given: Given, opset: int, path: Path
) -> None:
    path.write_bytes(of_operator(node, given, opset).SerializeToString())
    proto = read_onnx(path, size=None)
    made = rewritten(proto)
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    np.testing.assert_allclose(ran(made.exact, image), ran(proto, image), atol=1e-4)
    if "ReduceMax as ReduceMin" not in made.stand_ins:
        np.testing.assert_allclose(ran(made.priced, image), ran(proto, image), atol=1e-4)


BEHIND_MEAN: list[tuple[onnx.NodeProto, Given]] = [
    (helper.make_node("Gelu", ["mean"], ["out"]), []),
    (helper.make_node("Gelu", ["mean"], ["out"], approximate="tanh"), []),
    (helper.make_node("Mish", ["mean"], ["out"]), []),
    (helper.make_node("Split", ["mean"], ["out", "more", "rest"], axis=1, num_outputs=3), []),
    (helper.make_node("Pad", ["mean", "pads", "", "on"], ["out"]), [constant("pads", [2, 1]), constant("on", [2])]),
    (helper.make_node("Clip", ["mean", "", "most"], ["out"]), [constant("most", 0.1, np.float32)]),
    (helper.make_node("Unsqueeze", ["mean", "on"], ["out"]), [constant("on", [0])]),
    (helper.make_node("Slice", ["mean", "on", "to", "on"], ["out"]), [constant("on", [1]), constant("to", [5])]),
    (
        helper.make_node("Resize", ["mean", "", "", "sizes"], ["out"], axes=[2, 3], antialias=1, mode="linear"),
        [constant("sizes", [64, 3])],
    ),
    (
        helper.make_node(
            "Resize", ["mean", "", "", "sizes"], ["out"], keep_aspect_ratio_policy="not_larger", axes=[2, 3]
        ),
        [constant("sizes", [64, 8])],
    ),
]


@pytest.mark.parametrize(("node", "given"), BEHIND_MEAN, ids=lambda value: getattr(value, "op_type", ""))
def test_a_network_with_newer_operators_is_said_in_opset_17(node: onnx.NodeProto, given: Given, path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["features", "axes"], ["mean"])
    path.write_bytes(model(CONV, mean, node, weights=[weight(), *AXES, *given], opset=20).SerializeToString())
    proto = read_onnx(path, size=None)
    made = rewritten(proto)
    onnx.checker.check_model(made.exact)
    assert [entry.version for entry in made.exact.opset_import if not entry.domain] == [17]
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    np.testing.assert_allclose(ran(made.exact, image), ran(proto, image), atol=1e-4)


def test_what_opset_17_cannot_say_is_refused_with_what_to_try(path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["features", "axes"], ["mean"])
    pad = helper.make_node("Pad", ["mean", "pads"], ["out"], mode="wrap")
    given = [*AXES, constant("pads", [0, 0, 1, 0, 0, 0, 1, 0])]
    path.write_bytes(model(CONV, mean, pad, weights=[weight(), *given], opset=19).SerializeToString())
    with pytest.raises(UserError, match=r"dynamo=False, opset_version=17"):
        rewritten(read_onnx(path, size=None))


@pytest.mark.parametrize(
    ("nodes", "given", "opset"),
    [
        ((operator("Pad", "pads", "", "on"), MEAN), [constant("pads", [1, 2]), constant("on", [1, 2])], 20),
        ((operator("Split", axis=9, num_outputs=2), MEAN), [], 20),
        ((operator("AveragePool", auto_pad="SAME_LOWER", kernel_shape=[3, 3], strides=[0, 0]),), [], 17),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_in_a_sentence(
    nodes: tuple[onnx.NodeProto, ...], given: Given, opset: int
) -> None:
    with pytest.raises(UserError, match="contradict each other"):
        rewritten(model(CONV, *nodes, weights=[weight(), *AXES, *given], opset=opset))


def test_a_file_that_is_read_as_it_stands_is_left_alone() -> None:
    proto = model(CONV, operator("ReduceMean", axes=[-1]))
    assert rewritten(proto).priced is proto


STAND_INS: list[tuple[onnx.NodeProto, Given, str]] = [
    (operator("ReduceMax", axes=[1]), [], "ReduceMax as ReduceMin"),
    (operator("AveragePool", auto_pad="SAME_UPPER", **POOL), [], "AveragePool that leaves"),
    (operator("DepthToSpace", blocksize=2), [], "DepthToSpace (DCR) as (CRD)"),
    (operator("SpaceToDepth", blocksize=2), [], "SpaceToDepth as one in another order"),
    (operator("ConvTranspose", "wide", auto_pad="SAME_UPPER", strides=[2, 2]), [WIDE], "ConvTranspose with its longer"),
    (
        operator("Resize", "", "scales", mode="linear", coordinate_transformation_mode="asymmetric"),
        TWICE,
        "Resize (linear, asymmetric) as (linear, half_pixel)",
    ),
    (operator("Resize", "", "scales", mode="cubic", cubic_coeff_a=-0.5), TWICE, "Resize (cubic, half_pixel, a -0.5)"),
]
"""Operators that ncnn does not have, what they need, and the name of what takes as long."""


def priced() -> Iterator[ParameterSet]:
    """The operators of both lists; `make test` has each kind once."""
    seen = set[str]()
    for node, given, opset in (*EXACT, *((node, given, 17) for node, given, _ in STAND_INS)):
        yield pytest.param(node, given, opset, marks=[pytest.mark.thorough] if node.op_type in seen else [])
        seen.add(node.op_type)


@pytest.mark.parametrize(("node", "given", "named"), STAND_INS, ids=lambda value: getattr(value, "op_type", ""))
def test_a_stand_in_gives_a_map_of_the_same_size_and_is_named(
    node: onnx.NodeProto, given: Given, named: str, path: Path
) -> None:
    path.write_bytes(of_operator(node, given, 17).SerializeToString())
    proto = read_onnx(path, size=None)
    made = rewritten(proto)
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    assert ran(made.priced, image).shape == ran(proto, image).shape
    assert any(named in one for one in made.stand_ins)


def test_an_operator_whose_work_would_differ_has_no_stand_in() -> None:
    smaller = [constant("scales", [1, 1, 0.5, 0.5], np.float32)]
    resize = operator("Resize", "", "scales", mode="linear", antialias=1, coordinate_transformation_mode="asymmetric")
    made = rewritten(of_operator(resize, smaller, 18))
    assert made.stand_ins == ()


def in_two_files(path: Path) -> Path:
    """A model, and its weights beside it."""
    onnx.save(
        model(), path, save_as_external_data=True, location="weights.data", size_threshold=0, convert_attribute=True
    )
    return path.with_name("weights.data")


def test_weights_in_a_second_file_beside_it_are_read(path: Path) -> None:
    in_two_files(path)
    (found,) = [tensor for tensor in read_onnx(path, size=None).graph.initializer if tensor.name == "weight"]
    np.testing.assert_array_equal(numpy_helper.to_array(found), numpy_helper.to_array(weight()))


def test_weights_in_a_second_file_that_is_not_there_are_named_with_the_cure(path: Path) -> None:
    in_two_files(path).unlink()
    with pytest.raises(UserError, match=r"'weights.data' does not lie beside it; put it there, or save it as one file"):
        read_onnx(path, size=None)


def test_a_second_file_that_is_too_short_is_refused(path: Path) -> None:
    data = in_two_files(path)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match="does not hold the weights"):
        read_onnx(path, size=None)


def test_one_second_file_does_not_hold_ten_times_its_size(path: Path) -> None:
    (path.parent / "weights.data").write_bytes(weight().raw_data)
    tensors = [elsewhere(f"weight{index}" if index else "weight") for index in range(10)]
    for tensor in tensors:
        tensor.external_data[0].value = "weights.data"
    assert "does not hold the weights" in refusal(path, model(weights=tensors))


@pytest.mark.parametrize("how", ["up", "link"])
def test_a_second_file_that_leads_out_of_the_folder_is_not_read(how: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(864))
    (tmp_path / "inner" / "weights.data").symlink_to(tmp_path / "secret")
    tensor = elsewhere()
    tensor.external_data[0].value = "../secret" if how == "up" else "weights.data"
    assert "other files outside its folder" in refusal(tmp_path / "inner" / "model.onnx", model(weights=[tensor]))


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


class Axial(nn.Module):
    """Attention along rows and columns, whose queries are means over an axis, GELU, and a gate by a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.qkv = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.gelu(self.stem(image))
        rows, columns = (self.mixed(x.mean(axis).transpose(1, 2)).transpose(1, 2) for axis in (3, 2))
        x = x + rows.unsqueeze(3) + columns.unsqueeze(2)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        return F.interpolate(self.out(x), size=(32, 48), mode="bilinear")

    def mixed(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(tokens)).chunk(3, 2)
        return torch.softmax(query @ key.transpose(1, 2) * 0.25, 2) @ value


class Shuffling(nn.Module):
    """Layers that move data and compute nothing, on a small map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for _ in range(3):
            x = F.pad(x.permute(0, 2, 3, 1).permute(0, 2, 1, 3).permute(0, 3, 2, 1), (1, 1, 1, 1), mode="reflect")
            x = torch.cat((x[:, 8:], x[:, :8]), 1)
        return F.interpolate(self.out(x), scale_factor=2)


def exported(module: nn.Module, path: Path, *, opset: int | None = None, dynamo: bool = True) -> Path:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, 3, 32, 48),),
        path,
        dynamo=dynamo,
        external_data=False,
        verbose=False,
        opset_version=opset,
    )
    return path


def estimate(path: Path) -> NetworkEstimate:
    rivals = DEVICE_MODELS["snapdragon865"].rivals()
    return estimate_onnx(
        path, core=SNAPDRAGON_865, scale=2.0, interval_pct=10, rivals=rivals, size=None, progress=silent
    )


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
        said = (*found.rivals_ms.values(), 0.9 * found.total_ms, 1.1 * found.total_ms)
        assert found.low_ms == pytest.approx(min(said))
        assert found.high_ms == pytest.approx(max(said) + found.flagged_ms * FLAGGED_PCT / 100)

    @pytest.mark.parametrize("opset", [*(pytest.param(opset, marks=pytest.mark.thorough) for opset in (18, 20)), 23])
    @pytest.mark.filterwarnings("ignore")  # torch's exporters
    def test_both_exporters_give_one_network_one_time(self, opset: int, path: Path) -> None:
        torch.manual_seed(0)
        new = estimate(exported(Axial(), path, opset=opset))
        old = estimate(exported(Axial(), path, opset=17, dynamo=False))
        assert new.difference <= 1e-4
        assert new.total_ms == pytest.approx(old.total_ms, rel=0.02)
        assert new.high_ms == pytest.approx(old.high_ms, rel=0.1)

    @pytest.mark.filterwarnings("ignore")  # torch's exporter
    def test_weights_in_a_second_file_change_no_time(self, path: Path) -> None:
        one = estimate(exported(Axial(), path, opset=20))
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=0)
        assert estimate(path).by_operator == one.by_operator

    @pytest.mark.parametrize(
        ("node", "given", "opset"), list(priced()), ids=lambda value: getattr(value, "op_type", "")
    )
    def test_what_pnnx_misreads_is_priced(self, node: onnx.NodeProto, given: Given, opset: int, path: Path) -> None:
        path.write_bytes(of_operator(node, given, opset).SerializeToString())
        assert estimate(path).difference <= 1e-3

    def test_a_network_that_onnxruntime_cannot_run_is_refused(self, path: Path) -> None:
        conv = operator("Conv", "wide", auto_pad="SAME_LOWER", dilations=[2, 2])
        path.write_bytes(of_operator(conv, [WIDE], 17).SerializeToString())
        with pytest.raises(UserError, match=r"onnxruntime cannot run the network: .*Dilation not supported"):
            estimate(path)

    def test_pixels_take_as_long_as_planes(self, path: Path) -> None:
        path.write_bytes(of_pixels((1, 32, 48, 3)).SerializeToString())
        found = estimate(path)
        assert found.input == (3, 32, 48)
        assert "channels last (NHWC)" in found.notes[0]

    @pytest.mark.filterwarnings("ignore")  # torch's exporter
    def test_an_interval_has_what_every_core_model_says_of_the_network(self, path: Path) -> None:
        found = estimate(exported(Shuffling(), path))
        assert max(found.rivals_ms.values()) > 1.1 * found.total_ms  # or nothing is shown
        assert all(found.low_ms <= ms <= found.high_ms for ms in found.rivals_ms.values())

    def test_our_own_export_takes_as_long_as_our_own_network(self, path: Path) -> None:
        task = Task(image_size=(64, 64))
        path.write_bytes(onnx_graph(Network(model=settle_random_weights(TopFormer(TINY, num_classes=150)), task=task)))
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

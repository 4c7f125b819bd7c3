"""Integers of 8 bits: what is folded first, what no processor overflows, which images are needed, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from experiments.export.calibration import calibrated
from experiments.export.folding import fold_gates
from experiments.export.formats import Network, Options
from experiments.export.formats.named import format_named
from experiments.export.formats.onnx import onnx_graph
from experiments.export.images import drawn_images
from experiments.export.integers import Judged, _left_out, _quantise, _Search, integer_macs
from experiments.export.ranges import weight_limits
from tests.experiments.export.conftest import network, options_for
from tests.support.trees import FOLDER_CLASSES, folder_tree
from topformer import UserError
from topformer.blocks import decompose

INT8 = format_named("onnx-int8")


@pytest.fixture(scope="session")
def graph() -> bytes:
    return onnx_graph(network())


@pytest.fixture(scope="session")
def search(graph: bytes) -> _Search:
    asked = network()
    return _Search(graph, options_for(INT8, asked).calibration, judged(asked), macs=macs(asked), report=lambda *_: None)


def judged(asked: Network) -> Judged:
    images = options_for(INT8, asked).validation
    assert images is not None
    assert images.labels is not None
    return Judged(source="drawn", inputs=images.inputs(asked), labels=tuple(images.labels), num_classes=7)


def network_of_folder() -> Network:
    return replace(network(), task=replace(network().task, num_classes=len(FOLDER_CLASSES)))


def macs(asked: Network) -> int:
    return sum(block.macs for block in decompose(asked.arch, asked.task))


def outputs(graph: bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph)
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    return np.asarray(found)


@pytest.mark.slow
def test_hard_sigmoids_go_into_the_convolution_before_them(graph: bytes) -> None:
    image = drawn_images(network().task, 1).inputs(network())[0]
    folded = onnx.load_model_from_string(graph)
    assert fold_gates(folded) == len(network().arch.injected_strides)
    assert "Div" not in {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(outputs(folded.SerializeToString(), image), outputs(graph, image), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 12, 1, 1), (6, 5, 3, 3)])
def test_no_two_neighbouring_products_overflow_16_bits(shape: tuple[int, ...]) -> None:
    """x86 without VNNI adds them so: with the usual limit 3.6 % of the labels changed on photographs, else 0.8 %."""
    weights = np.random.default_rng(0).standard_t(2, shape).astype(np.float32)
    steps = np.round(weights / (weight_limits(weights) / 127).reshape(-1, 1, 1, 1))
    rows = steps.transpose(0, 2, 3, 1).reshape(len(steps), -1)
    pairs = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    for sign in (1, -1):
        assert (255 * np.maximum(sign * pairs, 0).sum(axis=2)).max() <= 2**15


def test_a_depthwise_kernel_uses_all_steps() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(weight_limits(weights), np.abs(weights).max(axis=(1, 2, 3)), rtol=1e-6)


@pytest.mark.slow
def test_leaving_a_layer_out_is_quantising_anew_without_it(search: _Search) -> None:
    image = search.judging.inputs[0]
    layer = "semantic_injection.8.local"
    whole = onnx.load_model_from_string(search.made(()))
    anew = _quantise(search.model, search.ranges, search.limits, kept=(*search.first, layer))
    np.testing.assert_array_equal(outputs(_left_out(whole, search.model, layer), image), outputs(anew, image))


@pytest.mark.slow
def test_the_share_in_integers_is_what_the_runtime_ran(search: _Search) -> None:
    ran = integer_macs(search.made(()), search.judging.inputs[0])
    assert 100 * ran / search.macs == pytest.approx(search.share_pct(()))
    assert {layer.rpartition(".")[0] for layer in search.first} == {"token_pyramid.stem", "token_pyramid.stride2.0"}


@pytest.mark.slow
def test_costly_layers_stay_in_float32_until_too_little_is_left_in_integers(search: _Search) -> None:
    search.look_at_each_layer()
    made, kept, miou_pct, _ = search.within(100)
    assert (kept, 0 < miou_pct <= 100, integer_macs(made, search.judging.inputs[0]) > 0) == ((), True, True)
    with pytest.raises(UserError, match=rf"even with {search.costs[0].layer}, .* in float32, and no other") as error:
        search.within(-100)  # which no network reaches
    assert "% of the multiply-adds are in integers, at least 80 % should be" in str(error.value)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (None, "onnx-int8 need labelled images to choose integers by; name a data set with --calibration"),
        ("scenes", "scenes has 59 classes, the network 7"),
        ("FEW", "images in its split train; integers are chosen by at least 8 of train"),
        ("nowhere", "no folder 'nowhere'"),
    ],
)
def test_images_that_integers_cannot_be_chosen_by_are_refused(data: str | None, fragment: str, tmp_path: Path) -> None:
    asked = network()
    if data == "FEW":
        data, asked = str(folder_tree(tmp_path, train=7, val=8)), network_of_folder()
    with pytest.raises(UserError, match=fragment):
        calibrated(Options(), [INT8], data, asked)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder_tree(tmp_path, train=8, val=8)
    broken = sorted((tmp_path / "images" / "train").iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{broken.name}.* cannot be read"):
        calibrated(Options(), [INT8], str(tmp_path), network_of_folder())


def test_other_formats_need_no_images() -> None:
    assert calibrated(Options(), [format_named("onnx")], None, network()) == Options()


@pytest.mark.parametrize("drop", [-1.0, 101.0, float("nan")])
def test_a_loss_that_is_none_is_refused(drop: float) -> None:
    with pytest.raises(UserError, match="--max-drop is in points of mIoU, from 0 to 100"):
        calibrated(Options(max_drop_pct=drop), [INT8], "scenes:7", network())

"""Export: one file, the opset asked for, equal to torch, and a card that can be checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from experiments.export.bundle import Export, export
from experiments.export.card import Provenance
from experiments.export.formats import Network, Options
from experiments.export.formats.named import formats_asked
from experiments.export.formats.onnx import ONNX, OPSET, checked_opset
from experiments.export.images import drawn_images
from experiments.export.weights import settle_random_weights
from experiments.front.lookup import chosen
from tests.support.toys import toy_table
from topformer import ANCHORS, TINY, Task, UserError
from topformer.blocks import decompose
from topformer.model import TopFormer
from topformer.version import tool_version

NARROW = TINY.replace(injection_channels=32, num_blocks=1)


def network(num_classes: int = 7) -> TopFormer:
    torch.manual_seed(0)
    return settle_random_weights(TopFormer(NARROW, num_classes=num_classes))


def exported(task: Task, out: Path) -> Export:
    model = TopFormer(NARROW, num_classes=task.num_classes, output=task.output)
    model.load_state_dict(network(task.num_classes).state_dict())
    return exporting(model.eval(), task, out, name="mine", provenance=Provenance(weights="random"))


def exporting(model: TopFormer, task: Task, out: Path, *, name: str, provenance: Provenance) -> Export:
    return export(
        Network(model=model, task=task),
        formats_asked("onnx"),
        out,
        name=name,
        options=Options(),
        images=drawn_images(task, 2),
        provenance=provenance,
    )


def graph_of(result: Export) -> Path:
    return result.made[0].files[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (70, 99)])
def test_the_file_is_whole_static_and_equal_to_torch(size: tuple[int, int], tmp_path: Path) -> None:
    task = Task(image_size=size, num_classes=7)
    result = exported(task, tmp_path)
    assert (result.made[0].report["opset"], result.made[0].parity.max_abs_error < 1e-4) == (OPSET, True)
    names = {
        "SHA256SUMS",
        "card.json",
        "card.md",
        "labels.txt",
        "mine.onnx",
        "preview.png",
        "reference.npz",
        "verify.py",
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    session = onnxruntime.InferenceSession(graph_of(result))
    assert session.get_inputs()[0].shape == [1, 3, *size]
    image = np.random.default_rng(9).normal(size=(1, 3, *size)).astype(np.float32)
    (logits,) = session.run(None, {"image": image})
    with torch.inference_mode():
        assert np.abs(logits - network()(torch.from_numpy(image)).numpy()).max() < 1e-4
    assert logits.shape[1:] == decompose(NARROW, task)[-1].output


@pytest.mark.slow
def test_labels_can_be_exported(tmp_path: Path) -> None:
    result = exported(Task(image_size=(64, 64), num_classes=7, output="labels"), tmp_path)
    (labels,) = onnxruntime.InferenceSession(graph_of(result)).run(None, {"image": np.ones((1, 3, 64, 64), np.float32)})
    assert (labels.shape, labels.dtype, result.made[0].parity.max_abs_error) == ((1, 1, 64, 64), np.int64, 0.0)


@pytest.mark.slow
def test_the_card_carries_architecture_task_checksum_and_latency(tmp_path: Path) -> None:
    task = Task(image_size=(64, 64), num_classes=59)
    table = toy_table()
    estimate = table.estimate(decompose(TINY, task))
    provenance = Provenance(weights="random", latency=estimate, table=table.name, table_checksum=table.checksum)
    torch.manual_seed(0)
    model = settle_random_weights(TopFormer(TINY, num_classes=59))
    result = exporting(model, task, tmp_path, name="tiny", provenance=provenance)
    card = json.loads(result.card_path.read_text())
    assert card["onnx_sha256"] == hashlib.sha256(graph_of(result).read_bytes()).hexdigest()
    assert (card["arch_key"], card["anchor"]) == (TINY.key, "tiny")
    assert Task.from_dict(card["task"]) == task
    assert card["latency"]["total_ms"] == estimate.total_ms
    assert (card["latency"]["kind"], card["latency"]["table_checksum"]) == ("estimated", table.checksum)
    assert card["parity"]["max_abs_error"] == result.made[0].parity.max_abs_error
    assert card["made_by"]["topformer-nas"] == tool_version()
    assert chosen(str(result.card_path), storage="sqlite://").task == task
    assert card["format"] == 1
    result.card_path.write_text(json.dumps(card | {"format": 2}))
    with pytest.raises(UserError, match="is a card of format 2, this tool reads 1"):
        chosen(str(result.card_path), storage="sqlite://")


def test_a_damaged_network_is_not_exported(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("head.classifier.conv.bias")[0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        exporting(
            model, Task(image_size=(64, 64), num_classes=7), tmp_path, name="bad", provenance=Provenance(weights="?")
        )
    assert list(tmp_path.iterdir()) == []


def test_an_opset_changed_behind_our_back_is_refused() -> None:
    """The exporter is known to write opset 18 when it cannot convert, and to report success."""
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    with pytest.raises(UserError, match="opset 18 instead of 20"):
        checked_opset(model.SerializeToString())


def test_operators_that_phones_lack_are_named(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Shape", ["x"], ["y"], name="size")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1])
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)]), tmp_path / "x")
    assert ONNX.unsupported([tmp_path / "x"]) == ("size (Shape)",)


@pytest.mark.parametrize("name", ANCHORS)
def test_random_weights_are_well_conditioned(name: str) -> None:
    """As initialised for training, float32 and float64 differed by 0.5, so that no parity could be shown."""
    torch.manual_seed(0)
    model = settle_random_weights(TopFormer(ANCHORS[name], num_classes=19))
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(image)
        exact = model.double()(image.double())
    assert 1e-2 < float(logits.abs().max()) < 100
    assert float((logits.double() - exact).abs().max()) < 1e-4


def test_an_export_into_a_folder_with_files_is_refused_and_leaves_them(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    task = Task(image_size=(64, 64), num_classes=7)
    with pytest.raises(UserError, match=r"is not empty \(mine.txt\)"):
        exporting(network(), task, tmp_path, name="bad", provenance=Provenance(weights="random"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

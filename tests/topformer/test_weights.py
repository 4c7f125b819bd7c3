"""Files of weights: what fits is loaded exactly, what does not is refused by name, and nothing pickled is executed."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import topformer
from tests.support.topformer_oracle import released_classification_checkpoint, released_segmentation_checkpoint
from topformer import TINY, CheckpointError, UserError
from topformer.errors import LeftOut
from topformer.weights import _number_dtype, class_count, saved_classes, saved_protocol


@pytest.fixture
def released(tmp_path: Path) -> Path:
    released_segmentation_checkpoint("tiny", tmp_path / "released.pth", seed=1)
    return tmp_path / "released.pth"


def rewritten(path: Path, change: Any) -> Path:
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


def test_our_own_file_round_trips(tmp_path: Path) -> None:
    model = topformer.load_model(TINY, num_classes=7)
    topformer.save_model(model, tmp_path / "mine.safetensors")
    again = topformer.load_model("tiny", num_classes=7, weights=tmp_path / "mine.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert topformer.saved_model(tmp_path / "mine.safetensors").num_classes == 7


def test_our_own_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    topformer.save_model(topformer.load_model("tiny"), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="was saved from architecture"):
        topformer.load_model("small", weights=tmp_path / "tiny.safetensors")


def test_a_missing_tensor_is_named(released: Path) -> None:
    rewritten(released, lambda c: c["state_dict"].pop("decode_head.conv_seg.bias"))
    with pytest.raises(CheckpointError, match=r"missing tensor 'head\.classifier\.conv\.bias'"):
        topformer.load_model("tiny", weights=released)


WRAPPERS = ["module.", "model.", "_orig_mod.", "model._orig_mod.", "student.", "ema_model.module.", "net."]


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_what_wrappers_put_before_names_is_taken_off(prefix: str, released: Path) -> None:
    def wrapped(content: Any) -> None:
        content["state_dict"] = {f"{prefix}{name}": tensor for name, tensor in content["state_dict"].items()}

    expected = topformer.load_model("tiny", weights=released).state_dict()
    again = topformer.load_model("tiny", weights=rewritten(released, wrapped)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


PLACES = [("model_ema",), ("model",), ("net", "state_dict"), ("model_state_dict",), ("model", "state_dict_ema")]


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_where_trainings_keep_them(place: tuple[str, ...], released: Path) -> None:
    def moved(content: Any) -> None:
        inside = content.pop("state_dict")
        for key in reversed(place):
            inside = {key: inside, "epoch": 3}
        content.update(inside)

    expected = topformer.load_model("tiny", weights=released).state_dict()
    again = topformer.load_model("tiny", weights=rewritten(released, moved)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_two_networks_in_one_checkpoint_are_refused(released: Path) -> None:
    def doubled(content: Any) -> None:
        state = content["state_dict"]
        content["state_dict"] = {f"{who}.{name}": value for name, value in state.items() for who in ("student", "ema")}

    with pytest.raises(CheckpointError, match="holds several networks"):
        topformer.load_model("tiny", weights=rewritten(released, doubled))


class Settings(dict[str, Any]):
    """A mapping of another program's."""


class Slotted:
    """An object whose state is no dictionary."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path


class History(list[int]):
    """A list of another program's."""


@pytest.mark.parametrize(
    "beside",
    [
        {"callbacks": {"best": Path("/runs/1")}},
        {"config": Settings(lr=1)},
        {"monitor": Slotted(Path("a")), "rng": random.Random(0)},
        {"seen": History([1, 2])},
    ],
)
def test_tensors_beside_what_is_another_programs_are_read_and_it_is_named(beside: Any, released: Path) -> None:
    expected = topformer.load_model("tiny", weights=released).state_dict()
    rewritten(released, lambda content: content.update(beside))
    with pytest.warns(LeftOut, match="nothing of what is no tensor: .*(PosixPath|Settings|Slotted|History)"):
        again = topformer.load_model("tiny", weights=released).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_code_beside_tensors_is_not_executed(released: Path, tmp_path: Path) -> None:
    rewritten(released, lambda content: content.update(meta=Bomb(str(tmp_path / "executed"))))
    with pytest.warns(LeftOut, match=r"io\.open"):
        topformer.load_model("tiny", weights=released)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "protocol", ['{"short_side_px": 1e999}', "[" * 100_000, '{"a": "\\ud800"}', "[1]", '{"a": []}']
)
def test_a_protocol_that_was_edited_is_refused(protocol: str, tmp_path: Path) -> None:
    metadata = {"format": "topformer-nas 1", "kind": "segmentation", "architecture": "{}", "num_classes": "2"}
    (tmp_path / "m").write_bytes(save({"a": torch.zeros(1)}, metadata | {"protocol": protocol}))
    with pytest.raises(CheckpointError, match="its protocol cannot be read"):
        saved_protocol(tmp_path / "m")


def test_a_classifier_without_classes_is_refused(released: Path) -> None:
    rewritten(released, lambda c: c["state_dict"].update({"decode_head.conv_seg.weight": torch.tensor(1.0)}))
    with pytest.raises(CheckpointError, match=r"no decode_head\.conv_seg\.weight with classes"):
        class_count(released)


def test_an_extra_tensor_is_named(released: Path) -> None:
    rewritten(released, lambda c: c["state_dict"].update({"auxiliary_head.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unexpected tensor 'auxiliary_head\.weight'"):
        topformer.load_model("tiny", weights=released)


def test_a_misshaped_tensor_is_named_with_both_shapes(released: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'head\.classifier\.conv\.weight' has shape \(150, .*needs \(19, "):
        topformer.load_model("tiny", num_classes=19, weights=released)


@pytest.mark.parametrize("name", ["small", "base"])
def test_a_checkpoint_of_another_architecture_is_refused(name: str, released: Path) -> None:
    with pytest.raises(CheckpointError, match="another architecture"):
        topformer.load_model(name, weights=released)


def test_dense_tiny_does_not_take_depthwise_weights(released: Path) -> None:
    with pytest.raises(CheckpointError, match=r"head\.fuse\.conv\.weight"):
        topformer.load_model(TINY.replace(depthwise_head=False), weights=released)


def test_a_refused_checkpoint_changes_nothing(released: Path) -> None:
    model = topformer.load_model("small")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        topformer.load_backbone(model, released)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_classification_backbone_is_transferred_and_the_rest_is_listed(tmp_path: Path) -> None:
    oracle = released_classification_checkpoint("tiny", tmp_path / "cls.pth", seed=2)
    model = topformer.load_model("tiny")
    fresh = topformer.load_backbone(model, tmp_path / "cls.pth")
    assert {name.split(".")[0] for name in fresh} == {"semantic_injection", "head"}
    assert set(fresh) == {n for n in model.state_dict() if n.startswith(("semantic_injection.", "head."))}
    stem = oracle.state_dict()["tpm.stem.0.c.weight"]
    assert torch.equal(model.state_dict()["token_pyramid.stem.conv.conv.weight"], stem)


def test_a_segmentation_checkpoint_is_no_classifier(released: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a segmentation network"):
        topformer.load_classifier("tiny", weights=released)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    trap, proof = tmp_path / "trap.pth", tmp_path / "executed"
    torch.save({"state_dict": {}, "meta": Bomb(str(proof))}, trap)
    with pytest.raises(CheckpointError, match="code, not data"):
        topformer.load_model("tiny", weights=trap)
    trap.write_bytes(pickle.dumps(Bomb(str(proof))))
    with pytest.raises(CheckpointError):
        topformer.load_model("tiny", weights=trap)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{broken}"])
def test_files_of_something_else_are_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        topformer.load_model("tiny", weights=tmp_path / "weights")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"epoch": 3}, [1, 2], {"model": {"a": 1}}, {"state_dict": 3}])
def test_a_checkpoint_without_weights_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="holds no weights"):
        topformer.load_model("tiny", weights=tmp_path / "weights")


def test_arrays_of_objects_are_refused() -> None:
    """Their bytes would be taken for pointers; with the dtype's flags cleared, that once crashed the process."""
    for code in ("O", "V8", "U4"):
        with pytest.raises(pickle.UnpicklingError):
            _number_dtype(code)
    assert _number_dtype("f8", False, True) == np.float64


class Crafted:
    """Pickles as the call it is given."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_crafted_object_array_does_not_reach_memory(tmp_path: Path) -> None:
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtype = Crafted(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0))
    array = Crafted(reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), dtype, False, b"\x41" * 8))
    (tmp_path / "n.pth").write_bytes(pickle.dumps(array, 2))
    with pytest.raises(CheckpointError):
        topformer.load_model("tiny", weights=tmp_path / "n.pth")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda t: t.to(torch.complex64), "not a plain array"),
        (lambda t: t > 0, "is of torch.bool"),
        (lambda t: t.to(torch.int64), "is of torch.int64"),
        (lambda t: torch.full_like(t, torch.nan), "not finite"),
        (lambda t: t.to_sparse(), "not a plain array"),
    ],
)
def test_weights_of_another_kind_are_refused(change: Any, fragment: str, released: Path) -> None:
    name = "decode_head.conv_seg.weight"
    rewritten(released, lambda c: c["state_dict"].update({name: change(c["state_dict"][name])}))
    with pytest.raises(CheckpointError, match=fragment):
        topformer.load_model("tiny", weights=released)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(CheckpointError, match="compressed archive"):
        topformer.load_model("tiny", weights=tmp_path / "bomb.pth")


def test_harmless_metadata_is_accepted(released: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["meta"].update(lr=np.float32(0.1), top1=np.int64(3), when=np.bool_(True), losses=np.zeros(3))

    rewritten(released, add)
    topformer.load_model("tiny", weights=released)


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no weights file"):
        topformer.load_model("tiny", weights="/nowhere/tiny.pth")


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "mine.safetensors"
    topformer.save_model(topformer.load_model("tiny", num_classes=3), target)
    before = target.read_bytes()

    def refuse(self: Path, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        topformer.save_model(topformer.load_model("tiny", num_classes=3), target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "classes",
    ['[["a", [1, 2, 3]]]', '[["a", [1, 2, 300]], ["b", [1, 2, 3]]]', "3", "[" * 99999, '[["a", [Infinity, 2, 3]]]'],
)
def test_class_names_that_were_edited_are_refused(classes: str, tmp_path: Path) -> None:
    """One name for two classes ended in an IndexError, a colour of 300 in an OverflowError."""
    path = tmp_path / "mine.safetensors"
    topformer.save_model(topformer.load_model(TINY, num_classes=2), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        metadata = {**file.metadata(), "classes": classes}
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(CheckpointError, match="was it edited"):
        saved_classes(path)


def test_equal_weights_have_equal_bytes(tmp_path: Path) -> None:
    """The metadata came in an order of chance."""
    model = topformer.load_model(TINY, num_classes=2)
    classes = (("a", (1, 2, 3)), ("ü", (4, 5, 6)))
    for number in range(8):
        topformer.save_model(model, tmp_path / f"{number}.safetensors", classes=classes)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert saved_classes(tmp_path / "0.safetensors") == classes

"""A bundle is checked anywhere: nothing in it can be changed unseen, and false contents contradict one another."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.export import verify
from experiments.export.checking import verified
from topformer import UserError

pytestmark = pytest.mark.slow  # all read one bundle, which takes seconds to make

NAMES = ("card.json", "card.md", "labels.txt", "preview.png", "reference.npz", "verify.py", "SHA256SUMS", "narrow.onnx")


@pytest.fixture
def mine(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "mine"))


def summed_again(folder: Path) -> None:
    """As a forger would."""
    names = sorted(path.name for path in folder.iterdir() if path.name != verify.SUMS)
    sums = "".join(f"{verify.sha256(folder / name)}  {name}\n" for name in names)
    (folder / verify.SUMS).write_text(sums, encoding="utf-8")


def with_card(folder: Path, change: Callable[[Any], None], *, page_too: bool = True) -> None:
    card = json.loads((folder / verify.CARD).read_text(encoding="utf-8"))
    change(card)
    (folder / verify.CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    if page_too:
        (folder / verify.PAGE).write_text(verify.page(card), encoding="utf-8")


def test_a_bundle_is_whole(bundle: Path) -> None:
    problems, notes = verified(bundle)
    assert problems == ()
    assert "onnx was run on 3 images" in notes


@pytest.mark.parametrize("name", NAMES)
def test_an_altered_byte_is_found(name: str, mine: Path) -> None:
    content = bytearray((mine / name).read_bytes())
    content[len(content) // 2] ^= 1
    (mine / name).write_bytes(content)
    assert verify.check(mine)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_found(name: str, mine: Path) -> None:
    (mine / name).unlink()
    assert any(f"{name} is missing" in problem for problem in verify.check(mine)[0])


def test_an_added_and_a_swapped_file_are_found(mine: Path) -> None:
    (mine / "more.txt").write_text("more")
    shutil.copy(mine / "labels.txt", mine / "card.md")
    assert verify.check(mine)[0] == ["more.txt is not of the bundle", "card.md has changed"]


def _other_labels(folder: Path) -> None:
    (folder / verify.LABELS).write_text("".join(f"other {index}\n" for index in range(7)))


def _other_logits(folder: Path) -> None:
    with np.load(folder / verify.REFERENCE) as kept:
        images, logits = kept["images"], kept["logits"]
    np.savez_compressed(folder / verify.REFERENCE, images=images, logits=logits * 1.01)


def _other_images(folder: Path) -> None:
    with np.load(folder / verify.REFERENCE) as kept:
        images, logits = kept["images"], kept["logits"]
    np.savez_compressed(folder / verify.REFERENCE, images=images[:, ::-1], logits=logits)


def _other_weights(folder: Path) -> None:
    """Of one convolution, and the digests that the card has of the file."""
    import onnx  # noqa: PLC0415

    model = onnx.load_model(folder / "narrow.onnx")
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    tensor = next(one for one in model.graph.initializer if one.name == last.input[1])
    changed = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save_model(model, folder / "narrow.onnx")
    path = folder / "narrow.onnx"
    said = {"bytes": path.stat().st_size, "sha256": verify.sha256(path)}
    with_card(folder, lambda card: card["formats"]["onnx"]["files"].update({"narrow.onnx": said}))


def _set(*keys: str, to: object) -> Callable[[Path], None]:
    def change(card: Any) -> None:
        for key in keys[:-1]:
            card = card[key]
        card[keys[-1]] = to

    return lambda folder: with_card(folder, change)


FORGERIES: dict[str, Callable[[Path], None]] = {
    "other class names": _other_labels,
    "other logits": _other_logits,
    "other images": _other_images,
    "other weights": _other_weights,
    "another mean": _set("input", "mean", to=[0.0, 0.0, 0.0]),
    "another normalisation": _set("input", "normalised", to="inside"),
    "fewer parameters": _set("parameters", to=1000),
    "fewer multiply-adds": _set("macs", to=1),
    "another architecture": _set("architecture", "num_heads", to=2),
    "another key": _set("arch_key", to="0" * 16),
    "a better parity": _set("formats", "onnx", "parity", "max_abs_error", to=0.0),
    "smaller logits": _set("formats", "onnx", "parity", "greatest_logit", to=1e-3),
    "more classes": _set("task", "num_classes", to=8),
    "another output": _set("output", "shape", to=[1, 7, 9, 9]),
    "another page": lambda folder: with_card(folder, lambda card: card.update(name="better"), page_too=False),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_false_contents_under_right_checksums_contradict_one_another(name: str, mine: Path) -> None:
    FORGERIES[name](mine)
    summed_again(mine)
    assert verify.check(mine)[0]


def test_blocks_of_another_architecture_are_found_by_the_tool(mine: Path) -> None:
    with_card(mine, lambda card: card["blocks"][0].update(name="stem"))
    summed_again(mine)
    assert verify.check(mine)[0] == []
    assert verified(mine)[0] == ("the card's blocks are not those of its architecture",)


def test_the_program_in_the_bundle_needs_no_tool_and_says_what_it_cannot_do(mine: Path) -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse((mine / "verify.py").read_text(encoding="utf-8")))
        for name in ([one.name for one in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "PIL"}
    done = subprocess.run([sys.executable, "verify.py"], cwd=mine, capture_output=True, text=True, check=False)
    assert (done.returncode, verify.sha256(mine / "verify.py") in done.stdout) == (0, True)
    assert "it cannot vouch for itself or for the bundle's author" in done.stdout


def test_the_examples_of_the_card_run_as_they_are_typed(mine: Path) -> None:
    Image.fromarray(np.zeros((50, 80, 3), np.uint8)).save(mine / "image.png")
    examples = re.findall(r"```python\n(.*?)```", (mine / "card.md").read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for text in examples:
        done = subprocess.run([sys.executable, "-c", text], cwd=mine, capture_output=True, text=True, check=False)
        assert "thing " in done.stdout, done.stderr
    (mine / "image.png").unlink()
    assert verify.check(mine)[0] == []


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    assert verified(tmp_path)[0] == ("SHA256SUMS is missing: this is no bundle",)
    with pytest.raises(UserError, match="no folder"):
        verified(tmp_path / "nothing")

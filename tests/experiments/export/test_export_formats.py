"""The contract of every export format: files as it says, torch's numbers in its own runtime, refusals in a sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.export.formats import HEAD_BYTES, Network, Options, Written
from experiments.export.formats.named import (
    FORMATS,
    files_of,
    format_named,
    format_of,
    formats_asked,
    require_installed,
)
from experiments.export.gates import parity
from experiments.export.images import as_input, drawn_images
from experiments.export.program import reference
from tests.experiments.export.conftest import NARROW, network
from topformer import Task, UserError
from topformer.model import TopFormer


@pytest.mark.slow
def test_files_are_called_as_the_format_says(written: tuple[str, Written]) -> None:
    name, made = written
    one = format_named(name)
    assert tuple(path.name for path in made.files) == tuple(f"narrow{suffix}" for suffix in one.suffixes)
    assert files_of(one, made.files[0]) == made.files


@pytest.mark.slow
def test_a_file_is_told_by_its_content(written: tuple[str, Written]) -> None:
    name, made = written
    found = format_of(made.files[0])
    assert found is not None
    assert found.suffixes[0].rpartition(".")[2] == format_named(name).suffixes[0].rpartition(".")[2]


@pytest.mark.slow
def test_its_own_runtime_gives_what_torch_gives(written: tuple[str, Written]) -> None:
    """Of a batch of two, the output and both probed blocks."""
    name, made = written
    one = format_named(name)
    asked = network(probes=("token_pyramid.stage8.1", "transformer.0"), normalise_inside=True)
    images = drawn_images(asked.task, 2)
    for given in images.inputs(asked):
        with torch.inference_mode():
            wanted = [part.numpy() for part in reference(asked)(torch.from_numpy(given))]
        got = one.load(made.files)(given)
        assert [part.shape for part in got] == [part.shape for part in wanted]
        worst = max(np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(got, wanted, strict=True))
        assert worst <= (one.tolerance if one.tolerance is not None else 0.5)


@pytest.mark.slow
def test_its_runtime_knows_every_operator(written: tuple[str, Written]) -> None:
    name, made = written
    one = format_named(name)
    assert sum(one.operators(made.files).values()) > 50
    assert one.unsupported(made.files) == ()


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_needs_is_told_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = format_named(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=rf"format {name} needs .*; install with: pip install ") as error:
        require_installed(one)
    assert one.extra is None or f"[{one.extra}]" in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_takes_noise_for_its_own(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, HEAD_BYTES), dtype=np.uint8)
    assert sum(format_named(name).recognises(line.tobytes()) for line in noise) <= 2


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("ncnn")])
def test_ncnn_cannot_say_labels(name: str) -> None:
    assert "take --output resized" in str(format_named(name).why_not(network("labels"), Options()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"extractor": "attention", "token_stride": 32}, (65, 97)),
        ({"extractor": "ppm", "head": "concat", "depthwise_head": False}, (70, 66)),
        ({"extractor": "aspp", "head": "sum", "token_source": "last"}, (64, 81)),
    ],
)
def test_trained_networks_agree_to_rounding(changes: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    """Batch statistics and weights are of some steps of training; `benchmarks/export_parity.py` has many more."""
    one = format_named("ncnn")
    try:
        require_installed(one)
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model = TopFormer(NARROW.replace(**changes), num_classes=7).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(2, 3, *size)).square().mean().backward()
        optimiser.step()
    asked = Network(model=model.eval(), task=Task(image_size=size, num_classes=7))
    files = one.write(asked, tmp_path, "trained", Options()).files
    assert parity(one, asked, files, drawn_images(asked.task, 1)).relative <= 1e-4


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("onnx,onnx", "is named twice"),
        ("tensorrt", "unknown format 'tensorrt'; available: "),
        ("", "format ''"),
    ],
)
def test_formats_that_are_not_there_are_refused(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        formats_asked(text)


def test_normalisation_inside_takes_the_picture_as_it_is() -> None:
    """Torch's own two networks agree, so that what the formats are compared with is right."""
    inside, before = network(normalise_inside=True), network()
    image = drawn_images(before.task, 1).pixels[0]
    with torch.inference_mode():
        (a,) = reference(inside)(torch.from_numpy(as_input(inside, image)))
        (b,) = reference(before)(torch.from_numpy(as_input(before, image)))
    assert as_input(inside, image).max() > 100 > as_input(before, image).max()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)

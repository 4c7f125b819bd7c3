"""A network that is quick to export, with every kind of block that the exporters stumble over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.export.bundle import export
from experiments.export.card import Provenance
from experiments.export.formats import Format, Network, Options, Written
from experiments.export.formats.named import FORMATS, format_named, formats_asked, require_installed
from experiments.export.images import drawn_images
from experiments.export.program import reference
from experiments.export.weights import settle_random_weights
from topformer import TINY, Task, UserError
from topformer.config import OutputKind
from topformer.model import TopFormer, upsample

NARROW = TINY.replace(injection_channels=32, num_blocks=1)
SIZE = (64, 70)


def network(output: OutputKind = "logits", *, probes: tuple[str, ...] = (), normalise_inside: bool = False) -> Network:
    torch.manual_seed(0)
    model = settle_random_weights(TopFormer(NARROW, num_classes=7, output=output))
    task = Task(image_size=SIZE, num_classes=7, output=output)
    return Network(model=model, task=task, probes=probes, normalise_inside=normalise_inside)


def options_for(one: Format, asked: Network) -> Options:
    """What a format needs besides the network: those in integers are judged by the labels that torch gives."""
    if one.tolerance is not None:
        return Options()
    chosen_by, judging = drawn_images(asked.task, 8), drawn_images(asked.task, 2)
    with torch.inference_mode():
        logits = [reference(asked)(torch.from_numpy(image))[0] for image in judging.inputs(asked)]
    labels = torch.cat([upsample(one, asked.task.image_size).argmax(1) for one in logits]).numpy().astype("uint8")
    return Options(calibration=chosen_by.inputs(asked), validation=replace(judging, labels=labels), max_drop_pct=100)


@pytest.fixture(scope="session", params=FORMATS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Written]:
    """A format's name, and the narrow network in it, written once: normalisation inside, one block probed."""
    one = format_named(request.param)
    try:
        require_installed(one)
    except UserError as error:
        pytest.skip(str(error))
    asked = network(probes=("token_pyramid.stage8.1", "transformer.0"), normalise_inside=True)
    return one.name, one.write(asked, tmp_path_factory.mktemp(one.name), "narrow", options_for(one, asked))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow network in ONNX and, where that is installed, ncnn; its classes have names."""
    try:
        formats = formats_asked("onnx,ncnn")
    except UserError:
        formats = formats_asked("onnx")
    asked = network()
    classes = tuple((f"thing {index}", (index, 40 * index, 255 - index)) for index in range(7))
    out = tmp_path_factory.mktemp("export") / "bundle"
    export(
        asked,
        formats,
        out,
        name="narrow",
        options=Options(),
        images=drawn_images(asked.task, 3),
        provenance=Provenance(weights="random", classes=classes, command="topformer-nas export ..."),
    )
    return out

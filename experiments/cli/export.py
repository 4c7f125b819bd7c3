"""The `topformer-nas export` command."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Accept, Arch, AsJson, Classes, Size, Storage, end_if_json, tell_of_confirmations


def export(
    arch: Arch,
    out: Annotated[Path, typer.Option(help="Folder for the files and their card; empty, or not there yet.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="NAMES", help="onnx, mnn, ncnn, ncnn-fp16; several with commas between.")
    ] = "onnx",
    weights: Annotated[
        Path | None, typer.Option(help="Our safetensors file or a released segmentation checkpoint.")
    ] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Export an untrained network.")] = False,
    retrain: Annotated[bool, typer.Option(help="Train a trial again whose weights were not kept.")] = False,
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="What the graph returns: logits, resized or labels.")] = "logits",
    normalise_inside: Annotated[
        bool, typer.Option("--normalise-inside", help="The graph takes RGB from 0 to 255, and normalises it itself.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="Of the ONNX file.", show_default="20")] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Data set of images to compare on. [default: drawn scenes]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is in the folder.")] = False,
    table: Annotated[str | None, typer.Option(help="Latency table for the card. [default: the study's]")] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(help="For STUDY#TRIAL and STUDY@50ms: of a [[confirm]] of the study. [default: its own]"),
    ] = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Write an architecture as verified files for phones and servers.

    Every file is proven equal to the network, and a JSON card lies beside them.
    """
    from experiments.export.bundle import export as exported
    from experiments.export.bundle import require_free
    from experiments.export.formats import Network, Options
    from experiments.export.formats.named import formats_asked
    from experiments.export.images import compared_images
    from experiments.export.weights import network_of
    from experiments.front.lookup import chosen, task_of
    from experiments.latency.plan import saying_what_measures
    from latency_lut.table import find_table
    from topformer.weights import class_count
    from topformer.writing import require_writable

    asked = formats_asked(formats)
    require_writable(out)  # before minutes of work
    require_free(out, overwrite=overwrite)
    found = chosen(arch, storage=storage, fidelity=fidelity)
    if classes is None and weights is not None and not (random_weights or retrain):
        classes = class_count(weights)
    task = task_of(found, size, classes, output=output)
    named = find_table(table) if table else None
    with saying_what_measures(arch, task):
        model, provenance = network_of(
            found,
            task,
            weights=weights,
            random_weights=random_weights,
            retrain=retrain,
            storage=storage,
            table=named,
            accept=accept or (),
        )
    result = exported(
        Network(model=model, task=task, normalise_inside=normalise_inside),
        asked,
        out,
        name=found.label,
        options=Options(opset=opset),
        images=compared_images(calibration, task),
        provenance=provenance,
        overwrite=overwrite,
    )
    end_if_json(as_json, result)
    for one in result.made:
        print(f"{one.files[0]}: {one.sentence}")
    latency = "no latency (name a table with --table)" if provenance.latency is None else "latency"
    print(f"{result.card_path}: architecture, weights ({provenance.weights}), {latency} and checksums")
    if found.study is not None:
        tell_of_confirmations(found.study, "export", arch, f" --out {out}", storage)

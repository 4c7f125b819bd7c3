"""The `topformer-nas export` command."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Accept, Arch, AsJson, Classes, Size, Storage, print_json, tell_of_confirmations


def export(
    arch: Arch,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file and its card.")],
    weights: Annotated[
        Path | None, typer.Option(help="Our safetensors file or a released segmentation checkpoint.")
    ] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Export an untrained network.")] = False,
    retrain: Annotated[bool, typer.Option(help="Train a trial again whose weights were not kept.")] = False,
    size: Size = None,
    classes: Classes = None,
    output: Annotated[str, typer.Option(help="What the graph returns: logits, resized or labels.")] = "logits",
    table: Annotated[str | None, typer.Option(help="Latency table for the card. [default: the study's]")] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(help="For STUDY#TRIAL and STUDY@50ms: of a [[confirm]] of the study. [default: its own]"),
    ] = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Write an architecture as a verified ONNX file.

    The file is proven equal to the network, and a JSON card lies beside it.
    """
    from experiments.export import onnx
    from experiments.export.weights import network_of
    from experiments.front.lookup import chosen, task_of
    from experiments.latency.plan import saying_what_measures
    from latency_lut.table import find_table
    from topformer.weights import class_count
    from topformer.writing import require_writable

    require_writable(out)  # before minutes of work
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
    result = onnx.export(model, task, out, name=found.label, provenance=provenance)
    content = {
        "onnx_path": str(result.onnx_path),
        "card_path": str(result.card_path),
        "max_abs_error": result.max_abs_error,
        "opset": result.opset,
    }
    if as_json:
        print_json(content)
        return
    print(f"{result.onnx_path}: opset {result.opset}, onnxruntime equals torch within {result.max_abs_error:.2g}")
    latency = "no latency (name a table with --table)" if provenance.latency is None else "latency"
    print(f"{result.card_path}: architecture, weights ({provenance.weights}), {latency} and checksums")
    if found.study is not None:
        tell_of_confirmations(found.study, "export", arch, f" --out {out}", storage)

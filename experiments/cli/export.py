"""The `topformer-nas export` command."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import (
    Accept,
    AsJson,
    Classes,
    Size,
    Storage,
    end_if_json,
    print_json,
    progress_bar,
    tell_of_confirmations,
)
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.export.bundle import Export


def export(
    arch: Annotated[
        str | None,
        typer.Argument(
            metavar="ARCH",
            help="tiny, small, base, base-cityscapes, base-cityscapes-half, a JSON file, STUDY#TRIAL, STUDY@50ms (the "
            "best under a budget) or STUDY@small (no slower than the anchor).",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; empty, or not there yet.")] = None,
    formats: Annotated[
        str,
        typer.Option("--format", metavar="NAMES", help="onnx, onnx-int8, mnn, ncnn, ncnn-fp16; several with commas."),
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
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Batch and image size are chosen when it is run; ONNX alone.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="Of the ONNX file, 13 to 26.", show_default="20")] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Data set of images to compare and calibrate on. [default: drawn scenes]"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of mIoU that a format in integers may lose. [default: 1]", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is in the folder.")] = False,
    verify: Annotated[
        Path | None,
        typer.Option("--verify", metavar="DIR", help="Check a bundle instead: ARCH and --out are left out."),
    ] = None,
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

    Every file is proven equal to the network; a card, labels, a picture and a program that checks all of it lie beside.
    """
    from experiments.export.bundle import export as exported
    from experiments.export.bundle import require_free
    from experiments.export.calibration import calibrated
    from experiments.export.formats import Network, Options
    from experiments.export.formats.named import formats_asked
    from experiments.export.images import compared_images
    from experiments.export.weights import network_of
    from experiments.front.lookup import chosen, task_of
    from experiments.latency.plan import saying_what_measures
    from latency_lut.table import find_table
    from topformer.weights import class_count
    from topformer.writing import require_writable

    if verify is not None:
        _verify(verify, arch, out, as_json=as_json)
        return
    if arch is None or out is None:
        raise UserError(
            "name an architecture and a folder, as in: topformer-nas export tiny --out DIR --random-weights"
        )
    asked = formats_asked(formats)
    require_writable(out)  # before minutes of work
    require_free(out, overwrite=overwrite)
    found = chosen(arch, storage=storage, fidelity=fidelity)
    if classes is None and weights is not None and not (random_weights or retrain):
        classes = class_count(weights)
    task = task_of(found, size, classes, output=output)
    with saying_what_measures(arch, task):
        model, provenance = network_of(
            found,
            task,
            weights=weights,
            random_weights=random_weights,
            retrain=retrain,
            storage=storage,
            table=find_table(table) if table else None,
            accept=accept or (),
            command=shlex.join(["topformer-nas", *sys.argv[1:]]),
        )
    network = Network(model=model, task=task, normalise_inside=normalise_inside, dynamic=dynamic)
    with progress_bar() as report:
        options = Options(opset=opset, max_drop_pct=max_drop)
        result = exported(
            network,
            asked,
            out,
            name=found.label,
            options=calibrated(options, asked, calibration, network, report=report),
            images=compared_images(calibration, task),
            provenance=provenance,
            overwrite=overwrite,
        )
    end_if_json(as_json, result)
    _tell(result)
    if found.study is not None:
        tell_of_confirmations(found.study, "export", arch, f" --out {out}", storage, more=" --overwrite")


def _verify(folder: Path, arch: str | None, out: Path | None, *, as_json: bool) -> None:
    """Exit code 1 where something is wrong."""
    from experiments.export.checking import verified

    if arch is not None or out is not None:
        raise UserError("--verify checks a bundle that is there: leave ARCH and --out away.")
    problems, notes = verified(folder)
    if as_json:
        print_json({"folder": str(folder), "problems": problems, "notes": notes})
    else:
        for line in (*notes, *(f"WRONG: {problem}" for problem in problems)):
            print(line)
        print(f"{folder}: " + (f"{len(problems)} problems" if problems else "whole, and in agreement with itself"))
    if problems:
        raise typer.Exit(1)


def _tell(result: "Export") -> None:
    for one in result.made:
        print(f"{one.files[0]}: {one.sentence}")
    provenance = result.provenance
    latency = "no latency (name a table with --table)" if provenance.latency is None else "latency"
    print(f"{result.card_path}: architecture, weights ({provenance.weights}), {latency} and checksums")
    print(f"check it anywhere: python {result.folder / 'verify.py'}")
    if not provenance.trained:
        print("the weights are random: what was compared proves how the graph is wired, not what trained weights give")

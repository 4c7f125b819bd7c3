"""The commands around weights: train, evaluate, predict, recipes. Parse, make one call, print."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import SAID_EVERY_S, Accept, AsJson, Storage, bars_of, end_if_json, print_rows, say
from topformer.errors import UserError, unknown_name

if TYPE_CHECKING:
    from experiments.training.run import TrainingResult

Data = Annotated[
    str,
    typer.Option(
        help="The folder of a data set, LAYOUT:FOLDER, scenes or scenes:CLASSES; see topformer-nas datasets layouts."
    ),
]
Recipe = Annotated[str, typer.Option(help="released, paper, quick, pretraining, or a TOML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="SETTING=VALUE", help="Change the recipe; may be given again.")
]
Judge = Annotated[
    str | None,
    typer.Option(
        help="Whose protocol: released, paper, quick, or a TOML file. [default: what the weights were trained with, or "
        "released]",
        show_default=False,
    ),
]


def train(
    arch: Annotated[
        str, typer.Argument(metavar="ARCH", help="tiny, small, base, a JSON file, STUDY#TRIAL or STUDY@50ms.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on where it stopped.")],
    recipe: Recipe = "released",
    changes: Changes = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Checkpoint to start token pyramid and semantics extractor from.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    accelerator: Annotated[str | None, typer.Option(help="cpu or cuda. [default: a GPU where there is one]")] = None,
    devices: Annotated[int, typer.Option(help="Processes, one for each device; they share the batch.")] = 1,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. [default: bf16 on a GPU]")] = None,
    accumulate: Annotated[int, typer.Option(help="Parts of a batch, one after the other, to save memory.")] = 1,
    workers: Annotated[
        int | None, typer.Option(help="Processes that prepare images, for each device. [default: measured]")
    ] = None,
    compiles: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile. [default: on a GPU]")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Iterations between two saves. [default: a hundredth of all]")
    ] = None,
    score_every: Annotated[
        int | None, typer.Option(help="Iterations between two scores. [default: a tenth of all, at least 100]")
    ] = None,
    score_images: Annotated[
        int | None, typer.Option(help="Validation images for a score on the way. [default: all]")
    ] = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Train an architecture by a recipe, resumably.

    It is scored on the way, and the best and the last weights are kept. What speaks against the data stops it.
    """
    from experiments.front.lookup import chosen
    from experiments.training.run import run_training, training_job

    found = chosen(arch, storage=storage)
    _require_within(1, devices=devices, save_every=save_every, score_every=score_every, score_images=score_images)
    _require_within(0, seed=seed)
    with bars() as report:
        job = training_job(
            found.arch,
            data,
            out,
            recipe=recipe,
            changes=changes or (),
            backbone=backbone,
            seed=seed,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            accumulate=accumulate,
            workers=workers,
            compiles=compiles,
            save_every=save_every,
            score_every=score_every,
            score_images=score_images,
            accept=accept or (),
            report=report,
        )
    say(job.notices)
    result = run_training(job, bars)
    end_if_json(as_json, result.as_dict(job))
    for line in _told(result, job.recipe.iterations):
        print(line)
    print(f"{out}: best.safetensors, last.safetensors, log.jsonl; curves: tensorboard --logdir {out}/tensorboard")


def _told(result: "TrainingResult", iterations: int) -> Iterator[str]:
    name = "mIoU" if result.metric == "miou_pct" else "top-1 accuracy"
    yield (
        f"{name} {result.last:.2f} % at the end, best {result.best:.2f} % after {result.best_iteration} iterations; "
        f"loss {result.last_loss:.3f}, mean over the last tenth"
    )
    if result.resumed_at == iterations:
        yield "it was finished already; nothing was trained"
    elif result.resumed_at:
        yield f"went on from iteration {result.resumed_at}"
    speed = result.speed
    if speed.images_per_s is not None:
        waited = 100 * speed.waiting_s / speed.seconds
        memory = ""
        if speed.peak_memory_bytes is not None:
            memory = f"; at most {speed.peak_memory_bytes / 2**30:.2f} GiB of GPU memory"
        yield (
            f"{speed.images_per_s:.1f} images/s, {waited:.0f} % of the time waiting for images, {speed.workers} workers"
            f"{memory}"
        )


def evaluate(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="Our safetensors file or a released checkpoint.")],
    data: Data,
    arch: Annotated[
        str | None, typer.Option(help="Of a released checkpoint; our files say it themselves.", show_default=False)
    ] = None,
    recipe: Judge = None,
    changes: Changes = None,
    images: Annotated[int | None, typer.Option(help="Only the first so many.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of the first predictions.")] = None,
    count: Annotated[int, typer.Option(help="Of pictures.")] = 8,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Score weights on the validation split of a data set.

    Prints mIoU, IoU of every class, pixel and mean accuracy, at the original size of the images.
    """
    from evaluators.datasets.imagenet import ClassFolders
    from experiments.training.class_names import require_named_alike
    from experiments.training.prediction import evaluate_weights, judging, segmentation_network
    from experiments.training.run import open_dataset
    from topformer.config import anchor_name

    _require_within(1, images=images, count=count)
    network = segmentation_network(weights, arch, storage=storage)
    with bars() as report:
        dataset = open_dataset(data, report)
        if isinstance(dataset, ClassFolders):
            raise UserError(f"{data} is for classification; segmentation networks are evaluated on label maps.")
        require_named_alike(weights, data, dataset.class_names, accept or ())
        whose, protocol = judging(
            weights, recipe, dataset=dataset.name, anchor=anchor_name(network.arch), changes=changes or ()
        )
        found = evaluate_weights(
            network, dataset, protocol, images=images, pictures=pictures, count=count, report=report
        )
    judged = {"weights": str(weights), "dataset": dataset.name, "protocol": asdict(protocol)}
    end_if_json(as_json, found.as_dict() | judged)
    rows = [
        {"class": name, "IoU %": "not there" if iou is None else f"{iou:.2f}"}
        for name, iou in zip(dataset.class_names, found.matrix.per_class_iou_pct, strict=True)
    ]
    print_rows(rows, f"{dataset.name}, {found.images} images")
    print(
        f"mIoU {found.matrix.miou_pct:.2f} %, pixel accuracy {found.matrix.pixel_accuracy_pct:.2f} %, mean accuracy "
        f"{found.matrix.mean_accuracy_pct:.2f} %; {found.images} of {dataset.length('val')} images, protocol of "
        f"{whose}: within {protocol.long_side}x{protocol.short_side} px, sides to a multiple of {protocol.multiple_of}"
    )
    if found.lacks:
        print(found.lacks)
    for path in found.pictures:
        print(f"drawn: {path}")


def predict(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Weights (ours, or released), or any exported file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.overlay.png and NAME.labels.png.")],
    data: Annotated[
        str | None, typer.Option(help="Data set whose class names and colours are meant. [default: the weights' own]")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Of a released checkpoint; our files say it themselves.", show_default=False)
    ] = None,
    recipe: Judge = None,
    changes: Changes = None,
    accept: Accept = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Label images of one's own.

    Writes an overlay to look at and a map of class numbers for each.
    """
    from evaluators.datasets.named import any_dataset_named
    from experiments.export.running import exported_file
    from experiments.training.prediction import (
        Labeller,
        TorchLabeller,
        classes_of,
        judging,
        pace,
        predict_images,
        segmentation_network,
    )
    from topformer.config import anchor_name

    labeller: Labeller
    if exported := exported_file(weights):
        if given := [name for name, value in (("--data", data), ("--arch", arch), ("--recipe", recipe)) if value]:
            raise UserError(f"{weights} says itself what it takes and gives; leave {given[0]} out.")
        labeller, names, palette = exported, exported.names, exported.palette
    else:
        network = segmentation_network(weights, arch, storage=storage)
        names, palette = classes_of(weights, network, data, accept=accept or ())
        dataset = "" if data is None else any_dataset_named(data).name
        _, protocol = judging(weights, recipe, dataset=dataset, anchor=anchor_name(network.arch), changes=changes or ())
        labeller = TorchLabeller(network=network, protocol=protocol)
    with bars() as report:
        found = predict_images(labeller, images, out, names, palette, report=report)
    paths = ("image", "overlay", "labels")
    end_if_json(as_json, [asdict(item) | {name: str(getattr(item, name)) for name in paths} for item in found])
    for item in found:
        shares = ", ".join(f"{name} {share:.0f} %" for name, share in item.shares_pct[:5])
        print(f"{item.overlay}: {shares}")
    print(pace(found))


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A shipped name or a TOML file.")] = None,
    dataset: Annotated[
        str, typer.Option(help="As it is for a data set of this layout: ade20k, cityscapes, folder...")
    ] = "ade20k",
    arch: Annotated[str | None, typer.Option(help="And for tiny, small or base.")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """List the training recipes, or every setting of one."""
    from evaluators.datasets.named import LAYOUTS, SCENES
    from experiments.training.recipe_files import recipe_named, shipped_recipes
    from topformer.config import ANCHORS

    if dataset not in (*LAYOUTS, SCENES):
        raise unknown_name("layout of a data set", dataset, (*LAYOUTS, SCENES))
    if arch is not None and arch not in ANCHORS:
        raise unknown_name("anchor", arch, tuple(ANCHORS))
    if name is None and changes:
        raise UserError(f"--set {changes[0]} changes a recipe: name one of {', '.join(shipped_recipes())}.")
    if name is None:
        rows = [
            {"recipe": known, "about": recipe_named(known, dataset=dataset, anchor=arch).about}
            for known in shipped_recipes()
        ]
        end_if_json(as_json, rows)
        print_rows(rows, "recipes")
        return
    found = recipe_named(name, dataset=dataset, anchor=arch, changes=changes or ())
    content: dict[str, Any] = {"recipe": found.name, "about": found.about, "training": found.training.as_dict()}
    content["protocol"] = None if found.protocol is None else asdict(found.protocol)
    end_if_json(as_json, content)
    rows = [{"setting": key, "value": _toml(value)} for key, value in _flat(content, "")]
    print_rows(rows, f"{found.name}: {found.about}")


def _toml(value: Any) -> str:
    """As `--set` and a recipe file take it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value) if not isinstance(value, str) else value


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextmanager
def bars() -> Iterator[Callable[[str, int, int, str], None]]:
    """A bar for each thing that is done, with the time that is left; gone when all is done."""
    from rich import progress

    shown = bars_of(progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[says]}"), passing=True)
    console = shown.console
    tasks: dict[str, progress.TaskID] = {}
    said = time.monotonic()

    def report(what: str, done: int, total: int, says: str) -> None:
        nonlocal said
        if console.is_terminal:
            shown.start()
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total, says=says)
            shown.update(tasks[what], completed=done, total=total, says=says)
        elif time.monotonic() - said > SAID_EVERY_S:  # in a log, a line now and then
            said = time.monotonic()
            console.print(f"{what} {done} of {total}: {says}", highlight=False)

    try:
        yield report
    finally:
        shown.stop()


_MOST = 2**63 - 1
"""What torch takes for a seed."""


def _require_within(least: int, **values: int | None) -> None:
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}.")
        if value is not None and value > _MOST:
            raise UserError(f"{option} must be at most {_MOST}.")

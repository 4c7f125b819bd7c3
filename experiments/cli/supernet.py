"""The commands of supernets: train, evaluate, extract. Parse, make one call, print."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import AsJson, Storage, console_of, print_json, print_rows
from experiments.cli.training import Data, bars
from topformer.errors import UserError, unknown_name

if TYPE_CHECKING:
    from experiments.training.run import Precision

supernet = typer.Typer(
    help="One network whose parts are all architectures of a space: seconds per architecture, once it is trained.",
    no_args_is_help=True,
)
Weights = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="last.safetensors of a supernet's run folder.")]


@supernet.command("train")
def supernet_train(
    space: Annotated[str, typer.Option(help="A preset (pyramid, quickstart), or a study's TOML file.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on where it stopped.")],
    data: Data = "scenes",
    iterations: Annotated[int | None, typer.Option(help="[default: 2400]", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images. [default: 4]", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 0.004]", show_default=False)] = None,
    canvas: Annotated[
        str | None, typer.Option(help="Image size that stands for the task's. [default: 64x576]", show_default=False)
    ] = None,
    drawn: Annotated[
        int | None, typer.Option(help="Subnets drawn for each iteration. [default: 2]", show_default=False)
    ] = None,
    distillation: Annotated[
        float | None, typer.Option(help="Share of the largest network's answer. [default: 0.5]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    accelerator: Annotated[str | None, typer.Option(help="cpu or cuda. [default: a GPU where there is one]")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. [default: bf16 on a GPU]")] = None,
    save_every: Annotated[int | None, typer.Option(help="Iterations. [default: a hundredth of all]")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a supernet over a search space, resumably."""
    import torch
    from lightning_fabric import Fabric

    from evaluators.checkpoints import RunFolder
    from evaluators.datasets.named import SCENES, dataset_named
    from evaluators.supernet import SUPERNET, describes, train_supernet
    from evaluators.training import Execution
    from experiments.latency.plan import space_named
    from experiments.training.run import PRECISIONS
    from search_space import PRESETS
    from topformer.config import parse_image_size

    on = accelerator or ("cuda" if torch.cuda.is_available() else "cpu")
    if on not in ("cpu", "cuda"):
        raise unknown_name("accelerator", on, ("cpu", "cuda"))
    if on == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU is there; choose --accelerator cpu.")
    number = precision or ("bf16" if on == "cuda" else "fp32")
    if number not in PRECISIONS:
        raise unknown_name("precision", number, PRECISIONS)
    if number == "fp16" and on == "cpu":
        raise UserError("fp16 needs a GPU; on a CPU choose --precision bf16 or fp32.")
    if not 0 <= seed < 2**63 or (save_every is not None and save_every < 1):
        raise UserError(
            f"--seed must be from 0 to 2**63 - 1, and --save-every at least 1, not {seed} and {save_every}."
        )
    with bars() as report:
        dataset = dataset_named(data)
        found = space_named(space, size=None, classes=dataset.num_classes if space in PRESETS else None)
        default = SUPERNET.proxy.training
        training = replace(
            default,
            iterations=default.iterations if iterations is None else iterations,
            batch_size=default.batch_size if batch_size is None else batch_size,
            learning_rate=default.learning_rate if learning_rate is None else learning_rate,
        )
        proxy = replace(SUPERNET.proxy, training=training)
        if canvas is not None:
            proxy = replace(proxy, canvas=parse_image_size(canvas))
        recipe = replace(SUPERNET, proxy=proxy)
        if drawn is not None:
            recipe = replace(recipe, drawn_subnets=drawn)
        if distillation is not None:
            recipe = replace(recipe, distillation=distillation)
        folder = RunFolder(out, describes(found, dataset, recipe, seed=seed))
        saves = save_every or max(training.iterations // 100, 1)
        with folder.opened():
            _, trained = train_supernet(
                found,
                dataset,
                recipe,
                seed=seed,
                folder=folder,
                fabric=Fabric(accelerator=on, devices=1, precision=PRECISIONS[cast("Precision", number)]),
                execution=Execution(save_every=saves),
                progress=lambda done, total, loss: report("training", done, total, f"loss {loss:.3f}"),
            )
    content: dict[str, Any] = {
        "weights": str(folder.last_path),
        "space": found.name,
        "iterations": training.iterations,
        "last_loss": trained.last_loss,
        "seconds_per_iteration": trained.speed.seconds / trained.speed.iterations if trained.speed.iterations else None,
    }
    if as_json:
        print_json(content)
        return
    print(f"{folder.last_path}: loss of the largest network {trained.last_loss:.3f}, mean over the last tenth")
    asked = "" if data == SCENES else f" --data {data}"
    print(f"judge architectures with: topformer-nas supernet evaluate {folder.last_path} tiny small base{asked}")


@supernet.command("evaluate")
def supernet_evaluate(
    weights: Weights,
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="As for describe; several, in any number.")],
    data: Data = "scenes",
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """mIoU of architectures with inherited weights, batch norms recalibrated for each."""
    from evaluators.datasets.named import dataset_named
    from evaluators.supernet import SupernetEvaluator
    from experiments.front.lookup import chosen

    evaluator = SupernetEvaluator(weights, dataset_named(data))
    wanted = [chosen(text, storage=storage) for text in archs]
    candidates = [evaluator.candidate(one.arch) for one in wanted]
    for one, candidate in zip(wanted, candidates, strict=True):
        if reason := evaluator.why_not(candidate):
            raise UserError(f"{one.label} cannot be judged: {reason}")
    rows: list[dict[str, Any]] = []
    with bars() as report:
        for one, candidate in zip(wanted, candidates, strict=True):
            report("judging", len(rows), len(wanted), one.label)
            metrics = evaluator.evaluate(candidate, replicate=0)
            rows.append(
                {
                    "architecture": one.label,
                    "key": one.arch.key,
                    "miou_pct": metrics.miou_pct,
                    "pixel_accuracy_pct": metrics.pixel_accuracy_pct,
                    "cpu_seconds": metrics.cpu_seconds,
                }
            )
    if as_json:
        print_json(rows)
        return
    shown = [{k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print_rows(shown, f"{evaluator.fidelity} on {data}")


@supernet.command("extract")
def supernet_extract(
    weights: Weights,
    arch: Annotated[str, typer.Argument(metavar="ARCH")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    data: Data = "scenes",
    storage: Storage = DEFAULT_URL,
) -> None:
    """An ordinary network with inherited weights, to be trained further (train --backbone) or exported."""
    from evaluators.datasets.named import dataset_named
    from evaluators.supernet import SupernetEvaluator
    from experiments.front.lookup import chosen
    from topformer.weights import save_model

    dataset = dataset_named(data)
    evaluator = SupernetEvaluator(weights, dataset)
    one = chosen(arch, storage=storage)
    candidate = evaluator.candidate(one.arch)
    if reason := evaluator.why_not(candidate):
        raise UserError(f"{one.label} cannot be extracted: {reason}")
    network = evaluator.network(candidate)
    save_model(network, out, classes=tuple(zip(dataset.class_names, dataset.palette, strict=True)))
    console_of().print(f"{out}: {one.label}, {sum(p.numel() for p in network.parameters()):,} parameters")

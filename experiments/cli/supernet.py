"""The commands of supernets: train, evaluate, extract. Parse, make one call, print."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Accept, AsJson, Storage, console_of, end_if_json, print_rows, say
from experiments.cli.training import Data, bars

supernet = typer.Typer(
    help="Train one network whose parts are all architectures. Each is then scored in seconds.",
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
    accept: Accept = None,
    as_json: AsJson = False,
) -> None:
    """Train a supernet over a search space, resumably."""
    from evaluators.datasets.named import SCENES
    from experiments.training.supernet import supernet_recipe, train_over_space
    from topformer.config import parse_image_size

    recipe = supernet_recipe(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        canvas=None if canvas is None else parse_image_size(canvas),
        drawn_subnets=drawn,
        distillation=distillation,
    )
    with bars() as report:
        result = train_over_space(
            space,
            data,
            out,
            recipe=recipe,
            seed=seed,
            accelerator=accelerator,
            precision=precision,
            save_every=save_every,
            accept=accept or (),
            report=report,
            tell=say,
        )
    end_if_json(as_json, result)
    print(f"{result.weights}: loss of the largest network {result.last_loss:.3f}, mean over the last tenth")
    asked = "" if data == SCENES else f" --data {data}"
    print(f"judge architectures with: topformer-nas supernet evaluate {result.weights} tiny small base{asked}")


@supernet.command("evaluate")
def supernet_evaluate(
    weights: Weights,
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="As for describe; several, in any number.")],
    data: Data = "scenes",
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """mIoU of architectures with inherited weights, batch norms recalibrated for each."""
    from experiments.front.lookup import chosen
    from experiments.training.supernet import judged

    wanted = [chosen(text, storage=storage) for text in archs]
    with bars() as report:
        found = judged(weights, data, wanted, report=report)
    rows = [one.as_dict() for one in found]
    end_if_json(as_json, rows)
    shown = [{k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print_rows(shown, f"{found[0].fidelity} on {data}")


@supernet.command("extract")
def supernet_extract(
    weights: Weights,
    arch: Annotated[str, typer.Argument(metavar="ARCH")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    data: Data = "scenes",
    storage: Storage = DEFAULT_URL,
) -> None:
    """An ordinary network with inherited weights, to be trained further (train --backbone) or exported."""
    from experiments.front.lookup import chosen
    from experiments.training.supernet import extracted

    found = chosen(arch, storage=storage)
    network = extracted(weights, data, found, out)
    console_of().print(f"{out}: {found.label}, {sum(p.numel() for p in network.parameters()):,} parameters")

"""How is a supernet trained over a space, and how do its parts become scores and networks?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric

from evaluators.base import Metrics
from evaluators.checkpoints import RunFolder
from evaluators.datasets.acceptance import examined, require_names
from evaluators.datasets.named import dataset_named
from evaluators.proxy import ProxyRecipe
from evaluators.recipe import TrainingRecipe
from evaluators.supernet import SUPERNET, SupernetEvaluator, SupernetRecipe, describes, train_supernet
from evaluators.training import Execution
from experiments.front.lookup import Chosen
from experiments.study_config import space_named
from experiments.training.run import PRECISIONS, Report, chosen_hardware, unsaid
from search_space import PRESETS
from topformer.config import Candidate
from topformer.errors import UserError
from topformer.model import TopFormer
from topformer.weights import save_model

_Recipe = TypeVar("_Recipe", TrainingRecipe, ProxyRecipe, SupernetRecipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class SupernetResult:
    """What came of training a supernet."""

    weights: Path
    space: str
    iterations: int
    last_loss: float
    """Loss of the largest network, mean over the last tenth of the iterations."""
    seconds_per_iteration: float | None
    """None where it was finished already."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"weights": str(self.weights)}


def supernet_recipe(
    *,
    iterations: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    canvas: tuple[int, int] | None = None,
    drawn_subnets: int | None = None,
    distillation: float | None = None,
) -> SupernetRecipe:
    """The usual recipe with what is given changed. Raises `UserError` for what it cannot be."""
    training = _changed(
        SUPERNET.proxy.training, iterations=iterations, batch_size=batch_size, learning_rate=learning_rate
    )
    proxy = _changed(SUPERNET.proxy, training=training, canvas=canvas)
    return _changed(SUPERNET, proxy=proxy, drawn_subnets=drawn_subnets, distillation=distillation)


def train_over_space(
    space: str,
    data: str,
    out: Path,
    *,
    recipe: SupernetRecipe = SUPERNET,
    seed: int = 0,
    accelerator: str | None = None,
    precision: str | None = None,
    save_every: int | None = None,
    accept: Collection[str] = (),
    report: Report = unsaid,
    tell: Callable[[Sequence[str]], None] = lambda _: None,
) -> SupernetResult:
    """Train a supernet over a preset or the space of a study's file, or go on where `out` was left.

    `tell` gets what was found of the data set, in sentences, before it is trained on; warnings whose names are not
    in `accept` may stop it. Names are those of `supernet train`; what is not given is a GPU where there is one,
    bf16 on it, and a save at every hundredth of the iterations. Raises `UserError`; what was saved stays.
    """
    on, number = chosen_hardware(accelerator, precision)
    if on == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU is there; choose --accelerator cpu.")
    if not 0 <= seed < 2**63 or (save_every is not None and save_every < 1):
        raise UserError(
            f"--seed must be from 0 to 2**63 - 1, and --save-every at least 1, not {seed} and {save_every}."
        )
    require_names(accept)
    dataset = dataset_named(data)
    over = space_named(space, size=None, classes=dataset.num_classes if space in PRESETS else None)
    tell(examined(dataset, accept, progress=partial(_looking, report)))
    iterations = recipe.proxy.training.iterations
    folder = RunFolder(out, describes(over, dataset, recipe, seed=seed))
    with folder.opened():
        _, trained = train_supernet(
            over,
            dataset,
            recipe,
            seed=seed,
            folder=folder,
            fabric=Fabric(accelerator=on, devices=1, precision=PRECISIONS[number]),
            execution=Execution(save_every=save_every or max(iterations // 100, 1)),
            progress=lambda done, total, loss: report("training", done, total, f"loss {loss:.3f}"),
        )
    speed = trained.speed
    return SupernetResult(
        weights=folder.last_path,
        space=over.name,
        iterations=iterations,
        last_loss=trained.last_loss,
        seconds_per_iteration=speed.seconds / speed.iterations if speed.iterations else None,
    )


def _looking(report: Report, done: int, total: int) -> None:
    report("looking at labels", done, total, "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An architecture's scores with the weights that it inherits."""

    chosen: Chosen
    fidelity: str
    metrics: Metrics

    def as_dict(self) -> dict[str, Any]:
        return {
            "architecture": self.chosen.label,
            "key": self.chosen.arch.key,
            "miou_pct": self.metrics.miou_pct,
            "pixel_accuracy_pct": self.metrics.pixel_accuracy_pct,
            "cpu_seconds": self.metrics.cpu_seconds,
        }


def judged(weights: Path, data: str, wanted: Sequence[Chosen], *, report: Report = unsaid) -> tuple[Judged, ...]:
    """mIoU of architectures by a supernet's weights, batch norms recalibrated for each; `UserError` for a stranger."""
    evaluator = SupernetEvaluator(weights, dataset_named(data))
    candidates = [_subnet(evaluator, found, "judged") for found in wanted]
    rows: list[Judged] = []
    for found, candidate in zip(wanted, candidates, strict=True):
        report("judging", len(rows), len(wanted), found.label)
        metrics = evaluator.evaluate(candidate, replicate=0)
        rows.append(Judged(chosen=found, fidelity=evaluator.fidelity, metrics=metrics))
    return tuple(rows)


def extracted(weights: Path, data: str, found: Chosen, out: Path) -> TopFormer:
    """An ordinary network with the weights that it inherits, written to `out`; `UserError` for a stranger."""
    dataset = dataset_named(data)
    evaluator = SupernetEvaluator(weights, dataset)
    network = evaluator.network(_subnet(evaluator, found, "extracted"))
    save_model(network, out, classes=tuple(zip(dataset.class_names, dataset.palette, strict=True)))
    return network


def _subnet(evaluator: SupernetEvaluator, found: Chosen, what: str) -> Candidate:
    candidate = evaluator.candidate(found.arch)
    if reason := evaluator.why_not(candidate):
        raise UserError(f"{found.label} cannot be {what}: {reason}")
    return candidate


def _changed(values: _Recipe, **changes: Any) -> _Recipe:
    return replace(values, **{name: value for name, value in changes.items() if value is not None})

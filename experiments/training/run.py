"""Train an architecture on a data set into a run folder, on one device or several, resumably; score what came of it."""

from __future__ import annotations

import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from evaluators.checkpoints import RunFolder
from evaluators.datasets import IGNORE, Split
from evaluators.datasets.acceptance import examined, require_names
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.named import any_dataset_named
from evaluators.datasets.scenes import Scenes
from evaluators.evaluation import evaluate, right_answers
from evaluators.proxy import for_labels
from evaluators.recipe import Protocol, ResizedCrop, TrainingRecipe
from evaluators.segmentation import ConfusionMatrix
from evaluators.training import Execution, Speed, require_shareable, train
from experiments.training.class_names import named_otherwise
from experiments.training.recipe_files import recipe_named
from topformer.config import TaskKind, TopFormerConfig, anchor_name
from topformer.errors import UserError, ran_out_of_memory, unknown_name
from topformer.model import TopFormer, TopFormerClassifier
from topformer.weights import load_backbone, save_model

Precision = Literal["fp32", "bf16", "fp16"]
Accelerator = Literal["cpu", "cuda"]
PRECISIONS: Mapping[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}

LEAST_BETWEEN_SCORES = 100
"""Iterations, unless other intervals are asked for."""
_SAID = "error.txt"
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

Report = Callable[[str, int, int, str], None]
"""Called with what is done ("training", "scoring", "reading"), how much of how much, and a word on how it goes."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a process needs to train. Must survive pickling: several devices are several processes."""

    arch: TopFormerConfig
    dataset: Scenes | LabelledFiles | ClassFolders
    recipe: TrainingRecipe
    recipe_name: str = ""
    """What people call the recipe."""
    protocol: Protocol | None
    out: Path
    seed: int = 0
    backbone: Path | None = None
    """Checkpoint that token pyramid and semantics extractor start from."""
    accelerator: Accelerator = "cpu"
    devices: int = 1
    precision: Precision = "fp32"
    execution: Execution = field(default_factory=Execution)
    score_every: int = 0
    """Iterations; 0 scores at the end only."""
    score_images: int | None = None
    """Validation images per score on the way; None: all. The last score takes all."""
    notices: tuple[str, ...] = ()
    """What was found of the data set, in sentences."""

    @property
    def kind(self) -> TaskKind:
        return "classification" if isinstance(self.dataset, ClassFolders) else "segmentation"

    @property
    def metric(self) -> str:
        return "top1_pct" if self.kind == "classification" else "miou_pct"

    def describes(self) -> dict[str, Any]:
        """What makes it this training and no other."""
        return {
            "architecture": self.arch.as_dict(),
            "kind": self.kind,
            "dataset": {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint},
            "recipe": self.recipe.as_dict(),
            "protocol": _sizes(self),
            "seed": self.seed,
            "backbone_sha256": None if self.backbone is None else sha256(self.backbone.read_bytes()).hexdigest(),
            "precision": self.precision,
            "devices": self.devices,
            "accumulate": self.execution.accumulate,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """What came of a training."""

    metric: str
    """miou_pct, or top1_pct for classification."""
    last: float
    best: float
    best_iteration: int
    last_loss: float
    speed: Speed
    resumed_at: int
    """Iterations that were done before."""

    def as_dict(self, job: TrainingJob) -> dict[str, Any]:
        """The result with the recipe and the files of its job, for JSON."""
        return asdict(self) | {
            "recipe": job.recipe_name,
            "best_weights": str(job.out / "best.safetensors"),
            "last_weights": str(job.out / "last.safetensors"),
            "images_per_s": self.speed.images_per_s,
            "notices": list(job.notices),
        }


def training_job(
    arch: TopFormerConfig,
    data: str,
    out: Path,
    *,
    recipe: str = "released",
    changes: Iterable[str] = (),
    backbone: Path | None = None,
    seed: int = 0,
    accelerator: str | None = None,
    devices: int = 1,
    precision: str | None = None,
    accumulate: int = 1,
    workers: int | None = None,
    compiles: bool | None = None,
    save_every: int | None = None,
    score_every: int | None = None,
    score_images: int | None = None,
    accept: Collection[str] = (),
    report: Report | None = None,
) -> TrainingJob:
    """A training by the names that `train` takes, for `run_training`; every file of the data set is looked at.

    Warnings that speak against the data stop it unless their names are in `accept`. What is not given is a GPU
    where there is one, with bf16 and torch.compile, as many workers as the network needs, and `default_intervals`.
    Raises `UserError`.
    """
    on, number = chosen_hardware(accelerator, precision)
    require_names(accept)
    if backbone is not None and not backbone.is_file():
        raise UserError(f"no checkpoint {str(backbone)!r}.")
    dataset = open_dataset(data, report)
    how = recipe_named(recipe, dataset=dataset.name, anchor=anchor_name(arch), changes=changes)
    saves, scores = default_intervals(how.training.iterations)
    saves = save_every or saves
    notices: tuple[str, ...] = ()
    training = how.training
    if not isinstance(dataset, ClassFolders):
        further = () if backbone is None else named_otherwise(backbone, data, dataset.class_names)
        looking = None if report is None else lambda done, total: report("looking at labels", done, total, "")
        notices = examined(dataset, accept, further=further, progress=looking)
        training = for_labels(training, dataset)
    return TrainingJob(
        arch=arch,
        dataset=dataset,
        notices=notices,
        recipe=training,
        recipe_name=how.name,
        protocol=how.protocol,
        out=out,
        seed=seed,
        backbone=backbone,
        accelerator=on,
        devices=devices,
        precision=number,
        execution=Execution(
            accumulate=accumulate,
            workers=workers,
            compile=on == "cuda" if compiles is None else compiles,
            save_every=saves,
        ),
        score_every=max(round((score_every or scores) / saves), 1) * saves,
        score_images=score_images,
    )


def chosen_hardware(accelerator: str | None, precision: str | None) -> tuple[Accelerator, Precision]:
    """A GPU where there is one, and bf16 on it, unless another is named. Raises `UserError` for a name of none,
    and for what a CPU does not calculate with."""
    on = accelerator or ("cuda" if torch.cuda.is_available() else "cpu")
    if on not in get_args(Accelerator):
        raise unknown_name("accelerator", on, get_args(Accelerator))
    number = precision or ("bf16" if on == "cuda" else "fp32")
    if number not in PRECISIONS:
        raise unknown_name("precision", number, PRECISIONS)
    _require_precision(on, number)
    return cast("Accelerator", on), cast("Precision", number)


def _require_precision(accelerator: str, precision: str) -> None:
    if precision == "fp16" and accelerator == "cpu":
        raise UserError("fp16 needs a GPU; on a CPU choose --precision bf16 or fp32.")


def run_training(job: TrainingJob, report: Callable[[], Any] | None = None) -> TrainingResult:
    """Train, or go on where `job.out` was left. `report` makes a context manager that gives a `Report`, in the process
    that shows it. Raises `UserError`; what was saved stays."""
    _require_possible(job)
    fabric = Fabric(
        accelerator=job.accelerator,
        devices=job.devices,
        strategy="ddp_spawn" if job.devices > 1 else "auto",
        precision=PRECISIONS[job.precision],
    )
    folder = RunFolder(job.out, job.describes())
    with folder.opened():
        if job.devices == 1:
            return _work(fabric, job, folder, report)
        return _work_in_processes(fabric, job, folder, report)


def _work_in_processes(
    fabric: Fabric, job: TrainingJob, folder: RunFolder, report: Callable[[], Any] | None
) -> TrainingResult:
    """One for each device; none of them outlives this call, and with it the lock on the folder."""
    said = job.out / _SAID
    said.unlink(missing_ok=True)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends the others is no news
    others = set(multiprocessing.active_children())
    try:
        carried = fabric.launch(partial(_work_or_say, job=job, folder=folder, report=report))
    except (ProcessRaisedException, ProcessExitedException) as error:
        if said.exists():
            raise UserError(said.read_text(encoding="utf-8")) from None
        lost = isinstance(error, ProcessExitedException) or any(words in str(error) for words in _PEER_GONE)
        if not lost:
            raise
        raise UserError(
            f"one of the {job.devices} training processes was killed; is there enough memory for --devices? What was "
            "saved is kept: the same command goes on from there."
        ) from None
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
            process.join()
    assert isinstance(carried, _Carried)
    return carried.result


def open_dataset(text: str, report: Report | None = None) -> Scenes | LabelledFiles | ClassFolders:
    """A data set with a partner for every file, fingerprinted."""
    dataset = any_dataset_named(text)
    if isinstance(dataset, LabelledFiles | ClassFolders):
        dataset.require_complete()
        dataset.fingerprinted(None if report is None else lambda done, total: report("reading", done, total, text))
    return dataset


def _require_possible(job: TrainingJob) -> None:
    _require_precision(job.accelerator, job.precision)
    if job.accelerator == "cuda":
        there = torch.cuda.device_count()
        if job.devices > there:
            raise UserError(
                f"{job.devices} GPUs are asked for, {there} are there; choose --devices or --accelerator cpu."
            )
    if job.kind == "classification" and not isinstance(job.recipe.augmentation, ResizedCrop):
        raise UserError("this recipe is for segmentation, the data set for classification; try --recipe pretraining.")
    if job.kind == "segmentation" and (isinstance(job.recipe.augmentation, ResizedCrop) or job.protocol is None):
        raise UserError("this recipe is for classification, the data set for segmentation; try --recipe released.")
    require_shareable(job.recipe, devices=job.devices, accelerator=job.accelerator, execution=job.execution)
    if job.backbone is not None and job.backbone.resolve().parent == job.out.resolve():
        raise UserError(
            f"{job.backbone} will be written over by a training in {job.out}; choose another --out, or copy it first."
        )
    for split in ("train", "val"):
        _require_labels(job, split)


def _require_labels(job: TrainingJob, split: Split) -> None:
    """Raises `UserError` where every pixel of a split is ignored: it teaches nothing and has no mIoU."""
    if isinstance(job.dataset, ClassFolders):
        return
    count = job.dataset.length(split)
    if split == "val":
        count = min(job.score_images or count, count)
    if not any((job.dataset.item(split, index)[1] != IGNORE).any() for index in range(count)):
        raise UserError(
            f"every pixel of the first {count} {split} images is ignored ({IGNORE}): there is nothing to "
            f"{'learn' if split == 'train' else 'score'}; check the label maps"
            + (", or raise --score-images." if count < job.dataset.length(split) else ".")
        )


class _Carried:
    """Results as Fabric lets them cross processes: it looks into lists and data classes, and refuses frozen ones."""

    def __init__(self, result: TrainingResult) -> None:
        self.result = result


def _work_or_say(fabric: Fabric, job: TrainingJob, folder: RunFolder, report: Any) -> _Carried:
    """An error ends all processes; its sentence crosses by a file."""
    try:
        return _Carried(_work(fabric, job, folder, report))
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not ran_out_of_memory(error):
            raise
        (job.out / _SAID).write_text(str(error) or "out of memory", encoding="utf-8")
        raise


def _work(fabric: Fabric, job: TrainingJob, folder: RunFolder, report: Any) -> TrainingResult:
    """In each process."""
    torch.manual_seed(job.seed)
    model: TopFormer | TopFormerClassifier
    if job.kind == "classification":
        model = TopFormerClassifier(job.arch, num_classes=job.dataset.num_classes)
    else:
        model = TopFormer(job.arch, num_classes=job.dataset.num_classes)
    if job.backbone is not None:
        load_backbone(model, job.backbone)
    with nullcontext(unsaid) if report is None or not fabric.is_global_zero else report() as say:
        keeper = _Keeper(fabric, job, folder, say)
        rate = _Rate(job.recipe.batch_size)
        trained = train(
            model,
            job.dataset,
            job.recipe,
            train_images=job.dataset.length("train"),
            seed=job.seed,
            fabric=fabric,
            execution=job.execution,
            keeper=keeper,
            progress=lambda done, total, loss: say("training", done, total, f"loss {loss:.3f}{rate(done)}"),
        )
        keeper.finish(model, trained.losses)
    best = max(keeper.scores, key=lambda row: float(row[job.metric]))
    return TrainingResult(
        metric=job.metric,
        last=keeper.scores[-1][job.metric],
        best=best[job.metric],
        best_iteration=best["iteration"],
        last_loss=trained.last_loss,
        speed=trained.speed,
        resumed_at=keeper.resumed_at,
    )


class _Keeper:
    """Writes the state, and scores the network on the way."""

    def __init__(self, fabric: Fabric, job: TrainingJob, folder: RunFolder, say: Report) -> None:
        self.fabric, self.job, self.folder, self.say = fabric, job, folder, say
        self.scores: list[dict[str, Any]] = []
        self.resumed_at = 0
        self._drawn = 0

    def restore(self) -> Mapping[str, Any] | None:
        state = self.folder.load()
        self.resumed_at = 0 if state is None else int(state["iteration"])
        self.scores = self.folder.scores(self.job.metric, until=self.resumed_at)
        if self.scores and not self.folder.best_path.is_file():
            raise UserError(
                f"{self.folder.best_path} is gone, whose score is in {self.folder.log_path}; restore it, or remove the "
                "log too, so that the next score is the best."
            )
        self._drawn = self.resumed_at
        if self.fabric.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415, one process of many draws

            self._curves = SummaryWriter(str(self.folder.folder / "tensorboard"), purge_step=self.resumed_at + 1)
        return state

    def save(self, iteration: int, state: Mapping[str, Any], network: nn.Module, averaged: nn.Module | None) -> None:
        """The state after the score: whoever goes on from here has it already."""
        model = network if averaged is None else averaged
        last = iteration == self.job.recipe.iterations
        if not last and self.job.score_every and iteration % self.job.score_every == 0:
            self._score(model, iteration, self.job.score_images)
        if self.fabric.is_global_zero:
            self._draw(state["losses"].tolist(), iteration)
            self._write(model, self.folder.last_path)
            self.folder.save(state)
        self.fabric.barrier()

    def finish(self, model: TopFormer | TopFormerClassifier, losses: tuple[float, ...]) -> None:
        """The last score, of all validation images."""
        final = self.job.recipe.iterations
        scored = any(row["iteration"] == final for row in self.scores)
        if self.fabric.is_global_zero and not (scored and self.folder.last_path.is_file()):
            self._write(model, self.folder.last_path)
        if not scored:
            if self.fabric.is_global_zero:
                self._draw(list(losses), final)
            self._score(model, final, None)
        if self.fabric.is_global_zero:
            self._curves.close()

    def _score(self, model: nn.Module, iteration: int, images: int | None) -> None:
        model.eval()
        row: dict[str, Any] = {"iteration": iteration}
        if isinstance(self.job.dataset, ClassFolders):
            row["top1_pct"] = self._accuracy_pct(model, self.job.dataset)
        else:
            matrix = self._confusion(model, images)
            row |= {"miou_pct": matrix.miou_pct, "pixel_accuracy_pct": matrix.pixel_accuracy_pct}
            row["images"] = self._count(images)
        earlier = [float(known[self.job.metric]) for known in self.scores]
        self.scores.append(row)
        if self.fabric.is_global_zero:
            if not earlier or row[self.job.metric] > max(earlier):
                self._write(model, self.folder.best_path)
            self.folder.add_score(row)
            self._curves.add_scalar(self.job.metric, row[self.job.metric], iteration)

    def _write(self, model: nn.Module, path: Path) -> None:
        assert isinstance(model, TopFormer | TopFormerClassifier)
        save_model(model, path, classes=_classes(self.job), protocol=_sizes(self.job))

    def _accuracy_pct(self, model: nn.Module, dataset: ClassFolders) -> float:
        count = dataset.length("val")
        right = right_answers(model, dataset, indices=self._own_share(count), progress=self._scoring)
        return 100 * int(self._summed(torch.tensor(right))) / count

    def _confusion(self, model: nn.Module, images: int | None) -> ConfusionMatrix:
        """Every process takes its share of the images."""
        assert not isinstance(self.job.dataset, ClassFolders)
        assert self.job.protocol is not None
        own = self._own_share(self._count(images))
        matrix = evaluate(model, self.job.dataset, self.job.protocol, indices=own, progress=self._scoring)
        matrix.counts = self._summed(torch.from_numpy(matrix.counts)).cpu().numpy().astype(np.int64)
        return matrix

    def _count(self, images: int | None) -> int:
        """Validation images, or the first so many of them."""
        count = self.job.dataset.length("val")
        return min(images or count, count)

    def _own_share(self, count: int) -> range:
        """The validation images that this process scores: the others would wait for the first one no longer than ten
        minutes."""
        return range(self.fabric.global_rank, count, self.fabric.world_size)

    def _scoring(self, done: int, total: int) -> None:
        self.say("scoring", done, total, "")

    def _summed(self, own: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        summed = self.fabric.all_reduce(own.to(self.fabric.device), reduce_op="sum")
        assert isinstance(summed, torch.Tensor)
        return summed

    def _draw(self, losses: list[float], iteration: int) -> None:
        for index in range(self._drawn, iteration):
            self._curves.add_scalar("loss", losses[index], index + 1)
            self._curves.add_scalar("learning_rate", self.job.recipe.learning_rate_at(index), index + 1)
        self._drawn = iteration
        self._curves.flush()


class _Rate:
    """Images a second since the first report, in words."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.first: tuple[int, float] | None = None

    def __call__(self, done: int) -> str:
        now = time.perf_counter()
        if self.first is None:
            self.first = (done, now)
        since, started = self.first
        return f", {(done - since) * self.batch_size / (now - started):.1f} images/s" if done > since else ""


def unsaid(_what: str, _done: int, _total: int, _says: str) -> None:
    """A `Report` where nobody looks."""


def _classes(job: TrainingJob) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    if isinstance(job.dataset, ClassFolders):
        return ()
    return tuple(zip(job.dataset.class_names, job.dataset.palette, strict=True))


def _sizes(job: TrainingJob) -> dict[str, int] | None:
    return None if job.protocol is None else asdict(job.protocol)


def default_intervals(iterations: int) -> tuple[int, int]:
    """Iterations between saves, about 100 of them in a run, and between scores, about 10.

    A score takes as long as tens of iterations, so there are at least `LEAST_BETWEEN_SCORES` iterations between two.
    """
    save = max(math.ceil(iterations / 100), 1)
    return save, max(round(max(iterations / 10, LEAST_BETWEEN_SCORES) / save), 1) * save

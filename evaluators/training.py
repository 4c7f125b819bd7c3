"""How is a network trained? The one loop that proxies, supernets and full trainings share.

Lightning Fabric carries it: one CPU, one GPU, or several processes. On a CPU the same seed, thread count and machine
give the same bits, wherever a training was interrupted: all that is random follows from the seed and the iteration.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from evaluators.base import ProgressCallback
from evaluators.datasets import SegmentationDataset
from evaluators.evaluation import recalibrate_batch_norm
from evaluators.objectives import Objective, Sandwich, objective_of
from evaluators.recipe import TrainingRecipe
from evaluators.samples import Batch, ImageDataset, Samples, batches, most_workers
from topformer.errors import UserError, first_line, ran_out_of_memory
from topformer.model import TopFormer, TopFormerClassifier, set_drop_path, zero_start_residuals
from topformer.supernet import Supernet

CURVE_POINTS = 10
_LOOK_EVERY = 20
"""Iterations after which a GPU is asked for its losses; asking waits for it."""
_WARM_UP, _TIMED = 4, 4
"""Iterations after which the number of workers is chosen, and over which it is measured."""


class NonFiniteLoss(UserError):  # noqa: N818, a loss that is not finite
    """Training diverged."""


class OutOfMemory(UserError):  # noqa: N818, as torch calls it
    """The device's memory does not suffice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a training is run. But for rounding, none of it changes what is learnt."""

    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to save memory; batch norm sees a part at a time."""
    workers: int | None = 0
    """Processes that prepare images, for each device; None: as many as the network needs, measured."""
    compile: bool = False
    save_every: int = 0
    """Iterations; 0 saves nothing on the way."""

    def __post_init__(self) -> None:
        if not 1 <= self.accumulate <= 1024:
            raise UserError(f"accumulate must be from 1 to 1024, not {self.accumulate}.")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise UserError(f"workers must be from 0 to 256, not {self.workers}.")
        if self.save_every < 0:
            raise UserError(f"save_every must not be negative, not {self.save_every}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a training took, on one process; its first iterations left out."""

    iterations: int
    seconds: float
    waiting_s: float
    """Of these, for images."""
    images: int
    workers: int
    peak_memory_bytes: int | None
    """Of a GPU; None on a CPU."""

    @property
    def images_per_s(self) -> float | None:
        """None where too little was done to tell."""
        return self.images / self.seconds if self.seconds else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of a training; the network itself was changed in place."""

    losses: tuple[float, ...]
    """Of every iteration, auxiliary loss left out."""
    speed: Speed

    @property
    def last_loss(self) -> float:
        """Mean over the last tenth of the iterations."""
        return float(np.mean(self.losses[-math.ceil(len(self.losses) / 10) :]))

    @property
    def curve_loss(self) -> tuple[float, ...]:
        """Mean over each tenth of the iterations, or each one where there are fewer than ten."""
        parts = np.array_split(np.array(self.losses), min(CURVE_POINTS, len(self.losses)))
        return tuple(float(part.mean()) for part in parts)


class Keeper(Protocol):
    """Keeps the state of a training between processes. Called in every process, since states are gathered."""

    def restore(self) -> Mapping[str, Any] | None:
        """The state last saved; None: there is none."""

    def save(self, iteration: int, state: Mapping[str, Any], network: nn.Module, averaged: nn.Module | None) -> None:
        """After so many iterations. `averaged` is what is to be scored and kept, where weights are averaged."""


def train(
    model: TopFormer | TopFormerClassifier | Supernet,
    dataset: ImageDataset,
    recipe: TrainingRecipe,
    *,
    train_images: int,
    seed: int,
    sandwich: Sandwich | None = None,
    fabric: Fabric | None = None,
    execution: Execution = Execution(),
    keeper: Keeper | None = None,
    progress: ProgressCallback | None = None,
    observe: Callable[[nn.Module], None] | None = None,
) -> Trained:
    """Train in place on the first `train_images` of the data set and leave the model in eval mode.

    A supernet needs a `sandwich`: which subnets learn at which iteration. Without a `fabric`, on the device that the
    model is on. `observe` gets, after each tenth of the iterations, the network that would be kept, in eval mode; what
    is learnt does not depend on it. Torch's generator is left as it was. Raises `NonFiniteLoss`, `OutOfMemory`, and
    `UserError` for what the data set cannot give; what `keeper` saved before stays.
    """
    fabric = fabric or Fabric(accelerator=next(model.parameters()).device.type, devices=1)
    require_shareable(recipe, devices=fabric.world_size, accelerator=fabric.device.type, execution=execution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            samples = Samples(
                dataset=dataset,
                images=train_images,
                seed=seed,
                augmentation=recipe.augmentation,
                sparse_labels=bool(recipe.sparse_labels),
            )
            objective = objective_of(model, dataset, recipe, train_images=train_images, sandwich=sandwich)
            return _Loop(model, objective, samples, recipe, fabric, execution, keeper, progress, observe).run()
        except (RuntimeError, ValueError, MemoryError) as error:
            if sentence := _in_words(error, recipe, fabric.world_size * execution.accumulate):
                raise sentence from error
            raise


def require_shareable(recipe: TrainingRecipe, *, devices: int, accelerator: str, execution: Execution) -> None:
    """Raises `UserError` where the devices cannot share a batch."""
    parts = devices * execution.accumulate
    if recipe.batch_size % parts:
        raise UserError(
            f"batch_size {recipe.batch_size} cannot be shared equally by {devices} devices x "
            f"{execution.accumulate} parts; choose a multiple of {parts}."
        )
    if devices > 1 and accelerator == "cpu" and not recipe.freeze_norms:
        raise UserError(
            "several processes on a CPU cannot share batch-norm statistics: train in one process, or with freeze_norms."
        )


def _in_words(error: Exception, recipe: TrainingRecipe, parts: int) -> UserError | None:
    """What torch says by type or text alone."""
    said = str(error)
    if ran_out_of_memory(error):
        return _out_of_memory(recipe, parts)
    if "DataLoader" in said and ("worker" in said or "timed out" in said):
        return UserError(
            f"a process that prepares images ended or hung ({first_line(error)[:200]}); is there enough memory for "
            "--workers? What was saved is kept: the same command goes on from there."
        )
    if "more than 1 value per channel" in said:
        return UserError(
            f"batch norm has no variance: of {recipe.batch_size} images {parts} parts get "
            f"{recipe.batch_size // parts} each, and a map is a single pixel; compute the batch in fewer parts "
            "(accumulate), or choose a larger crop or batch_size."
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return UserError(f"torch.compile failed ({first_line(error)[:200]}); train with --no-compile.")
    return None


def _out_of_memory(recipe: TrainingRecipe, parts: int) -> OutOfMemory:
    return OutOfMemory(
        f"out of memory with {recipe.batch_size // parts} images at a time; compute the batch in more parts "
        "(accumulate), or choose a smaller crop or batch_size. What was saved is kept."
    )


@dataclass(eq=False)
class _Loop:
    """One training in one process."""

    model: TopFormer | TopFormerClassifier | Supernet
    objective: Objective
    samples: Samples
    recipe: TrainingRecipe
    fabric: Fabric
    execution: Execution
    keeper: Keeper | None
    progress: ProgressCallback | None
    observe: Callable[[nn.Module], None] | None

    def __post_init__(self) -> None:
        model, recipe, fabric, execution = self.model, self.recipe, self.fabric, self.execution
        self._observed = {round(share * recipe.iterations / CURVE_POINTS) for share in range(1, CURVE_POINTS + 1)}
        self.size = recipe.batch_size // (fabric.world_size * execution.accumulate)
        self.losses: list[float] = []
        if recipe.zero_start:
            zero_start_residuals(model)
        set_drop_path(model, recipe.drop_path)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)  # type: ignore[no-untyped-call]
        self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
        self.objective.to(fabric.device)
        average = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if recipe.ema_decay else None
        optimiser = torch.optim.AdamW(_groups(self.objective, recipe), fused=True)
        runs: nn.Module = self.objective
        if execution.compile:
            runs = cast(nn.Module, torch.compile(runs))
        self.runs, self.optimiser = fabric.setup(runs, optimiser)
        self._clock = _Clock(fabric.device)

    def run(self) -> Trained:
        first = self._restore()
        self._to_training()
        if first < self.recipe.iterations:
            self._iterate(first)
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
        if self.recipe.recalibration_images:
            recalibrate_batch_norm(
                self.model,
                cast("SegmentationDataset", self.samples.dataset),
                images=min(self.recipe.recalibration_images, self.samples.images),
            )
        set_drop_path(self.model, 0)
        self.model.eval()
        return Trained(losses=tuple(self.losses), speed=self._clock.speed(self.recipe.batch_size))

    def _to_training(self) -> None:
        self.objective.train()
        if self.recipe.freeze_norms:
            for module in self.objective.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _iterate(self, first: int) -> None:
        known = self.execution.workers
        probe = first + _WARM_UP + _TIMED
        if known is None and probe < self.recipe.iterations:
            with self._batches(first, 0) as here:
                self._steps(range(first, probe), here)
            first, known = probe, self._clock.workers_needed(most_workers() // self.fabric.world_size or 1)
        self._clock.workers = known or 0
        with self._batches(first, known or 0) as here:
            self._steps(range(first, self.recipe.iterations), here)

    def _batches(self, iteration: int, workers: int) -> Any:
        """This process's parts of the batches from `iteration` on."""
        return batches(
            self.samples,
            first=iteration * self.recipe.batch_size + self.fabric.global_rank * self.size,
            size=self.size,
            stride=self.fabric.world_size * self.size,
            workers=workers,
            pin=self.fabric.device.type == "cuda",
        )

    def _steps(self, iterations: range, here: Iterator[Batch]) -> None:
        on_cpu = self.fabric.device.type == "cpu"
        pending: list[Tensor] = []
        for iteration in iterations:
            self._clock.lap(iteration - iterations.start)
            pending.append(self._step(iteration, here))
            done = iteration + 1
            saves = self.keeper is not None and self.execution.save_every and done % self.execution.save_every == 0
            if on_cpu or saves or done == iterations.stop or len(pending) == _LOOK_EVERY:
                self._look(pending, iteration)
                pending = []
            self._clock.stop()
            if self.keeper is not None and (saves or done == self.recipe.iterations):
                averaged = None if self.averaged is None else self.averaged.module
                self._require_finite(done)
                self.keeper.save(done, self._state(done), self.model, averaged)
                self._to_training()
            if self.observe is not None and done in self._observed:
                kept = self.model if self.averaged is None else self.averaged.module
                self.observe(kept.eval())
                self._to_training()

    def _step(self, iteration: int, here: Iterator[Batch]) -> Tensor:
        """(2,): loss and gradient norm, or 0 where nothing is clipped; not waited for."""
        torch.manual_seed(_step_seed(self.samples.seed, iteration, self.fabric.global_rank))
        self.objective.begin(iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = group["multiplier"] * self.recipe.learning_rate_at(iteration)
        with self._clock.waiting():
            parts = [next(here) for _ in range(self.execution.accumulate)]
        targets = [part.targets.to(self.fabric.device, non_blocking=True) for part in parts]
        weight = self._weight_of_a_part(targets)
        total = torch.zeros((), device=self.fabric.device)
        for index, (part, target) in enumerate(zip(parts, targets, strict=True), start=1):
            images = part.images.to(self.fabric.device, non_blocking=True)
            goes_on = self.fabric.world_size > 1 and index < len(parts)
            with self.fabric.no_backward_sync(self.runs) if goes_on else nullcontext():
                objective, loss = self.runs(images, target, weight)
                self.fabric.backward(objective / len(parts))
            total += loss.detach() / len(parts)
        norm = torch.zeros((), device=self.fabric.device)
        if self.recipe.clip_norm or self.fabric.device.type == "cpu":
            most = self.recipe.clip_norm or math.inf
            found = self.fabric.clip_gradients(self.objective, self.optimiser, max_norm=most, error_if_nonfinite=False)
            norm = norm if found is None else found.detach()
        if self.fabric.device.type == "cpu" and not (math.isfinite(total.item()) and math.isfinite(norm.item())):
            raise self._diverged(iteration, total.item(), norm.item())  # before the weights are spoilt
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return torch.stack((total, norm))

    def _weight_of_a_part(self, targets: list[Tensor]) -> Tensor:
        """Weight of the labels of the whole batch, over all processes, divided by the number of parts: a pixel counts
        as much wherever it is computed."""
        weights = torch.stack([self.objective.label_weight(target) for target in targets]).mean()
        return cast(Tensor, self.fabric.all_reduce(weights, reduce_op="mean"))

    def _look(self, pending: list[Tensor], iteration: int) -> None:
        values = cast(Tensor, self.fabric.all_reduce(torch.stack(pending), reduce_op="mean")).tolist()
        for offset, (loss, norm) in enumerate(values, start=iteration - len(pending) + 1):
            if not math.isfinite(loss):  # a scaled fp16 gradient may overflow: its step is left out
                raise self._diverged(offset, loss, norm)
            self.losses.append(loss)
        if self.progress and self.fabric.is_global_zero:
            self.progress(iteration + 1, self.recipe.iterations, self.losses[-1])

    def _diverged(self, iteration: int, loss: float, norm: float) -> NonFiniteLoss:
        return NonFiniteLoss(
            f"training diverged at iteration {iteration + 1} of {self.recipe.iterations}: loss {loss:g}, "
            f"gradient norm {norm:g}; lower the learning rate ({self.recipe.learning_rate:g}) "
            f"or warm up for longer (warmup_share {self.recipe.warmup_share:g})."
        )

    def _require_finite(self, iteration: int) -> None:
        """Batch-norm statistics overflow before the loss does."""
        for name, tensor in self.objective.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteLoss(
                    f"training diverged by iteration {iteration} of {self.recipe.iterations}: {name} has values that "
                    f"are not finite; lower the learning rate ({self.recipe.learning_rate:g}) or warm up for longer "
                    f"(warmup_share {self.recipe.warmup_share:g})."
                )

    def _state(self, iteration: int) -> dict[str, Any]:
        """All that the next iteration needs, but for what follows from the recipe, the data and the seed."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        return {
            "iteration": iteration,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def _restore(self) -> int:
        """Iterations done."""
        state = self.keeper.restore() if self.keeper else None
        if state is None:
            return 0
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the saved state does not fit this training ({first_line(error)[:200]}); was it saved by another "
                "version? Remove state.pt to start anew."
            ) from None
        return int(state["iteration"])

    def _load(self, state: Mapping[str, Any]) -> None:
        """Raises anything where the state is not of this training."""
        if missing := {"objective", "optimiser", "averaged", "scaler", "losses"} - state.keys():
            raise ValueError(f"it lacks {min(missing)}")
        losses = state["losses"].tolist()
        if len(losses) != state["iteration"] or len(losses) > self.recipe.iterations:
            raise ValueError(f"{len(losses)} losses after {state['iteration']} of {self.recipe.iterations} iterations")
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        for parameter, moments in self.optimiser.state.items():
            for name, moment in moments.items():
                if moment.ndim and moment.shape != parameter.shape:
                    raise ValueError(f"{name} of shape {tuple(moment.shape)} for {tuple(parameter.shape)}")
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        scaler = getattr(self.fabric._precision, "scaler", None)
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        self.losses = losses


def _step_seed(seed: int, iteration: int, rank: int) -> int:
    """Below 2**63."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{iteration}/{rank}".encode()).digest()[:8]) >> 1


def _groups(objective: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = (
            recipe.head_multiplier if name.startswith(("network.head.", "network.network.head.", "auxiliary.")) else 1.0
        )
        decays = recipe.decay_norms or parameter.ndim > 1
        groups.setdefault((multiplier, recipe.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "multiplier": multiplier, "lr": multiplier * recipe.learning_rate, "weight_decay": decay}
        for (multiplier, decay), parameters in groups.items()
    ]


class _Clock:
    """How fast it goes, and how long it waits for images; the first laps are left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.workers = 0
        self.laps = 0
        self.waited_s = self.seconds = 0.0
        self._started: float | None = None
        self._lap_wait_s = 0.0

    def lap(self, index: int) -> None:
        """An iteration begins."""
        self._lap_wait_s = 0.0
        self._started = time.perf_counter() if index >= _WARM_UP else None

    def stop(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self.waited_s += self._lap_wait_s
            self.laps += 1
        self._lap_wait_s, self._started = 0.0, None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Images are waited for."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lap_wait_s += time.perf_counter() - start

    def workers_needed(self, most: int) -> int:
        """From iterations in which this process made the images itself: workers that keep up, and one to spare."""
        self.stop()
        computing_s = max(self.seconds - self.waited_s, 1e-9)
        needed = math.ceil(self.waited_s / computing_s)
        self.seconds = self.waited_s = 0.0
        self.laps = 0
        return min(needed + 1, most)

    def speed(self, batch_size: int) -> Speed:
        on_gpu = self.device.type == "cuda"
        return Speed(
            iterations=self.laps,
            seconds=self.seconds,
            waiting_s=self.waited_s,
            images=self.laps * batch_size,
            workers=self.workers,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.device) if on_gpu else None,
        )

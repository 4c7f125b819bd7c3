"""How long will a study take? Said before it begins, from some steps of training of the smallest and largest anchor."""

from __future__ import annotations

from dataclasses import replace

import torch

from evaluators.base import Evaluator, clocks
from evaluators.evaluation import evaluate
from evaluators.proxy import CURVE_IMAGES, ProxyEvaluator, one_torch_thread
from evaluators.training import CURVE_POINTS, train
from experiments.search.schedule import Confirmation, Schedule
from experiments.study_config import StudyConfig
from topformer.config import ANCHORS, Candidate
from topformer.model import TopFormer

ITERATIONS = 3
IMAGES = 2


def forecast(config: StudyConfig, evaluator: Evaluator, schedule: Schedule, *, workers: int) -> str | None:
    """What the trainings of a study on photographs take; None where something else than a recipe trains, or on scenes.

    Screens are left out: what scores in seconds adds little.
    """
    parts = [
        (evaluator, config.search.trials),
        *((rung.evaluator, _trainings(config, rung)) for rung in _rungs(schedule)),
    ]
    task = config.search_space().task
    ends = [Candidate(arch=ANCHORS[name], task=task) for name in ("tiny", "base")]
    said, total = [], 0.0
    for one, count in parts:
        if not isinstance(one, ProxyEvaluator) or one.recipe.protocol is None or any(map(one.why_not, ends)):
            return None
        least, most = sorted(cpu_seconds(one, end) for end in ends)
        said.append(f"{count} trainings by {one.fidelity} of {least:.0f} to {most:.0f} s")
        total += count * (least + most) / 2
    spread = f", about {_duration(total / workers)} with {workers} workers" if workers > 1 else ""
    return f"{' and '.join(said)} each, {_duration(total)} of one core in all{spread}."


def _rungs(schedule: Schedule) -> tuple[Confirmation, ...]:
    return tuple(rung for rung in schedule.confirmations if rung.keep is not None or rung.trainings is not None)


def _trainings(config: StudyConfig, rung: Confirmation) -> int:
    """At most: a race may end before."""
    if rung.racing and rung.trainings is not None:
        return rung.trainings
    members = (rung.keep or 0) + len(config.search.anchors)
    return rung.budget(members) if rung.racing else members * rung.replicates


def cpu_seconds(evaluator: ProxyEvaluator, candidate: Candidate) -> float:
    """What one evaluation takes on this machine, from a few iterations and a few scored images; nothing is kept."""
    recipe = evaluator.recipe
    training, seen = recipe.augmented(recipe.training, candidate), recipe.seen(evaluator.dataset, candidate)
    protocol = recipe.protocol_for(candidate)
    assert protocol is not None, "asked for photographs alone"
    with one_torch_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TopFormer(candidate.arch, num_classes=evaluator.dataset.num_classes)
        spent = []
        for iterations in (ITERATIONS, 2 * ITERATIONS):  # the first one opens files, too
            before = clocks()[1]
            short = replace(training, iterations=iterations)
            train(model, seen, short, train_images=recipe.train_images(seen), seed=0)
            spent.append(clocks()[1] - before)
        images = min(IMAGES, evaluator.dataset.length("val"))
        before = clocks()[1]
        evaluate(model.eval(), evaluator.dataset, protocol, indices=range(images))
        scoring = (clocks()[1] - before) / images
    each = max(spent[1] - spent[0], 0.0) / ITERATIONS
    count = evaluator.dataset.length("val")
    scored = (
        count + CURVE_POINTS * min(CURVE_IMAGES, count) + (evaluator.dataset.length("test") if evaluator.judges else 0)
    )
    return max(spent[0] - ITERATIONS * each, 0.0) + training.iterations * each + scored * scoring


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"

"""Which candidates come next? A sampler is asked, and the gate (`gate.py`) stands before the ask becomes a trial.

`auto` asks our own `Guide`, the others Optuna's samplers in memory. The store is the persistent truth; every batch
rebuilds what a sampler knows from it, with a seed of (study seed, batch), so that an interrupted study goes on exactly
as it would have. The gate drops what may not be a trial before it is one: no trial exists that would need an invented
mIoU.
"""

from __future__ import annotations

import hashlib
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from scipy.stats import kendalltau

from experiments.front.pareto import evaluated, front, nearest, points
from experiments.front.predictor import LEAST_POINTS
from experiments.search.gate import Gate, Limits
from experiments.search.guided import Evaluated, Guide
from experiments.store.records import BatchStatistics, Origin, Proposal, Trial
from experiments.study_config import SearchSection
from search_space.space import SearchSpace
from topformer.config import Candidate
from topformer.errors import unknown_name

ASKS_PER_TRIAL = 100
"""Proposals asked of a sampler per trial of a batch before the space's own neighbourhood takes over."""
SLOW_ASKS_PER_TRIAL = 3
"""Of one that takes seconds for each."""

MOST_LEARNT = 4000
"""Trials that `auto` learns from: choosing a batch then takes ten seconds, and grows with their third power."""
LEAST_PARENTS = 2
_GENERATIONS = ("NSGAIISampler:generation", "NSGAIIISampler:generation")
"""Optuna's own marks: NSGA ignores an added trial that lacks them (optuna#3388); other samplers ignore the marks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a sampler is asked for, and what it may know."""

    space: SearchSpace
    done: Sequence[Trial]
    """Evaluated at the study's fidelity."""
    others: Sequence[Trial]
    """Failed and unfinished ones."""
    seed: int
    size: int
    population: int
    guide: Callable[[], Guide]


Sampler = Callable[[Request], Iterator[Candidate]]
"""Proposes candidates of the space in its order of preference; the gate drops those that may not be trials."""


def guided(request: Request) -> Iterator[Candidate]:
    """Our own: see `experiments.search.guided`."""
    guide = request.guide()
    if len(request.done) < LEAST_POINTS:
        proposed = guide.spread([trial.point for trial in request.done], size=request.size, seed=request.seed)
    else:
        learnt = learnt_from(request.done)
        known, numbers = known_to_guide(learnt), {trial.number for trial in learnt}
        others = [trial.point for trial in (*request.others, *request.done) if trial.number not in numbers]
        proposed = guide.batch(known, others, size=2 * request.size, seed=request.seed)
    for point in proposed:
        yield request.space.decode(point)


def learnt_from(done: Sequence[Trial]) -> Sequence[Trial]:
    """All completed trials, or `MOST_LEARNT` of them: half nearest to the front, half evenly of the others."""
    if len(done) <= MOST_LEARNT:
        return done
    near = set(nearest(points(done), MOST_LEARNT // 2))
    rest = [index for index in range(len(done)) if index not in near]
    places = np.linspace(0, len(rest) - 1, MOST_LEARNT - len(near)).astype(int)
    return [done[index] for index in sorted({*near, *(rest[place] for place in places)})]


def known_to_guide(done: Sequence[Trial]) -> Evaluated:
    """What `auto` learns from completed trials."""
    return Evaluated(
        points=[trial.point for trial in done],
        latency_ms=np.array([trial.latency.total_ms for trial in done]),
        miou_pct=np.array([trial.miou_pct for trial in done], dtype=np.float64),
    )


def left_out_agreement(done: Sequence[Trial], guide: Guide) -> tuple[float, float]:
    """How well `auto` predicts each completed trial from the others: Kendall's tau, and the root mean squared error in
    per cent of mIoU, over those it learns from. Raises `ValueError` for fewer than it predicts from."""
    if len(done) < LEAST_POINTS + 1:
        raise ValueError(f"{len(done)} trials are too few to leave one out.")
    known = known_to_guide(learnt_from(done))
    predicted = guide.fit(known).left_out
    tau = float(kendalltau(predicted, known.miou_pct).statistic)
    return tau, float(np.sqrt(np.mean((predicted - known.miou_pct) ** 2)))


@dataclass(frozen=True, slots=True)
class OptunaSampler:
    """A sampler of Optuna's, made anew for every batch with (seed, population)."""

    make: Callable[[int, int], BaseSampler]
    asks_per_trial: int = ASKS_PER_TRIAL

    def __call__(self, request: Request) -> Iterator[Candidate]:
        study = self.rebuilt(request)
        for _ in range(self.asks_per_trial * request.size):
            yield request.space.suggest(study.ask())

    def rebuilt(self, request: Request) -> optuna.study.Study:
        """The study so far as Optuna knows it: every completed trial, anchors included, in the sampler's population."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.make(request.seed, max(request.population, LEAST_PARENTS))
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        if len(request.done) < LEAST_PARENTS:
            return study
        distributions = {
            name: CategoricalDistribution(choices) for name, choices in request.space.distributions().items()
        }
        for trial in request.done:
            study.add_trial(
                optuna.trial.create_trial(
                    values=[trial.miou_pct or 0.0, trial.latency.total_ms],
                    params=dict(trial.point),
                    distributions=dict(distributions),
                    system_attrs=dict.fromkeys(_GENERATIONS, trial.batch),
                )
            )
        if isinstance(sampler, NSGAIISampler | NSGAIIISampler):
            last = max(trial.batch for trial in request.done)
            if not any(trial.batch == last and trial.state == "proposed" for trial in request.others):
                # failures do not hold a generation open
                sampler.population_size = sum(trial.batch == last for trial in request.done)
        return study


SAMPLERS: Mapping[str, Sampler] = {
    "auto": guided,
    "nsga2": OptunaSampler(lambda seed, population: NSGAIISampler(seed=seed, population_size=population)),
    "nsga3": OptunaSampler(lambda seed, population: NSGAIIISampler(seed=seed, population_size=population)),
    "tpe": OptunaSampler(lambda seed, _: TPESampler(seed=seed, n_startup_trials=10)),
    "gp": OptunaSampler(lambda seed, _: GPSampler(seed=seed), SLOW_ASKS_PER_TRIAL),
    "random": OptunaSampler(lambda seed, _: RandomSampler(seed=seed)),
}


def next_batch(
    space: SearchSpace,
    trials: Sequence[Trial],
    search: SearchSection,
    *,
    batch: int,
    size: int,
    limits: Limits,
    guide: Callable[[], Guide],
    fidelity: str,
) -> tuple[tuple[Proposal, ...], BatchStatistics]:
    """Up to `size` new candidates of the space within the budget; fewer only when the space is exhausted.

    The anchors lead the first batch, whatever the budget: they are what a front is compared with.
    """
    gate = Gate(space, limits, known={trial.candidate.key for trial in trials})
    if batch == 0:
        for name in search.anchors:
            gate.add_anchor(name)
    started = time.perf_counter()
    done = evaluated(trials, fidelity=fidelity)
    settled = {trial.number for trial in done}
    request = Request(
        space=space,
        done=done,
        others=[trial for trial in trials if trial.number not in settled],
        seed=_derived_seed(search.seed, batch, "sampler"),
        size=size - len(gate.proposals),
        population=search.batch_size,  # a last, shorter batch falls short of it
        guide=guide,
    )
    for candidate in sampler_named(search.sampler)(request) if request.size > 0 else ():
        if len(gate.proposals) >= size:
            break
        gate.consider(candidate, "sampler")
    sampler_seconds = time.perf_counter() - started
    fill = random.Random(_derived_seed(search.seed, batch, "fill"))
    lacks = len(gate.proposals) < size
    for candidate, origin in _fallback(space, front(trials, fidelity=fidelity), fill) if lacks else ():
        if len(gate.proposals) >= size:
            break
        gate.consider(candidate, origin)
    statistics = BatchStatistics(
        asked=gate.asked,
        invalid=gate.invalid,
        over_budget=gate.over_budget,
        duplicates=gate.duplicates,
        sampler_seconds=sampler_seconds,
    )
    return tuple(gate.proposals), statistics


def sampler_named(name: str) -> Sampler:
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _fallback(space: SearchSpace, members: Sequence[Trial], rng: random.Random) -> Iterator[tuple[Candidate, Origin]]:
    """When the sampler repeats itself: neighbours of the front, then the space at random, then all of it."""
    near = [neighbour for member in members for neighbour in space.neighbours(member.candidate)]
    rng.shuffle(near)
    for candidate in near:
        yield candidate, "neighbour"
    for _ in range(ASKS_PER_TRIAL * 10):
        yield space.sample(rng), "random"
    if space.size <= 100_000:
        for candidate in space.candidates():
            yield candidate, "random"


def _derived_seed(seed: int, batch: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed}/{batch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

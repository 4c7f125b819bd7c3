"""How accurate are the networks of a table here, and do the paper's orderings of them hold?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.base import ClassCounts, Scorer
from evaluators.datasets import SegmentationDataset
from evaluators.datasets.acceptance import examined
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import dataset_named
from evaluators.named import scorer_named
from evaluators.proxy import REFERENCE
from evaluators.trust import NEARLY_EQUAL_PCT, Z_90, Ordering, Verdict, replicate_noise, verdict
from experiments.paper.tables import PaperTable, paper_tables
from experiments.store.ledger import read_records
from experiments.store.records import Record
from experiments.store.store import Store
from experiments.trust.standing import shipped_reports
from experiments.workers.pool import worker_pool
from experiments.workers.recorded import Want, recorded
from topformer.config import Candidate, Task

RESAMPLES = 2000
MOST_SEEDS = 20
"""Trainings of one network that are looked for."""
_FREEDOM = 5
"""Repeated trainings, less one for each network, from which on their spread is taken for the noise."""

Identity = tuple[str, str, int]
"""Candidate, evaluator and replicate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What one training of a network reached, on the images by which nothing is chosen where the data have such."""

    miou_pct: float
    judged: bool
    """Scored on images by which nothing is chosen."""
    blocks: NDArray[np.float64] | None
    """(blocks of images, classes, 3) pixels: rightly predicted, labelled, predicted; None for images of one size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What trainings here say of the networks of a table."""

    dataset: str
    fidelity: str
    judged: bool
    """Scored on images by which nothing was chosen."""
    by_row: Mapping[str, Sequence[Training]]
    """Trainings by the name of the row; none for a network that was not trained."""
    noise_pct: float | None
    """Standard deviation between trainings of one network, in points; None where too few were repeated."""
    decided: Sequence[Decided]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """An ordering of the paper, and what trainings here say of it."""

    ordering: Ordering
    trainings: tuple[int, int]
    """How many of the first network and of the second."""
    difference_pct: float
    low_pct: float | None
    """90 % interval of the difference; None where the noise of a training is not known."""
    high_pct: float | None
    verdict: Verdict
    more_seeds: int | None
    """Trainings of each that would about decide a difference like this one; None where it is decided, or unknown."""

    @property
    def why(self) -> str | None:
        """Why nothing is decided, and what would; None where it is."""
        if self.verdict != "undecided":
            return None
        if self.low_pct is None:
            return "the noise of a training is not known: train more seeds"
        if self.ordering.relation == "nearly equal":
            return f"the interval reaches over {NEARLY_EQUAL_PCT:g} point"
        return f"about {self.more_seeds} seeds of each would tell" if self.more_seeds else "the interval reaches over 0"

    def as_dict(self) -> dict[str, Any]:
        return {
            "ordering": self.ordering.name,
            "relation": self.ordering.relation,
            "published_pct": self.ordering.published_pct,
            "trainings": list(self.trainings),
            "difference_pct": round(self.difference_pct, 2),
            "interval_90": None
            if self.low_pct is None or self.high_pct is None
            else [round(self.low_pct, 2), round(self.high_pct, 2)],
            "verdict": self.verdict,
            "would_decide": self.more_seeds,
        }


def scores(
    tables: Sequence[PaperTable],
    data: str,
    *,
    fidelity: str = REFERENCE.name,
    replicates: int = 1,
    files: Sequence[Path] = (),
    store: Store | None = None,
    workers: int | None = None,
    accept: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda *_: None,
    say: Callable[[Iterable[str]], None] = lambda _: None,
) -> dict[str, Scores]:
    """What is known of the networks of each table, by the table's name; tables that do not train are left out.

    With `workers`, what neither the files of records, the shipped trust reports nor the store know is trained, and
    recorded in the store. Raises `UserError` for data or a fidelity that cannot be used.
    """
    training = [table for table in tables if table.trains]
    if not training:
        return {}
    dataset = dataset_named(data)
    if workers is not None:
        say(examined(dataset, accept))
    scorer = scorer_named(fidelity, REFERENCE, dataset)
    asked = wants(training, scorer, classes=dataset.num_classes, replicates=replicates)
    everything = wants(paper_tables().values(), scorer, classes=dataset.num_classes, replicates=MOST_SEEDS)
    known = known_before(everything, files=files)
    known |= _of_store([want for want in everything if want.identity not in known], store, None, tell)
    if workers is not None:
        known |= _of_store([want for want in asked if want.identity not in known], store, workers, tell)
    found: dict[str, list[Training]] = {}
    for want in everything:  # their spread tells the noise, whichever tables are asked for
        if want.identity in known:
            found.setdefault(want.candidate.key, []).append(known[want.identity])
    noise_pct = noise_of(found.values())
    return {
        table.name: _scores_of(table, found, dataset=dataset, scorer=scorer, noise_pct=noise_pct) for table in training
    }


def _of_store(
    lacking: Sequence[Want], store: Store | None, workers: int | None, tell: Callable[[int, int], None]
) -> dict[Identity, Training]:
    if store is None:
        return {}
    if workers is None:
        records = store.known_records(want.identity for want in lacking)
    else:
        with worker_pool(workers) as pool:
            every = recorded(lacking, store, pool, tell=tell)
        records = dict(zip((want.identity for want in lacking), every, strict=True))
    return {identity: training for identity, record in records.items() if (training := training_of(record))}


def _scores_of(
    table: PaperTable,
    found: Mapping[str, Sequence[Training]],
    *,
    dataset: SegmentationDataset,
    scorer: Scorer,
    noise_pct: float | None,
) -> Scores:
    networks = {row.name: row.candidate for row in table.rows if row.candidate is not None}
    own = {name: found.get(on_classes(one, dataset.num_classes).key, ()) for name, one in networks.items()}
    by_arch = {networks[name].arch: trainings for name, trainings in own.items() if trainings}
    return Scores(
        dataset=dataset.root.name if isinstance(dataset, LabelledFiles) else dataset.name,
        fidelity=scorer.fidelity,
        judged=any(one.judged for trainings in own.values() for one in trainings),
        by_row=own,
        noise_pct=noise_pct,
        decided=tuple(
            decided(one, by_arch[one.first], by_arch[one.second], noise_pct=noise_pct)
            for one in table.orderings
            if one.first in by_arch and one.second in by_arch
        ),
    )


def wants(tables: Iterable[PaperTable], scorer: Scorer, *, classes: int, replicates: int) -> tuple[Want, ...]:
    """Every training that the tables ask for, each once, all networks by their first seed before any second one."""
    found: dict[Identity, Want] = {}
    networks = {row.name: row.candidate for table in tables if table.trains for row in table.rows}
    for replicate in range(replicates):
        for name, candidate in networks.items():
            if candidate is not None:
                own = on_classes(candidate, classes)
                want = Want(scorer=scorer, candidate=own, replicate=replicate, called=name)
                found.setdefault(want.identity, want)
    return tuple(found.values())


def on_classes(candidate: Candidate, classes: int) -> Candidate:
    """The same network for another data set."""
    return replace(candidate, task=replace(candidate.task, num_classes=classes))


def known_before(asked: Sequence[Want], *, files: Iterable[Path] = ()) -> dict[Identity, Training]:
    """What files of records and the shipped trust reports have of them."""
    identities = {want.identity for want in asked}
    known = {identity: training for identity, training in _shipped(asked) if identity in identities}
    for path in files:
        for one in read_records(path):
            identity = (one.candidate.key, one.record.evaluator, one.record.replicate)
            if identity in identities and (training := training_of(one.record)):
                known[identity] = training
    return known


def training_of(record: Record) -> Training | None:
    """None for a failed evaluation, and for one that scores otherwise than in mIoU."""
    found = record.accuracy
    if found is None:
        return None
    blocks = found.judge_blocks if found.judge_miou_pct is not None else found.blocks
    return Training(
        miou_pct=found.miou_pct if found.judge_miou_pct is None else found.judge_miou_pct,
        judged=found.judge_miou_pct is not None,
        blocks=None if blocks is None else pixel_counts(blocks),
    )


def noise_of(every: Iterable[Sequence[Training]]) -> float | None:
    """Standard deviation between trainings of one network, in points; None for fewer than a handful of repetitions."""
    of_each = [[one.miou_pct for one in of_one] for of_one in every]
    freedom = sum(len(of_one) - 1 for of_one in of_each)
    return replicate_noise(of_each) if freedom >= _FREEDOM else None


def decided(
    ordering: Ordering, first: Sequence[Training], second: Sequence[Training], *, noise_pct: float | None
) -> Decided:
    """By resampling seeds and blocks of images together where images are in blocks, else by the noise of a training."""
    difference = float(np.mean([one.miou_pct for one in first]) - np.mean([one.miou_pct for one in second]))
    blocks = [one.blocks for one in (*first, *second)]
    interval, in_blocks = None, False
    if min(len(first), len(second)) > 1 and all(one is not None for one in blocks):
        interval, in_blocks = resampled(first, second), True
    elif noise_pct is not None:
        margin = Z_90 * noise_pct * math.sqrt(1 / len(first) + 1 / len(second))
        interval = difference - margin, difference + margin
    said = "undecided" if interval is None else verdict(ordering.relation, *interval)
    more = None
    if (
        said == "undecided"
        and not in_blocks
        and noise_pct
        and abs(difference) > 0
        and ordering.relation != "nearly equal"
    ):
        more = math.ceil(2 * (Z_90 * noise_pct / difference) ** 2)
    return Decided(
        ordering=ordering,
        trainings=(len(first), len(second)),
        difference_pct=difference,
        low_pct=interval[0] if interval else None,
        high_pct=interval[1] if interval else None,
        verdict=said,
        more_seeds=more,
    )


def resampled(first: Sequence[Training], second: Sequence[Training]) -> tuple[float, float]:
    """90 % interval of the difference of the means; the same blocks of images are drawn for both networks."""
    rng = np.random.default_rng(0)
    ours, theirs = ([one.blocks for one in side if one.blocks is not None] for side in (first, second))
    drawn = []
    for _ in range(RESAMPLES):
        blocks = rng.integers(0, len(ours[0]), len(ours[0]))
        means = [
            np.mean([miou_of_blocks(seeds[one][blocks]) for one in rng.integers(0, len(seeds), len(seeds))])
            for seeds in (ours, theirs)
        ]
        drawn.append(means[0] - means[1])
    low, high = np.percentile(drawn, [5, 95])
    return float(low), float(high)


def miou_of_blocks(blocks: NDArray[np.float64]) -> float:
    """Per cent, from (blocks, classes, 3) counts of pixels: rightly predicted, labelled, predicted."""
    right, labelled, predicted = blocks.sum(axis=0).T
    union = labelled + predicted - right
    there = union > 0
    return float(100 * np.mean(right[there] / union[there]))


def pixel_counts(blocks: tuple[ClassCounts, ...]) -> NDArray[np.float64]:
    """(blocks, classes, 3)."""
    return np.array(blocks, dtype=np.float64)


def _shipped(asked: Sequence[Want]) -> Iterator[tuple[Identity, Training]]:
    """References of the reports that come with the tool."""
    for report in shipped_reports():
        task = Task(image_size=(report.image_size[0], report.image_size[1]), num_classes=report.num_classes)
        evaluators = {want.scorer.fingerprint for want in asked}
        if report.reference_evaluator not in evaluators:
            continue
        keys = {want.candidate.arch.key: want.candidate.key for want in asked if want.candidate.task == task}
        for member in report.members:
            for replicate, value in enumerate(member.values.get(report.reference, [])):
                if member.key in keys:
                    identity = (keys[member.key], report.reference_evaluator, replicate)
                    yield identity, Training(miou_pct=value, judged=False, blocks=None)

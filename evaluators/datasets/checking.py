"""Is a data set on disk complete and sound? Counts, sizes, classes, and every file that would stop a training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.datasets import IGNORE
from evaluators.datasets.files import ILLEGAL, DataError, LabelledFiles, read_image

if TYPE_CHECKING:
    from evaluators.datasets import Split

ProblemKind = Literal["no partner", "unreadable", "size", "labels"]


class Problem(NamedTuple):
    """A file that is not as it should be."""

    kind: ProblemKind
    path: str
    """Relative to the root."""
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    images: int
    looked_at: int
    class_pixels: tuple[int, ...]
    """Labelled pixels by class."""
    ignored_pixels: int
    smallest: tuple[int, int] | None
    """(height, width) of the image with the fewest pixels."""
    largest: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What a data set holds, and what is wrong with it."""

    splits: dict[Split, SplitReport]
    problems: tuple[Problem, ...]
    """Partners first, then in the order of the files."""

    @property
    def sound(self) -> bool:
        return not self.problems and all(part.images for part in self.splits.values())


class _Seen(NamedTuple):
    """One pair, read."""

    problems: tuple[Problem, ...]
    size: tuple[int, int] | None
    counts: NDArray[np.int64] | None
    """Pixels by label, 256 of them."""


def check(
    dataset: LabelledFiles,
    *,
    sample: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every pair, or `sample` of each split drawn at random; nothing that is wrong stops it."""
    chosen = {split: _drawn(dataset.length(split), sample, f"{seed} {split}") for split in dataset.pairs}
    tasks = [(split, index) for split, indices in chosen.items() for index in indices]
    problems = [
        Problem("no partner", path, "an image without labels, or labels without an image") for path in dataset.unpaired
    ]
    seen: dict[Split, list[_Seen]] = {split: [] for split in dataset.pairs}
    for done, ((split, _), found) in enumerate(zip(tasks, _looked(dataset, tasks, workers), strict=True), start=1):
        seen[split].append(found)
        problems += found.problems
        if progress:
            progress(done, len(tasks))
    reports = {split: _summed(dataset, split, looked) for split, looked in seen.items()}
    return DatasetReport(splits=reports, problems=tuple(problems))


def _drawn(length: int, sample: int | None, seed: str) -> list[int]:
    if sample is None or sample >= length:
        return list(range(length))
    return sorted(random.Random(seed).sample(range(length), sample))


def _looked(dataset: LabelledFiles, tasks: list[tuple[Split, int]], workers: int) -> Iterator[_Seen]:
    if workers == 1 or len(tasks) < 2 * workers:
        yield from (_look(dataset, split, index) for split, index in tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead = 8 * workers  # of files in memory
        waiting = iter(tasks)
        running = [pool.submit(_look, dataset, *task) for task in islice(waiting, ahead)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(_look, dataset, *task) for task in islice(waiting, 1)]


def _look(dataset: LabelledFiles, split: Split, index: int) -> _Seen:
    pair = dataset.pairs[split][index]
    problems = []
    size: tuple[int, int] | None = None
    counts: NDArray[np.int64] | None = None
    try:
        height, width, _ = read_image(dataset.root / pair.image).shape
        size = (height, width)
    except DataError as error:
        problems.append(Problem("unreadable", pair.image, str(error)))
    try:
        labels = dataset.read_labels(dataset.root / pair.labels)
    except DataError as error:
        problems.append(Problem("unreadable", pair.labels, str(error)))
    else:
        if size and labels.shape != size:
            says = f"{labels.shape[0]}x{labels.shape[1]} px, its image has {size[0]}x{size[1]}"
            problems.append(Problem("size", pair.labels, says))
        if wrong := int((labels == ILLEGAL).sum()):
            says = f"{wrong} pixels stand for no class; legal are {dataset.read_labels.legal}"
            problems.append(Problem("labels", pair.labels, says))
        counts = np.bincount(labels[labels != ILLEGAL].ravel(), minlength=IGNORE + 1).astype(np.int64)
    return _Seen(tuple(problems), size, counts)


def _summed(dataset: LabelledFiles, split: Split, seen: list[_Seen]) -> SplitReport:
    counts = sum((each.counts for each in seen if each.counts is not None), start=np.zeros(IGNORE + 1, np.int64))
    sizes = Counter(each.size for each in seen if each.size)
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return SplitReport(
        images=dataset.length(split),
        looked_at=len(seen),
        class_pixels=tuple(counts[: dataset.num_classes].tolist()),
        ignored_pixels=int(counts[IGNORE]),
        smallest=ordered[0] if ordered else None,
        largest=ordered[-1] if ordered else None,
    )

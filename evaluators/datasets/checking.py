"""Is a data set complete and sound? Counts, sizes, classes, and every file that would stop a training."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.datasets import IGNORE
from evaluators.datasets.files import ILLEGAL, DataError, LabelledFiles, LabelReader, Pair, other_size, read_image
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.scenes import Scenes
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split

Checkable = Scenes | LabelledFiles | ClassFolders
ProblemKind = Literal["empty split", "no partner", "unreadable", "size", "labels"]
MOST_WORKERS = 512
_AT_ONCE = 8
"""Files a task: a process is asked seldom, and the bar still moves."""


class Problem(NamedTuple):
    """Something that is not as it should be."""

    kind: ProblemKind
    path: str
    """Relative to the root."""
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    images: int
    looked_at: int
    class_counts: tuple[int, ...]
    """By class: labelled pixels, or images where an image has one class."""
    ignored_pixels: int | None
    """None where an image has one class."""
    smallest: tuple[int, int] | None
    """(height, width) of the image with the fewest pixels; None where none could be read."""
    largest: tuple[int, int] | None

    @property
    def ignored_pct(self) -> float | None:
        """Of the pixels of label maps; None where there are none."""
        if self.ignored_pixels is None:
            return None
        pixels = self.ignored_pixels + sum(self.class_counts)
        return 100 * self.ignored_pixels / pixels if pixels else None

    @property
    def never_seen(self) -> tuple[int, ...]:
        return tuple(label for label, count in enumerate(self.class_counts) if not count)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What a data set holds, and what is wrong with it."""

    splits: dict[Split, SplitReport]
    problems: tuple[Problem, ...]
    """Of whole splits and partners first, then in the order of the files."""

    @property
    def sound(self) -> bool:
        return not self.problems


class _Seen(NamedTuple):
    """One image and its labels, read."""

    problems: tuple[Problem, ...]
    size: tuple[int, int] | None
    counts: Mapping[int, int]
    """By class that occurs: pixels, or 1 where an image has one class."""
    ignored_pixels: int


_Look = Callable[[], _Seen]


def check(
    dataset: Checkable,
    *,
    sample: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every item, or `sample` of each split drawn at random; nothing that is wrong with a file stops it."""
    if sample is not None and sample < 1:
        raise UserError(f"a sample must have at least 1 image, not {sample}.")
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"workers must be from 1 to {MOST_WORKERS}, not {workers}.")
    parts: tuple[Split, Split] = ("train", "val")
    chosen = [(part, i) for part in parts for i in _drawn(dataset.length(part), sample, f"{seed} {part}")]
    looks = (_look_at(dataset, part, index) for part, index in chosen)
    problems = [Problem("empty split", part, _why_empty(dataset)) for part in parts if not dataset.length(part)]
    problems += [Problem("no partner", path, says) for path, says in _alone(dataset)]
    tallies: dict[Split, _Tally] = {part: _Tally(dataset) for part in parts}
    workers = workers if len(chosen) > _AT_ONCE else 1
    for done, ((part, _), seen) in enumerate(zip(chosen, _looked(looks, workers), strict=True), start=1):
        tallies[part].add(seen)
        problems += seen.problems
        if progress:
            progress(done, len(chosen))
    splits = {part: tallies[part].report(dataset.length(part)) for part in parts}
    return DatasetReport(splits=splits, problems=tuple(problems))


class _Tally:
    """What was seen of a split so far; of a million images nothing is kept one by one."""

    def __init__(self, dataset: Checkable) -> None:
        self.num_classes = dataset.num_classes
        self.has_maps = not isinstance(dataset, ClassFolders)
        self.looked_at = 0
        self.counts: Counter[int] = Counter()
        self.ignored_pixels = 0
        self.sizes: set[tuple[int, int]] = set()

    def add(self, seen: _Seen) -> None:
        self.looked_at += 1
        self.counts.update(seen.counts)
        self.ignored_pixels += seen.ignored_pixels
        if seen.size:
            self.sizes.add(seen.size)

    def report(self, images: int) -> SplitReport:
        sizes = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        return SplitReport(
            images=images,
            looked_at=self.looked_at,
            class_counts=tuple(self.counts[label] for label in range(self.num_classes)),
            ignored_pixels=self.ignored_pixels if self.has_maps else None,
            smallest=sizes[0] if sizes else None,
            largest=sizes[-1] if sizes else None,
        )


def _drawn(length: int, sample: int | None, seed: str) -> Sequence[int]:
    if sample is None or sample >= length:
        return range(length)
    return sorted(random.Random(seed).sample(range(length), sample))


def _why_empty(dataset: Checkable) -> str:
    return "no image with labels" if isinstance(dataset, LabelledFiles) else "no image"


def _alone(dataset: Checkable) -> Iterator[tuple[str, str]]:
    if isinstance(dataset, LabelledFiles):
        for path in dataset.unpaired:
            there = os.path.lexists(dataset.root / path)
            says = (
                "an image without labels, or labels without an image" if there else "in a split's list, but not there"
            )
            yield path, says


@dataclass(frozen=True, slots=True)
class _LookAtPair:
    root: Path
    pair: Pair
    read_labels: LabelReader
    white: float | None

    def __call__(self) -> _Seen:
        problems: list[Problem] = []
        size = _size(self.root, self.pair.image, problems, self.white)
        try:
            labels = self.read_labels(self.root / self.pair.labels)
        except DataError as error:
            problems.append(_unreadable(self.root, self.pair.labels, error))
            return _Seen(tuple(problems), size, {}, 0)
        if size and labels.shape != size:
            problems.append(Problem("size", self.pair.labels, other_size(labels.shape, size)))
        if wrong := int((labels == ILLEGAL).sum()):
            values = self.read_labels.illegal(self.root / self.pair.labels)
            says = f"{wrong} pixels stand for no class ({values}); legal are {self.read_labels.legal}"
            problems.append(Problem("labels", self.pair.labels, says))
        return _Seen(tuple(problems), size, *_counted(labels))


@dataclass(frozen=True, slots=True)
class _LookAtImage:
    root: Path
    path: str
    label: int

    def __call__(self) -> _Seen:
        problems: list[Problem] = []
        size = _size(self.root, self.path, problems)
        return _Seen(tuple(problems), size, {self.label: 1}, 0)


@dataclass(frozen=True, slots=True)
class _LookAtScene:
    dataset: Scenes
    split: Split
    index: int

    def __call__(self) -> _Seen:
        image, labels = self.dataset.item(self.split, self.index)
        return _Seen((), (image.shape[0], image.shape[1]), *_counted(labels))


def _look_at(dataset: Checkable, split: Split, index: int) -> _Look:
    """What reads one item, small enough to be sent to a process."""
    if isinstance(dataset, LabelledFiles):
        white = dataset.white and dataset.white.value
        return _LookAtPair(dataset.root, dataset.pairs[split][index], dataset.read_labels, white)
    if isinstance(dataset, Scenes):
        return _LookAtScene(dataset, split, index)
    path, label = dataset.images[split][index]
    return _LookAtImage(dataset.root, path, label)


def _counted(labels: NDArray[np.integer]) -> tuple[dict[int, int], int]:
    """Pixels by class, and ignored ones."""
    pixels = np.bincount(labels[labels != ILLEGAL].ravel(), minlength=IGNORE + 1)
    return {int(label): int(pixels[label]) for label in np.flatnonzero(pixels[:IGNORE])}, int(pixels[IGNORE])


def _size(root: Path, path: str, problems: list[Problem], white: float | None = None) -> tuple[int, int] | None:
    try:
        height, width, _ = read_image(root / path, white=white).shape
    except DataError as error:
        problems.append(_unreadable(root, path, error))
        return None
    return height, width


def _unreadable(root: Path, path: str, error: DataError) -> Problem:
    """The path stands beside what is said, so it need not be in it."""
    return Problem("unreadable", path, str(error).removeprefix(f"{root / path} ").removesuffix("."))


def _looked(looks: Iterator[_Look], workers: int) -> Iterator[_Seen]:
    """In order; what waits in memory is bounded."""
    if workers == 1:
        yield from (look() for look in looks)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_check
    )
    try:
        tasks = iter(lambda: list(islice(looks, _AT_ONCE)), [])
        running = deque(pool.submit(_look_all, task) for task in islice(tasks, 2 * workers))
        while running:
            yield from running.popleft().result()
            running.extend(pool.submit(_look_all, task) for task in islice(tasks, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _look_all(looks: Sequence[_Look]) -> list[_Seen]:
    return [look() for look in looks]


def _end_with_the_check() -> None:
    """In a worker process: leave Ctrl-C to the process that asked, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

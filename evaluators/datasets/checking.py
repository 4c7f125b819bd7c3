"""Is a data set complete and sound? Counts, sizes, classes, and every file that would stop a training.

Every file is read once: one pass decodes and counts it, and takes its digest into the fingerprint.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE
from evaluators.datasets.files import (
    DataError,
    LabelledFiles,
    LabelReader,
    Pair,
    decoded,
    digest_entry,
    other_size,
    read_image,
    remember_digests,
)
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.photographs import Brightness, is_deep, is_turned
from evaluators.datasets.scenes import Scenes
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split

Checkable = Scenes | LabelledFiles | ClassFolders
ProblemKind = Literal["empty split", "no partner", "unreadable", "size", "labels"]
MOST_WORKERS = 512
_AT_ONCE = 8
"""Files a task: a process is asked seldom, and the bar still moves."""
_TRIED, _TRIED_S, _WORTH_S = 16, 0.5, 4.0
"""Files, and seconds, after which it is known how long the rest takes, and seconds for which processes are started."""
_MOST_TWINS = 1000
_PLAIN_MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "YCbCr")
"""Pillow's names for pictures that any reader makes RGB of: it is enough that their pixels can be decoded."""


class Problem(NamedTuple):
    """Something that is not as it should be."""

    kind: ProblemKind
    path: str
    """Relative to the root."""
    says: str


class Twin(NamedTuple):
    """One picture, byte for byte, in two splits."""

    split: Split
    path: str
    """Relative to the root."""
    other_split: Split
    other_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    images: int
    looked_at: int
    class_counts: tuple[int, ...]
    """By class: labelled pixels, or images where an image has one class."""
    class_images: tuple[int, ...]
    """By class: images that have it."""
    ignored_pixels: int | None
    """None where an image has one class."""
    smallest: tuple[int, int] | None = None
    """(height, width) of the image with the fewest pixels; None where none could be read."""
    largest: tuple[int, int] | None = None

    @property
    def ignored_pct(self) -> float | None:
        """Share of the ignored pixels of label maps; None where there are none."""
        if self.ignored_pixels is None:
            return None
        pixels = self.ignored_pixels + sum(self.class_counts)
        return 100 * self.ignored_pixels / pixels if pixels else None

    @property
    def shares_pct(self) -> tuple[float | None, ...]:
        """By class: its share of what is labelled; None where nothing is."""
        total = sum(self.class_counts)
        return tuple(100 * count / total if total else None for count in self.class_counts)

    @property
    def never_seen(self) -> tuple[int, ...]:
        return tuple(label for label, count in enumerate(self.class_counts) if not count)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What a data set holds, and what is wrong with it."""

    splits: dict[Split, SplitReport]
    problems: tuple[Problem, ...]
    """Of whole splits and partners first, then in the order of the files."""
    twins: tuple[Twin, ...] = ()
    """At most a thousand."""
    twin_count: int = 0
    examples: tuple[tuple[Split, int], ...] = ()
    """Items to look at: some that have the rarest classes, the others drawn at random."""

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
    entries: tuple[tuple[str, list[object]], ...] = ()
    """Digests by path, the image's first."""


_Look = Callable[[], _Seen]
_Count = tuple[dict[int, int], int, int]
"""Pixels by class, those that are ignored, and those that stand for no class."""
EXAMPLES = 12


def check(
    dataset: Checkable,
    *,
    sample: int | None = None,
    seed: int = 0,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every item, or `sample` of each split drawn at random; nothing that is wrong with a file stops it.

    `workers`: processes that read; None starts as many as there are cores where the work is long enough. What was read
    is remembered: the fingerprint of files that were all looked at needs no further reading.
    """
    if sample is not None and sample < 1:
        raise UserError(f"a sample must have at least 1 image, not {sample}.")
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"workers must be from 1 to {MOST_WORKERS}, not {workers}.")
    parts = splits_of(dataset)
    chosen = [(part, i) for part in parts for i in _drawn(dataset.length(part), sample, f"{seed} {part}")]
    looks = (_look_at(dataset, part, index) for part, index in chosen)
    problems = [Problem("empty split", part, _why_empty(dataset)) for part in parts if not dataset.length(part)]
    problems += [Problem("no partner", path, says) for path, says in _alone(dataset)]
    tallies: dict[Split, Tally] = {part: Tally(dataset) for part in parts}
    kept, fresh = _Examples(seed), dict[str, list[object]]()
    images: dict[Split, tuple[list[int], array[int]]] = {part: ([], array("Q")) for part in parts}
    try:
        for done, ((part, index), seen) in enumerate(
            zip(chosen, looked(looks, len(chosen), workers), strict=True), start=1
        ):
            tallies[part].add(seen)
            problems += seen.problems
            kept.see(part, index, seen)
            for path, entry in seen.entries:
                fresh[path] = entry
            if seen.entries and seen.entries[0][0] == _image_of(dataset, part, index):
                images[part][0].append(index)
                images[part][1].append(int(str(seen.entries[0][1][-1]), 16))
            if progress:
                progress(done, len(chosen))
    finally:
        if fresh and not isinstance(dataset, Scenes):
            remember_digests(dataset.root, fresh)
    twins, twin_count = twins_of(dataset, images)
    return DatasetReport(
        splits={part: tallies[part].report(dataset.length(part)) for part in parts},
        problems=tuple(problems),
        twins=twins,
        twin_count=twin_count,
        examples=kept.chosen(tallies["train"].counts),
    )


def splits_of(dataset: Checkable) -> tuple[Split, ...]:
    """train and val, and test where there is one."""
    return ("train", "val", "test") if "test" in _there(dataset) and dataset.length("test") else ("train", "val")


def _there(dataset: Checkable) -> Sequence[str]:
    match dataset:
        case LabelledFiles():
            return tuple(dataset.pairs)
        case ClassFolders():
            return tuple(dataset.images)
        case Scenes():
            return ("train", "val")


def twins_of(
    dataset: Checkable, images: Mapping[Split, tuple[Sequence[int], array[int]]]
) -> tuple[tuple[Twin, ...], int]:
    """Pictures that are in two splits, from the indices and digests of some of each; and how many there are."""
    found: list[Twin] = []
    count = 0
    parts = list(images)
    for number, other in enumerate(parts):
        for part in parts[:number]:
            (own, own_digests), (others, other_digests) = images[part], images[other]
            _, left, right = np.intersect1d(
                np.frombuffer(own_digests, np.uint64) if own else np.empty(0, np.uint64),
                np.frombuffer(other_digests, np.uint64) if others else np.empty(0, np.uint64),
                return_indices=True,
            )
            count += len(left)
            for i, j in sorted(zip(left.tolist(), right.tolist(), strict=True))[: _MOST_TWINS - len(found)]:
                found.append(Twin(part, _image_of(dataset, part, own[i]), other, _image_of(dataset, other, others[j])))
    return tuple(found), count


def _image_of(dataset: Checkable, split: Split, index: int) -> str:
    match dataset:
        case LabelledFiles():
            return dataset.pairs[split][index].image
        case ClassFolders():
            return dataset.images[split][index][0]
        case Scenes():
            return f"{split} image {index}"


class Tally:
    """What was seen of a split so far; of a million images nothing is kept one by one."""

    def __init__(self, dataset: Checkable) -> None:
        self.num_classes = dataset.num_classes
        self.has_maps = not isinstance(dataset, ClassFolders)
        self.looked_at = 0
        self.counts: Counter[int] = Counter()
        self.images: Counter[int] = Counter()
        self.ignored_pixels = 0
        self.smallest: tuple[int, int] | None = None
        self.largest: tuple[int, int] | None = None

    def add(self, seen: _Seen) -> None:
        self.looked_at += 1
        self.counts.update(seen.counts)
        self.images.update(seen.counts.keys())
        self.ignored_pixels += seen.ignored_pixels
        if seen.size:
            self.smallest = min(self.smallest or seen.size, seen.size, key=_by_area)
            self.largest = max(self.largest or seen.size, seen.size, key=_by_area)

    def report(self, images: int) -> SplitReport:
        return SplitReport(
            images=images,
            looked_at=self.looked_at,
            class_counts=tuple(self.counts[label] for label in range(self.num_classes)),
            class_images=tuple(self.images[label] for label in range(self.num_classes)),
            ignored_pixels=self.ignored_pixels if self.has_maps else None,
            smallest=self.smallest,
            largest=self.largest,
        )


def _by_area(size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return size[0] * size[1], size


class _Examples:
    """For each class the first items that have it, and some of all drawn at random; a few hundred at most."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"{seed} examples")
        self.of_class: dict[int, list[tuple[Split, int]]] = {}
        self.drawn: list[tuple[Split, int]] = []
        self.seen = 0

    def see(self, split: Split, index: int, seen: _Seen) -> None:
        if seen.problems:
            return
        self.seen += 1
        for label in seen.counts:
            if len(known := self.of_class.setdefault(label, [])) < 2:
                known.append((split, index))
        place = len(self.drawn) if len(self.drawn) < EXAMPLES else self.random.randrange(self.seen)
        if place < EXAMPLES:
            self.drawn[place : place + 1] = [(split, index)]

    def chosen(self, counts: Mapping[int, int]) -> tuple[tuple[Split, int], ...]:
        """Half of them for the rarest classes."""
        rarest = sorted(self.of_class, key=lambda label: (counts.get(label, 0), label))
        wanted = [self.of_class[label][0] for label in rarest]
        picked = list(dict.fromkeys(wanted))[: EXAMPLES // 2]
        picked += [item for item in (*self.drawn, *wanted) if item not in picked]
        return tuple(sorted(dict.fromkeys(picked[:EXAMPLES]), key=lambda item: (item[0] != "train", item)))


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
    brightness: Brightness | None

    def __call__(self) -> _Seen:
        problems: list[Problem] = []
        entries: list[tuple[str, list[object]]] = []
        size = _size(self.root, self.pair.image, problems, entries, self.brightness)
        path = self.root / self.pair.labels
        try:
            entries.append((self.pair.labels, digest_entry(path)))
            labels = self.read_labels(path)
        except DataError as error:
            problems.append(_unreadable(self.root, self.pair.labels, error))
            return _Seen(tuple(problems), size, {}, 0, tuple(entries))
        if size and labels.shape != size:
            problems.append(Problem("size", self.pair.labels, other_size(labels.shape, size)))
        counts, ignored, wrong = _counted(labels)
        if wrong:
            says = f"{wrong} pixels stand for no class ({self.read_labels.illegal(path)}); legal are "
            problems.append(Problem("labels", self.pair.labels, says + self.read_labels.legal))
        return _Seen(tuple(problems), size, counts, ignored, tuple(entries))


@dataclass(frozen=True, slots=True)
class LookAtLabels:
    """Labels alone, without their image; what is wrong with them is left to whoever trains on them."""

    root: Path
    path: str
    read_labels: LabelReader

    def __call__(self) -> _Seen:
        try:
            counts, ignored, _ = _counted(self.read_labels(self.root / self.path))
        except DataError:
            return _Seen((), None, {}, 0)
        return _Seen((), None, counts, ignored)


@dataclass(frozen=True, slots=True)
class _LookAtImage:
    root: Path
    path: str
    label: int

    def __call__(self) -> _Seen:
        problems: list[Problem] = []
        entries: list[tuple[str, list[object]]] = []
        size = _size(self.root, self.path, problems, entries)
        return _Seen(tuple(problems), size, {self.label: 1}, 0, tuple(entries))


@dataclass(frozen=True, slots=True)
class _LookAtScene:
    dataset: Scenes
    split: Split
    index: int

    def __call__(self) -> _Seen:
        image, labels = self.dataset.item(self.split, self.index)
        counts, ignored, _ = _counted(labels)
        return _Seen((), (image.shape[0], image.shape[1]), counts, ignored)


def _look_at(dataset: Checkable, split: Split, index: int) -> _Look:
    """What reads one item, small enough to be sent to a process."""
    if isinstance(dataset, LabelledFiles):
        return _LookAtPair(dataset.root, dataset.pairs[split][index], dataset.read_labels, dataset.brightness)
    if isinstance(dataset, Scenes):
        return _LookAtScene(dataset, split, index)
    path, label = dataset.images[split][index]
    return _LookAtImage(dataset.root, path, label)


def _counted(labels: NDArray[np.integer]) -> _Count:
    """By Pillow, in a tenth of the time that NumPy takes."""
    wrong = int((labels < 0).sum())
    pixels = PillowImage.fromarray(labels.astype(np.uint8)).histogram()
    counts = {label: count for label, count in enumerate(pixels[:IGNORE]) if count}
    return counts, pixels[IGNORE] - wrong, wrong  # what is illegal lies in the same byte


def _size(
    root: Path,
    path: str,
    problems: list[Problem],
    entries: list[tuple[str, list[object]]],
    brightness: Brightness | None = None,
) -> tuple[int, int] | None:
    try:
        entries.append((path, digest_entry(root / path)))
        size = decoded(root / path, _decoded_size)
        return read_image(root / path, brightness=brightness).shape[:2] if size is None else size
    except DataError as error:
        problems.append(_unreadable(root, path, error))
        return None


def _decoded_size(image: PillowImage.Image) -> tuple[int, int] | None:
    """(height, width), all pixels decoded; None for what needs more than that to become a picture.

    Of a JPEG every byte is read, but only an eighth of the pixels is made: a file that is cut off or damaged fails
    alike.
    """
    if image.mode not in _PLAIN_MODES or is_deep(image) or is_turned(image):
        return None
    size = image.height, image.width
    if image.format == "JPEG":
        image.draft(None, (image.width // 8, image.height // 8))
    image.load()
    return size


def _unreadable(root: Path, path: str, error: DataError) -> Problem:
    """The path stands beside what is said, so it need not be in it."""
    return Problem("unreadable", path, str(error).removeprefix(f"{root / path} ").removesuffix("."))


def looked(looks: Iterator[_Look], count: int, workers: int | None) -> Iterator[_Seen]:
    """In order; what waits in memory is bounded. Without `workers` this process begins, and finds out what pays."""
    if workers is None:
        started = time.perf_counter()
        for done, look in enumerate(looks, start=1):
            yield look()
            spent_s = time.perf_counter() - started
            if done >= _TRIED and spent_s >= _TRIED_S:
                workers = _cores() if spent_s / done * (count - done) > _WORTH_S else 1
                break
    if workers in (None, 1) or count <= _AT_ONCE:
        yield from (look() for look in looks)
        return
    assert workers is not None
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


def _cores() -> int:
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, MOST_WORKERS)


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

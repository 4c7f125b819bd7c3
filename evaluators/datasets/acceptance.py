"""What speaks against a data set, before anything is trained on it? Warnings, and which of them stop.

A check of all files says it; a training looks at some label maps, at all of them where a class is still missing, and
remembers what it found by the data set's fingerprint.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.datasets import IGNORE, Split
from evaluators.datasets.checking import DatasetReport, LookAtLabels, Tally, Twin, splits_of, twins_of
from evaluators.datasets.files import DataError, LabelledFiles, digests
from topformer.cache import cache_folder
from topformer.config import content_key
from topformer.errors import UserError, unknown_name
from topformer.writing import write_whole

if TYPE_CHECKING:
    from evaluators.datasets import SegmentationDataset

Name = Literal["split-overlap", "empty-class", "one-class", "ignored", "class-order", "brightness"]
NAMES: dict[Name, str] = {
    "split-overlap": "a picture lies in two splits",
    "empty-class": "a class has no training pixel",
    "one-class": "one class has over 98 % of what is labelled",
    "ignored": "over half of the pixels are ignored",
    "class-order": "weights name other classes than the data",
    "brightness": "photographs of more than 8 bits are nearly white, nearly black or without contrast",
}
"""What can be accepted, and what it is."""
PUBLISHED = ("ade20k", "cityscapes", "pascal_context", "pascal_context_59", "coco_stuff_164k", "coco_stuff_10k")
"""Layouts of benchmarks: what is odd in them is known to everybody, and nobody may change it."""
ONE_CLASS_PCT = 98.0
IGNORED_PCT, IGNORED_STOPS_PCT = 100 / 3, 50.0
MOST_LOOKED_AT = 500
"""Label maps of a split that are looked at before a training, unless a class is still missing."""
_CELL_PX = 8
"""Stride of the logits of most networks."""
_MAPS_FOR_CELLS = 64
_SHOWN = 3
_VERSION = 1
_PARTS: tuple[Split, ...] = ("train", "val")


class Warned(NamedTuple):
    """Something that a person should know before believing a number."""

    name: Name
    says: str
    stops: bool
    """Whether a training goes on only where it is accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEvidence:
    """What the labels of a split that were looked at are."""

    images: int
    looked_at: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int

    @property
    def ignored_pct(self) -> float:
        """Share of all pixels; 0 where none were looked at."""
        pixels = self.ignored_pixels + sum(self.class_pixels)
        return 100 * self.ignored_pixels / pixels if pixels else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the labels of a data set are, as far as they were looked at."""

    class_names: tuple[str, ...]
    splits: dict[Split, SplitEvidence]
    twins: tuple[Twin, ...] = ()
    """The first of the pictures that are in two splits."""
    twin_count: int = 0
    sparse: bool = False
    """Whether the labels are scribbles or points."""
    said_sparse: bool = False
    """Whether a description says so: that most is ignored is no surprise then."""

    @classmethod
    def of(
        cls, report: DatasetReport, class_names: Sequence[str], *, sparse: bool = False, said_sparse: bool = False
    ) -> Evidence:
        """What a check found."""
        return cls(
            class_names=tuple(class_names),
            splits={
                split: SplitEvidence(
                    images=part.images,
                    looked_at=part.looked_at,
                    class_pixels=part.class_counts,
                    ignored_pixels=part.ignored_pixels or 0,
                )
                for split, part in report.splits.items()
            },
            twins=report.twins[:_SHOWN],
            twin_count=report.twin_count,
            sparse=sparse,
            said_sparse=said_sparse,
        )

    @property
    def looked_at(self) -> str:
        """How many label maps the warnings rest on, in words."""
        return " and ".join(f"{part.looked_at:,} of {part.images:,} {name}" for name, part in self.splits.items())

    def require_labels(self) -> None:
        """Raises `UserError` where every pixel of a split is ignored: it teaches nothing and has no mIoU."""
        for split, part in self.splits.items():
            if part.looked_at == part.images and part.ignored_pixels and not any(part.class_pixels):
                raise UserError(
                    f"every pixel of the first {part.images} {split} images is ignored ({IGNORE}): there is nothing to "
                    f"{'learn' if split == 'train' else 'score'}; check the label maps."
                )

    @property
    def warnings(self) -> tuple[Warned, ...]:
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[Warned]:
        if self.twins:
            twin = self.twins[0]
            files = "1 picture lies" if self.twin_count == 1 else f"{self.twin_count:,} pictures lie"
            yield Warned(
                "split-overlap",
                f"{files} in two splits, the first is {twin.path} ({twin.split}) and {twin.other_path} "
                f"({twin.other_split}): scores would be of what was trained on; remove one of each.",
                True,
            )
        for split, part in self.splits.items():
            if part.looked_at:
                yield from self._of_split(split, part)

    def _of_split(self, split: Split, part: SplitEvidence) -> Iterator[Warned]:
        of = f"{part.looked_at:,} {split} images" + (
            f" looked at, of {part.images:,}" if part.looked_at < part.images else ""
        )
        missing = [name for name, pixels in zip(self.class_names, part.class_pixels, strict=True) if not pixels]
        if missing:
            names = ", ".join(missing[:_SHOWN]) + (
                f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            )
            what = "class never occurs" if len(missing) == 1 else "classes never occur"
            unknown = "" if split == "train" else ", so that no score says how well it is found"
            yield Warned(
                "empty-class",
                f"{len(missing)} {what} in the {of}: {names}{unknown}; is every value or colour of the label maps "
                "that of its class?",
                split == "train" and part.looked_at == part.images,
            )
        total = sum(part.class_pixels)
        if total and len(self.class_names) > 1 and max(part.class_pixels) > ONE_CLASS_PCT / 100 * total:
            largest = int(np.argmax(part.class_pixels))
            yield Warned(
                "one-class",
                f"{self.class_names[largest]} has {100 * part.class_pixels[largest] / total:.2f} % of what is labelled "
                f"in the {of}: a network that answers nothing else would score as high; are the label maps read "
                "rightly?",
                split == "train",
            )
        if part.ignored_pct > IGNORED_PCT:
            meant = (
                "the labels look like scribbles or points, which are trained at full resolution, and a dataset.toml "
                'says that they are meant: resize = "sparse"'
                if self.sparse
                else "is what is ignored meant to be a class?"
            )
            yield Warned(
                "ignored",
                f"{part.ignored_pct:.2f} % of the pixels of the {of} are ignored: nothing is learnt of them, and "
                f"nothing scored; {meant}.".replace("?.", "?"),
                split != "test" and not self.said_sparse and part.ignored_pct > IGNORED_STOPS_PCT,
            )


def evidence_of(dataset: SegmentationDataset, progress: Callable[[int, int], None] | None = None) -> Evidence | None:
    """What speaks against training on one's own images, from the cache where it was found before.

    None for scenes and for benchmarks in their own layouts. Every picture is compared by its digest; of label maps
    `MOST_LOOKED_AT` a split are looked at, and the other ones to train on until every class was seen.
    """
    if not isinstance(dataset, LabelledFiles) or dataset.name in PUBLISHED:
        return None
    kept = _kept_at(dataset, "evidence")
    known = _read(kept)
    try:
        return _evidence_from(known)
    except (KeyError, TypeError, ValueError, AttributeError):  # nothing, or nothing usable
        found = _looked_for(dataset, progress)
        _write(kept, asdict(found))
        return found


def examined(
    dataset: SegmentationDataset,
    accepted: Collection[str],
    *,
    further: Iterable[Warned] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """What is to be said, in sentences, before data are trained on; `further` is what else speaks against it.

    Raises `UserError` for a warning that stops and is not among the accepted names, and for a split without a label.
    """
    evidence = evidence_of(dataset, progress)
    if evidence is not None:
        evidence.require_labels()
    warnings = (*(() if evidence is None else evidence.warnings), *brightness_of(dataset), *further)
    where = str(dataset.root) if isinstance(dataset, LabelledFiles) else dataset.name
    require_accepted(warnings, accepted, where=where, looked_at="" if evidence is None else evidence.looked_at)
    said = [f"note: {remark}" for remark in dataset.remarks] if isinstance(dataset, LabelledFiles) else []
    said += [f"warning ({one.name}): {one.says}" for one in warnings]
    if evidence is not None:
        said.append(f"labels looked at: {evidence.looked_at}")
    if labels_are_sparse(dataset):
        said.append("labels are scribbles or points: trained on at full resolution")
    return tuple(said)


def brightness_of(dataset: SegmentationDataset) -> tuple[Warned, ...]:
    """What is wrong with the brightness of photographs of more than 8 bits; it stops nothing."""
    if not isinstance(dataset, LabelledFiles) or not dataset.contrast:
        return ()
    return (Warned("brightness", f"{dataset.contrast}.", False),)


def remember_evidence(dataset: LabelledFiles, found: Evidence) -> None:
    """Keep what a check of all files found, so that a training need not look again."""
    _write(_kept_at(dataset, "evidence"), asdict(found))


def labels_are_sparse(dataset: SegmentationDataset) -> bool:
    """Whether labels are scribbles or points: the grid on which logits lie would miss most of what is labelled.

    A description of one's own may say so. Else it is decided once for a data set, from at most `_MAPS_FOR_CELLS` of
    its maps to train on: over half of their pixels are ignored, and fewer than half of the others lie in cells of
    8 x 8 px, the logits' stride, that are labelled throughout.
    """
    if not isinstance(dataset, LabelledFiles) or dataset.name in PUBLISHED:
        return False
    if dataset.resize == "sparse":
        return True
    kept = _kept_at(dataset, "sparse")
    if isinstance(known := _read(kept).get("sparse"), bool):
        return known
    found = _measured_sparse(dataset)
    _write(kept, {"sparse": found})
    return found


def require_accepted(
    warnings: Iterable[Warned], accepted: Collection[str], *, where: str = "", looked_at: str = ""
) -> None:
    """Raises `UserError` that tells every warning that stops and is not accepted by its name."""
    require_names(accepted)
    stopping = {one.name: one for one in reversed(tuple(warnings)) if one.stops and one.name not in accepted}
    if not stopping:
        return
    names = tuple(reversed(stopping))
    said = " ".join(stopping[name].says for name in names)
    basis = f" Labels looked at: {looked_at}. All is shown by: topformer-nas datasets check." if looked_at else ""
    raise UserError(
        f"{where}{': ' if where else ''}{said}{basis} If it is meant, go on with "
        f"{' '.join(f'--accept {name}' for name in names)}."
    )


def require_names(accepted: Collection[str]) -> None:
    """Raises `UserError` for a name that no warning has."""
    if stranger := next((name for name in accepted if name not in NAMES), None):
        raise unknown_name("warning to accept", stranger, NAMES)


def other_classes(weights: Path, own: Sequence[str], data: str, names: Sequence[str]) -> Warned | None:
    """What is wrong where weights name other classes than a data set; None where they agree or say nothing."""
    if not own or len(own) != len(names) or tuple(own) == tuple(names):
        return None
    first = next(number for number, (one, other) in enumerate(zip(own, names, strict=True)) if one != other)
    order = "in another order" if sorted(own) == sorted(names) else "by other names"
    return Warned(
        "class-order",
        f"{weights} knows the classes of {data} {order}: class {first} is {own[first]!r} in the weights and "
        f"{names[first]!r} in the data; put the data's classes into the order of the weights.",
        True,
    )


def _looked_for(dataset: LabelledFiles, progress: Callable[[int, int], None] | None) -> Evidence:
    twins, count = _twins(dataset)
    return Evidence(
        class_names=dataset.class_names,
        splits={split: _looked_into(dataset, split, progress) for split in _PARTS},
        twins=twins[:_SHOWN],
        twin_count=count,
        sparse=labels_are_sparse(dataset),
        said_sparse=dataset.resize == "sparse",
    )


def _looked_into(dataset: LabelledFiles, split: Split, progress: Callable[[int, int], None] | None) -> SplitEvidence:
    """At some label maps of a split; of those to train on at more, until no class is missing."""
    count = dataset.length(split)
    least = min(MOST_LOOKED_AT, count)
    tally = Tally(dataset)
    for index in random.Random(f"0 {split}").sample(range(count), count):
        complete = split != "train" or len(tally.counts) == dataset.num_classes
        if tally.looked_at >= least and complete:
            break
        tally.add(LookAtLabels(dataset.root, dataset.pairs[split][index].labels, dataset.read_labels)())
        if progress:
            progress(tally.looked_at, least if tally.looked_at <= least else count)
    return SplitEvidence(
        images=count,
        looked_at=tally.looked_at,
        class_pixels=tuple(tally.counts[label] for label in range(dataset.num_classes)),
        ignored_pixels=tally.ignored_pixels,
    )


def _twins(dataset: LabelledFiles) -> tuple[tuple[Twin, ...], int]:
    """From digests that the fingerprint has read already."""
    parts = splits_of(dataset)
    paths = {split: [pair.image for pair in dataset.pairs[split]] for split in parts}
    found = digests(dataset.root, [path for split in parts for path in paths[split]], None)
    return twins_of(
        dataset,
        {split: (range(len(own)), array("Q", [int(found[path], 16) for path in own])) for split, own in paths.items()},
    )


def _measured_sparse(dataset: LabelledFiles) -> bool:
    pairs = dataset.pairs["train"]
    chosen = random.Random("0 sparse").sample(range(len(pairs)), min(len(pairs), _MAPS_FOR_CELLS))
    labelled = pixels = within = 0
    for index in sorted(chosen):
        try:
            known = dataset.read_labels(dataset.root / pairs[index].labels)
        except DataError:  # told by name where it is trained on
            continue
        there = (known >= 0) & (known != IGNORE)
        labelled, pixels = labelled + int(there.sum()), pixels + there.size
        within += _within_cells(there)
    return 0 < labelled < pixels / 2 and within < labelled / 2


def _within_cells(labelled: NDArray[np.bool_]) -> int:
    """Pixels of an (H, W) map that lie in cells which are labelled throughout."""
    height, width = (side // _CELL_PX * _CELL_PX for side in labelled.shape)
    cells = labelled[:height, :width].reshape(height // _CELL_PX, _CELL_PX, width // _CELL_PX, _CELL_PX)
    return int(cells.all(axis=(1, 3)).sum()) * _CELL_PX**2


def _kept_at(dataset: LabelledFiles, what: str) -> Path:
    key = content_key([_VERSION, dataset.fingerprint, dataset.test_fingerprint])
    return cache_folder() / what / f"{key}.json"


def _evidence_from(known: dict[str, Any]) -> Evidence:
    """Raises anything where it is nothing usable."""
    return Evidence(
        class_names=tuple(known["class_names"]),
        splits={
            split: SplitEvidence(**{**part, "class_pixels": tuple(part["class_pixels"])})
            for split, part in known["splits"].items()
        },
        twins=tuple(Twin(*twin) for twin in known["twins"]),
        twin_count=known["twin_count"],
        sparse=known["sparse"],
        said_sparse=known["said_sparse"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache: what cannot be read is found again
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(content).encode())
    except OSError as error:
        raise UserError(f"the data cache {str(path.parent)!r} cannot be used ({error.strerror}).") from None

"""What does a check of a data set show? Counts, how every class was read, warnings, problems, a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.datasets import IGNORE
from evaluators.datasets.acceptance import (
    IGNORED_STOPS_PCT,
    PUBLISHED,
    Evidence,
    Warned,
    brightness_of,
    labels_are_sparse,
    remember_evidence,
)
from evaluators.datasets.checking import Checkable, DatasetReport, SplitReport, check
from evaluators.datasets.files import DataError, LabelledFiles
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.scenes import Scenes
from topformer.progress import Progress, silent

MOST_NAMES = 5
"""Classes named in a cell; --json names all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetView:
    """A data set that was looked at."""

    dataset: Checkable
    report: DatasetReport
    warnings: tuple[Warned, ...]
    fingerprint: str | None
    no_fingerprint: str
    """Why there is none, in words."""

    @property
    def title(self) -> str:
        return f"{self.dataset.name}, {self.dataset.num_classes} classes"

    @property
    def has_maps(self) -> bool:
        return not isinstance(self.dataset, ClassFolders)

    @property
    def is_sample(self) -> bool:
        return any(part.looked_at < part.images for part in self.report.splits.values())

    @property
    def verdict(self) -> str:
        """In a line."""
        count = len(self.report.problems)
        found = f"{count} problem{'s' if count > 1 else ''}" if count else "sound"
        if self.warnings:
            found += f", {len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}"
        return found + (", as far as the sample goes" if self.is_sample else "")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was found out of the files and is said by none of them."""
        return self.dataset.remarks if isinstance(self.dataset, LabelledFiles) else ()

    @property
    def ignored(self) -> str:
        """What is ignored, why, and how much of it there is, in a line; empty where images have one class each."""
        if not self.has_maps:
            return ""
        shares = [
            f"{part.ignored_pct:.2f} % of the pixels of {split}"
            for split, part in self.report.splits.items()
            if part.ignored_pct is not None
        ]
        read = self.read_as(IGNORE)
        return f"ignored: {read or 'no value or colour'}{': ' if shares else ''}{', '.join(shares)}"

    def read_as(self, label: int) -> str:
        """The value or colour that stands for a class, or for what is ignored, in words."""
        match self.dataset:
            case LabelledFiles():
                return self.dataset.read_labels.meanings(label)
            case Scenes():
                return "drawn" if label != IGNORE else ""
            case ClassFolders():
                return "folder"

    def split_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "split": split,
                "images": f"{part.images:,}",
                "looked at": f"{part.looked_at:,}",
                "height x width, px": _sizes(part),
                "ignored %": None if part.ignored_pct is None else f"{part.ignored_pct:.2f}",
                "classes never seen": self._never_seen(part),
            }
            for split, part in self.report.splits.items()
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """How each class was read, its share of what is labelled, and how many images have it."""
        rows = []
        for label, name in enumerate(self.dataset.class_names):
            row: dict[str, Any] = {"class": name, "read as": self.read_as(label)}
            for split, part in self.report.splits.items():
                share = part.shares_pct[label]
                row[f"{split} %"] = "" if share is None else f"{share:.2f}" if not 0 < share < 0.01 else "< 0.01"
                row[f"{split} images"] = f"{part.class_images[label]:,}"
            rows.append(row)
        return rows

    def class_counts(self) -> Mapping[str, Mapping[str, int]]:
        """By split and name: labelled pixels, or images."""
        names = self.dataset.class_names
        return {split: dict(zip(names, part.class_counts, strict=True)) for split, part in self.report.splits.items()}

    def as_dict(self) -> dict[str, Any]:
        names = self.dataset.class_names
        return {
            "layout": self.dataset.name,
            "num_classes": self.dataset.num_classes,
            "class_names": list(names),
            "splits": {
                split: asdict(part)
                | {"ignored_pct": part.ignored_pct, "never_seen": [names[label] for label in part.never_seen]}
                for split, part in self.report.splits.items()
            },
            "classes": [
                {
                    "name": name,
                    "read_as": self.read_as(label),
                    "share_pct": {split: part.shares_pct[label] for split, part in self.report.splits.items()},
                    "images": {split: part.class_images[label] for split, part in self.report.splits.items()},
                }
                for label, name in enumerate(names)
            ],
            "ignored": {
                "read_as": self.read_as(IGNORE) if self.has_maps else "",
                "share_pct": {split: part.ignored_pct for split, part in self.report.splits.items()},
            },
            "remarks": list(self.remarks),
            "warnings": [one._asdict() for one in self.warnings],
            "in_two_splits": {
                "count": self.report.twin_count,
                "files": [twin._asdict() for twin in self.report.twins],
            },
            "problems": [problem._asdict() for problem in self.report.problems],
            "sound": self.report.sound,
            "fingerprint": self.fingerprint,
        }

    def _never_seen(self, part: SplitReport) -> str:
        names = [self.dataset.class_names[label] for label in part.never_seen]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return ", ".join(names[:MOST_NAMES]) + more or "none"


def checked_dataset(
    dataset: Checkable,
    *,
    sample: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> DatasetView:
    """Look at every file of a data set, or at a sample of each split; only the former tells a fingerprint of files."""
    report = check(dataset, sample=sample, seed=seed, workers=workers, progress=_named(progress, "reading images"))
    complete = all(part.looked_at == part.images for part in report.splits.values())
    fingerprint, why_none = _fingerprint(dataset, complete, _named(progress, "fingerprint"))
    own = dataset if isinstance(dataset, LabelledFiles) and dataset.name not in PUBLISHED else None
    mostly_ignored = (report.splits["train"].ignored_pct or 0) > IGNORED_STOPS_PCT
    sparse = own is not None and fingerprint is not None and mostly_ignored and labels_are_sparse(own)
    said = own is not None and own.resize == "sparse"
    evidence = Evidence.of(report, dataset.class_names, sparse=sparse, said_sparse=said)
    if own is not None and fingerprint is not None and report.sound:
        remember_evidence(own, evidence)
    return DatasetView(
        dataset=dataset,
        report=report,
        warnings=tuple(
            one for one in evidence.warnings if one.name == "split-overlap" or not isinstance(dataset, ClassFolders)
        )
        + (() if own is None else brightness_of(own)),
        fingerprint=fingerprint,
        no_fingerprint=why_none,
    )


def _named(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, what)


def _fingerprint(dataset: Checkable, complete: bool, progress: Callable[[int, int], None]) -> tuple[str | None, str]:
    """Or why there is none: a file that cannot be read is a problem found, not a mistake in the command."""
    if isinstance(dataset, Scenes):
        return dataset.fingerprint, ""
    if not complete:
        return None, "a sample was looked at, not every file"
    try:
        return dataset.fingerprinted(progress), ""
    except DataError as error:
        return None, str(error)


def _sizes(part: SplitReport) -> str | None:
    if part.smallest is None or part.largest is None:
        return None
    smallest, largest = (f"{height}x{width}" for height, width in (part.smallest, part.largest))
    return smallest if smallest == largest else f"{smallest} to {largest}"

"""Folders drawn at random over layouts, splits, suffixes, modes and values: read as they were meant, or refused."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import dataset_named, describe
from tests.support import own
from topformer import UserError

SHORT, LONG, LONG_DESCRIBED = 50, 5000, 1000
LEAST_READ = 0.5
"""Share of the folders that must open, so that refusing all of them is no way to pass."""


def misread(seed: int, *, described: bool = False) -> str | None:
    """What a folder of a seed says that was not meant; empty where it is read right, None where it is refused.

    `described`: a description is written for it first, as the command does.
    """
    with TemporaryDirectory() as folder:
        meant = own.draw(Path(folder), seed)
        try:
            if described and not meant.described and any(describe(Path(folder), None)[1]):
                return None
            dataset = dataset_named(folder)
        except UserError as error:
            return f"seed {seed}: a described folder is refused: {error}" if meant.described else None
        assert isinstance(dataset, LabelledFiles)
        return _misread(dataset, meant, seed)


def _misread(dataset: LabelledFiles, meant: own.Drawn, seed: int) -> str:
    if dataset.class_names != meant.class_names:
        return f"seed {seed}: classes {dataset.class_names}, meant {meant.class_names}"
    for split in ("train", "val"):
        for number, pair in enumerate(dataset.pairs[split]):
            name = Path(pair.image).stem
            if meant.splits and name not in meant.splits[split]:
                return f"seed {seed}: {name} is in {split}"
            try:
                labels = dataset.item(split, number)[1]
            except UserError as error:
                if meant.described:
                    return f"seed {seed}: {error}"
                continue
            if not np.array_equal(labels, meant.labels[name]):
                return f"seed {seed}: {pair.labels} is read as {np.unique(labels)}, not {np.unique(meant.labels[name])}"
    return ""


def require_as_meant(seeds: range, *, described: bool = False) -> None:
    found = [misread(seed, described=described) for seed in seeds]
    assert [said for said in found if said] == []
    assert sum(said is not None for said in found) >= LEAST_READ * len(found)


@pytest.mark.slow
@pytest.mark.parametrize("described", [False, True])
def test_drawn_folders_are_read_as_meant_or_refused(described: bool) -> None:
    require_as_meant(range(SHORT), described=described)


@pytest.mark.thorough
@pytest.mark.parametrize(("described", "count"), [(False, LONG), (True, LONG_DESCRIBED)])
def test_many_drawn_folders_are_read_as_meant_or_refused(described: bool, count: int) -> None:
    require_as_meant(range(SHORT, SHORT + count), described=described)

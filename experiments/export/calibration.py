"""Which images choose the ranges of integers, and which say what they lose? Those of a labelled data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evaluators.datasets.named import dataset_named
from evaluators.datasets.scenes import Scenes
from experiments.export.formats import Format, Network, Options
from experiments.export.images import Images, taken
from topformer.errors import UserError
from topformer.progress import Progress, silent

if TYPE_CHECKING:
    from evaluators.datasets import SegmentationDataset, Split

CALIBRATED = 32
"""Training images that the ranges are measured on."""
LEAST_CALIBRATED = 8
JUDGED = 100
"""Validation images that the mIoU is measured on, before and after."""
LEAST_JUDGED = 8


def calibrated(
    options: Options,
    formats: Sequence[Format],
    data: str | None,
    network: Network,
    *,
    report: Progress = silent,
) -> Options:
    """The options with the images that formats in integers need; as they were where none is asked for.

    Raises `UserError` where no data set is named, where it has other classes than the network or too few images, and
    where one of them cannot be read.
    """
    drop = options.max_drop_pct
    if drop is not None and not 0 <= drop <= 100:
        raise UserError(f"--max-drop is in points of mIoU, from 0 to 100, not {drop:g}.")
    asking = [one.name for one in formats if one.tolerance is None]
    if not asking:
        return options
    if data is None:
        raise UserError(
            f"{' and '.join(asking)} need labelled images to choose integers by; name a data set with --calibration, "
            "such as the one that the network was trained on."
        )
    dataset: SegmentationDataset = dataset_named(data)
    if dataset.num_classes != network.task.num_classes:
        raise UserError(
            f"{data} has {dataset.num_classes} classes, the network {network.task.num_classes}: what integers lose "
            "cannot be measured on it; name the data set that the network was trained on with --calibration."
        )
    if isinstance(dataset, Scenes):
        dataset = dataset.at_size(network.task.image_size)  # drawn as large as that, instead of squeezed
    chosen_by = _spread(dataset, data, network, "train", CALIBRATED, LEAST_CALIBRATED)
    judging = _spread(dataset, data, network, "val", JUDGED, LEAST_JUDGED)
    return replace(options, calibration=chosen_by.inputs(network), validation=judging, report=report)


def _spread(dataset: SegmentationDataset, data: str, network: Network, split: Split, wanted: int, least: int) -> Images:
    """As many images as are wanted, or all, evenly from the whole split: neighbours are often alike."""
    there = dataset.length(split)
    if there < least:
        raise UserError(
            f"{data} has {there} images in its split {split}; integers are chosen by at least {LEAST_CALIBRATED} of "
            f"train and judged on at least {LEAST_JUDGED} of val. Name other data with --calibration."
        )
    return taken(dataset, data, network.task, range(0, there, -(-there // wanted)), split=split)

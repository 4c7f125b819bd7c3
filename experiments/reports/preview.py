"""Are the labels where they should be? Images with their labels laid over and a legend, seen in five seconds."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE, Colour, Split
from evaluators.datasets.files import DataError
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.scenes import Scenes
from experiments.views.dataset import DatasetView
from topformer.errors import UserError
from topformer.writing import write_whole

COLUMNS, WIDTH_INCHES = 4, 3.4
PICTURE_PX = 420
"""Longest side of a picture."""
OPACITY = 0.6
_STRIPES = 30
_GREY = 150
_THIN = 0.1
"""Share of labelled pixels below which they are drawn thicker, or nobody would see them."""
_LONGEST_TITLE, _LONGEST_NAME = 46, 28
_LEGEND_COLUMNS = 5


def draw_preview(view: DatasetView, path: Path) -> None:
    """Twelve items of a data set, some with its rarest classes; raises `UserError` where none can be read."""
    shown = [found for split, index in view.report.examples if (found := _item(view, split, index)) is not None]
    if not shown:
        raise UserError(f"there is nothing to draw of {view.title}: no image with labels could be read.")
    entries = _legend(view)
    rows, lines = math.ceil(len(shown) / COLUMNS), math.ceil(len(entries) / _LEGEND_COLUMNS)
    below, above = 0.3 + 0.19 * lines, 0.5 + rows * (0.4 + WIDTH_INCHES * _proportion(shown))
    figure = Figure(figsize=(WIDTH_INCHES * COLUMNS, above + below), layout="constrained")
    with mpl.rc_context({"font.size": 8}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # letters that the font lacks are drawn as boxes
        grid = figure.add_gridspec(2, 1, height_ratios=(above, below))
        pictures, legend = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        pictures.suptitle(_plain(f"{view.title}: labels laid over {len(shown)} images"), fontsize=11)
        for place, axes in enumerate(pictures.subplots(rows, COLUMNS, squeeze=False).flat):
            axes.set_axis_off()
            if place < len(shown):
                title, picture = shown[place]
                axes.imshow(picture, interpolation="nearest")
                axes.set_title(title, fontsize=7)
        columns = min(_LEGEND_COLUMNS, len(entries))
        legend.legend(handles=entries, loc="center", ncols=columns, frameon=False, fontsize=8)
        _save(figure, path)


def overlaid(image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """(H, W, 3) and (H, W) -> (h, w, 3), smaller: classes in their colours, what is ignored pale with grey stripes."""
    picture, small = _shrunk(image, labels)
    colours = np.full((IGNORE + 1, 3), _GREY, np.float32)
    colours[: len(palette)] = palette
    known = small != IGNORE
    opacity = 1.0 if _is_thin(known) else OPACITY
    mixed = (1 - opacity) * picture + opacity * colours[small]
    faded = 0.5 * picture + 0.5 * 255
    rows, columns = np.indices(small.shape)
    stripes = ~known & ((rows + columns) % max(max(small.shape) // _STRIPES, 2) == 0)
    result = np.where(known[..., None], mixed, np.where(stripes[..., None], _GREY, faded))
    drawn: NDArray[np.uint8] = result.round().astype(np.uint8)
    return drawn


def _shrunk(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """To a side that can be printed; of scribbles and points every one is kept, and made thick enough to be seen."""
    scale = min(PICTURE_PX / max(labels.shape), 1.0)
    height, width = (max(round(side * scale), 1) for side in labels.shape)
    picture = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    there = labels != IGNORE
    if not _is_thin(there):
        small = PillowImage.fromarray(labels).resize((width, height), PillowImage.Resampling.NEAREST)
        return np.asarray(picture, np.float32), np.asarray(small)
    thick = np.full((height, width), IGNORE, np.uint8)
    rows, columns = there.nonzero()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y = np.clip((rows * height) // labels.shape[0] + down, 0, height - 1)
            x = np.clip((columns * width) // labels.shape[1] + right, 0, width - 1)
            thick[y, x] = labels[rows, columns]
    return np.asarray(picture, np.float32), thick


def _is_thin(labelled: NDArray[np.bool_]) -> bool:
    return bool(0 < labelled.mean() < _THIN)


def _proportion(shown: Sequence[tuple[str, NDArray[np.uint8]]]) -> float:
    """Of the tallest picture, height over width; a ribbon on end is drawn small."""
    tallest: float = max(picture.shape[0] / picture.shape[1] for _, picture in shown)
    return min(tallest, 1.5)


def _item(view: DatasetView, split: Split, index: int) -> tuple[str, NDArray[np.uint8]] | None:
    """Title and picture; None for a file that is gone since it was checked."""
    dataset = view.dataset
    try:
        image, labels = dataset.item(split, index)
    except DataError:
        return None
    if isinstance(dataset, ClassFolders):
        path, label = dataset.images[split][index]
        maps, title = np.full(image.shape[:2], IGNORE, np.uint8), f"{dataset.class_names[label]}: {path}"
        shown = _shrunk(image, maps)[0].astype(np.uint8)
    else:
        assert not isinstance(labels, int)
        path = f"image {index}" if isinstance(dataset, Scenes) else dataset.pairs[split][index].image
        shown, title = overlaid(image, labels, dataset.palette), f"{split}: {path}"
    height, width = image.shape[:2]
    short = title if len(title) <= _LONGEST_TITLE else f"{title[:12]}...{title[-_LONGEST_TITLE + 15 :]}"
    return _plain(f"{short}  {height}x{width}"), shown


def _legend(view: DatasetView) -> list[Patch]:
    """A colour, name, reading and share of each class, and what is ignored."""
    if isinstance(view.dataset, ClassFolders):
        return []
    train = view.report.splits["train"]
    entries = []
    for label, (name, colour) in enumerate(zip(view.dataset.class_names, view.dataset.palette, strict=True)):
        share = train.shares_pct[label]
        amount = "not in train" if not share else f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"
        read = "" if isinstance(view.dataset, Scenes) else f" ({view.read_as(label)})"
        said = f"{name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + '...'}{read}: {amount}"
        entries.append(_patch(said, facecolor=[part / 255 for part in colour]))
    ignored = f"ignored ({view.read_as(IGNORE) or 'no value'}): {train.ignored_pct or 0:.1f} % of all"
    return [*entries, _patch(ignored, facecolor="0.92", hatch="////")]


def _patch(said: str, **style: Any) -> Patch:
    return Patch(label=_plain(said), edgecolor="0.5", linewidth=0.5, **style)


def _plain(text: str) -> str:
    """No letter is taken for mathematics, nor one that cannot be printed drawn."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format=path.suffix.removeprefix("."))
    try:
        write_whole(path, drawn.getvalue())
    except OSError as error:
        raise UserError(f"cannot write the picture {str(path)!r} ({error.strerror}).") from None

"""What does a trained network see? Scores on a data set, labels for one's own images, pictures of both."""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as NamingProtocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import IGNORE, Colour, numbered_palette
from evaluators.datasets.acceptance import require_names
from evaluators.datasets.description import IMAGE_SUFFIXES
from evaluators.datasets.files import MOST_CLASSES, contents, read_image
from evaluators.datasets.imagenet import ClassFolders
from evaluators.datasets.named import any_dataset_named
from evaluators.evaluation import evaluate, labels_of, normalised
from evaluators.segmentation import ConfusionMatrix
from experiments.front.lookup import chosen
from experiments.training.class_names import require_named_alike
from experiments.training.recipe_files import protocol_of, recipe_named
from topformer.errors import UserError
from topformer.model import TopFormer, upsample
from topformer.weights import class_count, load_model, saved_architecture, saved_classes, saved_model, saved_protocol
from topformer.writing import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.datasets import Image, Labels, SegmentationDataset
    from evaluators.recipe import Protocol
    from experiments.training.run import Report

MOSTLY_LABELLED_PCT = 50.0
NAMED = 5
"""Classes named in a line."""
STAGES = ("read", "prepare", "network", "labels", "write")
OPACITY = 0.6
"""Of the colours of an overlay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """Scores of a network on a data set."""

    matrix: ConfusionMatrix
    class_names: tuple[str, ...]
    images: int
    pictures: tuple[Path, ...]
    pixels: int
    """Of all labels, ignored ones too."""

    @property
    def labelled_pct(self) -> float:
        """Share of the pixels that are scored."""
        return 100 * int(self.matrix.counts.sum()) / self.pixels

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Classes that no pixel is labelled with: how well they are found is not known."""
        there = self.matrix.counts.sum(axis=1)
        return tuple(name for name, pixels in zip(self.class_names, there, strict=True) if not pixels)

    @property
    def lacks(self) -> str:
        """What the scores say nothing of, in a line; empty where most pixels and every class are labelled."""
        said = []
        if self.labelled_pct < MOSTLY_LABELLED_PCT:
            said.append(f"scored are the {self.labelled_pct:.2f} % of the pixels that are labelled; of the others the")
            said[-1] += " score says nothing"
        if self.unlabelled:
            names = ", ".join(self.unlabelled[:NAMED])
            more = f" and {len(self.unlabelled) - NAMED} more" if len(self.unlabelled) > NAMED else ""
            said.append(f"labelled nowhere in these images, so that no score is of them: {names}{more}")
        return "; ".join(said)

    def as_dict(self) -> dict[str, Any]:
        """Percentages; None for a class that is neither labelled nor predicted."""
        return {
            "images": self.images,
            "labelled_pct": self.labelled_pct,
            "unlabelled_classes": list(self.unlabelled),
            "miou_pct": self.matrix.miou_pct,
            "pixel_accuracy_pct": self.matrix.pixel_accuracy_pct,
            "mean_accuracy_pct": self.matrix.mean_accuracy_pct,
            "per_class_iou_pct": dict(zip(self.class_names, self.matrix.per_class_iou_pct, strict=True)),
            "pictures": [str(path) for path in self.pictures],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One image, labelled."""

    image: Path
    overlay: Path
    labels: Path
    shares_pct: tuple[tuple[str, float], ...]
    """Of the classes that are there, largest first."""
    ms: dict[str, float]
    """Milliseconds of each of `STAGES`."""


def segmentation_network(weights: Path, arch: str | None, *, storage: str) -> TopFormer:
    """In eval mode. Our files say their architecture; for a released checkpoint it must be given."""
    network = _network(weights, arch, storage=storage)
    if network.num_classes > MOST_CLASSES:
        raise UserError(
            f"{weights} knows {network.num_classes} classes; a label map holds {MOST_CLASSES}, 0 to {MOST_CLASSES - 1}."
        )
    return network


def _network(weights: Path, arch: str | None, *, storage: str) -> TopFormer:
    own = saved_architecture(weights)
    if own is not None:
        if arch is not None and chosen(arch, storage=storage).arch != own:
            raise UserError(f"{weights} was saved from architecture {own.key}, not {arch}; leave --arch out.")
        return saved_model(weights)
    if arch is None:
        raise UserError(f"{weights} does not say its architecture; name it with --arch, such as --arch tiny.")
    return load_model(chosen(arch, storage=storage).arch, num_classes=class_count(weights), weights=weights)


def judging(
    weights: Path, recipe: str | None, *, dataset: str, anchor: str | None, changes: Iterable[str]
) -> tuple[str, Protocol]:
    """Whose protocol, and which: the recipe's on a data set; without one, what the weights were scored at in training,
    or else the released one's."""
    changes = tuple(changes)
    own = saved_protocol(weights) if recipe is None and saved_architecture(weights) is not None else None
    if own is not None:
        if changes:
            raise UserError("--set changes a recipe; name it with --recipe, such as --recipe quick.")
        return "the training", protocol_of(own, str(weights))
    found = recipe_named(recipe or "released", dataset=dataset, anchor=anchor, changes=changes)
    if found.protocol is None:
        raise UserError(f"recipe {recipe} is for classification and says nothing of how to judge label maps.")
    return found.name, found.protocol


def evaluate_weights(
    network: TopFormer,
    dataset: SegmentationDataset,
    protocol: Protocol,
    *,
    images: int | None,
    pictures: Path | None,
    count: int,
    report: Report,
) -> Evaluated:
    """Pictures show image, labels and prediction side by side, for the first `count` images."""
    if network.num_classes != dataset.num_classes:
        raise UserError(
            f"the weights know {network.num_classes} classes, data set {dataset.name} has {dataset.num_classes}; they "
            "were trained for another one."
        )
    if pictures is not None:
        _make_folder(pictures)
    total = min(images or dataset.length("val"), dataset.length("val"))
    drawn: list[Path] = []
    pixels = 0

    def see(index: int, image: Image, labels: Labels, predicted: NDArray[np.int64]) -> None:
        nonlocal pixels
        pixels += labels.size
        if pictures is not None and len(drawn) < count:
            parts = [image, _painted(labels, dataset.palette), _painted(predicted, dataset.palette)]
            path = pictures / f"{index:05d}.png"
            _save(PillowImage.fromarray(np.concatenate(parts, axis=1)), path)
            drawn.append(path)

    matrix = evaluate(
        network,
        dataset,
        protocol,
        indices=range(total),
        progress=lambda done, of: report("scoring", done, of, ""),
        seen=see,
    )
    return Evaluated(
        matrix=matrix, class_names=tuple(dataset.class_names), images=total, pictures=tuple(drawn), pixels=pixels
    )


def classes_of(
    weights: Path, network: TopFormer, data: str | None, *, accept: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours: of a data set, or those that the weights have; or else numbers. Raises `UserError` where a
    data set names them otherwise than the weights, unless "class-order" is accepted."""
    require_names(accept)
    if data is not None:
        dataset = any_dataset_named(data)
        if isinstance(dataset, ClassFolders) or dataset.num_classes != network.num_classes:
            raise UserError(f"{data} has {dataset.num_classes} classes, the weights know {network.num_classes}.")
        require_named_alike(weights, data, dataset.class_names, accept)
        return tuple(dataset.class_names), dataset.palette
    own = saved_classes(weights) if saved_architecture(weights) is not None else ()
    if own:
        return tuple(name for name, _ in own), tuple(colour for _, colour in own)
    return tuple(f"class {index}" for index in range(network.num_classes)), numbered_palette(network.num_classes)


class Labeller(NamingProtocol):
    """What labels an image, in three steps that are timed: weights in torch, or an exported file in its runtime."""

    def prepare(self, image: Image) -> Any:
        """(H, W, 3) -> what the network takes."""

    def run(self, given: Any) -> Any:
        """The network."""

    def labels(self, out: Any, size: tuple[int, int]) -> NDArray[np.int64]:
        """What the network gave -> labels (H, W) of the image's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchLabeller:
    """Weights, as `segmented` labels an image."""

    network: TopFormer
    protocol: Protocol

    def prepare(self, image: Image) -> Tensor:
        height, width, _ = image.shape
        with torch.inference_mode():
            return upsample(normalised(torch.tensor(image)[None]), self.protocol.input_size(height, width))

    def run(self, given: Tensor) -> Tensor:
        with torch.inference_mode():
            return upsample(self.network(given), (given.shape[-2], given.shape[-1]))

    def labels(self, out: Tensor, size: tuple[int, int]) -> NDArray[np.int64]:
        with torch.inference_mode():
            return labels_of(out, size)


def predict_images(
    labeller: Labeller,
    images: Sequence[Path],
    out: Path,
    names: Sequence[str],
    palette: Sequence[Colour],
    *,
    report: Report,
) -> tuple[Predicted, ...]:
    """An overlay and a label map (a palette PNG of class numbers) for each image. Raises `UserError` before anything is
    written where an image cannot be read or two would share a name."""
    images = [path for given in images for path in images_at(given)]
    stems = [path.stem for path in images]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UserError(f"two images are called {twice!r}, and so would their labels be; label them one by one.")
    for path in images:
        read_image(path)
    given = {path.resolve() for path in images}
    if over := next((path for stem in stems for path in _targets(out, stem) if path.resolve() in given), None):
        raise UserError(f"the labels would be written over the image {over}; choose another --out.")
    _make_folder(out)
    found = []
    for done, path in enumerate(images, start=1):
        clock = [time.perf_counter()]
        image = read_image(path)
        clock.append(time.perf_counter())
        prepared = labeller.prepare(image)
        clock.append(time.perf_counter())
        given_out = labeller.run(prepared)
        clock.append(time.perf_counter())
        labels = labeller.labels(given_out, (image.shape[0], image.shape[1]))
        clock.append(time.perf_counter())
        blended = (1 - OPACITY) * image + OPACITY * _painted(labels, palette)
        counts = np.bincount(labels.ravel(), minlength=len(names))
        shares = [(names[index], 100 * counts[index] / labels.size) for index in np.argsort(-counts) if counts[index]]
        indexed = PillowImage.fromarray(labels.astype(np.uint8))
        indexed.putpalette([part for colour in palette for part in colour])
        overlay, target = _targets(out, path.stem)
        _save(PillowImage.fromarray(blended.astype(np.uint8)), overlay)
        _save(indexed, target)
        clock.append(time.perf_counter())
        found.append(
            Predicted(
                image=path,
                overlay=overlay,
                labels=target,
                shares_pct=tuple((name, float(share)) for name, share in shares),
                ms={name: 1000 * (end - begin) for name, begin, end in zip(STAGES, clock, clock[1:], strict=False)},
            )
        )
        report("labelling", done, len(images), path.name)
    return tuple(found)


def images_at(path: Path) -> list[Path]:
    """The image, or those of a folder. Raises `UserError` where that has none."""
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES and one.name[:1] != ".")
    if not found:
        raise UserError(f"the folder {path} has no images ({', '.join(IMAGE_SUFFIXES)}); found {contents(path)}.")
    return found


def _painted(labels: NDArray[np.integer], palette: Sequence[Colour]) -> NDArray[np.uint8]:
    """(H, W) -> (H, W, 3); what is ignored is black."""
    colours = np.zeros((IGNORE + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    painted: NDArray[np.uint8] = colours[labels]
    return painted


def _targets(out: Path, stem: str) -> tuple[Path, Path]:
    """Overlay and labels."""
    return out / f"{stem}.overlay.png", out / f"{stem}.labels.png"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"no pictures can be written to {path} ({error.strerror}); choose another folder.") from None


def _save(picture: PillowImage.Image, path: Path) -> None:
    """Whole, or not there."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_whole(path, content.getvalue())


def pace(found: Sequence[Predicted]) -> str:
    """Median milliseconds of every stage, and how many images a second that makes."""
    medians = {name: float(np.median([one.ms[name] for one in found])) for name in STAGES}
    said = ", ".join(f"{name} {ms:.1f}" for name, ms in medians.items())
    return f"milliseconds an image: {said}; {1000 / sum(medians.values()):.1f} frames per second"

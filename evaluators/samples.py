"""What does a network see in training? The order of the images, how each is changed, and the workers that do it.

Everything about a sample follows from (seed, its number): whatever number of processes works, wherever a training is
taken up again, the same samples come.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from evaluators.datasets import IGNORE
from evaluators.recipe import Augmentation, ResizedCrop, fitting_factor
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Image, Labels, Split

Sample: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.integer]]
"""Image (H, W, 3), and labels (H, W) or a class ()."""
PADDING = (124, 116, 104)
"""RGB beyond an image: the mean that normalisation takes off."""
CROP_TRIES = 10
BRIGHTNESS = 32
"""Added to all pixels, at most, either way."""
CONTRAST = SATURATION = (0.5, 1.5)
HUE_TURN = 0.1
"""Of the colour circle, at most, either way."""
_WAIT_S = 600


class ImageDataset(Protocol):
    """What training needs of a data set: images with label maps, or with a class each."""

    @property
    def num_classes(self) -> int: ...

    def length(self, split: Split) -> int: ...

    def item(self, split: Split, index: int) -> tuple[Image, Labels | int]: ...


class Batch(NamedTuple):
    """uint8 images (B, H, W, 3), and labels (B, H, W) or classes (B,)."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The training samples of a data set, endless: shuffled epochs back to back."""

    dataset: ImageDataset
    images: int
    """The first so many images of the training split are used."""
    seed: int
    augmentation: Augmentation | ResizedCrop | None
    sparse_labels: bool = False
    """Every labelled pixel counts: none is left out where an image is made smaller."""

    def image_of(self, number: int) -> int:
        """Index of the image that sample `number` is made of."""
        epoch, place = divmod(number, self.images)
        return int(_order(self.seed, epoch, self.images)[place])

    def __call__(self, number: int) -> Sample:
        """Raises `DataError` where a file cannot be read."""
        image, target = self.dataset.item("train", self.image_of(number))
        rng = np.random.default_rng((self.seed, number))
        if isinstance(self.augmentation, ResizedCrop):
            image = resized_crop(image, self.augmentation, rng)
        elif self.augmentation:
            assert not isinstance(target, int), "classes have no map to crop"
            image, target = augmented(image, target, self.augmentation, rng, sparse=self.sparse_labels)
        if rng.random() < 0.5:
            image = image[:, ::-1]
            target = target if isinstance(target, int) else target[:, ::-1]
        return image, np.asarray(target)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, images)).permutation(images)


def augmented(
    image: Image, labels: Labels, augmentation: Augmentation, rng: np.random.Generator, *, sparse: bool = False
) -> tuple[Image, Labels]:
    """A crop of the image at a random scale, in changed colours.

    Scale and crop are one step, so that only what is seen is computed; image and labels are sampled at the same places,
    bilinearly and by the nearest. Of `sparse` labels none is left out where the crop is smaller than what it shows, and
    a crop without any is drawn again.
    """
    height, width = labels.shape
    scale = rng.uniform(augmentation.scale_min, augmentation.scale_max)
    factor = fitting_factor(height, width, scale * augmentation.long_side, scale * augmentation.short_side)
    scaled = (max(round(height * factor), 1), max(round(width * factor), 1))
    size = (min(augmentation.crop[0], scaled[0]), min(augmentation.crop[1], scaled[1]))
    source = PillowImage.fromarray(labels)
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(scaled, size, strict=True))
        box = _source_box((top, left), size, (height / scaled[0], width / scaled[1]))
        if sparse and factor < 1:
            cut = _carried_over(labels, box, size)
        else:
            cut = np.asarray(_cut(source, box, size, PillowImage.Resampling.NEAREST))
        if sparse and (cut == IGNORE).all():
            continue
        if augmentation.class_share_max == 1 or _largest_share(cut) < augmentation.class_share_max:
            break
    picture = _cut(PillowImage.fromarray(image), box, size, PillowImage.Resampling.BILINEAR)
    if augmentation.photometric:
        picture = _recoloured(picture, rng)
    if size == augmentation.crop:
        return np.asarray(picture), cut
    padded = np.empty((*augmentation.crop, 3), np.uint8)
    padded[:] = PADDING
    padded[: size[0], : size[1]] = np.asarray(picture)
    padded_labels = np.full(augmentation.crop, IGNORE, np.uint8)
    padded_labels[: size[0], : size[1]] = cut
    return padded, padded_labels


def resized_crop(image: Image, augmentation: ResizedCrop, rng: np.random.Generator) -> Image:
    """A random part of random proportions, resized: what classification is trained on."""
    height, width, _ = image.shape
    area = height * width * rng.uniform(augmentation.area_min, 1)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(augmentation.aspect_max))
    part = (min(math.sqrt(area / aspect), height), min(math.sqrt(area * aspect), width))
    top, left = rng.uniform(0, height - part[0]), rng.uniform(0, width - part[1])
    box = (left, top, left + part[1], top + part[0])
    size = (augmentation.size_px, augmentation.size_px)
    picture = PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BILINEAR, box)
    return np.asarray(_recoloured(picture, rng) if augmentation.photometric else picture)


def _source_box(
    corner: tuple[int, int], size: tuple[int, int], step: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in the unscaled image; `step` is how much of it a pixel of the scaled one covers."""
    (top, left), (height, width) = corner, size
    return left * step[1], top * step[0], (left + width) * step[1], (top + height) * step[0]


def _cut(
    image: PillowImage.Image,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    resampling: PillowImage.Resampling,
) -> PillowImage.Image:
    return image.transform((size[1], size[0]), PillowImage.Transform.EXTENT, box, resampling)


def _carried_over(labels: Labels, box: tuple[float, float, float, float], size: tuple[int, int]) -> Labels:
    """A part of a map made smaller, with every label that is there: each labelled pixel is put where it comes to lie,
    in place of one that was before it."""
    left, top, right, bottom = box
    rows, columns = (labels != IGNORE).nonzero()
    y = np.floor((rows + 0.5 - top) * (size[0] / (bottom - top))).astype(np.intp)
    x = np.floor((columns + 0.5 - left) * (size[1] / (right - left))).astype(np.intp)
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    cut = np.full(size, IGNORE, np.uint8)
    cut[y[inside], x[inside]] = labels[rows[inside], columns[inside]]
    return cut


def _largest_share(labels: Labels) -> float:
    """Of a class in what is labelled; a crop of one class alone is as good as any for want of choice."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    total = int(counts.sum())
    return float(counts.max()) / total if total and np.count_nonzero(counts) > 1 else 1.0


def _recoloured(picture: PillowImage.Image, rng: np.random.Generator) -> PillowImage.Image:
    """Brightness, contrast before or after the colours, saturation and hue, each with probability 1/2."""
    apply, late = rng.random(4) < 0.5, rng.random() < 0.5
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast, saturation = rng.uniform(*CONTRAST), rng.uniform(*SATURATION)
    turn = round(rng.uniform(-HUE_TURN, HUE_TURN) * 256)
    levels = np.arange(256)
    if apply[0]:
        levels = np.clip(levels + brightness, 0, 255)
    if apply[1] and not late:
        levels = np.clip(levels * contrast, 0, 255)
    picture = _through(picture, levels)
    if apply[2]:
        picture = ImageEnhance.Color(picture).enhance(saturation)
    if apply[3]:
        hue, *rest = picture.convert("HSV").split()
        turned = (np.arange(256) + turn) % 256
        picture = PillowImage.merge("HSV", (hue.point(turned.tolist()), *rest)).convert("RGB")
    if apply[1] and late:
        picture = _through(picture, np.clip(np.arange(256) * contrast, 0, 255))
    return picture


def _through(picture: PillowImage.Image, levels: NDArray[np.floating] | NDArray[np.integer]) -> PillowImage.Image:
    return picture.point(np.rint(levels).astype(int).tolist() * 3)


class _Numbered(Dataset[Sample | UserError]):
    """Errors are handed over as values: a loader would wrap them in a traceback."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Sample | UserError:
        try:
            return self.samples(number)
        except UserError as error:
            return error


class _Numbers(Sampler[list[int]]):
    """The numbers of each batch, without end."""

    def __init__(self, batches: Iterator[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches


def _stacked(items: Sequence[Sample | UserError]) -> Batch | UserError:
    images, targets = [], []
    for item in items:
        if isinstance(item, UserError):
            return item
        images.append(item[0])
        targets.append(item[1])
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)))


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


@contextmanager
def batches(
    samples: Samples,
    *,
    first: int,
    size: int,
    stride: int,
    workers: int,
    pin: bool = False,
) -> Iterator[Iterator[Batch]]:
    """Endless batches of `size` samples: numbers `first`, `first` + 1 ..., then from `first` + `stride` on, and so on.

    Without workers this process makes them. Raises `DataError` from the iterator where a file cannot be read.
    """
    numbers = (list(range(start, start + size)) for start in count(first, stride))
    numbered = _Numbered(samples)
    if not workers:
        with closing(_sound(_stacked([numbered[number] for number in batch]) for batch in numbers)) as made:
            yield made
        return
    loader = DataLoader(
        numbered,
        batch_sampler=_Numbers(numbers),
        num_workers=workers,
        collate_fn=_stacked,
        worker_init_fn=_one_thread,
        generator=torch.Generator().manual_seed(0),  # or the caller's random stream would pay for the workers' seed
        pin_memory=pin,
        timeout=_WAIT_S,
        prefetch_factor=2,
    )
    with closing(_sound(loader)) as made:
        yield made


def _sound(made: Iterable[Batch | UserError]) -> Generator[Batch, None, None]:
    """Batches up to the first error, which is raised."""
    for batch in made:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def most_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

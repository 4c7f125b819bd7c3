"""What a network sees in training: order, crops, colours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from evaluators.datasets import IGNORE
from evaluators.recipe import Augmentation, Protocol, ResizedCrop, fitting_factor
from evaluators.samples import PADDING, Samples, augmented, batches, resized_crop
from tests.support.trainings import CROPPED, Halves, Sides
from topformer import UserError

AS_IT_IS = Augmentation(
    long_side=96, short_side=64, scale_min=1, scale_max=1, crop=(64, 96), class_share_max=1, photometric=False
)


def samples(augmentation: Augmentation | None = CROPPED, *, seed: int = 0) -> Samples:
    return Samples(dataset=Halves(), images=6, seed=seed, augmentation=augmentation)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_epoch_shows_every_image_once_in_another_order() -> None:
    shown = [samples().image_of(number) for number in range(18)]
    epochs = [shown[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_sample_follows_from_seed_and_number() -> None:
    first, again, other = samples()(5), samples()(5), samples(seed=1)(5)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


def test_batches_go_on_anywhere() -> None:
    with batches(samples(), first=0, size=2, stride=2, workers=0) as whole:
        third = list(islice(whole, 3))[2]
    with batches(samples(), first=4, size=2, stride=2, workers=0) as rest:
        assert torch.equal(next(rest).images, third.images)


def test_two_processes_share_a_batch() -> None:
    with batches(samples(), first=0, size=4, stride=4, workers=0) as all_of_it:
        whole = next(all_of_it).targets
    parts = []
    for rank in (0, 1):
        with batches(samples(), first=2 * rank, size=2, stride=4, workers=0) as own:
            parts.append(next(own).targets)
    assert torch.equal(torch.cat(parts), whole)


def test_at_scale_one_a_whole_crop_is_the_image() -> None:
    image, labels = Halves().item("train", 0)
    seen, seen_labels = augmented(image, labels, AS_IT_IS, rng())
    assert np.array_equal(seen, image)
    assert np.array_equal(seen_labels, labels)


def test_scaling_and_cropping_at_once_is_scaling_then_cropping() -> None:
    """Bilinear without antialiasing, as torch resizes; a smooth image, so that a pixel's place shows in its value."""
    rows, columns = np.mgrid[0:40, 0:60].astype(np.float32)
    image = np.stack([4 * columns, 6 * rows, 2 * (rows + columns)], axis=2).astype(np.uint8)
    labels = (columns // 10).astype(np.uint8)
    twice = replace(CROPPED, long_side=120, short_side=80, scale_min=1, scale_max=1, crop=(32, 64))
    seen, seen_labels = augmented(image, labels, replace(twice, class_share_max=1), rng(3))
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    scaled = F.interpolate(pixels, (80, 120), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    differences = [
        (float(np.abs(scaled[top : top + 32, left : left + 64] - seen).max()), top, left)
        for top in range(49)
        for left in range(57)
    ]
    worst, top, left = min(differences)
    assert worst <= 1  # of 255: rounding
    nearest = labels.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(nearest[top : top + 32, left : left + 64], seen_labels)


def test_what_an_image_does_not_fill_is_padded_and_ignored() -> None:
    image, labels = Halves().item("train", 0)
    half = replace(AS_IT_IS, scale_min=0.5, scale_max=0.5)
    seen, seen_labels = augmented(image, labels, half, rng())
    assert (seen_labels[32:] == IGNORE).all()
    assert (seen_labels[:, 48:] == IGNORE).all()
    assert (seen[40, 60] == PADDING).all()
    assert (seen_labels[2:32, :48] != IGNORE).all()


def test_crops_of_one_class_are_drawn_again() -> None:
    """The line between the halves is at 16 of 64 rows: four crops of 32 in five have one class only or nearly so."""
    image, labels = Halves().item("train", 0)

    def balanced(most: float) -> int:
        small = replace(CROPPED, scale_min=1, scale_max=1, crop=(32, 32), class_share_max=most)
        cuts = [augmented(image, labels, small, rng(seed))[1] for seed in range(60)]
        return sum(len(np.unique(cut[cut != IGNORE])) == 2 for cut in cuts)

    assert balanced(0.75) > 1.4 * balanced(1)


def test_colours_change_by_no_more_than_they_may() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    coloured = replace(AS_IT_IS, crop=(32, 32), short_side=32, long_side=32, photometric=True)
    seen = [augmented(grey, np.zeros((32, 32), np.uint8), coloured, rng(seed))[0][0, 0] for seed in range(300)]
    assert min(int(pixel.min()) for pixel in seen) >= (128 - 32) * 0.5 - 1
    assert max(int(pixel.max()) for pixel in seen) <= (128 + 32) * 1.5 + 1
    assert len({tuple(pixel) for pixel in seen}) > 100
    assert all(pixel.max() - pixel.min() <= 1 for pixel in seen)  # grey has neither saturation nor hue


def test_hue_and_saturation_change_colours() -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([200, 40, 40], np.uint8)
    coloured = replace(AS_IT_IS, crop=(32, 32), short_side=32, long_side=32, photometric=True)
    seen = [augmented(red, np.zeros((32, 32), np.uint8), coloured, rng(seed))[0][0, 0] for seed in range(100)]
    assert any(int(pixel[1]) > int(pixel[2]) + 20 for pixel in seen)  # towards yellow
    assert any(int(pixel[2]) > int(pixel[1]) + 20 for pixel in seen)  # towards magenta
    assert all(pixel.argmax() == 0 for pixel in seen)


@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 10_000))
def test_any_image_gives_a_crop_of_the_size_asked_for(height: int, width: int, seed: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    seen, labels = augmented(image, np.ones((height, width), np.uint8), CROPPED, rng(seed))
    assert (seen.shape, labels.shape) == ((64, 64, 3), (64, 64))
    assert set(np.unique(labels)) <= {1, IGNORE}


@given(st.integers(2, 200), st.integers(2, 200), st.integers(0, 10_000))
def test_any_image_gives_a_resized_crop(height: int, width: int, seed: int) -> None:
    crop = ResizedCrop(size_px=32, area_min=0.08, aspect_max=4 / 3, photometric=False)
    assert resized_crop(np.full((height, width, 3), 9, np.uint8), crop, rng(seed)).shape == (32, 32, 3)


def test_images_are_flipped_half_the_time() -> None:
    one = Samples(dataset=Sides(), images=1, seed=0, augmentation=None)
    flips = Counter(int(one(number)[1][0, 0]) for number in range(200))
    assert 70 < flips[1] < 130


def test_sides_are_fitted_whichever_way_round_an_image_is() -> None:
    assert fitting_factor(512, 683, 2048, 512) == fitting_factor(683, 512, 2048, 512) == 1
    assert fitting_factor(512, 8192, 2048, 512) == 0.25


@pytest.mark.parametrize(
    ("size", "wanted"), [((683, 512), (704, 512)), ((256, 256), (512, 512)), ((100, 1000), (224, 2048))]
)
def test_a_protocol_rounds_sides_up(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert Protocol(long_side=2048, short_side=512, multiple_of=32).input_size(*size) == wanted


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crop": (65, 64)}, "crop must be .* multiples of 32"),
        ({"scale_min": 3}, "scale_min and scale_max must be"),
        ({"short_side": 4096}, "short_side and long_side must be"),
        ({"class_share_max": 0}, "class_share_max must be above 0"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(CROPPED, **change)

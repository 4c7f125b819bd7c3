"""What a preview shows of labels."""

from __future__ import annotations

import numpy as np

from evaluators.datasets import IGNORE
from experiments.reports.preview import PICTURE_PX, overlaid

RED, BLUE = (250, 0, 0), (0, 0, 250)


def test_classes_are_laid_over_in_their_colours_and_what_is_ignored_is_pale() -> None:
    image = np.full((60, 90, 3), 100, np.uint8)
    labels = np.zeros((60, 90), np.uint8)
    labels[:20], labels[20:40] = 1, IGNORE
    drawn = overlaid(image, labels, (RED, BLUE))
    assert drawn[5, 5].tolist() == [40, 40, 190]  # two fifths of 100, three fifths of the colour
    assert drawn[50, 5].tolist() == [190, 40, 40]
    assert {tuple(pixel) for pixel in drawn[25:35].reshape(-1, 3).tolist()} == {(178, 178, 178), (150, 150, 150)}


def test_a_point_in_a_large_image_is_seen() -> None:
    labels = np.full((2000, 3000), IGNORE, np.uint8)
    labels[1001, 1501] = 1
    drawn = overlaid(np.full((2000, 3000, 3), 100, np.uint8), labels, (RED, BLUE))
    assert drawn.shape == (280, PICTURE_PX, 3)
    assert (drawn == BLUE).all(axis=2).sum() == 9

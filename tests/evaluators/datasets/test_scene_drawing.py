"""What is drawn: the same bits on every machine, labels that need the far cues, classes that fold."""

from __future__ import annotations

import ast
import inspect
import zlib
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluators.datasets import IGNORE, scene_drawing
from evaluators.datasets.scene_drawing import (
    BOARDS,
    COMMON_CLASSES,
    DOOR,
    FENCE,
    FINE_NAMES,
    FIRST_BOARD,
    FIRST_CHECKED_SKY,
    FIRST_GROUND,
    FIRST_SKYLINE,
    FIRST_THING,
    GROUNDS,
    LEAST_CLASSES,
    MOST_CLASSES,
    POLE,
    SKIES,
    SKYLINE,
    WINDOW,
    Cues,
    Draws,
    draw_scene,
    names_and_labels,
)

STRIP = (64, 576)
ALL_CUES = [Cues(sky, ground, board) for sky in range(3) for ground in range(3) for board in range(3)]
Labels = NDArray[np.uint8]


def common(labels: Labels) -> Labels:
    """Labels of 150 classes as those of 59."""
    return names_and_labels(COMMON_CLASSES)[1][labels]


def class_named(name: str) -> int:
    return FINE_NAMES.index(name)


def is_board(labels: Labels) -> NDArray[np.bool_]:
    return (common(labels) >= FIRST_BOARD) & (common(labels) < FIRST_THING)


def is_ground(labels: Labels) -> NDArray[np.bool_]:
    return (labels >= FIRST_GROUND) & (labels < FIRST_SKYLINE)


def is_sky(labels: Labels) -> NDArray[np.bool_]:
    return (labels < FIRST_GROUND) | ((labels >= FIRST_CHECKED_SKY) & (labels < FIRST_CHECKED_SKY + len(SKIES)))


@pytest.mark.parametrize(
    ("size", "num_classes", "key", "image_crc", "labels_crc"),
    [
        ((64, 576), 59, (0, 0, 0), 0x7109EC82, 0x81E321EF),
        ((64, 576), 59, (0, 0, 2999), 0xB6D01544, 0x443E5C0E),
        ((64, 576), 59, (0, 1, 299), 0x7C7C9BAA, 0x9F5CEEB8),
        ((64, 576), 150, (0, 0, 1), 0x42B1D446, 0x9EAF6E37),
        ((64, 576), 2, (0, 1, 7), 0x7512F9E0, 0x564E3EF5),
        ((32, 32), 59, (0, 0, 3), 0x1F275218, 0x815123BC),
        ((33, 97), 20, (5, 0, 4), 0x6466B795, 0x2234E644),
        ((97, 33), 59, (1, 1, 5), 0xDA8DE34E, 0x9BF1004A),
        ((512, 512), 150, (0, 0, 6), 0x467CE1A1, 0x63FF92A4),
        ((512, 512), 59, (0, 1, 0), 0x33A456C3, 0x21042763),
        ((128, 512), 150, (2**32 - 1, 0, 8), 0xE441E367, 0x5E0A8F8D),
    ],
)
def test_every_machine_draws_what_was_recorded(
    size: tuple[int, int], num_classes: int, key: tuple[int, ...], image_crc: int, labels_crc: int
) -> None:
    """A change here is another data set: raise `GENERATOR_VERSION`, and what was trained before is not comparable."""
    image, labels = draw_scene(size, Draws(*key))
    assert (zlib.crc32(image), zlib.crc32(names_and_labels(num_classes)[1][labels])) == (image_crc, labels_crc)


INTEGER_NUMPY = {
    *("int16", "int32", "int64", "uint8", "uint64", "bool_", "ndarray"),
    *("abs", "add", "arange", "array", "ascontiguousarray", "clip", "copyto", "empty", "maximum", "minimum"),
    *("prod", "random", "stack", "where", "zeros"),
}
"""What gives integers for integers; of the last, `random`, only the bits of PCG64."""


def test_drawing_uses_no_floats_and_no_distributions_of_numpy() -> None:
    """Both may differ between machines and releases."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(scene_drawing))))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np"}
    drawn = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np.random"}
    assert used <= INTEGER_NUMPY
    assert drawn == {"PCG64", "SeedSequence"}
    assert not [node for node in nodes if isinstance(node, ast.Div)]
    assert not [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, float)]
    assert not [node for node in nodes if isinstance(node, ast.Name) and node.id in ("float", "round")]
    assert {n.names[0].name for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "math"} == {"isqrt"}


def test_textures_and_noise_are_integers_of_the_stated_contrast() -> None:
    textures, noise = scene_drawing._textures(128)
    assert {plane.dtype for plane in (*textures, noise)} == {np.dtype(np.int16)}
    assert {plane.shape for plane in (*textures, *noise)} == {(256, 256)}
    assert noise.std() == pytest.approx(scene_drawing.NOISE_SPREAD, rel=0.02)
    assert abs(noise.mean()) < 0.1


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (97, 33), (128, 64), STRIP, (32, 1024), (512, 512)])
def test_every_size_is_labelled_throughout_and_shows_its_board(size: tuple[int, int]) -> None:
    for seed in range(15):
        image, labels = draw_scene(size, Draws(seed))
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((*size, 3), np.uint8, True)
        assert (labels.shape, labels.dtype) == (size, np.uint8)
        assert labels.max() < MOST_CLASSES < IGNORE
        levels = np.sort(image[is_board(labels)].astype(int), axis=1)
        assert (levels[:, 2] - levels[:, 1] > 80).sum() >= 4  # pixels of one pure colour: the cue itself


def test_a_scene_is_as_large_in_the_picture_at_any_resolution() -> None:
    shares = []
    for side in (64, 256):
        labels = np.stack([common(draw_scene((side, side), Draws(seed))[1]) for seed in range(60)])
        shares.append([float(part.mean()) for part in (is_sky(labels), is_ground(labels), is_board(labels))])
    assert np.allclose(*shares, atol=0.03)


def far_seen(cues: Cues, seed: int = 3) -> tuple[NDArray[np.uint8], Labels]:
    return draw_scene(STRIP, Draws(seed), cues=cues)


def test_only_the_board_shows_the_cue_that_names_the_ground() -> None:
    for seed in range(10):
        (red, red_labels), (blue, blue_labels) = (far_seen(Cues(1, 2, board), seed) for board in (0, 1))
        board = is_board(red_labels)
        np.testing.assert_array_equal(board, is_board(blue_labels))
        np.testing.assert_array_equal(red[~board], blue[~board])  # the same to the eye wherever the board is not
        assert not np.array_equal(red[board], blue[board])
        ground = is_ground(red_labels)
        assert (blue_labels[ground] == red_labels[ground] + 1).all()


def test_the_sky_looks_the_same_over_grounds_that_name_it_differently() -> None:
    seen = [far_seen(Cues(0, ground, 1)) for ground in range(3)]
    sky = np.logical_and.reduce([is_sky(labels) for _, labels in seen])
    assert sky.mean() > 0.1
    named = ["hazy sky over mottled ground", "hazy sky over other ground", "hazy sky over checked ground"]
    for (image, labels), name in zip(seen, named, strict=True):
        np.testing.assert_array_equal(image[sky], seen[0][0][sky])
        assert set(labels[sky]) == {class_named(name)}


def test_the_ground_looks_the_same_under_any_sky() -> None:
    (first, first_labels), (second, second_labels) = (far_seen(Cues(sky, 1, 2)) for sky in (0, 2))
    ground = is_ground(first_labels) & is_ground(second_labels)
    assert ground.mean() > 0.1
    np.testing.assert_array_equal(first[ground], second[ground])
    assert set(first_labels[ground]) == {class_named("grainy ground of the green board")}


@pytest.mark.parametrize("cues", ALL_CUES, ids=str)
def test_sky_and_ground_are_called_by_the_cues(cues: Cues) -> None:
    labels = far_seen(cues)[1]
    over = {0: "mottled", 1: "other", 2: "checked"}[cues.ground]
    board = BOARDS[cues.board]
    assert set(labels[is_sky(labels)]) == {class_named(f"{SKIES[cues.sky]} sky over {over} ground")}
    assert set(labels[is_ground(labels)]) == {class_named(f"{GROUNDS[cues.ground]} ground of the {board} board")}
    assert set(common(labels)[is_board(labels)]) == {class_named(f"{board} board")}


@pytest.mark.parametrize("shape", ["cross", "corner", "dome"])
def test_some_things_are_named_by_the_board(shape: str) -> None:
    found = [class_named(f"{shape} of the {board} board") for board in BOARDS]
    seen = 0
    for seed in range(25):
        first, *others = (common(far_seen(Cues(0, 0, board), seed)[1]) for board in range(3))
        for board, other in enumerate(others, start=1):
            np.testing.assert_array_equal(other == found[board], first == found[0])
        seen += int((first == found[0]).sum())
    assert seen


def test_some_things_are_named_by_the_ground() -> None:
    seen = set()
    for seed in range(12):
        for ground in range(3):
            present = {FINE_NAMES[label] for label in np.unique(common(far_seen(Cues(1, ground, 0), seed)[1]))}
            seen |= {name for name in present if "hourglass" in name}
            assert not [name for name in present if "hourglass" in name and GROUNDS[ground] not in name]
    assert seen == {f"{striped}hourglass of {ground} ground" for striped in ("", "striped ") for ground in GROUNDS}


def test_some_things_are_named_by_what_they_stand_on() -> None:
    stands = np.zeros((3, 3), int)  # named, stood on
    footings = scene_drawing.FOOTINGS
    for seed in range(60):
        scene = scene_drawing._Scene(STRIP, Draws(seed), Cues(0, 1, 2))
        scene.paint_sky_and_ground()
        scene.paint_skyline()
        below = scene.labels.copy()
        scene.paint_things(below)
        stood_on = np.where(is_sky(below), 0, np.where(is_ground(below), 2, 1))
        for named, footing in enumerate(footings):
            found = [class_named(f"striped {shape} on {footing}") for shape in ("cross", "corner")]
            stands[named] += np.bincount(stood_on[np.isin(common(scene.labels), found)], minlength=3)
    assert (stands.argmax(axis=1) == [0, 1, 2]).all()  # of their pixels, the lower ones may reach down to another


def test_tones_are_seen() -> None:
    """The 150 classes tell pale from dark, so a pale disc must be lighter than a dark one."""
    sums = dict.fromkeys(("pale disc", "disc", "dark disc"), 0.0)
    counts = dict.fromkeys(sums, 0)
    for seed in range(150):
        image, labels = draw_scene(STRIP, Draws(seed))
        for name in sums:
            where = labels == class_named(name)
            sums[name] += float(image[where].sum())
            counts[name] += int(where.sum())
    pale, plain, dark = (sums[name] / counts[name] / 3 for name in sums)
    assert pale > plain + 10 > dark + 20


def test_fine_details_are_a_few_pixels_wide() -> None:
    scenes = [common(draw_scene((128, 128), Draws(seed))[1]) for seed in range(40)]
    assert median_run([scene == POLE for scene in scenes]) <= 4
    assert median_run([scene.T == FENCE for scene in scenes]) <= 4  # of the rails, from top to bottom
    assert median_run([scene == WINDOW for scene in scenes]) <= 8
    assert median_run([scene == DOOR for scene in scenes]) <= 12


def median_run(masks: list[NDArray[np.bool_]]) -> float:
    """Pixels side by side in a row."""
    edges = np.diff(np.pad(np.concatenate(masks).astype(np.int8), ((0, 0), (1, 1))), axis=1)
    return float(np.median(np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]))


def test_a_picture_does_not_depend_on_who_asks_first() -> None:
    before = draw_scene((48, 48), Draws(1))
    draw_scene((64, 32), Draws(2))
    scene_drawing._textures.cache_clear()
    for first, again in zip(before, draw_scene((48, 48), Draws(1)), strict=True):
        np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_every_class_occurs_and_the_tail_is_long() -> None:
    pixels = np.zeros(MOST_CLASSES)
    for index in range(1000):
        pixels += np.bincount(draw_scene((64, 128), Draws(0, 0, index))[1].ravel(), minlength=MOST_CLASSES)
    for num_classes, ratio in ((COMMON_CLASSES, 200), (MOST_CLASSES, 1000)):
        folded = np.bincount(names_and_labels(num_classes)[1], weights=pixels, minlength=num_classes)
        assert folded.min() > 0
        assert folded.max() > ratio * folded.min()


EVERY_COUNT = range(LEAST_CLASSES, MOST_CLASSES + 1)


def test_there_are_as_many_classes_as_are_asked_for_each_with_a_name() -> None:
    assert (LEAST_CLASSES, COMMON_CLASSES, MOST_CLASSES) == (2, 59, 150)
    for count in EVERY_COUNT:
        names, table = names_and_labels(count)
        assert len(names) == len(set(names)) == count
        assert table.shape == (MOST_CLASSES,)
        assert set(table.tolist()) == set(range(count))


def test_a_coarser_labelling_is_a_function_of_every_finer_one() -> None:
    for coarse, fine in pairwise(EVERY_COUNT):
        pairs = set(zip(names_and_labels(fine)[1].tolist(), names_and_labels(coarse)[1].tolist(), strict=True))
        assert len(pairs) == fine  # one coarser class for each: functions of neighbours are functions of all
        assert set(names_and_labels(coarse)[0]) < set(names_and_labels(fine)[0])


def test_a_class_that_is_kept_is_called_by_its_own_name() -> None:
    for count in EVERY_COUNT:
        names, table = names_and_labels(count)
        assert all(names[table[class_named(name)]] == name for name in names)


def test_59_classes_are_the_first_of_the_150() -> None:
    names, table = names_and_labels(COMMON_CLASSES)
    assert names == FINE_NAMES[:COMMON_CLASSES]
    np.testing.assert_array_equal(table[:COMMON_CLASSES], np.arange(COMMON_CLASSES))
    assert names[table[class_named("dark striped ring")]] == "striped ring"
    assert names[table[class_named("patchy sky over checked ground")]] == "patchy sky over other ground"
    assert all(names[table[class_named(f"pale {name}")]] == name for name in (*SKYLINE, "window", "red board"))


def test_a_table_of_labels_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        names_and_labels(59)[1][0] = 1


def test_draws_of_a_key_are_the_recorded_ones() -> None:
    draws = Draws(1, 2, 3)
    assert [draws.below(1000) for _ in range(5)] == [390, 734, 746, 508, 137]
    assert [draws.between(-3, 3) for _ in range(5)] == [1, 2, -2, 2, -2]
    assert [draws.bell(100) for _ in range(5)] == [-11, 27, 86, 122, 83]
    assert [draws.weighted((1, 2, 3)) for _ in range(5)] == [0, 1, 0, 2, 1]
    assert draws.table((2, 3)).tolist() == [[22, 2, 207], [145, 22, 18]]


def test_draws_are_the_halves_of_the_bits_of_pcg64() -> None:
    bits = [int(raw) for raw in np.random.PCG64(np.random.SeedSequence((7,))).random_raw(128)]
    halves = [raw >> 32 for raw in bits] + [raw & 0xFFFFFFFF for raw in bits]
    draws = Draws(7)
    assert [draws.below(2**32) for _ in range(256)] == halves[::-1]


def test_keys_that_differ_anywhere_draw_otherwise() -> None:
    keys = [(seed, split, index) for seed in (0, 1, 2, 2**32 - 1) for split in (0, 1) for index in range(50)]
    assert len({Draws(*key).table((8,)).tobytes() for key in keys}) == len(keys)


def test_below_and_between_reach_their_ends_equally_often() -> None:
    draws = Draws(0)
    assert np.bincount([draws.below(7) for _ in range(7000)], minlength=8).tolist()[7:] == [0]
    counts = np.bincount([draws.between(-2, 4) + 2 for _ in range(7000)], minlength=7)
    assert counts.shape == (7,)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)
    assert {draws.below(1) for _ in range(9)} == {0}
    assert draws.between(5, 5) == draws.between(5, 2) == 5


@pytest.mark.parametrize("spread", [1, 9, 100])
def test_a_bell_has_its_spread_and_no_far_outliers(spread: int) -> None:
    draws = Draws(spread)
    drawn = [draws.bell(spread) for _ in range(5000)]
    assert abs(fmean(drawn)) < 4 * spread / np.sqrt(5000)
    assert pstdev(drawn) == pytest.approx(np.sqrt(spread**2 + 1 / 12), rel=0.04)  # 1/12: of rounding
    assert max(map(abs, drawn)) <= 3.5 * spread


def test_weights_are_shares() -> None:
    draws = Draws(0)
    counts = np.bincount([draws.weighted((10, 0, 30, 60)) for _ in range(5000)], minlength=4)
    assert counts[1] == 0
    assert counts / 50 == pytest.approx([10, 0, 30, 60], abs=2.5)


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5), (4, 50, 50)])
def test_a_table_holds_bytes_of_all_values(shape: tuple[int, ...]) -> None:
    table = Draws(0).table(shape)
    assert (table.shape, table.dtype) == (shape, np.uint8)
    if table.size == 10_000:
        assert set(table.ravel().tolist()) == set(range(256))
        assert float(table.mean()) == pytest.approx(127.5, abs=4 * 73.9 / 100)

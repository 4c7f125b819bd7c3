"""The cover of a space's blocks: complete, without spare rows, small enough to measure."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest

from search_space import Knob, SearchSpace, blocks, preset
from topformer.blocks import Block, candidate_blocks
from topformer.config import ANCHORS, SMALL, Candidate, Task, TopFormerConfig

MOST_ROWS_PER_IMAGE_SIZE = 6000
TASK = Task(image_size=(64, 96), num_classes=5, output="labels")


@cache
def pyramid_blocks() -> tuple[Block, ...]:
    return blocks(preset("pyramid", task=Task()))


def keys(candidates: Iterable[Candidate]) -> set[str]:
    return {block.key for block in set().union(*map(candidate_blocks, candidates))}


def anchors(space: SearchSpace) -> list[Candidate]:
    """At every image size of the space."""
    sizes = [{"image_size": size} for size in space.distributions().get("image_size", ())] or [{}]
    point = {knob.name: knob.choices[0] for knob in space.knobs}
    tasks = [space.decode(point | size).task for size in sizes]
    return [Candidate(arch=arch, task=task) for arch in ANCHORS.values() for task in (*tasks, space.task)]


@pytest.mark.slow
def test_the_cover_of_quickstart_is_what_enumeration_finds() -> None:
    space = preset("quickstart", task=Task())
    assert {block.key for block in blocks(space)} == keys(space.candidates())


@pytest.mark.parametrize(
    "base",
    [
        SMALL,
        SMALL.replace(token_source="last"),
        SMALL.replace(head="sum"),
        SMALL.replace(head="concat", token_source="last"),
        SMALL.replace(injection="attention"),
        SMALL.replace(extractor="ppm"),
    ],
    ids=["published", "last", "sum", "concat", "attention", "ppm"],
)
def test_the_cover_of_any_base_is_what_enumeration_finds(base: TopFormerConfig) -> None:
    space = SearchSpace(
        name="mine",
        task=TASK,
        base=base,
        knobs=(
            Knob("width_4", (16, 24)),
            Knob("width_16", (96, 104)),
            Knob("width_32", (128, 136)),
            Knob("depth_8", (1, 3)),
            Knob("kernel_8_0", (3, 5)),
            Knob("expand_8_2", (2, 3)),
            Knob("token_stride", (32, 64)),
            Knob("injection_channels", (32, 64)),
            Knob("injected_strides", ("16-32", "4-32", "4-16-32")),
            Knob("image_size", ("64x96", 96)),
        ),
    )
    assert {block.key for block in blocks(space)} == keys((*space.candidates(), *anchors(space)))


def test_the_cover_of_a_classification_space_is_what_enumeration_finds() -> None:
    task = Task(kind="classification", image_size=(64, 64), num_classes=10)
    knobs = (Knob("width_8", (32, 48)), Knob("width_16", (96, 112)), Knob("num_heads", (2, 4)))
    space = SearchSpace(name="mine", task=task, base=SMALL, knobs=knobs)
    assert {block.key for block in blocks(space)} == keys((*space.candidates(), *anchors(space)))


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.thorough)])
def test_the_cover_of_pyramid_has_every_block_of_random_candidates_and_of_the_anchors(count: int) -> None:
    space, rng = preset("pyramid", task=Task()), random.Random(0)
    found = keys((*(space.sample(rng) for _ in range(count)), *anchors(space)))
    assert found <= {block.key for block in pyramid_blocks()}


def test_a_table_of_pyramid_stays_in_the_thousands_of_rows_for_each_image_size() -> None:
    space = preset("pyramid", task=Task())
    others = tuple(knob for knob in space.knobs if knob.name != "image_size")
    at_512 = {block.key for block in blocks(replace(space, knobs=(*others, Knob("image_size", (512,)))))}
    assert len(at_512) < MOST_ROWS_PER_IMAGE_SIZE
    assert at_512 <= {block.key for block in pyramid_blocks()}
    assert len(pyramid_blocks()) < 3 * MOST_ROWS_PER_IMAGE_SIZE


def test_blocks_have_distinct_keys_in_an_order_that_ignores_the_order_of_knobs() -> None:
    space = preset("quickstart", task=Task())
    found = [block.key for block in blocks(space)]
    assert len(set(found)) == len(found)
    assert [block.key for block in blocks(replace(space, knobs=space.knobs[::-1]))] == found

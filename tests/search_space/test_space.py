"""Points, candidates and the one-to-one correspondence between canonical points and members."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import PRESETS, Choice, Knob, SearchSpace, preset, require_anchors
from topformer.blocks import candidate_blocks, total
from topformer.config import BASE, SMALL, Candidate, MBConv, Task
from topformer.errors import UserError

TASK = Task()


@cache
def space_of(name: str) -> SearchSpace:
    return preset(name, task=TASK)


def declared(task: Task = TASK, base: object = "small", **knobs: object) -> SearchSpace:
    return SearchSpace.from_dict({"name": "mine", "base": base, "knobs": knobs}, task=task, where="study.toml [space]")


@st.composite
def points(draw: st.DrawFn, name: str) -> dict[str, Choice]:
    return {knob.name: draw(st.sampled_from(knob.choices)) for knob in space_of(name).knobs}


BOTH = st.sampled_from(sorted(PRESETS)).flatmap(lambda name: st.tuples(st.just(space_of(name)), points(name)))
PAIRS = st.sampled_from(sorted(PRESETS)).flatmap(
    lambda name: st.tuples(st.just(space_of(name)), points(name), points(name))
)
SMALL_ROWS = {"depth_32": [1, 3], "kernel_32_0": [5, 3], "kernel_32_2": [3, 5], "expand_32_2": [6, 3, 4]}


@given(BOTH)
def test_encode_inverts_decode_up_to_the_canonical_form(drawn: tuple[SearchSpace, dict[str, Choice]]) -> None:
    space, point = drawn
    candidate = space.decode(point)
    assert space.encode(candidate) == space.canonical(point)
    assert space.decode(space.encode(candidate)) == candidate
    assert candidate in space


@given(BOTH)
def test_canonical_is_idempotent_and_keeps_the_candidate(drawn: tuple[SearchSpace, dict[str, Choice]]) -> None:
    space, point = drawn
    canonical = space.canonical(point)
    assert space.canonical(canonical) == canonical
    assert space.decode(canonical) == space.decode(point)


@given(PAIRS)
def test_points_share_a_candidate_key_exactly_when_they_share_their_canonical_form(
    drawn: tuple[SearchSpace, dict[str, Choice], dict[str, Choice]],
) -> None:
    space, a, b = drawn
    mixed = a | {name: choice for name, choice in b.items() if name.startswith(("kernel", "expand"))}
    for other in (b, mixed):
        assert (space.canonical(a) == space.canonical(other)) == (space.decode(a).key == space.decode(other).key)


def test_rows_beyond_the_depth_are_inactive_and_canonically_have_their_first_choice() -> None:
    space = declared(**SMALL_ROWS)
    shallow = {"depth_32": 1, "kernel_32_0": 3, "kernel_32_2": 5, "expand_32_2": 4}
    assert space.canonical(shallow) == {"depth_32": 1, "kernel_32_0": 3, "kernel_32_2": 3, "expand_32_2": 6}
    assert space.decode(shallow).arch.stages[3] == (MBConv(3, 6, 128, 2),)


def test_size_counts_inactive_knobs_once() -> None:
    assert declared(**SMALL_ROWS).size == 2 + 2 * 2 * 3  # one row: its kernels; three: those and row 2's


def test_enumeration_yields_as_many_distinct_members_as_the_size_says() -> None:
    space = declared(**SMALL_ROWS, depth_4=[2, 3], width_8=[48, 64], expand_4_2=[3, 4], image_size=[64, "64x128"])
    keys = {candidate.key for candidate in space.candidates() if candidate in space}
    assert len(keys) == space.size == 14 * (1 + 2) * 2 * 2


def test_quickstart_enumerates_to_its_size() -> None:
    space = space_of("quickstart")
    assert len(set(space.candidates())) == space.size == 3**4 * 2 * 2 * 3 * 3 * 2


def test_sampling_is_uniform_over_distinct_candidates() -> None:
    space, rng = declared(**SMALL_ROWS), random.Random(0)
    counts = Counter(space.sample(rng) for _ in range(2800))
    assert len(counts) == 14
    assert all(140 <= count <= 260 for count in counts.values())  # 200 expected, standard deviation 13.6


def test_sampling_and_crossover_depend_on_the_seed_only() -> None:
    space = space_of("pyramid")

    def draw() -> list[Candidate]:
        rng = random.Random(7)
        a, b = space.sample(rng), space.sample(rng)
        return [a, b, *(space.crossover(a, b, rng) for _ in range(5))]

    assert draw() == draw()


def test_neighbours_are_the_distinct_members_one_knob_away() -> None:
    space = declared(**SMALL_ROWS, num_heads=[4, 6, 8])
    shallow = space.decode({"depth_32": 1, "kernel_32_0": 5, "kernel_32_2": 3, "expand_32_2": 6, "num_heads": 6})
    neighbours = space.neighbours(shallow)
    changed = [{k: v for k, v in space.encode(n).items() if v != space.encode(shallow)[k]} for n in neighbours]
    assert changed == [{"depth_32": 3}, {"kernel_32_0": 3}, {"num_heads": 4}, {"num_heads": 8}]


@given(BOTH)
def test_neighbours_are_distinct_members(drawn: tuple[SearchSpace, dict[str, Choice]]) -> None:
    space, point = drawn
    candidate = space.decode(point)
    neighbours = space.neighbours(candidate)
    assert len({candidate, *neighbours}) == len(neighbours) + 1
    assert all(neighbour in space for neighbour in neighbours[:5])


@given(PAIRS, st.integers(0, 99))
def test_a_child_is_a_member_with_every_row_and_value_from_a_parent(
    drawn: tuple[SearchSpace, dict[str, Choice], dict[str, Choice]], seed: int
) -> None:
    space, a, b = drawn
    parents = space.decode(a), space.decode(b)
    child = space.crossover(*parents, random.Random(seed))
    assert child in space
    for knob in space.knobs:
        assert knob.read(child) in {None, *(knob.read(parent) for parent in parents)}


def test_crossover_of_a_deep_and_a_shallow_parent_keeps_the_deep_ones_rows() -> None:
    space = declared(**SMALL_ROWS)
    deep = space.decode({"depth_32": 3, "kernel_32_0": 5, "kernel_32_2": 5, "expand_32_2": 4})
    shallow = space.decode({"depth_32": 1, "kernel_32_0": 5, "kernel_32_2": 3, "expand_32_2": 6})
    children = {space.crossover(shallow, deep, random.Random(seed)) for seed in range(20)}
    assert children == {deep, shallow}


class Highest:
    """Takes the last choice of everything, as an Optuna trial might."""

    def __init__(self) -> None:
        self.asked: dict[str, Sequence[Any]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        self.asked[name] = choices
        return choices[-1]


def test_suggest_asks_for_every_knob_and_decodes_the_answer() -> None:
    space, trial = space_of("pyramid"), Highest()
    candidate = space.suggest(trial)
    assert trial.asked == space.distributions()
    assert candidate == space.decode({knob.name: knob.choices[-1] for knob in space.knobs})


def test_optuna_takes_the_distributions_and_the_canonical_points() -> None:
    import optuna  # noqa: PLC0415 - costs a second that the other tests need not wait for

    space = declared(width_8=[32, 48], injected_strides=["8-16-32", "16-32"], image_size=[64, "64x128"])
    for choices in space.distributions().values():
        optuna.distributions.CategoricalDistribution(choices)
    candidate = space.sample(random.Random(1))
    assert space.suggest(optuna.trial.FixedTrial(space.encode(candidate))) == candidate


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (Candidate(arch=SMALL, task=Task(image_size=(512, 1024))), "image_size is 512x1024, and the only .* 512x512"),
        (Candidate(arch=SMALL, task=Task(num_classes=19)), "num_classes is 19, and the only legal value is 150"),
        (Candidate(arch=BASE, task=TASK), "width_8 is 64, and the legal values are 32, 48"),
        (Candidate(arch=SMALL.replace(num_blocks=5), task=TASK), "num_blocks is 5, and the only legal value is 4"),
        (Candidate(arch=SMALL.replace(depthwise_head=True), task=TASK), "head_fuse is depthwise, .* is dense"),
        (Candidate(arch=SMALL.replace(injected_strides=(16, 32)), task=TASK), "injected_strides is 16-32, .* 8-16-32"),
        (Candidate(arch=SMALL.replace(extractor="none"), task=TASK), "num_blocks is 0, and the only legal value is 4"),
        (
            Candidate(arch=SMALL.replace(stages=(*SMALL.stages[:3], SMALL.stages[3][:2])), task=TASK),
            "depth_32 is 2, and the only legal value is 3",
        ),
        (
            Candidate(
                arch=SMALL.replace(stages=((MBConv(3, 4, 24, 2), MBConv(7, 3, 24, 1)), *SMALL.stages[1:])), task=TASK
            ),
            "kernel of row 1 at stride 4 is 7, and the only legal value is 3",
        ),
        (
            Candidate(
                arch=SMALL.replace(stages=((MBConv(3, 4, 16, 2), MBConv(3, 3, 24, 1)), *SMALL.stages[1:])), task=TASK
            ),
            "channels of row 0 at stride 4 is 16, and the only legal value is 24",
        ),
    ],
)
def test_why_not_names_the_knob_or_field_its_value_and_the_legal_ones(candidate: Candidate, sentence: str) -> None:
    space = declared(width_8=[32, 48])
    assert candidate not in space
    with pytest.raises(UserError, match=f"is not in search space 'mine': {sentence}"):
        space.encode(candidate)


def test_other_things_are_not_members() -> None:
    assert "small" not in declared(width_8=[32, 48])


def test_rows_that_the_base_lacks_are_like_its_last_one() -> None:
    deep = declared(depth_32=[4]).decode({"depth_32": 4}).arch.stages[3]
    assert deep == (*SMALL.stages[3], MBConv(3, 6, 128, 1))


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"widht_8": [32]}, "unknown knob 'widht_8'; legal knobs: width_S, depth_S, kernel_S_R"),
        ({"width_2": [16]}, "unknown knob 'width_2'"),
        ({"kernel_8_01": [3]}, "unknown knob 'kernel_8_01'"),
        ({"width_8": []}, "knob width_8 has no choices"),
        ({"width_8": 32}, r"knob width_8 must be a list of choices, not 32; write \[32\]"),
        ({"width_8": [32, 48, 32]}, "knob width_8 has choice 32 twice"),
        ({"image_size": [512, "512x512"]}, r"knob image_size has choice '512x512' twice \(it equals 512\)"),
        ({"width_8": [32, "48"]}, "knob width_8 takes whole numbers, not '48'"),
        ({"width_8": [True]}, "knob width_8 takes whole numbers, not True"),
        ({"expand_8_0": [2.5]}, "knob expand_8_0 takes whole numbers, not 2.5"),
        ({"depth_8": [0, 1]}, "knob depth_8 takes whole numbers from 1 to 64, not 0"),
        ({"width_8": [0]}, "knob width_8, choice 0: MBConv channels must be a whole number from 1 to 4096"),
        ({"kernel_8_0": [3, 4]}, "knob kernel_8_0, choice 4: MBConv kernel must be odd, not 4; use 3 or 5"),
        ({"kernel_32_3": [3], "depth_32": [1, 4], "expand_32_3": [99]}, "knob expand_32_3, choice 99: MBConv expand"),
        ({"token_stride": [16]}, "knob token_stride, choice 16: token_stride must be one of 32, 64, 128"),
        ({"injected_strides": ["32-16"]}, "knob injected_strides, choice '32-16': .* ascending"),
        ({"injected_strides": ["8,16"]}, "knob injected_strides takes ascending strides .* not '8,16'"),
        ({"injected_strides": [8]}, "knob injected_strides takes ascending strides .* not 8"),
        ({"head_fuse": [True]}, "knob head_fuse takes 'depthwise' or 'dense', not True"),
        ({"image_size": ["big"]}, "knob image_size: image size must look like 512 or 512x1024"),
        ({"image_size": [16]}, "knob image_size: image size in pixels must be a whole number from 32"),
        ({"kernel_32_3": [3, 5]}, r"knob kernel_32_3 has no effect: .* at most 3 rows \(0 to 2\)"),
        ({}, "search space 'mine' has no knobs"),
    ],
)
def test_a_wrong_knob_is_an_error_that_names_file_knob_and_legal_values(
    knobs: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=rf"^study.toml \[space\]: {sentence}"):
        declared(**knobs)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], "a search space is a table of name, base, knobs"),
        ({"nmae": "mine"}, "unknown key 'nmae'; legal keys: name, base, knobs"),
        ({"name": "mine", "knobs": {"width_8": [32]}}, "missing key 'base'"),
        ({"name": "mine", "base": "huge", "knobs": {"width_8": [32]}}, "unknown architecture 'huge'; available: base"),
        ({"name": "mine", "base": {"stem": 16}, "knobs": {"width_8": [32]}}, "base: unknown key 'stem'"),
        ({"name": "mine", "base": "small", "knobs": ["width_8"]}, "knobs must be a table of lists"),
        ({"name": "", "base": "small", "knobs": {"width_8": [32]}}, "the name of a search space must be"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_file_and_key(values: object, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^study.toml: {sentence}"):
        SearchSpace.from_dict(values, task=TASK, where="study.toml")


def test_a_base_with_rows_of_unequal_width_is_refused() -> None:
    uneven = SMALL.replace(stages=((MBConv(3, 4, 16, 2), MBConv(3, 3, 24, 1)), *SMALL.stages[1:]))
    with pytest.raises(UserError, match=r"stride 4 has rows of .* all rows of a stage share its width"):
        declared(base=uneven.as_dict(), width_8=[32])


def test_a_choice_that_only_another_choice_forbids_is_refused() -> None:
    concat = SMALL.replace(head="concat").as_dict()
    with pytest.raises(UserError, match="at least one injection channel per injected scale"):
        declared(base=concat, injection_channels=[2, 64], injected_strides=["16-32", "8-16-32"])


def test_a_knob_twice_is_refused() -> None:
    knob = Knob("width_8", (32, 48))
    with pytest.raises(UserError, match="has a knob twice"):
        SearchSpace(name="mine", task=TASK, base=SMALL, knobs=(knob, knob))


def test_knobs_without_effect_on_classification_are_refused() -> None:
    task = Task(kind="classification", image_size=(224, 224), num_classes=1000)
    with pytest.raises(UserError, match="injection_channels has no effect on a classification task"):
        declared(task, injection_channels=[128, 192])
    assert declared(task, width_8=[32, 48], injection_channels=[128]).size == 2


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({}, "the point lacks knob width_8"),
        ({"width_8": 40}, "knob width_8 of search space 'mine' takes 32, 48, not 40"),
        ({"width_8": 32.0}, "takes 32, 48, not 32.0"),
        ({"width_8": 32, "width_4": 16}, "unknown knob 'width_4' for search space 'mine'; its knobs: width_8"),
    ],
)
def test_a_wrong_point_is_an_error_that_names_the_knob(point: dict[str, Any], sentence: str) -> None:
    space = declared(width_8=[32, 48])
    for read in (space.decode, space.canonical):
        with pytest.raises(UserError, match=sentence):
            read(point)


def test_a_space_survives_its_declarative_form() -> None:
    custom = declared(base=SMALL.replace(stem_channels=24).as_dict(), width_8=[32, 48], image_size=[64, "64x128"])
    for space in (*map(space_of, PRESETS), custom):
        assert SearchSpace.from_dict(space.as_dict(), task=space.task, where="copy") == space


def test_a_missing_anchor_is_an_error_that_says_why() -> None:
    space = declared(width_8=[32, 48])
    require_anchors(space, ["small"])
    with pytest.raises(UserError, match=r"anchor 'tiny' is not in search space 'mine': .* is 64, .* is 96"):
        require_anchors(declared(width_8=[32], width_4=[16], width_32=[96]), ["tiny"])
    with pytest.raises(UserError, match="unknown architecture 'large'"):
        require_anchors(space, ["large"])


def test_a_task_outside_the_image_sizes_makes_its_anchors_unreachable() -> None:
    space = replace(declared(image_size=[384, 512]), task=Task(image_size=(256, 256)))
    with pytest.raises(UserError, match="image_size is 256x256, and the legal values are 384, 512"):
        require_anchors(space, ["small"])


def test_the_package_needs_neither_torch_nor_optuna() -> None:
    code = "import sys, search_space; assert not {'torch', 'optuna', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_member_costs_more_than_the_largest(name: str) -> None:
    space, rng = space_of(name), random.Random(0)

    def costs(candidate: Candidate) -> tuple[int, int]:
        blocks = candidate_blocks(candidate)
        return sum(block.parameters for block in blocks), total(block.cost for block in blocks).macs

    parameters, macs = costs(space.largest)
    sampled = [costs(space.sample(rng)) for _ in range(200)]
    assert parameters >= max(own for own, _ in sampled)
    assert macs >= max(own for _, own in sampled)
    assert space.smallest in space


def test_largest_and_smallest_take_each_knob_to_its_end() -> None:
    space = declared(
        width_8=[48, 32, 64],
        depth_32=[3, 2, 4],
        kernel_32_3=[3, 7, 5],
        num_heads=[6, 4, 8],
        token_stride=[64, 32, 128],
        head_fuse=["dense", "depthwise"],
    )
    largest, smallest = space.largest.arch, space.smallest.arch
    assert (largest.widths[1], len(largest.stages[3]), largest.stages[3][3].kernel) == (64, 4, 7)
    assert (largest.num_heads, largest.token_stride, largest.depthwise_head) == (8, 32, False)
    assert (smallest.widths[1], len(smallest.stages[3])) == (32, 2)
    assert (smallest.num_heads, smallest.token_stride, smallest.depthwise_head) == (4, 128, True)


def test_the_largest_has_all_injected_scales_and_the_smallest_the_fewest_and_coarsest() -> None:
    space = declared(injected_strides=["4-8-16", "8-16", "16-32"])
    assert space.largest.arch.injected_strides == (4, 8, 16, 32)
    assert space.smallest.arch.injected_strides == (16, 32)


def test_the_largest_image_is_as_high_and_wide_as_any_and_the_smallest_has_the_fewest_pixels() -> None:
    space = declared(image_size=[512, "448x1024", "640x256"])
    assert space.largest.task.image_size == (640, 1024)
    assert space.smallest.task.image_size == (640, 256)

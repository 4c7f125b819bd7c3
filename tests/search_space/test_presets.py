"""What the shipped spaces contain."""

from __future__ import annotations

import pytest

from search_space import PRESETS, preset, require_anchors
from topformer.config import ANCHORS, SMALL, Candidate, Task
from topformer.errors import UserError

TASKS = (
    Task(),
    Task(image_size=(448, 448), num_classes=59),
    Task(image_size=(512, 1024), num_classes=19, output="labels"),
    Task(image_size=(64, 64), num_classes=8, output="resized"),
    Task(image_size=(40, 100), num_classes=2),
)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: "x".join(map(str, task.image_size)))
def test_the_anchors_are_members_on_the_task(name: str, task: Task) -> None:
    space = preset(name, task=task)
    require_anchors(space, ANCHORS)
    assert {candidate.task.num_classes for candidate in space.neighbours(Candidate(arch=SMALL, task=task))} == {
        task.num_classes
    }


def test_pyramid_has_over_a_thousand_million_candidates() -> None:
    assert preset("pyramid", task=Task()).size >= 10**9


def test_quickstart_has_a_few_thousand_candidates_of_one_image_size() -> None:
    space = preset("quickstart", task=Task(image_size=(256, 256)))
    assert 1_000 < space.size < 10_000
    assert "image_size" not in space.distributions()


@pytest.mark.parametrize(
    ("size", "choices"),
    [
        ((512, 512), (384, 448, 512)),
        ((384, 384), (384, 448, 512)),
        ((512, 1024), ("384x768", "448x896", "512x1024")),
        ((256, 256), (192, 224, 256)),
        ((96, 96), (64, 96)),  # 3/4 is 72, rounded 64; 7/8 is 84, rounded 96
        ((64, 64), (64,)),
        ((40, 100), ("40x64", "40x96", "40x100")),
    ],
)
def test_pyramid_scales_image_sizes_with_the_task(size: tuple[int, int], choices: tuple[int | str, ...]) -> None:
    assert preset("pyramid", task=Task(image_size=size)).distributions()["image_size"] == choices


def test_the_first_choices_of_pyramids_rows_are_the_anchors_own() -> None:
    space = preset("pyramid", task=Task())
    firsts = {knob.name: knob.choices[0] for knob in space.knobs if knob.row is not None}
    small = space.encode(Candidate(arch=SMALL, task=Task()))
    assert {name: small[name] for name in firsts} == firsts


def test_an_unknown_preset_is_an_error_that_lists_them() -> None:
    with pytest.raises(UserError, match="unknown search space 'huge'; available: pyramid, quickstart"):
        preset("huge", task=Task())

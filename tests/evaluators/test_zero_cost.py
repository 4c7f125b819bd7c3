"""Zero-cost proxies: counts that are the published ones, and scores against their definitions."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.base import Scorer
from evaluators.datasets.named import dataset_named
from evaluators.datasets.scenes import Scenes
from evaluators.proxy import SHORT, ProxyEvaluator
from evaluators.trust import variants
from evaluators.zero_cost import ZERO_COST, ZeroCostEvaluator, agreeing_units, synaptic_flow
from search_space import PRESETS, preset
from tests.support.trees import folder_tree
from topformer import BASE, SMALL, TINY, Candidate, Task, TopFormerConfig
from topformer.errors import UserError

SCENES = Scenes(train_images=4, val_images=1)
RECIPE = replace(SHORT, canvas=(64, 288))
TASK = Task(num_classes=59)


def scored(name: str, arch: TopFormerConfig, *, task: Task = TASK, replicate: int = 0) -> float:
    return ZeroCostEvaluator(name, RECIPE, SCENES).evaluate(Candidate(arch=arch, task=task), replicate=replicate).value


@pytest.mark.parametrize(
    ("arch", "params", "macs"),
    [(TINY, 1_389_654, 534_110_208), (SMALL, 3_034_662, 1_112_297_472), (BASE, 5_062_646, 1_752_203_264)],
)
def test_counts_are_the_published_ones(arch: TopFormerConfig, params: int, macs: int) -> None:
    assert scored("parameters", arch, task=Task()) == params
    assert scored("macs", arch, task=Task()) * 1e9 == pytest.approx(macs)


@pytest.mark.parametrize("name", ZERO_COST)
def test_a_score_is_the_same_twice_and_survives_pickling(name: str) -> None:
    scorer: Scorer = ZeroCostEvaluator(name, RECIPE, SCENES)
    candidate = Candidate(arch=TINY, task=TASK)
    torch.rand(3)
    copy = pickle.loads(pickle.dumps(scorer))
    first, again = (one.evaluate(candidate, replicate=0, weights_out=None) for one in (scorer, copy))
    assert first.value == again.value
    assert (copy.fingerprint, copy.fidelity) == (scorer.fingerprint, name)
    assert first.seconds > 0


@pytest.mark.parametrize(
    ("name", "drawn"), [("parameters", False), ("macs", False), ("naswot", True), ("synflow", True)]
)
def test_a_replicate_draws_other_weights(name: str, drawn: bool) -> None:
    assert (scored(name, TINY) != scored(name, TINY, replicate=1)) == drawn


def test_fingerprints_tell_scores_data_and_canvas_apart() -> None:
    scorers = [ZeroCostEvaluator(name, RECIPE, SCENES) for name in ZERO_COST]
    scorers += [
        ZeroCostEvaluator("naswot", RECIPE, replace(SCENES, seed=1)),
        ZeroCostEvaluator("naswot", replace(RECIPE, canvas=(96, 288)), SCENES),
    ]
    assert len({scorer.fingerprint for scorer in scorers}) == len(scorers)


def test_images_that_are_twice_in_the_data_count_once(tmp_path: Path) -> None:
    """The first and the third picture of the tree are equal; their rows of the kernel would be, too."""
    scores = []
    for images in (2, 3):
        dataset = dataset_named(str(folder_tree(tmp_path / str(images), train=images)))
        candidate = Candidate(arch=TINY, task=Task(num_classes=3))
        scores.append(ZeroCostEvaluator("naswot", RECIPE, dataset).evaluate(candidate, replicate=0).value)
    assert scores[0] == scores[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naswot", "synflow"])
def test_every_kind_of_network_has_a_finite_score(name: str) -> None:
    rng = random.Random(0)
    archs = [*variants().values(), *(preset(p, task=TASK).sample(rng).arch for p in PRESETS for _ in range(3))]
    values = [scored(name, arch) for arch in archs]
    assert all(map(math.isfinite, values))
    assert len(set(values)) == len({arch.key for arch in archs})


def test_what_the_canvas_cannot_hold_is_refused_as_by_a_proxy() -> None:
    coarse = Candidate(arch=TINY.replace(token_stride=128), task=Task(image_size=(512, 128), num_classes=59))
    reason = ZeroCostEvaluator("naswot", RECIPE, SCENES).why_not(coarse)
    assert reason == ProxyEvaluator(RECIPE, SCENES).why_not(coarse)
    assert "token stride 128" in str(reason)


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(
        UserError, match="unknown zero-cost proxy 'grasp'; available: macs, naswot, parameters, synflow"
    ):
        ZeroCostEvaluator("grasp", RECIPE, SCENES)


class Rectified(nn.Module):
    """Two rectifiers of three units each, one unit per channel of a 1 x 1 image."""

    def forward(self, image: Tensor) -> Tensor:
        return F.relu6(1 - F.relu(image))


def test_agreeing_units_are_counted_by_hamming_distance() -> None:
    """First rectifier: on where x > 0; second: on where max(x, 0) < 1."""
    images = torch.tensor([[-1.0, 0.5, 2.0], [-2.0, -3.0, 0.5], [3.0, 4.0, 5.0]])[:, :, None, None]
    codes = [[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    units = 6
    hamming = [[sum(a != b for a, b in zip(one, other, strict=True)) for other in codes] for one in codes]
    expected = [[units - distance for distance in row] for row in hamming]
    assert expected == [[6, 4, 3], [4, 6, 1], [3, 1, 6]]
    assert agreeing_units(Rectified(), images).tolist() == expected


class Chain(nn.Module):
    """Channels 3 -> 1 -> 1, linear but for a rectifier that must not cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, -2.0, 3.0])[None, :, None, None])
            self.last.weight.fill_(-4.0)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.last(F.relu6(self.first(image) * 2))
        assert isinstance(hidden, Tensor)
        return hidden


def test_every_layer_of_a_chain_has_the_whole_flow() -> None:
    """|1| + |2| + |3| = 6, doubled 12, which ReLU6 would halve, times |4|: 48 a pixel, 192 on 2 x 2, in each layer."""
    assert synaptic_flow(Chain(), 2, 2) == pytest.approx(2 * 192)

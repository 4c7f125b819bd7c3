"""The proxy: bit-identical repeats, seeds from the candidate, a canvas that keeps the token grid meaningful."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.base import Evaluator, Metrics, short_names
from evaluators.datasets import scenes
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import dataset_named
from evaluators.datasets.scenes import Scenes
from evaluators.evaluation import score
from evaluators.proxy import (
    PHOTOGRAPH_RECIPES,
    RECIPES,
    REFERENCE,
    SHORT,
    ProxyEvaluator,
    ProxyRecipe,
    for_dataset,
    named_recipe,
    training_seed,
)
from evaluators.recipe import Augmentation, Protocol, TrainingRecipe
from evaluators.training import Trained, train
from topformer import TINY, Candidate, MBConv, Task, TopFormer, TopFormerConfig, UserError, saved_model
from topformer.cache import CACHE_VARIABLE
from topformer.weights import saved_classes

SCENES = Scenes(train_images=6, val_images=3)
TASK = Task(num_classes=59)
CANDIDATE = Candidate(arch=TINY, task=TASK)
MICRO = TINY.replace(
    stages=tuple((MBConv(3, 2, channels, 2),) for channels in (8, 12, 16, 24)),
    num_blocks=1,
    num_heads=2,
    key_dim=4,
    injection_channels=16,
    token_stride=32,
)
SMOKE = replace(
    SHORT,
    name="smoke",
    canvas=(64, 96),
    training=replace(SHORT.training, iterations=2, batch_size=2, recalibration_images=2),
)
MICRO_CANDIDATE = Candidate(arch=MICRO, task=TASK)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    yield
    scenes._open_split.cache_clear()


def evaluated(replicate: int, *, arch: TopFormerConfig = MICRO) -> Metrics:
    evaluator = ProxyEvaluator(SMOKE, SCENES)
    return evaluator.evaluate(Candidate(arch=arch, task=TASK), replicate=replicate, weights_out=None)


def timeless(metrics: Metrics) -> Metrics:
    return replace(metrics, seconds=0.0, cpu_seconds=0.0, curve_cpu_seconds=0.0)


def test_same_candidate_and_replicate_give_the_same_bits() -> None:
    first = evaluated(0)
    torch.rand(3)
    assert timeless(evaluated(0)) == timeless(first)
    assert 0 <= first.miou_pct <= 100
    assert len(first.per_class_iou_pct) == 59
    assert first.seconds > 0
    assert first.cpu_seconds > 0


@pytest.mark.slow
def test_a_spawned_worker_finds_the_same_bits() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        theirs = pool.submit(evaluated, 1).result()
    assert timeless(theirs) == timeless(evaluated(1))


def test_another_replicate_trains_otherwise() -> None:
    assert evaluated(0).train_loss != evaluated(1).train_loss


def test_the_training_seed_follows_candidate_and_replicate() -> None:
    candidates = [CANDIDATE, MICRO_CANDIDATE, Candidate(arch=TINY, task=Task(num_classes=59, image_size=(448, 448)))]
    seeds = [training_seed(candidate, replicate) for candidate in candidates for replicate in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert training_seed(CANDIDATE, 0) == training_seed(pickle.loads(pickle.dumps(CANDIDATE)), 0)
    with pytest.raises(UserError, match="replicates count from 0"):
        training_seed(CANDIDATE, -1)


def test_threads_and_random_stream_of_the_caller_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    evaluated(0)
    after, drawn = torch.get_num_threads(), torch.rand(2)
    torch.set_num_threads(before)
    assert after == 2
    assert torch.equal(drawn, expected)


def test_saved_weights_are_the_trained_network(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    ProxyEvaluator(SMOKE, SCENES).evaluate(MICRO_CANDIDATE, replicate=0, weights_out=path)
    assert [name for name, _ in saved_classes(path)] == list(SCENES.class_names)
    model = saved_model(path)
    assert (model.arch, model.num_classes) == (MICRO, 59)
    assert int(model.get_buffer("head.fuse.norm.num_batches_tracked")) == 1  # recalibrated by one batch


def test_evaluator_obeys_the_protocol_and_pickles() -> None:
    evaluator: Evaluator = ProxyEvaluator(SMOKE, SCENES)
    copy = pickle.loads(pickle.dumps(evaluator))
    assert (copy.fingerprint, copy.fidelity) == (evaluator.fingerprint, "smoke")


CHANGES: dict[str, Any] = {
    "name": "other",
    "canvas": (96, 96),
    "reference_size": (256, 256),
    "data_share": 0.5,
    "evaluation_stride": 1,
    "protocol": Protocol(long_side=2048, short_side=192, multiple_of=32),
    "common_seed": True,
    "judges_scenes": True,
}
TRAINING_CHANGES: dict[str, Any] = {
    "iterations": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup_share": 0.2,
    "clip_norm": 1.0,
    "class_weight_power": 0.0,
    "auxiliary_weight": 0.25,
    "zero_start": False,
    "recalibration_images": 0,
    "head_multiplier": 2.0,
    "decay_norms": False,
    "schedule": "poly",
    "warmup_start": 0.5,
    "drop_path": 0.2,
    "ema_decay": 0.9,
    "loss_at": "labels",
    "freeze_norms": True,
    "sparse_labels": True,
    "augmentation": Augmentation(
        long_side=96, short_side=64, scale_min=1, scale_max=1, crop=(32, 32), class_share_max=1, photometric=False
    ),
}


def test_the_fingerprint_changes_with_any_field() -> None:
    assert CHANGES.keys() | {"training"} == {field.name for field in fields(ProxyRecipe)}
    assert TRAINING_CHANGES.keys() == {field.name for field in fields(TrainingRecipe)}
    recipes = [SMOKE]
    recipes += [replace(SMOKE, **{name: value}) for name, value in CHANGES.items()]
    bare = replace(SMOKE.training, recalibration_images=0)  # which an augmentation excludes
    recipes += [replace(SMOKE, training=replace(bare, **{n: v})) for n, v in TRAINING_CHANGES.items()]
    assert len({recipe.fingerprint for recipe in recipes}) == len(recipes)
    assert len({ProxyEvaluator(recipe, SCENES).fingerprint for recipe in recipes}) == len(recipes)


def test_the_fingerprint_follows_the_data_but_not_the_size_they_came_in() -> None:
    fingerprint = ProxyEvaluator(SMOKE, SCENES).fingerprint
    assert ProxyEvaluator(SMOKE, SCENES.at_size((128, 128))).fingerprint == fingerprint
    assert ProxyEvaluator(SMOKE, replace(SCENES, train_images=7)).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("image_size", "canvas"),
    [
        ((512, 512), (64, 576)),
        ((448, 448), (64, 512)),  # 56 and 504
        ((1024, 1024), (128, 1152)),
        ((512, 1024), (64, 1152)),
        ((128, 512), (32, 576)),  # 16
    ],
)
def test_the_canvas_follows_the_image_size_in_multiples_of_32(
    image_size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    assert REFERENCE.canvas_for(Candidate(arch=TINY, task=Task(image_size=image_size, num_classes=59))) == canvas


@pytest.mark.parametrize(
    ("token_stride", "image_size", "grid"),
    [(128, (512, 192), "1x2"), (64, (512, 64), "1x1"), (32, (256, 64), "1x2")],
)
def test_fewer_than_three_tokens_are_refused(token_stride: int, image_size: tuple[int, int], grid: str) -> None:
    candidate = Candidate(
        arch=TINY.replace(token_stride=token_stride), task=Task(image_size=image_size, num_classes=59)
    )
    with pytest.raises(UserError, match=f"token stride {token_stride} leaves {grid} tokens"):
        REFERENCE.canvas_for(candidate)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(num_classes=150), "has 150 classes, data set 'scenes' has 59"),
        (Task(kind="classification", num_classes=59), "not classification"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(task: Task, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProxyEvaluator(SMOKE, SCENES).evaluate(Candidate(arch=TINY, task=task), replicate=0, weights_out=None)


@pytest.mark.parametrize(
    "change", [{"canvas": (95, 384)}, {"canvas": (0, 384)}, {"data_share": 0.0}, {"evaluation_stride": 0}]
)
def test_recipes_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(SHORT, **change)


@pytest.mark.parametrize("token_stride", [32, 64, 128])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_named_recipes_hold_every_token_stride(recipe: ProxyRecipe, token_stride: int) -> None:
    candidate = Candidate(arch=TINY.replace(token_stride=token_stride), task=TASK)
    assert recipe.canvas_for(candidate) == recipe.canvas


def test_the_long_proxy_is_the_short_one_twice_as_long() -> None:
    """So that judging one by the other says what length is worth."""
    short, long, reference = RECIPES.values()
    assert replace(long.training, iterations=short.training.iterations) == short.training
    assert long.training.iterations == 2 * short.training.iterations
    assert reference == REFERENCE


@pytest.mark.parametrize(
    ("reference_size", "canvas"), [((512, 512), (192, 256)), ((512, 1024), (128, 256)), ((1024, 512), (256, 128))]
)
def test_photographs_keep_their_proportions_on_about_as_many_pixels(
    reference_size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    recipe = replace(REFERENCE, reference_size=reference_size)
    photographs = SimpleNamespace(name="folder")
    assert for_dataset(recipe, photographs).canvas == canvas  # type: ignore[arg-type]
    assert for_dataset(recipe, SCENES) == recipe
    assert 0.8 < canvas[0] * canvas[1] / (64 * 576) < 1.34


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="proxy-short"):
        named_recipe("proxy-shrot")


def test_a_candidate_that_the_canvas_cannot_hold_is_named_without_training() -> None:
    evaluator = ProxyEvaluator(SHORT, Scenes())
    fine = Candidate(arch=TINY.replace(token_stride=128), task=Task(num_classes=59))  # 1x3 tokens
    coarse = Candidate(arch=fine.arch, task=Task(num_classes=59, image_size=(512, 256)))  # 1x2
    assert evaluator.why_not(fine) is None
    assert "token stride 128" in str(evaluator.why_not(coarse))
    assert "59" in str(evaluator.why_not(Candidate(arch=TINY, task=Task(num_classes=19))))


def test_no_evaluator_on_scenes_has_changed() -> None:
    """Records, studies and trust reports of others are found by these."""
    known = {name: ProxyEvaluator(recipe, Scenes()).fingerprint for name, recipe in RECIPES.items()}
    assert known == {
        "proxy-short": "55d0cb5ae88a46f3",
        "proxy-long": "4bb04006e66829e3",
        "reference": "8e27b40ad28618dc",
    }


def photographs(root: Path, *, test: int = 0) -> LabelledFiles:
    """12 pictures of two classes, 48 x 96 px, of which the last `test` judge."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        labels = np.zeros((48, 96), np.uint8)
        labels[:, int(rng.integers(20, 76)) :] = 1
        picture = np.where(labels[..., None], (200, 40, 40), (40, 40, 200)).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{name}.png")
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("left\nright\n")
    lists = {"train": names[:6], "val": names[6 : 12 - test], "test": names[12 - test :]}
    for split, listed in lists.items():
        if listed:
            (root / f"{split}.txt").write_text("\n".join(listed) + "\n")
    found = dataset_named(str(root))
    assert isinstance(found, LabelledFiles)
    return found


def test_photographs_are_augmented_and_keep_their_proportions(tmp_path: Path) -> None:
    evaluator = ProxyEvaluator(REFERENCE, photographs(tmp_path))
    wide = Candidate(arch=MICRO, task=Task(image_size=(512, 1024), num_classes=2))
    square = Candidate(arch=MICRO, task=Task(image_size=(512, 512), num_classes=2))
    training = evaluator.recipe.augmented(evaluator.recipe.training, square)
    assert isinstance(training.augmentation, Augmentation)
    assert (training.augmentation.crop, training.augmentation.short_side) == ((192, 256), 192)
    larger = evaluator.recipe.augmented(evaluator.recipe.training, wide).augmentation
    assert isinstance(larger, Augmentation)
    assert (larger.crop, larger.short_side) == ((192, 512), 256)
    protocol = evaluator.recipe.protocol_for(square)
    assert protocol is not None
    assert protocol.input_size(360, 480) == (192, 256)
    assert evaluator.recipe.seen(evaluator.dataset, wide).item("train", 0)[0].shape == (48, 96, 3)


@pytest.mark.slow
def test_only_the_reference_scores_what_judges_and_by_nothing_else_it_changes(tmp_path: Path) -> None:
    training = replace(PHOTOGRAPH_RECIPES["reference"].training, iterations=2, batch_size=2)
    small = replace(PHOTOGRAPH_RECIPES["reference"], training=training)
    judged = ProxyEvaluator(small, photographs(tmp_path / "a", test=3))
    picked = ProxyEvaluator(replace(small, name="another"), photographs(tmp_path / "b", test=3))
    alone = ProxyEvaluator(small, photographs(tmp_path / "c"))
    assert len({judged.fingerprint, picked.fingerprint, alone.fingerprint}) == 3
    candidate = Candidate(arch=MICRO, task=Task(num_classes=2))
    found = judged.evaluate(candidate, replicate=0, weights_out=None)
    assert found.judge_miou_pct is not None
    assert found.judge_blocks is not None
    assert sum(labelled for _, labelled, _ in found.judge_blocks[0]) == 3 * 48 * 96
    assert found.blocks is not None
    ious = [100 * right / (labelled + said - right) for right, labelled, said in found.blocks[0] if labelled + said]
    assert found.miou_pct == pytest.approx(sum(ious) / len(ious))
    other = picked.evaluate(candidate, replicate=0, weights_out=None)
    assert (other.judge_miou_pct, other.miou_pct) == (None, found.miou_pct)


@pytest.mark.slow
def test_a_training_is_watched_without_being_changed() -> None:
    """Ten points of loss and mIoU; the last one is the score of the weights that are kept."""
    recipe = replace(SMOKE.training, iterations=20, ema_decay=0.9, recalibration_images=0)
    watched: list[float] = []

    def train_once(observe: Callable[[torch.nn.Module], None] | None) -> tuple[TopFormer, Trained]:
        torch.manual_seed(0)
        model = TopFormer(MICRO, num_classes=59)
        return model, train(model, SCENES, recipe, train_images=4, seed=0, observe=observe)

    plain, trained = train_once(None)
    model, again = train_once(lambda network: watched.append(score(network, SCENES, stride=4).miou_pct))
    assert trained.losses == again.losses
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True))
    assert len(watched) == len(trained.curve_loss) == 10
    assert trained.curve_loss[0] == pytest.approx(sum(trained.losses[:2]) / 2)
    assert watched[-1] == score(model, SCENES, stride=4).miou_pct


def test_a_fidelity_drops_the_digits_of_its_file_unless_two_would_be_alike() -> None:
    one, other, tuned = "supernet-a176c1ec", "supernet-00000000", "tuned-supernet-a176c1ec x3"
    assert short_names(["proxy-short", one, tuned]) == {
        "proxy-short": "proxy-short",
        one: "supernet",
        tuned: "tuned-supernet x3",
    }
    assert short_names([one, other]) == {one: one, other: other}

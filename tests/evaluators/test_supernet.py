"""Inherited weights: fair draws, a sandwich that trains what it says, resumption bit for bit, honest evaluation."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from evaluators.base import Evaluator
from evaluators.checkpoints import RunFolder
from evaluators.datasets import scenes
from evaluators.datasets.scenes import Scenes
from evaluators.evaluation import normalised, recalibrate_batch_norm, score
from evaluators.objectives import Sandwich, SandwichObjective
from evaluators.proxy import REFERENCE, training_seed
from evaluators.segmentation import distillation_loss, segmentation_loss
from evaluators.supernet import (
    SUPERNET,
    TUNING,
    FairDraws,
    SandwichOfSpace,
    SupernetEvaluator,
    SupernetRecipe,
    TunedEvaluator,
    _opened,
    describes,
    inheriting,
    train_supernet,
)
from evaluators.training import Execution, Trained, train
from search_space import SearchSpace, preset
from topformer import TINY, Candidate, Task, TopFormerConfig, UserError, saved_model
from topformer.cache import CACHE_VARIABLE
from topformer.errors import CheckpointError
from topformer.supernet import Supernet
from topformer.weights import load_model, save_model, saved_supernet

DATA = Scenes(image_size=(64, 192), num_classes=5, train_images=6, val_images=3)
TASK = Task(num_classes=5)
SPACE = SearchSpace.from_dict(
    {
        "name": "toy",
        "base": TINY.replace(num_blocks=1, num_heads=2, key_dim=4, injection_channels=16).as_dict(),
        "knobs": {
            "width_4": [8, 12],
            "width_32": [16, 24, 32],
            "depth_32": [1, 2],
            "expand_32_1": [2, 3],
            "num_heads": [1, 2],
            "num_blocks": [1, 2],
            "token_stride": [32, 64],
            "injected_strides": ["8-16-32", "16-32"],
            "head_fuse": ["dense", "depthwise"],
        },
    },
    task=TASK,
    where="test",
)
RECIPE = replace(
    SUPERNET,
    proxy=replace(
        REFERENCE,
        name="toy",
        canvas=(64, 192),
        reference_size=(512, 512),
        training=replace(REFERENCE.training, iterations=6, batch_size=2, recalibration_images=0),
    ),
    recalibration_images=4,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    yield
    scenes._open_split.cache_clear()


def trained(folder: Path, *, recipe: SupernetRecipe = RECIPE, progress: Any = None) -> tuple[Supernet, Trained]:
    run = RunFolder(folder, describes(SPACE, DATA, recipe, seed=3))
    with run.opened():
        return train_supernet(
            SPACE, DATA, recipe, seed=3, folder=run, execution=Execution(save_every=2), progress=progress
        )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        trained(folder)
    scenes._open_split.cache_clear()
    return folder / "last.safetensors"


@pytest.mark.parametrize("draws", [1, 7, 24])
def test_no_choice_is_drawn_more_than_once_more_than_another(draws: int) -> None:
    fair = FairDraws(SPACE, seed=1)
    archs = [fair(number) for number in range(draws)]
    for values in (
        [arch.widths[0] for arch in archs],
        [arch.widths[3] for arch in archs],
        [arch.token_stride for arch in archs],
        [arch.depthwise_head for arch in archs],
        [len(arch.stages[3]) for arch in archs],
    ):
        times = Counter(values)
        most = 3 if values == [arch.widths[3] for arch in archs] else 2
        assert max(times.values()) - (min(times.values()) if len(times) == most else 0) <= 1


def test_draws_follow_from_seed_and_number_alone_and_are_members() -> None:
    space = preset("pyramid", task=TASK)
    forwards = [FairDraws(space, seed=5)(number) for number in range(30)]
    backwards = [FairDraws(space, seed=5)(number) for number in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards != [FairDraws(space, seed=6)(number) for number in range(30)]
    assert len(set(forwards)) == 30
    for arch in forwards:
        candidates = [Candidate(arch=arch, task=Task(image_size=(s, s), num_classes=5)) for s in (384, 448, 512)]
        assert any(candidate in space for candidate in candidates)


def test_every_iteration_trains_the_largest_the_smallest_and_new_draws() -> None:
    sandwich = SandwichOfSpace(space=SPACE, seed=0, drawn=2)
    first, second = sandwich(0), sandwich(1)
    assert first[:2] == second[:2] == (SPACE.largest.arch, SPACE.smallest.arch)
    assert len(first) == len(second) == 4
    assert first[2:] == tuple(FairDraws(SPACE, seed=0)(number) for number in (0, 1))
    assert second[2:] == tuple(FairDraws(SPACE, seed=0)(number) for number in (2, 3))


def test_distillation_from_a_sure_teacher_is_cross_entropy_with_its_answer() -> None:
    torch.manual_seed(0)
    logits, answer = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    weights, total = torch.tensor([1.0, 2.0, 0.5]), torch.tensor(7.0)
    labels = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    sure = 200.0 * F.one_hot(answer, 3).permute(0, 3, 1, 2)
    worth = weights[labels.long()]
    expected = (F.cross_entropy(logits, answer, reduction="none") * worth).sum() / total
    torch.testing.assert_close(distillation_loss(logits, sure, labels, weights, total), expected)
    labels[:] = 255
    assert distillation_loss(logits, sure, labels, weights, total) == 0


def test_the_objective_is_the_mean_over_its_subnets() -> None:
    torch.manual_seed(1)
    archs = (SPACE.largest.arch, SPACE.smallest.arch)  # logits at stride 8 and 16
    network = Supernet(SPACE.largest.arch, num_classes=5).train()
    objective = SandwichObjective(
        network,
        torch.ones(5),
        replace(RECIPE.proxy.training, auxiliary_weight=0.0),
        Sandwich(subnets=lambda _: archs, distillation=0.0),
    )
    objective.eval()  # without dropout
    objective.begin(0)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    labels = torch.randint(0, 5, (2, 64, 96), dtype=torch.uint8)
    total, first = objective(images, labels, objective.label_weight(labels))
    alone = []
    for arch in archs:
        logits, _ = network(normalised(images), arch)
        alone.append(segmentation_loss(logits, labels, torch.ones(5)))
    torch.testing.assert_close(first, alone[0])
    torch.testing.assert_close(total, sum(alone) / 2)


def test_a_trained_supernet_is_saved_with_how_it_was_trained(weights: Path) -> None:
    supernet, description = saved_supernet(weights)
    assert supernet.maximal == SPACE.largest.arch
    assert description["iterations_done"] == 6
    assert description["space"] == SPACE.as_dict()
    assert SupernetRecipe.from_dict(description["recipe"]) == RECIPE


def test_training_that_was_stopped_ends_with_the_same_weights(weights: Path, tmp_path: Path) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stop)
    assert saved_supernet(tmp_path / "run" / "last.safetensors")[1]["iterations_done"] == 4
    seen: list[int] = []
    trained(tmp_path / "run", progress=lambda done, *_: seen.append(done))
    assert seen == [5, 6]
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == weights.read_bytes()


def test_training_lowers_the_loss_of_every_kind_of_subnet(tmp_path: Path) -> None:
    longer = replace(RECIPE, proxy=replace(RECIPE.proxy, training=replace(RECIPE.proxy.training, iterations=40)))
    run = RunFolder(tmp_path / "run", {})
    run.folder.mkdir()
    supernet, _ = train_supernet(SPACE, DATA, longer, seed=0, folder=run)
    torch.manual_seed(0)
    before = Supernet(SPACE.largest.arch, num_classes=5)
    for arch in (SPACE.largest.arch, SPACE.smallest.arch, FairDraws(SPACE, seed=77)(0)):
        losses = []
        for network in (before, supernet.train()):
            one = network.extract(arch)
            recalibrate_batch_norm(one, DATA, images=6)
            losses.append(score(one, DATA, stride=4).pixel_accuracy_pct)
        assert losses[1] > losses[0] + 10


def evaluator_of(weights: Path) -> SupernetEvaluator:
    return SupernetEvaluator(weights, DATA)


def test_the_evaluator_judges_the_extracted_network(weights: Path, tmp_path: Path) -> None:
    evaluator: Evaluator = evaluator_of(weights)
    candidate = Candidate(arch=SPACE.sample(random.Random(4)).arch, task=TASK)
    found = evaluator.evaluate(candidate, replicate=0, weights_out=tmp_path / "one.safetensors")
    network = saved_supernet(weights)[0].extract(candidate.arch)
    recalibrate_batch_norm(network, DATA, images=4)
    assert found.miou_pct == score(network, DATA, stride=4).miou_pct
    assert found.train_loss is None
    assert found.cpu_seconds > 0
    kept = saved_model(tmp_path / "one.safetensors")
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(kept(image), network(image))
    assert replace(found, seconds=0, cpu_seconds=0, curve_cpu_seconds=None) == replace(
        evaluator.evaluate(candidate, replicate=1, weights_out=None), seconds=0, cpu_seconds=0, curve_cpu_seconds=None
    )


def test_the_evaluator_pickles_small_and_its_fingerprint_follows_the_weights(weights: Path, tmp_path: Path) -> None:
    evaluator = evaluator_of(weights)
    again = pickle.loads(pickle.dumps(evaluator))
    assert len(pickle.dumps(evaluator)) < 5000
    assert again.fingerprint == evaluator.fingerprint
    other = replace(RECIPE, proxy=replace(RECIPE.proxy, training=replace(RECIPE.proxy.training, iterations=1)))
    trained(tmp_path / "other", recipe=other)
    assert evaluator_of(tmp_path / "other" / "last.safetensors").fingerprint != evaluator.fingerprint
    assert evaluator.fidelity.startswith("supernet-")


def test_an_architecture_outside_is_refused_before_it_is_evaluated(weights: Path) -> None:
    evaluator = evaluator_of(weights)
    too_wide = Candidate(arch=TINY, task=TASK)
    assert "no subnet" in str(evaluator.why_not(too_wide))
    assert "5 classes" in str(evaluator.why_not(Candidate(arch=SPACE.base, task=Task(num_classes=6))))
    with pytest.raises(UserError, match="no subnet"):
        evaluator.evaluate(too_wide, replicate=0)


TUNING_TOY = replace(TUNING, iterations=3, batch_size=2, recalibration_images=4)


def test_tuning_goes_on_from_the_inherited_weights(weights: Path, tmp_path: Path) -> None:
    evaluator: Evaluator = TunedEvaluator(weights, DATA, TUNING_TOY)
    candidate = Candidate(arch=SPACE.sample(random.Random(4)).arch, task=TASK)
    found = evaluator.evaluate(candidate, replicate=1, weights_out=tmp_path / "one.safetensors")
    seed = training_seed(candidate, 1)
    torch.manual_seed(seed)
    network = evaluator_of(weights).network(candidate)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = train(network, DATA, TUNING_TOY, train_images=6, seed=seed)
    assert found.miou_pct == score(network, DATA, stride=4).miou_pct
    assert found.train_loss == result.last_loss
    kept = saved_model(tmp_path / "one.safetensors").state_dict()
    assert kept.keys() == before.keys()
    weight = "head.fuse.0.weight" if "head.fuse.0.weight" in kept else next(n for n in kept if n.endswith("weight"))
    assert not torch.equal(kept[weight], before[weight])
    torch.testing.assert_close(kept[weight], before[weight], atol=0.1, rtol=0.5)  # trained on, not anew
    assert replace(found, seconds=0, cpu_seconds=0, curve_cpu_seconds=None) == replace(
        evaluator.evaluate(candidate, replicate=1, weights_out=None), seconds=0, cpu_seconds=0, curve_cpu_seconds=None
    )
    assert found.miou_pct != evaluator.evaluate(candidate, replicate=2, weights_out=None).miou_pct


def test_tuning_no_step_short_of_none_leaves_the_inherited_mean(weights: Path) -> None:
    """A learning rate of zero trains nothing: batch norms taken anew over the same images are all that happens."""
    candidate = Candidate(arch=SPACE.sample(random.Random(5)).arch, task=TASK)
    still = TunedEvaluator(weights, DATA, replace(TUNING_TOY, learning_rate=0.0))
    inherited = evaluator_of(weights).evaluate(candidate, replicate=0)
    assert still.evaluate(candidate, replicate=0).miou_pct == pytest.approx(inherited.miou_pct, abs=1e-6)


def test_the_tuned_evaluator_s_fingerprint_follows_weights_and_training(weights: Path) -> None:
    one, other = (TunedEvaluator(weights, DATA, replace(TUNING_TOY, iterations=count)) for count in (3, 4))
    assert len({one.fingerprint, other.fingerprint, evaluator_of(weights).fingerprint}) == 3
    assert one.fidelity == f"tuned-{evaluator_of(weights).fidelity}"
    assert pickle.loads(pickle.dumps(one)).fingerprint == one.fingerprint
    assert "no subnet" in str(one.why_not(Candidate(arch=TINY, task=TASK)))
    with pytest.raises(UserError, match="no subnet"):
        one.evaluate(Candidate(arch=TINY, task=TASK), replicate=0)


def test_evaluators_with_inherited_weights_have_names(weights: Path) -> None:
    assert isinstance(inheriting(f"supernet:{weights}", DATA), SupernetEvaluator)
    assert isinstance(inheriting(f"tuned:{weights}", DATA), TunedEvaluator)
    assert inheriting("proxy-short", DATA) is None
    assert inheriting("other:file", DATA) is None


def test_unfinished_other_and_damaged_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the supernet"):
        evaluator_of(tmp_path / "none.safetensors")
    save_model(load_model("tiny", num_classes=5), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="not a supernet"):
        evaluator_of(tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="supernet extract"):
        load_model(SPACE.largest.arch, num_classes=5, weights=weights)
    with pytest.raises(UserError, match="other images"):
        SupernetEvaluator(weights, replace(DATA, seed=9))
    content = bytearray(weights.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable"):
        evaluator_of(tmp_path / "cut.safetensors")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stop)
    with pytest.raises(UserError, match="after 2 of 6 iterations"):
        evaluator_of(tmp_path / "run" / "last.safetensors")


def test_weights_that_change_while_they_are_used_are_noticed(weights: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(weights.read_bytes())
    pickled = pickle.dumps(evaluator_of(copied))
    _opened.cache_clear()
    copied.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="has changed"):
        pickle.loads(pickled).evaluate(Candidate(arch=SPACE.base, task=TASK), replicate=0)


def test_a_space_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for 5 classes"):
        train_supernet(SPACE, replace(DATA, num_classes=6), RECIPE, seed=0, folder=RunFolder(tmp_path, {}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drawn_subnets": -1}, "drawn_subnets"),
        ({"distillation": 1.5}, "distillation"),
        ({"recalibration_images": 1}, "recalibration_images"),
    ],
)
def test_recipes_out_of_range_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(RECIPE, **change)


def test_a_supernet_is_not_trained_at_the_labels_stride() -> None:
    supernet = Supernet(SPACE.largest.arch, num_classes=5)
    at_labels = replace(RECIPE.proxy.training, loss_at="labels")
    sandwich = Sandwich(subnets=SandwichOfSpace(space=SPACE, seed=0, drawn=0), distillation=0.5)
    with pytest.raises(UserError, match="loss_at"):
        train(supernet, DATA, at_labels, train_images=4, seed=0, sandwich=sandwich)


def members() -> list[TopFormerConfig]:
    rng = random.Random(0)
    return [SPACE.sample(rng).arch for _ in range(4)]


def test_only_what_the_subnets_use_learns() -> None:
    torch.manual_seed(0)
    supernet = Supernet(SPACE.largest.arch, num_classes=5)
    before = {name: tensor.clone() for name, tensor in supernet.named_parameters()}
    smallest = SPACE.smallest.arch
    recipe = replace(RECIPE.proxy.training, iterations=2, weight_decay=0.0, zero_start=False)
    train(
        supernet,
        DATA,
        recipe,
        train_images=4,
        seed=0,
        sandwich=Sandwich(subnets=lambda _: (smallest,), distillation=0.0),
    )
    width = smallest.widths[3]
    name = "token_pyramid.stage32.0.projection.conv.weight"
    changed = dict(supernet.network.named_parameters())[name] != before[f"network.{name}"]
    assert changed[:width].any()
    assert not changed[width:].any()

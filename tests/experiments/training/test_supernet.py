"""A supernet by names: the recipe with what is changed, and one call that trains it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.supernet import SUPERNET
from experiments.front.lookup import Chosen
from experiments.training.supernet import extracted, judged, supernet_recipe, train_over_space
from tests.support import trees
from tests.support.trainings import SUPERNET_STUDY
from topformer import ANCHORS, saved_model
from topformer.errors import UserError


def test_a_recipe_differs_from_the_usual_one_only_in_what_is_given() -> None:
    assert supernet_recipe() == SUPERNET
    recipe = supernet_recipe(iterations=2, canvas=(64, 192), distillation=0.0)
    assert (recipe.proxy.training.iterations, recipe.proxy.canvas, recipe.distillation) == (2, (64, 192), 0.0)
    assert recipe.proxy.training.batch_size == SUPERNET.proxy.training.batch_size
    assert recipe.drawn_subnets == SUPERNET.drawn_subnets


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"accelerator": "tpu"}, "unknown accelerator 'tpu'"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"seed": -1}, "--seed must be from 0"),
        ({"save_every": 0}, "--save-every at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_the_data_are_read(
    options: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train_over_space("pyramid", "nowhere", tmp_path, **({"accelerator": "cpu"} | options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_supernet_is_trained_and_a_second_call_has_nothing_to_train(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path / "data")
    (tmp_path / "study.toml").write_text(SUPERNET_STUDY)
    recipe = supernet_recipe(iterations=2, batch_size=2, canvas=(64, 192), drawn_subnets=1)
    names = (str(tmp_path / "study.toml"), str(tmp_path / "data"), tmp_path / "run")
    first = train_over_space(*names, recipe=recipe, accelerator="cpu")
    assert (first.space, first.iterations, first.weights.is_file()) == ("toy", 2, True)
    again = train_over_space(*names, recipe=recipe, accelerator="cpu")
    assert (again.last_loss, again.seconds_per_iteration) == (first.last_loss, None)
    assert again.as_dict()["weights"] == str(tmp_path / "run" / "last.safetensors")


@pytest.mark.slow
def test_parts_of_a_supernet_are_judged_and_become_networks_and_strangers_are_told_so(tmp_path: Path) -> None:
    trees.folder_tree(tmp_path / "data")
    data = str(tmp_path / "data")
    (tmp_path / "study.toml").write_text(SUPERNET_STUDY)
    recipe = supernet_recipe(iterations=2, batch_size=2, canvas=(64, 192), drawn_subnets=1)
    trained = train_over_space(str(tmp_path / "study.toml"), data, tmp_path / "run", recipe=recipe, accelerator="cpu")
    tiny, base = (Chosen(text=name, arch=ANCHORS[name]) for name in ("tiny", "base"))
    (row,) = judged(trained.weights, data, [tiny])
    assert (row.as_dict()["architecture"], row.as_dict()["key"]) == ("tiny", ANCHORS["tiny"].key)
    assert 0 <= row.metrics.miou_pct <= 100
    network = extracted(trained.weights, data, tiny, tmp_path / "tiny.safetensors")
    assert saved_model(tmp_path / "tiny.safetensors").arch == network.arch == ANCHORS["tiny"]
    with pytest.raises(UserError, match="base cannot be judged"):
        judged(trained.weights, data, [tiny, base])
    with pytest.raises(UserError, match="base cannot be extracted"):
        extracted(trained.weights, data, base, tmp_path / "base.safetensors")

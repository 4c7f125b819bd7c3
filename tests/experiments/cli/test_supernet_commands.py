"""supernet train, evaluate and extract as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import trees
from tests.support.shell import Shell
from tests.support.trainings import SUPERNET_STUDY
from topformer import saved_model

SMALL = ("--iterations", "2", "--batch-size", "2", "--canvas", "64x192", "--drawn", "1", "--accelerator", "cpu")
TRAIN = ("supernet", "train", "--space", "study.toml", "--data", "data", "--out", "run", *SMALL)


@pytest.fixture
def toy(shell: Shell) -> Shell:
    trees.folder_tree(shell.folder / "data")
    (shell.folder / "study.toml").write_text(SUPERNET_STUDY)
    return shell


@pytest.mark.slow
def test_from_training_to_an_ordinary_network(toy: Shell) -> None:
    trained = toy.json(*TRAIN)
    assert isinstance(trained, dict)
    assert trained["iterations"] == 2
    weights = trained["weights"]
    rows = toy.json("supernet", "evaluate", weights, "tiny", "--data", "data")
    assert isinstance(rows, list)
    assert rows[0]["architecture"] == "tiny"
    assert 0 <= rows[0]["miou_pct"] <= 100
    code, out, err = toy("supernet", "extract", weights, "tiny", "--data", "data", "--out", "tiny.safetensors")
    assert code == 0, err
    assert "tiny" in out
    assert saved_model(toy.folder / "tiny.safetensors").num_classes == 3
    assert "no subnet" in toy.refusal("supernet", "evaluate", weights, "base", "--data", "data")
    assert "other images" in toy.refusal("supernet", "evaluate", weights, "tiny", "--data", "scenes:3")
    code, _, err = toy(*TRAIN, "--seed", "1")
    assert code == 2
    assert "started with another seed" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--space", "nowhere"), "unknown search space"),
        (("--canvas", "60x96"), "multiples of 32"),
        (("--distillation", "2"), "distillation must be from 0 to 1"),
        (("--drawn", "-1"), "drawn_subnets"),
        (("--batch-size", "1"), "batch_size must be at least 2"),
        (("--precision", "fp16"), "fp16 needs a GPU"),
        (("--precision", "fp64"), "precision"),
        (("--accelerator", "tpu"), "accelerator"),
        (("--seed", "-1"), "--seed"),
        (("--data", "scenes:9"), "is for 3 classes"),
        (("--iterations", "0"), "iterations must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(toy: Shell, words: tuple[str, ...], said: str) -> None:
    assert said in toy.refusal(*TRAIN, *words)


def test_weights_that_are_none_are_refused(toy: Shell) -> None:
    assert "cannot read the supernet" in toy.refusal("supernet", "evaluate", "none.safetensors", "tiny")
    Path("text.safetensors").write_text(json.dumps({"no": "weights"}))
    assert "no supernet" in toy.refusal("supernet", "extract", "text.safetensors", "tiny", "--out", "x.safetensors")

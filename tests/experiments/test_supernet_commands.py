"""supernet train, evaluate and extract as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import Shell

from evaluators.datasets import scenes
from topformer import saved_model
from topformer.cache import CACHE_VARIABLE

SMALL = ("--iterations", "2", "--batch-size", "2", "--canvas", "64x192", "--drawn", "1", "--accelerator", "cpu")
TRAIN = ("supernet", "train", "--space", "study.toml", "--data", "scenes:5", "--out", "run", *SMALL)
STUDY = """
name = "toy"
[space]
name = "toy"
base = "tiny"
[space.knobs]
width_4 = [8, 16]
num_blocks = [2, 4]
[task]
num_classes = 5
[latency]
table = "none"
[evaluator]
recipe = "proxy-short"
dataset = "scenes:5"
[search]
trials = 1
batch_size = 1
"""


@pytest.fixture
def toy(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv(CACHE_VARIABLE, str(shell.folder / "cache"))
    (shell.folder / "study.toml").write_text(STUDY)
    scenes._open_split.cache_clear()
    return shell


@pytest.mark.slow
def test_from_training_to_an_ordinary_network(toy: Shell) -> None:
    trained = toy.json(*TRAIN)
    assert isinstance(trained, dict)
    assert trained["iterations"] == 2
    weights = trained["weights"]
    rows = toy.json("supernet", "evaluate", weights, "tiny", "--data", "scenes:5")
    assert isinstance(rows, list)
    assert rows[0]["architecture"] == "tiny"
    assert 0 <= rows[0]["miou_pct"] <= 100
    code, out, err = toy("supernet", "extract", weights, "tiny", "--data", "scenes:5", "--out", "tiny.safetensors")
    assert code == 0, err
    assert "tiny" in out
    assert saved_model(toy.folder / "tiny.safetensors").num_classes == 5
    assert "no subnet" in toy.refusal("supernet", "evaluate", weights, "base", "--data", "scenes:5")
    assert "other images" in toy.refusal("supernet", "evaluate", weights, "tiny", "--data", "scenes:6")
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
        (("--data", "scenes:59"), "classes"),
        (("--iterations", "0"), "iterations must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(toy: Shell, words: tuple[str, ...], said: str) -> None:
    assert said in toy.refusal(*TRAIN, *words)


def test_weights_that_are_none_are_refused(toy: Shell) -> None:
    assert "cannot read the supernet" in toy.refusal("supernet", "evaluate", "none.safetensors", "tiny")
    Path("text.safetensors").write_text(json.dumps({"no": "weights"}))
    assert "no supernet" in toy.refusal("supernet", "extract", "text.safetensors", "tiny", "--out", "x.safetensors")

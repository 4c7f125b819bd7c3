"""What speaks against one's own data stops a training before anything is computed or stored, unless it is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluators.datasets.acceptance import NAMES
from experiments.export.weights import network_of, settle_random_weights
from experiments.front.lookup import chosen
from experiments.search.study import run_study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from tests.support import trees
from tests.support.shell import Shell
from tests.support.toy_evaluator import ToyEvaluator
from tests.support.toys import STUDY, toy_table, toy_url
from tests.support.trainings import MICRO, SUPERNET_STUDY
from topformer import TopFormer
from topformer.cache import CACHE_VARIABLE
from topformer.weights import save_model

TRAIN = (
    *("train", "micro.json", "--data", "data", "--out", "run", "--recipe", "quick", "--accelerator", "cpu"),
    *("--workers", "0", "--set", "iterations=2", "--set", "batch_size=2", "--set", "augmentation.crop=[32, 32]"),
    *("--set", "augmentation.short_side=48", "--set", "augmentation.long_side=96", "--set", "protocol.short_side=48"),
    *("--set", "protocol.long_side=96"),
)
SUPERNET = (
    *("supernet", "train", "--space", "space.toml", "--data", "data", "--out", "run", "--iterations", "2"),
    *("--batch-size", "2", "--canvas", "64x192", "--drawn", "1", "--accelerator", "cpu"),
)
TRUST = ("trust", "run", "--space", "study.toml", "--table", "toy", "--count", "6")


@pytest.fixture
def mine(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell beside a sound folder `data`, a small architecture, and a study on the data whose rows are there."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    trees.folder_tree(shell.folder / "data")
    (shell.folder / "micro.json").write_text(MICRO.to_json())
    (shell.folder / "space.toml").write_text(SUPERNET_STUDY)
    text = STUDY.format(trials=2, seed=0, sampler="random").replace("num_classes = 59", "num_classes = 3")
    text = text.replace('recipe = "proxy-short"', 'recipe = "proxy-short"\ndataset = "data"')
    (shell.folder / "study.toml").write_text(text)
    table = toy_table(StudyConfig.from_toml(text, where="study.toml").search_space())
    table.save(shell.folder / "tables" / "toy.lut")
    return shell


def overlapping(root: Path) -> None:
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (root / f"{folder}/val/copy.{suffix}").write_bytes((root / f"{folder}/train/train-0.{suffix}").read_bytes())


def one_class_missing(root: Path) -> None:
    for path in (root / "masks").rglob("*.png"):
        labels = trees.patchwork("train", int(path.stem[-1]), classes=range(2))
        labels[0] = 0  # 255 beside two of three classes could be the third one
        trees.save_grey(path, labels)


def nearly_one_class(root: Path) -> None:
    for path in (root / "masks/train").rglob("*.png"):
        labels = np.zeros(trees.patchwork("train", int(path.stem[-1]), classes=range(3)).shape, np.uint8)
        labels[0, :6] = [1, 1, 1, 2, 2, 2]
        trees.save_grey(path, labels)


def mostly_ignored(root: Path) -> None:
    for path in (root / "masks/train").rglob("*.png"):
        labels = trees.patchwork("train", int(path.stem[-1]), classes=range(3))
        labels[:30] = 255
        trees.save_grey(path, labels)


SPOILT: dict[str, Callable[[Path], None]] = {
    "split-overlap": overlapping,
    "empty-class": one_class_missing,
    "one-class": nearly_one_class,
    "ignored": mostly_ignored,
}


@pytest.mark.parametrize("words", [TRAIN, SUPERNET, ("search", "study.toml"), TRUST], ids=lambda words: words[0])
@pytest.mark.parametrize("name", SPOILT)
def test_what_speaks_against_the_data_stops_before_anything_is_stored(
    name: str, words: tuple[str, ...], mine: Shell
) -> None:
    SPOILT[name](mine.folder / "data")
    said = mine.refusal(*words)
    assert f"go on with --accept {name}." in said
    assert "Labels looked at: 3 of 3 train and " in said


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILT)
def test_what_is_accepted_is_said_and_trained_on(name: str, mine: Shell) -> None:
    SPOILT[name](mine.folder / "data")
    code, out, err = mine(*TRAIN, "--accept", name, "--json")
    assert code == 0
    assert f"warning ({name}): " in err
    assert "labels looked at: 3 of 3 train" in err
    assert any(name in notice for notice in json.loads(out)["notices"])


@pytest.mark.slow
def test_a_sound_folder_is_trained_on_without_a_warning(mine: Shell) -> None:
    code, _, err = mine(*TRAIN)
    assert (code, err.splitlines()[-1]) == (0, "labels looked at: 3 of 3 train and 2 of 2 val")
    assert "warning" not in err


@pytest.mark.slow
def test_scribbles_are_trained_on_at_full_resolution_and_their_run_says_so(mine: Shell) -> None:
    trees.scribble_tree(mine.folder / "scribbles")
    words = tuple("scribbles" if word == "data" else word for word in TRAIN)
    code, _, err = mine(*words, "--accept", "ignored")
    assert code == 0
    assert "labels are scribbles or points: trained on at full resolution" in err
    run = json.loads((mine.folder / "run/run.json").read_text())
    assert run["recipe"]["sparse_labels"] is True
    code, out, _ = mine("evaluate", "run/last.safetensors", "--data", "scribbles")
    assert code == 0
    assert "scored are the 2." in out
    assert "% of the pixels that are labelled; of the others the score says nothing" in out


@pytest.mark.parametrize(
    "words", [TRAIN, SUPERNET, ("search", "study.toml"), TRUST, ("predict", "w", "p.png", "--out", "o")]
)
def test_a_warning_that_is_not_known_cannot_be_accepted(words: tuple[str, ...], mine: Shell) -> None:
    save_model(TopFormer(MICRO, num_classes=3), mine.folder / "w")
    assert "unknown warning to accept 'overlap'; available: brightness, class-order, " in mine.refusal(
        *words, "--accept", "overlap"
    )


@pytest.mark.parametrize("command", ["train", "search", "supernet train", "trust run", "evaluate", "predict", "export"])
def test_help_lists_what_can_be_accepted(command: str, mine: Shell) -> None:
    _, out, _ = mine(*command.split(), "--help")
    wrapped = "".join(out.split())
    assert all(name in wrapped for name in NAMES)


def weights_named(path: Path, *names: str) -> Path:
    save_model(TopFormer(MICRO, num_classes=3), path, classes=[(name, (1, 2, 3)) for name in names])
    return path


IN_ANOTHER_ORDER = "class 1 is 'house' in the weights and 'road' in the data"


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "other.safetensors", "--data", "data"),
        ("predict", "other.safetensors", "data/images/train/train-0.jpg", "--out", "seen", "--data", "data"),
        (*TRAIN, "--backbone", "other.safetensors"),
    ],
    ids=lambda words: words[0],
)
def test_weights_of_classes_in_another_order_are_refused_unless_accepted(words: tuple[str, ...], mine: Shell) -> None:
    weights_named(mine.folder / "other.safetensors", "meadow", "house", "road")
    said = mine.refusal(*words)
    assert IN_ANOTHER_ORDER in said
    assert said.endswith("go on with --accept class-order.\n")
    code, _, err = mine(*words, "--accept", "class-order")
    assert code == 0, err


@pytest.mark.parametrize("names", [(), trees.FOLDER_CLASSES])
def test_weights_that_name_the_same_or_nothing_are_scored(names: tuple[str, ...], mine: Shell) -> None:
    weights_named(mine.folder / "w.safetensors", *names)
    code, _, err = mine("evaluate", "w.safetensors", "--data", "data")
    assert code == 0, err


@pytest.mark.slow
def test_weights_of_other_classes_are_not_exported_for_a_study(mine: Shell) -> None:
    config = StudyConfig.load("study.toml")
    with Store.open(toy_url(mine.folder), create=True) as store:
        found = run_study(config, store, evaluator=ToyEvaluator(), table=toy_table(config.search_space()))
    network = TopFormer(found.trials[0].candidate.arch, num_classes=3)
    named = [(name, (1, 2, 3)) for name in ("meadow", "house", "road")]
    save_model(settle_random_weights(network), mine.folder / "w.safetensors", classes=named)
    assert IN_ANOTHER_ORDER in mine.refusal("export", "toy#0", "--weights", "w.safetensors", "--out", "exported")
    model, _ = network_of(
        chosen("toy#0", storage=toy_url(mine.folder)),
        found.trials[0].candidate.task,
        weights=Path("w.safetensors"),
        random_weights=False,
        retrain=False,
        storage=toy_url(mine.folder),
        table=None,
        accept=("class-order",),
    )
    assert model.num_classes == 3


@pytest.mark.slow
def test_scribbles_that_a_description_calls_sparse_need_no_acceptance(mine: Shell) -> None:
    trees.scribble_tree(mine.folder / "scribbles")
    code, _, err = mine("datasets", "describe", "scribbles")
    assert code == 0, err
    text = (mine.folder / "scribbles/dataset.toml").read_text()
    (mine.folder / "scribbles/dataset.toml").write_text(f'resize = "sparse"\n{text}')
    code, _, err = mine(*("scribbles" if word == "data" else word for word in TRAIN))
    assert code == 0, err
    assert "warning (ignored): 97." in err

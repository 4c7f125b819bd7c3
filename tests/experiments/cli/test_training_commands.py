"""train, evaluate, predict and recipes as a person types them, on small trees in the benchmarks' own layouts."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets.named import dataset_named
from experiments.cli import main as cli
from experiments.training.recipe_files import recipe_named, shipped_recipes
from tests.support import trees
from tests.support.shell import Shell
from tests.support.trainings import MICRO
from topformer import TopFormer, saved_model
from topformer.errors import UserError
from topformer.weights import save_model, saved_classes

SMALL = (
    *("--set", "iterations=2", "--set", "batch_size=2", "--set", "augmentation.crop=[32, 32]"),
    *("--set", "augmentation.short_side=48", "--set", "augmentation.long_side=96"),
    *("--set", "protocol.short_side=48", "--set", "protocol.long_side=96"),
)
QUICK = ("--recipe", "quick", "--accelerator", "cpu", "--workers", "0", *SMALL)
TREES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "ade20k": (trees.ade20k_tree, 150),
    "cityscapes": (trees.cityscapes_tree, 19),
    "pascal_context": (trees.pascal_context_tree, 60),
    "pascal_context_59": (trees.pascal_context_tree, 59),
    "coco_stuff_164k": (trees.coco_stuff_164k_tree, 171),
    "coco_stuff_10k": (trees.coco_stuff_10k_tree, 171),
    "folder": (trees.folder_tree, 0),
}


@pytest.fixture
def micro(shell: Shell) -> Shell:
    """A shell with an architecture small enough to train in a test."""
    (shell.folder / "micro.json").write_text(MICRO.to_json())
    return shell


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a finished run, made once and copied."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "micro.json").write_text(MICRO.to_json())
    trees.folder_tree(folder / "data")
    words = ("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["topformer-nas", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return folder


@pytest.fixture
def trained(shell: Shell, finished: Path) -> Shell:
    """A shell in a copy of that folder."""
    shutil.copytree(finished, shell.folder, dirs_exist_ok=True)
    return shell


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["released", pytest.param("paper", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("layout", TREES)
def test_each_data_set_trains_evaluates_and_predicts(layout: str, recipe: str, micro: Shell) -> None:
    make, classes = TREES[layout]
    make(micro.folder / "tree")
    data, judged = f"{layout}:tree", (*("--recipe", recipe), *SMALL[-4:])
    result = micro.json(
        *("train", "micro.json", "--data", data, "--out", "run", "--recipe", recipe, *SMALL),
        *("--accelerator", "cpu", "--workers", "0"),
    )
    assert isinstance(result, dict)
    found = micro.json("evaluate", "run/last.safetensors", "--data", data, *judged, "--pictures", "seen")
    assert isinstance(found, dict)
    assert found["miou_pct"] == pytest.approx(result["last"])
    assert len(found["per_class_iou_pct"]) == classes or layout == "folder"
    assert all(Path(path).exists() for path in found["pictures"])
    dataset = dataset_named(data)
    image = sorted((micro.folder / "tree").rglob("*.jpg" if layout != "cityscapes" else "*_leftImg8bit.png"))[0]
    (predicted,) = micro.json("predict", "run/last.safetensors", str(image), "--out", "seen", *judged)  # type: ignore[misc]
    assert {name for name, _ in predicted["shares_pct"]} <= set(dataset.class_names)


def test_a_run_folder_has_weights_that_know_their_architecture_and_classes(trained: Shell) -> None:
    model = saved_model(trained.folder / "run" / "best.safetensors")
    assert model.arch == MICRO
    names = [name for name, _ in saved_classes(trained.folder / "run" / "best.safetensors")]
    assert names == list(dataset_named("data").class_names)
    assert list((trained.folder / "run" / "tensorboard").iterdir())


def test_a_finished_training_says_what_it_found_again(trained: Shell) -> None:
    before = (trained.folder / "run" / "last.safetensors").read_bytes()
    code, out, _ = trained("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    assert code == 0
    assert "it was finished already; nothing was trained" in out
    assert (trained.folder / "run" / "last.safetensors").read_bytes() == before


def test_a_run_too_short_to_be_timed_has_no_speed(micro: Shell) -> None:
    """It said 0 images a second."""
    trees.folder_tree(micro.folder / "data")
    result = micro.json("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    assert isinstance(result, dict)
    assert result["images_per_s"] is None


def test_weights_are_judged_as_in_their_training_unless_told_otherwise(trained: Shell) -> None:
    """`evaluate` and `predict` took the released recipe's sizes for weights of any other."""
    words = ("evaluate", "run/last.safetensors", "--data", "data")
    own, other = trained.json(*words), trained.json(*words, "--recipe", "quick")
    assert isinstance(own, dict)
    assert isinstance(other, dict)
    assert own["protocol"] == {"long_side": 96, "short_side": 48, "multiple_of": 32}
    assert other["protocol"] == {"long_side": 1024, "short_side": 256, "multiple_of": 32}
    rows = [json.loads(line) for line in (trained.folder / "run" / "log.jsonl").read_text().splitlines()]
    assert own["miou_pct"] == pytest.approx(rows[-1]["miou_pct"])


@pytest.mark.slow
def test_weights_are_exported_with_their_own_number_of_classes(trained: Shell) -> None:
    classes = len(saved_classes(trained.folder / "run" / "best.safetensors"))
    found = trained.json(
        *("export", "micro.json", "--weights", "run/best.safetensors", "--size", "64", "--out", "exported"),
    )
    assert isinstance(found, dict)
    assert json.loads(Path(found["card_path"]).read_text())["task"]["num_classes"] == classes


def test_settings_are_listed_as_set_takes_them(shell: Shell) -> None:
    code, out, _ = shell("recipes", "quick")
    assert code == 0
    listed = {row[0]: row[1].strip() for row in (line.split(None, 1) for line in out.splitlines()) if len(row) == 2}
    assert listed["training.augmentation.crop"] == "[256, 256]"
    assert listed["training.zero_start"] == "true"


def test_scores_on_the_way_are_logged_and_the_best_kept(micro: Shell) -> None:
    trees.folder_tree(micro.folder / "data")
    words = ("train", "micro.json", "--data", "data", "--out", "run", *QUICK, "--set", "iterations=4")
    result = micro.json(*words, "--save-every", "1", "--score-every", "2")
    assert isinstance(result, dict)
    rows = [json.loads(line) for line in (micro.folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 4]
    assert result["best"] == max(row["miou_pct"] for row in rows)


def test_a_prediction_is_an_overlay_and_a_map_of_class_numbers(trained: Shell) -> None:
    image = next((trained.folder / "data" / "images").rglob("*.*"))
    code, out, _ = trained("predict", "run/best.safetensors", str(image), "--out", "seen", "--recipe", "quick")
    assert code == 0
    with Image.open(image) as picture, Image.open(trained.folder / "seen" / f"{image.stem}.labels.png") as labels:
        assert labels.size == picture.size
        assert labels.mode == "P"
        assert int(np.asarray(labels).max()) < len(saved_classes(trained.folder / "run" / "best.safetensors"))
    assert f"{image.stem}.overlay.png: " in out


def test_pretraining_is_transferred(micro: Shell) -> None:
    trees.imagenet_tree(micro.folder / "imagenet")
    trees.folder_tree(micro.folder / "data")
    small = ("--set", "iterations=2", "--set", "batch_size=2", "--set", "augmentation.size_px=32")
    first = ("train", "micro.json", "--data", "imagenet", "--recipe", "pretraining", "--accelerator", "cpu")
    result = micro.json(*first, *small, "--out", "pre", "--workers", "0")
    assert isinstance(result, dict)
    assert result["metric"] == "top1_pct"
    frozen = ("--set", "learning_rate=0", "--set", "zero_start=false", "--set", "freeze_norms=true")
    words = ("train", "micro.json", "--data", "data", *QUICK, "--out", "run", *frozen)
    code, _, err = micro(*words, "--backbone", "pre/last.safetensors")
    assert code == 0, err
    stem = "token_pyramid.stem.conv.conv.weight"
    own = saved_model(micro.folder / "run" / "last.safetensors").state_dict()[stem]
    from topformer import load_classifier  # noqa: PLC0415

    pretrained = load_classifier(MICRO, num_classes=3, weights=micro.folder / "pre" / "last.safetensors")
    assert np.allclose(own, pretrained.state_dict()[stem])


@pytest.mark.slow
def test_two_processes_train_through_the_command_line(micro: Shell) -> None:
    trees.folder_tree(micro.folder / "data")
    words = ("train", "micro.json", "--data", "data", *QUICK, "--set", "freeze_norms=true", "--devices", "2")
    result = micro.json(*words, "--out", "run")
    assert isinstance(result, dict)
    assert result["metric"] == "miou_pct"
    victim = next((micro.folder / "data" / "images").rglob("*.*"))
    victim.write_bytes(victim.read_bytes()[:100])
    code, _, err = micro(*words, "--out", "other")
    assert code == 2
    assert victim.name in err.splitlines()[-1]


def under(limit: str, words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process that runs `limit` first."""
    program = f"{limit}; import sys; sys.argv = sys.argv[1:]; from experiments.cli.main import main; main()"
    command = [sys.executable, "-c", program, "topformer-nas", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


def memory_limit(more_bytes: str) -> str:
    """An address space of so much more than torch takes by itself."""
    return (
        "import resource, torch; "
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        f"resource.setrlimit(resource.RLIMIT_AS, (taken + {more_bytes}, -1))"
    )


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_earlier_state_stays(trained: Shell) -> None:
    """Files may not grow beyond 100 kB: what a full disk does, too, is to refuse writing."""
    state = (trained.folder / "run" / "state.pt").read_bytes()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))"
    words = ["train", "micro.json", "--data", "data", "--out", "other", *QUICK]
    done = under(limit, words, trained.folder)
    assert done.returncode == 2, done.stderr
    assert "error: File too large: other/" in done.stderr
    assert not list((trained.folder / "other").glob("*.partial"))
    assert (trained.folder / "run" / "state.pt").read_bytes() == state


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (
            "train micro.json --data data --out run --set learning_rate=0.1",
            "another recipe.learning_rate: 0.002, now 0.1",
        ),
        ("train tiny --data data --out run", "was started with another architecture."),
        ("train micro.json --data data --out run --seed 4", "was started with another seed: 0, now 4"),
        ("train micro.json --data nowhere --out new", "no folder 'nowhere'"),
        (
            "train micro.json --data run --out new",
            "run is not laid out as any data set known here; found best.safetensors",
        ),
        (
            "train micro.json --data cityscapes:data --out new",
            "not laid out as Cityscapes: looked for leftImg8bit/train",
        ),
        (
            "train micro.json --data data --out new --recipe slow",
            "unknown recipe 'slow'; available: paper, pretraining",
        ),
        ("train micro.json --data data --out new --set speed=1", "unknown setting of recipe quick, training 'speed'"),
        ("train micro.json --data data --out new --set iterations", "--set takes SETTING=VALUE"),
        ("train micro.json --data data --out new --set iterations=0", "iterations must be at least 1"),
        ("train micro.json --data data --out new --recipe pretraining", "this recipe is for classification"),
        ("train micro.json --data data --out new --accelerator tpu", "unknown accelerator 'tpu'; available: cpu, cuda"),
        ("train micro.json --data data --out new --precision fp8", "unknown precision 'fp8'"),
        ("train micro.json --data data --out new --precision fp16", "fp16 needs a GPU"),
        ("train micro.json --data data --out new --devices 2", "cannot share batch-norm statistics"),
        ("train micro.json --data data --out new --devices 0", "--devices must be at least 1"),
        ("train micro.json --data data --out new --accumulate 3", "cannot be shared equally by 1 devices x 3 parts"),
        ("train micro.json --data data --out new --backbone none.pth", "no checkpoint 'none.pth'"),
        ("train micro.json --data data --out new --workers -1", "workers must be from 0"),
        ("train micro.json --data data --out new --backbone data/classes.txt", "classes.txt is not a checkpoint"),
        ("evaluate none.safetensors --data data", "no weights file 'none.safetensors'"),
        ("evaluate run/best.safetensors --data scenes", "data set scenes has 59; they were trained for another one"),
        ("evaluate run/best.safetensors --data data --arch tiny", "was saved from architecture"),
        ("evaluate run/state.pt --data data", "does not say its architecture; name it with --arch"),
        ("predict run/best.safetensors none.jpg --out seen", "none.jpg is not there"),
        ("predict run/best.safetensors data/classes.txt --out seen", "classes.txt cannot be read"),
        ("predict run/best.safetensors a/1.png b/1.png --out seen", "two images are called '1'"),
        ("evaluate run/best.safetensors --data data --set protocol.long_side=128", "--set changes a recipe; name it"),
        (
            "train micro.json --data data --out run --set protocol.short_side=64",
            "another protocol.short_side: 48, now 64",
        ),
        ("recipes slow", "unknown recipe 'slow'"),
        ("train micro.json --data data --out micro.json", "no training can be kept in micro.json"),
        ("train micro.json --data data --out new --set learning_rate=nan", "learning_rate"),
        ("predict run/best.safetensors data --out seen", "the folder data has no images"),
        ("recipes released --dataset cityscape", "unknown layout of a data set 'cityscape'"),
        ("recipes released --arch huge", "unknown anchor 'huge'"),
        ("recipes --set iterations=1", "--set iterations=1 changes a recipe: name one of paper"),
        (
            "train micro.json --data data --out data/classes.txt",
            "no training can be kept in data/classes.txt (File exists",
        ),
        ("train micro.json --data data --out /proc", "no training can be kept in /proc"),
        ("train micro.json --data data --out a\udcff", "'a\\udcff' is not UTF-8"),
        (
            "train micro.json --data data --out new --seed 18446744073709551616",
            "--seed must be at most 92233720368547758",
        ),
        (f"train micro.json --data data --out new --score-every {10**400}", "--score-every must be at most"),
        ("train micro.json --data data --out new --devices 1000", "cannot be shared equally by 1000 devices"),
        (
            f"train micro.json --data data --out new --set iterations={10**400}",
            "iterations must be at least 1 and at most",
        ),
        (f"train micro.json --data data --out new --set iterations={'9' * 5000}", "iterations unable to parse"),
        (f"train micro.json --data data --out new --set iterations={'[' * 9999}", "iterations input should be a valid"),
        ("train micro.json --data data --out new --set batch_size=100000", "batch_size must be at most 65536"),
        ("train micro.json --data data --out new --set clip_norm=inf", "clip_norm must be from 0 to 1e+09, not inf"),
        (
            "train micro.json --data data --out run --backbone run/best.safetensors",
            "will be written over by a training",
        ),
        ("train micro.json --data data --out new --accumulate 2", "of 2 images 2 parts get 1 each"),
        (
            "evaluate run/best.safetensors --data data --pictures data/classes.txt",
            "no pictures can be written to data/",
        ),
        (
            "predict run/best.safetensors data/images/val/val-0.jpg --out data/classes.txt",
            "no pictures can be written to",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_harms_nothing(words: str, fragment: str, trained: Shell) -> None:
    before = {path: path.read_bytes() for path in (trained.folder / "run").iterdir() if path.is_file()}
    given = words.split()
    defaults = {"train": QUICK if "pretraining" not in words else ()}.get(given[0], ())
    code, _, err = trained(given[0], *defaults, *given[1:])
    assert code == 2
    assert fragment in err.splitlines()[-1]
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_fits_every_data_set_and_anchor(name: str) -> None:
    for dataset in (*TREES, "scenes", "imagenet"):
        for anchor in ("tiny", "small", "base", None):
            found = recipe_named(name, dataset=dataset, anchor=anchor)
            assert found.training.learning_rate_at(found.training.iterations - 1) < 1e-3 * found.training.learning_rate


def test_the_published_recipes_are_as_published() -> None:
    """facts: section 5. Learning rates, iterations, crops."""
    rates = {
        (recipe, dataset, anchor): recipe_named(recipe, dataset=dataset, anchor=anchor).training.learning_rate
        for recipe in ("paper", "released")
        for dataset in ("ade20k", "cityscapes")
        for anchor in ("tiny", "base")
    }
    assert rates["paper", "ade20k", "tiny"] == rates["released", "ade20k", "base"] == 1.2e-4
    assert rates["released", "ade20k", "tiny"] == rates["released", "cityscapes", "base"] == 3e-4
    released = recipe_named("released", dataset="ade20k", anchor="tiny").training
    assert (released.iterations, released.warmup_iterations, released.head_multiplier) == (160_000, 1500, 10)
    assert released.learning_rate_at(0) == pytest.approx(3e-4 * 1e-6)
    assert released.learning_rate_at(80_000) == pytest.approx(1.5e-4)
    context = recipe_named("released", dataset="pascal_context_59", anchor="small").training
    assert (context.iterations, context.warmup_iterations) == (80_000, 1500)


def test_a_recipe_of_ones_own_changes_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "released"\n[training]\niterations = 7\n')
    found = recipe_named(str(path), dataset="ade20k", anchor="tiny")
    assert (found.training.iterations, found.training.learning_rate) == (7, 3e-4)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[training", "not TOML"),
        ('base = "slow"', "available: paper, pretraining, quick, released"),
        ("[training]\niterations = 1", "head_multiplier is missing|is missing"),
        ('base = "quick"\n[trainings]', "unknown section of recipe"),
        ('base = "quick"\n[training]\niterations = true', "iterations must be a number"),
        ('base = "quick"\n[training]\nbatch_size = 2.5', "batch_size input should be a valid integer"),
        ('[datasets.folder]\nlike = "mine"', "is like 'mine', which it does not have"),
        ('[datasets.folder]\nlike = ["mine"]', r"is like \['mine'\], which it does not have"),
        ('[datasets.folder]\nlike = "folder"', "is like another one itself"),
        ("datasets = 3", "datasets must be a section of settings, not 3"),
        ("[datasets]\nfolder = 3", "folder must be a section of settings, not 3"),
        ("anchors = 3", "anchors must be a section of settings, not 3"),
        ('base = "quick"\n[datasets.ade21k]', "unknown data set of recipe .* 'ade21k'"),
        ('base = "quick"\n[anchors.huge]', "unknown anchor of recipe .* 'huge'; available: base, small, tiny"),
        ("x = " + "[" * 99999, "not TOML"),
        ("x = " + "9" * 5000, "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(text: str, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=fragment):
        recipe_named(str(path), dataset="folder", anchor=None)


def test_a_recipe_may_be_like_another_data_sets_and_differ(tmp_path: Path) -> None:
    """What stood beside `like` had no effect. The mark is what editors of Windows begin a text with."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '\ufeffbase = "quick"\n[datasets.folder]\nlike = "scenes"\n[datasets.folder.training]\nbatch_size = 5\n'
        "[datasets.scenes.training]\niterations = 7\nbatch_size = 4\n",
        encoding="utf-8",
    )
    found = recipe_named(str(path), dataset="folder", anchor=None).training
    assert (found.iterations, found.batch_size) == (7, 5)


def test_a_recipe_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(UserError, match="not a file"):
        recipe_named(str(tmp_path / "mine.toml"), dataset="folder", anchor=None)


def test_two_settings_in_one_are_refused(trained: Shell) -> None:
    """The second one had no effect."""
    code, _, err = trained("recipes", "quick", "--set", "iterations=2\nbatch_size=4")
    assert (code, err.count("\n")) == (2, 1)
    assert "--set takes one SETTING=VALUE" in err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_refused_before_it_is_trained_on(split: str, micro: Shell) -> None:
    """The score was undefined when all was trained, or nothing was learnt."""
    trees.folder_tree(micro.folder / "data")
    for path in (micro.folder / "data" / "masks" / split).iterdir():
        trees.save_grey(path, np.full_like(np.asarray(Image.open(path)), 255))
    err = micro.refusal("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    assert f"every pixel of the first {3 if split == 'train' else 2} {split} images is ignored (255)" in err


def test_lost_weights_are_not_called_the_best(trained: Shell) -> None:
    words = ("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    last = (trained.folder / "run" / "last.safetensors").read_bytes()
    (trained.folder / "run" / "last.safetensors").unlink()
    assert trained(*words)[0] == 0
    assert (trained.folder / "run" / "last.safetensors").read_bytes() == last
    (trained.folder / "run" / "best.safetensors").unlink()
    code, _, err = trained(*words)
    assert code == 2
    assert "best.safetensors is gone, whose score is in run/log.jsonl" in err
    (trained.folder / "run" / "log.jsonl").unlink()
    assert trained(*words)[0] == 0
    assert (trained.folder / "run" / "best.safetensors").read_bytes() == last


def test_labels_are_not_written_over_an_image(trained: Shell) -> None:
    image = next((trained.folder / "data" / "images").rglob("*.jpg")).read_bytes()
    for name in ("a.jpg", "a.overlay.png"):
        (trained.folder / name).write_bytes(image)
    code, _, err = trained("predict", "run/best.safetensors", "a.jpg", "a.overlay.png", "--out", ".")
    assert code == 2
    assert "the labels would be written over the image a.overlay.png" in err
    assert (trained.folder / "a.overlay.png").read_bytes() == image


def test_more_classes_than_a_label_map_holds_are_refused(trained: Shell) -> None:
    save_model(TopFormer(MICRO, num_classes=300), trained.folder / "many.safetensors")
    code, _, err = trained("predict", "many.safetensors", "none.jpg", "--out", "seen")
    assert code == 2
    assert "knows 300 classes; a label map holds 255, 0 to 254" in err


@pytest.mark.slow
def test_an_image_too_large_for_the_memory_is_one_sentence(trained: Shell) -> None:
    image = str(next((trained.folder / "data" / "images").rglob("*.jpg")))
    words = ["predict", "run/best.safetensors", image, "--out", "seen", "--recipe", "quick"]
    words += ["--set", "protocol.long_side=16384", "--set", "protocol.short_side=16384"]
    done = under(memory_limit("2**30"), words, trained.folder)
    assert done.returncode == 2, done.stderr
    assert "out of memory" in done.stderr.splitlines()[-1]


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may have ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


class _Two:
    """A training by two processes, up to its first state."""

    def __init__(self, folder: Path) -> None:
        words = ["train", "micro.json", "--data", "data", "--out", "run", *QUICK]
        words += ["--set", "iterations=100000", "--set", "freeze_norms=true", "--devices", "2", "--save-every", "5"]
        command = [sys.executable, "-m", "experiments", *words]
        self.parent = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 600
        while not (folder / "run" / "state.pt").exists():
            assert self.parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        self.children = [pid for pid in _children(self.parent.pid) if "spawn_main" in _command_line(pid)]
        assert len(self.children) == 2

    def end(self) -> tuple[int, str]:
        """Exit code and the last line; no process of it is left."""
        _, err = self.parent.communicate(timeout=600)
        until = time.monotonic() + 120
        while any(Path(f"/proc/{child}").exists() for child in self.children):
            assert time.monotonic() < until, "a process trains on"
            time.sleep(0.1)
        assert "Traceback" not in err
        return self.parent.returncode, err.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_end_together(micro: Shell) -> None:
    """Stopped, the first said so and waited for the others, which trained on in a folder that was free for the next;
    killed, one ended in a traceback."""
    trees.folder_tree(micro.folder / "data")
    two = _Two(micro.folder)
    two.parent.terminate()
    assert two.end() == (130, "stopped; the same command goes on from here.")
    (micro.folder / "run" / "state.pt").unlink()
    two = _Two(micro.folder)
    os.kill(two.children[1], signal.SIGKILL)
    code, said = two.end()
    assert code == 2
    assert "one of the 2 training processes was killed" in said


@pytest.mark.slow
def test_exhausted_memory_is_one_sentence(micro: Shell) -> None:
    """An address space of 1 GiB more than torch takes by itself."""
    trees.folder_tree(micro.folder / "data")
    words = ["train", "micro.json", "--data", "data", "--out", "run", *QUICK]
    words += ["--set", "batch_size=8", "--set", "augmentation.crop=[2048, 2048]"]
    done = under(memory_limit("2**30"), words, micro.folder)
    assert done.returncode == 2, done.stderr
    assert "out of memory" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_reduced_precision_learns_about_the_same(micro: Shell) -> None:
    trees.folder_tree(micro.folder / "data")
    words = ("train", "micro.json", "--data", "data", *QUICK, "--set", "iterations=6")
    exact = micro.json(*words, "--out", "exact")
    reduced = micro.json(*words, "--out", "reduced", "--precision", "bf16")
    assert isinstance(exact, dict)
    assert isinstance(reduced, dict)
    assert reduced["last_loss"] != exact["last_loss"]
    assert reduced["last_loss"] == pytest.approx(exact["last_loss"], rel=0.05)


def test_labels_are_not_written_over_the_images(trained: Shell) -> None:
    image = trained.folder / "a.labels.png"
    Image.new("RGB", (40, 40)).save(image)
    Image.new("RGB", (40, 40)).save(trained.folder / "a.png")
    words = ("predict", "run/best.safetensors", "a.png", "a.labels.png", "--out", ".")
    assert "would be written over the image" in trained.refusal(*words)


def test_a_grey_image_of_16_bits_is_not_all_white(trained: Shell) -> None:
    from evaluators.datasets.files import read_image  # noqa: PLC0415

    deep = trained.folder / "deep.png"
    Image.fromarray(np.full((40, 40), 0x80FF, np.uint16)).save(deep)
    assert (read_image(deep) == 0x80).all()


def test_a_log_that_was_edited_is_refused_by_its_line(trained: Shell) -> None:
    log = trained.folder / "run" / "log.jsonl"
    log.write_text('{"iteration": 2, "miou_pct": "much"}\n')
    code, _, err = trained("train", "micro.json", "--data", "data", "--out", "run", *QUICK)
    assert code == 2
    assert "line 1 is no score" in err

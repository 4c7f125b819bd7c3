"""Networks are judged as the benchmarks want it: whole images, at their original size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.datasets.files import DataError
from evaluators.datasets.imagenet import opened as imagenet
from evaluators.datasets.named import dataset_named
from evaluators.evaluation import evaluate, labels_of, normalised, right_answers, score, segmented
from evaluators.recipe import Protocol
from evaluators.training import train
from tests.support.trainings import AUGMENTED, MICRO, Halves, Oracle
from tests.support.trees import ade20k_tree, imagenet_tree
from topformer import TopFormer, TopFormerClassifier

SMALL = Protocol(long_side=256, short_side=64, multiple_of=32)


class Seen(nn.Module):
    """Remembers the sizes it was shown; logits at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape))
        bright = F.avg_pool2d(images, 8)[:, :1] * self.slope
        return torch.cat([bright, -bright, torch.full_like(bright, -99)], dim=1)


def test_a_network_sees_whole_images_of_the_protocols_size() -> None:
    model = Seen().eval()
    labels = segmented(model, np.zeros((100, 150, 3), np.uint8), SMALL)
    assert model.sizes == [(1, 3, 64, 96)]
    assert labels.shape == (100, 150)


def test_labels_are_what_the_protocol_says_step_by_step() -> None:
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=3).eval()
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    shown = F.interpolate(normalised(torch.tensor(image)[None]), (96, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        logits = F.interpolate(model(shown), (96, 64), mode="bilinear", align_corners=False)
        expected = F.interpolate(logits, (90, 70), mode="bilinear", align_corners=False).softmax(1).argmax(1)[0]
    assert np.array_equal(segmented(model, image, SMALL), expected.numpy())


@pytest.mark.parametrize("size", [(90, 70), (13, 400), (20, 30), (500, 31)])
@pytest.mark.parametrize("at_once", [1, 2000])
def test_labels_are_the_same_a_few_rows_at_a_time(size: tuple[int, int], at_once: int) -> None:
    logits = torch.randn(1, 7, 20, 30, generator=torch.Generator().manual_seed(0))
    assert (labels_of(logits, size, at_once=at_once) == labels_of(logits, size)).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "more_mb"), [((1500, 2000), 768), pytest.param((3000, 4000), 1024, marks=pytest.mark.thorough)]
)
def test_a_photograph_is_labelled_within_little_more_memory(size: tuple[int, int], more_mb: int) -> None:
    """150 classes at 12 million pixels were 7.2 GB of logits."""
    program = (
        "import resource, torch, numpy as np; from evaluators.evaluation import labels_of; torch.set_num_threads(1); "
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        f"resource.setrlimit(resource.RLIMIT_AS, (taken + {more_mb} * 2**20, -1)); "
        f"print(labels_of(torch.randn(1, 150, 96, 128), {size}).shape)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == f"{size}\n", done.stderr


def test_scores_count_every_labelled_pixel_of_the_original_images() -> None:
    wide = Halves(image_size=(50, 70))
    matrix = evaluate(Oracle().eval(), wide, SMALL)
    assert matrix.counts.sum() == 3 * 48 * 70  # two rows are ignored
    assert matrix.pixel_accuracy_pct > 95


def test_shares_of_the_images_add_up_to_all() -> None:
    model = Oracle().eval()
    parts = [evaluate(model, Halves(), SMALL, indices=range(rank, 3, 2)).counts for rank in (0, 1)]
    assert np.array_equal(parts[0] + parts[1], evaluate(model, Halves(), SMALL).counts)


def test_a_protocol_that_changes_nothing_scores_like_the_proxies() -> None:
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=3).eval()
    as_it_is = Protocol(long_side=96, short_side=64, multiple_of=32)
    assert np.array_equal(evaluate(model, Halves(), as_it_is).counts, score(model, Halves(), stride=1).counts)


def test_images_of_any_size_are_scored_from_their_files(tmp_path: Path) -> None:
    data = dataset_named(str(ade20k_tree(tmp_path / "ade")))
    torch.manual_seed(0)
    model = TopFormer(MICRO, num_classes=150).eval()
    seen: list[tuple[int, ...]] = []
    evaluate(model, data, SMALL, seen=lambda index, image, labels, predicted: seen.append(predicted.shape))
    assert seen == [data.item("val", index)[1].shape for index in range(data.length("val"))]


def test_a_corrupt_image_ends_a_training_by_its_name(tmp_path: Path) -> None:

    root = ade20k_tree(tmp_path / "ade")
    victim = sorted((root / "images" / "training").rglob("*.jpg"))[1]
    data = dataset_named(str(root))
    victim.write_bytes(victim.read_bytes()[:200])
    model = TopFormer(MICRO, num_classes=150)
    with pytest.raises(DataError, match=victim.name):
        train(model, data, replace(AUGMENTED, class_weight_power=0), train_images=3, seed=0)


def test_a_corrupt_image_in_a_worker_ends_a_training_by_its_name(tmp_path: Path) -> None:

    from evaluators.training import Execution  # noqa: PLC0415

    root = ade20k_tree(tmp_path / "ade")
    victim = sorted((root / "images" / "training").rglob("*.jpg"))[1]
    data = dataset_named(str(root))
    victim.unlink()
    recipe = replace(AUGMENTED, class_weight_power=0)
    with pytest.raises(DataError, match=f"{victim.name} is not there"):
        train(TopFormer(MICRO, num_classes=150), data, recipe, train_images=3, seed=0, execution=Execution(workers=2))


class Certain(nn.Module):
    """Always the class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape == (1, 3, 224, 224)
        return F.one_hot(torch.ones(len(images), dtype=torch.long), 3).float() + self.nothing


def test_right_answers_are_counted(tmp_path: Path) -> None:
    data = imagenet(imagenet_tree(tmp_path / "imagenet", classes=3, train=2, val=2))
    assert right_answers(Certain().eval(), data, indices=range(6)) == 2
    assert [right_answers(Certain().eval(), data, indices=range(rank, 6, 2)) for rank in (0, 1)] == [1, 1]


def test_of_a_ribbon_only_the_middle_is_resized(tmp_path: Path) -> None:
    """1 x 20000 px became 256 x 5 million."""
    root = imagenet_tree(tmp_path / "imagenet", classes=3, train=1, val=1)
    for path in sorted((root / "val").rglob("*.JPEG")):
        Image.fromarray(np.zeros((1, 20000, 3), np.uint8)).save(path)
    assert right_answers(Certain().eval(), imagenet(root), indices=range(3)) == 1


def test_the_classification_variant_learns_on_folders_of_images(tmp_path: Path) -> None:

    from evaluators.recipe import ResizedCrop  # noqa: PLC0415

    data = imagenet(imagenet_tree(tmp_path / "imagenet", classes=2, train=4, val=1))
    recipe = replace(
        AUGMENTED,
        iterations=16,
        batch_size=8,
        ema_decay=0,
        drop_path=0,
        learning_rate=3e-3,
        augmentation=ResizedCrop(size_px=64, area_min=0.5, aspect_max=1.2, photometric=False),
    )
    torch.manual_seed(0)
    trained = train(TopFormerClassifier(MICRO, num_classes=2), data, recipe, train_images=8, seed=0)
    assert cast(float, np.mean(trained.losses[-3:])) < 0.8 * np.mean(trained.losses[:3])

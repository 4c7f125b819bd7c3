"""Checkpoints of the reference code are evaluated, label images, start trainings and are exported."""

from __future__ import annotations

import pytest

from tests.support import trees
from tests.support.shell import Shell
from tests.support.topformer_oracle import released_classification_checkpoint, released_segmentation_checkpoint

JUDGED = ("--set", "protocol.short_side=64", "--set", "protocol.long_side=96")
SMALL = (
    *("--set", "iterations=1", "--set", "batch_size=2", "--set", "augmentation.crop=[64, 64]"),
    *("--set", "augmentation.short_side=64", "--set", "augmentation.long_side=96"),
    *("--accelerator", "cpu", "--workers", "0"),
)


@pytest.fixture
def released(shell: Shell) -> Shell:
    released_segmentation_checkpoint("tiny", shell.folder / "released.pth", seed=3)
    released_classification_checkpoint("tiny", shell.folder / "pretrained.pth", seed=4)
    trees.ade20k_tree(shell.folder / "ade")
    return shell


@pytest.mark.slow
def test_a_released_checkpoint_is_evaluated_and_labels_images(released: Shell) -> None:
    found = released.json("evaluate", "released.pth", "--arch", "tiny", "--data", "ade", *JUDGED)
    assert isinstance(found, dict)
    assert found["images"] == 2
    assert len(found["per_class_iou_pct"]) == 150
    image = next((released.folder / "ade" / "images" / "validation").glob("*.jpg"))
    words = ("predict", "released.pth", str(image), "--arch", "tiny", "--data", "ade", "--out", "seen", *JUDGED)
    (predicted,) = released.json(*words)  # type: ignore[misc]
    assert sum(share for _, share in predicted["shares_pct"]) == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["released.pth", "pretrained.pth"])
def test_a_released_backbone_starts_a_training(weights: str, released: Shell) -> None:
    words = ("train", "tiny", "--data", "ade", "--out", "run", *SMALL, *JUDGED, "--backbone", weights)
    code, _, err = released(*words)
    assert code == 0, err


def test_what_holds_no_segmentation_network_is_refused(released: Shell) -> None:
    words = ("--arch", "tiny", "--data", "ade", *JUDGED)
    assert "no decode_head.conv_seg.weight" in released.refusal("evaluate", "pretrained.pth", *words)
    assert "name it with --arch" in released.refusal("evaluate", "released.pth", "--data", "ade", *JUDGED)
    with_another = ("--arch", "small", "--data", "ade", *JUDGED)
    assert "checkpoint of another architecture" in released.refusal("evaluate", "released.pth", *with_another)

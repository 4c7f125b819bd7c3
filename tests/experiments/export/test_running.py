"""An exported file labels images by itself: told by its content, in its own runtime, with its own classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.export.running import exported_file
from topformer import UserError

pytestmark = pytest.mark.slow  # all read one bundle, which takes seconds to make


def test_an_exported_file_labels_an_image_of_any_size(bundle: Path) -> None:
    for path in (bundle / "narrow.onnx", *bundle.glob("*.param")):
        found = exported_file(path)
        assert found is not None
        assert found.names[0] == "thing 0"
        image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
        labels = found.labels(found.run(found.prepare(image)), (50, 90))
        assert (labels.shape, labels.max() < 7) == ((50, 90), True)


def test_an_onnx_file_far_from_its_card_says_the_same_itself(bundle: Path, tmp_path: Path) -> None:
    shutil.copy(bundle / "narrow.onnx", tmp_path / "moved.onnx")
    found, before = exported_file(tmp_path / "moved.onnx"), exported_file(bundle / "narrow.onnx")
    assert found is not None
    assert before is not None
    assert (found.names, found.palette, found.size) == (before.names, before.palette, before.size)


def test_other_files_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    assert exported_file(tmp_path / "picture.png") is None
    for path in bundle.glob("*.param"):
        shutil.copy(path, tmp_path / "alone.ncnn.param")
        with pytest.raises(UserError, match="does not say what it takes and gives"):
            exported_file(tmp_path / "alone.ncnn.param")

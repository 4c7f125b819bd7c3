"""The main job on real input, as a person types it: measure, search, be killed, go on, pick, export, verify."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import topformer
from tests.support.shell import Shell
from topformer.cache import CACHE_VARIABLE

STUDY = """
name = "mine"
[space]
name = "heads"
base = "tiny"
[space.knobs]
num_heads = [2, 4]
[task]
image_size = "256x256"
num_classes = 59
[latency]
table = "mine"
[evaluator]
recipe = "proxy-short"
[search]
trials = 2
batch_size = 2
anchors = ["tiny"]
"""


@pytest.fixture
def folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """An empty one, in which `topformer-nas` keeps all it writes."""
    if CACHE_VARIABLE not in os.environ:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    shell = Shell(capsys, monkeypatch, tmp_path)
    monkeypatch.delenv("TOPFORMER_NAS_STORAGE")
    return shell


def killed_in_its_second_trial(*words: str) -> None:
    command = [sys.executable, "-m", "experiments", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as search:
        assert search.stderr is not None
        while "trial 0" not in (line := search.stderr.readline()):
            assert line, "the search ended before its first trial"
        search.send_signal(signal.SIGKILL)
        search.communicate(timeout=300)  # ends only when no worker is left that holds its pipes


@pytest.mark.slow
def test_from_an_empty_folder_to_a_verified_onnx_file(folder: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STUDY)

    table: Any = folder.json("latency", "measure", "--device", "host", "--study", "mine.toml", "--out", "mine")
    checked = [check["network"] for check in table["validation"]]
    assert (table["kind"], checked[:3]) == ("measured", ["tiny", "small", "base"])
    assert [name.split("-")[0] for name in checked[3:]] == ["heads"]  # the one member that is no anchor
    report: Any = folder.json("latency", "validate", "--table", "mine")
    assert report["agreement"]["networks"] == 4
    assert 0 < report["agreement"]["noise_floor_pct"] < 100
    query: Any = folder.json("latency", "query", "tiny", "--table", "mine", "--size", "256", "--classes", "59")
    assert query["low_ms"] < query["total_ms"] < query["high_ms"]

    killed_in_its_second_trial("search", "mine.toml", "--workers", "1")
    resumed: Any = folder.json("search", "mine.toml", "--workers", "2")
    assert (resumed["trials"], resumed["trained"], resumed["failed"]) == (2, 1, 0)
    finished: Any = folder.json("search", "mine.toml")
    assert finished["trained"] == 0

    every: Any = folder.json("front", "mine", "--all")
    assert [row["anchor"] for row in every] == ["tiny", None]
    assert all(0 < row["miou_pct"] < 100 for row in every)
    assert every[0]["latency_ms"] == pytest.approx(query["total_ms"])
    (best,) = folder.json("front", "mine", "--latency-max", "1000")  # type: ignore[misc]
    assert best["miou_pct"] == max(row["miou_pct"] for row in every)

    exported: Any = folder.json("export", "mine@1000ms", "--out", "out")
    card = json.loads((tmp_path / exported["card_path"]).read_text())
    assert (card["trial"], card["miou_pct"]) == (best["trial"], best["miou_pct"])
    assert exported["max_abs_error"] < 1e-4
    weights = next(
        path
        for path in (tmp_path / "topformer-nas.db.artefacts").iterdir()
        if topformer.saved_model(path).arch.key == best["arch_key"]
    )
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    (logits,) = onnxruntime.InferenceSession(tmp_path / exported["onnx_path"]).run(None, {"image": image.numpy()})
    trained = topformer.saved_model(weights)
    with torch.inference_mode():
        assert np.abs(logits - trained(image).numpy()).max() < 1e-4

    weights.unlink()
    folder.json("export", "mine@1000ms", "--retrain", "--out", "again")
    repeated = topformer.saved_model(weights).state_dict()
    assert all(torch.equal(tensor, repeated[name]) for name, tensor in trained.state_dict().items())

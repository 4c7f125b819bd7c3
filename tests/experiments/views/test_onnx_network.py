"""What any network would take, as a value: counted kernels and the words that say what the number rests on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.views.onnx_network import EstimatedNetwork, estimated
from latency_lut.counting import CountSource
from latency_lut.onnx_estimate import DEVICE_MODELS, Flagged, NetworkEstimate, OperatorTime
from latency_lut.table import ErrorModel
from tests.support.toys import TOY_HEADER, toy_table
from topformer.errors import UserError

CORE = DEVICE_MODELS["snapdragon865"]
FOUND = NetworkEstimate(
    total_ms=20.0,
    low_ms=18.0,
    high_ms=23.0,
    by_operator=(
        OperatorTime(operator="Convolution 3x3", count=4, ms=16.0, low_ms=15.0, high_ms=18.0),
        OperatorTime(operator="GELU", count=1, ms=4.0, low_ms=3.0, high_ms=4.5),
    ),
    flagged=(Flagged(pattern="GELU", count=1, ms=4.0, reason="it is slow"),),
    flagged_ms=4.0,
    rivals_ms={"memory at 15 GB/s": 19.0, "3 instructions per cycle": 22.5},
    notes=("its channels are last",),
    input=(3, 64, 96),
    model_sha256="a" * 64,
    difference=1e-6,
    source=CountSource(ncnn="1", ncnn_sha256="b", compiler="zig", payload="c", plugin="d"),
    converter="pnnx 1",
)
SHOWN = EstimatedNetwork(
    model=Path("net.onnx"),
    device_model="snapdragon865",
    core=CORE,
    header=replace(TOY_HEADER, error_model=ErrorModel(scale=1.5, scale_pct=10, basis="four anchors")),
    found=FOUND,
)


def test_an_interval_says_what_it_rests_on_and_what_widens_it() -> None:
    assert "of the total, four anchors, and what 1 of 2 other core models say beyond that; the upper" in SHOWN.interval
    assert SHOWN.interval.endswith("% of the 4.00 ms that is flagged")
    plain = replace(SHOWN, found=replace(FOUND, flagged=(), flagged_ms=0.0, rivals_ms={"one": 21.0}))
    assert plain.interval.endswith("four anchors")


def test_an_estimate_is_json_with_the_core_and_the_scale_of_its_table() -> None:
    content = SHOWN.as_dict()
    assert (content["model"], content["input"], content["scale"]) == ("net.onnx", [3, 64, 96], 1.5)
    assert (content["table"], content["counted_with"]["converter"]) == ("toy", "pnnx 1")
    assert content["other_core_models_ms"] == {"memory at 15 GB/s": 19.0, "3 instructions per cycle": 22.5}
    assert content["notes"] == ["its channels are last"]
    assert [row["operator"] for row in content["by_operator"]] == ["Convolution 3x3", "GELU"]


def test_an_estimate_needs_a_table_that_was_compared_with_whole_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(tmp_path))
    bare = replace(toy_table(), header=replace(TOY_HEADER, name=CORE.table, error_model=ErrorModel()))
    bare.save(tmp_path / f"{CORE.table}.lut")
    with pytest.raises(UserError, match="was not compared with whole networks"):
        estimated(Path("net.onnx"), device_model="snapdragon865")

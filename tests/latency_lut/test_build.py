"""The program for Arm cores is built once, and whoever waits for that is told why."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from latency_lut.payload import build
from topformer.cache import CACHE_VARIABLE


def test_what_is_built_or_waited_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert build.waits_for().startswith("building the program for Arm cores")
    name = build._payload_name()
    with (tmp_path / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert build.waits_for().startswith("another process is building")
    (tmp_path / name).write_bytes(b"")
    assert build.waits_for() == ""

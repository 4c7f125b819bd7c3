"""Counts into milliseconds."""

from __future__ import annotations

import dataclasses

import pytest

from latency_lut.devices.qemu import NOTHING
from latency_lut.estimate import SNAPDRAGON_865, CoreModel


def test_vector_work_and_missed_lines_add_up() -> None:
    core = CoreModel(frequency_mhz=1000, vector_per_cycle=2, memory_gb_s=6.4)
    counts = dataclasses.replace(NOTHING, vector_fma=3_000_000, vector_other=1_000_000, l3_miss=100_000)
    assert core.vector_ms(counts) == pytest.approx(2)  # 4e6 / 2 per cycle / 1e6 cycles per ms
    assert core.memory_ms(counts) == pytest.approx(1)  # 6.4 MB at 6.4 GB/s
    assert core.milliseconds(counts) == pytest.approx(3)


@pytest.mark.parametrize(
    ("vector", "l3_miss", "published_ms"),
    [  # counted by lutcount on whole networks: T at 448, then T, S and B at 512
        (102_765_652 + 7_324_049, 3_385_083, 32),
        (134_443_360 + 9_644_853, 4_888_136, 43),
        (279_447_904 + 12_691_075, 6_693_057, 74),
        (439_882_080 + 15_436_637, 9_098_318, 110),
    ],
)
def test_anchors_come_out_near_their_published_latency(vector: int, l3_miss: int, published_ms: float) -> None:
    counts = dataclasses.replace(NOTHING, vector_fma=vector, l3_miss=l3_miss)
    assert SNAPDRAGON_865.milliseconds(counts) == pytest.approx(published_ms, rel=0.06)

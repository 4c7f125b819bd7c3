"""How long would a core that is not at hand take? Counts times few constants, none of them fitted to a network.

The constants of the Snapdragon 865's fastest core leave out what a published latency includes and a count does not; a
table made with them has one scale to the published anchors besides, and says `estimated`.
"""

from __future__ import annotations

from dataclasses import dataclass

from latency_lut.devices.qemu import LINE_BYTES, Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreModel:
    """What one core does at most; the terms add up, nothing overlaps."""

    frequency_mhz: float
    vector_per_cycle: float
    """Vector operations that start in a cycle."""
    memory_gb_s: float
    """What it reads from memory, in lines that the last level of the caches missed."""

    def vector_ms(self, counts: Counts) -> float:
        return (counts.vector_fma + counts.vector_other) / self.vector_per_cycle / (1e3 * self.frequency_mhz)

    def memory_ms(self, counts: Counts) -> float:
        return counts.l3_miss * LINE_BYTES / (1e6 * self.memory_gb_s)

    def milliseconds(self, counts: Counts) -> float:
        return self.vector_ms(counts) + self.memory_ms(counts)


SNAPDRAGON_865 = CoreModel(
    frequency_mhz=2840,
    vector_per_cycle=2,
    memory_gb_s=20,  # not known: the anchors' mean error is 3 % with this, 7 or 9 % with 15 or 25
)
"""The Cortex-A77 core at 2.84 GHz."""

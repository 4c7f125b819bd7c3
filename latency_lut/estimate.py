"""How long would a core that is not at hand take? Counts of its instructions, times few constants and one scale.

The core model has no constant that was fitted to a network. What a published latency includes and a count does not
goes into one scale, fitted to the four published latencies of T, S and B; how far single rows can be trusted is read
off from other core models that fit those four as well. A table made this way says `estimated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

from latency_lut import tables
from latency_lut.counting import CountTable
from latency_lut.devices.qemu import LINE_BYTES, Counts
from latency_lut.table import ESTIMATING_DEVICE, LEVEL, ErrorModel, LatencyRow, LatencyTable, NetworkCheck, TableHeader
from topformer.blocks import Block, decompose
from topformer.config import ANCHORS, Task
from topformer.keys import kind_of
from topformer.published import LATENCY_PROTOCOL, PUBLISHED

WHOLE_NETWORK_PCT = 10.0
"""Half-width of the interval of a whole network. Measurements that are published twice for one network and chip differ
by 0 to 12 %, mean 7; precision and kernels of the published runs are not stated. Nothing narrower can be claimed."""
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreModel:
    """What one core does at most; the terms add up, nothing overlaps."""

    frequency_mhz: float
    vector_per_cycle: float
    """Vector operations that start in a cycle."""
    memory_gb_s: float
    """What it reads from memory, in lines that the last level of the caches missed."""

    def vector_ms(self, counts: Counts) -> float:
        return _vector(counts) / self.vector_per_cycle / (1e3 * self.frequency_mhz)

    def memory_ms(self, counts: Counts) -> float:
        return _lines_ms(counts.l3_miss, self.memory_gb_s)

    def milliseconds(self, counts: Counts) -> float:
        return self.vector_ms(counts) + self.memory_ms(counts)


SNAPDRAGON_865 = CoreModel(
    frequency_mhz=2840,
    vector_per_cycle=2,
    memory_gb_s=20,  # not known: the anchors' mean error is 3 % with this, 7 or 9 % with 15 or 25
)
"""The Cortex-A77 core at 2.84 GHz."""

_CYCLES_PER_MS = 1e3 * SNAPDRAGON_865.frequency_mhz

ALTERNATIVES: Mapping[str, Callable[[Counts], float]] = {
    "memory at 15 GB/s": lambda counts: SNAPDRAGON_865.vector_ms(counts) + _lines_ms(counts.l3_miss, 15),
    "memory at 25 GB/s": lambda counts: SNAPDRAGON_865.vector_ms(counts) + _lines_ms(counts.l3_miss, 25),
    "lines missed in L2 at 40 GB/s": lambda counts: SNAPDRAGON_865.vector_ms(counts) + _lines_ms(counts.l2_miss, 40),
    "3 instructions per cycle": lambda counts: counts.instructions / 3 / _CYCLES_PER_MS,
    "vector work hides loads and stores": lambda counts: (
        max(_vector(counts), _moved(counts)) / 2 / _CYCLES_PER_MS + SNAPDRAGON_865.memory_ms(counts)
    ),
    # coefficients of 20 classification networks measured on a Cortex-A76 phone (Snapdragon 855+)
    "rates of a Cortex-A76": lambda counts: (
        (0.58 * _vector(counts) + 2.27 * _moved(counts)) / 2 / _CYCLES_PER_MS + 0.28 * SNAPDRAGON_865.memory_ms(counts)
    ),
}
"""Other ways to make milliseconds of counts. Scaled to the four published latencies, each fits them within 6 %: nothing
known here says which is right, so what they disagree about is the uncertainty of kinds and rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorFit:
    """A published latency beside what the model says."""

    anchor: str
    image_px: int
    published_ms: float
    unfitted_ms: float
    """Sum of rows, with no scale."""
    fitted_ms: float
    left_out_ms: float
    """With the scale of the other three."""

    @property
    def name(self) -> str:
        return f"{self.anchor}@{self.image_px}"

    @property
    def error_pct(self) -> float:
        return 100 * (self.fitted_ms / self.published_ms - 1)

    @property
    def left_out_error_pct(self) -> float:
        return 100 * (self.left_out_ms / self.published_ms - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One scale, and what it rests on."""

    scale: float
    """Published over unfitted: the mean over the anchors."""
    anchors: tuple[AnchorFit, ...]


def fit(rows: Mapping[str, Counts], milliseconds: Callable[[Counts], float] = SNAPDRAGON_865.milliseconds) -> Fit:
    """The scale that takes sums of rows to the published latencies, each anchor with the same weight.

    Raises KeyError where an anchor's row was not counted.
    """
    published = {
        (anchor, side): ms for anchor, figures in PUBLISHED.items() for side, ms in sorted(figures.latency_ms.items())
    }
    unfitted = {
        (anchor, side): math.fsum(milliseconds(rows[block.key]) for block in _anchor_blocks(anchor, side))
        for anchor, side in published
    }
    ratios = {what: ms / unfitted[what] for what, ms in published.items()}
    scale = fmean(ratios.values())
    return Fit(
        scale=scale,
        anchors=tuple(
            AnchorFit(
                anchor=anchor,
                image_px=side,
                published_ms=ms,
                unfitted_ms=unfitted[anchor, side],
                fitted_ms=scale * unfitted[anchor, side],
                left_out_ms=unfitted[anchor, side]
                * fmean(ratio for what, ratio in ratios.items() if what != (anchor, side)),
            )
            for (anchor, side), ms in published.items()
        ),
    )


def rivals(counts: Mapping[str, Counts]) -> dict[str, Callable[[Counts], float]]:
    """The alternatives, each scaled to the published latencies relative to this core model, so that all are to be
    multiplied by its scale. `counts` are those of the anchors' rows, at least."""
    own = fit(counts).scale
    scales = {what: fit(counts, model).scale / own for what, model in ALTERNATIVES.items()}
    return {what: _scaled(model, scales[what]) for what, model in ALTERNATIVES.items()}


def _scaled(milliseconds: Callable[[Counts], float], scale: float) -> Callable[[Counts], float]:
    return lambda counts: scale * milliseconds(counts)


def estimated_table(counts: CountTable, *, name: str = tables.SNAPDRAGON_865) -> LatencyTable:
    """The same counts give the same table, byte for byte.

    A row is the core model's time; its p5 and p95 bound what the alternatives say of it (scaled, relative to what they
    say of its whole kind) at 90 %. The error model: `kind_pct` is 1.645 times the RMS of what the alternatives say of
    the kind's sum over all rows; `scale_pct` is what kinds and rows leave of `WHOLE_NETWORK_PCT`.
    """
    own = fit(counts.rows)
    scales = {what: fit(counts.rows, model).scale / own.scale for what, model in ALTERNATIVES.items()}
    times = {key: SNAPDRAGON_865.milliseconds(row) for key, row in sorted(counts.rows.items())}
    others = {
        what: {key: scales[what] * ALTERNATIVES[what](counts.rows[key]) for key in times} for what in ALTERNATIVES
    }
    kinds = _kind_ratios(times, others)
    rows = [
        _row(key, ms, [other[key] / kinds[what][kind_of(key)] for what, other in others.items()])
        for key, ms in times.items()
    ]
    kind_pct = {
        kind: round(100 * _Z * _rms(ratios[kind] - 1 for ratios in kinds.values()), 2)
        for kind in sorted({kind_of(key) for key in times})
    }
    header = TableHeader(
        name=name,
        device=ESTIMATING_DEVICE,
        soc="Snapdragon 865 (not at hand: estimated)",
        core="Cortex-A77",
        frequency_mhz=SNAPDRAGON_865.frequency_mhz,
        governor=None,
        threads=1,
        precision="float32",
        runtime="ncnn",
        runtime_version=counts.source.ncnn,
        runtime_checksum=counts.source.payload,
        protocol={
            "method": "counts of ncnn's Arm kernels under qemu-user, times a core model; see latency_lut/estimate.py",
            "vector_per_cycle": SNAPDRAGON_865.vector_per_cycle,
            "memory_gb_s": SNAPDRAGON_865.memory_gb_s,
            "scaled_to": f"{', '.join(anchor.name for anchor in own.anchors)}: {LATENCY_PROTOCOL}",
            "bits": 32,  # of the published runs' build, which the scale takes in; what was counted has 64
            "compiler": counts.source.compiler,
            "counts_sha256": counts.checksum,
        },
        tool_version="counts format 1",
        date=counts.date,
        error_model=ErrorModel(
            scale=round(own.scale, 5),
            scale_pct=0.0,
            kind_pct=kind_pct,
            basis=f"scaled to {len(own.anchors)} published latencies, +-{WHOLE_NETWORK_PCT:g} % on whole networks",
        ),
        validation=tuple(
            NetworkCheck(
                name=anchor.name,
                whole_ms=anchor.published_ms,
                repeat_ms=None,
                sum_ms=round(anchor.unfitted_ms, 5),
                unseen_ms=round(anchor.left_out_ms, 5),
            )
            for anchor in own.anchors
        ),
    )
    return _with_scale_error(LatencyTable.of(header, rows))


def _with_scale_error(table: LatencyTable) -> LatencyTable:
    """With `scale_pct` such that intervals of the anchors are `WHOLE_NETWORK_PCT` wide, root mean square."""
    estimates = [
        table.estimate(_anchor_blocks(anchor, side))
        for anchor, figures in PUBLISHED.items()
        for side in figures.latency_ms
    ]
    taken_pct = _rms(100 * (estimate.high_ms / estimate.total_ms - 1) for estimate in estimates)
    model = replace(
        table.header.error_model, scale_pct=round(math.sqrt(max(WHOLE_NETWORK_PCT**2 - taken_pct**2, 0.0)), 3)
    )
    return LatencyTable(header=replace(table.header, error_model=model), rows=table.rows)


def _kind_ratios(times: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What each alternative says of each kind's sum over all rows, relative to the core model."""
    kinds: dict[str, list[str]] = {}
    for key in times:
        kinds.setdefault(kind_of(key), []).append(key)
    return {
        what: {
            kind: math.fsum(other[key] for key in keys) / math.fsum(times[key] for key in keys)
            for kind, keys in kinds.items()
        }
        for what, other in others.items()
    }


def _row(key: str, ms: float, others_ms: list[float]) -> LatencyRow:
    """`others_ms`: what alternatives say that agree about the kind."""
    half = min(_Z * _rms(other_ms / ms - 1 for other_ms in others_ms), 0.9)  # a time stays above 0
    values = {"median_ms": ms, "p5_ms": ms * (1 - half), "p95_ms": ms * (1 + half)}
    return LatencyRow(key=key, **{name: float(f"{value:.5g}") for name, value in values.items()}, n=0, kind="estimated")


def _anchor_blocks(anchor: str, side: int) -> tuple[Block, ...]:
    """Of the network whose latency is published: 150 classes, logits."""
    return decompose(ANCHORS[anchor], Task(image_size=(side, side)))


def _vector(counts: Counts) -> int:
    return counts.vector_fma + counts.vector_other


def _moved(counts: Counts) -> int:
    return counts.vector_load + counts.vector_store


def _lines_ms(lines: int, gb_s: float) -> float:
    return lines * LINE_BYTES / (1e6 * gb_s)


def _rms(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(math.fsum(squares) / len(squares))

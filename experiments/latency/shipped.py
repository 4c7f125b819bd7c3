"""How is the estimated Snapdragon 865 table made, made again, and extended? From counts of its blocks."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scipy.stats import kendalltau

from experiments.latency.plan import Plan
from latency_lut import tables
from latency_lut.counting import SUFFIX, CountTable, count_blocks, counting_seconds, not_counted
from latency_lut.estimate import ALTERNATIVES, WHOLE_NETWORK_PCT, estimated_table, fit
from latency_lut.table import SUFFIX as TABLE_SUFFIX
from latency_lut.table import LatencyTable
from search_space import blocks, preset
from topformer.blocks import Block, candidate_blocks, decompose
from topformer.config import ANCHORS, Task
from topformer.errors import UserError
from topformer.keys import kind_of
from topformer.progress import Progress, Say, duration, unsaid

SHIPPED_SPACES = ("quickstart", "pyramid")
SHIPPED_CLASSES = (150, 59)
"""Of ADE20K, and of the data set `scenes` and Pascal Context without background."""
ANCHOR_CLASSES = (*SHIPPED_CLASSES, 19, 60, 171)
"""And of Cityscapes, of Pascal Context with background, of COCO-Stuff."""
_NETWORKS = 200
_SEED = 0
ANCHOR_SIZES = ((384, 384), (448, 448), (480, 480), (512, 512), (512, 1024))


def shipped_path(suffix: str) -> Path:
    """A file of the shipped table: rows, counts or the report of its fit."""
    return Path(tables.__path__[0]) / f"{tables.SNAPDRAGON_865}{suffix}"


def shipped_counts() -> CountTable:
    return CountTable.load(shipped_path(SUFFIX))


def shipped_blocks() -> tuple[Block, ...]:
    """Every block that the shipped table has a row for, with post-processing."""
    tasks = [Task(num_classes=classes, output="labels") for classes in SHIPPED_CLASSES]
    found = [block for name in SHIPPED_SPACES for task in tasks for block in blocks(preset(name, task=task))]
    for size in ANCHOR_SIZES:
        for classes in ANCHOR_CLASSES:
            task = Task(image_size=size, num_classes=classes, output="labels")
            found += [block for arch in ANCHORS.values() for block in decompose(arch, task)]
    return tuple({block.key: block for block in found}.values())


def estimate(wanted: Plan, path: Path, *, say: Say = unsaid, report: Progress) -> LatencyTable:
    """An estimated table with the shipped rows and those that a plan needs besides; these are counted here.

    The rows of the anchors and of a few members of the space come first, and are a table as soon as they are there.
    Counts stay in a file beside the table, so that they are counted once.
    """
    own = path.with_name(path.name.removesuffix(TABLE_SUFFIX) + SUFFIX)
    known, workers = shipped_counts(), os.cpu_count() or 1
    first, rest = needed_first(wanted, not_counted(wanted.blocks, out=own, known=known))
    if first or rest:
        say(_announced(wanted, first, rest, workers))
    ahead = len(first) if rest else 0
    if ahead:
        every = len(first) + len(rest)
        some = count_blocks(first, out=own, known=known, workers=workers, progress=_part_of(report, 0, every))
        estimated_table(some, name=path.stem).save(path)
    later = _part_of(report, ahead, ahead + len(rest)) if ahead else report
    counts = count_blocks(wanted.blocks, out=own, known=known, workers=workers, progress=later)
    table = estimated_table(counts, name=path.stem)
    table.save(path)
    report(1, 1, f"{path}: {len(table.rows)} rows")
    return table


def needed_first(wanted: Plan, blocks: tuple[Block, ...]) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """(blocks of the plan's networks, the anchors before random ones; all others)."""
    used = {block.key: None for network in wanted.networks.values() for block in candidate_blocks(network)}
    place = {key: index for index, key in enumerate(used)}
    first = sorted((block for block in blocks if block.key in place), key=lambda block: place[block.key])
    return tuple(first), tuple(block for block in blocks if block.key not in place)


def _announced(wanted: Plan, first: tuple[Block, ...], rest: tuple[Block, ...], workers: int) -> str:
    """How many rows are counted, about how long, and why so many."""
    seconds = counting_seconds((*first, *rest))
    many = len({block.key for block in wanted.blocks})
    each = "1 core" if workers == 1 else f"{workers} cores"
    ahead = f"; the {len(first):,} of the anchors and of a few members of the space first" if first and rest else ""
    return (
        f"{len(first) + len(rest):,} of {many:,} rows are to be counted, about {duration(seconds / workers)} on {each} "
        f"that do nothing else{ahead}. Stopped, the same command goes on where it was. The shipped table has the "
        f"spaces {' and '.join(SHIPPED_SPACES)} at {', '.join(_pixels(shipped_sizes()))} px, T, S and B also at "
        f"{', '.join(_pixels(set(ANCHOR_SIZES) - set(shipped_sizes())))}: at any other size all rows are new."
    )


def shipped_sizes() -> tuple[tuple[int, int], ...]:
    """(height, width) of the images whose rows the shipped table has for all of its spaces."""
    (first, *others) = (
        {block.inputs[0][1:] for block in blocks(preset(name, task=Task())) if block.kind == "stem"}
        for name in SHIPPED_SPACES
    )
    return tuple(sorted(first.union(*others)))


def _pixels(sizes: Iterable[tuple[int, int]]) -> list[str]:
    return [f"{height}x{width}" for height, width in sorted(sizes)]


def _part_of(report: Progress, before: int, every: int) -> Progress:
    """Of more steps than one loop knows of."""
    return lambda done, _, what: report(before + done, every, what)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refitted:
    """The shipped table made again from the shipped counts."""

    table: LatencyTable
    report: dict[str, Any]
    identical: bool
    """To the files that are shipped, byte for byte."""


def refit() -> Refitted:
    counts = shipped_counts()
    table = estimated_table(counts)
    report = fit_report(counts, table)
    shipped = [shipped_path(TABLE_SUFFIX), shipped_path(".fit.json")]
    texts = [table.text, report_text(report)]
    same = all(
        path.exists() and path.read_text(encoding="utf-8") == text for path, text in zip(shipped, texts, strict=True)
    )
    return Refitted(table=table, report=report, identical=same)


def save_refitted(made: Refitted) -> None:
    """Over the shipped files."""
    made.table.save(shipped_path(TABLE_SUFFIX))
    shipped_path(".fit.json").write_text(report_text(made.report), encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """The shipped counts beside counts made here, from nothing."""

    rows: int
    different: Mapping[str, Mapping[str, tuple[int, int]]]
    """By key and count: (shipped, here)."""


def recount(out: Path, *, sample: int | None, seed: int, report: Progress) -> Recount:
    """Counts all blocks of the shipped table again, or `sample` of them; resumable, `out` keeps what was counted."""
    shipped = shipped_counts()
    wanted = sorted((block for block in shipped_blocks() if block.key in shipped.rows), key=lambda block: block.key)
    if sample is not None:
        if not 1 <= sample <= len(wanted):
            raise UserError(f"--sample must be from 1 to {len(wanted)}, the rows of the table, not {sample}.")
        wanted = random.Random(seed).sample(wanted, sample)
    here = count_blocks(wanted, out=out, workers=os.cpu_count() or 1, progress=report)
    different = {}
    for block in wanted:
        old, new = asdict(shipped.rows[block.key]), asdict(here.rows[block.key])
        if old != new:
            different[block.key] = {name: (old[name], new[name]) for name in old if old[name] != new[name]}
    return Recount(rows=len(wanted), different=different)


def report_text(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1) + "\n"


def fit_report(counts: CountTable, table: LatencyTable) -> dict[str, Any]:
    """How well the scale fits, what the alternatives to the core model say, and how far sums of them agree."""
    own = fit(counts.rows)
    at_512 = decompose(ANCHORS["tiny"], Task())
    tiny = table.estimate(at_512)
    share = math.fsum(ms for block, (_, ms) in zip(at_512, tiny.by_block, strict=True) if block.module == "transformer")
    space, rng = preset("pyramid", task=Task()), random.Random(_SEED)
    networks = [candidate_blocks(space.sample(rng)) for _ in range(_NETWORKS)]
    anchors = []
    for anchor in own.anchors:
        estimated = table.estimate(
            decompose(ANCHORS[anchor.anchor], Task(image_size=(anchor.image_px, anchor.image_px)))
        )
        anchors.append(
            asdict(anchor)
            | {
                "error_pct": anchor.error_pct,
                "left_out_error_pct": anchor.left_out_error_pct,
                "low_ms": estimated.low_ms,
                "high_ms": estimated.high_ms,
                "left_out_inside": abs(anchor.left_out_error_pct) < 100 * (estimated.high_ms / estimated.total_ms - 1),
            }
        )
    report: dict[str, Any] = _rounded(
        {
            "table": table.name,
            "table_checksum": table.checksum,
            "counts_sha256": counts.checksum,
            "rows": len(counts.rows),
            "scale": own.scale,
            "anchors": anchors,
            "extractor_share_of_tiny_pct": 100 * share / tiny.total_ms,
            "whole_network_interval_pct": WHOLE_NETWORK_PCT,
            "scale_pct": table.header.error_model.scale_pct,
            "kind_pct": dict(table.header.error_model.kind_pct),
            "random_networks": f"{_NETWORKS} of pyramid at 150 classes, seed {_SEED}",
            "alternatives": {what: _compared(counts, table, what, networks) for what in ALTERNATIVES},
        }
    )
    return report


def _compared(counts: CountTable, table: LatencyTable, what: str, networks: list[tuple[Block, ...]]) -> dict[str, Any]:
    """An alternative core model, scaled in the same way, beside the table on sums over networks and on single rows."""
    milliseconds = ALTERNATIVES[what]
    other = fit(counts.rows, milliseconds)
    ratios = {
        key: other.scale * milliseconds(counts.rows[key]) / (table.header.error_model.scale * row.median_ms)
        for key, row in table.rows.items()
    }
    sums = [table.estimate(network) for network in networks]
    own_ms = [estimated.total_ms for estimated in sums]
    other_ms = [
        math.fsum(ms * ratios[block.key] for block, (_, ms) in zip(network, estimated.by_block, strict=True))
        for network, estimated in zip(networks, sums, strict=True)
    ]
    off_pct = [100 * abs(theirs / ours - 1) for ours, theirs in zip(own_ms, other_ms, strict=True)]
    by_kind: dict[str, list[float]] = {}
    for key, ratio in ratios.items():
        by_kind.setdefault(kind_of(key), []).append(ratio)
    return {
        "scale": other.scale,
        "anchor_error_pct": {anchor.name: anchor.error_pct for anchor in other.anchors},
        "networks_mean_off_pct": fmean(off_pct),
        "networks_worst_off_pct": max(off_pct),
        "networks_inside_interval": fmean(
            estimated.low_ms <= theirs <= estimated.high_ms for estimated, theirs in zip(sums, other_ms, strict=True)
        ),
        "networks_kendall_tau": float(kendalltau(own_ms, other_ms).statistic),
        "median_row_ratio_by_kind": {kind: median(values) for kind, values in sorted(by_kind.items())},
    }


def _rounded(value: Any) -> Any:
    """Five digits, so that a report is the same text on every machine."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value

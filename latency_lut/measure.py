"""How long does every block take here, and do the blocks add up to whole networks? Fills a table, resumably.

Rounds are interleaved: every pass times every block and every network once, in an order of its own, so that a machine
that slows down for a while slows all of them alike. What is timed is written down at once, in `OUT.partial`.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import NormalDist, fmean, median
from time import perf_counter
from typing import Any

import numpy as np

from latency_lut.devices import Burst, Device, DeviceInfo, Loaded
from latency_lut.progress import Progress, silent
from latency_lut.runtimes import Runtime, RuntimeInfo
from latency_lut.table import LEVEL, ErrorModel, LatencyRow, LatencyTable, NetworkCheck, Setting, TableHeader
from topformer.blocks import Block, candidate_blocks
from topformer.config import Candidate
from topformer.errors import UserError

_LEAST_NETWORKS = 2
"""Networks from which an error model can be calibrated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long to time. A sample is the lower quartile of the runs of one burst; a row, the median of `undisturbed`
    samples."""

    burst_ms: float = 6.0
    min_runs: int = 3
    """Runs in a burst, where one takes longer than a third of `burst_ms`."""
    warm_up_runs: int = 1
    """First runs of each burst, not counted."""
    min_passes: int = 8
    max_passes: int = 40
    target_pct: float = 1.0
    """Passes end when the 90 % interval of every median is within this of it, ..."""
    seconds_per_item: float = 0.2
    """... or when this has been spent for each block (and twice for each network), whichever is first."""
    blocks_at_once: int = 128
    """Sessions kept in memory together; at 512 x 512 they take about 20 MB each."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("burst_ms", "target_pct", "seconds_per_item"):
            if not getattr(self, name) > 0:
                raise UserError(f"timing: {name} must be above 0, not {getattr(self, name)!r}.")
        for name in ("min_runs", "min_passes", "blocks_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"timing: {name} must be at least 1, not {getattr(self, name)!r}.")
        if self.max_passes < self.min_passes or self.warm_up_runs < 0:
            raise UserError("timing: max_passes must not be below min_passes, nor warm_up_runs below 0.")


def measure_table(
    blocks: Iterable[Block],
    *,
    networks: Mapping[str, Candidate],
    device: Device,
    runtime: Runtime,
    out: Path,
    name: str,
    timing: Timing | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Time every distinct block of `blocks` and of `networks`, and the networks as wholes; save the table to `out`.

    A table that is there already is extended by the rows it lacks, and its sums are compared with the networks anew;
    one that lacks nothing is returned as it is. Killed at any moment, the next call goes on where this one stopped.
    Raises UserError where `out` or `OUT.partial` come from another device, runtime or timing.
    """
    timing = timing or Timing()
    report = progress or silent
    device.require(runtime.info())
    source = _source(device.info(), runtime.info())
    wanted = _distinct((*blocks, *(block for net in networks.values() for block in candidate_blocks(net))))
    if not wanted:
        raise UserError("nothing to measure: no blocks and no networks were given.")
    partial = out.with_name(f"{out.name}.partial")
    old = LatencyTable.load(out) if out.exists() else None
    if old:
        _require_source(old.header.source, source, out)
    missing = {key: block for key, block in wanted.items() if not old or key not in old.rows}
    checked = {check.name for check in old.header.validation} if old else set()
    if old and not missing and checked.issuperset(networks):
        partial.unlink(missing_ok=True)  # of a run killed between its last two steps
        report(1, 1, f"{out} has all {len(wanted)} rows: nothing to measure")
        return old
    with _Journal(partial, source | {"timing": asdict(timing)}) as journal:
        _time_all(missing, networks, device, runtime, timing, journal, report)
    rows = dict(old.rows) if old else {}
    rows |= {key: _row(key, journal.samples[key]) for key in missing}
    validation = old.header.validation if old else ()
    error_model = old.header.error_model if old else ErrorModel()
    if networks:
        validation = tuple(_check(net_name, net, rows, journal.samples) for net_name, net in networks.items())
        error_model = calibrate(validation, [_ms_by_row(net, rows) for net in networks.values()])
    header = TableHeader(
        name=name,
        **source,
        protocol=_protocol(timing, journal.samples.values()) | dict(device.conditions()),
        tool_version=_tool_version(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        error_model=error_model,
        validation=validation,
    )
    table = LatencyTable(header=header, rows=rows)
    table.save(out)
    partial.unlink()
    drift = f"the machine's speed drifted by {header.protocol['drift_pct']} % between passes"
    report(1, 1, f"{out}: {len(missing)} rows measured, {len(rows)} in all; {drift}")
    return table


def calibrate(checks: Sequence[NetworkCheck], ms_by_row: Sequence[Mapping[str, float]]) -> ErrorModel:
    """The error model that whole networks give; `ms_by_row` are each network's times by block key.

    With r_i = whole / sum of rows of n networks: scale = mean(r). d_i = r_i / scale - 1 is what the scale leaves,
    s = sqrt(sum(d_i^2) / (n - 1)) its RMS with the fitted scale's degree of freedom taken off; t = Student's t at the
    level with n - 1 degrees. The scale itself is known to t * s / sqrt(n): `scale_pct`. What differs between networks
    cannot be an error of the common scale; it is laid on the rows, equally and independently, so that a network of the
    average mix gets t * s from them: `row_pct` = t * s / sqrt(mean_i(sum_k(share_ik^2))). Both together are the
    prediction interval t * s * sqrt(1 + 1 / n) of one more network. Laid on block kinds instead, the same error cancels
    in differences that in truth it does not: of the 36 pairs of 9 networks, in three measurements with onnxruntime, 33
    to 44 % were inside their 90 % interval, against 92 to 94 % this way. Fewer than two networks calibrate nothing.
    """
    n = len(checks)
    if n < _LEAST_NETWORKS:
        return ErrorModel()
    ratios = [check.reference_ms / check.sum_ms for check in checks]
    scale = fmean(ratios)
    left = math.sqrt(math.fsum((ratio / scale - 1) ** 2 for ratio in ratios) / (n - 1))
    spread_pct = 100 * student_t(n - 1) * left
    concentration = fmean(
        math.fsum((ms / math.fsum(by_row.values())) ** 2 for ms in by_row.values()) for by_row in ms_by_row
    )
    return ErrorModel(
        scale=round(scale, 5),
        scale_pct=round(spread_pct / math.sqrt(n), 4),
        row_pct=round(spread_pct / math.sqrt(concentration), 4),
    )


def student_t(degrees: int) -> float:
    """The 95 % point of Student's t, for intervals at `LEVEL`; from 11 degrees on by Cornish and Fisher's expansion."""
    table = (6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125)
    if degrees <= len(table):
        return table[degrees - 1]
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _time_all(
    blocks: Mapping[str, Block],
    networks: Mapping[str, Candidate],
    device: Device,
    runtime: Runtime,
    timing: Timing,
    journal: _Journal,
    report: Progress,
) -> None:
    """Passes over the blocks, some hundred at a time, with all networks in each pass."""
    keys = tuple(blocks)
    chunks = [keys[start : start + timing.blocks_at_once] for start in range(0, len(keys), timing.blocks_at_once)]
    bar = _Bar(report, len(keys) + len(networks))
    whole: dict[str, Loaded] = {}
    with device.hold():
        for net_name, net in networks.items():
            bar.step(f"building {net_name}")
            whole[net_name] = device.load(runtime, runtime.build(net), alone=False)
        for index, chunk in enumerate(chunks or [()]):
            graphs: dict[str, Loaded] = {}
            for key in chunk:
                bar.step(f"building {blocks[key].kind}")
                graphs[key] = device.load(runtime, runtime.build(blocks[key]), alone=True)
            for net_name, graph in whole.items():
                graphs |= {_network_item(net_name, series, index): graph for series in (0, 1)}
            _time_passes(graphs, device, timing, journal, bar)


def _time_passes(graphs: Mapping[str, Loaded], device: Device, timing: Timing, journal: _Journal, bar: _Bar) -> None:
    """Every graph once per pass, until the medians are narrow or the time is up; what the journal has stays."""
    burst = Burst(warm_up=timing.warm_up_runs, runs=timing.min_runs, ms=timing.burst_ms)
    limit_s = timing.seconds_per_item * len(graphs)
    for index in range(timing.max_passes):
        spent_s = journal.seconds_of(graphs)
        if index >= timing.min_passes and (
            spent_s >= limit_s
            or all(median_half_width_pct(undisturbed(journal.samples[item])) <= timing.target_pct for item in graphs)
        ):
            return
        order = sorted(graphs)
        random.Random(f"{timing.seed} {index}").shuffle(order)
        due = [item for item in order if len(journal.samples.get(item, ())) <= index]
        passes = (
            min(max(limit_s * index / spent_s, timing.min_passes), timing.max_passes) if index else timing.min_passes
        )
        bar.expect(len(due) + len(graphs) * max(round(passes) - index - 1, 0))
        start = perf_counter()
        for item, times_ms in zip(due, device.time([graphs[item] for item in due], burst), strict=True):
            end = perf_counter()
            journal.add(item, float(np.percentile(times_ms, 25)), end - start)
            bar.step(f"timing, pass {index + 1}")
            start = end


def undisturbed(samples: Sequence[float]) -> list[float]:
    """The faster half, ascending: other work on the machine only ever slows a sample, and seldom half of them.

    On two busy cores (load 3 to 5) this took the difference between two timings of one network from 4.5 to 1.6 %, and
    what the scale leaves between sums and whole networks from 4.4 to 2.4 %.
    """
    return sorted(samples)[: math.ceil(len(samples) / 2)]


def median_half_width_pct(samples: Sequence[float]) -> float:
    """Half the 90 % interval of a median, in percent of it; from order statistics (the range if n < 5)."""
    ordered = sorted(samples)
    n = len(ordered)
    below = 0.0
    rank = 0
    while rank < n // 2 and (below := below + math.comb(n, rank) * 0.5**n) <= (1 - LEVEL) / 2:
        rank += 1
    rank = max(rank - 1, 0)
    return 50 * (ordered[n - 1 - rank] - ordered[rank]) / median(ordered)


def drift_pct(samples: Iterable[Sequence[float]]) -> float:
    """How much the machine's speed changed from pass to pass: range over median of the items' common factor."""
    series = [np.array(values) / np.median(values) for values in samples]
    passes = max(len(values) for values in series)
    factors = [median([values[index] for values in series if len(values) > index]) for index in range(passes)]
    return float(100 * (max(factors) - min(factors)) / median(factors))


class _Journal:
    """Samples as they are taken, one JSON line each, behind a line that says what they are of."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.samples: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]  # behind the last line break is what a kill cut off
        lines = complete.decode().splitlines()
        if lines:
            _require_plan(lines[0], plan, path)
        for line in lines[1:]:
            self._note(json.loads(line))
        self._file = path.open("ab")
        self._file.truncate(len(complete))
        if not lines:
            self._write(plan)

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, item: str, ms: float, seconds: float) -> None:
        line = {"item": item, "ms": ms, "seconds": round(seconds, 6)}
        self._write(line)
        self._note(line)

    def seconds_of(self, items: Iterable[str]) -> float:
        return sum(self._seconds.get(item, 0.0) for item in items)

    def _note(self, line: Mapping[str, Any]) -> None:
        self.samples.setdefault(line["item"], []).append(line["ms"])
        self._seconds[line["item"]] = self._seconds.get(line["item"], 0.0) + line["seconds"]

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


class _Bar:
    """Counts steps for a `Progress`."""

    def __init__(self, report: Progress, expected: int) -> None:
        self.report = report
        self.done = 0
        self.total = expected

    def expect(self, more: int) -> None:
        self.total = self.done + more

    def step(self, description: str) -> None:
        self.done += 1
        self.report(self.done, max(self.total, self.done), description)


def _row(key: str, samples: Sequence[float]) -> LatencyRow:
    kept = undisturbed(samples)
    low, middle, high = (float(f"{value:.5g}") for value in np.percentile(kept, (5, 50, 95)))
    return LatencyRow(key=key, median_ms=middle, p5_ms=low, p95_ms=high, n=len(kept), kind="measured")


def _check(
    name: str, network: Candidate, rows: Mapping[str, LatencyRow], samples: Mapping[str, Sequence[float]]
) -> NetworkCheck:
    def series_ms(series: int) -> float:
        start = _network_item(name, series, "")
        return round(median(undisturbed([ms for item in samples if item.startswith(start) for ms in samples[item]])), 5)

    sum_ms = math.fsum(_ms_by_row(network, rows).values())
    return NetworkCheck(name=name, whole_ms=series_ms(0), repeat_ms=series_ms(1), sum_ms=round(sum_ms, 5))


def _ms_by_row(network: Candidate, rows: Mapping[str, LatencyRow]) -> dict[str, float]:
    counts = Counter(block.key for block in candidate_blocks(network))
    return {key: count * rows[key].median_ms for key, count in counts.items()}


def _network_item(name: str, series: int, chunk: int | str) -> str:
    return f"network {json.dumps(name)} series {series} chunk {chunk}"


def _distinct(blocks: Iterable[Block]) -> dict[str, Block]:
    """By key, in the order they come."""
    by_key: dict[str, Block] = {}
    for block in blocks:
        by_key.setdefault(block.key, block)
    return by_key


def _source(device: DeviceInfo, runtime: RuntimeInfo) -> dict[str, Any]:
    return {
        "device": device.name,
        "soc": device.soc,
        "core": device.core,
        "frequency_mhz": device.frequency_mhz,
        "governor": device.governor,
        "threads": runtime.threads,
        "precision": runtime.precision,
        "runtime": runtime.name,
        "runtime_version": runtime.version,
        "runtime_checksum": runtime.checksum,
    }


def _require_source(table: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    if different := [name for name, value in here.items() if table[name] != value]:
        first = different[0]
        raise UserError(
            f"{path} was measured with {first} {table[first]!r}, but here it is {here[first]!r}: rows of two sources "
            "do not go into one table; choose another --table name."
        )


def _require_plan(line: str, plan: Mapping[str, Any], path: Path) -> None:
    try:
        begun = json.loads(line)
    except json.JSONDecodeError:
        begun = None
    if begun != plan:
        raise UserError(
            f"{path} is an unfinished measurement with another device, runtime or timing; finish it with the settings "
            "in its first line, or delete it."
        )


def _protocol(timing: Timing, samples: Iterable[Sequence[float]]) -> dict[str, Setting]:
    series = tuple(samples)
    widths = [median_half_width_pct(undisturbed(values)) for values in series]
    return {
        "sample": "lower quartile of the runs of one burst",
        "statistic": "percentiles of the faster half of the samples, n of them",
        "order": "interleaved passes, shuffled",
        **asdict(timing),
        "passes": min(map(len, series)),
        "median_half_width_pct": round(median(widths), 3),
        "drift_pct": round(drift_pct(series), 2),
    }


def _tool_version() -> str:
    try:
        return version("topformer-nas")
    except PackageNotFoundError:
        return "not installed"

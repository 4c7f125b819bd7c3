"""How long does every block take here, and do the blocks add up to whole networks? Fills a table, resumably.

Rounds are interleaved: every pass times every block and every network once, in an order of its own, so that a machine
that slows down for a while slows all of them alike. What is timed is written down at once, in `OUT.partial`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from latency_lut.calibration import Whole, fit
from latency_lut.devices import Burst, Device, DeviceInfo, Loaded
from latency_lut.runtimes import Runtime, RuntimeInfo
from latency_lut.table import (
    LEVEL,
    ErrorModel,
    LatencyRow,
    LatencyTable,
    NetworkCheck,
    Setting,
    TableHeader,
)
from latency_lut.validation import contradictions
from topformer.blocks import Block, candidate_blocks
from topformer.config import Candidate
from topformer.errors import UserError
from topformer.progress import Progress, silent
from topformer.version import tool_version

_NETWORK_BLOCKS = 8
"""A network in memory, twice, counts as so many blocks."""
_WIDE = 3
"""A median stands out if its interval is wider than so many times the aim."""


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
    passes_at_once: int = 1
    """Passes over one chunk before the next one's turn; each turn loads its graphs anew, because where their data
    happens to lie stays with a session: five sessions of one network differed by up to 9 %, of one block by 11 %."""
    blocks_at_once: int = 128
    """A chunk: sessions kept in memory together; at 512 x 512 they take about 20 MB each."""
    seed: int = 0

    @property
    def again_passes(self) -> int:
        """Over what stands out."""
        return math.ceil(self.min_passes / 2)

    def __post_init__(self) -> None:
        for name in ("burst_ms", "target_pct", "seconds_per_item"):
            if not getattr(self, name) > 0:
                raise UserError(f"timing: {name} must be above 0, not {getattr(self, name)!r}.")
        for name in ("min_runs", "min_passes", "passes_at_once", "blocks_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"timing: {name} must be at least 1, not {getattr(self, name)!r}.")
        if self.max_passes < self.min_passes or self.warm_up_runs < 0:
            raise UserError("timing: max_passes must not be below min_passes, nor warm_up_runs below 0.")


USUAL = Timing()


def measure_table(
    blocks: Iterable[Block],
    *,
    networks: Mapping[str, Candidate],
    held_out: Mapping[str, Candidate] | None = None,
    device: Device,
    runtime: Runtime,
    out: Path,
    name: str,
    timing: Timing = USUAL,
    progress: Progress = silent,
) -> LatencyTable:
    """Time every distinct block of `blocks` and of the networks, and the networks as wholes; save the table to `out`.

    The table is calibrated on `networks` and compared with these and with those held out.
    A table that is there already is extended by the rows it lacks, and its sums are compared with the networks anew;
    one that lacks nothing is returned as it is. Killed at any moment, the next call goes on where this one stopped.
    Raises UserError where `out` or `OUT.partial` come from another device, runtime or timing.
    """
    device.require(runtime.info())
    held_out = held_out or {}
    source = _source(device.info(), runtime.info())
    every = {**networks, **held_out}
    assert len(every) == len(networks) + len(held_out), "a network that was calibrated on is not held out"
    wanted = _distinct((*blocks, *(block for net in every.values() for block in candidate_blocks(net))))
    if not wanted:
        raise UserError("nothing to measure: no blocks and no networks were given.")
    partial = out.with_name(f"{out.name}.partial")
    old = LatencyTable.load(out) if out.exists() else None
    if old:
        _require_source(
            old.header.source,
            source,
            str(out),
            "rows of two sources do not go into one table; choose another --table name.",
        )
    missing = {key: block for key, block in wanted.items() if not old or key not in old.rows}
    checked = {check.name for check in old.header.validation} if old else set()
    if old and not missing and checked.issuperset(every):
        partial.unlink(missing_ok=True)  # of a run killed between its last two steps
        progress(1, 1, f"{out} has all {len(wanted)} rows: nothing to measure")
        return old
    made_by = tool_version()  # of the code that measures, whatever lies in its folder hours later
    with _Journal(partial, source | {"timing": asdict(timing)}) as journal:
        session = _Session(device=device, runtime=runtime, timing=timing, journal=journal, bar=_Bar(progress))
        session.time_all(missing, every)
    rows = dict(old.rows) if old else {}
    rows |= {key: _row(key, journal.samples[key]) for key in missing}
    validation = old.header.validation if old else ()
    error_model = old.header.error_model if old else ErrorModel()
    if networks:
        seen = [_whole(net_name, net, rows, journal.samples) for net_name, net in networks.items()]
        unseen = [_whole(net_name, net, rows, journal.samples) for net_name, net in held_out.items()]
        error_model, validation = fit(seen, unseen)
    header = TableHeader(
        name=name,
        **source,
        protocol=_protocol(timing, journal.samples.values())
        | {"timed_again": journal.timed_again, "contradictions": len(contradictions(rows.values()))}
        | dict(device.conditions()),
        tool_version=made_by,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        error_model=error_model,
        validation=validation,
    )
    table = LatencyTable(header=header, rows=rows)
    table.save(out)
    partial.unlink()
    drift = f"the machine's speed drifted by {header.protocol['drift_pct']} % between passes"
    progress(1, 1, f"{out}: {len(missing)} rows measured, {len(rows)} in all; {drift}")
    return table


def check_networks(
    table: LatencyTable,
    networks: Mapping[str, Candidate],
    *,
    device: Device,
    runtime: Runtime,
    partial: Path,
    timing: Timing = USUAL,
    progress: Progress = silent,
) -> tuple[NetworkCheck, ...]:
    """Time networks that the table was not calibrated on, as wholes, and compare; the table stays as it is.

    Killed at any moment, the next call goes on from `partial`. Raises UserError where device or runtime are not those
    of the table, and MissingRows where it lacks a block.
    """
    device.require(runtime.info())
    source = _source(device.info(), runtime.info())
    _require_source(table.header.source, source, table.name, "it can be compared with networks on its own device only.")
    estimates = {name: table.estimate(candidate_blocks(network)).total_ms for name, network in networks.items()}
    with _Journal(partial, source | {"timing": asdict(timing)}) as journal:
        session = _Session(device=device, runtime=runtime, timing=timing, journal=journal, bar=_Bar(progress))
        session.time_all({}, networks)
    wholes = [_whole(name, network, table.rows, journal.samples) for name, network in networks.items()]
    partial.unlink()
    return tuple(whole.check(table.header.error_model.correction, estimates[whole.name]) for whole in wholes)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A graph, and the items of the journal that it is timed for: one for a block, two series for a network."""

    file: Path
    alone: bool
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Session:
    """One measurement: where, with what and for how long it times, and who writes it down."""

    device: Device
    runtime: Runtime
    timing: Timing
    journal: _Journal
    bar: _Bar

    def time_all(self, blocks: Mapping[str, Block], networks: Mapping[str, Candidate]) -> None:
        """A few passes over each chunk in turn, round after round, and then what stands out once more.

        Every chunk is timed from the beginning of the measurement to its end: rows of different chunks, and a network
        and its blocks, met the same machine, whatever slowed it down for a while.
        """
        most, at_once = self.timing.max_passes, self.timing.passes_at_once
        self.bar.expect(len(blocks) + len(networks))
        with TemporaryDirectory(prefix="topformer-nas-") as folder, self.device.hold():
            chunks = self._built(blocks, networks, Path(folder))
            pending = chunks
            for first in range(0, most, at_once):
                self.bar.expect(sum(self._samples_to_come(_items(chunk), first) for chunk in pending))
                passes = range(first, min(first + at_once, most))
                visits = [self._visit(chunk, passes) for chunk in pending]
                pending = [chunk for chunk, unfinished in zip(pending, visits, strict=True) if unfinished]
            items = [item for chunk in chunks for item in _items(chunk)]
            again = self.journal.again(items)
            if again is None:
                again = self.journal.time_again(items, self._standing_out(items, blocks))
            self.bar.expect(len(again) * self.timing.again_passes)
            for index in range(self.timing.again_passes):
                for chunk in chunks:
                    self._time_again(chunk, again, index)

    def _built(
        self, blocks: Mapping[str, Block], networks: Mapping[str, Candidate], folder: Path
    ) -> list[list[_Subject]]:
        """Chunks of blocks, in order, with the networks dealt out among them; graphs are kept on disk."""
        keys = tuple(blocks)
        count = math.ceil((len(keys) + _NETWORK_BLOCKS * len(networks)) / self.timing.blocks_at_once)
        size = math.ceil(len(keys) / count)
        chunks: list[list[_Subject]] = [[] for _ in range(count)]

        def add(chunk: int, what: Block | Candidate, description: str, *items: str) -> None:
            self.bar.step(f"building {description}")
            file = folder / str(self.bar.done)
            file.write_bytes(self.runtime.build(what))
            chunks[chunk].append(_Subject(file, isinstance(what, Block), items))

        for index, key in enumerate(keys):
            add(index // size, blocks[key], blocks[key].kind, key)
        for index, (name, network) in enumerate(networks.items()):
            add(index % count, network, name, _network_item(name, 0), _network_item(name, 1))
        return chunks

    def _samples_to_come(self, items: Sequence[str], done: int) -> int:
        """A guess after `done` passes."""
        timing, passes = self.timing, float(self.timing.min_passes)
        if spent_s := self.journal.seconds_of(items) if done else 0.0:
            passes = min(max(timing.seconds_per_item * len(items) * done / spent_s, passes), timing.max_passes)
        return sum(max(round(passes) - len(self.journal.samples.get(item, ())), 0) for item in items)

    def _visit(self, chunk: Sequence[_Subject], passes: range) -> bool:
        """Every item once per pass, until the medians are narrow or the time is up; whether there is more to do.

        What the journal has is not timed again, and where it has all of a visit nothing is loaded.
        """
        timing, journal, items = self.timing, self.journal, _items(chunk)
        limit_s = timing.seconds_per_item * len(items)
        loaded: dict[str, Loaded] = {}
        for index in passes:
            if index >= timing.min_passes and (
                journal.seconds_of(items) >= limit_s
                or all(median_half_width_pct(undisturbed(journal.samples[item])) <= timing.target_pct for item in items)
            ):
                return False
            order = list(items)
            random.Random(f"{timing.seed} {index}").shuffle(order)
            if due := [item for item in order if len(journal.samples.get(item, ())) <= index]:
                loaded = loaded or self._loaded(chunk)
                self._time(due, loaded, f"timing, pass {index + 1}")
        return passes.stop < timing.max_passes

    def _time_again(self, chunk: Sequence[_Subject], again: Mapping[str, int], index: int) -> None:
        """One more sample of items of `again`, on top of the number there and the `index` earlier ones."""
        samples = self.journal.samples
        due = [item for item in _items(chunk) if item in again and len(samples[item]) <= again[item] + index]
        if due:
            loaded = self._loaded([subject for subject in chunk if not set(subject.items).isdisjoint(due)])
            random.Random(f"{self.timing.seed} again {index}").shuffle(due)
            self._time(due, loaded, "timing again what stands out")

    def _loaded(self, chunk: Iterable[_Subject]) -> dict[str, Loaded]:
        """Every item has its own: two series of one network differ by all that two tables' rows may differ by."""
        return {
            item: self.device.load(self.runtime, subject.file.read_bytes(), alone=subject.alone)
            for subject in chunk
            for item in subject.items
        }

    def _time(self, due: Sequence[str], loaded: Mapping[str, Loaded], description: str) -> None:
        timing = self.timing
        burst = Burst(warm_up=timing.warm_up_runs, runs=timing.min_runs, ms=timing.burst_ms)
        start = perf_counter()
        for item, times_ms in zip(due, self.device.time([loaded[item] for item in due], burst), strict=True):
            end = perf_counter()
            self.journal.add(item, float(np.percentile(times_ms, 25)), end - start)
            self.bar.step(description)
            start = end

    def _standing_out(self, items: Sequence[str], blocks: Iterable[str]) -> dict[str, int]:
        """Items with wide samples, and rows that contradict each other; with how many samples each has so far.

        A median is wide from three times the aim, and from twice what is usual here.
        """
        samples = self.journal.samples
        widths = {item: median_half_width_pct(undisturbed(samples[item])) for item in items}
        limit_pct = max(_WIDE * self.timing.target_pct, 2 * median(widths.values()))
        found = {item for item, width_pct in widths.items() if width_pct > limit_pct}
        for contradiction in contradictions(_row(key, samples[key]) for key in blocks):
            found |= {contradiction.key, contradiction.larger_key}
        return {item: len(samples[item]) for item in sorted(found)}


def _items(chunk: Iterable[_Subject]) -> list[str]:
    return sorted(item for subject in chunk for item in subject.items)


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
    passes = round(median([len(values) for values in series]))  # what few items were timed again for, says little
    factors = [median([values[index] for values in series if len(values) > index]) for index in range(passes)]
    return float(100 * (max(factors) - min(factors)) / median(factors))


class _Journal:
    """Samples as they are taken, one JSON line each, behind a line that says what they are of."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.samples: dict[str, list[float]] = {}
        self._again: dict[str, dict[str, int]] = {}
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

    def again(self, items: Iterable[str]) -> dict[str, int] | None:
        """What was found to stand out among these items; None: that was not yet looked for."""
        return self._again.get(_fingerprint(items))

    def time_again(self, items: Iterable[str], samples: Mapping[str, int]) -> dict[str, int]:
        """Note how many samples each item that stands out has, so that a resumed measurement takes no others again."""
        line = {"again": dict(samples), "among": _fingerprint(items)}
        self._write(line)
        self._note(line)
        return dict(samples)

    @property
    def timed_again(self) -> int:
        return len({item for samples in self._again.values() for item in samples})

    def seconds_of(self, items: Iterable[str]) -> float:
        return sum(self._seconds.get(item, 0.0) for item in items)

    def _note(self, line: Mapping[str, Any]) -> None:
        if "again" in line:
            self._again[line["among"]] = line["again"]
            return
        self.samples.setdefault(line["item"], []).append(line["ms"])
        self._seconds[line["item"]] = self._seconds.get(line["item"], 0.0) + line["seconds"]

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


def _fingerprint(items: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(items)).encode()).hexdigest()[:16]


class _Bar:
    """Counts steps for a `Progress`."""

    def __init__(self, report: Progress) -> None:
        self.report = report
        self.done = self.total = 0

    def expect(self, more: int) -> None:
        self.total = self.done + more

    def step(self, description: str) -> None:
        self.done += 1
        self.report(self.done, max(self.total, self.done), description)


def _row(key: str, samples: Sequence[float]) -> LatencyRow:
    kept = undisturbed(samples)
    low, middle, high = (float(f"{value:.5g}") for value in np.percentile(kept, (5, 50, 95)))
    return LatencyRow(key=key, median_ms=middle, p5_ms=low, p95_ms=high, n=len(kept), kind="measured")


def _whole(
    name: str, network: Candidate, rows: Mapping[str, LatencyRow], samples: Mapping[str, Sequence[float]]
) -> Whole:
    first, second = (round(median(undisturbed(samples[_network_item(name, series)])), 5) for series in (0, 1))
    return Whole.of(name, candidate_blocks(network), rows, first, second)


def _network_item(name: str, series: int) -> str:
    return f"network {json.dumps(name)} series {series}"


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


def _require_source(table: Mapping[str, Any], here: Mapping[str, Any], name: str, advice: str) -> None:
    if different := [key for key, value in here.items() if table[key] != value]:
        first = different[0]
        raise UserError(f"{name} was measured with {first} {table[first]!r}, but here it is {here[first]!r}: {advice}")


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

"""Measurements for real, on small networks: what they write, how they resume, what they refuse."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.latency.plan import random_networks
from latency_lut.calibration import Whole, calibrate, fit, student_t
from latency_lut.devices import Burst, DeviceInfo
from latency_lut.devices.host import Host
from latency_lut.measure import (
    Timing,
    check_networks,
    drift_pct,
    measure_table,
    median_half_width_pct,
    undisturbed,
)
from latency_lut.runtimes import Runtime, RuntimeInfo
from latency_lut.runtimes.onnxruntime import OnnxRuntime
from latency_lut.table import Correction, LatencyTable, NetworkCheck, edge_elements
from latency_lut.validation import contradictions
from search_space import preset
from topformer import SMALL, TINY, Candidate, Task, UserError
from topformer.blocks import Block, candidate_blocks
from topformer.version import tool_version

NETWORKS = {
    "tiny": Candidate(arch=TINY, task=Task(image_size=(64, 64))),
    "small": Candidate(arch=SMALL, task=Task(image_size=(64, 64))),
}
TINY_BLOCKS = candidate_blocks(NETWORKS["tiny"])
QUICK = Timing(burst_ms=0.1, min_passes=4, max_passes=4)  # so rows keep 2 samples
SMALL_CHUNKS = replace(QUICK, blocks_at_once=16)


class ToyRuntime:
    """Its graph is the sum of the input sizes."""

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def info(self) -> RuntimeInfo:
        return RuntimeInfo(name="toyrt", version=self.version, checksum="none", precision="float32", threads=1)

    def build(self, what: Block | Candidate) -> bytes:
        inputs = what.inputs if isinstance(what, Block) else ((3, *what.task.image_size),)
        return str(sum(channels * height * width for channels, height, width in inputs)).encode()

    def load(self, graph: bytes) -> Callable[[], None]:
        return lambda: None


class ToyDevice:
    """A block takes 1 ms for every 1000 inputs."""

    def __init__(self) -> None:
        self.runs = 0

    def info(self) -> DeviceInfo:
        return DeviceInfo(name="toy", soc="Toy SoC", core="cpu0", frequency_mhz=None, governor=None)

    def hold(self) -> nullcontext[None]:
        return nullcontext()

    def require(self, runtime: RuntimeInfo) -> None:
        pass

    def load(self, runtime: Runtime, graph: bytes, *, alone: bool) -> float:
        return int(graph) / 1000

    def time(self, graphs: Sequence[float], burst: Burst) -> Iterator[tuple[float, ...]]:
        for ms in graphs:
            self.runs += burst.runs
            yield (ms,) * burst.runs

    def conditions(self) -> Mapping[str, str | float]:
        return {"clock": "toy"}


class UnlikeRuntime:
    """Its graph says the milliseconds: a lone block pays a call of 0.05 ms and 2 ns for each element at its edges, and
    saves 1 ns for each parameter, which a network does not."""

    def __init__(self, *, noise_pct: float = 0.0) -> None:
        self.noise_pct = noise_pct

    def info(self) -> RuntimeInfo:
        return RuntimeInfo(name="unlike", version="1", checksum="none", precision="float32", threads=1)

    def build(self, what: Block | Candidate) -> bytes:
        if isinstance(what, Block):
            ms = self._within_ms(what) + 0.05 + 1e-6 * (2 * edge_elements(what) - what.parameters)
            assert ms > 0
            return str(ms).encode()
        luck = random.Random(what.key).gauss(1, self.noise_pct / 100)
        return str(0.9 * luck * sum(map(self._within_ms, candidate_blocks(what)))).encode()

    def load(self, graph: bytes) -> Callable[[], None]:
        return lambda: None

    @staticmethod
    def _within_ms(block: Block) -> float:
        return 0.02 + 4e-6 * block.parameters + 3e-6 * edge_elements(block) + 1e-6 * block.macs


class SpokenDevice(ToyDevice):
    """Takes what the graph says, and counts the bursts of each graph; `spoilt` has those that are slower at first."""

    def __init__(self, spoilt: Mapping[str, Sequence[float]] | None = None) -> None:
        super().__init__()
        self.spoilt = spoilt or {}
        self.bursts: Counter[str] = Counter()

    def load(self, runtime: Runtime, graph: bytes, *, alone: bool) -> Any:
        return graph.decode()

    def time(self, graphs: Sequence[Any], burst: Burst) -> Iterator[tuple[float, ...]]:
        for graph in graphs:
            self.bursts[graph] += 1
            factors = dict(enumerate(self.spoilt.get(graph, ()), start=1))
            yield (float(graph) * factors.get(self.bursts[graph], 1.0),) * burst.runs


def random_members(count: int, *, seed: int = 0) -> dict[str, Candidate]:
    return random_networks(preset("quickstart", task=Task(image_size=(64, 64))), count, seed=seed)


def measure(out: Path, **changes: Any) -> LatencyTable:
    settings: dict[str, Any] = {
        "blocks": TINY_BLOCKS,
        "networks": {},
        "device": ToyDevice(),
        "runtime": ToyRuntime(),
        "name": "toy",
        "timing": QUICK,
    }
    return measure_table(out=out, **(settings | changes))


def test_a_table_has_a_row_for_every_distinct_block_and_its_provenance(tmp_path: Path) -> None:
    table = measure(tmp_path / "toy.lut")
    stem = table.rows[TINY_BLOCKS[0].key]
    assert set(table.rows) == {block.key for block in TINY_BLOCKS}
    assert table.header.tool_version == tool_version()
    assert (stem.median_ms, stem.n, stem.kind) == (3 * 64 * 64 / 1000, 2, "measured")
    assert (table.header.soc, table.header.runtime, table.header.protocol["clock"]) == ("Toy SoC", "toyrt", "toy")
    assert LatencyTable.load(tmp_path / "toy.lut") == table
    assert [path.name for path in tmp_path.iterdir()] == ["toy.lut"]


class KilledError(Exception):
    pass


def kill_after(steps: int) -> Callable[[int, int, str], None]:
    taken = iter(range(steps))

    def progress(done: int, total: int, description: str) -> None:
        assert 0 < done <= total
        if description.startswith("timing") and next(taken, None) is None:
            raise KilledError

    return progress


def journalled(partial: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()[1:]]


@pytest.mark.parametrize("torn", ["", '{"item": "stem(out_cha'])
def test_a_killed_measurement_goes_on_where_it_stopped(tmp_path: Path, torn: str) -> None:
    out, partial = tmp_path / "toy.lut", tmp_path / "toy.lut.partial"
    with pytest.raises(KilledError):
        measure(out, progress=kill_after(30))
    kept = journalled(partial)
    with partial.open("a", encoding="utf-8") as file:
        file.write(torn)
    with pytest.raises(KilledError):
        measure(out, progress=kill_after(5))
    assert (len(kept), len(journalled(partial))) == (31, 37)
    assert journalled(partial)[:31] == kept
    table = measure(out)
    assert {row.n for row in table.rows.values()} == {2}
    assert not partial.exists()


def test_samples_of_a_killed_measurement_are_in_the_table(tmp_path: Path) -> None:
    out, partial = tmp_path / "toy.lut", tmp_path / "toy.lut.partial"
    with pytest.raises(KilledError):
        measure(out, progress=kill_after(2 * len({block.key for block in TINY_BLOCKS}) - 1))
    text = partial.read_text(encoding="utf-8")
    partial.write_text(text.replace('"ms": 12.288', '"ms": 9.0'), encoding="utf-8")  # the stem, in two passes of four
    assert measure(out).rows[TINY_BLOCKS[0].key].median_ms == 9


def test_a_partial_measurement_of_another_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        measure(tmp_path / "toy.lut", progress=kill_after(3))
    with pytest.raises(UserError, match=r"toy.lut.partial is an unfinished measurement .* or delete it"):
        measure(tmp_path / "toy.lut", runtime=ToyRuntime("2"))


def test_a_complete_table_is_returned_as_it_is_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    first = measure(tmp_path / "toy.lut")
    device = ToyDevice()
    again = measure(tmp_path / "toy.lut", device=device, progress=lambda _done, _total, what: said.append(what))
    assert again == first
    assert device.runs == 0
    assert "nothing to measure" in said[-1]


def test_a_table_is_extended_by_the_rows_it_lacks(tmp_path: Path) -> None:
    few = measure(tmp_path / "toy.lut", blocks=TINY_BLOCKS[:4])
    device = ToyDevice()
    more = measure(tmp_path / "toy.lut", blocks=TINY_BLOCKS[2:6], device=device)
    assert few.rows.items() <= more.rows.items()
    assert len(more.rows) == 6
    assert device.runs == 2 * 4 * 3  # two rows, four bursts of three timed runs


def test_a_table_of_another_source_is_not_extended(tmp_path: Path) -> None:
    measure(tmp_path / "toy.lut", blocks=TINY_BLOCKS[:4])
    with pytest.raises(UserError, match="runtime_version '1', but here it is '2'"):
        measure(tmp_path / "toy.lut", runtime=ToyRuntime("2"))


def test_networks_are_timed_twice_and_calibrate_the_table(tmp_path: Path) -> None:
    table = measure(tmp_path / "toy.lut", blocks=(), networks=NETWORKS)
    tiny = table.header.validation[0]
    assert table.header.error_model.correction == Correction()  # two networks cannot tell
    rows_ms = sum(sum(c * h * w for c, h, w in block.inputs) for block in TINY_BLOCKS) / 1000
    assert (tiny.name, tiny.whole_ms, tiny.repeat_ms) == ("tiny", 12.288, 12.288)
    assert tiny.sum_ms == pytest.approx(rows_ms, rel=1e-4)
    assert table.validated


def test_networks_alone_are_compared_with_a_complete_table(tmp_path: Path) -> None:
    bare = measure(tmp_path / "toy.lut", blocks=[b for net in NETWORKS.values() for b in candidate_blocks(net)])
    table = measure(tmp_path / "toy.lut", blocks=(), networks=NETWORKS)
    assert (bare.validated, table.validated) == (False, True)
    assert table.rows == bare.rows


def test_an_extension_without_networks_keeps_the_validation(tmp_path: Path) -> None:
    first = measure(tmp_path / "toy.lut", blocks=(), networks=NETWORKS)
    other = candidate_blocks(Candidate(arch=TINY, task=Task(image_size=(96, 96))))
    more = measure(tmp_path / "toy.lut", blocks=other)
    assert more.header.validation == first.header.validation
    assert more.header.error_model == first.header.error_model
    assert len(more.rows) > len(first.rows)


def test_blocks_beyond_a_chunk_are_measured_in_the_next(tmp_path: Path) -> None:
    timing = replace(QUICK, blocks_at_once=7)
    table = measure(tmp_path / "toy.lut", networks=NETWORKS, timing=timing)
    assert {row.n for row in table.rows.values()} == {2}


def test_a_network_is_timed_in_one_chunk_only(tmp_path: Path) -> None:
    device, runtime = SpokenDevice(), UnlikeRuntime()
    networks = random_members(10)
    measure(tmp_path / "toy.lut", blocks=(), networks=networks, device=device, runtime=runtime, timing=SMALL_CHUNKS)
    assert {device.bursts[runtime.build(network).decode()] for network in networks.values()} == {2 * QUICK.max_passes}


def test_what_a_lone_block_pays_is_found_from_whole_networks(tmp_path: Path) -> None:
    held_out = random_members(30, seed=1)
    calibrating = {name: net for name, net in random_members(12).items() if name not in held_out}
    table = measure(
        tmp_path / "toy.lut",
        blocks=(),
        networks=calibrating,
        held_out=held_out,
        device=SpokenDevice(),
        runtime=UnlikeRuntime(),
    )
    model = table.header.error_model
    found = model.correction
    assert (found.block_ms, found.edge_ns, found.weight_ns) == pytest.approx((0.05, 2, 1), rel=0.03)
    assert model.scale == pytest.approx(0.9, rel=1e-3)
    for network in held_out.values():
        whole_ms = float(UnlikeRuntime().build(network))
        assert table.estimate(candidate_blocks(network)).total_ms == pytest.approx(whole_ms, rel=1e-3)


def test_rows_stay_as_measured_so_that_an_extended_table_is_fitted_anew(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"device": SpokenDevice(), "runtime": UnlikeRuntime(), "blocks": ()}
    few = measure(tmp_path / "toy.lut", networks=random_members(3), **settings)
    more = measure(tmp_path / "toy.lut", networks=random_members(14), **settings)
    at_once = measure(tmp_path / "other.lut", networks=random_members(14), **settings)
    assert few.rows.items() <= more.rows.items()
    assert few.header.error_model != more.header.error_model == at_once.header.error_model


def test_nine_in_ten_networks_held_out_are_inside_their_interval(tmp_path: Path) -> None:
    every = random_members(215)
    names = list(every)
    table = measure(
        tmp_path / "toy.lut",
        blocks=(),
        networks={name: every[name] for name in names[:15]},
        held_out={name: every[name] for name in names[15:]},
        device=SpokenDevice(),
        runtime=UnlikeRuntime(noise_pct=2),
    )
    estimates = {name: table.estimate(candidate_blocks(every[name])) for name in names[15:]}
    checks = {check.name: check for check in table.header.validation if check.name in estimates}
    inside = sum(each.low_ms <= checks[name].reference_ms <= each.high_ms for name, each in estimates.items())
    assert 170 <= inside <= 199  # 200 times 0.9 is 180; one calibration may be lucky or not
    assert all(checks[name].unseen_ms == pytest.approx(each.total_ms, abs=1e-4) for name, each in estimates.items())


@pytest.mark.parametrize("networks", [9, 15, 24, 60])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_wide_enough_for_nine_in_ten_networks_left_out(networks: int, seed: int) -> None:
    rng = random.Random(seed)
    times = [1 + 0.02 * rng.choice([rng.gauss(0, 1), rng.gauss(0, 6)]) for _ in range(networks)]  # with a heavy tail
    model, checks = fit([whole(ms) for ms in times])
    assert model.scale_pct is not None
    half = math.hypot(model.scale_pct, model.row_pct) / 100
    inside = [abs(check.reference_ms / (check.unseen_ms or 0.0) - 1) <= half * 1.0001 for check in checks]
    assert sum(inside) >= 0.9 * (networks + 1)


def test_too_few_networks_for_an_error_that_one_in_ten_exceeds_are_left_to_student_t() -> None:
    ones = [whole(1.0)] * 7 + [whole(1.3)]
    model, checks = fit(ones)
    plain = calibrate(checks, [{"stem": 1.0}] * 8)
    assert (model.scale_pct, model.row_pct) == (plain.scale_pct, plain.row_pct)


def test_a_calibrating_network_is_also_predicted_from_the_others() -> None:
    ones = [whole(1.0), whole(1.0), whole(1.0), whole(1.3)]
    _, checks = fit(ones)
    assert [each.unseen_ms for each in checks] == pytest.approx([1.1, 1.1, 1.1, 1.0])


def whole(whole_ms: float) -> Whole:
    one = np.array([1.0])
    return Whole(name="n", whole_ms=whole_ms, repeat_ms=whole_ms, keys=("stem",), alone_ms=one, edges=one, weights=one)


def test_a_row_that_a_larger_one_contradicts_is_timed_again(tmp_path: Path) -> None:
    runtime = UnlikeRuntime()
    row = TINY_BLOCKS[2]
    graph = runtime.build(row).decode()
    device = SpokenDevice({graph: [50.0] * QUICK.max_passes})
    table = measure(
        tmp_path / "toy.lut", blocks=(), networks=random_members(6), device=device, runtime=runtime, timing=SMALL_CHUNKS
    )
    assert table.rows[row.key].median_ms == pytest.approx(float(graph), rel=1e-4)
    assert device.bursts[graph] == QUICK.max_passes + QUICK.again_passes
    assert table.header.protocol["contradictions"] == 0


def test_a_contradiction_that_stays_is_counted(tmp_path: Path) -> None:
    graph = UnlikeRuntime().build(TINY_BLOCKS[2]).decode()
    device = SpokenDevice({graph: [50.0] * 100})
    table = measure(tmp_path / "toy.lut", blocks=(), networks=random_members(6), device=device, runtime=UnlikeRuntime())
    assert [each.key for each in contradictions(table.rows.values())] == [TINY_BLOCKS[2].key]
    assert table.header.protocol["contradictions"] == 1
    assert table.header.protocol["timed_again"] == 2  # and the larger row beside it


def test_a_row_with_wide_samples_is_timed_again(tmp_path: Path) -> None:
    graph = UnlikeRuntime().build(TINY_BLOCKS[0]).decode()
    device = SpokenDevice({graph: [1.0, 3.0, 2.0, 4.0]})
    table = measure(tmp_path / "toy.lut", device=device, runtime=UnlikeRuntime())
    assert table.rows[TINY_BLOCKS[0].key].median_ms == pytest.approx(float(graph), rel=1e-4)
    assert (device.bursts[graph], table.header.protocol["timed_again"]) == (6, 1)


@pytest.mark.parametrize("steps", [1, 100, 190, 215, 225])
def test_a_killed_measurement_ends_with_the_table_of_one_that_was_not(tmp_path: Path, steps: int) -> None:
    graphs = sorted({UnlikeRuntime().build(block).decode() for block in TINY_BLOCKS})
    luck = random.Random(0)
    spoilt = {graph: [luck.choice([1.0, 1.1, 2.0]) for _ in range(20)] for graph in graphs}
    settings: dict[str, Any] = {"networks": random_members(2), "runtime": UnlikeRuntime(), "timing": SMALL_CHUNKS}
    settings |= {"held_out": {"tiny": NETWORKS["tiny"]}}
    steady = measure(tmp_path / "steady.lut", device=SpokenDevice(spoilt), **settings)
    device = SpokenDevice(spoilt)
    with pytest.raises(KilledError):
        measure(tmp_path / "killed.lut", device=device, progress=kill_after(steps), **settings)
    resumed = measure(tmp_path / "killed.lut", device=device, **settings)
    assert resumed.rows == steady.rows
    assert resumed.header.validation == steady.header.validation
    assert resumed.header.protocol["timed_again"] == steady.header.protocol["timed_again"] > 0


def test_fresh_networks_are_compared_and_the_table_stays(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"device": SpokenDevice(), "runtime": UnlikeRuntime()}
    out, partial = tmp_path / "toy.lut", tmp_path / "toy.partial"
    every, calibrating = random_members(20), random_members(12)
    blocks = [block for net in every.values() for block in candidate_blocks(net)]
    table = measure(out, blocks=blocks, networks=calibrating, **settings)
    before = out.read_bytes()
    fresh = {name: net for name, net in every.items() if name not in calibrating}
    with pytest.raises(KilledError):
        check_networks(table, fresh, partial=partial, timing=QUICK, progress=kill_after(9), **settings)
    checks = check_networks(table, fresh, partial=partial, timing=QUICK, **settings)
    assert [check.name for check in checks] == list(fresh)
    assert all(check.unseen_ms == pytest.approx(check.whole_ms, rel=1e-3) for check in checks)
    assert (out.read_bytes(), sorted(path.name for path in tmp_path.iterdir())) == (before, ["toy.lut"])


def test_fresh_networks_are_compared_on_the_tables_own_device_only(tmp_path: Path) -> None:
    table = measure(tmp_path / "toy.lut")
    with pytest.raises(UserError, match=r"toy was measured with runtime_version '1', but here it is '2': it can be"):
        check_networks(
            table, NETWORKS, device=ToyDevice(), runtime=ToyRuntime("2"), partial=tmp_path / "p", timing=QUICK
        )


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no blocks and no networks"):
        measure(tmp_path / "toy.lut", blocks=())


@pytest.mark.parametrize("wrong", [{"burst_ms": 0}, {"min_passes": 0}, {"max_passes": 2}, {"warm_up_runs": -1}])
def test_timing_that_times_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="timing: "):
        Timing(**wrong)


def test_the_error_model_is_the_prediction_interval_of_one_more_network() -> None:
    wholes = (80.0, 100.0, 90.0)
    checks = [NetworkCheck(name="n", whole_ms=ms, repeat_ms=ms, sum_ms=100) for ms in wholes]
    model = calibrate(checks, [{"stem": 2.0, "head": 2.0}] * 3)
    spread_pct = 100 * 2.9200 * (10 / 90)  # Student's t with 2 degrees; deviations are -1/9, 1/9 and 0
    assert model.scale == 0.9
    assert model.scale_pct == pytest.approx(spread_pct / 3**0.5, rel=1e-4)
    assert model.row_pct == pytest.approx(spread_pct * 2**0.5, rel=1e-4)  # two equal rows


def test_one_network_calibrates_nothing() -> None:
    check = NetworkCheck(name="n", whole_ms=1, repeat_ms=1, sum_ms=1)
    assert calibrate([check], [{"stem": 1.0}]).scale_pct is None


@pytest.mark.parametrize(("degrees", "printed"), [(1, 6.314), (2, 2.920), (7, 1.895), (11, 1.796), (30, 1.697)])
def test_student_t_is_the_one_of_the_textbooks(degrees: int, printed: float) -> None:
    assert round(student_t(degrees), 3) == printed


def test_the_slower_half_of_the_samples_is_left_out() -> None:
    assert undisturbed([5, 1, 9, 2, 8]) == [1, 2, 5]
    assert undisturbed([3]) == [3]


def test_the_interval_of_a_median_covers_nine_times_in_ten() -> None:
    random_numbers = random.Random(0)

    def covers(n: int) -> bool:
        samples = [random_numbers.gauss(100, 1) for _ in range(n)]
        return abs(np.median(samples) - 100) <= median_half_width_pct(samples)

    assert sum(covers(12) for _ in range(2000)) >= 1750
    assert median_half_width_pct([9, 10, 11]) == 10  # under five samples the whole range


@pytest.mark.parametrize(
    ("samples", "expected"), [([[1, 1], [5, 5]], 0), ([[1.0, 1.2], [10, 12]], 200 / 11), ([[1, 1, 1], [2, 2]], 0)]
)
def test_drift_is_what_all_items_have_in_common(samples: Sequence[Sequence[float]], expected: float) -> None:
    assert drift_pct(samples) == pytest.approx(expected)


@pytest.mark.slow
def test_the_blocks_of_tiny_are_timed_on_this_machine(tmp_path: Path) -> None:
    table = measure(
        tmp_path / "host.lut",
        networks=NETWORKS,
        device=Host(),
        runtime=OnnxRuntime(),
        timing=Timing(seconds_per_item=0.01),
    )
    estimate = table.estimate(TINY_BLOCKS)
    assert estimate.kind == "measured"
    assert estimate.low_ms < estimate.total_ms < estimate.high_ms
    assert all(
        abs(check.error_pct) < 200 for check in table.header.validation
    )  # a unit error would be a factor of 1000
    assert table.estimate(candidate_blocks(NETWORKS["small"])).total_ms > estimate.total_ms


def test_seeds_make_two_measurements_time_in_one_order(tmp_path: Path) -> None:
    def items(name: str) -> list[str]:
        with pytest.raises(KilledError):
            measure(tmp_path / name, progress=kill_after(40))
        return [line["item"] for line in journalled(tmp_path / f"{name}.partial")]

    first, second = items("a.lut"), items("b.lut")
    keys = list({block.key: block for block in TINY_BLOCKS})
    assert first == second
    assert first[: len(keys)] != keys  # not in the network's order


def test_a_block_is_timed_once_however_often_it_occurs(tmp_path: Path) -> None:
    block: Block = TINY_BLOCKS[0]
    assert len(measure(tmp_path / "toy.lut", blocks=(block, block, block)).rows) == 1

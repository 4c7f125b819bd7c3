"""The shipped Snapdragon 865 table: what it covers, how well it fits, and that it can be made again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from evaluators.compiled import CompiledTable
from experiments.latency.plan import Plan
from experiments.latency.shipped import (
    ANCHOR_SIZES,
    estimate,
    needed_first,
    recount,
    refit,
    shipped_blocks,
    shipped_counts,
    shipped_path,
)
from latency_lut import tables
from latency_lut.counting import SUFFIX, CountTable, counting_seconds, not_counted
from latency_lut.devices.qemu import QEMU
from latency_lut.estimate import ALTERNATIVES, SNAPDRAGON_865, estimated_table, fit
from latency_lut.table import LatencyTable, find_table
from search_space import blocks, preset
from topformer import ANCHORS, TINY, Candidate, Task, UserError
from topformer.blocks import candidate_blocks, decompose
from topformer.progress import silent
from topformer.published import PUBLISHED

missing = [name for name in (QEMU, "cc") if not shutil.which(name)]
missing += [name for name in ("ziglang", "unearth") if not find_spec(name)]
needs_qemu = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

PUBLISHED_MS = [(name, side, ms) for name, figures in PUBLISHED.items() for side, ms in figures.latency_ms.items()]


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return find_table(tables.SNAPDRAGON_865)


@pytest.fixture(scope="module")
def counts() -> CountTable:
    return shipped_counts()


def test_the_shipped_table_is_made_again_byte_for_byte() -> None:
    made = refit()
    assert made.identical
    assert made.table.text == shipped_path(".lut").read_text(encoding="utf-8")
    assert made.report == json.loads(shipped_path(".fit.json").read_text(encoding="utf-8"))


def test_another_count_makes_another_table(counts: CountTable) -> None:
    key, row = next((key, row) for key, row in counts.rows.items() if key.startswith("stem"))
    other = dataclasses.replace(counts, rows={**counts.rows, key: row + row})
    assert estimated_table(other).text != estimated_table(counts).text


@pytest.mark.parametrize(("name", "side", "published_ms"), PUBLISHED_MS)
def test_published_latencies_are_within_5_percent(
    table: LatencyTable, name: str, side: int, published_ms: float
) -> None:
    estimated = table.estimate(decompose(ANCHORS[name], Task(image_size=(side, side))))
    assert estimated.total_ms == pytest.approx(published_ms, rel=0.05)
    assert estimated.low_ms < published_ms < estimated.high_ms
    assert estimated.kind == "estimated"
    assert "scaled to 4 published latencies" in estimated.interval_note


def test_published_latencies_are_within_6_percent_of_a_fit_to_the_others(counts: CountTable) -> None:
    assert all(abs(anchor.left_out_error_pct) < 6 for anchor in fit(counts.rows).anchors)


def test_a_left_out_anchor_has_no_part_in_its_own_scale(counts: CountTable) -> None:
    first, *others = fit(counts.rows).anchors
    scale = sum(other.published_ms / other.unfitted_ms for other in others) / 3
    assert first.left_out_ms == pytest.approx(scale * first.unfitted_ms)


def test_the_semantics_extractor_has_about_a_tenth_of_tiny(table: LatencyTable) -> None:
    network = decompose(TINY, Task())
    by_block = table.estimate(network).by_block
    extractor = sum(ms for block, (_, ms) in zip(network, by_block, strict=True) if block.module == "transformer")
    assert 0.06 < extractor / sum(ms for _, ms in by_block) < 0.13


@pytest.mark.parametrize("name", ["quickstart", "pyramid"])
@pytest.mark.parametrize("classes", [59, 150])
def test_both_presets_are_covered_wholly(table: LatencyTable, name: str, classes: int) -> None:
    task = Task(num_classes=classes, output="labels")
    assert table.coverage(blocks(preset(name, task=task))) == 1


@pytest.mark.parametrize("size", ANCHOR_SIZES)
@pytest.mark.parametrize("classes", [19, 59, 60, 150, 171])
def test_anchors_are_covered_with_their_post_processing(
    table: LatencyTable, size: tuple[int, int], classes: int
) -> None:
    task = Task(image_size=size, num_classes=classes, output="labels")
    assert all(table.coverage(decompose(arch, task)) == 1 for arch in ANCHORS.values())


def test_the_table_has_what_its_plan_says_and_nothing_else(table: LatencyTable, counts: CountTable) -> None:
    keys = {block.key for block in shipped_blocks()}
    assert table.rows.keys() == counts.rows.keys() == keys


def test_a_compiled_space_gives_the_same_latencies(table: LatencyTable) -> None:
    space = preset("quickstart", task=Task())
    compiled = CompiledTable(table, space)
    candidate = Candidate(arch=ANCHORS["small"], task=Task())
    ms = compiled.estimate_ms(compiled.encode([space.encode(candidate)]))
    assert ms[0] == pytest.approx(table.estimate(candidate_blocks(candidate)).total_ms, rel=1e-9)


def test_every_alternative_core_model_fits_the_anchors_too(counts: CountTable) -> None:
    for model in ALTERNATIVES.values():
        assert all(abs(anchor.error_pct) < 6 for anchor in fit(counts.rows, model).anchors)


def test_rows_are_the_core_model_of_their_counts(table: LatencyTable, counts: CountTable) -> None:
    for key, row in table.rows.items():
        assert row.median_ms == pytest.approx(SNAPDRAGON_865.milliseconds(counts.rows[key]), rel=1e-4)
        assert row.p5_ms < row.median_ms < row.p95_ms


@needs_qemu
@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("sample", [6, pytest.param(60, marks=pytest.mark.thorough)])
def test_rows_counted_again_are_the_shipped_ones(tmp_path: Path, sample: int) -> None:
    again = recount(tmp_path / "again.counts.gz", sample=sample, seed=3, report=silent)
    assert (again.rows, again.different) == (sample, {})


@needs_qemu
@pytest.mark.qemu
@pytest.mark.slow
def test_rows_that_are_not_shipped_are_counted_into_a_table_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: LatencyTable
) -> None:
    monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(tmp_path))
    task = Task(image_size=(64, 64), num_classes=5)
    small = (decompose(ANCHORS["small"], task)[1], *decompose(TINY, task))
    wanted = Plan(blocks=small, networks={"tiny": Candidate(arch=TINY, task=task)})
    steps: list[tuple[int, int]] = []
    made = estimate(wanted, tmp_path / "mine.lut", report=lambda done, total, _: steps.append((done, total)))
    assert steps[:-1] == [(done, len(steps) - 1) for done in range(1, len(steps))]
    assert find_table("mine").coverage(small) == 1
    assert made.rows.keys() > table.rows.keys()
    assert set(CountTable.load(tmp_path / f"mine{SUFFIX}").rows) == {block.key for block in small}
    assert made.header.error_model.scale == table.header.error_model.scale


class ToldError(Exception):
    """Ends what would go on for an hour."""


def test_it_is_said_how_much_there_is_to_count_before_that_begins(tmp_path: Path) -> None:
    def tell(sentence: str) -> None:
        raise ToldError(sentence)

    space = preset("quickstart", task=Task(image_size=(384, 512), num_classes=11))
    wanted = Plan(blocks=blocks(space), networks={})
    rows = len({block.key for block in wanted.blocks})
    with pytest.raises(ToldError, match=rf"^{rows:,} of {rows:,} rows are to be counted, about \d+ (s|min)") as told:
        estimate(wanted, tmp_path / "mine.lut", say=tell, report=silent)
    assert "at 384x384, 448x448, 512x512 px, T, S and B also at 480x480, 512x1024" in str(told.value)
    assert not list(tmp_path.iterdir())


def test_what_is_counted_already_is_not_announced(tmp_path: Path, counts: CountTable) -> None:
    network = decompose(TINY, Task(image_size=(384, 512)))
    partial = tmp_path / "mine.counts.gz.partial"
    partial.write_text(f"source\n{network[0].key}\t1\n{network[1].key[:-3]}")
    assert not_counted(network, out=tmp_path / "mine.counts.gz", known=counts)[0] == network[1]
    assert not_counted(decompose(TINY, Task()), out=tmp_path / "mine.counts.gz", known=counts) == ()


def test_the_rows_of_the_anchors_are_counted_first() -> None:
    task = Task(image_size=(384, 512))
    tiny, small = (candidate_blocks(Candidate(arch=ANCHORS[name], task=task)) for name in ("tiny", "small"))
    networks = {"small": Candidate(arch=ANCHORS["small"], task=task)}
    both = tuple({block.key: block for block in (*tiny, *small)}.values())
    first, rest = needed_first(Plan(blocks=both, networks=networks), both)
    assert {block.key for block in first} == {block.key for block in small}
    assert {block.key for block in rest} == {block.key for block in tiny} - {block.key for block in small}


def test_the_time_that_counting_takes_grows_with_the_work() -> None:
    small, large = (decompose(TINY, Task(image_size=(side, side))) for side in (256, 512))
    assert counting_seconds(small) < counting_seconds(large) < 4 * counting_seconds(small)


def test_an_impossible_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sample must be from 1 to"):
        recount(tmp_path / "again.counts.gz", sample=0, seed=0, report=silent)

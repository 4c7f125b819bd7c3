"""The compiled table: equal to the scalar one for every candidate of every kind of space, and complete or refused."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluators.compiled import CompiledTable
from latency_lut.table import Correction, ErrorModel, LatencyRow, LatencyTable, MissingRows
from search_space import SearchSpace, blocks, preset
from tests.support.toys import TOY_HEADER
from topformer import ANCHORS, BASE, SMALL, Candidate, Task, UserError
from topformer.blocks import candidate_blocks

TASK = Task(image_size=(64, 64), num_classes=7)


def table_of(space: SearchSpace, *, drop: int = 0) -> LatencyTable:
    """Every row has a time of its own, so that a wrong look-up cannot hide."""
    rng = random.Random(0)
    rows = []
    for block in blocks(space):
        ms = rng.uniform(0.01, 1)
        rows.append(LatencyRow(key=block.key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=0, kind="estimated"))
    correction = Correction(block_ms=0.01, edge_ns=0.3, weight_ns=0.7)
    header = replace(TOY_HEADER, name="random", error_model=ErrorModel(scale=0.9, correction=correction))
    return LatencyTable.of(header, rows[: len(rows) - drop])


def space_over(base: Any, **knobs: list[int] | list[str]) -> SearchSpace:
    values = {"name": "mine", "base": base if isinstance(base, str) else base.as_dict(), "knobs": knobs}
    return SearchSpace.from_dict(values, task=TASK, where="test")


SPACES = {
    "quickstart": preset("quickstart", task=TASK),
    "pyramid": preset("pyramid", task=TASK),
    "no knob of the widths": space_over("tiny", num_heads=[2, 4], injected_strides=["8-16-32", "4", "16-32"]),
    "rows and depths": space_over(
        "base", width_8=[32, 64], depth_8=[1, 2, 4], kernel_8_2=[3, 5], expand_8_3=[2, 3], image_size=[64, 96]
    ),
    "sum head": space_over(BASE.replace(head="sum"), width_16=[64, 128], injection_channels=[64, 128]),
    "last token": space_over(
        SMALL.replace(token_source="last"), width_32=[64, 128], width_4=[16, 24], num_blocks=[1, 3]
    ),
    "pyramid pooling": space_over(SMALL.replace(extractor="ppm"), width_32=[64, 128], token_stride=[32, 64]),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "pyramid" else []) for name in SPACES]
)
def test_columns_cost_what_the_scalar_path_says(name: str) -> None:
    space = SPACES[name]
    table = table_of(space)
    compiled = CompiledTable(table, space)
    rng = random.Random(1)
    candidates = [space.sample(rng) for _ in range(200)]
    fast = compiled.estimate_ms(compiled.encode([space.encode(candidate) for candidate in candidates]))
    slow = [table.estimate(candidate_blocks(candidate)).total_ms for candidate in candidates]
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


def test_sampled_columns_are_uniform_over_distinct_candidates() -> None:
    space = space_over("base", depth_8=[1, 2], kernel_8_1=[3, 5, 7])
    columns = CompiledTable(table_of(space), space).sample(40_000, np.random.default_rng(0))
    assert space.size == 4
    assert abs(float((columns["depth_8"] == 0).mean()) - 1 / 4) < 0.01


def test_an_exhaustive_scan_counts_every_candidate_once() -> None:
    space = SPACES["rows and depths"]
    table = table_of(space)
    compiled = CompiledTable(table, space)
    latencies = [table.estimate(candidate_blocks(candidate)).total_ms for candidate in space.candidates()]
    budget = float(np.median(latencies))
    expected = sum(ms <= budget for ms in latencies) / space.size
    fitting = np.concatenate([compiled.estimate_ms(columns) <= budget for columns in compiled.every()])
    assert fitting.mean() == pytest.approx(expected, abs=1.5 / space.size)


@pytest.mark.slow
def test_the_full_space_is_sampled_not_enumerated() -> None:
    compiled = CompiledTable(table_of(SPACES["pyramid"]), SPACES["pyramid"])
    with pytest.raises(UserError, match="too many to go through"):
        next(compiled.every())


def test_savings_are_single_changes_and_exact() -> None:
    space = SPACES["quickstart"]
    table = table_of(space)
    base = Candidate(arch=ANCHORS["base"], task=TASK)
    total = table.estimate(candidate_blocks(base)).total_ms
    savings = CompiledTable(table, space).savings(base, least_ms=0.1)
    assert savings
    assert [s.saved.delta_ms for s in savings] == sorted((s.saved.delta_ms for s in savings), reverse=True)
    for saving in savings:
        after = table.estimate(candidate_blocks(saving.candidate)).total_ms
        assert saving.saved.delta_ms == pytest.approx(total - after)
        assert saving.saved.delta_ms > 0.1
        assert (
            space.encode(saving.candidate)[saving.knob] == saving.new != space.encode(base)[saving.knob] == saving.old
        )


def test_a_table_without_a_row_is_refused_with_the_blocks() -> None:
    space = SPACES["quickstart"]
    with pytest.raises(MissingRows) as error:
        CompiledTable(table_of(space, drop=3), space)
    assert {block.key for block in error.value.blocks} <= {block.key for block in blocks(space)[-3:]}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda columns: columns.pop("num_heads"), "column 'num_heads' of search space 'quickstart' is missing"),
        (lambda columns: columns.update(num_heads=columns["num_heads"] + 3), "choice indices from 0 to 2"),
        (lambda columns: columns.update(num_heads=columns["num_heads"][:-1]), "'num_heads' must have 5"),
    ],
)
def test_wrong_columns_are_refused(change: Any, fragment: str) -> None:
    compiled = CompiledTable(table_of(SPACES["quickstart"]), SPACES["quickstart"])
    columns = compiled.sample(5, np.random.default_rng(0))
    change(columns)
    with pytest.raises(UserError, match=fragment):
        compiled.estimate_ms(columns)

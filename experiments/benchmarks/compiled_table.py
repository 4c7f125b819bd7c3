"""How fast are latency queries, one by one and vectorised? `python experiments/benchmarks/compiled_table.py [--json]`

Speed does not depend on the times in a table, so the rows are made up (and the table is never saved): one per block of
the `pyramid` space at 512x512. Times are CPU time of this one thread, median of several repeats.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from evaluators.compiled import CompiledTable
from latency_lut.devices.host import cpu_model
from latency_lut.table import LatencyRow, LatencyTable, TableHeader
from search_space import blocks, preset
from topformer.blocks import candidate_blocks
from topformer.config import Task

CANDIDATES = 1_000_000
REPEATS = 7


def main() -> None:
    space = preset("pyramid", task=Task())
    rng = random.Random(0)
    table = LatencyTable.of(_HEADER, [_row(block.key, rng.uniform(0.01, 1)) for block in blocks(space)])
    started = time.process_time()
    compiled = CompiledTable(table, space)
    compile_s = time.process_time() - started
    columns = compiled.sample(CANDIDATES, np.random.default_rng(0))
    vectorised_s = repeated(lambda: compiled.estimate_ms(columns), REPEATS)
    network = candidate_blocks(space.sample(rng))
    scalar_s = repeated(lambda: table.estimate(network), 2000)
    candidates = [space.sample(rng) for _ in range(1000)]
    fast = compiled.estimate_ms(compiled.encode([space.encode(candidate) for candidate in candidates]))
    slow = np.array([table.estimate(candidate_blocks(candidate)).total_ms for candidate in candidates])
    findings = {
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "table_rows": len(table.rows),
        "compile_s": round(compile_s, 2),
        "vectorised_million_per_s": round(CANDIDATES / vectorised_s / 1e6, 2),
        "one_query_us": round(1e6 * scalar_s, 1),
        "greatest_relative_difference": float(np.abs(fast / slow - 1).max()),
    }
    print(
        json.dumps(findings, indent=2) if "--json" in sys.argv else "\n".join(f"{k}: {v}" for k, v in findings.items())
    )


def repeated(call: Callable[[], object], times: int) -> float:
    """Median CPU seconds of a call."""
    spent = []
    for _ in range(times):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return median(spent)


def _row(key: str, ms: float) -> LatencyRow:
    return LatencyRow(key=key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=0, kind="estimated")


_HEADER = TableHeader(
    name="made-up",
    device="none",
    soc="none",
    core="none",
    frequency_mhz=None,
    governor=None,
    threads=1,
    precision="none",
    runtime="none",
    runtime_version="0",
    runtime_checksum="0",
    protocol={},
    tool_version="0",
    date="2026-11-21",
)

if __name__ == "__main__":
    main()

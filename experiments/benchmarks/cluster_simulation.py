"""How busy are 8 to 4,096 workers? `python experiments/benchmarks/cluster_simulation.py OUT.json OUT.png`

A discrete-event simulation, for this machine has two cores. Evaluations take what the records of the trust report say
that `proxy-short` takes, drawn at random; the driver does one thing at a time: it proposes (the sampler's seconds),
hands out and records (the milliseconds a trial that `overhead.py` measured on Ray). Two schedules: batches, of one, two
or four evaluations a worker, each ending before the next is proposed; and asynchronously, batches of eight as soon as a
worker is idle.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl

from experiments.benchmarks.evidence import keep
from experiments.store.lease import RENEWAL_S

RESULTS = Path(__file__).parents[1] / "results"
WORKERS = tuple(2**power for power in range(3, 13))
TRIALS_A_WORKER = 16
FIDELITY = "proxy-short"
COLUMNS = {"batches of 1 a worker": 1, "batches of 2 a worker": 2, "batches of 4 a worker": 4, "asynchronous": 0}
ASYNCHRONOUS_BATCH = 8
TRANSACTIONS_A_BATCH = 7
"""What is known of it, its proposals, weights that go, and four readings for what is told; a trial takes one."""


def measured_seconds() -> list[float]:
    lines = (RESULTS / "trust" / "records.jsonl").read_text().splitlines()
    records = (json.loads(line) for line in lines)
    return [one["metrics"]["cpu_seconds"] for one in records if one["fidelity"] == FIDELITY]


def simulated(
    workers: int, batch: int, seconds: Sequence[float], *, driver_s: float, sampler_s: float, seed: int
) -> dict[str, float]:
    """One study of so many trials a worker; `batch` evaluations are proposed at a time, 0 for asynchronously."""
    rng = random.Random(seed)
    trials = TRIALS_A_WORKER * workers
    clock = busy = driver = 0.0
    batches = 0
    idle, left, waiting, done = workers, trials, 0, 0
    ends: list[float] = []
    while done < trials:
        nobody_waits = not batch and waiting < idle
        if left and (nobody_waits or (not waiting and not ends)):
            size = min(left, batch or ASYNCHRONOUS_BATCH)
            clock += size * sampler_s
            driver += size * sampler_s
            left, waiting = left - size, waiting + size
            batches += 1
            continue
        if waiting and idle:
            clock += driver_s / 2  # hand one out
            driver += driver_s / 2
            waiting, idle = waiting - 1, idle - 1
            takes = rng.choice(seconds)
            busy += takes
            heapq.heappush(ends, clock + takes)
            continue
        clock = max(clock, heapq.heappop(ends)) + driver_s / 2  # record one
        driver += driver_s / 2
        idle, done = idle + 1, done + 1
    return {
        "utilisation_pct": round(100 * busy / (workers * clock), 1),
        "driver_busy_pct": round(100 * driver / clock, 1),
        "transactions_a_second": round((trials + TRANSACTIONS_A_BATCH * batches) / clock + 1 / RENEWAL_S, 1),
    }


def draw(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    chart, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, rows in found.items():
        axes.plot([int(count) for count in rows], [row["utilisation_pct"] for row in rows.values()], "o-", label=name)
    axes.set(xscale="log", xlabel="workers", ylabel="busy, %", ylim=(0, 100))
    axes.set_xticks(WORKERS, [str(count) for count in WORKERS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    chart.tight_layout()
    chart.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    seconds = measured_seconds()
    overhead = json.loads((RESULTS / "search" / "overhead.json").read_text())["ray"]
    driver_s, sampler_s = overhead["ms_a_trial"] / 1000, overhead["sampler_ms_a_trial"] / 1000
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, share in COLUMNS.items():
        found[name] = {}
        for workers in WORKERS:
            runs = [
                simulated(workers, share * workers, seconds, driver_s=driver_s, sampler_s=sampler_s, seed=seed)
                for seed in range(asked.seeds)
            ]
            found[name][str(workers)] = {key: round(mean(run[key] for run in runs), 1) for key in runs[0]}
    content = {
        "evaluation_seconds": {"count": len(seconds), "mean": round(mean(seconds), 1), "max": max(seconds)},
        "driver_ms_a_trial": 1000 * driver_s,
        "sampler_ms_a_trial": 1000 * sampler_s,
        "schedules": found,
    }
    keep(content, asked.out)
    draw(found, asked.figure)


if __name__ == "__main__":
    main()

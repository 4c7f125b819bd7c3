"""Do lone blocks do what a whole network does? `python experiments/benchmarks/whole_counts.py OUT.json [NETWORKS]`

Counts T at 448, T, S, B at 512 and random architectures of `pyramid` as whole networks under qemu, and compares the
core model's time of each with the sum of the shipped table's rows. Needs the extra `arm` and qemu-user; about 20 s for
each network.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from statistics import fmean

from experiments.latency.shipped import shipped_counts
from latency_lut.devices.qemu import NOTHING, count
from latency_lut.estimate import SNAPDRAGON_865
from latency_lut.runtimes.ncnn import candidate_network
from search_space import preset
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, Task
from topformer.published import PUBLISHED

SEED = 1


def main() -> None:
    out, networks = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    space, rng = preset("pyramid", task=Task()), random.Random(SEED)
    candidates = {
        f"{name}@{side}": Candidate(arch=ANCHORS[name], task=Task(image_size=(side, side)))
        for name, figures in PUBLISHED.items()
        for side in figures.latency_ms
    }
    candidates |= {f"random {index}": space.sample(rng) for index in range(networks)}
    rows = shipped_counts().rows
    findings = []
    errors_pct = []
    for name, candidate in candidates.items():
        blocks = candidate_blocks(candidate)
        lone = sum((rows[block.key] for block in blocks), NOTHING)
        by_block = count(candidate_network(candidate))
        whole = sum(by_block.values(), NOTHING)
        lone_ms, whole_ms = SNAPDRAGON_865.milliseconds(lone), SNAPDRAGON_865.milliseconds(whole)
        off_ms = {
            block.name: SNAPDRAGON_865.milliseconds(rows[block.key]) - SNAPDRAGON_865.milliseconds(by_block[block.name])
            for block in blocks
        }
        worst = max(off_ms, key=lambda name: abs(off_ms[name]))
        error_pct = 100 * (lone_ms / whole_ms - 1)
        errors_pct.append(abs(error_pct))
        findings.append(
            {
                "network": name,
                "arch_key": candidate.arch.key,
                "image_size": list(candidate.task.image_size),
                "whole_ms": whole_ms,
                "sum_ms": lone_ms,
                "error_pct": error_pct,
                "vector_fma_whole": whole.vector_fma,
                "vector_fma_sum": lone.vector_fma,
                "worst_block": worst,
                "worst_block_off_ms": off_ms[worst],
            }
        )
        print(f"{name}: whole {whole_ms:.2f} ms, sum of rows {lone_ms:.2f} ms ({error_pct:+.2f} %)", flush=True)
    content = {
        "seed": SEED,
        "mean_error_pct": fmean(errors_pct),
        "worst_error_pct": max(errors_pct),
        "networks": findings,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

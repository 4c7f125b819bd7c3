"""Do measured tables add up? `python experiments/benchmarks/host_table.py OUT.json [--test N] [--calibrate N]`

Measures on this machine every block of random architectures of the `pyramid` space (image sizes 384, 448 and 512), and
the architectures and the anchors T, S and B as wholes, all interleaved in one run. Some of the random ones calibrate
the table; the others and the anchors are what its sums are compared with. The table and what is timed so far are kept
beside OUT.json: killed at any moment, the same command goes on where it stopped.

With `--again TABLE.lut` nothing is timed: the networks that such a run timed are dealt anew, `--calibrate` of them to
calibrate and the rest to be predicted, `--splits` times, which says how often intervals hold what they should.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from time import monotonic

import numpy as np
import onnxruntime
import torch

from experiments.latency.plan import random_networks
from latency_lut.calibration import Whole, fit
from latency_lut.devices.host import Host, cpu_model
from latency_lut.measure import Timing, measure_table
from latency_lut.runtimes.onnxruntime import OnnxRuntime
from latency_lut.table import LatencyTable
from latency_lut.validation import agreement
from search_space import preset
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, Task

TIMING = Timing(max_passes=10, seconds_per_item=0.1)
_SAID_EVERY_S = 15


def main() -> None:
    asked = _asked()
    space = preset("pyramid", task=Task())
    if asked.again is not None:
        content = dealt_anew(LatencyTable.load(asked.again), asked.calibrate, asked.splits, asked.seed)
        _write(asked.out, {"command": shlex.join(("python", *sys.argv)), **content})
        return
    drawn = random_networks(space, asked.test + asked.calibrate, seed=asked.seed)
    names = tuple(drawn)
    calibrating = {name: drawn[name] for name in names[asked.test :]}
    tested = {name: drawn[name] for name in names[: asked.test]}
    tested |= {name: Candidate(arch=arch, task=Task()) for name, arch in ANCHORS.items()}
    torch.set_num_threads(1)
    started = monotonic()
    table = measure_table(
        (),
        networks=calibrating,
        held_out=tested,
        device=Host(),
        runtime=OnnxRuntime(),
        out=asked.out.with_suffix(".lut"),
        name=asked.out.stem,
        timing=TIMING,
        progress=_Said(),
    )
    content = {
        "command": shlex.join(("python", *sys.argv)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": asked.seed,
        "seconds": round(monotonic() - started),  # of the last start
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_1_5_15_min": os.getloadavg(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
        **report(table, tested),
        "calibrated_on": sorted(calibrating),
    }
    _write(asked.out, content)


def _write(out: Path, content: Mapping[str, object]) -> None:
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    summary = {name: value for name, value in content.items() if name not in ("networks", "calibrated_on")}
    print(json.dumps(summary, indent=1))


def dealt_anew(table: LatencyTable, calibrate: int, splits: int, seed: int) -> dict[str, object]:
    """What intervals hold of the networks that did not calibrate them, over random splits."""
    timed = {check.name: check for check in table.header.validation}
    networks = {name: Candidate(arch=arch, task=Task()) for name, arch in ANCHORS.items()}
    networks |= random_networks(preset("pyramid", task=Task()), len(timed), seed=seed)
    blocks = {name: candidate_blocks(network) for name, network in networks.items() if name in timed}
    assert len(blocks) == len(timed), "the table was measured by this script with another seed"
    wholes = [
        Whole.of(name, network, table.rows, timed[name].whole_ms, timed[name].repeat_ms)
        for name, network in blocks.items()
    ]
    rng = random.Random(f"splits {seed}")
    inside, half_widths_pct, errors_pct = [], [], []
    for _ in range(splits):
        rng.shuffle(wholes)
        model, _ = fit(wholes[:calibrate])
        calibrated = LatencyTable(header=replace(table.header, error_model=model), rows=table.rows)
        predicted = [(calibrated.estimate(blocks[each.name]), each.reference_ms) for each in wholes[calibrate:]]
        inside.append(fmean(each.low_ms <= ms <= each.high_ms for each, ms in predicted))
        half_widths_pct.append(fmean(50 * (each.high_ms - each.low_ms) / each.total_ms for each, _ in predicted))
        errors_pct.append(fmean(100 * abs(each.total_ms / ms - 1) for each, ms in predicted))
    return {
        "networks": len(wholes),
        "calibrate": calibrate,
        "splits": splits,
        "inside_interval": {"mean": fmean(inside), "deviation": stdev(inside), "each": sorted(inside)},
        "mean_half_width_pct": fmean(half_widths_pct),
        "mean_error_pct": fmean(errors_pct),
    }


def report(table: LatencyTable, tested: Mapping[str, Candidate]) -> dict[str, object]:
    """Held-out networks beside the table's estimates."""
    checks = [check for check in table.header.validation if check.name in tested]
    estimates = [table.estimate(candidate_blocks(tested[check.name])) for check in checks]
    networks = [
        {
            "network": check.name,
            "image_px": tested[check.name].task.image_size,
            "whole_ms": check.whole_ms,
            "repeat_ms": check.repeat_ms,
            "sum_ms": check.sum_ms,
            "predicted_ms": estimate.total_ms,
            "low_ms": estimate.low_ms,
            "high_ms": estimate.high_ms,
            "error_pct": 100 * (estimate.total_ms / check.reference_ms - 1),
            "noise_pct": check.noise_pct,
        }
        for check, estimate in zip(checks, estimates, strict=True)
    ]
    inside = [
        estimate.low_ms <= check.reference_ms <= estimate.high_ms
        for check, estimate in zip(checks, estimates, strict=True)
    ]
    uncorrected = agreement(checks, _scaled_sums(table, tested, [check.name for check in checks]))
    return {
        "rows": len(table.rows),
        "agreement": asdict(agreement(checks, [estimate.total_ms for estimate in estimates])),
        "agreement_of_rows_with_one_scale": asdict(uncorrected),
        "interval_level": table.header.error_model.level,
        "inside_interval": fmean(inside),
        "mean_half_width_pct": fmean(50 * (each.high_ms - each.low_ms) / each.total_ms for each in estimates),
        "error_model": asdict(table.header.error_model),
        "protocol": dict(table.header.protocol),
        "networks": networks,
    }


def _scaled_sums(table: LatencyTable, tested: Mapping[str, Candidate], names: list[str]) -> list[float]:
    """Sums of rows without the correction, times the scale that suits these very networks best."""
    whole = {check.name: check.reference_ms for check in table.header.validation}
    sums = [sum(table.rows[block.key].median_ms for block in candidate_blocks(tested[name])) for name in names]
    scale = fmean(whole[name] / ms for name, ms in zip(names, sums, strict=True))
    return [scale * ms for ms in sums]


class _Said:
    """Progress as a line now and then, for a log."""

    def __init__(self) -> None:
        self.last = -float(_SAID_EVERY_S)

    def __call__(self, done: int, total: int, what: str) -> None:
        if monotonic() - self.last >= _SAID_EVERY_S or done == total:
            self.last = monotonic()
            print(f"{done} of about {total}: {what}", file=sys.stderr, flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="a .json file")
    parser.add_argument("--test", type=int, default=100, help="random architectures held out")
    parser.add_argument("--calibrate", type=int, default=60, help="random architectures to calibrate on")
    parser.add_argument("--again", type=Path, help="a .lut file of a run before: deal its networks anew, time nothing")
    parser.add_argument("--splits", type=int, default=50, help="how often they are dealt")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Small real things for the tests of studies: an evaluator that needs no training, and a table that needs no device."""

from __future__ import annotations

import functools
from pathlib import Path

from evaluators.trust import Agreement, Estimate
from experiments.search.study import StudyResult, run_study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.trust.standing import FidelityTrust, TrustReport
from latency_lut.table import LatencyRow, LatencyTable, TableHeader
from search_space import SearchSpace, blocks, preset
from tests.support.toy_evaluator import ToyEvaluator, always, is_base, is_unlucky  # noqa: F401 - tests take them from here
from topformer.config import Task

TASK = Task(image_size=(64, 64), num_classes=59)
STUDY = """
name = "toy"
[space]
preset = "quickstart"
[task]
image_size = "64x64"
num_classes = 59
[latency]
table = "toy"
[evaluator]
recipe = "proxy-short"
[search]
trials = {trials}
batch_size = 6
sampler = "{sampler}"
seed = {seed}
"""


TOY_HEADER = TableHeader(
    name="toy",
    device="toy",
    soc="none",
    core="none",
    frequency_mhz=None,
    governor=None,
    threads=1,
    precision="fp32",
    runtime="none",
    runtime_version="0",
    runtime_checksum="0",
    protocol={},
    tool_version="0",
    date="2026-11-21",
)


@functools.cache
def toy_table(space: SearchSpace | None = None, *, drop: int = 0) -> LatencyTable:
    """Estimated rows of 1 microsecond plus 1 ms a GMAC, for every block of a space (quickstart) but the last `drop`."""
    rows = [
        LatencyRow(
            key=block.key,
            median_ms=0.001 + block.macs / 1e9,
            p5_ms=0.0009 + block.macs / 1e9,
            p95_ms=0.0011 + block.macs / 1e9,
            n=0,
            kind="estimated",
        )
        for block in blocks(space or preset("quickstart", task=TASK))
    ]
    return LatencyTable.of(TOY_HEADER, rows[: len(rows) - drop])


def toy_config(*, trials: int = 14, seed: int = 0, sampler: str = "nsga2", max_ms: float | None = None) -> StudyConfig:
    text = STUDY.format(trials=trials, seed=seed, sampler=sampler)
    if max_ms is not None:
        text = text.replace('table = "toy"', f'table = "toy"\nmax_ms = {max_ms}')
    return StudyConfig.from_toml(text, where="toy.toml")


def toy_report(tau: float, *, name: str = "toy-report", evaluator: str = "toy-1") -> TrustReport:
    """One that found this Kendall tau, give or take 0.1, for an evaluator, on four architectures."""
    estimate = Estimate(value=tau, low=tau - 0.1, high=tau + 0.1)
    agreement = Agreement(count=4, kendall=estimate, spearman=estimate)
    fidelity = FidelityTrust(
        fidelity="toy",
        evaluator=evaluator,
        zero_cost=False,
        overall=agreement,
        band=None,
        regret_pct={"1": 0.5},
        band_regret_pct={},
        noise_pct=0.3,
        cpu_seconds=2.0,
        cost_share=0.1,
        above_zero_cost=None,
        far_cue_found_pct=None,
    )
    return TrustReport(
        name=name,
        created="2026-11-21T00:00:00+00:00",
        command="topformer-nas trust run",
        machine={},
        space="toy",
        image_size=[64, 64],
        num_classes=59,
        dataset="scenes",
        dataset_fingerprint="0",
        table="toy",
        seed=0,
        band_ms=1.0,
        band_low_ms=0.85,
        band_high_ms=1.15,
        reference="reference",
        reference_evaluator="1",
        reference_noise_pct=0.2,
        reference_cpu_seconds=20.0,
        reference_far_cue_found_pct=None,
        fidelities=[fidelity],
        decisions=[],
        members=[],
    )


def toy_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'toy.db'}"


def run_toy(
    folder: Path, config: StudyConfig | None = None, evaluator: ToyEvaluator | None = None, **options: object
) -> StudyResult:
    with Store.open(toy_url(folder), create=True) as store:
        return run_study(
            config or toy_config(),
            store,
            evaluator=evaluator or ToyEvaluator(),
            table=toy_table(),
            **options,  # type: ignore[arg-type]
        )


def outline(result: StudyResult) -> list[tuple[object, ...]]:
    """What must not depend on workers or interruptions."""
    return [(t.number, t.batch, t.candidate.key, t.origin, t.anchor, t.miou_pct) for t in result.trials]

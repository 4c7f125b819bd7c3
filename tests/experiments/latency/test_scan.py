"""How much of a space fits a budget: exact where it is enumerated, with an interval where it is sampled."""

from __future__ import annotations

import numpy as np
import pytest

from evaluators.compiled import CompiledTable
from experiments.latency import scan as scanning
from experiments.latency.scan import Scan, ScanPlan, scan
from search_space import PRESETS, SearchSpace
from tests.support.toys import TASK, toy_table
from topformer import UserError

KNOBS = {f"width_{stride}": PRESETS["quickstart"]["knobs"][f"width_{stride}"] for stride in (4, 8, 16, 32)}
SPACE = SearchSpace.from_dict({"name": "widths", "base": "small", "knobs": KNOBS}, task=TASK, where="test")
"""81 candidates, all with rows in the toy table."""


def silent(done: int, total: int) -> None:
    pass


def toy_scan(*, exact: bool, budget_ms: float = 25, scale_pct: float | None = None) -> Scan:
    """Latencies 1 to 100 ms."""
    latencies_ms = np.arange(1, 101, dtype=float)
    return Scan(space=SPACE, budget_ms=budget_ms, exact=exact, latencies_ms=latencies_ms, scale_pct=scale_pct)


def test_an_exact_share_has_no_interval() -> None:
    assert toy_scan(exact=True).share_interval == (0.25, 0.25)


def test_a_sampled_share_has_wilsons_interval() -> None:
    low, high = toy_scan(exact=False).share_interval
    # z = 1.645, n = 100: centre (0.25 + 0.01353) / 1.02706, half 1.645 / 1.02706 * sqrt(0.001875 + 0.0000676)
    assert (low, high) == pytest.approx((0.25659 - 0.07060, 0.25659 + 0.07060), abs=1e-4)


def test_nothing_in_a_sample_is_not_nothing_in_the_space() -> None:
    low, high = toy_scan(exact=False, budget_ms=0.5).share_interval
    assert low == 0
    assert high == pytest.approx(1.645**2 / (100 + 1.645**2), abs=1e-4)


def test_an_error_of_the_tables_scale_moves_the_share() -> None:
    assert toy_scan(exact=True, scale_pct=None).share_if_scale_is_off is None
    # all slower by 10 %: those up to 22.7 ms fit; all faster: those up to 27.8
    assert toy_scan(exact=True, scale_pct=10).share_if_scale_is_off == (0.22, 0.27)


def test_a_large_space_is_sampled_within_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = CompiledTable(toy_table(), SPACE)
    exact = scan(compiled, ScanPlan(budget_ms=1e6), report=silent)
    assert (exact.exact, exact.counted, exact.share) == (True, 81, 1)
    budget_ms = exact.quantiles_ms[25]
    monkeypatch.setattr(scanning, "MOST_ENUMERATED", 10)
    steps: list[tuple[int, int]] = []
    plan = ScanPlan(budget_ms=budget_ms, samples=70_000, seed=1)
    found = scan(compiled, plan, report=lambda done, total: steps.append((done, total)))
    assert (found.exact, found.counted, steps[-1]) == (False, 70_000, (70_000, 70_000))
    truth = np.mean(exact.latencies_ms <= budget_ms)
    low, high = found.share_interval
    assert low < truth < high
    assert high - low < 0.01


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"budget_ms": 0.0}, "budget must be a positive number of ms, not 0"),
        ({"budget_ms": float("nan")}, "budget must be a positive number of ms, not nan"),
        ({"budget_ms": 3.0, "samples": 1}, "samples must be from 100"),
        ({"budget_ms": 3.0, "seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(values: dict[str, float], fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        ScanPlan(**values)  # type: ignore[arg-type]

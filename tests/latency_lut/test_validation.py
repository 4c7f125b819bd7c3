"""Figures of agreement worked out by hand, and rows that contradict each other."""

from __future__ import annotations

import pytest

from latency_lut.table import ErrorModel, LatencyRow, NetworkCheck
from latency_lut.validation import agreement, contradictions, predicted_ms
from topformer import UserError


def check(whole_ms: float, repeat_ms: float | None) -> NetworkCheck:
    return NetworkCheck(name="n", whole_ms=whole_ms, repeat_ms=repeat_ms, sum_ms=100, unseen_ms=None)


def row(key: str, ms: float, half_ms: float = 0.0, n: int = 8) -> LatencyRow:
    return LatencyRow(key=key, median_ms=ms, p5_ms=ms - half_ms, p95_ms=ms + half_ms, n=n, kind="measured")


def mbconv(hidden: int, *, kernel: int = 3, side: int = 16) -> str:
    settings = f"in_channels=16,hidden_channels={hidden},out_channels=16,kernel={kernel},stride=1,expands=1"
    return f"inverted_residual({settings}) 16x{side}x{side}->16x{side}x{side}"


def test_agreement_is_worked_out_from_both_timings() -> None:
    found = agreement([check(99, 101), check(200, 200), check(48, 52)], [104, 188, 50])
    assert (found.mean_error_pct, found.worst_error_pct, found.bias_pct) == pytest.approx((10 / 3, 6, -2 / 3))
    assert (found.share_within_5_pct, found.share_within_10_pct) == pytest.approx((2 / 3, 1))
    assert found.noise_floor_pct == pytest.approx((2 + 0 + 8) / 3)
    assert found.kendall_tau == 1


def test_a_common_factor_is_no_error_of_the_sums() -> None:
    assert agreement([check(100, 100), check(50, 50)], [120, 60]).mean_error_scaled_pct == pytest.approx(0)
    assert agreement([check(100, 100), check(50, 50)], [121, 59]).mean_error_scaled_pct == pytest.approx(
        100 * 0.015 / 1.195
    )


def test_one_swapped_pair_of_three_leaves_a_tau_of_a_third() -> None:
    assert agreement([check(1, 1), check(2, 2), check(3, 3)], [1, 3, 2]).kendall_tau == pytest.approx(1 / 3)


def test_published_networks_have_no_noise_floor() -> None:
    assert agreement([check(100, None)], [100]).noise_floor_pct is None


def test_no_network_is_no_agreement() -> None:
    with pytest.raises(UserError, match="at least one network"):
        agreement([], [])


def test_a_network_is_predicted_without_itself_where_that_is_known() -> None:
    known = NetworkCheck(name="n", whole_ms=1, repeat_ms=1, sum_ms=2, unseen_ms=1.5)
    assert predicted_ms(known, ErrorModel(scale=0.5)) == 1.5
    assert predicted_ms(check(1, 1), ErrorModel(scale=0.5)) == 50


def test_a_row_slower_than_a_larger_one_is_found_beside_the_fastest_such() -> None:
    rows = [row(mbconv(48), 2.0), row(mbconv(64), 1.5), row(mbconv(96), 1.0), row(mbconv(128), 3.0)]
    assert contradictions(rows) == (
        (mbconv(48), mbconv(96), pytest.approx(100)),
        (mbconv(64), mbconv(96), pytest.approx(50)),
    )


def test_blocks_that_differ_in_more_than_size_are_not_compared() -> None:
    assert not contradictions([row(mbconv(48), 2.0), row(mbconv(96, kernel=5), 1.0)])
    assert not contradictions([row(mbconv(48), 2.0), row(mbconv(96, side=8), 1.0)])  # one size larger, one smaller
    assert not contradictions([row("concatenation(parts=4) 256x8x8", 2.0), row("concatenation(parts=3) 512x8x8", 1.0)])
    assert contradictions([row("concatenation(parts=4) 256x8x8", 2.0), row("concatenation(parts=4) 512x8x8", 1.0)])


def test_a_difference_within_the_noise_contradicts_nothing() -> None:
    assert not contradictions([row(mbconv(48), 1.015), row(mbconv(96), 1.0)])
    assert not contradictions([row(mbconv(48), 1.2, half_ms=0.5), row(mbconv(96), 1.0, half_ms=0.5)])
    assert contradictions([row(mbconv(48), 1.2, half_ms=0.05), row(mbconv(96), 1.0, half_ms=0.05)])


def test_keys_of_another_form_contradict_nothing() -> None:
    assert not contradictions([row("one", 2.0), row("two", 1.0)])


@pytest.mark.parametrize("said_ms", [1e-30, 1e304])
def test_predictions_beyond_all_comparison_are_refused_by_name(said_ms: float) -> None:
    """The mean of the ratios was 0, and the next line divided by it."""
    with pytest.raises(UserError, match=r"n is said to take 1e.* ms, and takes 1e-06; measure the table again"):
        agreement([check(1e-6, None)], [said_ms])

"""Pictures in files, drawn without a browser."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.front.pareto import evaluated, front, points
from experiments.latency.scan import Scan
from experiments.store.records import Trial
from experiments.trust.standing import MemberScores, TrustReport, interval_text
from experiments.views.front import FrontView
from latency_lut.table import LatencyTable
from topformer.errors import UserError
from topformer.writing import write_whole

PICTURES = (".png", ".svg", ".pdf")
BAND_PCT = 5
"""Around equality of predicted and measured latencies."""
MOST_NAMES = 200
"""Written under bars; more cannot be read."""


def draw_front(view: FrontView, path: Path) -> None:
    """All evaluations that were read, the front and the anchors of a study: mIoU in per cent against latency in ms."""
    study = view.study
    done = evaluated(view.trials, fidelity=study.fidelity)
    if not done:
        raise UserError(f"study {study.name!r} has no completed evaluation to draw yet.")
    members = front(done, fidelity=study.fidelity)
    anchors = [trial for trial in done if trial.anchor]
    with drawn(path, 8, 5) as figure:
        axes = figure.add_subplot()
        axes.scatter(*_placed(done), s=28, color="0.75", label="dominated", zorder=2)
        axes.errorbar(
            *_placed(members),
            xerr=[
                [t.latency.total_ms - t.latency.low_ms for t in members],
                [t.latency.high_ms - t.latency.total_ms for t in members],
            ],
            fmt="o-",
            drawstyle="steps-post",
            color="tab:blue",
            ecolor="tab:blue",
            elinewidth=0.8,
            capsize=2,
            label="Pareto front, latency interval",
            zorder=3,
        )
        axes.scatter(*_placed(anchors), s=90, marker="*", color="tab:red", label="anchors T, S, B", zorder=4)
        for trial in anchors:
            axes.annotate(
                str(trial.anchor),
                (trial.latency.total_ms, trial.miou_pct or 0),
                xytext=(6, -12),
                textcoords="offset points",
            )
        if view.budget_ms is not None:
            axes.axvline(view.budget_ms, color="tab:green", linestyle="--", label=f"budget {view.budget_ms:g} ms")
        table = study.table
        axes.set_xlabel(f"latency, ms ({table.header.name}, {table.kind})")
        axes.set_ylabel(f"mIoU, % ({study.fidelity}; {view.ranking.short})")
        axes.set_title(f"study {study.name}: {len(done)} architectures")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")


def draw_trust(report: TrustReport, path: Path) -> None:
    """What each fidelity says of the ranked architectures against the reference's mIoU in per cent."""
    columns = min(len(report.fidelities), 3)
    rows = -(-len(report.fidelities) // columns)
    groups: tuple[tuple[str, list[MemberScores], dict[str, Any]], ...] = (
        ("spread", [one for one in report.ranked if not report.in_band(one)], {"color": "0.6", "marker": "o", "s": 22}),
        (
            f"band {report.band_low_ms:.3g} to {report.band_high_ms:.3g} ms",
            report.band,
            {"color": "tab:blue", "marker": "D", "s": 26},
        ),
        (
            "anchors",
            [one for one in report.ranked if one.stratum == "anchor"],
            {"edgecolors": "tab:red", "facecolors": "none", "marker": "o", "s": 90},
        ),
    )
    with drawn(path, 4.2 * columns, 3.6 * rows, font_size=9) as figure:
        for place, fidelity in enumerate(report.fidelities, start=1):
            axes = figure.add_subplot(rows, columns, place)
            for label, members, style in groups:
                axes.scatter(*report.compared(members, fidelity.fidelity), label=label, **style)
            overall, band = fidelity.overall, fidelity.band
            known = [f"tau {interval_text(overall.kendall)}" if overall else "no tau"]
            known += [f"band {interval_text(band.kendall)}"] if band else []
            axes.set_title(f"{fidelity.fidelity}\n{', '.join(known)}", fontsize=9)
            axes.set_xlabel(f"mIoU by {report.reference}, %")
            axes.set_ylabel(fidelity.fidelity if fidelity.zero_cost else f"mIoU by {fidelity.fidelity}, %")
            axes.grid(alpha=0.3)
        figure.axes[0].legend(loc="lower right", fontsize=8)


def draw_scan(scan: Scan, table: LatencyTable, path: Path) -> None:
    """How many candidates of a space have which latency, and the budget."""
    with drawn(path, 8, 4) as figure:
        axes = figure.add_subplot()
        axes.hist(scan.latencies_ms, bins=60, weights=[100 / scan.counted] * scan.counted, color="tab:blue")
        label = f"budget {scan.budget_ms:g} ms: {100 * scan.share:.1f} % of the space"
        axes.axvline(scan.budget_ms, color="tab:green", linestyle="--", label=label)
        axes.set_xlabel(f"latency, ms ({table.name}, {table.kind})")
        axes.set_ylabel("candidates, %")
        counted = "all" if scan.exact else "a sample of"
        axes.set_title(f"space {scan.space.name}: {counted} {scan.counted:,} candidates")
        axes.legend()


def draw_agreement(title: str, measured_ms: Sequence[float], predicted_ms: Sequence[float], path: Path) -> None:
    """A table's prediction against the measured latency of whole networks, with a band around equality."""
    ends = np.array([0.9 * min((*measured_ms, *predicted_ms)), 1.1 * max((*measured_ms, *predicted_ms))])
    with drawn(path, 6, 6) as figure:
        axes = figure.add_subplot()
        low, high = ends * (1 - BAND_PCT / 100), ends * (1 + BAND_PCT / 100)
        axes.fill_between(ends, low, high, color="0.9", label=f"within {BAND_PCT} %", zorder=1)
        axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=2)
        axes.scatter(measured_ms, predicted_ms, s=24, color="tab:blue", label=f"{len(measured_ms)} networks", zorder=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("whole network, measured, ms")
        axes.set_ylabel("sum over blocks, predicted, ms")
        axes.set_title(title)
        axes.grid(alpha=0.3, which="both")
        axes.legend(loc="lower right")


def draw_classes(title: str, counts: Mapping[str, Mapping[str, int]], unit: str, path: Path) -> None:
    """How often every class occurs, by split, the most frequent of the first split in front; on a log scale."""
    shares = {split: _shares_pct(by_name) for split, by_name in counts.items() if any(by_name.values())}
    if not shares:
        raise UserError(f"there is nothing to draw of {title}: no label could be read.")
    first = next(iter(shares.values()))
    names = sorted(first, key=lambda name: -first[name])
    least = min(share for by_name in shares.values() for share in by_name.values() if share)
    floor = 10 ** (np.floor(np.log10(least)) - 0.3)  # a bar of the rarest class is still seen
    with drawn(path, min(max(7.0, 0.16 * len(names)), 28.0), 4.5) as figure:
        axes = figure.add_subplot()
        width = 0.8 / len(shares)
        for offset, (split, by_name) in enumerate(shares.items()):
            axes.bar(
                np.arange(len(names)) + (offset - (len(shares) - 1) / 2) * width,
                [max(by_name[name] - floor, 0.0) for name in names],
                width=width,
                bottom=floor,
                color=("tab:blue", "tab:orange")[offset % 2],
                label=split,
            )
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set_ylabel(f"{unit}, %")
        axes.set_xlim(-0.6, len(names) - 0.4)
        if len(names) <= MOST_NAMES:
            small = 7 if len(names) > 40 else 9
            axes.set_xticks(
                range(len(names)), [name.replace("$", r"\$") for name in names], rotation=90, fontsize=small
            )
        else:
            axes.set_xlabel(f"{len(names):,} classes")
        axes.set_title(title.replace("$", r"\$"))
        axes.grid(alpha=0.3, axis="y")
        axes.legend()


def _shares_pct(counts: Mapping[str, int]) -> dict[str, float]:
    return {name: 100 * count / sum(counts.values()) for name, count in counts.items()}


def require_figure(path: Path) -> None:
    """Raise `UserError` for a name that no figure can have, before the work for it is done."""
    if path.suffix not in PICTURES:
        raise UserError(f"cannot write the figure {str(path)!r}; name a .png, .svg or .pdf.")


@contextmanager
def drawn(path: Path, width: float, height: float, *, font_size: int = 10) -> Iterator[Figure]:
    """An empty figure, written to a file when it is filled."""
    with mpl.rc_context({"font.size": font_size, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    require_figure(path)
    try:
        content = io.BytesIO()
        figure.savefig(content, dpi=130, format=path.suffix.removeprefix("."))
        write_whole(path, content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write the figure {str(path)!r} ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"cannot write the figure {str(path)!r} ({error}); name a .png, .svg or .pdf.") from None


def _placed(trials: Sequence[Trial]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies and mIoUs."""
    ms, miou_pct = np.array(points(trials)).reshape(-1, 2).T
    return ms, miou_pct

"""How far can the order of a proxy be believed? Trust reports, listed and one by one, as people read them.

Imports trust reports and the store, and nothing that prints or draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from statistics import fmean
from typing import Any, Literal, get_args

from evaluators.base import short_names
from evaluators.baselines import RIDGE, SCALES_THEN_MACS
from evaluators.trust import INTERVAL_PCT, TOPS, TRUSTED_TAU, Verdict, agreement, top_regret
from experiments.store.store import Store
from experiments.trust.beyond import baselines, beyond, ceiling
from experiments.trust.standing import (
    FidelityTrust,
    Standing,
    TrustReport,
    interval_text,
    shipped_reports,
    stored_reports,
)

Cells = Mapping[str, str | None]
"""A row of a table by column; None for what another row says or nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRow:
    """A trust report in one line."""

    report: TrustReport
    source: Literal["store", "shipped"]

    def as_dict(self) -> dict[str, Any]:
        one = self.report
        return {
            "report": one.name,
            "from": self.source,
            "created": one.created,
            "space": one.space,
            "data": one.dataset,
            "reference": one.reference,
            "architectures": len(one.ranked),
            "kendall_tau": {f.fidelity: f.overall.kendall.value if f.overall else None for f in one.fidelities},
        }


def report_rows(store: Store | None, tell: Callable[[str], None] | None = None) -> tuple[ReportRow, ...]:
    """The reports of a store, where there is one, the newest first; then those that come with the tool. What is wrong
    with those that cannot be read is told."""
    stored = [ReportRow(report=one, source="store") for one in (stored_reports(store, tell) if store else ())]
    return (*stored, *(ReportRow(report=one, source="shipped") for one in shipped_reports()))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportView:
    """A trust report as tables of text, with the sentences that explain them."""

    report: TrustReport
    agreement: tuple[Cells, ...]
    """The reference, then how far each fidelity orders architectures as it does: over all, and within the band."""
    about: tuple[str, ...]
    """What the agreement is of, and how to read it."""
    orderings: tuple[Cells, ...]
    """What each fidelity says of the published orderings; empty where none was trained."""
    decided: tuple[str, ...]
    """How many orderings came out which way."""
    warnings: tuple[str, ...]
    """The fidelities whose order cannot be relied upon."""

    def as_dict(self) -> dict[str, Any]:
        """The report, with what each fidelity adds to counting, and how far the rules that train nothing agree."""
        told = {one.fidelity: beyond(self.report, self.report.ranked, one.fidelity) for one in self.report.fidelities}
        return asdict(self.report) | {
            "beyond": {name: None if one is None else one.as_dict() for name, one in told.items()},
            "baselines": [dict(cells) for cells in self.agreement[1 + len(self.report.fidelities) :]],
        }


def report_view(report: TrustReport) -> ReportView:
    short = short_names([report.reference, *(one.fidelity for one in report.fidelities)])
    about = [
        f"{len(report.ranked)} architectures of {report.space} at {'x'.join(map(str, report.image_size))} px on "
        f"{report.dataset}, {len(report.band)} of them in the band of {report.band_low_ms:.3g} to "
        f"{report.band_high_ms:.3g} ms by table {report.table}; {report.created}. tau is Kendall's, in brackets the "
        f"{INTERVAL_PCT} % bootstrap interval over architectures; regret what the best of a fidelity's first 1, 3 and "
        "5 lacks of the best, in mIoU by the reference; noise the standard deviation between trainings of one "
        "architecture; far cue the share of trainings that found what only the far side of an image tells; adds is "
        "Kendall's partial tau beyond the best rule that trains nothing, and surely above 0 where its interval is. "
        f"{SCALES_THEN_MACS}: more injected scales first, then more multiply-adds. {RIDGE}: each predicted from the "
        "descriptions and the reference's scores of all others. A perfect ranker is held back by the noise of "
        "the reference alone."
    ]
    standings = [(one, Standing(report=report.name, trust=one)) for one in report.fidelities if not one.zero_cost]
    return ReportView(
        report=report,
        agreement=(
            _reference_cells(report),
            *(_fidelity_cells(report, one, short[one.fidelity]) for one in report.fidelities),
            *_baseline_cells(report),
        ),
        about=tuple(about),
        orderings=_ordering_cells(report, short),
        decided=tuple(_decided(report, short)),
        warnings=tuple(
            f"warning: {short[one.fidelity]}: {said.short}; a study on it says so (trusted from {TRUSTED_TAU:g} on)."
            for one, said in standings
            if not said.trusted
        ),
    )


_COLUMNS = (
    "fidelity",
    "tau",
    "tau in band",
    "regret %, 1/3/5",
    "regret in band",
    "adds",
    "adds in band",
    "Spearman",
    "Spearman in band",
    "noise %",
    "far cue %",
    "CPU s",
    "of reference",
)
AGREEMENT = ("fidelity", "tau", "tau in band", "regret %, 1/3/5")
"""Columns of `ReportView.agreement` that eighty characters hold, and those that come after them."""
BEYOND = ("fidelity", "adds", "adds in band")
COSTS = ("fidelity", "Spearman", "noise %", "far cue %", "CPU s", "of reference")


def _reference_cells(report: TrustReport) -> Cells:
    return dict.fromkeys(_COLUMNS) | {
        "fidelity": report.reference,
        "noise %": _number(report.reference_noise_pct),
        "far cue %": _share(report.reference_far_cue_found_pct),
        "CPU s": _seconds(report.reference_cpu_seconds),
        "of reference": "100 %",
    }


def _fidelity_cells(report: TrustReport, one: FidelityTrust, name: str) -> Cells:
    cells: dict[str, str | None] = {"fidelity": name}
    for place, found in (("", one.overall), (" in band", one.band)):
        cells[f"tau{place}"] = "none" if found is None else interval_text(found.kendall)
        cells[f"Spearman{place}"] = "none" if found is None else interval_text(found.spearman)
    for place, members in (("", report.ranked), (" in band", report.band)):
        told = beyond(report, members, one.fidelity)
        cells[f"adds{place}"] = "" if told is None or told.adds is None else interval_text(told.adds)
    for column, regrets in (("regret %, 1/3/5", one.regret_pct), ("regret in band", one.band_regret_pct)):
        cells[column] = "/".join(f"{regret:.2f}" for regret in regrets.values())
    return (
        dict.fromkeys(_COLUMNS)
        | cells
        | {
            "noise %": _number(one.noise_pct),
            "far cue %": _share(one.far_cue_found_pct),
            "CPU s": _seconds(one.cpu_seconds),
            "of reference": f"{100 * one.cost_share:.3g} %",
        }
    )


def _baseline_cells(report: TrustReport) -> Iterator[Cells]:
    """What trains nothing, and what a perfect ranker would reach."""
    labels = [fmean(one.values[report.reference]) for one in report.ranked]
    inside = [report.in_band(one) for one in report.ranked]
    counted = [[one.values[known.fidelity][0] for one in report.ranked] for known in report.fidelities]
    for name, values in baselines(report).items():
        if any(_same_order(values, known) for known in counted):
            continue  # the report has it as a fidelity
        cells: dict[str, str | None] = {"fidelity": name, "CPU s": "0"}
        for place, some in (("", [True] * len(inside)), (" in band", inside)):
            truth, found = list(compress(labels, some)), list(compress(values, some))
            if (told := agreement(truth, found)) is not None:
                cells[f"tau{place}"] = interval_text(told.kendall)
                cells[f"Spearman{place}"] = interval_text(told.spearman)
                cells[f"regret{place or ' %, 1/3/5'}"] = "/".join(
                    f"{top_regret(truth, found, top=top):.2f}" for top in TOPS
                )
        yield dict.fromkeys(_COLUMNS) | cells
    over_all, within = ceiling(report, report.ranked), ceiling(report, report.band)
    if over_all is not None:
        yield dict.fromkeys(_COLUMNS) | {
            "fidelity": "a perfect ranker",
            "tau": _number(over_all),
            "tau in band": _number(within),
        }


def _same_order(some: Sequence[float], others: Sequence[float]) -> bool:
    return [some.index(one) for one in sorted(some)] == [others.index(one) for one in sorted(others)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _ordering_cells(report: TrustReport, short: Mapping[str, str]) -> tuple[Cells, ...]:
    """A row for each ordering, a column for each fidelity."""
    rows: dict[str, dict[str, str | None]] = {}
    for one in report.decisions:
        name = f"{one.ordering}{' *' if one.tuned else ''}"
        row = rows.setdefault(name, {"ordering": name, "paper": _number(one.published_pct)})
        row[short[one.fidelity]] = f"{one.difference_pct:+.2f} ±{one.margin_pct:.2f} {one.verdict[0]}"
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return tuple(dict.fromkeys(columns) | row for row in rows.values())


def _decided(report: TrustReport, short: Mapping[str, str]) -> Iterator[str]:
    for fidelity in dict.fromkeys(one.fidelity for one in report.decisions):
        said = [one.verdict for one in report.decisions if one.fidelity == fidelity]
        yield f"{short[fidelity]}: {', '.join(f'{said.count(word)} {word}' for word in get_args(Verdict))}."
    if report.decisions:
        yield "r: reproduced, i: inverted, u: undecided at the noise between trainings (90 %); * had a part in scenes."

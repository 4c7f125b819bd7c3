"""Which architectures of a study are worth choosing, and how sure is that? Its front, as commands and pages show it.

Imports the store, the front and trust reports, and nothing that prints or draws.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.trust import Z_90
from experiments.front import pareto
from experiments.front.confidence import front_probabilities, undecided_pairs, undecided_sentence
from experiments.front.lookup import at_rung
from experiments.store.records import Study, Trial
from experiments.store.store import Store
from experiments.trust.standing import Standing, study_standing
from topformer.blocks import candidate_blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontRow:
    """A settled trial with everything that is known of it."""

    trial: Trial
    table: str
    ranking: Standing
    on_front: bool
    knee: bool
    front_probability: float | None
    """None where the noise between trainings is not known, and for a failed trial."""
    miou_noise_pct: float | None
    """Standard deviation of the mIoU between trainings, in points of per cent; None where no report knows it."""
    miou_margin_pct: float | None
    """Half the 90 % interval of a repeated training; None where the noise is not known, and for a failed trial."""
    not_told_apart: tuple[int, ...]
    """Members of the front from which the mIoU of this one does not differ by more than noise may."""

    def as_dict(self) -> dict[str, Any]:
        trial, record = self.trial, self.trial.record
        assert record is not None, "only settled trials are listed"
        return {
            "trial": trial.number,
            "arch_key": trial.candidate.arch.key,
            "image_size": trial.candidate.task.pixels,
            "miou_pct": trial.miou_pct,
            "fidelity": record.fidelity,
            "replicate": record.replicate,
            "latency_ms": trial.latency.total_ms,
            "latency_low_ms": trial.latency.low_ms,
            "latency_high_ms": trial.latency.high_ms,
            "latency_kind": trial.latency.kind,
            "table": self.table,
            "ranking_trust": self.ranking.as_dict(),
            "anchor": trial.anchor,
            "status": trial.state,
            "reason": record.reason,
            "origin": trial.origin,
            "seconds": record.seconds,
            "architecture": trial.candidate.arch.as_dict(),
            "task": trial.candidate.task.as_dict(),
            "on_front": self.on_front,
            "knee": self.knee,
            "front_probability": self.front_probability,
            "miou_noise_pct": self.miou_noise_pct,
            "miou_margin_pct": self.miou_margin_pct,
            "not_told_apart": list(self.not_told_apart),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class AgainstAnchor:
    """A trial minus the anchor nearest in latency."""

    anchor: str
    miou_difference_pct: float
    miou_difference_margin_pct: float | None
    """Half its 90 % interval; None where the noise between trainings is not known."""
    latency_difference_ms: float
    latency_difference_low_ms: float
    latency_difference_high_ms: float

    @property
    def sentence(self) -> str:
        return (
            f"nearest anchor {self.anchor}: {self.miou_difference_pct:+.2f}"
            f"{margin_text(self.miou_difference_margin_pct)} points of mIoU, {self.latency_difference_ms:+.2f} ms "
            f"({self.latency_difference_low_ms:+.2f} to {self.latency_difference_high_ms:+.2f}) for the chosen "
            "architecture."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontView:
    """The front of a study at one fidelity, or those of its trials that were asked for."""

    study: Study
    """The fidelity and the evaluator are those that the rows are by."""
    trials: tuple[Trial, ...]
    """All that were read; without `every`, those that decide what is said of the front."""
    ranking: Standing
    rows: tuple[FrontRow, ...]
    budget_ms: float | None
    """The latency that the one row is the best within; None where no budget was asked for."""

    @property
    def noise_pct(self) -> float | None:
        """Of one training."""
        return self.ranking.noise_pct

    @property
    def _noise_text(self) -> str:
        """Of the means that the rows show, which may be of different numbers of trainings."""
        known = sorted({row.miou_noise_pct for row in self.rows if row.miou_noise_pct is not None})
        return " to ".join(f"{pct:.2f}" for pct in dict.fromkeys((known[0], known[-1]))) if known else "unknown"

    @property
    def nearest_anchor(self) -> AgainstAnchor | None:
        """How the best under the budget compares with the anchor nearest to it."""
        return None if self.budget_ms is None else self.against_anchor(self.rows[0])

    def best_under(self, latency_max_ms: float) -> FrontRow | None:
        """The shown row of highest mIoU whose latency is within a budget; None where nothing is that fast."""
        within = [row for row in self.rows if row.on_front and row.trial.latency.total_ms <= latency_max_ms]
        return max(within, key=lambda row: row.trial.miou_pct or 0.0, default=None)

    def against_anchor(self, row: FrontRow) -> AgainstAnchor | None:
        """None where no anchor is evaluated."""
        anchor = pareto.nearest_anchor(row.trial, self.trials, fidelity=self.study.fidelity)
        if anchor is None:
            return None
        assert anchor.anchor is not None
        assert anchor.miou_pct is not None
        assert row.trial.miou_pct is not None
        slower = self.study.table.difference(candidate_blocks(row.trial.candidate), candidate_blocks(anchor.candidate))
        return AgainstAnchor(
            anchor=anchor.anchor,
            miou_difference_pct=row.trial.miou_pct - anchor.miou_pct,
            miou_difference_margin_pct=None
            if row.miou_margin_pct is None
            else math.hypot(row.miou_margin_pct, _margin_pct(self.ranking, anchor) or 0.0),
            latency_difference_ms=slower.delta_ms,
            latency_difference_low_ms=slower.low_ms,
            latency_difference_high_ms=slower.high_ms,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the rows' numbers are worth, a sentence each."""
        table = self.study.table
        notes = [f"mIoU by {self.study.fidelity}. Latency {table.kind}; {table.interval_note}.", self.ranking.notice]
        if (anchor := self.nearest_anchor) is not None:
            notes.append(anchor.sentence)
        if self.rows and self.noise_pct is not None:
            notes.append(
                f"±: 90 % of repeated trainings, whose noise is {self._noise_text} points of mIoU; the best of many "
                "is partly lucky. on front: probability, with that noise and what the latencies do not share of their "
                "errors; * is on the front as measured, (knee) its knee."
            )
            members = [row.trial for row in self.rows if row.on_front]
            if (undecided := undecided_sentence(members, noise_pct=self.noise_pct)) is not None:
                notes.append(undecided)
        elif self.rows:
            notes.append("no ±: no trust report has repeated trainings by this evaluator.")
        return tuple(notes)

    def as_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each row; under a budget the one row has its nearest anchor, too."""
        rows = [row.as_dict() for row in self.rows]
        if self.budget_ms is not None:
            anchor = self.nearest_anchor
            rows[0]["nearest_anchor"] = None if anchor is None else asdict(anchor)
        return rows

    def as_csv(self) -> str:
        """Comma-separated, with a header; no list and no mapping, which are left to JSON."""
        rows = self.as_dicts()
        names = [name for name in rows[0] if not isinstance(rows[0][name], Mapping | list)] if rows else []
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def front_view(
    store: Store,
    name: str,
    *,
    fidelity: str | None = None,
    latency_max: str | None = None,
    shortlist: int | None = None,
    every: bool = False,
    drawn: bool = False,
) -> FrontView:
    """The front of a study; or one row, the best under a budget; or a shortlist of so many; or every settled trial.

    `fidelity` is the label of a confirmation, None the study's own; `latency_max` is a number of ms or the name of an
    anchor. All trials are read where every one is listed or drawn. Raises `UserError` for what the study does not have.
    """
    study, trials = at_rung(store, name, fidelity, every=every or drawn)
    ranking = study_standing(study, store)
    budget_ms = None if latency_max is None else pareto.budget_ms(latency_max, trials, fidelity=study.fidelity)
    if shortlist is not None:
        shown: Sequence[Trial] = pareto.shortlisted(study, trials, shortlist)
    elif budget_ms is not None:
        shown = (pareto.best_under(trials, budget_ms, fidelity=study.fidelity),)
    elif every:
        shown = [trial for trial in trials if trial.state != "proposed"]
    else:
        shown = pareto.front(trials, fidelity=study.fidelity)
    rows = front_rows(study, trials, shown, ranking)
    return FrontView(study=study, trials=trials, ranking=ranking, rows=rows, budget_ms=budget_ms)


def front_rows(
    study: Study, trials: Sequence[Trial], shown: Sequence[Trial], ranking: Standing
) -> tuple[FrontRow, ...]:
    """A row for each shown trial: also whether it is on the front of all trials, and how likely."""
    on_front = pareto.front(trials, fidelity=study.fidelity)
    members = {trial.number for trial in on_front}
    noise_pct = ranking.noise_pct
    knee = pareto.knee_of(study, trials)
    likely: Mapping[int, float] = {}
    alike: dict[int, list[int]] = {}
    if noise_pct is not None:
        likely = front_probabilities(trials, study.table, fidelity=study.fidelity, noise_pct=noise_pct)
        for one, other in undecided_pairs(on_front, noise_pct=noise_pct):
            alike.setdefault(one.number, []).append(other.number)
            alike.setdefault(other.number, []).append(one.number)
    return tuple(
        FrontRow(
            trial=trial,
            table=study.table.name,
            ranking=ranking,
            on_front=trial.number in members,
            knee=knee is not None and trial.number == knee.number,
            front_probability=likely.get(trial.number),
            miou_noise_pct=ranking.noise_of(trial.trainings),
            miou_margin_pct=_margin_pct(ranking, trial),
            not_told_apart=tuple(sorted(alike.get(trial.number, ()))),
        )
        for trial in shown
    )


def _margin_pct(ranking: Standing, trial: Trial) -> float | None:
    noise_pct = ranking.noise_of(trial.trainings)
    return None if noise_pct is None or trial.miou_pct is None else Z_90 * noise_pct


def margin_text(pct: float | None) -> str:
    """What stands behind a number whose noise is known: half its 90 % interval."""
    return "" if pct is None else f" ±{pct:.2f}"

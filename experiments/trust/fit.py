"""From a trust report to a combined evaluator: which cheap fidelities together predict what the reference finds?"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluators.base import Scorer
from evaluators.baselines import ridge
from evaluators.combined import CombinedEvaluator, Known, Part, Predictor
from evaluators.datasets import SegmentationDataset
from evaluators.named import scorers_named
from evaluators.proxy import REFERENCE
from evaluators.trust import Z_90
from experiments.store.store import Store
from experiments.trust.run import fidelity_trust
from experiments.trust.standing import TrustReport, interval_text
from topformer.config import Task
from topformer.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A combined evaluator and how well it predicted what it had not seen: each architecture by all others."""

    evaluator: CombinedEvaluator
    report: TrustReport
    """The report that it was fitted to, with it as a further fidelity."""
    error_pct: float
    """Mean absolute error in points of mIoU."""
    ridge_error_pct: float
    """That of ridge regression on the architecture with the same labels."""
    half_width_pct: float
    """Mean half-width of the 90 % intervals."""
    covered_pct: float
    """Share of the architectures whose score by the reference lies within theirs."""

    @property
    def sentences(self) -> tuple[str, ...]:
        tau = self.report.fidelities[-1].overall
        return (
            f"{self.evaluator.fidelity} predicts {self.report.reference} from "
            f"{', '.join(part.fidelity for part in self.evaluator.predictor.parts)} and the architecture; fitted to "
            f"{len(self.evaluator.predictor.known)} architectures.",
            f"Each left out in turn: error {self.error_pct:.2f} points (ridge on the architecture alone: "
            f"{self.ridge_error_pct:.2f}), 90 % interval ±{self.half_width_pct:.2f} on average, which covers "
            f"{self.covered_pct:.0f} %; tau {'unknown' if tau is None else interval_text(tau.kendall)}.",
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "fidelity": self.evaluator.fidelity,
            "evaluator": self.evaluator.fingerprint,
            "report": self.report.name,
            "parts": [part.fidelity for part in self.evaluator.predictor.parts],
            "architectures": len(self.evaluator.predictor.known),
            "error_pct": self.error_pct,
            "ridge_error_pct": self.ridge_error_pct,
            "half_width_pct": self.half_width_pct,
            "covered_pct": self.covered_pct,
        }


def fit(report: TrustReport, candidates: str, dataset: SegmentationDataset, out: Path) -> Fit:
    """Fit to the report's architectures and write the predictor to a file.

    `candidates` are the cheap fidelities by name, with commas. Raises `UserError` for one that the report has not, or
    has by another evaluator.
    """
    scorers = scorers_named(candidates, REFERENCE, dataset)
    names = [word.strip() for word in candidates.split(",")]
    if len(names) != len(scorers):
        raise UserError("name each zero-cost proxy by itself, not all of them as zero-cost.")
    parts = [_part(report, name, scorer, out) for name, scorer in zip(names, scorers, strict=True)]
    height, width = report.image_size
    known = [
        Known(
            architecture=one.architecture,
            values=tuple(one.values[part.fidelity][0] for part in parts),
            label_pct=fmean(one.values[report.reference]),
        )
        for one in report.ranked
    ]
    predictor = Predictor.fit(
        known,
        task=Task(image_size=(height, width), num_classes=report.num_classes),
        parts=parts,
        report=report.name,
        reference=report.reference,
        reference_evaluator=report.reference_evaluator,
    )
    evaluator = CombinedEvaluator(predictor, scorers, where=str(out))
    try:
        out.write_text(predictor.as_json(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {str(out)!r} ({error.strerror}); name another file with --out.") from None
    labels = [one.label_pct for one in known]
    errors = [abs(told.value - label) for told, label in zip(predictor.left_out, labels, strict=True)]
    margins = [told.high - told.value for told in predictor.left_out]
    by_ridge = ridge(predictor.candidates, labels)
    return Fit(
        evaluator=evaluator,
        report=_with(report, evaluator),
        error_pct=fmean(errors),
        ridge_error_pct=fmean(abs(told - label) for told, label in zip(by_ridge, labels, strict=True)),
        half_width_pct=fmean(margins),
        covered_pct=100 * fmean(error <= margin for error, margin in zip(errors, margins, strict=True)),
    )


def keep(found: Fit, store: Store) -> None:
    """Keep the report with the fitted evaluator in it, so that studies on it say how far its order can be believed."""
    store.add_trust_report(found.report.name, found.report.to_json())


def _part(report: TrustReport, name: str, scorer: Scorer, out: Path) -> Part:
    there = {one.evaluator: one for one in report.fidelities}
    if scorer.fingerprint not in there:
        raise UserError(
            f"trust report {report.name!r} does not judge {name!r} of evaluator {scorer.fingerprint}; it has "
            f"{', '.join(f'{one.fidelity} ({one.evaluator})' for one in report.fidelities)}. Other images or weights? "
            "Make a report of these with: topformer-nas trust run"
        )
    kind, colon, file = name.partition(":")
    told = f"{kind}:{os.path.relpath(Path(file).resolve(), out.resolve().parent)}" if colon else name
    return Part(name=told, fidelity=there[scorer.fingerprint].fidelity, evaluator=scorer.fingerprint)


def _with(report: TrustReport, evaluator: CombinedEvaluator) -> TrustReport:
    """The report with what the predictor says of each architecture, itself left out."""
    name, parts = evaluator.fidelity, [part.fidelity for part in evaluator.predictor.parts]
    told = {one.key: said.value for one, said in zip(report.ranked, evaluator.predictor.left_out, strict=True)}
    members = [
        replace(
            one,
            values=one.values | {name: [told[one.key]]},
            cpu_seconds=one.cpu_seconds | {name: sum(one.cpu_seconds[part] for part in parts)},
        )
        if one.key in told
        else one
        for one in report.members
    ]
    fuller = replace(report, name=f"{report.name}-{name}", members=members)
    deviation_pct = fmean(said.high - said.value for said in evaluator.predictor.left_out) / Z_90
    trust = replace(fidelity_trust(fuller, evaluator, None), noise_pct=deviation_pct)
    return replace(fuller, fidelities=[*report.fidelities, trust])

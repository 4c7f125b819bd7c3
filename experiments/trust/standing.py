"""What do trust reports say of the order that a proxy gives? Read from a store, or from those that come with the tool.

Imports no torch: whatever shows an mIoU shows this beside it.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from evaluators.trust import TRUSTED_TAU, Agreement, Estimate, Relation, Verdict, agreement
from experiments.front.confidence import race_noise_pct
from experiments.store.records import Study, first_mistake
from experiments.store.store import Store, store_if_any
from experiments.trust.beyond import Beyond, beyond
from search_space import SearchSpace
from topformer.config import TopFormerConfig
from topformer.errors import LeftOut, UserError, first_line, unknown_name
from topformer.reading import strict_json

FORMAT = 1
"""Version of the trust report; see docs/formats.md."""

Stratum = Literal["anchor", "band", "spread", "ordering"]
"""band: of about equal latency; spread: any other; ordering: one that the paper compares, left out of ranks."""


STRUCTURE = ("injected_strides", "token_source", "extractor", "injection", "head")
"""What architectures must share with a space's to say how those are ordered: the injected scales alone are worth ten
points of mIoU and more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What is known of the order that an evaluator gives."""

    report: str | None
    """None: no report has looked at it."""
    trust: FidelityTrust | None
    is_reference: bool = False
    """Whether the report judges others by it."""
    noise_pct: float | None = None
    """Standard deviation of the mIoU between trainings of one architecture; None where no report has repeated any."""
    ranked: int = 0
    """Architectures that the report ranks."""
    alike: int = 0
    """Those of them that count here: all, or the ones that are like what a space holds."""
    look_beyond: Callable[[], Beyond | None] | None = field(default=None, compare=False, repr=False)
    """Finds `beyond`, which takes half a second the first time and which not everybody asks for."""

    @property
    def beyond(self) -> Beyond | None:
        """How the order compares with counting, which trains nothing; None where no report can tell."""
        return None if self.look_beyond is None else self.look_beyond()

    def noise_of(self, replicates: int) -> float | None:
        """Likewise of means of so many trainings."""
        return None if self.noise_pct is None else self.noise_pct / math.sqrt(replicates)

    @property
    def trusted(self) -> bool:
        if self.is_reference:
            return True
        overall = None if self.trust is None else self.trust.overall
        return overall is not None and overall.kendall.value >= TRUSTED_TAU

    @property
    def verdict(self) -> Literal["reference", "untested", "trusted", "not trusted"]:
        if self.is_reference:
            return "reference"
        if self.trust is None or self.trust.overall is None:
            return "untested"
        return "trusted" if self.trusted else "not trusted"

    @property
    def short(self) -> str:
        """Beside a name or on an axis."""
        if self.is_reference:
            return "ranking by the reference"
        if self.trust is None or self.trust.overall is None:
            return "ranking untested"
        text = f"ranking tau {self.trust.overall.kendall.value:.2f}"
        return text if self.trusted else f"{text}, below {TRUSTED_TAU:g}"

    @property
    def sentence(self) -> str:
        """For wherever an mIoU by that evaluator is shown."""
        if self.is_reference:
            return f"ranking by the reference that trust report {self.report} judges others by"
        if self.trust is None:
            return "ranking untested: no trust report says how far its order can be believed"
        which = f"{self.alike if self.trust.overall is None else self.trust.overall.count} architectures"
        if self.alike < self.ranked:
            which = f"{self.alike} of its {self.ranked} architectures, those with the scales and modules here"
        if self.trust.overall is None:
            return f"ranking untested: trust report {self.report} cannot tell how it orders {which}"
        text = f"ranking tau {interval_text(self.trust.overall.kendall)} overall"
        if self.trust.band is not None:
            text += f", {interval_text(self.trust.band.kendall)} at equal latency"
        text += f" (trust report {self.report}, {which})"
        if (beyond := self.beyond) is not None:
            text += f"; {beyond.sentence}"
        return text if self.trusted else f"{text}; below {TRUSTED_TAU:g}: its order cannot be relied upon"

    @property
    def notice(self) -> str:
        """For a line of its own."""
        return f"{'' if self.trusted else 'warning: '}{self.sentence}."

    def as_dict(self) -> dict[str, Any]:
        overall = None if self.trust is None else self.trust.overall
        band = None if self.trust is None else self.trust.band
        beyond = self.beyond
        return {
            "verdict": self.verdict,
            "tau": None if overall is None else asdict(overall.kendall),
            "band_tau": None if band is None else asdict(band.kendall),
            "architectures": None if overall is None else overall.count,
            "report": self.report,
            "beyond": None if beyond is None else beyond.as_dict(),
        }


def standing(evaluator: str, store: Store | None, space: SearchSpace | None = None) -> Standing:
    """Of an evaluator's fingerprint: by the newest report of the store, or else by one that comes with the tool.

    With a space, by those of a report's architectures that are like what the space holds: where a report's set differs
    in something that matters much and the space does not, agreement over all of it would flatter.
    """
    for report in (*(stored_reports(store) if store else ()), *shipped_reports()):
        if report.reference_evaluator == evaluator:
            return Standing(report=report.name, trust=None, is_reference=True, noise_pct=report.reference_noise_pct)
        for one in report.fidelities:
            if one.evaluator == evaluator:
                members = [member for member in report.ranked if space is None or _is_like(member, space)]
                return Standing(
                    report=report.name,
                    trust=one if len(members) == len(report.ranked) else _narrowed(report, one, members),
                    noise_pct=one.noise_pct,
                    ranked=len(report.ranked),
                    alike=len(members),
                    look_beyond=partial(beyond, report, members, one.fidelity),
                )
    return Standing(report=None, trust=None)


def study_standing(study: Study, store: Store | None) -> Standing:
    """Of what a study's trials are trained by, within its space; a race's own trainings say of the noise, too."""
    found = standing(study.evaluator, store, study.config.search_space())
    rung = next((rung for rung in study.rungs if rung.racing and rung.label == study.fidelity), None)
    if rung is None or store is None:
        return found
    mious: dict[str, list[float]] = {}
    for record in store.confirmations(study.name, rung):
        if record.value is not None:
            mious.setdefault(record.candidate_key, []).append(record.value)
    return replace(found, noise_pct=race_noise_pct(list(mious.values()), known_pct=found.noise_pct))


def _is_like(member: MemberScores, space: SearchSpace) -> bool:
    """Whether the space holds architectures of its structure."""
    arch = TopFormerConfig.from_dict(member.architecture)
    knobs = {knob.field: knob for knob in space.knobs}
    return all(
        getattr(arch, field) in (knobs[field].values.values() if field in knobs else (getattr(space.base, field),))
        for field in STRUCTURE
    )


def _narrowed(report: TrustReport, trust: FidelityTrust, members: Sequence[MemberScores]) -> FidelityTrust:
    """As `trust`, with the agreement over some of the members."""
    band = [one for one in members if report.in_band(one)]
    return replace(
        trust,
        overall=agreement(*report.compared(members, trust.fidelity)),
        band=agreement(*report.compared(band, trust.fidelity)),
    )


def standing_in(storage: str, evaluator: str, space: SearchSpace | None = None) -> Standing:
    """As `standing`, by the URL of a store that need not exist yet."""
    with store_if_any(storage) as store:
        return standing(evaluator, store, space)


def find_report(name: str | None, store: Store | None) -> TrustReport:
    """Of a store, or else of those that come with the tool; without a name the newest of the store."""
    if store is not None and (known := [text for own, text in store.trust_reports() if own == name]):
        return _stored_report(store, str(name), known[0])
    reports = (*(stored_reports(store) if store else ()), *shipped_reports())
    if name is None and not reports:
        raise UserError("there is no trust report yet; make one with: topformer-nas trust run")
    found = next((one for one in reports if name in (None, one.name)), None)
    if found is None:
        raise unknown_name("trust report", name, [one.name for one in reports])
    return found


def stored_reports(store: Store, tell: Callable[[str], None] | None = None) -> tuple[TrustReport, ...]:
    """The newest first; what is wrong with those that cannot be read is told, or warned of, and nothing is known by
    them."""
    found = []
    for name, text in store.trust_reports():
        try:
            found.append(_stored_report(store, name, text))
        except UserError as error:
            if tell is not None:
                tell(str(error))
            else:
                warnings.warn(f"left out: {error}", LeftOut, stacklevel=2)
    return tuple(found)


def _stored_report(store: Store, name: str, text: str) -> TrustReport:
    return TrustReport.from_json(
        text,
        where=f"trust report {name!r} of {store.url}",
        or_else=f", or drop this one with: topformer-nas trust delete {name} --storage {store.url}",
    )


@cache
def shipped_reports() -> tuple[TrustReport, ...]:
    folder = importlib.resources.files("experiments.trust.reports")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".json")), key=lambda item: item.name)
    return tuple(TrustReport.from_json(item.read_text(encoding="utf-8"), where=item.name) for item in files)


def interval_text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberScores:
    """What each fidelity says of an architecture; values by replicate."""

    label: str
    key: str
    stratum: Stratum
    latency_ms: float | None
    architecture: dict[str, Any]
    values: dict[str, list[float]]
    cpu_seconds: dict[str, float]
    """Mean over the replicates."""
    far_iou_pct: dict[str, list[float]]
    """Mean IoU of the classes that only a far cue tells apart, by replicate; empty where the data have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelityTrust:
    """How far one fidelity's order can be believed."""

    fidelity: str
    evaluator: str
    """Fingerprint."""
    zero_cost: bool
    overall: Agreement | None
    """Of one evaluation each with the reference's mean."""
    band: Agreement | None
    regret_pct: dict[str, float]
    """mIoU that the best of the top 1, 3, 5 lacks of the best, over all ranked architectures."""
    band_regret_pct: dict[str, float]
    noise_pct: float | None
    """Standard deviation between replicates; of a prediction, of its error."""
    cpu_seconds: float
    """Mean per architecture; for inherited weights without the supernet's training."""
    cost_share: float
    """Of the reference's, over the same architectures."""
    above_zero_cost: Estimate | None
    """Within the band, Kendall tau minus that of the zero-cost proxy with the best one there."""
    far_cue_found_pct: float | None
    """Share of its trainings of ranked architectures that found the far cue of the data; None: there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderingRow:
    """What the trainings of one fidelity say of a published ordering; see `evaluators.trust.Decision`."""

    fidelity: str
    ordering: str
    relation: Relation
    published_pct: float | None
    tuned: bool
    difference_pct: float
    margin_pct: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustReport:
    """All that was found, with what is needed to find it again."""

    format: int = 0
    """`FORMAT` of the code that made it; 0 in reports from before they said so."""
    name: str
    created: str
    command: str
    machine: dict[str, Any]
    space: str
    image_size: list[int]
    num_classes: int
    dataset: str
    dataset_fingerprint: str
    table: str
    seed: int
    band_ms: float
    band_low_ms: float
    band_high_ms: float
    reference: str
    reference_evaluator: str
    reference_noise_pct: float | None
    reference_cpu_seconds: float
    reference_far_cue_found_pct: float | None
    fidelities: list[FidelityTrust]
    decisions: list[OrderingRow]
    """Of the published orderings whose architectures the reference trained, where its noise is known."""
    members: list[MemberScores]

    @property
    def ranked(self) -> list[MemberScores]:
        return [one for one in self.members if one.stratum != "ordering"]

    def in_band(self, member: MemberScores) -> bool:
        return member.latency_ms is not None and self.band_low_ms <= member.latency_ms <= self.band_high_ms

    @property
    def band(self) -> list[MemberScores]:
        """Those of the ranked that are of about equal latency."""
        return [one for one in self.ranked if self.in_band(one)]

    def compared(self, members: Sequence[MemberScores], fidelity: str) -> tuple[list[float], list[float]]:
        """For each member the reference's mean, and one evaluation by another fidelity."""
        truth = [float(np.mean(one.values[self.reference])) for one in members]
        return truth, [one.values[fidelity][0] for one in members]

    def to_json(self) -> str:
        content = asdict(self)
        if not self.format:
            del content["format"]  # an old report stays the text that it was
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str, or_else: str = "") -> TrustReport:
        try:
            strict_json(text)
            found = _READER.validate_json(text)
            if 0 <= found.format <= FORMAT:
                return found
            wrong = f"its format is {found.format}, this tool reads up to {FORMAT}"
        except ValidationError as error:
            wrong = first_mistake(error)
        except (ValueError, RecursionError) as error:
            wrong = first_line(error)
        raise UserError(
            f"{where}: no trust report of this version ({wrong}); write it again with: topformer-nas trust run{or_else}"
        )


_READER = TypeAdapter(TrustReport)

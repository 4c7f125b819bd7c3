"""Is a proxy's ranking right? Train a stratified set of architectures at each fidelity, and compare the orders.

Every evaluation is a record of the store, so an interrupted report goes on where it was, and shares what studies and
earlier reports have trained. A finished report is kept in the store; those of `experiments/trust_reports` come with
the tool.
"""

from __future__ import annotations

import importlib.resources
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from evaluators.base import Scorer
from evaluators.trust import (
    TRUSTED_TAU,
    Agreement,
    Decision,
    Estimate,
    agreement,
    decide,
    published_orderings,
    replicate_noise,
    tau_difference,
    top_regret,
    variants,
)
from evaluators.zero_cost import ZeroCostEvaluator
from experiments.store import Record, Store
from experiments.workers import Outcome, WorkerPool, worker_pool
from latency_lut.table import LatencyTable
from search_space import SearchSpace, require_anchors
from topformer.blocks import candidate_blocks
from topformer.config import Candidate, Task, TopFormerConfig, anchor_name, named_arch
from topformer.errors import UserError

Stratum = Literal["anchor", "band", "spread", "ordering"]
BAND_SHARE_PCT = 15
MOST_DRAWS = 200_000
TOPS = (1, 3, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An architecture of the set."""

    candidate: Candidate
    label: str
    stratum: Stratum
    """band: of about equal latency; spread: any other; ordering: one that the paper compares, left out of ranks."""
    latency_ms: float


def stratified(
    space: SearchSpace,
    table: LatencyTable,
    *,
    count: int,
    band_ms: float,
    seed: int,
    anchors: Sequence[str],
    scorers: Sequence[Scorer],
) -> tuple[Member, ...]:
    """Anchors, at least half of `count` within 15 % of `band_ms`, and the others evenly over the anchors' latencies.

    All at the task's image size, for scores at different sizes are not of the same pixels. Raises `UserError` where
    the space has too few.
    """
    require_anchors(space, anchors)

    def member(arch: TopFormerConfig, stratum: Stratum) -> Member:
        candidate = Candidate(arch=arch, task=space.task)
        latency = table.estimate(candidate_blocks(candidate)).total_ms
        return Member(candidate=candidate, label=anchor_name(arch) or arch.key, stratum=stratum, latency_ms=latency)

    members = [member(named_arch(name), "anchor") for name in anchors]
    for one in members:
        _require_scorable(one, scorers)
    rng = random.Random(seed)
    low, high = band_ms * (1 - BAND_SHARE_PCT / 100), band_ms * (1 + BAND_SHARE_PCT / 100)
    drawn = (member(space.sample(rng).arch, "spread") for _ in range(MOST_DRAWS))
    first = [next(drawn) for _ in range(300)]
    within = sum(low <= one.latency_ms <= high for one in members)
    wanted_in_band = max(-(-count // 2) - within, 0)
    ends = [one.latency_ms for one in members] or list(np.percentile([one.latency_ms for one in first], [5, 95]))
    bins = _bins(min(ends), max(ends), (low, high), count - len(members) - wanted_in_band)
    seen = {one.candidate.arch.key for one in members}
    in_band: list[Member] = []
    spread: dict[int, Member] = {}
    for one in _chained(first, drawn):
        if len(in_band) == wanted_in_band and len(spread) == len(bins):
            break
        if one.candidate.arch.key in seen or any(scorer.why_not(one.candidate) for scorer in scorers):
            continue
        if low <= one.latency_ms <= high:
            if len(in_band) < wanted_in_band:
                seen.add(one.candidate.arch.key)
                in_band.append(Member(**(_fields(one) | {"stratum": "band"})))
            continue
        place = next((i for i, (start, end) in enumerate(bins) if start <= one.latency_ms < end), None)
        if place is not None and place not in spread:
            seen.add(one.candidate.arch.key)
            spread[place] = one
    else:
        raise UserError(
            f"of {MOST_DRAWS} random architectures of {space.name!r} only {len(in_band)} of {wanted_in_band} lie "
            f"within {low:.3g} to {high:.3g} ms and {len(spread)} of {len(bins)} at the other latencies; choose "
            "another band (--band-ms) or fewer architectures."
        )
    return (*members, *in_band, *(spread[place] for place in sorted(spread)))


def orderings_members(table: LatencyTable, task: Task, known: Sequence[Member]) -> tuple[Member, ...]:
    """The architectures that the paper compares and that are not in the set yet."""
    there = {one.candidate.arch.key for one in known}
    return tuple(
        Member(candidate=Candidate(arch=arch, task=task), label=key, stratum="ordering", latency_ms=float("nan"))
        for key, arch in variants().items()
        if key not in there
    )


def _bins(low: float, high: float, band: tuple[float, float], count: int) -> list[tuple[float, float]]:
    """`count` intervals of about equal ratio over [low, high] without the band, which may cut it in two."""
    if count < 1:
        return []
    pieces = [(a, b) for a, b in ((low, min(high, band[0])), (max(low, band[1]), high)) if b > a]
    if not pieces:
        raise UserError(
            f"the band of {band[0]:.3g} to {band[1]:.3g} ms covers all latencies of the anchors, {low:.3g} to "
            f"{high:.3g} ms; choose another band (--band-ms)."
        )
    widths = [float(np.log(b / a)) for a, b in pieces]
    shares = [round(count * width / sum(widths)) for width in widths]
    shares[-1] = count - sum(shares[:-1])
    edges = [np.geomspace(a, b, share + 1) for (a, b), share in zip(pieces, shares, strict=True) if share]
    return [(float(a), float(b)) for piece in edges for a, b in pairwise(piece)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """One evaluation that a report needs."""

    scorer: Scorer
    member: Member
    replicate: int


def wants(
    members: Sequence[Member], reference: Scorer, scorers: Sequence[Scorer], *, replicates: int, repeated: int
) -> list[Want]:
    """Every evaluation of a report, the most telling ones first.

    All members once by the reference and by each scorer; anchors, and the first `repeated` others, `replicates` times
    by whatever has an mIoU. Architectures of the orderings are trained by the reference alone.
    """
    ranked = [one for one in members if one.stratum != "ordering"]
    again = [one for one in ranked if one.stratum == "anchor"]
    again += [one for one in ranked if one.stratum != "anchor"][:repeated]
    found = [Want(scorer=scorer, member=one, replicate=0) for one in ranked for scorer in (reference, *scorers)]
    found += [
        Want(scorer=scorer, member=one, replicate=replicate)
        for replicate in range(1, replicates)
        for one in again
        for scorer in (reference, *scorers)
        if not isinstance(scorer, ZeroCostEvaluator)
    ]
    others = [one for one in members if one.stratum == "ordering"]
    found += [Want(scorer=reference, member=one, replicate=0) for one in others]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """After each evaluation."""

    done: int
    total: int
    want: Want
    value: float | None
    cached: bool


def evaluate_all(
    wanted: Sequence[Want], store: Store, *, workers: int, report: Callable[[Progress], None] = lambda _: None
) -> None:
    """Run what the store does not know yet; every result is recorded as it comes.

    Raises `UserError` for a fault of the machine, and for an evaluation that failed: a ranking without it is another.
    """
    missing: dict[int, Want] = {}
    done = 0
    for number, want in enumerate(wanted):
        record = _found(store, want)
        if record is None:
            missing[number] = want
            continue
        done += 1
        report(Progress(done=done, total=len(wanted), want=want, value=_value(record, want), cached=True))
    if not missing:
        return
    with worker_pool(workers) as pool:
        for want, outcome in _outcomes(pool, missing):
            if outcome.fault:
                raise UserError(
                    f"{want.member.label} could not be evaluated by {want.scorer.fidelity}: {outcome.fault} "
                    "Nothing is recorded against it; mend the cause and run the same command to go on."
                )
            record = _record(want, outcome)
            store.add_record(record, candidate=want.member.candidate)
            done += 1
            report(Progress(done=done, total=len(wanted), want=want, value=_value(record, want), cached=False))


def _outcomes(pool: WorkerPool, missing: Mapping[int, Want]) -> Iterator[tuple[Want, Outcome]]:
    jobs = {n: (want.scorer, want.member.candidate, want.replicate, None) for n, want in missing.items()}
    for number, outcome in pool.results(jobs, lambda: None):
        yield missing[number], outcome


def _found(store: Store, want: Want) -> Record | None:
    return store.find_record(want.member.candidate.key, want.scorer.fingerprint, want.replicate)


def _record(want: Want, outcome: Outcome) -> Record:
    metrics = outcome.metrics
    return Record(
        candidate_key=want.member.candidate.key,
        evaluator=want.scorer.fingerprint,
        fidelity=want.scorer.fidelity,
        replicate=want.replicate,
        status="failed" if metrics is None else "complete",
        metrics=None if metrics is None else asdict(metrics),
        reason=outcome.reason,
        seconds=0.0 if metrics is None else metrics.seconds,
    )


def _value(record: Record, want: Want) -> float:
    if record.value is None:
        raise UserError(
            f"{want.member.label} failed by {want.scorer.fidelity} ({record.reason}); a ranking without it would be "
            "another one: choose another --seed, or a recipe that trains it."
        )
    return record.value


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
    """Standard deviation between replicates."""
    cpu_seconds: float
    """Mean per architecture; for inherited weights without the supernet's training."""
    cost_share: float
    """Of the reference's, over the same architectures."""
    above_zero_cost: Estimate | None
    """Within the band, Kendall tau minus that of the zero-cost proxy with the best one there."""
    far_cue_found: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustReport:
    """All that was found, with what is needed to find it again."""

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
    fidelities: list[FidelityTrust]
    decisions: list[dict[str, Any]]
    members: list[MemberScores]

    def fidelity(self, name: str) -> FidelityTrust | None:
        return next((one for one in self.fidelities if one.fidelity == name), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> TrustReport:
        try:
            return _READER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "its content"
            raise UserError(f"{where}: no trust report ({place}: {first['msg']}).") from None


_READER = TypeAdapter(TrustReport)


def assembled(
    wanted: Sequence[Want], store: Store, reference: Scorer, scorers: Sequence[Scorer], *, band_ms: float
) -> tuple[list[FidelityTrust], list[dict[str, Any]], list[MemberScores]]:
    """Fidelities, orderings and members of a report, from records alone."""
    members = _scores(wanted, store)
    ranked = [one for one in members if one.stratum != "ordering"]
    low, high = band_of(band_ms)
    in_band = [one for one in ranked if one.latency_ms is not None and low <= one.latency_ms <= high]
    truth = {one.key: float(np.mean(one.values[reference.fidelity])) for one in ranked}
    baseline = _best_zero_cost(in_band, truth, scorers)
    fidelities = [_fidelity(scorer, reference, ranked, in_band, truth, baseline) for scorer in scorers]
    noise = replicate_noise([one.values[reference.fidelity] for one in members])
    return fidelities, _decisions(members, reference.fidelity, noise), members


def band_of(band_ms: float) -> tuple[float, float]:
    """15 % below and above."""
    return band_ms * (1 - BAND_SHARE_PCT / 100), band_ms * (1 + BAND_SHARE_PCT / 100)


def _scores(wanted: Sequence[Want], store: Store) -> list[MemberScores]:
    found: dict[str, MemberScores] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    for want in sorted(wanted, key=lambda want: want.replicate):
        record = _found(store, want)
        assert record is not None, "a report is assembled when everything is evaluated"
        member = want.member
        scores = found.setdefault(
            member.candidate.key,
            MemberScores(
                label=member.label,
                key=member.candidate.arch.key,
                stratum=member.stratum,
                latency_ms=None if member.stratum == "ordering" else member.latency_ms,
                architecture=member.candidate.arch.as_dict(),
                values={},
                cpu_seconds={},
            ),
        )
        scores.values.setdefault(want.scorer.fidelity, []).append(_value(record, want))
        assert record.metrics is not None
        seconds = costs.setdefault((member.candidate.key, want.scorer.fidelity), [])
        seconds.append(float(record.metrics["cpu_seconds"]))
        scores.cpu_seconds[want.scorer.fidelity] = float(np.mean(seconds))
    return list(found.values())


def _fidelity(
    scorer: Scorer,
    reference: Scorer,
    ranked: Sequence[MemberScores],
    in_band: Sequence[MemberScores],
    truth: Mapping[str, float],
    baseline: str | None,
) -> FidelityTrust:
    name = scorer.fidelity
    zero_cost = isinstance(scorer, ZeroCostEvaluator)

    def columns(members: Sequence[MemberScores], fidelity: str) -> tuple[list[float], list[float]]:
        return [truth[one.key] for one in members], [one.values[fidelity][0] for one in members]

    seconds = float(np.mean([one.cpu_seconds[name] for one in ranked]))
    reference_seconds = float(np.mean([one.cpu_seconds[reference.fidelity] for one in ranked]))
    above = None
    if baseline is not None and not zero_cost:
        above = tau_difference(*columns(in_band, name), columns(in_band, baseline)[1])
    return FidelityTrust(
        fidelity=name,
        evaluator=scorer.fingerprint,
        zero_cost=zero_cost,
        overall=agreement(*columns(ranked, name)),
        band=agreement(*columns(in_band, name)),
        regret_pct={str(top): top_regret(*columns(ranked, name), top=top) for top in TOPS},
        band_regret_pct={str(top): top_regret(*columns(in_band, name), top=top) for top in TOPS} if in_band else {},
        noise_pct=None if zero_cost else replicate_noise([one.values[name] for one in ranked]),
        cpu_seconds=seconds,
        cost_share=seconds / reference_seconds,
        above_zero_cost=above,
    )


def _best_zero_cost(
    in_band: Sequence[MemberScores], truth: Mapping[str, float], scorers: Sequence[Scorer]
) -> str | None:
    """The one with the greatest tau within the band."""
    taus: dict[str, float] = {}
    for scorer in scorers:
        if isinstance(scorer, ZeroCostEvaluator):
            found = agreement([truth[one.key] for one in in_band], [one.values[scorer.fidelity][0] for one in in_band])
            if found is not None:
                taus[scorer.fidelity] = found.kendall.value
    return max(taus, key=lambda name: taus[name]) if taus else None


def _decisions(members: Sequence[MemberScores], fidelity: str, noise: float | None) -> list[dict[str, Any]]:
    """Of every published ordering whose two architectures were trained; none without a known noise."""
    by_key = {one.key: one.values[fidelity] for one in members}
    if noise is None:
        return []
    return [
        _decision_row(decide(one, by_key[one.first.key], by_key[one.second.key], noise_pct=noise))
        for one in published_orderings()
        if one.first.key in by_key and one.second.key in by_key
    ]


def _decision_row(decision: Decision) -> dict[str, Any]:
    ordering = decision.ordering
    return {
        "ordering": ordering.name,
        "relation": ordering.relation,
        "published_pct": ordering.published_pct,
        "tuned": ordering.tuned,
        "difference_pct": decision.difference_pct,
        "margin_pct": decision.margin_pct,
        "verdict": decision.verdict,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What is known of the order that an evaluator gives."""

    report: str | None
    """None: no report has looked at it."""
    trust: FidelityTrust | None

    @property
    def trusted(self) -> bool:
        overall = None if self.trust is None else self.trust.overall
        return overall is not None and overall.kendall.value >= TRUSTED_TAU

    @property
    def sentence(self) -> str:
        """For wherever an mIoU by that evaluator is shown."""
        if self.trust is None:
            return "ranking untested: no trust report says how far its order can be believed"
        if self.trust.overall is None:
            return f"ranking untested: report {self.report} has too few architectures"
        text = f"ranking tau {_interval_text(self.trust.overall.kendall)} overall"
        if self.trust.band is not None:
            text += f", {_interval_text(self.trust.band.kendall)} at equal latency"
        text += f" (trust report {self.report}, {self.trust.overall.count} architectures)"
        return text if self.trusted else f"{text}; below {TRUSTED_TAU:g}: its order cannot be relied upon"


def standing(evaluator: str, store: Store | None) -> Standing:
    """Of an evaluator's fingerprint: by the newest report of the store, or else by one that comes with the tool."""
    for report in (*(stored_reports(store) if store else ()), *shipped_reports()):
        for one in report.fidelities:
            if one.evaluator == evaluator:
                return Standing(report=report.name, trust=one)
    return Standing(report=None, trust=None)


def stored_reports(store: Store) -> tuple[TrustReport, ...]:
    """The newest first."""
    return tuple(
        TrustReport.from_json(text, where=f"trust report {name!r} of {store.url}")
        for name, text in store.trust_reports()
    )


@cache
def shipped_reports() -> tuple[TrustReport, ...]:
    folder = importlib.resources.files("experiments.trust_reports")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".json")), key=lambda item: item.name)
    return tuple(TrustReport.from_json(item.read_text(encoding="utf-8"), where=item.name) for item in files)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _interval_text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _require_scorable(member: Member, scorers: Sequence[Scorer]) -> None:
    for scorer in scorers:
        if reason := scorer.why_not(member.candidate):
            raise UserError(f"anchor {member.label} cannot be evaluated by {scorer.fidelity}: {reason}")


def _chained(first: Sequence[Member], rest: Iterator[Member]) -> Iterator[Member]:
    yield from first
    yield from rest


def _fields(member: Member) -> dict[str, Any]:
    return {name: getattr(member, name) for name in ("candidate", "label", "stratum", "latency_ms")}

"""Is a proxy's ranking right? Train a stratified set of architectures at each fidelity, and compare the orders.

Every evaluation is a record of the store, so an interrupted report goes on where it was, and shares what studies and
earlier reports have trained. A finished report is kept in the store; those of `experiments/trust/reports` come with
the tool.
"""

from __future__ import annotations

import os
import platform
import random
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, pairwise

import numpy as np
import torch

from evaluators.base import Evaluator, Scorer
from evaluators.combined import CombinedEvaluator
from evaluators.datasets import SegmentationDataset
from evaluators.datasets.acceptance import examined
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import dataset_named
from evaluators.datasets.scenes import Scenes
from evaluators.named import scorers_named
from evaluators.proxy import named_recipe, proxy_named, split_name
from evaluators.supernet import SupernetEvaluator
from evaluators.trust import (
    FAR_CUE_IOU_PCT,
    LEAST_RANKED,
    TOPS,
    agreement,
    decide,
    published_orderings,
    replicate_noise,
    tau_difference,
    top_regret,
    variants,
)
from evaluators.zero_cost import ZeroCostEvaluator
from experiments.store.records import Record, like
from experiments.store.store import Store
from experiments.study_config import NAME, StudyConfig
from experiments.trust.standing import FORMAT, FidelityTrust, MemberScores, OrderingRow, Stratum, TrustReport
from experiments.workers.pool import worker_pool
from experiments.workers.recorded import Want, answers
from latency_lut import tables
from latency_lut.devices.host import cpu_model
from latency_lut.table import LatencyTable, find_table
from search_space import PRESETS, SearchSpace, preset, require_anchors
from topformer.blocks import candidate_blocks
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig, anchor_name, named_arch, parse_image_size
from topformer.errors import UserError
from topformer.version import DISTRIBUTION, tool_version

BAND_SHARE_PCT = 15
MOST_DRAWS = 10_000
"""40 architectures of `pyramid` take 726."""
FIRST_DRAWS = 300
"""What latencies are usual is told from them where there is no anchor."""
_PLACE = re.compile(r"(?<![^:,=])/(?:[^/:,=]*/)*(?=[^/:,=])")
"""The folders of an absolute path, at the start of a word or after a sign that separates names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustSample:
    """Which architectures are drawn, and how often they are trained."""

    count: int
    """Anchors included."""
    band_ms: float
    seed: int
    replicates: int
    repeated: int
    orderings: bool
    """Whether the architectures that the paper compares are trained as well."""

    def __post_init__(self) -> None:
        for option, number, least in (("--replicates", self.replicates, 1), ("--repeated", self.repeated, 0)):
            if number < least:
                raise UserError(f"{option} must be at least {least}, not {number}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustPlan:
    """What a report is about. The seed, not the name, decides which architectures are drawn."""

    name: str
    space: SearchSpace
    anchors: tuple[str, ...]
    table: LatencyTable
    dataset: SegmentationDataset
    reference: Evaluator
    scorers: tuple[Scorer, ...]
    sample: TrustSample
    notices: tuple[str, ...] = ()
    """What was found of the data set, in sentences."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"a trust report's name has letters, digits, '.', '_' and '-', at most 100, not {self.name!r}; give "
                "another with --name."
            )
        if any(scorer.fingerprint == self.reference.fingerprint for scorer in self.scorers):
            raise UserError(
                f"{self.reference.fidelity} is the reference itself; leave it out of --candidates, or choose another "
                "--reference."
            )

    def members(self) -> tuple[Member, ...]:
        """Raises `UserError` for a space that has too few architectures of these latencies."""
        found = stratified(
            self.space,
            self.table,
            self.sample,
            anchors=self.anchors,
            scorers=(self.reference, *self.scorers),
        )
        return found + orderings_members(self.space.task, found, self.reference) if self.sample.orderings else found


def plan_named(
    space: str,
    *,
    name: str | None,
    table: str | None,
    data: str | None,
    size: str | None,
    reference: str,
    candidates: str,
    sample: TrustSample,
    accept: Collection[str] = (),
) -> TrustPlan:
    """The plan that names ask for: a space, a table, data and a size in px, a proxy recipe and what is judged by it.

    Warnings that speak against the data stop it unless their names are in `accept`. What is None is the study's,
    where `space` names one, or else what comes with the tool. Raises `UserError` for what does not exist or fit
    together.
    """
    study = None if space in PRESETS else _study_named(space, size)  # a study of a preset's name is that preset
    dataset = dataset_named(data or (study.evaluator.dataset if study else "scenes"))
    if isinstance(dataset, LabelledFiles):
        dataset.require_complete()
    notices = examined(dataset, accept)
    if study is not None:
        over, anchors = study.search_space(), tuple(study.search.anchors)
        if dataset.num_classes != over.task.num_classes:
            raise UserError(
                f"study {space!r} has {over.task.num_classes} classes, data set {dataset.name!r} has "
                f"{dataset.num_classes}; set the study's num_classes to {dataset.num_classes}."
            )
    else:
        task = Task(image_size=parse_image_size(size or "512"), num_classes=dataset.num_classes)
        over, anchors = preset(space, task=task), tuple(ANCHORS)
    recipe = named_recipe(split_name(reference)[0])
    return TrustPlan(
        name=name or f"{over.name}-{dataset.name}",
        space=over,
        anchors=anchors,
        table=find_table(table or (study.latency.table if study else tables.SNAPDRAGON_865)),
        dataset=dataset,
        reference=proxy_named(reference, dataset),
        scorers=scorers_named(candidates, recipe, dataset),
        sample=sample,
        notices=notices,
    )


def _study_named(text: str, size: str | None) -> StudyConfig:
    if size is not None:
        raise UserError(f"--size goes with {' or '.join(PRESETS)}; the study {text!r} says its own.")
    try:
        return StudyConfig.load(text)
    except UserError as error:
        if os.path.exists(text):  # noqa: PTH110  # Path.exists raises for a name that no file can have
            raise
        raise UserError(f"unknown search space {text!r}; available: {', '.join(sorted(PRESETS))}; {error}") from None


def run_trust(
    plan: TrustPlan,
    members: Sequence[Member],
    store: Store,
    *,
    workers: int,
    command: str,
    report: Callable[[Progress], None] = lambda _: None,
) -> TrustReport:
    """Evaluate what the store does not know of a plan's members, and keep and give the report."""
    made_by = tool_version()  # of the code that evaluates, whatever lies in its folder hours later
    wanted = wants(members, plan.reference, plan.scorers, plan.sample)
    records = evaluate_all(wanted, store, workers=workers, report=report)
    far = plan.dataset.far_classes if isinstance(plan.dataset, Scenes) else ()
    scores = _scores(members, wanted, records, far)
    low, high = band_of(plan.sample.band_ms)
    name = plan.reference.fidelity
    ranked = [one for one in scores if one.stratum != "ordering"]
    found = TrustReport(
        format=FORMAT,
        name=plan.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        machine={
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            DISTRIBUTION: made_by,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        space=plan.space.name,
        image_size=list(plan.space.task.image_size),
        num_classes=plan.space.task.num_classes,
        dataset=plan.dataset.name,
        dataset_fingerprint=plan.dataset.fingerprint,
        table=plan.table.name,
        seed=plan.sample.seed,
        band_ms=plan.sample.band_ms,
        band_low_ms=low,
        band_high_ms=high,
        reference=name,
        reference_evaluator=plan.reference.fingerprint,
        reference_noise_pct=replicate_noise([one.values[name] for one in scores]),
        reference_cpu_seconds=float(np.mean([one.cpu_seconds[name] for one in ranked])),
        reference_far_cue_found_pct=_far_cue_found_pct(ranked, name),
        fidelities=[],
        decisions=[row for one in (plan.reference, *plan.scorers) if _trains(one) for row in _decisions(scores, one)],
        members=scores,
    )
    baseline = _best_zero_cost(found, plan.scorers)
    made = replace(found, fidelities=[fidelity_trust(found, scorer, baseline) for scorer in plan.scorers])
    store.add_trust_report(plan.name, made.to_json())
    return made


def placeless(words: Sequence[str]) -> str:
    """A command as a report may hand it on: files by their names alone, and nothing of where a database is."""
    told = []
    for before, word in pairwise(("", *words)):
        if before == "--storage" or word.startswith("--storage="):
            told.append("URL" if before == "--storage" else "--storage=URL")
        else:
            told.append(_PLACE.sub("", word))
    return shlex.join(told)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An architecture of the set."""

    candidate: Candidate
    label: str
    stratum: Stratum
    latency_ms: float | None
    """None for an ordering's, whose blocks few tables have."""


def stratified(
    space: SearchSpace,
    table: LatencyTable,
    sample: TrustSample,
    *,
    anchors: Sequence[str],
    scorers: Sequence[Scorer],
) -> tuple[Member, ...]:
    """Anchors, at least half of the sample within the band, and the others evenly over the anchors' latencies.

    All at the task's image size, for scores at different sizes are not of the same pixels. Raises `UserError` where
    the space has too few.
    """
    require_anchors(space, anchors)
    _require_drawable(sample, anchors)

    def member(arch: TopFormerConfig, stratum: Stratum) -> tuple[Member, float]:
        candidate = Candidate(arch=arch, task=space.task)
        ms = table.estimate(candidate_blocks(candidate)).total_ms
        return Member(candidate=candidate, label=anchor_name(arch) or arch.key, stratum=stratum, latency_ms=ms), ms

    members = [member(named_arch(name), "anchor") for name in anchors]
    for one, _ in members:
        _require_scorable(one, scorers)
    rng = random.Random(sample.seed)
    low, high = band_of(sample.band_ms)
    drawn = (member(space.sample(rng).arch, "spread") for _ in range(MOST_DRAWS))
    first = [next(drawn) for _ in range(FIRST_DRAWS)]
    within = sum(low <= ms <= high for _, ms in members)
    wanted_in_band = max(-(-sample.count // 2) - within, 0)
    ends = [ms for _, ms in members] or list(np.percentile([ms for _, ms in first], [5, 95]))
    bins = _bins(min(ends), max(ends), (low, high), sample.count - len(members) - wanted_in_band)
    seen = {one.candidate.arch.key for one, _ in members}
    in_band: list[Member] = []
    spread: dict[int, Member] = {}
    for one, ms in chain(first, drawn):
        if len(in_band) == wanted_in_band and len(spread) == len(bins):
            break
        if one.candidate.arch.key in seen or any(scorer.why_not(one.candidate) for scorer in scorers):
            continue
        if low <= ms <= high:
            if len(in_band) < wanted_in_band:
                seen.add(one.candidate.arch.key)
                in_band.append(replace(one, stratum="band"))
            continue
        place = next((i for i, (start, end) in enumerate(bins) if start <= ms < end), None)
        if place is not None and place not in spread:
            seen.add(one.candidate.arch.key)
            spread[place] = one
    else:
        raise UserError(
            f"of {MOST_DRAWS} random architectures of {space.name!r} only {len(in_band)} of the {wanted_in_band} that "
            f"are needed lie within {low:.3g} to {high:.3g} ms, and {len(spread)} of {len(bins)} at the other "
            "latencies between the anchors; choose another band (--band-ms) or fewer architectures (--count)."
        )
    return (*(one for one, _ in members), *in_band, *(spread[place] for place in sorted(spread)))


def orderings_members(task: Task, known: Sequence[Member], reference: Scorer) -> tuple[Member, ...]:
    """The architectures that the paper compares, that are not in the set yet and that the reference can train."""
    there = {one.candidate.arch.key for one in known}
    found = [
        Member(candidate=Candidate(arch=arch, task=task), label=key, stratum="ordering", latency_ms=None)
        for key, arch in variants().items()
        if key not in there
    ]
    return tuple(one for one in found if reference.why_not(one.candidate) is None)


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


def wants(members: Sequence[Member], reference: Scorer, scorers: Sequence[Scorer], sample: TrustSample) -> list[Want]:
    """Every evaluation of a report, the most telling ones first.

    All members once by the reference and by each scorer; anchors, and the first `sample.repeated` others,
    `sample.replicates` times by whatever trains them. Those of the orderings once, likewise.
    """
    ranked = [one for one in members if one.stratum != "ordering"]
    again = [one for one in ranked if one.stratum == "anchor"]
    again += [one for one in ranked if one.stratum != "anchor"][: sample.repeated]
    every = (reference, *scorers)
    training = [scorer for scorer in every if _trains(scorer)]
    asked = [(scorer, one, 0) for one in ranked for scorer in every]
    asked += [(scorer, one, number) for number in range(1, sample.replicates) for one in again for scorer in training]
    asked += [
        (scorer, one, 0)
        for one in members
        if one.stratum == "ordering"
        for scorer in training
        if scorer.why_not(one.candidate) is None
    ]
    return [
        Want(scorer=scorer, candidate=one.candidate, replicate=replicate, called=one.label)
        for scorer, one, replicate in asked
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """After each evaluation."""

    done: int
    total: int
    want: Want
    value: float
    cached: bool
    seconds_left: float | None
    """By what evaluations of each fidelity took; None while one is unknown."""


def evaluate_all(
    wanted: Sequence[Want], store: Store, *, workers: int, report: Callable[[Progress], None] = lambda _: None
) -> list[Record]:
    """Run what the store does not know yet, and give all records in order; every result is recorded as it comes.

    Raises `UserError` for a fault of the machine, and for an evaluation that failed: a ranking without it is another.
    """
    known: dict[int, Record] = {}
    seconds: dict[str, list[float]] = {}
    with worker_pool(workers) as pool:
        for answer in answers(wanted, store, pool):
            want, known[answer.number] = wanted[answer.number], answer.record
            seconds.setdefault(want.scorer.fidelity, []).append(answer.record.seconds)
            missing = (one for number, one in enumerate(wanted) if number not in known)
            report(
                Progress(
                    done=len(known),
                    total=len(wanted),
                    want=want,
                    value=_value(answer.record, want),
                    cached=answer.cached,
                    seconds_left=_seconds_left(missing, seconds, workers),
                )
            )
    return [known[number] for number in range(len(wanted))]


def _seconds_left(missing: Iterable[Want], seconds: Mapping[str, Sequence[float]], workers: int) -> float | None:
    counts = Counter(want.scorer.fidelity for want in missing)
    if not counts.keys() <= seconds.keys():
        return None
    return sum(count * float(np.mean(seconds[fidelity])) for fidelity, count in counts.items()) / workers


def _value(record: Record, want: Want) -> float:
    """What a want is ranked by: the mIoU on the images that judge, where its evaluator scores them."""
    value = record.value if record.judge_miou_pct is None else record.judge_miou_pct
    if value is None:
        raise UserError(
            f"{want.called} failed by {want.scorer.fidelity} ({record.reason}); a ranking without it would be "
            "another one: choose another --seed, or a recipe that trains it."
        )
    return value


def band_of(band_ms: float) -> tuple[float, float]:
    """15 % below and above."""
    return band_ms * (1 - BAND_SHARE_PCT / 100), band_ms * (1 + BAND_SHARE_PCT / 100)


def _scores(
    members: Sequence[Member], wanted: Sequence[Want], records: Sequence[Record], far_classes: Sequence[int]
) -> list[MemberScores]:
    found = {
        member.candidate.key: MemberScores(
            label=member.label,
            key=member.candidate.arch.key,
            stratum=member.stratum,
            latency_ms=member.latency_ms,
            architecture=member.candidate.arch.as_dict(),
            values={},
            cpu_seconds={},
            far_iou_pct={},
        )
        for member in members
    }
    costs: dict[tuple[str, str], list[float]] = {}
    for want, record in sorted(zip(wanted, records, strict=True), key=lambda pair: pair[0].replicate):
        scores, fidelity = found[want.candidate.key], want.scorer.fidelity
        scores.values.setdefault(fidelity, []).append(_value(record, want))
        assert record.metrics is not None
        if record.metrics.cpu_seconds is None:
            raise UserError(
                f"the record of {want.called} by {fidelity} is of an earlier version, which did not "
                "measure CPU seconds; start with a new --storage."
            )
        seconds = costs.setdefault((want.candidate.key, fidelity), [])
        seconds.append(record.metrics.cpu_seconds)
        scores.cpu_seconds[fidelity] = float(np.mean(seconds))
        if far_classes and record.accuracy is not None:
            ious = [record.accuracy.per_class_iou_pct[label] for label in far_classes]
            known = [iou for iou in ious if iou is not None]
            scores.far_iou_pct.setdefault(fidelity, []).append(float(np.mean(known)) if known else 0.0)
    return list(found.values())


def fidelity_trust(report: TrustReport, scorer: Scorer, baseline: str | None) -> FidelityTrust:
    """How far the order of a scorer can be believed, whose values the report's members have."""
    name, zero_cost = scorer.fidelity, isinstance(scorer, ZeroCostEvaluator)
    overall, band = report.compared(report.ranked, name), report.compared(report.band, name)
    seconds = float(np.mean([one.cpu_seconds[name] for one in report.ranked]))
    above = None
    if baseline is not None and not zero_cost:
        above = tau_difference(*band, report.compared(report.band, baseline)[1])
    return FidelityTrust(
        fidelity=name,
        evaluator=scorer.fingerprint,
        zero_cost=zero_cost,
        overall=agreement(*overall),
        band=agreement(*band),
        regret_pct={str(top): top_regret(*overall, top=top) for top in TOPS},
        band_regret_pct={str(top): top_regret(*band, top=top) for top in TOPS} if report.band else {},
        noise_pct=None if zero_cost else replicate_noise([one.values[name] for one in report.ranked]),
        cpu_seconds=seconds,
        cost_share=seconds / report.reference_cpu_seconds,
        above_zero_cost=above,
        far_cue_found_pct=_far_cue_found_pct(report.ranked, name),
    )


def _far_cue_found_pct(ranked: Sequence[MemberScores], fidelity: str) -> float | None:
    ious = [iou for one in ranked for iou in one.far_iou_pct.get(fidelity, ())]
    return 100 * sum(iou > FAR_CUE_IOU_PCT for iou in ious) / len(ious) if ious else None


def _best_zero_cost(report: TrustReport, scorers: Sequence[Scorer]) -> str | None:
    """The one with the greatest tau within the band."""
    names = [scorer.fidelity for scorer in scorers if isinstance(scorer, ZeroCostEvaluator)]
    found = {name: agreement(*report.compared(report.band, name)) for name in names}
    taus = {name: one.kendall.value for name, one in found.items() if one is not None}
    return max(taus, key=lambda name: taus[name], default=None)


def _trains(scorer: Scorer) -> bool:
    """Whether another replicate is another training."""
    return not isinstance(scorer, ZeroCostEvaluator | SupernetEvaluator | CombinedEvaluator)


def _decisions(members: Sequence[MemberScores], scorer: Scorer) -> list[OrderingRow]:
    """Of every published ordering whose two architectures were trained; none without a known noise."""
    by_key = {one.key: one.values[scorer.fidelity] for one in members if scorer.fidelity in one.values}
    noise = replicate_noise(list(by_key.values()))
    there = [one for one in published_orderings() if one.first.key in by_key and one.second.key in by_key]
    rows = []
    for ordering in there if noise is not None else ():
        assert noise is not None
        said = decide(ordering, by_key[ordering.first.key], by_key[ordering.second.key], noise_pct=noise)
        rows.append(
            like(
                OrderingRow,
                ordering,
                fidelity=scorer.fidelity,
                ordering=ordering.name,
                difference_pct=said.difference_pct,
                margin_pct=said.margin_pct,
                verdict=said.verdict,
            )
        )
    return rows


def _require_drawable(sample: TrustSample, anchors: Sequence[str]) -> None:
    least = max(LEAST_RANKED, 2 * len(anchors))
    if sample.count < least:
        raise UserError(f"--count must be at least {least} with {len(anchors)} anchors, not {sample.count}.")
    if not 0 < sample.band_ms < float("inf"):
        raise UserError(f"--band-ms must be a positive number of ms, not {sample.band_ms:g}.")
    if sample.seed < 0:
        raise UserError(f"--seed must be a whole number from 0, not {sample.seed}.")


def _require_scorable(member: Member, scorers: Sequence[Scorer]) -> None:
    for scorer in scorers:
        if reason := scorer.why_not(member.candidate):
            raise UserError(f"anchor {member.label} cannot be evaluated by {scorer.fidelity}: {reason}")

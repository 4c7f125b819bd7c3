"""The gate: which proposals may become trials, decided before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.store.records import Origin, Proposal
from latency_lut.table import LatencyEstimate
from search_space import SearchSpace
from topformer.config import ANCHORS, Candidate
from topformer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate must keep to be evaluated in a study."""

    why_not: Callable[[Candidate], str | None]
    """Why the evaluator cannot evaluate a candidate, or None."""
    latency: Callable[[Candidate], LatencyEstimate]
    max_ms: float | None

    def over_budget(self, estimate: LatencyEstimate) -> bool:
        return self.max_ms is not None and estimate.total_ms > self.max_ms


class Gate:
    """Collects proposals that may become trials, and counts those that may not.

    A candidate passes that is new to the study, that the evaluator can evaluate, and that is within the budget. Anchors
    pass over any budget: they are what a front is compared with.
    """

    def __init__(self, space: SearchSpace, limits: Limits, *, known: set[str]) -> None:
        self.space = space
        self.limits = limits
        self.known = known
        self.proposals: list[Proposal] = []
        self.asked = self.invalid = self.over_budget = self.duplicates = 0

    def add_anchor(self, name: str) -> None:
        candidate = Candidate(arch=ANCHORS[name], task=self.space.task)
        if candidate.key in self.known:
            return  # named twice
        if reason := self.limits.why_not(candidate):
            raise UserError(f"anchor {name!r} cannot be evaluated: {reason}")
        self._accept(candidate, "anchor", name, self.limits.latency(candidate))

    def consider(self, candidate: Candidate, origin: Origin) -> None:
        self.asked += 1
        if candidate.key in self.known:
            self.duplicates += 1
            return
        if self.limits.why_not(candidate) is not None:
            self.invalid += 1
            return
        estimate = self.limits.latency(candidate)
        if self.limits.over_budget(estimate):
            self.over_budget += 1
            return
        self._accept(candidate, origin, None, estimate)

    def _accept(self, candidate: Candidate, origin: Origin, anchor: str | None, estimate: LatencyEstimate) -> None:
        self.known.add(candidate.key)
        self.proposals.append(
            Proposal(
                candidate=candidate,
                point=self.space.encode(candidate),
                origin=origin,
                anchor=anchor,
                latency=estimate,
            )
        )

"""What does a fidelity know of an order that counting does not, and how much is there to be known?

Computed from the scores that a trust report holds, so that older reports say it, too. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evaluators.baselines import RIDGE, ridge, rules
from evaluators.trust import Agreement, Estimate, agreement, partial_agreement, tau_ceiling
from topformer.config import Candidate, Task, TopFormerConfig

if TYPE_CHECKING:
    from experiments.trust.standing import MemberScores, TrustReport

Values = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beyond:
    """How a fidelity's order stands beside the best rule that trains nothing, and beside a perfect one."""

    rule: str
    """The rule that agrees best with the reference among those that need no label."""
    of_rule: Agreement
    adds: Estimate | None
    """Kendall's partial tau of the fidelity with the reference, given the rule; None where the rule tells all."""
    ceiling: float | None
    """Tau that a perfect ranker would reach against this reference; None where its noise is not known."""

    @property
    def sentence(self) -> str:
        """For wherever the fidelity's own agreement is stated."""
        text = f"by {self.rule}, which trains nothing, {self.of_rule.kendall.value:.2f}"
        if self.adds is not None:
            what = "adds" if self.surely else "adds nothing sure:"
            text += f", to which this {what} {self.adds.value:.2f} ({self.adds.low:.2f} to {self.adds.high:.2f})"
        return text if self.ceiling is None else f"{text}; a perfect ranker would have {self.ceiling:.2f}"

    @property
    def surely(self) -> bool:
        """Whether the 90 % interval of what it adds lies above 0."""
        return self.adds is not None and self.adds.low > 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.rule,
            "baseline_tau": asdict(self.of_rule.kendall),
            "adds": None if self.adds is None else asdict(self.adds),
            "ceiling": self.ceiling,
        }


def beyond(report: TrustReport, members: Sequence[MemberScores], fidelity: str) -> Beyond | None:
    """Over some of a report's members; None for fewer than 4, or where the reference says the same of all."""
    truth, values = (tuple(side) for side in report.compared(members, fidelity))
    counted = {name: tuple(map(float, one)) for name, one in rules(_candidates(report, members)).items()}
    found = {name: told for name, one in counted.items() if (told := _agreement(truth, one)) is not None}
    if not found:
        return None
    rule = max(found, key=lambda name: found[name].kendall.value)
    return Beyond(
        rule=rule,
        of_rule=found[rule],
        adds=_partial(truth, values, counted[rule]),
        ceiling=ceiling(report, members),
    )


def ceiling(report: TrustReport, members: Sequence[MemberScores]) -> float | None:
    """Tau that a perfect ranker would reach against the reference; None where that repeated nothing."""
    if report.reference_noise_pct is None or len(members) < 2:
        return None
    return _ceiling(tuple(fmean(one.values[report.reference]) for one in members), report.reference_noise_pct)


def baselines(report: TrustReport) -> Mapping[str, Values]:
    """What the rules say of the ranked architectures; ridge regression by what it learns from all others."""
    ranked = report.ranked
    if len(ranked) < 4:
        return {}
    some = _candidates(report, ranked)
    labels = [fmean(one.values[report.reference]) for one in ranked]
    return {name: tuple(map(float, one)) for name, one in {**rules(some), RIDGE: ridge(some, labels)}.items()}


def _candidates(report: TrustReport, members: Sequence[MemberScores]) -> list[Candidate]:
    height, width = report.image_size
    task = Task(image_size=(height, width), num_classes=report.num_classes)
    return [Candidate(arch=TopFormerConfig.from_dict(one.architecture), task=task) for one in members]


@lru_cache(maxsize=256)
def _agreement(truth: Values, values: Values) -> Agreement | None:
    return agreement(truth, values)


@lru_cache(maxsize=256)
def _partial(truth: Values, values: Values, given: Values) -> Estimate | None:
    return partial_agreement(truth, values, given)


@lru_cache(maxsize=256)
def _ceiling(truth: Values, noise_pct: float) -> float:
    return tau_ceiling(truth, noise_pct=noise_pct)

"""What would the reference find, judging by several cheap fidelities and the architecture? A prediction with its error.

A Gaussian process over three groups of inputs: what the cheap fidelities found and what counting knows (the injected
scales and multiply-adds) enter linearly, all else of the architecture by how alike two descriptions are. How much each
group counts is averaged over what the labels leave probable. It is fitted once, by `topformer-nas trust fit`, to the
architectures of a trust report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.stats import multivariate_normal, norm

from evaluators.base import STRICT, Metrics, Scorer, clocks
from evaluators.baselines import columns, described, log_macs
from evaluators.trust import Z_90, Estimate
from topformer.config import Candidate, Task, TopFormerConfig, content_key
from topformer.errors import UserError, first_line
from topformer.reading import MIB, file_text, strict_json

Floats = NDArray[np.float64]
Groups = tuple[Floats, Floats, Floats]
"""(n, columns) standardised inputs: what fidelities found, what is counted, and descriptions."""
COMBINED_VERSION = 1
"""Raise it with every change that changes results."""
FORMAT = 1
"""Version of the file; see docs/formats.md."""
LEAST_KNOWN = 8
MOST_KNOWN = 500
"""Architectures that a prediction can be fitted to: at the most, its matrices take 200 MB."""
_USUAL = np.array([0.0, 0.0, 0.0, 0.0, -3.0])
"""Where the logarithms of the amounts are expected: of fidelities, counting, likeness, its length, and noise."""
_SPREAD = np.array([1.5, 1.5, 1.5, 1.5, 2.0])
"""Standard deviations of the normal distributions around these."""
_TRIED = 3000
"""Draws of amounts, first from what is expected and then from about what the labels leave probable."""
_KEPT = 100
"""Draws that a prediction averages over."""
_ANY_MEAN = 100.0
"""Variance of the constant, in units of the labels' own: large, so that the mean is free."""
_LEAST_NOISE = 1e-6
_SEED = 0
MOST_AMOUNT = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An architecture whose reference score is known."""

    architecture: dict[str, Any]
    values: tuple[float, ...]
    """What each cheap fidelity found, in the order of the predictor's parts."""
    label_pct: float
    """mIoU by the reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A cheap fidelity that a prediction needs."""

    name: str
    """As `evaluators.named.scorer_named` takes it; a file's path is relative to the predictor's own file."""
    fidelity: str
    evaluator: str
    """Fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A fitted prediction of the reference's mIoU; make one with `Predictor.fit`."""

    __pydantic_config__: ClassVar = STRICT
    format: int
    report: str
    """Trust report whose architectures it was fitted to."""
    reference: str
    reference_evaluator: str
    task: dict[str, Any]
    parts: tuple[Part, ...]
    known: tuple[Known, ...]
    amounts: tuple[tuple[float, ...], ...]
    """Draws of the logarithms of how much each group of inputs counts, of the length over which descriptions are alike,
    and of the noise, as the labels leave them probable; variances in units of the labels' own."""

    @classmethod
    def fit(
        cls,
        known: Sequence[Known],
        *,
        task: Task,
        parts: Sequence[Part],
        report: str,
        reference: str,
        reference_evaluator: str,
    ) -> Predictor:
        """Learn from architectures with labels; raises `UserError` for fewer than 8, or where all score alike."""
        if not LEAST_KNOWN <= len(known) <= MOST_KNOWN or len({one.label_pct for one in known}) < 2:
            raise UserError(
                f"trust report {report!r} has {len(known)} architectures with a score by {reference}; a prediction is "
                f"fitted to {LEAST_KNOWN} to {MOST_KNOWN}, of different scores."
            )
        unfitted = cls(
            format=FORMAT,
            report=report,
            reference=reference,
            reference_evaluator=reference_evaluator,
            task=task.as_dict(),
            parts=tuple(parts),
            known=tuple(known),
            amounts=(),
        )
        kept = unfitted.probable_amounts(np.random.default_rng(_SEED))
        return replace(unfitted, amounts=tuple(tuple(float(value) for value in one) for one in kept))

    def probable_amounts(self, rng: np.random.Generator) -> Floats:
        """(draws, 5), by importance sampling: from what is expected, then from near what that found probable."""
        drawn = rng.normal(_USUAL, _SPREAD, (_TRIED, len(_USUAL)))
        weights = _shares(self._evidence(drawn))
        mean = weights @ drawn
        spread = 1.5 * ((drawn - mean).T * weights) @ (drawn - mean) + 0.01 * np.diag(_SPREAD**2)
        near = multivariate_normal(mean, spread)
        drawn = near.rvs(_TRIED, random_state=rng)
        expected = norm(_USUAL, _SPREAD).logpdf(drawn).sum(axis=1)
        weights = _shares(self._evidence(drawn) + expected - near.logpdf(drawn))
        evenly = (np.arange(_KEPT) + 0.5) / _KEPT
        return np.asarray(drawn[np.searchsorted(np.cumsum(weights), evenly).clip(max=_TRIED - 1)])

    def predict(self, candidate: Candidate, values: Sequence[float]) -> Estimate:
        """mIoU that one training by the reference would find, in per cent, with its 90 % interval.

        `values` are what the parts found, in their order.
        """
        asked = self._standardised([candidate], np.array([values], float))
        across = _covariance(asked, self._inputs, self._amounts)[:, 0]  # (draws, known)
        own = _covariance(asked, asked, self._amounts)[:, 0, 0] + _noise(self._amounts)
        solved = (self._inverses @ across[..., None])[..., 0]
        return self._averaged((solved @ self._labels)[:, None], (own - (across * solved).sum(-1))[:, None])[0]

    @cached_property
    def left_out(self) -> tuple[Estimate, ...]:
        """What all others say of each known architecture, amounts as fitted to all."""
        variances = 1 / np.diagonal(self._inverses, axis1=1, axis2=2)
        return self._averaged(self._labels - (self._inverses @ self._labels) * variances, variances)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Predictor:
        """Raises `UserError`, in one sentence, for a file that is none."""
        try:
            text = file_text(path, "the combined evaluator", most_bytes=16 * MIB)
            strict_json(text)
            found = _READER.validate_json(text)
            wrong = found.wrong()
        except ValidationError as error:
            first = error.errors()[0]
            wrong = f"{'.'.join(str(part) for part in first['loc']) or 'its content'}: {first['msg']}"
        except (ValueError, RecursionError) as error:
            wrong = first_line(error)
        if wrong:
            raise UserError(f"{path} is no combined evaluator ({wrong}); make one with: topformer-nas trust fit")
        _ = found.candidates  # its task and architectures are refused now, not in a worker
        return found

    def wrong(self) -> str | None:
        """What cannot be of its content, in a few words."""
        if self.format != FORMAT:
            return f"its format is {self.format}, this tool reads {FORMAT}"
        if not self.amounts or len(self.amounts) > _TRIED or any(len(one) != len(_USUAL) for one in self.amounts):
            return f"amounts must be 1 to {_TRIED} rows of {len(_USUAL)} numbers"
        if any(abs(value) > MOST_AMOUNT for one in self.amounts for value in one):
            return f"amounts must be from -{MOST_AMOUNT} to {MOST_AMOUNT}"
        if not LEAST_KNOWN <= len(self.known) <= MOST_KNOWN:
            return f"it knows {len(self.known)} architectures, not {LEAST_KNOWN} to {MOST_KNOWN}"
        if len({one.label_pct for one in self.known}) < 2:
            return "all its architectures score alike"
        if not self.parts or any(len(one.values) != len(self.parts) for one in self.known):
            return "each architecture must have a value for each of its parts"
        return None

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The known architectures on the task."""
        task = Task.from_dict(self.task, where="task of a combined evaluator")
        where = "architecture of a combined evaluator"
        return tuple(
            Candidate(arch=TopFormerConfig.from_dict(one.architecture, where=where), task=task) for one in self.known
        )

    @cached_property
    def _amounts(self) -> Floats:
        return np.array(self.amounts)

    @cached_property
    def _labels(self) -> Floats:
        """Standardised; (known,)."""
        labels = np.array([one.label_pct for one in self.known])
        return np.asarray((labels - labels.mean()) / labels.std())

    @cached_property
    def _inputs(self) -> Groups:
        return self._standardised(self.candidates, np.array([one.values for one in self.known], float))

    def _evidence(self, amounts: Floats) -> Floats:
        """Logarithm of how probable the labels are with each of some amounts (draws, 5), up to a constant; (draws,)."""
        found = []
        for some in np.array_split(amounts, max(len(amounts) // 100, 1)):  # as many matrices as memory holds with ease
            factors = np.linalg.cholesky(self._covariances(some))
            white = np.linalg.solve(factors, np.broadcast_to(self._labels[:, None], (*factors.shape[:2], 1)))[..., 0]
            found.append(-0.5 * (white**2).sum(-1) - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(-1))
        return np.concatenate(found)

    @cached_property
    def _inverses(self) -> Floats:
        """(draws, known, known)"""
        return np.asarray(np.linalg.inv(self._covariances(self._amounts)))

    def _covariances(self, amounts: Floats) -> Floats:
        """Between the known architectures, noise included; (draws, known, known)."""
        noise = _noise(amounts)[:, None, None] * np.eye(len(self.known))
        return _covariance(self._inputs, self._inputs, amounts) + noise

    @cached_property
    def _scales(self) -> tuple[tuple[str, ...], tuple[Floats, Floats], tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Names of what a description varies in, and mean and spread of each column of the three groups."""
        rows = [described(one) for one in self.candidates]
        names = tuple(sorted(set().union(*rows)))
        groups = (np.array([one.values for one in self.known]), _counted(self.candidates), columns(rows, names))
        found, counted, alike = ((group.mean(axis=0), group.std(axis=0)) for group in groups)
        return names, found, counted, alike

    def _standardised(self, candidates: Sequence[Candidate], values: Floats) -> Groups:
        """(n, columns) of each group; a column that does not vary among the known says nothing."""
        names, found, counted, alike = self._scales
        groups = (values, _counted(candidates), columns([described(one) for one in candidates], names))
        return tuple(  # type: ignore[return-value]
            np.divide(group - mean, spread, out=np.zeros_like(group), where=spread > 0)
            for group, (mean, spread) in zip(groups, (found, counted, alike), strict=True)
        )

    def _averaged(self, means: Floats, variances: Floats) -> tuple[Estimate, ...]:
        """Over the draws, from (draws, n) standardised means and variances."""
        labels = np.array([one.label_pct for one in self.known])
        mean = means.mean(axis=0)
        deviation = np.sqrt(variances.mean(axis=0).clip(min=0) + means.var(axis=0))
        values, margins = mean * labels.std() + labels.mean(), Z_90 * deviation * labels.std()
        return tuple(
            Estimate(value=float(value), low=float(value - margin), high=float(value + margin))
            for value, margin in zip(values, margins, strict=True)
        )


class CombinedEvaluator:
    """mIoU as the reference would find it, predicted from cheap fidelities; an `Evaluator` that keeps no weights."""

    def __init__(self, predictor: Predictor, parts: Sequence[Scorer], *, where: str) -> None:
        """`parts` are the scorers that the predictor names; refuses others, or others' data, than it was fitted to."""
        if any(isinstance(part, CombinedEvaluator) for part in parts):
            raise UserError(f"{where}: a prediction from predictions is none; fit it to what they are made of.")
        for part, scorer in zip(predictor.parts, parts, strict=True):
            if scorer.fingerprint != part.evaluator:
                raise UserError(
                    f"{where} was fitted to {part.fidelity} of evaluator {part.evaluator}, here it is "
                    f"{scorer.fingerprint}: other images, another recipe or another version; fit it again with: "
                    "topformer-nas trust fit"
                )
        self.predictor = predictor
        self.parts = tuple(parts)
        named = [asdict(part) | {"name": ""} for part in predictor.parts]  # wherever their files lie
        self.fingerprint = content_key([COMBINED_VERSION, asdict(predictor) | {"parts": named}])

    @property
    def fidelity(self) -> str:
        """With the first digits of its content: there may be several."""
        return f"combined-{self.fingerprint[:8]}"

    def why_not(self, candidate: Candidate) -> str | None:
        """The first reason of any part, or a task that it was not fitted to."""
        known, asked = self.predictor.candidates[0].task, candidate.task
        if asked.num_classes != known.num_classes:
            return f"the prediction is for {known.num_classes} classes, the candidate has {asked.num_classes}."
        if asked.image_size != known.image_size:
            return f"the prediction is for {known.pixels} px, the candidate has {asked.pixels}."
        return next((reason for part in self.parts if (reason := part.why_not(candidate))), None)

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None = None) -> Metrics:
        """Evaluate by each part, and predict; there are no weights that have the predicted mIoU."""
        if reason := self.why_not(candidate):
            raise UserError(reason)
        wall, cpu = clocks()
        found = [part.evaluate(candidate, replicate=replicate, weights_out=None).value for part in self.parts]
        predicted = self.predictor.predict(candidate, found)
        now, spent = clocks()
        return Metrics(
            miou_pct=min(max(predicted.value, 0.0), 100.0),
            miou_margin_pct=predicted.high - predicted.value,
            per_class_iou_pct=(),
            pixel_accuracy_pct=None,
            train_loss=None,
            seconds=now - wall,
            cpu_seconds=spent - cpu,
        )


def _covariance(one: Groups, other: Groups, amounts: Floats) -> Floats:
    """Between n and m architectures with each of some amounts; (draws, n, m)."""
    found, counted, alike, length = np.exp(amounts[:, :4]).T[..., None, None]
    width = max(one[2].shape[1], 1)
    apart = ((one[2][:, None] - other[2][None]) ** 2).sum(-1) / (2 * width)
    linear = found * (one[0] @ other[0].T) + counted * (one[1] @ other[1].T)
    return np.asarray(_ANY_MEAN + linear + alike * np.exp(-apart / length))


def _noise(amounts: Floats) -> Floats:
    """(draws,)"""
    return np.asarray(np.exp(amounts[:, 4]) + _LEAST_NOISE)


def _shares(logs: Floats) -> Floats:
    """Weights that sum to 1, by their logarithms."""
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _counted(candidates: Sequence[Candidate]) -> Floats:
    """(n, 2): injected scales, and the logarithm of multiply-adds."""
    return np.array([[len(one.arch.injected_strides), log_macs(one)] for one in candidates], float)


_READER = TypeAdapter(Predictor)

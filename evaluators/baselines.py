"""How much of the order of architectures is known without evaluating any of them?

The strongest simple rules that a fidelity is held against. Those without labels train nothing and see no score:
counting the injected scales, then multiply-adds; and multiply-adds alone. The one with labels is ridge regression on
all that an architecture's description says, fitted on the same reference scores that judge it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topformer.blocks import candidate_blocks
from topformer.config import Candidate

Floats = NDArray[np.float64]
SCALES_THEN_MACS = "scales, then MACs"
MACS = "MACs"
RIDGE = "ridge"
STRENGTHS = np.geomspace(1e-3, 1e3, 25)
"""Strengths of the penalty among which ridge regression takes the one that errs least on what it left out."""


@lru_cache(maxsize=4096)
def macs_g(candidate: Candidate) -> float:
    """Multiply-adds of a network in thousands of millions."""
    return sum(block.macs for block in candidate_blocks(candidate)) / 1e9


def rules(candidates: Sequence[Candidate]) -> Mapping[str, Floats]:
    """Values of each rule that needs no label, by its name; (architectures,) each, the higher the better."""
    macs = np.array([macs_g(one) for one in candidates])
    scales = np.array([len(one.arch.injected_strides) for one in candidates], float)
    return {SCALES_THEN_MACS: 1e6 * scales + macs, MACS: macs}


def ridge(candidates: Sequence[Candidate], labels: Sequence[float]) -> Floats:
    """Each architecture's label as predicted from those of all others; (architectures,).

    The strength of the penalty is chosen on the same errors, which flatters this baseline, if anything.
    """
    inputs = _features(candidates)
    values = np.asarray(labels, float)
    left, sizes, _ = np.linalg.svd(inputs, full_matrices=False)
    predictions = []
    for strength in STRENGTHS:
        hat = 1 / len(values) + (left * (sizes**2 / (sizes**2 + strength))) @ left.T  # the mean is not penalised
        predictions.append(values - (values - hat @ values) / (1 - np.diag(hat)))
    return min(predictions, key=lambda one: float(((one - values) ** 2).sum()))


def log_macs(candidate: Candidate) -> float:
    return float(np.log(macs_g(candidate)))


def described(candidate: Candidate) -> dict[str, float]:
    """Every number of an architecture's description by its path, a 1 for each word, and the logarithm of MACs."""
    return {**dict(_flat(candidate.arch.as_dict())), "log macs": log_macs(candidate)}


def columns(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Floats:
    """(rows, names); what a description does not have is 0."""
    return np.array([[row.get(name, 0.0) for name in names] for row in rows], float).reshape(len(rows), len(names))


def _features(candidates: Sequence[Candidate]) -> Floats:
    """(architectures, features), standardised; what does not vary is left out."""
    rows = [described(one) for one in candidates]
    names = sorted(set().union(*rows))
    table = columns(rows, names)
    varied = table[:, table.std(axis=0) > 0]
    return np.asarray((varied - varied.mean(axis=0)) / varied.std(axis=0))


def _flat(value: Any, name: str = "") -> list[tuple[str, float]]:
    """The numbers of a nested description by their paths; a word is a column of its own that is 1."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}")]
    if isinstance(value, list | tuple):
        return [pair for place, inner in enumerate(value) for pair in _flat(inner, f"{name}.{place}")]
    if isinstance(value, bool | int | float):
        return [(name, float(value))]
    return [(f"{name}={value}", 1.0)]

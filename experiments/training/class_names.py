"""Are weights meant for the classes of a data set? Their names must agree, in their order, or nothing is claimed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from evaluators.datasets.acceptance import Warned, other_classes, require_accepted
from topformer.weights import saved_architecture, saved_classes


def require_named_alike(weights: Path, data: str, names: Sequence[str], accepted: Collection[str]) -> None:
    """Raises `UserError` where weights name other classes than a data set, unless "class-order" is accepted."""
    require_accepted(named_otherwise(weights, data, names), accepted)


def named_otherwise(weights: Path, data: str, names: Sequence[str]) -> tuple[Warned, ...]:
    """What is wrong where weights name as many classes as a data set has, but others, or in another order."""
    own = () if saved_architecture(weights) is None else tuple(name for name, _ in saved_classes(weights))
    warned = other_classes(weights, own, data, names)
    return () if warned is None else (warned,)

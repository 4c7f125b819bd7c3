"""Which evaluator does a name mean? Proxy recipes, inherited weights, predictions, zero-cost proxies."""

from __future__ import annotations

from pathlib import Path

from evaluators.base import Evaluator, Scorer
from evaluators.combined import CombinedEvaluator, Predictor
from evaluators.datasets import SegmentationDataset
from evaluators.proxy import RECIPES, REFERENCE, ProxyRecipe, proxy_named, split_name
from evaluators.supernet import inheriting
from evaluators.zero_cost import ZERO_COST, ZeroCostEvaluator
from topformer.errors import UserError, unknown_name

ZERO_COST_ALL = "zero-cost"
_PROXY_PREFIX = "proxy@"


def evaluator_named(text: str, dataset: SegmentationDataset) -> Evaluator:
    """A proxy by its recipe's name and options, inherited weights by `supernet:FILE`, trained on by `tuned:FILE`, or a
    prediction from several of these by `combined:FILE`."""
    if text in ZERO_COST:
        raise UserError(f"{text!r} gives no mIoU; it can score what a [[screen]] turns away.")
    return inheriting(text, dataset) or combining(text, dataset) or proxy_named(text, dataset)


def scorer_named(name: str, recipe: ProxyRecipe, dataset: SegmentationDataset) -> Scorer:
    """What `evaluator_named` knows, a proxy recipe also as `proxy@RECIPE`, or a zero-cost proxy.

    Zero-cost proxies look at the canvas of `recipe`.
    """
    if found := inheriting(name, dataset) or combining(name, dataset):
        return found
    if name in ZERO_COST:
        return ZeroCostEvaluator(name, recipe, dataset)
    proxy = name.removeprefix(_PROXY_PREFIX)
    if split_name(proxy)[0] not in RECIPES:
        raise unknown_name(
            "fidelity",
            name,
            (*RECIPES, *ZERO_COST),
            advice=f"{ZERO_COST_ALL} means all of the latter; inherited weights are supernet:FILE or tuned:FILE, "
            "a prediction is combined:FILE.",
        )
    return proxy_named(proxy, dataset)


def combining(text: str, dataset: SegmentationDataset) -> CombinedEvaluator | None:
    """The evaluator that `combined:FILE` names, its parts' files beside that file; None for any other text."""
    kind, colon, file = text.partition(":")
    if kind != "combined" or not colon:
        return None
    if not file.strip():
        raise UserError(f"{text!r} names no file; name what trust fit wrote, like combined:fitted.json.")
    path = Path(file)
    predictor = Predictor.load(path)
    parts = [scorer_named(beside(path, part.name), REFERENCE, dataset) for part in predictor.parts]
    return CombinedEvaluator(predictor, parts, where=file)


def beside(path: Path, name: str) -> str:
    """A part's name as seen from here, where its file is named as seen from the predictor's folder."""
    kind, colon, file = name.partition(":")
    return f"{kind}:{path.parent / file}" if colon else name


def scorers_named(text: str, recipe: ProxyRecipe, dataset: SegmentationDataset) -> tuple[Scorer, ...]:
    """From names with commas between: those of `scorer_named`, or `zero-cost` for all zero-cost proxies.

    Raises `UserError` for a name that is unknown or there twice.
    """
    words = [word.strip() for word in text.split(",")]
    names = [name for word in words for name in (ZERO_COST if word == ZERO_COST_ALL else (word,))]
    scorers = tuple(scorer_named(name, recipe, dataset) for name in names)
    if twice := next((one.fidelity for one in scorers if [s.fidelity for s in scorers].count(one.fidelity) > 1), None):
        raise UserError(f"candidate {twice!r} is named twice; name each once.")
    return scorers

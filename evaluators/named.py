"""Which evaluator does a name mean? Proxy recipes, inherited weights, zero-cost proxies."""

from __future__ import annotations

from evaluators.base import Evaluator, Scorer
from evaluators.datasets import SegmentationDataset
from evaluators.proxy import RECIPES, ProxyEvaluator, ProxyRecipe, named_recipe
from evaluators.supernet import inheriting
from evaluators.zero_cost import ZERO_COST, ZeroCostEvaluator
from topformer.errors import UserError, unknown_name

ZERO_COST_ALL = "zero-cost"
_PROXY_PREFIX = "proxy@"


def evaluator_named(text: str, dataset: SegmentationDataset) -> Evaluator:
    """A proxy by its recipe's name, inherited weights by `supernet:FILE`, or trained on by `tuned:FILE`."""
    if text in ZERO_COST:
        raise UserError(f"{text!r} gives no mIoU; it can score what a [[screen]] turns away.")
    return inheriting(text, dataset) or ProxyEvaluator(named_recipe(text), dataset)


def scorer_named(name: str, recipe: ProxyRecipe, dataset: SegmentationDataset) -> Scorer:
    """What `evaluator_named` knows, a proxy recipe also as `proxy@RECIPE`, or a zero-cost proxy.

    Zero-cost proxies look at the canvas of `recipe`.
    """
    if found := inheriting(name, dataset):
        return found
    if name in ZERO_COST:
        return ZeroCostEvaluator(name, recipe, dataset)
    proxy = name.removeprefix(_PROXY_PREFIX)
    if proxy not in RECIPES:
        raise unknown_name(
            "fidelity",
            name,
            (*RECIPES, *ZERO_COST),
            advice=f"{ZERO_COST_ALL} means all of the latter; inherited weights are supernet:FILE or tuned:FILE.",
        )
    return ProxyEvaluator(named_recipe(proxy), dataset)


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

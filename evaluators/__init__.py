"""What is a candidate worth? Costs, short trainings and the metrics they give, with a fingerprint on every number.

May import topformer, latency_lut, search_space, torch, numpy and fvcore. Names load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluators.base import Evaluator, Metrics
    from evaluators.cost import Costs, costs
    from evaluators.datasets import SegmentationDataset
    from evaluators.datasets.named import dataset_named
    from evaluators.datasets.scenes import Scenes
    from evaluators.evaluation import evaluate
    from evaluators.proxy import ProxyEvaluator, ProxyRecipe
    from evaluators.recipe import Augmentation, Protocol, ResizedCrop, TrainingRecipe
    from evaluators.segmentation import ConfusionMatrix
    from evaluators.training import Execution, NonFiniteLoss, Trained, train

__all__ = [
    "Augmentation",
    "ConfusionMatrix",
    "Costs",
    "Evaluator",
    "Execution",
    "Metrics",
    "NonFiniteLoss",
    "Protocol",
    "ProxyEvaluator",
    "ProxyRecipe",
    "ResizedCrop",
    "Scenes",
    "SegmentationDataset",
    "Trained",
    "TrainingRecipe",
    "costs",
    "dataset_named",
    "evaluate",
    "train",
]

_HOMES = {
    "ConfusionMatrix": "evaluators.segmentation",
    "Costs": "evaluators.cost",
    "Evaluator": "evaluators.base",
    "Metrics": "evaluators.base",
    "NonFiniteLoss": "evaluators.training",
    "ProxyEvaluator": "evaluators.proxy",
    "ProxyRecipe": "evaluators.proxy",
    "Scenes": "evaluators.datasets.scenes",
    "SegmentationDataset": "evaluators.datasets",
    "Augmentation": "evaluators.recipe",
    "Execution": "evaluators.training",
    "Protocol": "evaluators.recipe",
    "ResizedCrop": "evaluators.recipe",
    "Trained": "evaluators.training",
    "TrainingRecipe": "evaluators.recipe",
    "evaluate": "evaluators.evaluation",
    "train": "evaluators.training",
    "costs": "evaluators.cost",
    "dataset_named": "evaluators.datasets.named",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evaluators' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

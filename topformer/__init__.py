"""TopFormer (Token Pyramid Transformer, CVPR 2022, arXiv:2204.05525), parameterised.

Names that need torch are loaded when first used: `import topformer` and its configs stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from topformer.config import ANCHORS, BASE, SMALL, TINY, Candidate, MBConv, Task, TopFormerConfig
from topformer.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from topformer.model import TopFormer, TopFormerClassifier
    from topformer.weights import load_backbone, load_classifier, load_model, save_model, saved_model

__all__ = [
    "ANCHORS",
    "BASE",
    "SMALL",
    "TINY",
    "Candidate",
    "CheckpointError",
    "MBConv",
    "Task",
    "TopFormer",
    "TopFormerClassifier",
    "TopFormerConfig",
    "UserError",
    "load_backbone",
    "load_classifier",
    "load_model",
    "save_model",
    "saved_model",
]

_NEED_TORCH = {
    "topformer.model": ("TopFormer", "TopFormerClassifier"),
    "topformer.weights": ("load_backbone", "load_classifier", "load_model", "save_model", "saved_model"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NEED_TORCH.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'topformer' has no attribute {name!r}")

"""How many milliseconds does each block of a network take on one device? Tables, and the measurement that fills them.

Names that need torch are loaded when first used: a query never waits for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latency_lut.table import (
    ErrorModel,
    LatencyDifference,
    LatencyEstimate,
    LatencyRow,
    LatencyTable,
    MissingRows,
    NetworkCheck,
    TableHeader,
    available_tables,
    find_table,
    user_tables_folder,
)

if TYPE_CHECKING:
    from latency_lut.measure import Timing, measure_table

__all__ = [
    "ErrorModel",
    "LatencyDifference",
    "LatencyEstimate",
    "LatencyRow",
    "LatencyTable",
    "MissingRows",
    "NetworkCheck",
    "TableHeader",
    "Timing",
    "available_tables",
    "find_table",
    "measure_table",
    "user_tables_folder",
]

_NEED_TORCH = {"Timing": "latency_lut.measure", "measure_table": "latency_lut.measure"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'latency_lut' has no attribute {name!r}")
    return getattr(import_module(_NEED_TORCH[name]), name)

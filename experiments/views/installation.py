"""What does this installation have? For bug reports, and for the person who wonders why something is slow."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments import without_password
from experiments.store.store import Store
from latency_lut.devices.host import cpu_model
from latency_lut.table import available_tables, find_table
from topformer.errors import UserError
from topformer.version import DISTRIBUTION, tool_version

LIBRARIES = (
    "torch",
    "numpy",
    "optuna",
    "ray",
    "fvcore",
    "onnx",
    "onnxruntime",
    "sqlalchemy",
    "streamlit",
)


def diagnose(storage: str) -> dict[str, dict[str, Any]]:
    """Findings by topic; nothing is created or changed."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
            "gpu": _gpu(),
        },
        "packages": {DISTRIBUTION: tool_version()} | {name: _version(name) for name in LIBRARIES},
        "store": _store(storage),
        "tables": {path.stem: _table(path) for path in available_tables()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _table(path: Path) -> str:
    try:
        table = find_table(path)
    except UserError as error:
        return str(error)
    return f"{table.kind}, {len(table.rows)} rows, {table.header.soc}"


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _store(storage: str) -> dict[str, Any]:
    try:
        with Store.open(storage, read_only=True) as store:
            studies = store.studies()
            return {
                "url": without_password(storage),
                "state": "readable",
                "studies": ", ".join(s.name for s in studies) or "none",
            }
    except UserError as error:
        return {"url": without_password(storage), "state": str(error)}

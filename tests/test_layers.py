"""The layers of the design: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "topformer": set(),
    "search_space": {"topformer"},
    "latency_lut": {"topformer"},
    "evaluators": {"search_space", "latency_lut", "topformer"},
    "experiments": {"evaluators", "search_space", "latency_lut", "topformer", "dashboard"},  # only to launch it
    "dashboard": {"experiments", "evaluators", "search_space", "latency_lut", "topformer"},
}
FOREIGN_TO = {
    "topformer": {"optuna", "ray", "streamlit", "sqlalchemy", "onnx", "onnxruntime", "fvcore"},
    "search_space": {"torch", "optuna", "ray", "streamlit", "sqlalchemy"},
    "latency_lut": {"optuna", "ray", "streamlit", "sqlalchemy"},
    "evaluators": {"optuna", "ray", "streamlit", "sqlalchemy"},
    "experiments": {"streamlit"},
    "dashboard": set(),
}


def imports(package: str) -> Iterator[tuple[Path, str]]:
    """(file, top-level name) of every import statement of a package, wherever it stands."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield path, node.module.split(".")[0]


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_the_layers_below_it(package: str) -> None:
    legal = BELOW[package] | {package}
    wrong = [(str(path), name) for path, name in imports(package) if name in BELOW and name not in legal]
    assert wrong == []


def test_only_the_command_line_launches_the_dashboard() -> None:
    users = {path.name for path, name in imports("experiments") if name == "dashboard"}
    assert users <= {"cli.py"}


@pytest.mark.parametrize("package", FOREIGN_TO)
def test_a_package_stays_clear_of_the_libraries_of_upper_layers(package: str) -> None:
    wrong = [(str(path), name) for path, name in imports(package) if name in FOREIGN_TO[package]]
    assert wrong == []


def test_no_library_imports_the_command_line() -> None:
    libraries = [path for path in (ROOT / "experiments").rglob("*.py") if path.parent.name != "cli"]
    users = {path.name for path in libraries if "experiments.cli" in path.read_text(encoding="utf-8")}
    assert users <= {"__main__.py"}


@pytest.mark.parametrize(
    "module",
    [
        "topformer.config",
        "topformer.blocks",
        "topformer.keys",
        "topformer.version",
        "search_space",
        "search_space.space",
        "latency_lut.table",
        "experiments.trust.standing",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_is_a_utility_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    found = [path for package in BELOW for path in (ROOT / package).rglob("*.py") if path.name in drawers]
    assert found == []

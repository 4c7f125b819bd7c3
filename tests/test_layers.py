"""The layers and rooms of `docs/architecture.md`: who may import whom, which libraries stay where, what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the table below a heading of the architecture's page, by their first cell without its back-quotes."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows[2:]}


PACKAGES = table("Packages")
ROOMS = table("Rooms of `experiments`")
UNDER_VIEWS = ("search", "export")
"""What no view needs, though it is above them in the table."""


def imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, module) of every import statement below a folder, wherever it stands."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path} imports by dots"
                yield path, node.module


def rooms_of(path: Path, module: str) -> tuple[str, str] | None:
    """The rooms of `experiments` that an import leads from and to; None where it is of no two rooms."""
    first, _, rest = module.partition(".")
    here = path.relative_to(ROOT / "experiments").with_suffix("").parts[0]
    there = rest.partition(".")[0]
    return (here, there) if first == "experiments" and rest and here in ROOMS and there != here else None


def test_the_page_names_every_package_and_room() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    rooms = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    rooms |= {path.stem for path in (ROOT / "experiments").glob("*.py") if not path.stem.startswith("__")}
    assert set(PACKAGES) == packages
    assert set(ROOMS) == rooms - {"studies"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_of_its_row(package: str) -> None:
    legal = {package, *PACKAGES[package][1].split()}
    tops = [(str(path), module.partition(".")[0]) for path, module in imports(ROOT / package)]
    assert [(path, top) for path, top in tops if top in PACKAGES and top not in legal] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_stays_clear_of_the_libraries_of_upper_layers(package: str) -> None:
    foreign = PACKAGES[package][2].split()
    assert [(str(path), name) for path, name in imports(ROOT / package) if name.partition(".")[0] in foreign] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    order = list(ROOMS)
    legal = {one for one in order[: order.index(room)] if room != "views" or one not in UNDER_VIEWS}
    arrows = [(path, rooms_of(path, module)) for path, module in imports(ROOT / "experiments")]
    wrong = [(str(path), arrow) for path, arrow in arrows if arrow and arrow[0] == room and arrow[1] not in legal]
    assert wrong == []


@pytest.mark.parametrize(("room", "library"), [(room, one) for room in ROOMS for one in ROOMS[room][1].split()])
def test_a_library_stays_in_its_room(room: str, library: str) -> None:
    files = [path for path, name in imports(ROOT / "experiments") if name.partition(".")[0] == library]
    rooms = {path.relative_to(ROOT / "experiments").with_suffix("").parts[0] for path in files}
    assert rooms - {"benchmarks"} == {room}


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
        "experiments.study_config",
        "experiments.store.records",
        "experiments.front.lookup",
        "experiments.front.pareto",
        "experiments.front.confidence",
    ],
)
def test_light_modules_load_neither_torch_nor_a_database(module: str) -> None:
    assert loaded_by(module) & {"torch", "sqlalchemy", "optuna", "ray", "streamlit", "onnx"} == set()


def test_what_a_trust_report_says_needs_no_torch() -> None:
    assert "torch" not in loaded_by("experiments.trust.standing")


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_no_file_is_a_utility_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name in drawers]
    assert found == []

"""What is installed is what the design says: flat packages, one command, data files, a pinned set."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

from packaging.requirements import Requirement
from setuptools import find_packages

from topformer.version import PACKAGES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_folder_is_found() -> None:
    tops = ("topformer", "search_space", "latency_lut", "evaluators", "experiments", "dashboard")
    folders = {
        str(p.parent.relative_to(ROOT)).replace("/", ".") for top in tops for p in (ROOT / top).rglob("__init__.py")
    }
    assert folders == set(
        find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    )


def test_there_is_one_console_command() -> None:
    ours = [
        point.name
        for point in entry_points(group="console_scripts")
        if point.dist and point.dist.name == "topformer-nas"
    ]
    assert ours == ["topformer-nas"]


def test_every_dependency_is_pinned_and_the_pin_is_installed() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pins = {name.lower(): pin for name, pin in pins.items()}
    project = PROJECT["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text
        assert version(requirement.name).partition("+")[0] == pins[requirement.name.lower()], text


def test_the_given_packages_are_dependencies() -> None:
    names = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    assert names >= {"torch", "optuna", "ray", "fvcore", "onnx", "onnxruntime", "sqlalchemy", "streamlit"}


def test_the_version_is_that_of_all_packages_that_are_installed() -> None:
    assert {name.partition(".")[0] for name in find_packages(str(ROOT), exclude=["tests*"])} == set(PACKAGES)

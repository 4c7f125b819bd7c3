"""Two states of the code have two versions, and another repository is never taken for ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from topformer.version import PACKAGES, version_of

ROOT = Path(__file__).parents[2]
MODULE = Path("topformer") / "blocks.py"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine git takes longer than the two seconds after which contents are read instead."""
    monkeypatch.setattr("topformer.version._PATIENCE_S", 300)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ("git", *who, *words), cwd=folder, env=plain, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_all(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")[:12]


def installed(folder: Path) -> Path:
    """What a wheel puts into site-packages."""
    left_out = shutil.ignore_patterns("__pycache__", "benchmarks", "results")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=left_out)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / MODULE).write_text("one = 1\n")
    results = tmp_path / "experiments" / "results"
    results.mkdir()
    (results / "found.json").write_text("{}")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "topformer-nas"\n')
    return tmp_path


def test_what_is_installed_is_told_by_its_contents(tmp_path: Path) -> None:
    before = version_of(installed(tmp_path))
    assert before.partition("+")[2].startswith("h")
    assert version_of(tmp_path) == before
    with (tmp_path / MODULE).open("a") as file:
        file.write("\n")
    assert version_of(tmp_path) != before


def test_a_checkout_without_version_control_is_as_what_is_installed_from_it(tmp_path: Path, checkout: Path) -> None:
    before = version_of(checkout)
    shutil.rmtree(checkout / "experiments" / "results")
    (checkout / "pyproject.toml").unlink()
    assert version_of(tmp_path) == before


def test_a_commit_is_told_by_its_name_and_a_changed_package_by_a_word(checkout: Path) -> None:
    commit = commit_all(checkout)
    assert version_of(checkout).endswith(f"+g{commit}")
    (checkout / "README.md").write_text("new")
    (checkout / "pyproject.toml").write_text('[project]\nname = "topformer-nas"\nreadme = "README.md"\n')
    (checkout / "experiments" / "results" / "found.json").write_text("{ }")
    assert version_of(checkout).endswith(f"+g{commit}")
    (checkout / MODULE).write_text("one = 2\n")
    assert version_of(checkout).endswith(f"+g{commit}.dirty")


def test_a_repository_around_site_packages_is_not_ours(tmp_path: Path) -> None:
    inside = tmp_path / "venv" / "lib" / "site-packages"
    inside.mkdir(parents=True)
    (inside / "topformer").mkdir()
    (inside / MODULE).write_text("one = 1\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "topformer-nas"\n')
    commit_all(tmp_path)
    assert "+h" in version_of(inside)


@pytest.mark.parametrize("project", [None, "[project]\nname = 'theirs'\n", "project = 1\n", "[project"])
def test_another_project_that_carries_the_packages_is_not_ours(project: str | None, checkout: Path) -> None:
    (checkout / "pyproject.toml").unlink()
    if project is not None:
        (checkout / "pyproject.toml").write_text(project)
    commit_all(checkout)
    assert "+h" in version_of(checkout)


def test_a_hook_of_another_repository_changes_nothing(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = commit_all(checkout)
    other = tmp_path_factory.mktemp("other")
    (other / "file").write_text("")
    commit_all(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert version_of(checkout).endswith(f"+g{commit}")


@pytest.mark.parametrize(
    "script", [None, "exit 128", "exec /bin/sleep 60", "echo '# branch.oid (initial)'", "printf '\\377'"]
)
def test_where_git_does_not_answer_contents_do(
    script: str | None, checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = version_of(checkout)
    commit_all(checkout)
    programs = tmp_path_factory.mktemp("bin")
    if script is not None:
        (programs / "git").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("topformer.version._PATIENCE_S", 0.2)
    assert version_of(checkout) == expected


def test_it_is_quick(tmp_path: Path) -> None:
    """Found out as often as a process starts that records it."""
    installed(tmp_path)
    for folder in (ROOT, tmp_path):
        started = time.process_time()
        version_of(folder)
        assert time.process_time() - started < 0.2


def test_what_runs_says_the_version_of_the_files_it_runs_from(tmp_path: Path) -> None:
    installed(tmp_path)
    code = "from topformer.version import tool_version; print(tool_version())"
    said = subprocess.run((sys.executable, "-c", code), cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.strip() == version_of(tmp_path)

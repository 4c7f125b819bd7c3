"""Which code made this file? The version that tables, cards, archives and reports record as their maker.

The release alone cannot tell two states of the code apart, so the version names the commit, or else what the files say.
Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "topformer-nas"
PACKAGES = ("topformer", "search_space", "latency_lut", "evaluators", "experiments", "dashboard")

_NOT_INSTALLED = ("experiments/benchmarks", "experiments/results")
"""Folders of the packages that are in a checkout only: what they hold changes nothing that the tool does."""
_DIGITS = 12
_PATIENCE_S = 2
"""Git answers within milliseconds; on a file system where it does not, contents are read instead."""


@cache
def tool_version() -> str:
    """The version of the code that runs, found out once per process: see `version_of`."""
    return version_of(Path(__file__).resolve().parent.parent)


def version_of(root: Path) -> str:
    """The version of the packages in a folder.

    `0.1.0+g<commit>` in a checkout of this repository, with `.dirty` behind it where tracked files of the packages were
    changed; `0.1.0+h<hash>`, of all their Python files, where there is no version control or git does not answer.
    """
    return f"{_release()}+{_commit(root) or _contents(root)}"


def _release() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"  # run from a folder, never installed


def _commit(root: Path) -> str | None:
    """None where the folder is not the top of a checkout of this repository: site-packages may lie in another one."""
    if not (root / ".git").exists() or not _is_ours(root / "pyproject.toml"):
        return None
    excluded = (f":(exclude){folder}" for folder in _NOT_INSTALLED)
    command = ("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook sets GIT_DIR
    try:
        answer = subprocess.run(
            (*command, *PACKAGES, *excluded),
            cwd=root,
            env=plain | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not commit.isalnum():  # "(initial)": nothing was committed yet
        return None
    changed = any(not line.startswith("#") for line in lines)
    return f"g{commit[:_DIGITS]}{'.dirty' if changed else ''}"


def _is_ours(project: Path) -> bool:
    try:
        said = tomllib.loads(project.read_text(encoding="utf-8"))
        return bool(said["project"]["name"] == DISTRIBUTION)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _contents(root: Path) -> str:
    """Equal for a checkout and for what is installed from it."""
    digest = sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_NOT_INSTALLED):
            content = path.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"h{digest.hexdigest()[:_DIGITS]}"

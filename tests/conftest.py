"""What all tests share: one thread for each, how many draws a property gets, and what may run beside what.

One thread: on shared cores a second one only waits for the first, and costs as much again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # read when numpy and torch are loaded

BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a machine may have other work, too
settings.register_profile("test", derandomize=True, max_examples=40, **BUSY)
settings.register_profile("thorough", max_examples=500, **BUSY)
settings.load_profile("test")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file run in one process, one after the other: they share what is costly to make.

    Files with more slow tests go first, so that no process is left alone with a long one at the end.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True)
def umask_of_before() -> Iterator[None]:
    """The package that unpacks ncnn's source leaves a umask of 0, by which sshd refuses what later tests write."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)

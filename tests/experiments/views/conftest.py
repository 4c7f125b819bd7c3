from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.search.schedule import Confirmation, Schedule
from experiments.store.store import Store
from tests.support.toys import ToyEvaluator, is_unlucky, run_toy, toy_config, toy_report, toy_url


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two studies by an evaluator of known noise, and one, confirmed, by another that often fails."""
    folder = tmp_path_factory.mktemp("views")
    long = ToyEvaluator(fingerprint="long-1", fidelity="long", luck_of="long")
    confirmed = Schedule(confirmations=(Confirmation(evaluator=long, keep=3, replicates=2),))
    run_toy(folder, toy_config(trials=18).model_copy(update={"name": "one"}))
    run_toy(folder, toy_config(trials=12, seed=1, sampler="random").model_copy(update={"name": "two"}))
    failing = ToyEvaluator(fingerprint="toy-2", fails=is_unlucky)
    run_toy(folder, toy_config(trials=8).model_copy(update={"name": "three"}), failing, schedule=confirmed)
    report = toy_report(0.71)
    with Store.open(toy_url(folder)) as store:
        store.add_trust_report(report.name, report.to_json())
    return folder


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(toy_url(folder), read_only=True) as store:
        yield store

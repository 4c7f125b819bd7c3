"""A study that is killed: what was recorded stays, what was in flight is run again, and the front is the same."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import event

from experiments.search.study import Event, run_study
from experiments.store import database, lease
from experiments.store.store import Store
from experiments.workers import pool as workers
from tests.support.toys import ToyEvaluator, outline, run_toy, toy_config, toy_table, toy_url
from topformer.errors import UserError

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.toys import ToyEvaluator, run_toy, toy_config
if __name__ == "__main__":
    run_toy(Path({folder!r}), toy_config(sampler="nsga2"), ToyEvaluator(seconds=3), workers=2)
"""


def settled(folder: Path) -> int:
    try:
        with Store.open(toy_url(folder), read_only=True) as store:
            return sum(trial.state != "proposed" for trial in store.trials("toy"))
    except UserError:
        return 0  # not there yet


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(1, 8), pytest.param(range(1, 13), marks=pytest.mark.thorough)])
def test_a_driver_that_is_killed_loses_at_most_what_was_in_flight(tmp_path: Path, kills: Sequence[int]) -> None:
    """Killed when so many trials are settled."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "killed"
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(root=str(Path(__file__).parents[3]), folder=str(folder)))
    kept = 0
    for wanted in kills:
        driver = subprocess.Popen([sys.executable, "-W", "ignore", str(script)])
        end = time.monotonic() + 600
        while settled(folder) < wanted and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert driver.poll() is None, "the driver ended before it could be killed"
        driver.kill()
        driver.wait()
        assert settled(folder) >= max(kept, wanted)
        kept = settled(folder)
    found = run_toy(folder, toy_config(sampler="nsga2"), ToyEvaluator(), workers=2)
    assert found.trained == len(found.trials) - kept
    assert outline(found) == outline(run_toy(tmp_path / "whole", toy_config(sampler="nsga2")))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("PRAGMA max_page_count = 1", "database or disk is full"),
        ("PRAGMA query_only = 1", "readonly database"),
        ("locked", "database is locked"),
    ],
)
def test_a_database_that_fails_in_the_middle_is_one_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "broken"
    other = sqlite3.connect(folder / "toy.db", isolation_level=None)
    kept = 0
    with Store.open(toy_url(folder), create=True) as store:

        def begin_trouble(now: Event) -> None:
            nonlocal kept
            if now.done != 5 or kept:
                return
            kept = now.done
            if trouble == "locked":
                other.execute("BEGIN IMMEDIATE")
            else:
                event.listen(store.engine, "connect", lambda connection, _: connection.execute(trouble))

        with pytest.raises(UserError, match=said) as error:
            run_study(toy_config(), store, evaluator=ToyEvaluator(), table=toy_table(), report=begin_trouble)
    assert "nothing written so far is lost" in str(error.value)
    assert "\n" not in str(error.value)
    other.close()
    assert kept <= settled(folder) < 14
    monkeypatch.setattr(lease, "_is_dead", lambda _: True)  # its driver, this process, would have ended
    kept = settled(folder)
    found = run_toy(folder)
    assert found.trained == len(found.trials) - kept
    assert outline(found) == outline(run_toy(tmp_path / "whole"))


def test_workers_that_do_not_start_are_no_fault_of_an_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three anchors were once recorded as failed."""
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_end_with_driver", os.abort)
        with pytest.raises(UserError, match=r"trial \d could not be evaluated by toy: worker processes end as soon as"):
            run_toy(tmp_path)
    assert settled(tmp_path) == 0
    assert all(trial.state == "complete" for trial in run_toy(tmp_path).trials)

"""A study that is killed: what was recorded stays, what was in flight is run again, and the front is the same."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import ToyEvaluator, outline, run_toy, toy_config, toy_url

from experiments.store import Store
from topformer.errors import UserError

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toys import ToyEvaluator, run_toy, toy_config
if __name__ == "__main__":
    run_toy(Path({folder!r}), toy_config(sampler="nsga2"), ToyEvaluator(seconds=0.3), workers=2)
"""


def settled(folder: Path) -> int:
    try:
        with Store.open(toy_url(folder), read_only=True) as store:
            return sum(trial.state != "proposed" for trial in store.trials("toy"))
    except UserError:
        return 0  # not there yet


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_at_most_what_was_in_flight(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "killed"
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent), folder=str(folder)))
    kept = 0
    for wanted in (1, 8):
        driver = subprocess.Popen([sys.executable, "-W", "ignore", str(script)])
        end = time.monotonic() + 120
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

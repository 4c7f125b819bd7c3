"""What do restarts of its PostgreSQL server cost a study? From the repository's root, where `tests` is:

    PYTHONPATH=. python experiments/benchmarks/restart_study.py OUT.json [--restarts 10] [--seed 0]

The study of `kill_study.py` keeps its records on a server of its own, which is stopped at random moments as by a power
cut (`pg_ctl stop -m immediate`) and started again up to three seconds later. Nobody starts the study again. Afterwards
its trials and front are compared with those of a study in a file, and every evaluation is counted by its worker.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.evidence import keep
from experiments.benchmarks.kill_study import STUDY, WORKERS, Formula, finished_content, started
from experiments.front.pareto import front
from experiments.search.study import run_study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from tests.support import postgres


def drive(url: str, folder: Path, wait_s: float) -> None:
    """In a process of its own: the study, from its start to its end."""
    config = StudyConfig.from_toml(STUDY, where="benchmark")
    with Store.open(url, create=True) as store:
        run_study(config, store, evaluator=Formula(folder / "log", wait_s), workers=WORKERS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait-s", type=float, default=0.5)
    parser.add_argument("--until-s", type=float, default=6.0, help="the longest time between two restarts")
    parser.add_argument("--drive", nargs=2, metavar=("URL", "FOLDER"))
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive[0], Path(asked.drive[1]), asked.wait_s)
        return
    rng, restarts = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory() as name, postgres.running() as server:
        whole, folder = Path(name) / "whole", Path(name) / "restarted"
        whole.mkdir()
        folder.mkdir()
        assert started(whole, 0.0).wait() == 0
        command = [sys.executable, __file__, "--wait-s", str(asked.wait_s), "--drive", server.url, str(folder)]
        driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})
        while not (folder / "log").exists() and driver.poll() is None:
            time.sleep(0.1)
        while driver.poll() is None and restarts < asked.restarts:
            time.sleep(rng.uniform(0, asked.until_s))
            if driver.poll() is None:
                server.stop()
                time.sleep(rng.uniform(0, 3))
                server.start()
                restarts += 1
        said = driver.communicate()[1]
        lines = (folder / "log").read_text().split("\n")
        begun, ended = ([line[6:] for line in lines if line.startswith(word)] for word in ("begun", "ended"))
        with Store.open(server.url, read_only=True) as store:
            trials = store.trials("killed")
        outline = [(t.number, t.batch, t.candidate.key, t.miou_pct, t.latency.total_ms) for t in trials]
        same = finished_content(whole) == (outline, [trial.number for trial in front(trials, fidelity="formula")])
    content = {
        "workers": WORKERS,
        "restarts_while_it_ran": restarts,
        "ended_by_itself": driver.returncode == 0,
        "said": said.splitlines()[-1:],
        "trials": len(trials),
        "same_trials_and_front_as_in_a_file": same,
        "evaluations_lost": sum(trial.record is None for trial in trials),
        "evaluations_begun": len(begun),
        "begun_again": len(begun) - len(set(begun)),
        "ended_more_than_once": len(ended) - len(set(ended)),
        "recorded_twice": len(trials) - len({trial.candidate.key for trial in trials}),
    }
    keep(content, asked.out)


if __name__ == "__main__":
    main()

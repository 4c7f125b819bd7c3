"""What does `kill -9` cost a study? `python experiments/benchmarks/kill_study.py OUT.json [--kills 20]`

A study of two workers over the `pyramid` space, its mIoU a formula with a wait instead of a training, is killed again
and again: the driver or one of its workers, at a random moment, and started again each time. Afterwards its trials and
front are compared with those of a study that ran through, and every evaluation that was begun is counted by its worker
in a file: begun twice is what was in flight when something died.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.base import Metrics
from experiments.benchmarks.evidence import keep
from experiments.front.pareto import front
from experiments.search.study import run_study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from topformer.blocks import candidate_blocks
from topformer.config import Candidate

STUDY = """
name = "killed"
space = { preset = "pyramid" }
[task]
num_classes = 59
[latency]
table = "snapdragon865-a77-1core-fp32"
max_ms = 80.0
[evaluator]
recipe = "proxy-short"
[search]
trials = 60
batch_size = 6
sampler = "nsga2"
"""
WORKERS = 2


@dataclass(frozen=True)
class Formula:
    """mIoU from an architecture's size and digest; says in a file what it began."""

    log: Path
    wait_s: float
    fingerprint: str = "formula-1"
    fidelity: str = "formula"

    def why_not(self, _: Candidate) -> str | None:
        return None

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Metrics:
        with self.log.open("a") as file:
            file.write(f"begun {candidate.key}\n")
        time.sleep(self.wait_s)
        luck = int.from_bytes(hashlib.sha256(candidate.key.encode()).digest()[:2]) / 65536
        size_m = sum(block.parameters for block in candidate_blocks(candidate)) / 1e6
        with self.log.open("a") as file:
            file.write(f"ended {candidate.key}\n")
        return Metrics(
            miou_pct=20 + 3 * size_m + 4 * luck,
            per_class_iou_pct=(),
            pixel_accuracy_pct=0.0,
            train_loss=None,
            seconds=self.wait_s,
            cpu_seconds=0.0,
        )


def drive(folder: Path, wait_s: float) -> None:
    """In a process of its own: run the study, or go on with it."""
    config = StudyConfig.from_toml(STUDY, where="benchmark")
    with Store.open(f"sqlite:///{folder}/study.db", create=True) as store:
        run_study(config, store, evaluator=Formula(folder / "log", wait_s), workers=WORKERS)


def started(folder: Path, wait_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--drive", str(folder), "--wait-s", str(wait_s)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def workers_of(driver: int) -> list[int]:
    """Processes that evaluate: children of the driver's fork server."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    servers = children.get(driver, [])
    return [worker for server in servers for worker in children.get(server, [])]


def finished_content(folder: Path) -> tuple[list[tuple[Any, ...]], list[int]]:
    with Store.open(f"sqlite:///{folder}/study.db", read_only=True) as store:
        trials = store.trials("killed")
    assert all(trial.state == "complete" for trial in trials)
    outline = [(t.number, t.batch, t.candidate.key, t.miou_pct, t.latency.total_ms) for t in trials]
    return outline, [trial.number for trial in front(trials, fidelity="formula")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait-s", type=float, default=0.5)
    parser.add_argument("--until-s", type=float, default=20.0, help="the longest time between a start and a kill")
    parser.add_argument("--drive", type=Path)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive, asked.wait_s)
        return
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as whole_name, tempfile.TemporaryDirectory() as killed_name:
        whole, killed = Path(whole_name), Path(killed_name)
        assert started(whole, asked.wait_s).wait() == 0
        kills: list[str] = []
        while True:
            driver = started(killed, asked.wait_s)
            while len(kills) < asked.kills:
                time.sleep(rng.uniform(1.0, asked.until_s))
                if driver.poll() is not None:
                    break
                workers = workers_of(driver.pid)
                if workers and rng.random() < 0.5:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    kills.append("worker")
                    continue
                driver.kill()
                kills.append("driver")
                break
            if driver.wait() == 0:
                break
        same = finished_content(whole) == finished_content(killed)
        lines = (killed / "log").read_text().split("\n")
        begun, ended = ([line[6:] for line in lines if line.startswith(word)] for word in ("begun", "ended"))
        with Store.open(f"sqlite:///{killed}/study.db", read_only=True) as store:
            trials = store.trials("killed")
    content = {
        "workers": WORKERS,
        "trials": len(trials),
        "kills": kills,
        "same_trials_and_front_as_uninterrupted": same,
        "evaluations_lost": sum(trial.record is None for trial in trials),
        "evaluations_begun": len(begun),
        "begun_again_after_a_death": len(begun) - len(set(begun)),
        "recorded_twice": len(trials) - len({trial.candidate.key for trial in trials}),
        "ended_more_than_once": len(ended) - len(set(ended)),
    }
    keep(content, asked.out)


if __name__ == "__main__":
    main()

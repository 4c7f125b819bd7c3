"""Who evaluates? Local processes that get a candidate and give back a result; they never open the database."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evaluators.base import Metrics, Score, Scorer
from evaluators.training import NonFiniteLoss
from topformer.config import Candidate
from topformer.errors import UserError

RETRIES = 2
"""A candidate that kills its worker process is tried again so many times, alone."""
BEAT_S = 15
_JOIN_S = 5

Job = tuple[Scorer, Candidate, int, Path | None]
"""Evaluator, candidate, replicate, and where the weights go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came back from a worker."""

    metrics: Metrics | Score | None = None
    reason: str | None = None
    """Why this candidate has no metrics."""
    fault: str | None = None
    """What is wrong around the candidate (disk, cache, settings): nobody's metrics, and nothing to record."""

    def require_no_fault(self, what: str) -> None:
        """Raises `UserError` that names what was evaluated, and by what."""
        if self.fault:
            raise UserError(
                f"{what}: {self.fault} "
                "Nothing is recorded against it; mend the cause and run the same command to go on."
            )


def killed(times: int) -> str:
    """The reason of a candidate whose every try ended with its process."""
    return f"it killed its worker process {times} times (out of memory?)"


class Pool(Protocol):
    """Who evaluates for a study."""

    workers: int
    """Evaluations at a time."""

    def submit(self, number: int, job: Job) -> None:
        """Evaluate a job as soon as there is room; `number` names it until its outcome is taken."""

    def next(self, beat: Callable[[], None]) -> tuple[int, Outcome]:
        """Wait for the outcome of any job that was submitted; `beat` is called at least every 15 s."""


class WorkerPool:
    """Processes are started with the first job, from a server that has the heavy imports done."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[int] = deque()
        self._running: dict[Future[Outcome], int] = {}
        self._ready: deque[tuple[int, Outcome]] = deque()
        self._suspects: list[int] = []
        """Any of those that were running may have killed its process: each shows itself alone."""

    def submit(self, number: int, job: Job) -> None:
        self._jobs[number] = job
        self._waiting.append(number)

    def next(self, beat: Callable[[], None]) -> tuple[int, Outcome]:
        while not self._ready:
            if self._suspects:
                number = self._suspects.pop(0)
                self._ready.append((number, self._alone(self._jobs[number], beat)))
                continue
            self._fill()
            done, _ = wait(self._running, timeout=BEAT_S, return_when=FIRST_COMPLETED)
            beat()
            for future in done:
                self._take(future)
        number, outcome = self._ready.popleft()
        del self._jobs[number]
        return number, outcome

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            number = self._waiting.popleft()
            self._running[self._submit(self._jobs[number])] = number

    def _take(self, future: Future[Outcome]) -> None:
        if future not in self._running:
            return  # its process died with another's
        number = self._running.pop(future)
        try:
            self._ready.append((number, future.result()))
        except BrokenProcessPool:
            self._suspects = sorted([*self._suspects, number])
            for other in list(self._running):
                if not other.done() or isinstance(other.exception(), BrokenProcessPool):
                    self._suspects = sorted([*self._suspects, self._running.pop(other)])
            self.stop()

    def _alone(self, job: Job, beat: Callable[[], None]) -> Outcome:
        for _ in range(RETRIES + 1):
            future = self._submit(job)
            try:
                while not wait((future,), timeout=BEAT_S).done:
                    beat()
                return future.result()
            except BrokenProcessPool:
                self.stop()
        if not self._starts():
            return Outcome(fault="worker processes end as soon as they are started (out of memory, or a limit?).")
        return Outcome(reason=killed(RETRIES + 1))

    def _starts(self) -> bool:
        """Whether a process lives when it has nothing to evaluate."""
        try:
            self._processes().submit(os.getpid).result()
        except BrokenProcessPool:
            self.stop()
            return False
        return True

    def _submit(self, job: Job) -> Future[Outcome]:
        return self._processes().submit(evaluate_job, *job)

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["experiments.workers.pool", "evaluators.proxy"])
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_end_with_driver)
        return self._pool

    def stop(self) -> None:
        """End all processes at once; what they were evaluating is lost."""
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        manager = self._pool._executor_manager_thread
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if manager is not None:
            # it closes its pipes, and the interpreter's end would write to them meanwhile
            manager.join(_JOIN_S)  # type: ignore[attr-defined]
        self._pool = None


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[WorkerPool]:
    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}.")
    pool = WorkerPool(workers)
    try:
        yield pool
    finally:
        pool.stop()


def _end_with_driver() -> None:
    """In a worker process: the driver alone answers Ctrl-C, and ends it; it does not outlive one that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = multiprocessing.parent_process()
    assert driver is not None

    def watch() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def evaluate_job(evaluator: Scorer, candidate: Candidate, replicate: int, weights: Path | None) -> Outcome:
    """In a worker process."""
    try:
        metrics = evaluator.evaluate(candidate, replicate=replicate, weights_out=weights)
    except MemoryError:
        return Outcome(reason="out of memory")
    except OSError as error:
        return Outcome(fault=f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except (NonFiniteLoss, RuntimeError, ArithmeticError) as error:
        return Outcome(reason=f"{type(error).__name__}: {error}")
    except UserError as error:
        return Outcome(fault=str(error))
    if not math.isfinite(metrics.value):
        return Outcome(reason=f"its {evaluator.fidelity} is {metrics.value}")
    return Outcome(metrics=metrics)

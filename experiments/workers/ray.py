"""The same study on Ray Tune: evaluations go out as Tune trials, to processes of one machine or of many.

A `Searcher` hands out whatever the study asks for, a callback collects it; Ray brings resources, retries and nodes. It
is the same study: what is proposed does not depend on who evaluates, so results are those of a local run. Processes
are kept from trial to trial. They never see the database; weights come back to the driver, which writes them.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import queue
import shutil
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from experiments.workers.pool import BEAT_S, RETRIES, Job, Outcome, evaluate_job, killed
from topformer.errors import UserError, first_line
from topformer.writing import write_whole

LOCAL = "local"
_RUNNING = "auto"
_END_S = 20
_ANSWER_S = 10
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of gRPC begins (RFC 9113: the preface and an empty SETTINGS frame); a server answers SETTINGS."""
_SETTINGS = b"\x04"
_DRIVER = {  # read by Ray and Tune from the environment of the driver
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for each trial: the store has everything
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nor a state of Tune's own: the study resumes from the store
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_LOCAL = {
    "RAY_worker_niceness": "0",  # by default Ray's processes step back behind all others of the machine
    "RAY_enable_metrics_collection": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one evaluation reserves of a cluster; shares of a GPU are legal."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.cpus <= 1024 or not 0 <= self.gpus <= 64:
            raise UserError(
                f"an evaluation needs more than 0 and at most 1024 CPUs and from 0 to 64 GPUs, not {self.cpus:g} and "
                f"{self.gpus:g}."
            )

    @property
    def shares(self) -> dict[str, float]:
        """By Ray's names, without what is not wanted."""
        return {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}


class RayPool:
    """Evaluates like `WorkerPool`; make one with `ray_pool`."""

    def __init__(self, workers: int, resources: Resources) -> None:
        self.workers = workers
        self._hands = _Hands()
        self._folder = tempfile.mkdtemp(prefix="topformer-nas-tune-")
        self._failure: BaseException | None = None
        self._weights: dict[int, Path | None] = {}
        self._thread = threading.Thread(target=self._run, args=(resources,), daemon=True)
        self._thread.start()

    def submit(self, number: int, job: Job) -> None:
        self._weights[number] = job[3]
        self._hands.waiting.put((number, _packed((*job[:3], job[3] is not None))))

    def next(self, beat: Callable[[], None]) -> tuple[int, Outcome]:
        number, outcome, weights = self._next(beat)
        while number not in self._weights:  # told again by what took the place of a trial whose node was lost
            number, outcome, weights = self._next(beat)
        path = self._weights.pop(number)
        if weights is not None and path is not None:
            write_whole(path, weights)
        beat()
        return number, outcome

    def _next(self, beat: Callable[[], None]) -> tuple[int, Outcome, bytes | None]:
        while True:
            try:
                return self._hands.done.get(timeout=BEAT_S)
            except queue.Empty:
                beat()
                if not self._thread.is_alive():
                    raise UserError(
                        f"Ray Tune ended: {first_line(self._failure or RuntimeError('without a reason'))}; what was in "
                        "flight is lost, the same command goes on from there."
                    ) from self._failure

    def stop(self) -> None:
        """End all evaluations; what they were evaluating is lost."""
        self._hands.ended.set()
        self._hands.waiting.put(None)
        self._thread.join(_END_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, resources: Resources) -> None:
        """In a thread of its own: one Tune run for the whole study."""
        try:
            tune.Tuner(
                tune.with_resources(_Evaluation, resources.shares),
                tune_config=tune.TuneConfig(
                    search_alg=_Batches(self._hands),
                    scheduler=_KeepingActors(self.workers),
                    num_samples=-1,
                    max_concurrent_trials=self.workers,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=self._folder,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[_Collector(self._hands)],
                    stop=_WhenEnded(self._hands),
                ),
            ).fit()
        except Exception as error:
            self._failure = error


@contextlib.contextmanager
def ray_pool(address: str, workers: int, resources: Resources) -> Iterator[RayPool]:
    """Connect to a cluster, or start one on this machine for `local`; what was started is ended.

    `workers` evaluations run at a time; 0 for as many as the cluster has room for. Raises `UserError` for a cluster
    that cannot be reached, or that has no room for one evaluation.
    """
    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    local = address == LOCAL
    for name, value in (_DRIVER | (_LOCAL if local else {})).items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if local:
        options |= {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"num_cpus": max((workers or os.cpu_count() or 1) * resources.cpus, 1)}
    else:
        _require_answer(address)
        options |= {"address": address}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own, of its own settings
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise UserError(
            f"no Ray cluster can be joined at {address!r} ({first_line(error)}); is it of this Ray, {ray.__version__}, "
            "and its token here, too?"
        ) from None
    try:
        pool = RayPool(_room(ray.cluster_resources(), resources, address, workers), resources)  # type: ignore[no-untyped-call]
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost nodes where a command's result belongs
                yield pool
        finally:
            pool.stop()
    finally:
        ray.shutdown()


_USUAL_PORT = 6379


def _require_answer(address: str) -> None:
    """Ray itself would wait for minutes."""
    if address == _RUNNING:
        return
    host, colon, port = address.rpartition(":")
    scheme, marks, rest = address.partition("://")
    if marks:  # ray:// is for Ray's client, http:// for its dashboard and jobs
        place = rest.partition("/")[0].rpartition("@")[2].rpartition(":")[0] or "HOST"
        raise UserError(
            f"{address!r} is an address of {scheme[:20]}, and a study joins the cluster itself: give HOST:PORT without "
            f"'://', most often {place}:{_USUAL_PORT}, as `ray start --head` prints it; or {_RUNNING!r}, or {LOCAL!r}."
        )
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{address!r} is no address of a Ray cluster: HOST:PORT, {_RUNNING!r} or {LOCAL!r}.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            connection.sendall(_GREETING)
            answer = connection.recv(9)
        problem = (
            "" if answer[3:4] == _SETTINGS or os.environ.get("RAY_USE_TLS", "0") == "1" else "it is another server"
        )
    except (OSError, UnicodeError) as error:
        problem = first_line(error)
    if problem:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({problem}); give the address that `ray start` printed on the head "
            f"node, or {LOCAL!r}."
        )


def _room(there: Mapping[str, float], resources: Resources, address: str, workers: int) -> int:
    """How many evaluations run at a time."""
    for name, wanted in resources.shares.items():
        if wanted > there.get(name, 0.0):
            raise UserError(
                f"one evaluation wants {wanted:g} {name}s, the Ray cluster at {address!r} has {there.get(name, 0.0):g}."
            )
    return workers or min(int(there[name] / wanted) for name, wanted in resources.shares.items())


class _Hands:
    """What passes between the study's thread and Tune's."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self.done: queue.Queue[tuple[int, Outcome, bytes | None]] = queue.Queue()
        self.ended = threading.Event()

    def __deepcopy__(self, _: object) -> _Hands:
        """Tune copies its searcher; there is one study."""
        return self

    def __reduce__(self) -> tuple[type[_Hands], tuple[()]]:
        """Tune also saves it, to resume from: which nothing here does."""
        return _Hands, ()


class _Batches(Searcher):
    """Hands out what waits, in order."""

    def __init__(self, hands: _Hands) -> None:
        super().__init__(metric=None, mode=None)
        self._hands = hands
        self._out: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        try:
            # with nothing out there is nothing to watch: Tune itself would look again after a second
            job = self._hands.waiting.get(block=not self._out)
        except queue.Empty:
            return None
        if job is None or self._hands.ended.is_set():
            return Searcher.FINISHED
        self._out.add(trial_id)
        return {"number": job[0], "job": job[1]}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._out.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The store has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


class _Collector(tune.Callback):
    """Gives outcomes to the study."""

    def __init__(self, hands: _Hands) -> None:
        self._hands = hands

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        # taken out of the result, which Tune keeps: weights are large
        if (packed := result.pop("outcome", None)) is not None:
            self._hands.done.put((trial.config["number"], *_unpacked(packed)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = _last_error(trial)
        if isinstance(error, RayActorError):
            outcome = Outcome(reason=f"{killed(RETRIES + 1)}, or its node was lost")
        else:
            cause = getattr(error, "cause", None) or error
            outcome = Outcome(fault=f"a Ray worker failed: {type(cause).__name__}: {first_line(cause)}.")
        self._hands.done.put((trial.config["number"], outcome, None))


def _last_error(trial: Any) -> BaseException:
    """Tune keeps a failed trial's error in a file of this machine's."""
    try:
        content = Path(trial.pickled_error_file).read_bytes()
    except (OSError, TypeError):
        return RuntimeError("for a reason that Ray does not tell")
    error = ray.cloudpickle.loads(content)
    return error if isinstance(error, BaseException) else RuntimeError(str(error))


class _WhenEnded(tune.Stopper):
    def __init__(self, hands: _Hands) -> None:
        self._hands = hands

    def __call__(self, trial_id: str, result: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._hands.ended.is_set()


class _KeepingActors(FIFOScheduler):
    """First in, first out; and processes outlive the end of a batch.

    Tune keeps a process for the next trial only while trials wait, so every batch would start new ones. There is no
    option against it; where its cache is not found, processes are started anew and nothing else changes.
    """

    def __init__(self, workers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._to_keep = workers

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        cache = getattr(controller, "_actor_cache", None)
        if cache is not None:
            for _ in range(self._to_keep):
                cache.increase_max(trial.placement_group_factory)
        self._to_keep = 0


class _Evaluation(tune.Trainable):
    """One evaluation: one step."""

    def setup(self, config: dict[str, Any]) -> None:
        self.job = config["job"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.job = new_config["job"]
        return True

    def step(self) -> dict[str, Any]:
        return {"outcome": _packed(evaluated_there(self.job)), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """An evaluation that is broken off is begun anew."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Likewise."""


def evaluated_there(job: str) -> tuple[Outcome, bytes | None]:
    """In a worker process, of any node: the outcome, and the content of the weights' file where it is wanted."""
    scorer, candidate, replicate, wanted = _unpacked(job)
    with tempfile.TemporaryDirectory(prefix="topformer-nas-") as folder:
        file = Path(folder) / "weights" if wanted else None
        outcome = evaluate_job(scorer, candidate, replicate, file)
        return outcome, file.read_bytes() if file is not None and file.is_file() else None


def _packed(content: Any) -> str:
    """Text that Tune carries unchanged; made and read by this tool's own processes alone."""
    return base64.b64encode(ray.cloudpickle.dumps(content)).decode()  # type: ignore[no-untyped-call]


def _unpacked(text: str) -> Any:
    return pickle.loads(base64.b64decode(text))

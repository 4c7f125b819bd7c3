"""A study on Ray Tune is the local one."""

import importlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from experiments.search.study import Event
from experiments.workers.pool import Outcome
from experiments.workers.ray import LOCAL, RayPool, Resources, ray_pool
from tests.support.toys import TASK, ToyEvaluator, always, is_unlucky, outline, run_toy, toy_config
from topformer.config import TINY, Candidate
from topformer.errors import UserError

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the toys, as they import the package where it is installed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def cluster(importable: None) -> Iterator[Cluster]:
    """Two nodes of one CPU each on this machine."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_the_local_study_whatever_dies(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    config = toy_config()
    here = run_toy(tmp_path / "here", config, ToyEvaluator(keeps_weights=True, fails=is_unlucky), workers=2)
    wild = ToyEvaluator(keeps_weights=True, fails=is_unlucky, dies_once_in=tmp_path / "marks")
    there = run_toy(tmp_path / "there", config, wild, elsewhere=ray_pool(LOCAL, 2, Resources()))
    assert len(list((tmp_path / "marks").iterdir())) == 3
    assert outline(there) == outline(here)
    assert not ray.is_initialized()
    weights = [sorted(file.name for file in (tmp_path / place).rglob("*.safetensors")) for place in ("here", "there")]
    assert weights[0] == weights[1] != []


@pytest.mark.thorough
def test_a_node_is_lost_in_the_middle(tmp_path: Path, cluster: Cluster) -> None:
    def alive() -> int:
        return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]

    def lose_one(event: Event) -> None:
        if event.done == 1:
            assert alive() == 2
        if event.done == 8:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        if event.done == event.total:
            end = time.monotonic() + 300
            while alive() != 1:  # the head looks at its nodes now and then
                assert time.monotonic() < end
                time.sleep(0.2)

    elsewhere = ray_pool(cluster.address, 0, Resources())
    there = run_toy(tmp_path / "there", evaluator=ToyEvaluator(seconds=0.5), elsewhere=elsewhere, report=lose_one)
    assert outline(there) == outline(run_toy(tmp_path / "here"))


def test_what_is_wrong_around_a_candidate_is_not_held_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, unknown = ToyEvaluator(disk_is_full=True), ToyEvaluator(fails=always)
    with pytest.raises(
        UserError, match=r"trial \d could not be evaluated by toy: No space left .* Nothing is recorded"
    ):
        run_toy(tmp_path, evaluator=full, elsewhere=ray_pool(LOCAL, 2, Resources()))
    with pytest.raises(UserError, match="study 'toy' stops: 3 of 3 evaluations failed"):
        run_toy(tmp_path, evaluator=unknown, elsewhere=ray_pool(LOCAL, 2, Resources()))
    (tmp_path / "only_here.py").write_text(
        "from tests.support.toys import ToyEvaluator as Base\nclass Here(Base): pass"
    )
    with monkeypatch.context() as here:
        here.syspath_prepend(tmp_path)
        stranger = importlib.import_module("only_here").Here()
    with pytest.raises(
        UserError, match=r"trial \d could not be evaluated by toy: a Ray worker failed: .*No module named 'only_here'"
    ):
        run_toy(tmp_path, evaluator=stranger, elsewhere=ray_pool(LOCAL, 2, Resources()))
    assert not ray.is_initialized()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="more than 0 and at most 1024 CPUs and from 0 to 64 GPUs, not 0 and -1"):
        Resources(cpus=0, gpus=-1)
    with pytest.raises(UserError, match="workers must be at least 1, not -1"), ray_pool(LOCAL, -1, Resources()):
        pass
    with (
        pytest.raises(UserError, match=r"one evaluation wants 64 GPUs, the Ray cluster at 'local' has 0"),
        ray_pool(LOCAL, 1, Resources(gpus=64)),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"no Ray cluster answers at '127.0.0.1:1' \(.+refused\); give the address"),
        ray_pool("127.0.0.1:1", 1, Resources()),
    ):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            pytest.raises(UserError, match=r"no Ray cluster answers at .* \(it is another server\)"),
            ray_pool(f"127.0.0.1:{port}", 1, Resources()),
        ):
            pass
        thread.join()
    with (
        pytest.raises(UserError, match="'nowhere' is no address of a Ray cluster: HOST:PORT, 'auto' or 'local'"),
        ray_pool("nowhere", 1, Resources()),
    ):
        pass
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "https://me@head:8265/jobs", "ray://head"])
def test_an_address_of_rays_client_or_dashboard_is_told_what_to_give(address: str) -> None:
    """Its host was looked up as it stood: "Name or service not known"."""
    usual = "head" if address.count(":") == 2 else "HOST"
    with (
        pytest.raises(UserError, match=f"give HOST:PORT without '://', most often {usual}:6379"),
        ray_pool(address, 1, Resources()),
    ):
        pass


def test_what_is_told_twice_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that takes the place of one whose node was lost may tell an outcome that came through before."""
    monkeypatch.setattr(RayPool, "_run", lambda *_: None)
    pool = RayPool(1, Resources())
    outcome = Outcome(metrics=None, reason="it is barred")
    for number in (1, 2):
        pool.submit(number, (ToyEvaluator(), Candidate(arch=TINY, task=TASK), 0, None))
    for number in (1, 1, 2):
        pool._hands.done.put((number, outcome, None))
    assert [pool.next(lambda: None)[0] for _ in range(2)] == [1, 2]
    pool.stop()

"""Weights in object storage: written whole, fetched where they are not here, and one sentence where it is away."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from experiments.store.artefacts import Artefacts, file_sha256
from experiments.store.database import ARTEFACTS
from experiments.store.store import Store
from tests.support.toys import ToyEvaluator, run_toy, toy_config, toy_url
from topformer.errors import UserError

BUCKET = "memory://bucket/studies"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPFORMER_NAS_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return tmp_path / "cache"


def objects() -> dict[str, bytes]:
    memory = fsspec.filesystem("memory")
    return {Path(name).name: memory.cat_file(name) for name in memory.find("/bucket")}


def written(artefacts: Artefacts, name: str, content: bytes) -> Path:
    path = artefacts.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    artefacts.keep(name)
    return path


def test_another_machine_fetches_what_one_has_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Artefacts(BUCKET)
    checksum = file_sha256(written(first, "a.safetensors", b"weights"))
    assert objects() == {"a.safetensors": b"weights"}
    monkeypatch.setenv("TOPFORMER_NAS_CACHE", str(tmp_path / "another"))
    second = Artefacts(BUCKET + "/")
    assert second.folder != first.folder
    fetched = second.fetched("a.safetensors", sha256=checksum)
    assert fetched is not None
    assert fetched.read_bytes() == b"weights"
    assert [path.name for path in second.folder.iterdir()] == ["a.safetensors"]


def test_a_local_copy_of_older_weights_is_fetched_again() -> None:
    artefacts = Artefacts(BUCKET)
    checksum = file_sha256(written(artefacts, "a", b"newer"))
    artefacts.path("a").write_bytes(b"older")
    fetched = artefacts.fetched("a", sha256=checksum)
    assert fetched is not None
    assert fetched.read_bytes() == b"newer"


def test_what_is_not_there_is_none_and_deleting_it_is_no_error() -> None:
    artefacts = Artefacts(BUCKET)
    path = written(artefacts, "a", b"weights")
    assert artefacts.fetched("b", sha256=None) is None
    for _ in range(2):
        artefacts.delete("a")
    assert objects() == {}
    assert not path.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "..", ".", "", "a\\b", "C:a", "a\0"])
def test_only_plain_names_are_files_of_the_folder(name: str, tmp_path: Path) -> None:
    for artefacts in (Artefacts(str(tmp_path / "folder")), Artefacts(BUCKET)):
        for use in (artefacts.path, artefacts.keep, artefacts.delete, lambda n, a=artefacts: a.fetched(n, sha256=None)):
            with pytest.raises(ValueError, match="no plain file name"):
                use(name)  # type: ignore[operator]


def test_places_never_share_their_local_copies() -> None:
    assert Artefacts(BUCKET).folder != Artefacts(f"{BUCKET}2").folder


@pytest.mark.parametrize("location", ["nowhere://bucket/x", "s3://bucket/x"])
def test_a_place_without_its_package_is_one_sentence(location: str) -> None:
    if location.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(UserError, match=rf"the weights' place '{location}' cannot be used \(.*(nowhere|s3fs)"):
        Artefacts(location)


def test_a_secret_in_the_place_of_weights_is_not_shown() -> None:
    with pytest.raises(UserError) as error:
        Artefacts("nowhere://key:geheim@bucket/x?secret=geheim")
    assert "geheim" not in str(error.value)


@pytest.mark.slow
def test_a_study_keeps_its_front_and_the_anchors_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.store.database.Artefacts", lambda _: Artefacts(BUCKET))
    result = run_toy(tmp_path, toy_config(trials=12), ToyEvaluator(keeps_weights=True))
    wanted = {t.number for t in result.front} | {t.number for t in result.trials if t.anchor}
    assert len(objects()) == len(wanted) < 12
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        trials = [trial for trial in store.trials("toy") if trial.weights]
        assert {trial.number for trial in trials} == wanted
        for trial in trials:
            assert trial.weights is not None
            trial.weights.unlink()
            fetched = store.fetched_weights(trial)
            assert fetched is not None
            assert file_sha256(fetched) == trial.weights_sha256
        assert store.fetched_weights(replace(trials[0], weights=None)) is None
    assert not (tmp_path / f"toy.db{ARTEFACTS}").exists()


@pytest.mark.slow
def test_storage_that_goes_away_costs_no_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.store.database.Artefacts", lambda _: Artefacts(BUCKET))
    memory: Any = type(fsspec.filesystem("memory"))
    with monkeypatch.context() as away:
        away.setattr(memory, "put_file", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route to host")))
        with pytest.raises(UserError, match=r"the weights' place 'memory://bucket/studies' cannot be used \(no route"):
            run_toy(tmp_path, toy_config(trials=8), ToyEvaluator(keeps_weights=True))
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        settled = [trial for trial in store.trials("toy") if trial.record]
    assert len(settled) == 1
    assert settled[0].weights is None
    result = run_toy(tmp_path, toy_config(trials=8), ToyEvaluator(keeps_weights=True))
    assert result.trained == 7

"""What an earlier version made still opens and says the same.

`made_before/` was written by the code of commit bd63d92: a store with a study of eight trials and a trust report, its
archive, a latency table, an architecture, weights and the card of their export; `said.json` is what that code printed.
Records of that store, a study and a recipe came later; `test_formats.py` reads them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.store.store import Store
from experiments.trust.standing import TrustReport
from latency_lut.table import LatencyTable
from tests.support.shell import Shell
from topformer.config import TopFormerConfig
from topformer.weights import saved_model

BEFORE = Path(__file__).parent / "made_before"
STORE = ("--storage", "sqlite:///toy.db")
COMMANDS = {
    "front": ("front", "toy", "--all", "--json", *STORE),
    "show": ("study", "show", "toy", "--json", *STORE),
    "list": ("study", "list", "--json", *STORE),
    "trust": ("trust", "show", "toy-report", "--json", *STORE),
    "describe": ("describe", "toy#5", "--json", *STORE),
    "latency": ("latency", "query", "tiny", "--table", "toy.lut", "--size", "64", "--classes", "59", "--json"),
    "architecture": ("describe", "architecture.json", "--size", "64", "--classes", "3", "--json"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in BEFORE.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)


def assert_says(now: object, before: object, where: str) -> None:
    """All that was said is said still; more may be."""
    if isinstance(before, dict):
        assert isinstance(now, dict), where
        for key, value in before.items():
            assert key in now, f"{where}.{key}"
            assert_says(now[key], value, f"{where}.{key}")
    elif isinstance(before, list):
        assert isinstance(now, list), where
        assert len(now) == len(before), where
        for number, (one, other) in enumerate(zip(now, before, strict=True)):
            assert_says(one, other, f"{where}[{number}]")
    elif isinstance(before, float):
        assert now == pytest.approx(before), where
    else:
        assert now == before, where


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_of_it_what_it_said(name: str, shell: Shell) -> None:
    code, out, err = shell(*COMMANDS[name])
    assert code == 0, err
    assert_says(json.loads(out), json.loads(Path("said.json").read_text())[name], name)


def test_a_store_is_written_to_as_well() -> None:
    with Store.open("sqlite:///toy.db") as store:
        store.delete_trust_report("toy-report")
        assert store.trust_reports() == ()
        assert len(store.evaluations()) == 8


def test_an_archive_is_verified_and_imported(shell: Shell) -> None:
    assert shell("study", "verify", "study.zip")[0] == 0
    assert shell("study", "import", "study.zip", "--as", "again", *STORE)[0] == 0
    _, out, _ = shell("front", "again", "--all", "--json", *STORE)
    _, first, _ = shell("front", "toy", "--all", "--json", *STORE)
    again, toy = json.loads(out), json.loads(first)
    assert [(one["trial"], one["miou_pct"]) for one in again] == [(one["trial"], one["miou_pct"]) for one in toy]


def test_a_latency_table_and_a_trust_report_read_back_byte_for_byte() -> None:
    assert LatencyTable.from_text(Path("toy.lut").read_text()).text == Path("toy.lut").read_text()
    text = Path("trust_report.json").read_text()
    assert TrustReport.from_json(text, where="trust_report.json").to_json() == text


def test_weights_are_those_of_their_architecture() -> None:
    model = saved_model(Path("weights.safetensors"))
    assert model.arch == TopFormerConfig.from_json(Path("architecture.json").read_text())
    assert model.num_classes == 3


@pytest.mark.slow
def test_a_card_has_all_that_it_had(shell: Shell) -> None:
    words = ("architecture.json", "--size", "64", "--classes", "3", "--weights", "weights.safetensors")
    assert shell("export", *words, "--out", "exported")[0] == 0
    before = json.loads(Path("card.json").read_text())
    (path,) = Path("exported").glob("*.json")
    now = json.loads(path.read_text())
    assert before.keys() <= now.keys()
    for key in ("architecture", "task"):
        assert_says(now[key], before[key], key)

"""The paper's tables: their files, counts, orderings, and what the command makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators import proxy
from evaluators.proxy import REFERENCE
from evaluators.trust import Ordering, published_orderings
from experiments.paper.accuracy import Training, decided, scores
from experiments.paper.counting import counted, rounds_to
from experiments.paper.tables import PaperTable, paper_table, paper_tables
from experiments.store.ledger import write_records
from experiments.store.store import Store
from latency_lut import tables
from latency_lut.table import LatencyTable, find_table
from tests.support.shell import Shell
from tests.support.toys import toy_url
from tests.support.trees import folder_tree
from topformer.errors import UserError

NANO = replace(
    REFERENCE,
    name="nano",
    canvas=(128, 192),
    training=replace(REFERENCE.training, iterations=1, batch_size=2, recalibration_images=2),
)


@pytest.fixture(scope="module")
def prices() -> LatencyTable:
    return find_table(tables.SNAPDRAGON_865)


@pytest.mark.parametrize("name", paper_tables())
def test_every_published_count_comes_out(name: str, prices: LatencyTable) -> None:
    for one in counted(paper_table(name), prices).values():
        assert "mismatch" not in (one.params_match, one.flops_match, one.latency_match), one.row.name


def test_a_count_that_rounds_otherwise_is_a_mismatch() -> None:
    assert [rounds_to(1.45, said) for said in ("1.4", "1.5", "1.45", None)] == ["match", "mismatch", "match", None]


def test_every_published_ordering_is_in_a_table_that_trains() -> None:
    shown = {one.name for table in paper_tables().values() if table.trains for one in table.orderings}
    assert shown == {one.name for one in published_orderings()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('title = "a"', "question"),
        (
            'title = "a"\nquestion = "b"\nsource = "c"\nrows = [{name = "x", published = {params_m = "many"}}]',
            "params_m",
        ),
        ('title = "a"\nquestion = "b"\nsource = "c"\nrows = [{name = "x", size = "huge"}]', "huge"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        PaperTable.from_toml("mine", text)


def trained(*miou_pct: float, blocks: np.ndarray | None = None) -> list[Training]:
    return [Training(miou_pct=value, judged=False, blocks=blocks) for value in miou_pct]


@pytest.mark.parametrize(
    ("first", "noise_pct", "verdict", "more"),
    [
        ((45.0, 45.0, 45.0), 0.5, "reproduced", None),
        ((35.0, 35.0, 35.0), 0.5, "inverted", None),
        ((40.2, 40.2, 40.2), 0.5, "undecided", 34),
        ((45.0, 45.0, 45.0), None, "undecided", None),
    ],
)
def test_an_ordering_is_decided_by_the_noise(
    first: tuple[float, ...], noise_pct: float | None, verdict: str, more: int | None
) -> None:
    (ordering, *_) = published_orderings()
    found = decided(ordering, trained(*first), trained(40.0, 40.0, 40.0), noise_pct=noise_pct)
    assert (found.verdict, found.more_seeds) == (verdict, more)


def test_blocks_of_images_are_drawn_for_both_networks_alike() -> None:
    ordering: Ordering = published_orderings()[0]
    blocks = np.random.default_rng(0).integers(50, 100, (8, 3, 1)) * np.array([1.0, 2.0, 2.0])
    same = decided(ordering, trained(40.0, 41.0, blocks=blocks), trained(40.0, 41.0, blocks=blocks), noise_pct=None)
    assert (same.low_pct, same.high_pct, same.verdict) == (0.0, 0.0, "undecided")


def test_references_of_the_shipped_report_are_known(prices: LatencyTable) -> None:
    found = scores([paper_table("table1"), paper_table("table9")], "scenes", replicates=3)
    assert found.keys() == {"table1"}
    assert [len(trainings) for trainings in found["table1"].by_row.values()] == [3, 3, 3, 0]
    assert [one.verdict for one in found["table1"].decided] == ["reproduced", "reproduced"]


def test_the_command_lists_and_shows(shell: Shell) -> None:
    listed = shell.json("paper")
    assert isinstance(listed, dict)
    assert [one["name"] for one in listed["tables"]] == list(paper_tables())
    code, out, err = shell("paper", "table6", "figure3", "supplementary-table3")
    assert (code, err) == (0, "")
    for words in ("3 of 3 published counts", "transformer", "74.6", "token_pyramid"):
        assert words in out


@pytest.mark.parametrize("suffix", [".md", ".csv", ".tex", ".json", ".png", ".svg"])
def test_a_table_is_written_as_a_file(suffix: str, shell: Shell) -> None:
    path = shell.folder / f"table{suffix}"
    assert shell("paper", "table1", "--out", str(path))[0] == 0
    content = path.read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml"}.get(suffix, b""))
    assert len(content) > 500
    if suffix in (".md", ".csv", ".tex", ".json"):
        assert b"TopFormer-T" in content
        assert b"5.063" in content


@pytest.mark.slow
def test_what_is_trained_is_kept_and_passed_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(proxy.RECIPES, NANO.name, NANO)  # type: ignore[arg-type]
    folder_tree(shell.folder / "data")
    words = ("paper", "table2", "--fidelity", "nano", "--replicates", "1", "--storage", toy_url(shell.folder))
    (made,) = shell.json(*words, "--data", "data", "--workers", "1")  # type: ignore[misc]
    assert [len(row["miou_pct"]) for row in made["rows"]] == [1, 1]
    (shown,) = shell.json(*words, "--known", "data")  # type: ignore[misc]
    assert shown == made
    with Store.open(toy_url(shell.folder)) as store:
        write_records(store, Path("records.jsonl"))
    elsewhere = ("paper", "table2", "--fidelity", "nano", "--storage", "sqlite:///other.db", "--known", "data")
    assert shell.json(*elsewhere, "--records", "records.jsonl") == [made]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table12",), "unknown table of the paper 'table12'; available: figure3, "),
        (("table1", "--out", "table.doc"), "--out must end in .md, .csv, .tex, .json, .png, .svg, .pdf"),
        (("table1", "table2", "--out", "two.png"), "holds one table"),
        (("figure3", "--out", "shares.png"), "is not drawn"),
        (("table1", "--data", "scenes", "--known", "scenes"), "give one of the two"),
        (("table1", "--replicates", "0"), "from 1 to 20"),
        (("table1", "--fidelity", "long"), "unknown"),
        (("table1", "--table", "none"), "none"),
        (("table1", "--known", "nowhere"), "nowhere"),
        (("table1", "--records", "none.jsonl"), "none.jsonl"),
        (("table1", "--data", "scenes", "--workers", "-1"), "workers"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words: tuple[str, ...], said: str, shell: Shell) -> None:
    assert said in shell.refusal("paper", *words)


def test_json_is_the_whole_table(shell: Shell) -> None:
    code, out, _ = shell("paper", "table1", "--json")
    (table,) = json.loads(out)
    assert (code, len(table["rows"]), table["rows"][-1]["own"]["params"]) == (0, 19, 1389654)

"""Laws of mIoU by size: what they find of data whose law is known, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.scaling.design import _variance, halving
from experiments.scaling.laws import FORMS, Form, Points, fit, shapes
from experiments.store.ledger import write_records
from experiments.store.store import Store
from tests.support.shell import Shell
from tests.support.toys import toy_url
from topformer.errors import UserError


def drawn(form: str, *, count: int = 120, noise_pct: float = 0.3, seed: int = 0, largest: float = 100.0) -> Points:
    """Two groups, of which the second lies 4 points lower, on a law that is known."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(10), np.log(largest), count))
    group = np.arange(count) % 2
    score = truth(form, size) - 4.0 * group + rng.normal(0, noise_pct, count)
    return Points(size=size, score_pct=score, group=group, groups=("first", "second"))


def truth(form: str, size: np.ndarray) -> np.ndarray:
    if form == "line":
        return np.asarray(30 + 3 * np.log(size / 10))
    if form == "power":
        return np.asarray(50 - 20 * (size / 10) ** -1.2)
    return np.asarray(20 + 30 / (1 + (size / 15) ** -2.5))


@pytest.mark.parametrize("form", ["line", "power", "logistic"])
def test_a_law_foretells_sizes_that_were_not_tried(form: str) -> None:
    law = fit(drawn(form), bootstraps=200)
    low, high = law.interval(200.0)
    assert low - 0.3 <= truth(form, np.array([200.0]))[0] <= high + 0.3


def test_a_line_is_told_where_nothing_bends_and_a_curve_where_it_does() -> None:
    assert fit(drawn("line"), bootstraps=200).form == "line"
    assert fit(drawn("power"), bootstraps=200).form != "line"


def test_groups_have_offsets_of_their_own() -> None:
    law = fit(drawn("power"), bootstraps=100)
    offsets = law.best[law.form].offsets[0]
    assert offsets[1] - offsets[0] == pytest.approx(-4.0, abs=0.3)


def test_the_same_seed_gives_the_same_intervals() -> None:
    first, second = (fit(drawn("power"), bootstraps=100, seed=3).interval(150.0, networks=4) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("form", FORMS)
def test_every_shape_grows_with_size(form: Form) -> None:
    assert (np.diff(shapes(form, np.linspace(-3, 3, 30)), axis=0) >= 0).all()


def test_an_outlier_moves_little() -> None:
    points = drawn("line", count=60)
    spoilt = points.score_pct.copy()
    spoilt[0] = 0.0
    other = Points(size=points.size, score_pct=spoilt, group=points.group, groups=points.groups)
    sizes, groups = np.array([50.0]), np.array([0])
    moved = fit(other, form="line", bootstraps=100).mean(sizes, groups) - fit(points, form="line", bootstraps=100).mean(
        sizes, groups
    )
    assert abs(float(moved[0])) < 0.3


def test_noise_carries_no_law_and_what_would_is_named() -> None:
    rng = np.random.default_rng(1)
    size = np.linspace(10, 20, 12)
    points = Points(size=size, score_pct=rng.normal(40, 3, 12), group=np.zeros(12, dtype=int), groups=("all",))
    law = fit(points, bootstraps=200)
    plan = halving(law, 20.0)
    assert not law.grows
    assert plan is not None
    more = np.concatenate([size, np.repeat(plan.sizes, plan.each)])
    assert _variance(more, 20.0) <= _variance(size, 20.0) / 4


@pytest.mark.parametrize(
    ("sizes", "said"),
    [([1.0] * 20, "1 sizes"), (list(np.linspace(1, 1.1, 20)), "too alike"), ([0.0, *range(1, 20)], "above 0")],
)
def test_sizes_that_carry_nothing_are_refused(sizes: list[float], said: str) -> None:
    count = len(sizes)
    with pytest.raises(UserError, match=said):
        fit(Points(size=np.array(sizes), score_pct=np.ones(count), group=np.zeros(count, dtype=int), groups=("all",)))


def test_a_report_records_and_a_table_are_sources(shell: Shell) -> None:
    report = shell.json("scale", "fit", "pyramid-scenes", "--axis", "latency_ms", "--step", "10", "--bootstraps", "100")
    assert isinstance(report, dict)
    assert (report["points"], next(iter(report["offsets_pct"])), report["carried"]) == (40, "8-16-32", True)
    assert all(one["step_pct"] > 0 for one in report["foretold"] if one["step_pct"] is not None)
    points = drawn("power")
    rows = [
        f"{size},{score},{group}"
        for size, score, group in zip(points.size, points.score_pct, points.group, strict=True)
    ]
    Path("runs.csv").write_text("iterations,miou_pct,group\n" + "\n".join(rows))
    code, out, _ = shell("scale", "fit", "runs.csv", "--axis", "iterations", "--at", "80", "--plot", "law.svg")
    assert (code, "mIoU = " in out, Path("law.svg").read_text()[:5]) == (0, True, "<?xml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pyramid-scenes", "--axis", "width"), "unknown axis 'width'; available: "),
        (("pyramid-scenes", "--axis", "iterations"), "write a .csv with columns iterations and miou_pct"),
        (("nothing", "--axis", "macs_g"), "no study, trust report or file 'nothing'"),
        (("pyramid-scenes", "--axis", "macs_g", "--form", "cubic"), "unknown form 'cubic'"),
        (("pyramid-scenes", "--axis", "macs_g", "--fidelity", "long"), "unknown fidelity 'long'"),
        (("pyramid-scenes", "--axis", "macs_g", "--at", "900"), "four times beyond"),
        (("pyramid-scenes", "--axis", "macs_g", "--step", "-1"), "must be above 0"),
        (("pyramid-scenes", "--axis", "macs_g", "--bootstraps", "1"), "from 100 to"),
        (("pyramid-scenes", "--axis", "macs_g", "--plot", "law.doc"), ".png, .svg or .pdf"),
        (("none.csv", "--axis", "images"), "none.csv"),
        (("short.csv", "--axis", "images"), "lacks the column miou_pct"),
        (("words.csv", "--axis", "images"), "line 2: images and miou_pct must be numbers"),
        (("none.jsonl", "--axis", "macs_g"), "none.jsonl"),
        (("empty.jsonl", "--axis", "macs_g"), "it has no mIoU at all"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words: tuple[str, ...], said: str, shell: Shell) -> None:
    Path("short.csv").write_text("images,score\n1,2\n")
    Path("words.csv").write_text("images,miou_pct\nmany,2\n")
    with Store.open(toy_url(shell.folder), create=True) as store:
        write_records(store, Path("empty.jsonl"))
    assert said in shell.refusal("scale", "fit", *words)

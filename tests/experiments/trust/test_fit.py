"""From a trust report to a combined evaluator, and to a study that is searched by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.datasets.scenes import Scenes
from evaluators.named import beside, evaluator_named, scorer_named
from evaluators.proxy import REFERENCE
from experiments.store.store import Store
from experiments.trust.fit import fit, keep
from experiments.trust.standing import TrustReport, shipped_reports, standing_in
from tests.support.shell import Shell
from tests.support.toys import toy_url
from topformer.errors import UserError

STUDY = """
name = "predicted"

[task]
image_size = "512"
num_classes = 59

[space]
preset = "pyramid"

[evaluator]
recipe = "combined:fitted.json"
dataset = "scenes"

[latency]
table = "snapdragon865-a77-1core-fp32"

[search]
trials = 6
batch_size = 6
sampler = "random"
"""


@pytest.fixture
def report() -> TrustReport:
    (found,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    return found


def test_a_fit_is_an_evaluator_that_studies_know_how_far_to_believe(report: TrustReport, tmp_path: Path) -> None:
    out = tmp_path / "fitted.json"
    found = fit(report, "proxy-short, macs", Scenes(), out)
    with Store.open(toy_url(tmp_path), create=True) as store:
        keep(found, store)
    named = evaluator_named(f"combined:{out}", Scenes())
    said = standing_in(toy_url(tmp_path), named.fingerprint)
    assert (named.fingerprint, named.fidelity) == (found.evaluator.fingerprint, found.evaluator.fidelity)
    assert (said.report, said.verdict, said.ranked) == (f"pyramid-scenes-{named.fidelity}", "trusted", 40)
    assert said.noise_pct == pytest.approx(found.half_width_pct / 1.645)
    assert found.error_pct < found.ridge_error_pct
    assert found.covered_pct >= 80


def test_what_is_said_of_a_fit_is_of_architectures_that_it_left_out(report: TrustReport, tmp_path: Path) -> None:
    found = fit(report, "macs", Scenes(), tmp_path / "fitted.json")
    told = {one.key: one.values[found.evaluator.fidelity] for one in found.report.ranked}
    known = zip(found.evaluator.predictor.known, found.evaluator.predictor.left_out, strict=True)
    assert len(told) == 40
    assert list(told.values()) == [[left.value] for _, left in known]


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ("proxy-long", "does not judge 'proxy-long' of evaluator"),
        ("zero-cost", "name each zero-cost proxy by itself"),
        ("grasp", "unknown fidelity 'grasp'"),
        ("supernet:none.safetensors", "none.safetensors"),
        ("macs,macs", "named twice"),
    ],
)
def test_a_fidelity_that_the_report_lacks_is_refused(
    report: TrustReport, candidates: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        fit(report, candidates, Scenes(), tmp_path / "fitted.json")
    assert not (tmp_path / "fitted.json").exists()


def test_other_images_than_the_reports_are_refused(report: TrustReport, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Other images or weights"):
        fit(report, "proxy-short", Scenes(seed=7), tmp_path / "fitted.json")
    fit(report, "proxy-short", Scenes(), tmp_path / "fitted.json")
    with pytest.raises(UserError, match="was fitted to proxy-short of evaluator"):
        evaluator_named(f"combined:{tmp_path / 'fitted.json'}", Scenes(seed=7))


def test_a_parts_file_lies_where_it_lay_as_seen_from_the_predictor() -> None:
    assert beside(Path("a/b/fitted.json"), "supernet:../last.safetensors") == "supernet:a/b/../last.safetensors"
    assert beside(Path("a/fitted.json"), "proxy-short") == "proxy-short"


def test_a_prediction_is_not_made_of_predictions(report: TrustReport, tmp_path: Path) -> None:
    out = tmp_path / "fitted.json"
    fuller = fit(report, "macs", Scenes(), out).report
    with pytest.raises(UserError, match="a prediction from predictions is none"):
        fit(fuller, f"combined:{out}", Scenes(), tmp_path / "again.json")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for name, words in (("a.json", "is no combined evaluator"), ("b.json", "b.json"), ("", "names no file")):
        with pytest.raises(UserError, match=words):
            scorer_named(f"combined:{tmp_path / name if name else ''}", REFERENCE, Scenes())


def test_a_study_is_searched_by_predictions_with_their_error_bars(shell: Shell) -> None:
    made = shell.json("trust", "fit", "pyramid-scenes", "--candidates", "macs,parameters", "--out", "fitted.json")
    assert isinstance(made, dict)
    (shell.folder / "predicted.toml").write_text(STUDY)
    code, _, err = shell("search", "predicted.toml", "--workers", "1")
    assert (code, f"trust report pyramid-scenes-{made['fidelity']}" in err) == (0, True)
    (row, *_) = shell.json("front", "predicted")  # type: ignore[misc]
    assert row["miou_margin_pct"] == pytest.approx(made["half_width_pct"], rel=0.01)
    assert "is predicted, and no weights have it" in shell.refusal(
        "export", f"predicted#{row['trial']}", "--out", "exported"
    )

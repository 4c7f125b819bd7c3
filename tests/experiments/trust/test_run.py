"""Trust reports: what is drawn, that nothing is evaluated twice, and that a study says what its proxy is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from scipy.stats import kendalltau

from evaluators import proxy
from evaluators.base import Scorer
from evaluators.datasets.scenes import Scenes
from evaluators.named import scorers_named
from evaluators.proxy import REFERENCE, ProxyEvaluator
from evaluators.trust import published_orderings
from evaluators.zero_cost import ZERO_COST, ZeroCostEvaluator
from experiments.search.assembly import build_evaluator
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.trust import standing
from experiments.trust.run import (
    Member,
    Progress,
    TrustPlan,
    TrustSample,
    band_of,
    orderings_members,
    placeless,
    plan_named,
    run_trust,
    stratified,
    wants,
)
from experiments.trust.standing import TrustReport, find_report, shipped_reports, standing_in, stored_reports
from experiments.views import trust as view
from latency_lut.table import LatencyRow, LatencyTable, find_table
from search_space import SearchSpace, blocks, preset
from tests.support.shell import Shell
from tests.support.toys import TASK, ToyEvaluator, always, run_toy, toy_config, toy_report, toy_table, toy_url
from tests.support.trees import folder_tree
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig
from topformer.errors import LeftOut, UserError

RESULTS = Path(__file__).parents[3] / "experiments" / "results"

SPACE = preset("quickstart", task=TASK)
BAND_MS = 0.045
SCENES = Scenes(train_images=6, val_images=3)
MICRO = replace(
    REFERENCE,
    name="micro",
    canvas=(64, 192),
    reference_size=(64, 64),
    training=replace(REFERENCE.training, iterations=2, batch_size=2, recalibration_images=2),
)
NANO = replace(MICRO, name="nano", training=replace(MICRO.training, iterations=1))


SAMPLE = TrustSample(count=16, band_ms=BAND_MS, seed=0, replicates=2, repeated=2, orderings=True)


def drawn(*, scorer: Scorer | None = None, **changes: float) -> tuple[Member, ...]:
    sample = replace(SAMPLE, **changes)  # type: ignore[arg-type]
    return stratified(SPACE, toy_table(), sample, anchors=tuple(ANCHORS), scorers=[scorer or ToyEvaluator()])


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_set_is_of_equal_latency_and_the_rest_is_spread(seed: int) -> None:
    members = drawn(seed=seed)
    low, high = band_of(BAND_MS)
    latencies = {one.candidate.key: one.latency_ms or 0.0 for one in members}
    assert len(latencies) == len(members) == 16
    assert [one.label for one in members[:3]] == list(ANCHORS)
    assert sum(low <= ms <= high for ms in latencies.values()) == 8
    ends = [latencies[one.candidate.key] for one in members[:3]]
    assert all(min(ends) <= ms <= max(ends) for ms in latencies.values())
    assert all(one.candidate.task == TASK for one in members)
    strata = [one.stratum for one in members]
    assert strata == sorted(strata, key=["anchor", "band", "spread"].index)


def test_one_seed_draws_one_set_and_seeds_differ() -> None:
    assert drawn(seed=1) == drawn(seed=1)
    assert set(drawn(seed=1)) != set(drawn(seed=2))


def test_the_set_of_the_shipped_table_is_as_it_was() -> None:
    """Records of long trainings are found again by these keys."""
    space = preset("pyramid", task=Task(num_classes=59))
    members = stratified(
        space,
        find_table("snapdragon865-a77-1core-fp32"),
        replace(SAMPLE, count=40, band_ms=50),
        anchors=tuple(ANCHORS),
        scorers=[ProxyEvaluator(REFERENCE, Scenes())],
    )
    assert [one.label for one in members[3:6]] == ["3a7fb995c8e308b7", "c139c685ec5535ac", "62a76909a6e1c85b"]
    assert members[-1].label == "196f43cfaa3b033e"


def has_three_rows_at_32(candidate: Candidate) -> bool:
    return len(candidate.arch.stages[3]) == 3 and candidate.arch not in ANCHORS.values()


def test_what_a_scorer_cannot_evaluate_is_not_drawn() -> None:
    assert any(has_three_rows_at_32(one.candidate) for one in drawn())
    members = drawn(scorer=ToyEvaluator(bars=has_three_rows_at_32))
    assert len(members) == 16
    assert not any(has_three_rows_at_32(one.candidate) for one in members)


def test_an_anchor_that_a_scorer_cannot_evaluate_is_refused() -> None:
    with pytest.raises(UserError, match="anchor tiny cannot be evaluated by toy: it is barred"):
        drawn(scorer=ToyEvaluator(bars=always))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 5}, "--count must be at least 6 with 3 anchors, not 5"),
        ({"band_ms": 0.0}, "--band-ms must be a positive number"),
        ({"band_ms": float("nan")}, "--band-ms must be a positive number"),
        ({"seed": -1}, "--seed must be a whole number from 0"),
    ],
)
def test_sets_that_cannot_be_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        drawn(**change)


@pytest.mark.slow
def test_an_impossible_band_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"only 0 of the 8 that are needed lie within 850 to 1\.15e\+03 ms") as error:
        drawn(band_ms=1000.0)
    assert "--band-ms" in str(error.value)
    assert "\n" not in str(error.value)


def test_anchors_and_some_others_are_repeated_by_what_has_an_miou() -> None:
    members = drawn(count=6)
    scorers = [ToyEvaluator(fingerprint="fast"), ZeroCostEvaluator("parameters", MICRO, SCENES)]
    found = wants(members, ToyEvaluator(), scorers, replace(SAMPLE, replicates=3, repeated=1))
    assert len(found) == 6 * 3 + 4 * 2 * 2
    assert {one.called for one in found if one.replicate} == {*ANCHORS, members[3].label}
    assert {one.scorer.fingerprint for one in found if one.replicate} == {"toy-1", "fast"}


def test_what_the_paper_compares_is_trained_once_by_whatever_trains() -> None:
    members = drawn(count=6)
    others = orderings_members(TASK, members, ToyEvaluator())
    keys = {arch.key for one in published_orderings() for arch in (one.first, one.second)}
    assert {one.candidate.arch.key for one in others} == keys - {arch.key for arch in ANCHORS.values()}
    scorers = [ToyEvaluator(fingerprint="fast"), ToyEvaluator(fingerprint="barred", bars=always)]
    scorers.append(ZeroCostEvaluator("macs", MICRO, SCENES))  # type: ignore[arg-type]
    found = wants([*members, *others], ToyEvaluator(), scorers, replace(SAMPLE, replicates=1, repeated=0))
    labels = {one.label for one in others}
    compared = [one.scorer.fingerprint for one in found if one.called in labels]
    assert Counter(compared) == {"toy-1": len(others), "fast": len(others)}
    assert orderings_members(TASK, members, ToyEvaluator(bars=always)) == ()


@pytest.mark.parametrize(("replicates", "repeated"), [(0, 5), (3, -1)])
def test_repetitions_below_none_are_refused(replicates: int, repeated: int) -> None:
    with pytest.raises(UserError, match="must be at least"):
        replace(SAMPLE, replicates=replicates, repeated=repeated)


def test_candidates_are_named_by_recipe_or_score() -> None:
    names = [one.fidelity for one in scorers_named("proxy-long, proxy@proxy-short,zero-cost", MICRO, SCENES)]
    assert names == ["proxy-long", "proxy-short", *ZERO_COST]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("proxy-shrot", "unknown fidelity 'proxy-shrot'; available: macs, naswot"),
        ("", "unknown fidelity ''"),
        ("macs,zero-cost", "candidate 'macs' is named twice"),
        ("proxy-short,proxy@proxy-short", "candidate 'proxy-short' is named twice"),
    ],
)
def test_bad_candidates_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        scorers_named(text, MICRO, SCENES)


def toy_plan(name: str = "toy-report", **changes: object) -> TrustPlan:
    """Of evaluators that train nothing: a proxy with other luck than the reference, and its parameters."""
    plan = TrustPlan(
        name=name,
        space=SPACE,
        anchors=tuple(ANCHORS),
        table=toy_table(),
        dataset=SCENES,
        reference=ToyEvaluator(fingerprint="truth", fidelity="truth"),
        scorers=(ToyEvaluator(fingerprint="toy-1"), ZeroCostEvaluator("parameters", MICRO, SCENES)),
        sample=SAMPLE,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_a_plan_is_made_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_table().save(tmp_path / "toy.lut")
    monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(tmp_path))
    names = {"name": None, "table": "toy", "data": None, "reference": "reference", "candidates": "proxy-short,macs"}

    def planned(space: str, size: str | None) -> TrustPlan:
        return plan_named(space, size=size, sample=SAMPLE, **names)  # type: ignore[arg-type]

    plan = planned("quickstart", "64")
    assert (plan.name, plan.space.name, plan.space.task.image_size) == ("quickstart-scenes", "quickstart", (64, 64))
    assert plan.anchors == tuple(ANCHORS)
    assert [scorer.fidelity for scorer in (plan.reference, *plan.scorers)] == ["reference", "proxy-short", "macs"]
    assert planned("quickstart", None).space.task.image_size == (512, 512)
    with pytest.raises(UserError, match="unknown search space 'quick'"):
        planned("quick", None)
    with pytest.raises(UserError, match="--size goes with"):
        planned("quick", "64")


class BreakOffError(Exception):
    pass


def run(folder: Path, plan: TrustPlan, *, stop_after: int | None = None) -> tuple[TrustReport, list[Progress]]:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if stop_after is not None and sum(not one.cached for one in seen) == stop_after:
            raise BreakOffError

    with Store.open(toy_url(folder), create=True) as store:
        report = run_trust(plan, plan.members(), store, workers=1, command="topformer-nas trust run", report=watch)
    return report, seen


@pytest.mark.slow
def test_a_report_broken_off_goes_on_without_evaluating_twice(tmp_path: Path) -> None:
    plan = toy_plan()
    with pytest.raises(BreakOffError):
        run(tmp_path, plan, stop_after=20)
    report, seen = run(tmp_path, plan)
    assert sum(one.cached for one in seen) == 20
    assert [one.done for one in seen] == list(range(1, seen[0].total + 1))
    assert (seen[-1].done, seen[-1].seconds_left) == (seen[-1].total, 0)
    again, cached = run(tmp_path, plan)
    assert all(one.cached for one in cached)
    assert replace(again, created=report.created) == report


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrustReport]:
    """A folder with the store of a report, made once and only read, and the report."""
    folder = tmp_path_factory.mktemp("reported")
    return folder, run(folder, toy_plan())[0]


def test_a_report_adds_up(reported: tuple[Path, TrustReport]) -> None:
    _, report = reported
    parameters = next(one for one in report.fidelities if one.fidelity == "parameters")
    toy = next(one for one in report.fidelities if one.fidelity == "toy")
    assert toy.overall is not None
    assert toy.band is not None
    assert (toy.overall.count, toy.band.count) == (16, 8)
    assert (toy.noise_pct, parameters.noise_pct) == (report.reference_noise_pct, None)  # the toys share their luck
    assert toy.cost_share == 1
    assert report.members[0].far_iou_pct["toy"][0] == pytest.approx((6 * 30 + 3 * 50) / 9)  # of the grounds, 6 to 14
    assert (toy.far_cue_found_pct, parameters.far_cue_found_pct) == (100, None)  # 36.7 is over a third
    assert (toy.regret_pct["1"], toy.overall.kendall.value > 0.9) == (0, True)
    assert toy.above_zero_cost is not None
    assert parameters.above_zero_cost is None
    assert {len(one.values["truth"]) for one in report.ranked if one.stratum == "anchor"} == {2}
    assert [one.fidelity for one in report.decisions] == [n for n in ("truth", "toy") for _ in published_orderings()]
    verdicts = {one.ordering: one.verdict for one in report.decisions if one.fidelity == "truth"}
    assert verdicts.keys() == {one.name for one in published_orderings()}
    assert (verdicts["S above T"], verdicts["B above S"]) == ("reproduced", "reproduced")  # 5 % mIoU a million
    assert next(one for one in report.decisions if one.ordering == "S above T").published_pct == 3.3


@pytest.mark.slow
def test_without_replicates_no_ordering_is_decided(tmp_path: Path) -> None:
    report, _ = run(tmp_path, toy_plan(sample=replace(SAMPLE, replicates=1)))
    assert (report.decisions, report.reference_noise_pct) == ([], None)


def test_a_report_reads_back(reported: tuple[Path, TrustReport]) -> None:
    folder, report = reported
    assert TrustReport.from_json(report.to_json(), where="here") == report
    with Store.open(toy_url(folder), read_only=True) as store:
        assert find_report("toy-report", store) == find_report(None, store) == report


def test_a_report_says_its_format_and_a_later_one_is_refused(reported: tuple[Path, TrustReport]) -> None:
    _, report = reported
    assert json.loads(report.to_json())["format"] == 1
    with pytest.raises(UserError, match="its format is 2, this tool reads up to 1"):
        TrustReport.from_json(report.to_json().replace('"format": 1', '"format": 2'), where="here")


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"name": 3}', "nonsense"])
def test_a_damaged_report_is_refused_by_name(damage: str) -> None:
    with pytest.raises(UserError, match=r"^broken\.json: no trust report of this version \(.*trust run$") as error:
        TrustReport.from_json(damage, where="broken.json")
    assert "\n" not in str(error.value)


def test_a_report_with_a_word_that_is_no_verdict_is_refused(reported: tuple[Path, TrustReport]) -> None:
    _, report = reported
    with pytest.raises(UserError, match=r"decisions\.\d+\.verdict"):
        TrustReport.from_json(report.to_json().replace('"reproduced"', '"sure"'), where="here")


def test_every_shipped_report_can_be_read() -> None:
    reports = standing.shipped_reports()
    assert len({report.name for report in reports}) == len(reports)


def test_the_shipped_report_follows_from_its_records() -> None:
    """Trained once, read again here: rank correlations, noise and verdicts are of what lies in experiments/results."""
    report = find_report("pyramid-scenes", None)
    lines = (RESULTS / "trust" / "records.jsonl").read_text().splitlines()
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in map(json.loads, lines):
        value = line["metrics"].get("miou_pct", line["metrics"].get("value"))
        key = TopFormerConfig.from_dict(line["architecture"]).key
        found.setdefault((key, line["fidelity"]), {})[line["replicate"]] = value
    assert all(
        [found[one.key, fidelity][replicate] for replicate in range(len(values))] == values
        for one in report.members
        for fidelity, values in one.values.items()
    )
    ranked = [one for one in report.members if one.stratum != "ordering"]
    assert Counter(one.stratum for one in ranked) == {"anchor": 3, "band": 20, "spread": 17}
    truth = [fmean(one.values["reference"]) for one in ranked]
    for fidelity in report.fidelities:
        tau = kendalltau([one.values[fidelity.fidelity][0] for one in ranked], truth).statistic
        assert fidelity.overall is not None
        assert fidelity.overall.kendall.value == pytest.approx(tau)


def test_the_quickstart_study_is_vouched_for() -> None:
    """A change of proxy or scenes makes the shipped report say nothing of it."""
    config = StudyConfig.load("quickstart")
    found = standing.standing(build_evaluator(config).fingerprint, None, config.search_space())
    assert (found.report, found.verdict, found.alike) == ("pyramid-scenes", "trusted", 40)


def test_a_narrower_space_is_vouched_for_by_what_is_like_it() -> None:
    """Of the 40, those of other injected scales are so much better or worse that any order of the rest looks good."""
    fingerprint = build_evaluator(StudyConfig.load("quickstart")).fingerprint
    report = find_report("pyramid-scenes", None)
    narrow = preset("quickstart", task=Task(num_classes=59))
    found = standing.standing(fingerprint, None, narrow)
    alike = [one for one in report.ranked if one.architecture["injected_strides"] == [8, 16, 32]]
    tau = kendalltau([one.values["proxy-short"][0] for one in alike], [fmean(one.values["reference"]) for one in alike])
    assert found.trust is not None
    assert found.trust.overall is not None
    assert found.trust.overall.kendall.value == pytest.approx(tau.statistic)
    assert (found.ranked, found.alike, found.verdict) == (40, len(alike), "not trusted")
    assert f"{len(alike)} of its 40 architectures, those with the scales and modules here" in found.sentence
    knobs = {"injected_strides": ["8-16"], "num_blocks": [2, 4]}
    odd = SearchSpace.from_dict({"name": "odd", "base": "tiny", "knobs": knobs}, task=narrow.task, where="test")
    nothing = standing.standing(fingerprint, None, odd)
    assert (nothing.alike, nothing.verdict) == (0, "untested")
    assert "cannot tell how it orders 0 of its 40 architectures" in nothing.sentence


def test_an_architecture_that_fails_stops_the_report_with_its_name(tmp_path: Path) -> None:
    plan = toy_plan(reference=ToyEvaluator(fingerprint="truth", fidelity="truth", fails=always))
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"failed by truth \(RuntimeError: this architecture never works\); a ranking"
        ):
            run(tmp_path, plan)


@pytest.mark.slow
def test_a_fault_of_the_machine_is_not_recorded(tmp_path: Path) -> None:
    plan = toy_plan(reference=ToyEvaluator(fingerprint="truth", fidelity="truth", disk_is_full=True))
    with pytest.raises(UserError, match="could not be evaluated by truth: No space left"):
        run(tmp_path, plan)
    assert run(tmp_path, toy_plan())[0].fidelities


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a b"}, "--name"),
        ({"scorers": (ToyEvaluator(fingerprint="truth"),)}, "truth is the reference itself"),
    ],
)
def test_plans_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        toy_plan(**change)


def keep(folder: Path, *reports: TrustReport) -> None:
    with Store.open(toy_url(folder), create=True) as store:
        for report in reports:
            store.add_trust_report(report.name, report.to_json())


@pytest.mark.parametrize(
    ("tau", "verdict", "words"),
    [
        (0.71, "trusted", "ranking tau 0.71 (0.61 to 0.81) overall (trust report toy-report, 4 architectures)."),
        (0.45, "not trusted", "below 0.6: its order cannot be relied upon."),
    ],
)
def test_standing_is_found_by_fingerprint(tau: float, verdict: str, words: str, tmp_path: Path) -> None:
    keep(tmp_path, toy_report(tau), toy_report(0.1, name="other", evaluator="toy-2"))
    found = standing_in(toy_url(tmp_path), "toy-1")
    assert found.as_dict() == {
        "verdict": verdict,
        "tau": {"value": tau, "low": tau - 0.1, "high": tau + 0.1},
        "band_tau": None,
        "architectures": 4,
        "report": "toy-report",
        "beyond": None,
    }
    assert words in found.notice
    assert found.notice.startswith("warning: ") == (verdict != "trusted")


def test_the_newest_report_counts(tmp_path: Path) -> None:
    keep(tmp_path, toy_report(0.3, name="old"), toy_report(0.8, name="new"))
    assert standing_in(toy_url(tmp_path), "toy-1").report == "new"


def test_the_reference_stands_as_what_others_are_judged_by(tmp_path: Path) -> None:
    keep(tmp_path, toy_report(0.3))
    found = standing_in(toy_url(tmp_path), "1")  # `toy_report`'s reference
    assert (found.verdict, found.trusted, found.as_dict()["report"]) == ("reference", True, "toy-report")
    assert found.notice == "ranking by the reference that trust report toy-report judges others by."


def test_an_evaluator_that_no_report_knows_is_untested(tmp_path: Path) -> None:
    for found in (standing_in(toy_url(tmp_path), "toy-3"), standing_in("sqlite:///none.db", "toy-3")):
        assert (found.verdict, found.short) == ("untested", "ranking untested")
        assert found.notice.startswith("warning: ranking untested: no trust report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.71, 0.45])
def test_a_study_shows_what_its_ranking_is_worth(tau: float, shell: Shell) -> None:
    toy_table().save(shell.folder / "tables" / "toy.lut")
    run_toy(shell.folder, toy_config(trials=6))
    keep(shell.folder, toy_report(tau))
    (row, *_) = shell.json("front", "toy")  # type: ignore[misc]
    assert row["ranking_trust"]["tau"]["value"] == tau
    code, out, _ = shell("front", "toy", "--plot", "front.svg")
    assert code == 0
    assert f"ranking tau {tau}" in out
    assert ("warning: ranking" in out) == (tau < 0.6)
    _, studies, _ = shell("study", "list")
    assert f"tau {tau}{', below 0.6' if tau < 0.6 else ''}" in studies


STUDY = """
name = "folder"
[space]
preset = "quickstart"
[task]
image_size = "64x64"
num_classes = 3
[latency]
table = "toy3"
[evaluator]
recipe = "nano"
dataset = "data"
[search]
trials = 3
batch_size = 3
"""
RUN = ("trust", "run", "--space", "folder.toml", "--reference", "micro", "--candidates", "proxy@nano,zero-cost")
SMALL = ("--count", "6", "--replicates", "2", "--repeated", "0", "--no-orderings", "--workers", "1")


@pytest.fixture
def folder(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell beside a study on a user's own images, with recipes of one and two iterations."""
    for recipe in (MICRO, NANO):
        monkeypatch.setitem(proxy.RECIPES, recipe.name, recipe)  # type: ignore[arg-type]
    folder_tree(shell.folder / "data")
    (shell.folder / "folder.toml").write_text(STUDY)
    three = preset("quickstart", task=Task(image_size=(64, 64), num_classes=3))
    rows = [row_of(block.key, block.macs) for block in blocks(three)]
    LatencyTable.of(replace(toy_table().header, name="toy3"), rows).save(shell.folder / "tables" / "toy3.lut")
    return shell


def row_of(key: str, macs: int) -> LatencyRow:
    ms = 0.001 + macs / 1e9
    return LatencyRow(key=key, median_ms=ms, p5_ms=ms, p95_ms=ms, n=0, kind="estimated")


@pytest.mark.slow
def test_a_report_from_the_command_line(folder: Shell) -> None:
    made = folder.json(*RUN, *SMALL, "--band-ms", str(BAND_MS), "--out", "report.json")
    assert isinstance(made, dict)
    assert (made["name"], made["reference"], len(made["members"])) == ("quickstart-folder", "micro", 6)
    assert [one["fidelity"] for one in made["fidelities"]] == ["nano", *ZERO_COST]
    assert made["command"].startswith("topformer-nas trust run --space folder.toml")
    kept = {name: value for name, value in made.items() if name not in ("beyond", "baselines")}
    assert TrustReport.from_json((folder.folder / "report.json").read_text(), where="out").to_json() == as_text(kept)
    assert made["beyond"].keys() == {"nano", *ZERO_COST}
    assert folder.json("trust", "show") == folder.json("trust", "show", "quickstart-folder") == made

    code, out, err = folder(*RUN, *SMALL, "--band-ms", str(BAND_MS))
    assert code == 0
    assert "replicate" not in err  # every line of an evaluation has it: none was run again
    for words in ("of reference", "synflow", "6 architectures of quickstart at 64x64 px", "trust show"):
        assert words in out

    listed, *_ = folder.json("trust", "list")  # type: ignore[misc]
    assert (listed["report"], listed["from"], listed["architectures"]) == ("quickstart-folder", "store", 6)
    assert listed["kendall_tau"].keys() == {"nano", *ZERO_COST}
    for picture, start in (("trust.png", b"\x89PNG"), ("trust.svg", b"<?xml"), ("trust.pdf", b"%PDF")):
        code, out, _ = folder("trust", "show", "--plot", picture)
        assert code == 0
        assert (folder.folder / picture).read_bytes().startswith(start)

    code, _, err = folder("search", "folder.toml", "--workers", "1")
    assert code == 0
    assert "trust report quickstart-folder, 6 architectures" in err
    (row, *_) = folder.json("front", "folder")  # type: ignore[misc]
    assert row["ranking_trust"]["report"] == "quickstart-folder"


@pytest.mark.slow
def test_a_search_on_an_untested_proxy_says_so_also_in_a_database_that_is_empty_yet(folder: Shell) -> None:
    (folder.folder / "toy.db").touch()
    code, _, err = folder("search", "folder.toml", "--workers", "1")
    assert code == 0
    assert "warning: ranking untested: no trust report" in err
    before: Any = folder.json("front", "folder", "--all")
    more = str(len(before) + 1)
    written = folder.folder / "folder.toml"
    written.write_text(written.read_text().replace("trials = 3", "trials = 1"))
    fewer = str(len(before) - 1)
    assert f"has {len(before)} trials; extend it to more" in folder.refusal("search", "folder.toml", "--extend", fewer)
    written.unlink()
    assert f"has {len(before)} trials; extend it to more, not to 1." in folder.refusal(
        "search", "folder", "--resume", "--extend", "1"
    )
    assert "unknown study 'fold'; available: folder" in folder.refusal("search", "fold", "--resume")
    code, _, err = folder("search", "folder", "--resume", "--extend", more, "--workers", "1")
    assert (code, "1 evaluated, 0 from the store, 0 failed." in err) == (0, True)
    after: Any = folder.json("front", "folder", "--all")
    assert len(after) == len(before) + 1
    for row in (*before, *after):  # the new trial may take the place of others there
        del row["on_front"], row["front_probability"], row["knee"]
    assert all(row in after for row in before)


def as_text(content: object) -> str:
    return json.dumps(content, indent=1) + "\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trust", "run", "--space", "pyramd"), "unknown search space 'pyramd'; available: pyramid, quickstart"),
        (("trust", "run", "--reference", "long"), "unknown proxy recipe 'long'"),
        (("trust", "run", "--candidates", "grasp"), "unknown fidelity 'grasp'"),
        (("trust", "run", "--candidates", "reference"), "is the reference itself"),
        (("trust", "run", "--data", "nowhere"), "nowhere"),
        (("trust", "run", "--table", "none"), "none"),
        (("trust", "run", "--count", "3"), "--count must be at least 6"),
        (("trust", "run", "--replicates", "0"), "--replicates must be at least 1"),
        (("trust", "run", "--workers", "-1"), "workers must be at least 1"),
        (("trust", "run", "--out", "report.txt"), "--out must be a .json file"),
        (("trust", "run", "--size", "huge"), "huge"),
        (("trust", "run", "--space", "folder.toml", "--size", "512"), "--size goes with pyramid or quickstart"),
        (("trust", "run", "--space", "folder.toml", "--data", "scenes"), "set the study's num_classes to 59"),
        (("trust", "show"), "there is no trust report yet"),
        (("trust", "show", "mine"), "unknown trust report 'mine'"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: Sequence[str], sentence: str, folder: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (standing, view):  # both are loaded, so that neither keeps what the other is given for this test
        monkeypatch.setattr(module, "shipped_reports", tuple)
    assert sentence in folder.refusal(*words)


def test_a_damaged_report_in_the_store_is_named(shell: Shell) -> None:
    with Store.open(toy_url(shell.folder), create=True) as store:
        store.add_trust_report("mine", "{")
    code, out, said = shell("trust", "list", "--json")
    assert (code, [row["from"] for row in json.loads(out)]) == (0, ["shipped"])
    for words in (said, shell.refusal("trust", "show", "mine")):
        assert "trust report 'mine'" in words
        assert "topformer-nas trust delete mine --storage sqlite:///" in words
    assert "unknown trust report 'yours'" in shell.refusal("trust", "delete", "yours")
    assert shell("trust", "delete", "mine")[0] == 0
    assert [row["from"] for row in shell.json("trust", "list")] == ["shipped"]  # type: ignore[union-attr]
    with Store.open(toy_url(shell.folder)) as store:
        store.add_trust_report("mine", toy_report(0.9).to_json().replace("0.9", "NaN"))
    assert "trust report 'mine'" in shell.refusal("trust", "show", "mine")


def test_an_inherited_fidelity_needs_a_file_name() -> None:
    for text in ("supernet:", "tuned: "):
        with pytest.raises(UserError, match="names no file; name the supernet's weights"):
            scorers_named(text, MICRO, SCENES)


def test_lists_are_empty_without_a_store(shell: Shell) -> None:
    assert shell.json("trust", "list") == [row for row in shell.json("trust", "list") if row["from"] == "shipped"]  # type: ignore[union-attr]
    assert not (shell.folder / "toy.db").exists()


def test_a_report_hands_on_no_path_of_a_machine() -> None:
    words = (
        "topformer-nas",
        "trust",
        "run",
        "--storage",
        "postgresql://nas:geheim@h/s",
        "--data",
        "folder:/home/me/x y",
    )
    words += (
        "--candidates",
        "proxy-short,supernet:/tmp/w/last.safetensors",
        "--out=/tmp/o.json",
        "--space",
        "a/b.toml",
    )
    assert placeless(words) == (
        "topformer-nas trust run --storage URL --data 'folder:x y' --candidates "
        "proxy-short,supernet:last.safetensors --out=o.json --space a/b.toml"
    )
    assert "/" not in "".join(report.command for report in shipped_reports())


def test_a_damaged_report_of_a_store_hides_nothing_else(tmp_path: Path) -> None:
    """It ended every listing until it was dropped."""
    with Store.open(toy_url(tmp_path), create=True) as store:
        store.add_trust_report("toy-report", toy_report(0.7).to_json())
        store.add_trust_report("damaged", "{")
        with pytest.warns(LeftOut, match="left out: trust report 'damaged' .* trust delete damaged"):
            assert [one.name for one in stored_reports(store)] == ["toy-report"]
        with pytest.raises(UserError, match=r"trust report 'damaged' of .* no trust report of this version"):
            find_report("damaged", store)

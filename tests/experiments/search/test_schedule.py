"""Rungs: who is promoted, what screens turn away, what confirmations rank, and that none of it is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.export.study_file import export_study, import_study, read_archive
from experiments.front.confidence import front_probabilities
from experiments.front.lookup import at_rung
from experiments.front.pareto import front, non_dominated
from experiments.search.assembly import build_evaluator, build_schedule
from experiments.search.gate import Limits
from experiments.search.samplers import next_batch
from experiments.search.schedule import Confirmation, Schedule, Screen, promoted
from experiments.search.study import Event, StudyResult, run_study
from experiments.store.store import Store
from experiments.study_config import SearchSection, StudyConfig
from experiments.trust.standing import Standing
from experiments.views.front import front_rows
from experiments.views.studies import study_summary
from tests.support.toy_evaluator import SizeScorer
from tests.support.toys import (
    STUDY,
    TASK,
    ToyEvaluator,
    is_unlucky,
    outline,
    toy_config,
    toy_report,
    toy_table,
    toy_url,
)
from topformer.blocks import candidate_blocks
from topformer.errors import UserError

POINTS = st.lists(st.tuples(st.integers(1, 12).map(float), st.integers(1, 12).map(float)), min_size=1, max_size=30)


def run(
    folder: Path,
    schedule: Schedule,
    config: StudyConfig | None = None,
    *,
    report: Any = lambda _: None,
    workers: int = 1,
) -> StudyResult:
    with Store.open(toy_url(folder), create=True) as store:
        return run_study(
            config or toy_config(),
            store,
            evaluator=ToyEvaluator(),
            schedule=schedule,
            table=toy_table(),
            workers=workers,
            report=report,
        )


@given(POINTS, st.integers(0, 30))
def test_the_promoted_are_the_first_fronts(points: list[tuple[float, float]], count: int) -> None:
    chosen = promoted(points, count)
    assert len(chosen) == min(count, len(points)) == len(set(chosen))
    if count and count <= len(non_dominated(points)):
        assert set(chosen) <= set(non_dominated(points))
    else:
        assert set(non_dominated(points)) <= set(chosen) or not count
    for out in set(range(len(points))) - set(chosen):  # none that is left out dominates one that is in
        assert not any(dominates(points[out], points[one]) for one in chosen)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def test_of_a_crowded_front_the_ends_and_the_lonely_go_first() -> None:
    points = [(1.0, 1.0), (2.0, 5.0), (2.1, 5.1), (2.2, 5.2), (6.0, 8.0), (10.0, 10.0)]
    assert promoted(points, 2) == (0, 5)
    assert promoted(points, 3) == (0, 4, 5)


def test_a_screen_lets_the_best_through_and_the_anchors_anyway(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    screen = Screen(scorer=SizeScorer(seen=tmp_path / "seen"), share=0.25)
    found = run(tmp_path, Schedule(screens=(screen,)))
    assert len(found.trials) == 14
    assert [trial.anchor for trial in found.trials[:3]] == ["tiny", "small", "base"]
    assert not any(is_unlucky(trial.candidate) for trial in found.trials[3:])
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        statistics = store.batches("toy")
        assert store.screens("toy") == ["size-1"]
    scored = list((tmp_path / "seen").iterdir())
    assert sum(one.screened for one in statistics) >= len(scored) - 14
    assert all(path.read_text() == "x" for path in scored), "nothing is scored twice"
    assert len(scored) >= 4 * 11 - 3


def test_a_screen_promotes_by_latency_and_score(tmp_path: Path) -> None:
    """What a plain study would propose in a batch of four times the size, less what a front-by-front choice leaves."""
    config, table = toy_config(trials=6, sampler="random"), toy_table()
    found = run(tmp_path, Schedule(screens=(Screen(scorer=SizeScorer(), share=0.25),)), config)
    proposals, _ = next_batch(
        config.search_space(),
        (),
        SearchSection(trials=24, batch_size=6, sampler="random"),
        batch=0,
        size=24,
        limits=Limits(why_not=lambda _: None, latency=lambda c: table.estimate(candidate_blocks(c)), max_ms=None),
        guide=lambda: pytest.fail("only 'auto' asks for a guide"),
        fidelity="toy",
    )
    scored = [one.candidate for one in proposals[3:] if not is_unlucky(one.candidate)]
    sizes = [sum(block.parameters for block in candidate_blocks(one)) for one in scored]
    points = [(table.estimate(candidate_blocks(one)).total_ms, size) for one, size in zip(scored, sizes, strict=True)]
    expected = [scored[index].key for index in promoted(points, 3)]
    assert [trial.candidate.key for trial in found.trials[3:]] == expected


SCHEDULE = Schedule(
    confirmations=(
        Confirmation(evaluator=ToyEvaluator(fingerprint="long-1", fidelity="long"), keep=4, replicates=1),
        Confirmation(evaluator=ToyEvaluator(fingerprint="long-1", fidelity="long"), keep=2, replicates=3),
    )
)


def test_confirmations_rank_their_own_members_by_means(tmp_path: Path) -> None:
    events: list[Event] = []
    found = run(tmp_path, SCHEDULE, report=events.append)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        study, four = at_rung(store, "toy", "long")
        assert study.evaluator == "long-1"
        _, two = at_rung(store, "toy", "long x3")
        own, every = at_rung(store, "toy", None)
        assert (own.fidelity, len(every)) == ("toy", 14)
        with pytest.raises(UserError, match=r"unknown fidelity 'longer'.*long, long x3, toy"):
            at_rung(store, "toy", "longer")
        records = {
            key: [store.find_record(key, "long-1", n) for n in range(3)] for key in (t.candidate.key for t in two)
        }
        summary = study_summary(store, "toy").as_dict()
        known = Standing(report="mine", trust=None, noise_pct=0.6)
        rows = front_rows(study, four, front(four, fidelity="long"), known)
        averaged = front_rows(at_rung(store, "toy", "long x3")[0], two, two, known)
    assert len(four) == 4 + 3
    assert len(two) == 2 + 3
    assert {trial.number for trial in two} <= {trial.number for trial in four}
    assert sum(trial.anchor is not None for trial in two) == 3
    best = promoted([(t.latency.total_ms, t.miou_pct or 0) for t in found.trials if not t.anchor], 4)
    assert {t.number for t in four if not t.anchor} == {
        [t for t in found.trials if not t.anchor][i].number for i in best
    }
    for trial in two:
        values = [record.value for record in records[trial.candidate.key] if record and record.value is not None]
        assert len(values) == 3
        assert trial.miou_pct == pytest.approx(sum(values) / 3)
        assert trial.record is not None
        assert trial.record.fidelity == "long x3"
    assert summary["confirmed_by"] == ["long", "long x3"]
    assert {row.as_dict()["fidelity"] for row in rows} == {"long"}
    assert {row.miou_noise_pct for row in rows} == {0.6}
    assert {row.miou_noise_pct for row in averaged} == {0.6 / 3**0.5}
    confirming = [(event.done, event.total) for event in events if event.rung == "long x3"]
    assert confirming == [(done, 15) for done in range(6, 16)]  # five are known from the rung before


def test_more_seeds_for_whatever_may_be_on_the_front(tmp_path: Path) -> None:
    """With much noise more may be on it than with little; what surely is not is not trained again."""
    plain = run(tmp_path, Schedule())
    members: list[set[int]] = []
    for noise_pct in (0.01, 1.0):
        rung = Confirmation(
            evaluator=ToyEvaluator(), keep=None, replicates=3, front_probability=0.1, noise_pct=noise_pct
        )
        run(tmp_path, Schedule(confirmations=(rung,)))
        with Store.open(toy_url(tmp_path), read_only=True) as store:
            _, found = at_rung(store, "toy", "toy x3")
        likely = front_probabilities(plain.trials, toy_table(), fidelity="toy", noise_pct=noise_pct)
        expected = {t.number for t in plain.trials if t.anchor or likely[t.number] >= 0.1}
        assert {trial.number for trial in found} >= expected
        members.append(expected)
    assert members[0] < members[1] < {trial.number for trial in plain.trials}
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        _, found = at_rung(store, "toy", "toy x3")
    assert {trial.number for trial in found} == members[1]


def test_up_to_so_many_of_those_that_may_be_on_the_front(tmp_path: Path) -> None:
    rung = Confirmation(evaluator=ToyEvaluator(), keep=1, replicates=2, front_probability=0.01, noise_pct=3.0)
    run(tmp_path, Schedule(confirmations=(rung,)))
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        _, found = at_rung(store, "toy", "toy x2")
    assert sum(trial.anchor is None for trial in found) == 1


def test_a_study_file_may_confirm_by_probability_where_noise_is_known() -> None:
    text = RUNGS.replace("keep = 3", "front_probability = 0.1")
    again = '[[confirm]]\nrecipe = "reference"\nfront_probability = 0.2\nreplicates = 4'
    config = with_rungs(text + again)
    known = Standing(report="mine", trust=toy_report(0.9).fidelities[0], noise_pct=0.6)
    first, second = build_schedule(config, build_evaluator(config), lambda _: known).confirmations
    assert (first.keep, first.front_probability, first.noise_pct) == (None, 0.1, 0.6)
    assert (second.front_probability, second.noise_pct) == (0.2, 0.6)  # of one training; its trials say they had two


def test_confirming_again_trains_nothing_and_another_confirmation_only_what_is_new(tmp_path: Path) -> None:
    run(tmp_path, SCHEDULE)
    events: list[Event] = []
    again = run(tmp_path, SCHEDULE, report=events.append)
    assert (again.trained, again.confirming, events) == (0, 0, [Event(done=14, total=14)])
    more = Schedule(confirmations=(Confirmation(evaluator=SCHEDULE.confirmations[0].evaluator, keep=5, replicates=1),))
    assert run(tmp_path, more, report=events.append).confirming == 1
    assert events[1:] == [Event(done=14, total=14), Event(done=8, total=8, rung="long")]


@pytest.mark.slow
def test_a_study_with_rungs_is_the_same_after_interruptions_and_with_two_workers(tmp_path: Path) -> None:
    class BreakOffError(Exception):
        pass

    schedule = Schedule(screens=(Screen(scorer=SizeScorer(), share=0.5),), confirmations=SCHEDULE.confirmations)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", schedule)
    seen = 0

    def stop(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen in (3, 9, 17, 20):
            raise BreakOffError

    for _ in range(4):
        with pytest.raises(BreakOffError):
            run(tmp_path / "broken", schedule, report=stop)
    assert outline(run(tmp_path / "broken", schedule, report=stop, workers=2)) == outline(whole)
    for rung in ("long", "long x3"):
        with (
            Store.open(toy_url(tmp_path / "whole"), read_only=True) as one,
            Store.open(toy_url(tmp_path / "broken"), read_only=True) as other,
        ):
            assert at_rung(one, "toy", rung)[1] == at_rung(other, "toy", rung)[1]


def test_a_study_does_not_go_on_with_other_screens(tmp_path: Path) -> None:
    run(tmp_path, Schedule(screens=(Screen(scorer=SizeScorer(), share=0.5),)))
    with pytest.raises(UserError, match="began with 1 of its screens in use, now it would be 0"):
        run(tmp_path, Schedule(), toy_config(trials=20))


def test_what_fails_to_be_confirmed_is_no_member(tmp_path: Path) -> None:
    failing = ToyEvaluator(fingerprint="long-2", fidelity="long", fails=is_unlucky)
    run(tmp_path, Schedule(confirmations=(Confirmation(evaluator=failing, keep=14, replicates=1),)))
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        _, members = at_rung(store, "toy", "long")
        every = store.trials("toy")
    assert {t.number for t in members} == {t.number for t in every if not is_unlucky(t.candidate)}
    assert len(members) < len(every)


def test_a_study_with_rungs_travels_whole(tmp_path: Path) -> None:
    schedule = Schedule(screens=(Screen(scorer=SizeScorer(), share=0.5),), confirmations=SCHEDULE.confirmations)
    run(tmp_path, schedule)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        export_study(store, "toy", tmp_path / "toy.zip")
        expected = [at_rung(store, "toy", label) for label in ("long", "long x3")]
    (tmp_path / "there").mkdir()
    with Store.open(toy_url(tmp_path / "there"), create=True) as store:
        import_study(store, read_archive(tmp_path / "toy.zip"))
        assert [at_rung(store, "toy", label) for label in ("long", "long x3")] == expected
        assert store.screens("toy") == ["size-1"]


RUNGS = """
[[screen]]
recipe = "naswot"
share = 0.25
[[confirm]]
recipe = "reference"
keep = 3
replicates = 2
"""


def with_rungs(text: str = RUNGS) -> StudyConfig:
    return StudyConfig.from_toml(STUDY.format(trials=14, seed=0, sampler="nsga2") + text, where="my.toml")


def test_a_study_file_names_its_rungs_and_untested_screens_are_left_out_with_a_notice() -> None:
    config = with_rungs()
    evaluator = build_evaluator(config)
    trusted = Standing(report="mine", trust=toy_report(0.9).fidelities[0])
    schedule = build_schedule(config, evaluator, lambda _: trusted)
    assert [(screen.scorer.fidelity, screen.share) for screen in schedule.screens] == [("naswot", 0.25)]
    assert [(rung.label, rung.keep) for rung in schedule.confirmations] == [("reference x2", 3)]
    assert schedule.notices == ()
    for known in (Standing(report=None, trust=None), Standing(report="mine", trust=toy_report(0.3).fidelities[0])):
        found = build_schedule(config, evaluator, lambda _, known=known: known)  # type: ignore[misc]
        assert found.screens == ()
        assert found.notices[0].startswith("screen naswot is not used: ranking ")
        assert [rung.label for rung in found.confirmations] == [rung.label for rung in schedule.confirmations]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (('"naswot"', '"nasswot"'), r"screen\[0\]\.recipe: unknown fidelity 'nasswot'"),
        (('"naswot"', '"proxy-short"'), r"screen\[0\]\.recipe: 'proxy-short' is the study's own evaluator"),
        (
            ("keep = 3", "keep = 3\ntrainings = 9"),
            r"confirm\[0\]\.trainings is the budget of a race",
        ),
        (("replicates = 2", "racing = true"), r"confirm\[0\]\.racing: replicates is the most trainings that one"),
        (('"reference"', '"naswot"'), r"confirm\[0\]\.recipe: 'naswot' gives no mIoU; it can score what a"),
        (("replicates = 2", '[[confirm]]\nrecipe = "reference"\nkeep = 1'), "'reference' is there twice"),
        (('"reference"\nkeep = 3\nreplicates = 2', '"proxy-short"\nkeep = 3'), "is what trials are trained by"),
        (("keep = 3\n", ""), r"confirm\[0\]: which trials\? Set keep = 6"),
        (
            ("keep = 3", "front_probability = 0.1"),
            "front_probability: no trust report says how far",
        ),
    ],
)
def test_rungs_that_make_no_sense_are_one_sentence(change: tuple[str, str], fragment: str) -> None:
    text = RUNGS.replace(*change)
    assert text != RUNGS
    config = with_rungs(text)
    trusted = Standing(report="mine", trust=toy_report(0.9).fidelities[0])
    with pytest.raises(UserError, match=fragment) as error:
        build_schedule(config, build_evaluator(config), lambda _: trusted)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (("share = 0.25", "share = 1.0"), r"screen\.0\.share = 1\.0 is not legal"),
        (("share = 0.25", "part = 0.25"), r"unknown key 'screen\.0\.part'; legal keys here: recipe, share"),
        (("keep = 3", "keep = 0"), r"confirm\.0\.keep = 0 is not legal"),
        (("keep = 3", "front_probability = 0.0"), r"confirm\.0\.front_probability = 0\.0 is not legal"),
    ],
)
def test_a_wrong_rung_is_refused_with_its_key(change: tuple[str, str], fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        with_rungs(RUNGS.replace(*change))


def test_the_task_of_the_toys_is_the_data_set_s() -> None:
    assert TASK.num_classes == build_evaluator(with_rungs()).dataset.num_classes  # type: ignore[attr-defined]

"""Studies: the same at any number of workers and after any interruption, and nothing trained twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.compiled import CompiledTable
from evaluators.proxy import ProxyEvaluator
from experiments.front.pareto import hypervolume, nearest, points
from experiments.search import samplers
from experiments.search.assembly import build_evaluator, build_schedule
from experiments.search.gate import Limits
from experiments.search.guided import Guide
from experiments.search.opening import require_rows
from experiments.search.samplers import SAMPLERS, OptunaSampler, Request, left_out_agreement, next_batch
from experiments.search.study import Event, run_study
from experiments.store.lease import Lease
from experiments.store.store import Store
from experiments.study_config import SearchSection, StudyConfig
from experiments.workers.pool import Pool
from latency_lut.table import find_table
from search_space import require_anchors
from tests.support.toys import (
    STUDY,
    TASK,
    ToyEvaluator,
    always,
    is_base,
    is_unlucky,
    outline,
    run_toy,
    toy_config,
    toy_table,
    toy_url,
)
from tests.support.trees import folder_tree, imagenet_tree
from topformer.blocks import Block, candidate_blocks, decompose
from topformer.cache import CACHE_VARIABLE
from topformer.config import ANCHORS, TINY, Candidate, Task
from topformer.errors import UserError


class BreakOffError(Exception):
    pass


def interrupt_after(count: int) -> object:
    """A report that breaks the study off once so many trials are settled."""

    def report(event: Event) -> None:
        if event.done >= count:
            raise BreakOffError

    return report


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_seed_gives_one_study_at_one_or_two_workers(sampler: str, tmp_path: Path) -> None:
    config = toy_config(sampler=sampler)
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
    one, two = (run_toy(tmp_path / str(workers), config, workers=workers) for workers in (1, 2))
    assert outline(one) == outline(two)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_study_goes_on_as_it_would_have(sampler: str, tmp_path: Path) -> None:
    config = toy_config(sampler=sampler)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = run_toy(tmp_path / "whole", config)
    for count in (1, 5, 6, 13):
        with pytest.raises(BreakOffError):
            run_toy(tmp_path / "broken", config, report=interrupt_after(count))
    assert outline(run_toy(tmp_path / "broken", config)) == outline(whole)


def test_seeds_differ(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = run_toy(tmp_path), run_toy(tmp_path / "other", toy_config(seed=1))
    assert outline(one) != outline(two)


def test_a_finished_study_run_again_does_nothing(tmp_path: Path) -> None:
    first, again = run_toy(tmp_path), run_toy(tmp_path)
    assert (again.trained, again.cached) == (0, 0)
    assert outline(again) == outline(first)


def test_a_study_may_grow(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=8))
    grown = run_toy(tmp_path, toy_config(trials=10))
    assert (len(grown.trials), grown.trained) == (10, 2)


def test_a_changed_study_of_the_same_name_is_refused_and_unchanged(tmp_path: Path) -> None:
    before = run_toy(tmp_path)
    with pytest.raises(UserError, match=r"another search\.seed \(0, now 1\)"):
        run_toy(tmp_path, toy_config(seed=1))
    assert outline(run_toy(tmp_path)) == outline(before)


def test_another_evaluator_is_refused(tmp_path: Path) -> None:
    run_toy(tmp_path)
    with pytest.raises(UserError, match="was evaluated by toy-1, now it would be toy-2"):
        run_toy(tmp_path, evaluator=ToyEvaluator(fingerprint="toy-2"))


def test_a_candidate_known_from_another_study_is_not_trained_again(tmp_path: Path) -> None:
    first = run_toy(tmp_path)
    text = STUDY.format(trials=14, seed=0, sampler="nsga2").replace('name = "toy"', 'name = "copy"')
    renamed = StudyConfig.from_toml(text, where="copy.toml")
    copy = run_toy(tmp_path, renamed)
    assert (copy.trained, copy.cached) == (0, 14)
    assert outline(copy) == outline(first)


def test_nothing_is_proposed_twice(tmp_path: Path) -> None:
    keys = [trial.candidate.key for trial in run_toy(tmp_path, toy_config(trials=40)).trials]
    assert len(keys) == len(set(keys)) == 40


def test_anchors_lead_and_are_evaluated_whatever_the_budget(tmp_path: Path) -> None:
    budget = 1.1 * toy_table().estimate(anchor_blocks("tiny")).total_ms
    result = run_toy(tmp_path, toy_config(max_ms=budget))
    assert [trial.anchor for trial in result.trials[:3]] == list(ANCHORS)
    assert all(trial.latency.total_ms <= budget for trial in result.trials[3:])
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert sum(batch.over_budget for batch in store.batches("toy")) > 0


def anchor_blocks(name: str) -> tuple[Block, ...]:
    return decompose(ANCHORS[name], TASK)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_anchors_enter_the_sampler_s_population(sampler: str, tmp_path: Path) -> None:
    """NSGA-II and III ignore enqueued and added trials (optuna#3388) unless they carry their generation."""
    config = toy_config(trials=6, sampler=sampler)
    result = run_toy(tmp_path, config)
    space = config.search_space()
    chosen = SAMPLERS[sampler]
    assert isinstance(chosen, OptunaSampler)
    study = chosen.rebuilt(
        Request(space=space, done=result.trials, others=(), seed=0, size=6, population=6, guide=no_guide)
    )
    parents = [trial.params for trial in study.sampler.get_parent_population(study, 1)]  # type: ignore[attr-defined]
    assert all(dict(trial.point) in parents for trial in result.trials)


def no_guide() -> Guide:
    raise AssertionError("only 'auto' asks for a guide")


def test_a_space_without_room_under_the_budget_ends_the_study(tmp_path: Path) -> None:
    notes: list[str] = []
    result = run_toy(tmp_path, toy_config(max_ms=0.001), report=lambda event: notes.append(event.note))
    assert [trial.anchor for trial in result.trials] == list(ANCHORS)
    assert "nothing further is within latency.max_ms = 0.001: the fastest of 300" in notes[-1]


def test_proposals_stay_inside_space_and_budget_for_every_sampler() -> None:
    config = toy_config()
    space, table = config.search_space(), toy_table()
    for sampler in SAMPLERS:
        for seed in range(5):
            limits = Limits(why_not=lambda _: None, latency=lambda c: table.estimate(candidate_blocks(c)), max_ms=0.05)
            proposals, statistics = next_batch(
                space,
                (),
                SearchSection(trials=8, batch_size=8, sampler=sampler, seed=seed, anchors=[]),
                batch=0,
                size=8,
                limits=limits,
                guide=lambda: Guide(space, CompiledTable(table, space), max_ms=0.05),
                fidelity="toy",
            )
            assert len(proposals) == 8
            assert all(proposal.candidate in space and proposal.latency.total_ms <= 0.05 for proposal in proposals)
            assert statistics.asked >= 8 + statistics.over_budget + statistics.duplicates


def test_what_the_evaluator_cannot_evaluate_never_becomes_a_trial(tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=20), ToyEvaluator(bars=has_six_heads_no_anchor))
    assert not any(has_six_heads_no_anchor(trial.candidate) for trial in result.trials)
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert sum(batch.invalid for batch in store.batches("toy")) > 0


def test_an_anchor_that_the_evaluator_cannot_evaluate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="anchor 'tiny' cannot be evaluated: it is barred"):
        run_toy(tmp_path, evaluator=ToyEvaluator(bars=always))


def has_six_heads_no_anchor(candidate: Candidate) -> bool:
    return candidate.arch.num_heads == 6 and candidate.arch not in ANCHORS.values()


def test_a_failing_architecture_is_recorded_with_its_reason_and_does_not_stop_the_study(tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=30), ToyEvaluator(fails=is_unlucky))
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert all(is_unlucky(trial.candidate) for trial in failed)
    assert {trial.record.reason for trial in failed if trial.record} == {"RuntimeError: this architecture never works"}
    assert not any(trial in result.front for trial in failed)


def test_too_many_failures_stop_the_study_with_the_last_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 of 3 evaluations failed, the last with: RuntimeError: this architecture"):
        run_toy(tmp_path, evaluator=ToyEvaluator(fails=always))


def test_a_fault_of_the_machine_is_not_recorded_against_an_architecture(tmp_path: Path) -> None:
    """A full disk or a cache that cannot be written once failed three anchors for every later study."""
    with pytest.raises(
        UserError, match=r"trial \d could not be evaluated by toy: No space left .* Nothing is recorded"
    ):
        run_toy(tmp_path, evaluator=ToyEvaluator(disk_is_full=True))
    result = run_toy(tmp_path)
    assert all(trial.state == "complete" for trial in result.trials)


def test_a_study_that_never_began_may_be_changed(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with Store.open(toy_url(tmp_path)) as store:
        stored = store.study("toy")
        store.delete_study("toy")
        store.create_study(stored.config, evaluator="other", fidelity="toy", table_text=stored.table_text)
    assert len(run_toy(tmp_path, toy_config(trials=8, seed=3)).trials) == 8


def test_a_worker_that_dies_is_replaced_and_its_candidate_tried_again(tmp_path: Path) -> None:
    for name in ("marks", "calm", "wild"):
        (tmp_path / name).mkdir()
    calm = run_toy(tmp_path / "calm")
    wild = run_toy(tmp_path / "wild", evaluator=ToyEvaluator(dies_once_in=tmp_path / "marks"), workers=2)
    assert outline(wild) == outline(calm)
    assert len(list((tmp_path / "marks").iterdir())) == 3


@pytest.mark.parametrize("sampler", ["nsga2", "auto"])
def test_asynchronously_nobody_waits_for_the_slowest(sampler: str, tmp_path: Path) -> None:
    config = toy_config(trials=26, sampler=sampler)
    config = config.model_copy(update={"search": config.search.model_copy(update={"asynchronous": True})})
    events: list[Event] = []

    def follow(event: Event) -> None:
        events.append(event)
        if len(events) == 3:
            raise KeyboardInterrupt
        if event.trial and event.trial.batch >= 1:
            (tmp_path / "later").touch()

    slow = ToyEvaluator(slow=is_base, awaited=tmp_path / "later")
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, config, slow, workers=2, report=follow)
    result = run_toy(tmp_path, config, slow, workers=2, report=follow)
    numbers = [event.trial.number for event in events if event.trial]
    assert sorted(numbers) == list(range(26))  # none twice, none lost
    assert len({trial.candidate.key for trial in result.trials}) == 26
    base = next(trial.number for trial in result.trials if trial.anchor == "base")
    before = [event.trial for event in events if event.trial][: numbers.index(base)]
    assert max(trial.batch for trial in before) >= 1


def test_after_each_batch_a_study_says_how_far_it_is(tmp_path: Path) -> None:
    notes: list[str] = []
    result = run_toy(tmp_path, toy_config(trials=12, sampler="auto"), report=lambda event: notes.append(event.note))
    told = [note for note in notes if note]
    assert [note.split(":")[0] for note in told] == ["batch 0 done", "batch 1 done"]
    slowest = max(trial.latency.total_ms for trial in result.trials if trial.batch == 0)
    area = hypervolume([(t.latency.total_ms, t.miou_pct or 0.0) for t in result.trials], (slowest, 0.0))
    assert f"hypervolume {area:,.0f} ms x % under {slowest:.1f} ms" in told[1]
    done = [trial for trial in result.trials if trial.batch == 0]
    space = toy_config().search_space()
    tau, error_pct = left_out_agreement(done, Guide(space, CompiledTable(toy_table(), space), max_ms=None))
    assert f"predicted from the others with an error of {error_pct:.2f} points, tau {tau:.2f}." in told[0]
    with pytest.raises(ValueError, match="3 trials are too few"):
        left_out_agreement(done[:3], Guide(space, CompiledTable(toy_table(), space), max_ms=None))


def test_of_many_trials_auto_learns_from_those_near_the_front_and_some_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choosing a batch from ten thousand took minutes."""
    monkeypatch.setattr(samplers, "MOST_LEARNT", 8)
    result = run_toy(tmp_path, toy_config(trials=24, sampler="auto"))
    assert len({trial.candidate.key for trial in result.trials}) == 24  # what it does not learn from is still known
    learnt = samplers.learnt_from(result.trials)
    assert len(learnt) == 8
    nearest_four = {result.trials[i].number for i in nearest(points(result.trials), 4)}
    assert nearest_four < {trial.number for trial in learnt}
    assert samplers.learnt_from(result.trials[:8]) == result.trials[:8]


def test_an_extended_study_remembers_it(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=8))
    finished = []
    for config, trained in (
        (toy_config(trials=8), 0),
        (toy_config(trials=8).extended(13), 5),
        (toy_config(trials=8), 0),
    ):
        result = run_toy(tmp_path, config)
        assert result.trained == trained
        with Store.open(toy_url(tmp_path), read_only=True) as store:
            finished.append(store.study("toy").finished)
    assert len(result.trials) == 13
    assert finished[0] != finished[1] == finished[2] is not None


@contextmanager
def no_cluster() -> Iterator[Pool]:
    raise UserError("no Ray cluster answers")
    yield


def test_a_study_that_cannot_go_on_is_not_extended(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=8))
    with pytest.raises(UserError, match="no Ray cluster answers"):
        run_toy(tmp_path, toy_config(trials=8).extended(20), elsewhere=no_cluster())
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert store.study("toy").config.search.trials == 8


def test_a_study_that_never_began_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Ray cluster answers"):
        run_toy(tmp_path, elsewhere=no_cluster())
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        assert store.studies() == ()


def test_an_asynchronous_study_keeps_its_books_while_it_runs(tmp_path: Path) -> None:
    text = STUDY.format(trials=16, seed=0, sampler="random") + "asynchronous = true\n"
    config = StudyConfig.from_toml(text, where="toy.toml")
    notes: list[str] = []
    kept: list[int] = []

    def watch(event: Event) -> None:
        if event.note:
            notes.append(event.note)
            kept.append(len(list((tmp_path / "toy.db.artefacts").iterdir())))

    result = run_toy(tmp_path, config, ToyEvaluator(keeps_weights=True), report=watch)
    sizes = range(config.search.batch_size, 17, config.search.batch_size)
    assert [note.split(" done")[0] for note in notes[: len(sizes)]] == [f"{size} of 16" for size in sizes]
    members = {t.number for t in result.front} | {t.number for t in result.trials if t.anchor}
    assert max(kept) < 16
    assert kept[-1] == len(members)


def test_asynchronous_studies_have_no_screens() -> None:
    text = STUDY.format(trials=8, seed=0, sampler="nsga2") + "asynchronous = true\n"
    text += '[[screen]]\nrecipe = "macs"\nshare = 0.5\n'
    config = StudyConfig.from_toml(text, where="toy.toml")
    with pytest.raises(UserError, match=r"search\.asynchronous cannot be true with it"):
        build_schedule(config, ToyEvaluator(), lambda _: pytest.fail("not asked"))


def test_weights_are_kept_for_the_front_and_the_anchors_only(tmp_path: Path) -> None:
    result = run_toy(tmp_path, toy_config(trials=12), ToyEvaluator(keeps_weights=True))
    with Store.open(toy_url(tmp_path), read_only=True) as store:
        kept = {trial.number for trial in store.trials("toy") if trial.weights and trial.weights.is_file()}
        files = len(list(store.artefacts.folder.iterdir()))
    assert kept == {t.number for t in result.front} | {t.number for t in result.trials if t.anchor}
    assert files == len(kept) < 12


def test_a_table_without_a_row_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with Store.open(toy_url(tmp_path), create=True) as store:
        with pytest.raises(UserError, match=r"lacks 60 of the rows .* --study FILE\.toml --table toy"):
            run_study(toy_config(), store, evaluator=ToyEvaluator(), table=toy_table(drop=60))
        assert store.studies() == ()


def test_a_row_that_the_shipped_table_lacks_is_counted_into_a_table_of_ones_own() -> None:
    """It was to be measured into the shipped one, which is never written."""
    config = StudyConfig.load("quickstart")
    other = config.model_copy(update={"task": config.task.model_copy(update={"num_classes": 3})})
    name = config.latency.table
    with pytest.raises(UserError, match=rf'--study FILE\.toml --table {name}-mine; then set table = "{name}-mine"'):
        require_rows(other, find_table(name))


def test_a_second_driver_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with (
        Store.open(toy_url(tmp_path)) as store,
        store.lease("toy"),
        pytest.raises(UserError, match="is being driven by"),
    ):
        run_toy(tmp_path)


def test_the_lease_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    with Store.open(toy_url(tmp_path)) as store:
        Lease(store, "toy", f"{socket.gethostname()} process 999999999 abc").take()
    assert len(run_toy(tmp_path, toy_config(trials=7)).trials) == 7


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (("trials = 14", "trails = 14"), r"unknown key 'search\.trails'; legal keys here: trials, batch_size"),
        (("[latency]", "[latencies]"), r"unknown key 'latencies'; legal keys here: name, space"),
        (("trials = 14", "trials = 0"), r"search\.trials = 0 is not legal"),
        (("trials = 14", 'trials = "many"'), r"search\.trials = 'many' is not legal"),
        (("trials = 14\n", ""), r"missing key 'search\.trials'"),
        (('name = "toy"', 'name = "a/b"'), r"'a/b' cannot be a study's name"),
        (
            ('sampler = "nsga2"', 'sampler = "cma"'),
            r"unknown sampler 'cma'; available: auto, gp, nsga2, ",
        ),
        (('preset = "quickstart"', 'preset = "tiny"'), r"unknown .*'tiny'; available: pyramid, quickstart"),
        (('image_size = "64x64"', 'image_size = "0"'), "image size"),
        (("[space]", "[space"), "not TOML"),
        (("seed = 0", 'seed = 0\nanchors = ["huge"]'), "unknown anchor 'huge'; available: base, small, tiny"),
    ],
)
def test_a_wrong_study_file_is_refused_with_file_key_and_legal_values(change: tuple[str, str], fragment: str) -> None:
    text = STUDY.format(trials=14, seed=0, sampler="nsga2")
    assert change[0] in text
    with pytest.raises(UserError, match=fragment) as error:
        StudyConfig.from_toml(text.replace(*change), where="my.toml").search_space()
    assert "\n" not in str(error.value)


def test_anchors_outside_the_space_are_refused(tmp_path: Path) -> None:
    text = STUDY.format(trials=4, seed=0, sampler="random").replace(
        'preset = "quickstart"', 'name = "mine"\nbase = "tiny"\n[space.knobs]\nnum_heads = [2, 4]'
    )
    config = StudyConfig.from_toml(text, where="mine.toml")
    with pytest.raises(UserError, match="small"):
        run_toy(tmp_path, config)


def test_a_task_with_other_classes_than_the_data_set_is_refused() -> None:
    text = STUDY.format(trials=4, seed=0, sampler="random").replace("num_classes = 59", "num_classes = 19")
    with pytest.raises(UserError, match="scenes has 59 classes; set num_classes = 59"):
        build_evaluator(StudyConfig.from_toml(text, where="my.toml"))


def study_on(dataset: str, *, num_classes: int = 3) -> StudyConfig:
    text = STUDY.format(trials=4, seed=0, sampler="random").replace("num_classes = 59", f"num_classes = {num_classes}")
    text = text.replace('recipe = "proxy-short"', f'recipe = "proxy-short"\ndataset = "{dataset}"')
    return StudyConfig.from_toml(text, where="my.toml")


def test_a_study_takes_scenes_of_any_number_of_classes() -> None:
    evaluator = build_evaluator(study_on("scenes:150", num_classes=150))
    assert isinstance(evaluator, ProxyEvaluator)
    assert (evaluator.dataset.name, evaluator.dataset.num_classes) == ("scenes", 150)


def test_a_study_takes_a_data_set_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder_tree(tmp_path / "mine", train=4)
    evaluator = build_evaluator(study_on("mine"))
    assert isinstance(evaluator, ProxyEvaluator)
    assert evaluator.dataset.item("val", 0)[1].shape == (48, 64)  # as it is: photographs keep their proportions
    quick = replace(evaluator.recipe, training=replace(evaluator.recipe.training, iterations=2))
    candidate = Candidate(arch=TINY, task=Task(num_classes=3))
    metrics = ProxyEvaluator(quick, evaluator.dataset).evaluate(candidate, replicate=0, weights_out=None)
    assert len(metrics.per_class_iou_pct) == 3
    assert build_evaluator(study_on("folder:mine")).fingerprint == evaluator.fingerprint
    with (tmp_path / "mine/images/train/train-0.jpg").open("ab") as image:
        image.write(b"another")
    assert build_evaluator(study_on("mine")).fingerprint != evaluator.fingerprint


@pytest.mark.parametrize(
    ("dataset", "num_classes", "says"),
    [
        ("mine", 59, "mine has 3 classes; set num_classes = 3"),
        ("nowhere", 3, "study 'toy', evaluator.dataset: no folder 'nowhere'; give the folder of a data set"),
        ("ade:mine", 3, "study 'toy', evaluator.dataset: unknown data set layout 'ade'; available: ade20k"),
        ("alone", 3, "study 'toy', evaluator.dataset: alone: 1 files have no partner"),
        ("pictures", 3, "study 'toy', evaluator.dataset: pictures holds images of classes without label maps"),
    ],
)
def test_a_data_set_that_a_study_cannot_train_on_is_refused(
    dataset: str, num_classes: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_tree(tmp_path / "mine")
    (folder_tree(tmp_path / "alone") / "masks/train/train-0.png").unlink()
    imagenet_tree(tmp_path / "pictures")
    with pytest.raises(UserError, match=says) as error:
        build_evaluator(study_on(dataset, num_classes=num_classes))
    assert "\n" not in str(error.value)


def test_shipped_studies_are_valid_and_hold_their_anchors() -> None:
    config = StudyConfig.load("quickstart")
    space = config.search_space()
    require_anchors(space, config.search.anchors)
    assert build_evaluator(config).fidelity == config.evaluator.recipe


def test_a_missing_study_file_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"comes with the tool: .*quickstart"):
        StudyConfig.load("nothing.toml")

"""What a fidelity knows beyond counting, from the scores that reports hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evaluators.baselines import SCALES_THEN_MACS, rules
from experiments.trust.beyond import baselines, beyond, ceiling
from experiments.trust.standing import MemberScores, Standing, TrustReport
from search_space import preset
from tests.support.toys import toy_report
from topformer.config import Candidate, Task

TASK = Task(image_size=(64, 64), num_classes=59)


def report_of(values: Callable[[float], float], count: int = 24, noise_pct: float | None = 0.2) -> TrustReport:
    """A report whose reference orders as counting does, give or take; `values` makes the fidelity's of its score."""
    space, rng = preset("pyramid", task=Task(num_classes=59)), random.Random(0)
    archs = [space.sample(rng).arch for _ in range(count)]
    counted = rules([Candidate(arch=arch, task=TASK) for arch in archs])[SCALES_THEN_MACS].argsort().argsort()
    truth = [float(place) / 4 + rng.gauss(40, 1.5) for place in counted]
    members = [
        MemberScores(
            label=f"drawn {number}",
            key=arch.key,
            stratum="spread",
            latency_ms=None,
            architecture=arch.as_dict(),
            values={"reference": [score], "toy": [values(score)]},
            cpu_seconds={},
            far_iou_pct={},
        )
        for number, (arch, score) in enumerate(zip(archs, truth, strict=True))
    ]
    return replace(toy_report(0.7), members=members, reference_noise_pct=noise_pct)


def test_a_fidelity_that_knows_the_truth_adds_to_counting_and_noise_does_not() -> None:
    rng = random.Random(1)
    knows, guesses = report_of(lambda score: 0.5 * score), report_of(lambda _: rng.random())
    surely, not_surely = beyond(knows, knows.ranked, "toy"), beyond(guesses, guesses.ranked, "toy")
    assert surely is not None
    assert not_surely is not None
    assert (surely.rule, surely.surely, not_surely.surely) == (SCALES_THEN_MACS, True, False)
    assert 0.5 < surely.of_rule.kendall.value < 1


def test_the_sentence_of_a_standing_names_the_rule_what_is_added_and_the_ceiling() -> None:
    report = report_of(lambda score: score)
    told = beyond(report, report.ranked, "toy")
    said = Standing(
        report="toy-report", trust=report.fidelities[0], ranked=24, alike=24, look_beyond=lambda: told
    ).sentence
    assert "by scales, then MACs, which trains nothing, 0." in said
    assert "to which this adds 1.00 (1.00 to 1.00); a perfect ranker would have 0.9" in said


def test_without_repeated_trainings_no_ceiling_is_known() -> None:
    report = report_of(lambda score: score, noise_pct=None)
    told = beyond(report, report.ranked, "toy")
    assert told is not None
    assert (told.ceiling, ceiling(report, report.ranked)) == (None, None)
    assert "perfect" not in told.sentence


def test_too_few_architectures_tell_nothing() -> None:
    report = report_of(lambda score: score, count=3)
    assert beyond(report, report.ranked, "toy") is None
    assert baselines(report) == {}


def test_a_report_has_values_of_each_baseline_for_each_ranked_architecture() -> None:
    report = report_of(lambda score: score)
    found = baselines(report)
    assert set(found) == {SCALES_THEN_MACS, "MACs", "ridge"}
    assert {len(values) for values in found.values()} == {len(report.ranked)}
    labels = [one.values["reference"][0] for one in report.ranked]
    assert np.corrcoef(found["ridge"], labels)[0, 1] > 0.5

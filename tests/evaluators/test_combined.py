"""A prediction of the reference's mIoU from cheap fidelities, its file, and the evaluator that it makes."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.base import Score
from evaluators.baselines import macs_g
from evaluators.combined import CombinedEvaluator, Known, Part, Predictor
from search_space import preset
from topformer.config import Candidate, Task
from topformer.errors import UserError

TASK = Task(image_size=(512, 512), num_classes=59)
PART = Part(name="cheap", fidelity="cheap", evaluator="e" * 16)


def drawn(count: int, seed: int = 0) -> list[Candidate]:
    space, rng = preset("pyramid", task=TASK), random.Random(seed)
    return [Candidate(arch=space.sample(rng).arch, task=TASK) for _ in range(count)]


def true_pct(candidate: Candidate) -> float:
    return 30 + 5 * len(candidate.arch.injected_strides) + 3 * macs_g(candidate)


def cheap(candidate: Candidate) -> float:
    """The truth on another scale, with an error that the architecture alone decides."""
    return 0.5 * true_pct(candidate) + random.Random(candidate.key).gauss(0, 0.3)


def fitted(count: int = 30, label: Callable[[Candidate], float] = true_pct) -> Predictor:
    known = [Known(architecture=one.arch.as_dict(), values=(cheap(one),), label_pct=label(one)) for one in drawn(count)]
    return Predictor.fit(
        known, task=TASK, parts=(PART,), report="toy", reference="reference", reference_evaluator="r" * 16
    )


@dataclass(frozen=True)
class Cheap:
    """A scorer that knows `cheap`."""

    fingerprint: str = PART.evaluator
    fidelity: str = "cheap"

    def why_not(self, candidate: Candidate) -> str | None:
        return None if len(candidate.arch.injected_strides) < 5 else "too many scales."

    def evaluate(self, candidate: Candidate, *, replicate: int, weights_out: Path | None) -> Score:
        return Score(value=cheap(candidate), seconds=0.1, cpu_seconds=0.1)


def test_others_are_predicted_within_their_interval_about_as_often_as_it_says() -> None:
    predictor = fitted()
    others = drawn(60, seed=1)
    told = [predictor.predict(one, [cheap(one)]) for one in others]
    errors = np.array([one.value - true_pct(other) for one, other in zip(told, others, strict=True)])
    covered = np.mean([one.low <= true_pct(other) <= one.high for one, other in zip(told, others, strict=True)])
    assert np.abs(errors).mean() < 0.25 * np.std([true_pct(one) for one in others])
    assert covered >= 0.8


def test_a_prediction_is_less_sure_where_less_is_known() -> None:
    few, many = fitted(10), fitted(40)
    others = drawn(10, seed=2)
    told = [[by.predict(one, [cheap(one)]) for one in others] for by in (few, many)]
    widths = [np.mean([one.high - one.low for one in by]) for by in told]
    assert widths[0] > widths[1]


def test_what_is_left_out_is_predicted_from_the_others_alone() -> None:
    noise = random.Random(5)
    predictor = fitted(label=lambda _: noise.gauss(50, 1))
    labels = [one.label_pct for one in predictor.known]
    pairs = list(zip(predictor.left_out, labels, strict=True))
    assert np.mean([abs(told.value - label) for told, label in pairs]) > 0.5
    assert np.mean([told.low <= label <= told.high for told, label in pairs]) > 0.7


def test_a_predictor_survives_its_file_and_is_the_same_whenever_it_is_fitted(tmp_path: Path) -> None:
    path = tmp_path / "fitted.json"
    path.write_text(fitted(12).as_json())
    assert Predictor.load(path) == fitted(12)


def test_too_few_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="has 7 architectures with a score by reference"):
        fitted(7)
    with pytest.raises(UserError, match="of different scores"):
        fitted(label=lambda _: 50.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "its format is 2, this tool reads 1"),
        ({"amounts": []}, "amounts must be 1 to 3000 rows of 5 numbers"),
        ({"amounts": [[0, 0, 0, 0, 1e9]]}, "amounts must be from -30 to 30"),
        ({"known": []}, "it knows 0 architectures"),
        ({"parts": []}, "a value for each of its parts"),
        ({"task": {"image_size": [1, 1]}}, "task of a combined evaluator"),
        ({"reference": 3}, "reference: Input should be a valid string"),
        ({"more": 3}, "more: Unexpected keyword argument"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_what_is_wrong(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "fitted.json"
    path.write_text(json.dumps(json.loads(fitted(8).as_json()) | change))
    with pytest.raises(UserError, match=named):
        Predictor.load(path)


def test_the_evaluator_predicts_with_its_error_and_keeps_no_weights(tmp_path: Path) -> None:
    evaluator = CombinedEvaluator(fitted(), [Cheap()], where="fitted.json")
    (candidate,) = drawn(1, seed=3)
    found = evaluator.evaluate(candidate, replicate=0, weights_out=tmp_path / "weights")
    told = evaluator.predictor.predict(candidate, [cheap(candidate)])
    assert (found.miou_pct, found.miou_margin_pct) == (told.value, told.high - told.value)
    assert (found.pixel_accuracy_pct, found.per_class_iou_pct) == (None, ())
    assert list(tmp_path.iterdir()) == []


def test_the_evaluator_is_the_same_after_the_way_to_a_worker() -> None:
    evaluator = CombinedEvaluator(fitted(12), [Cheap()], where="fitted.json")
    sent = pickle.loads(pickle.dumps(evaluator))
    assert (sent.fingerprint, sent.fidelity) == (evaluator.fingerprint, f"combined-{evaluator.fingerprint[:8]}")
    assert sent.predictor == evaluator.predictor


def test_the_place_of_a_parts_file_changes_no_fingerprint() -> None:
    predictor = fitted(12)
    moved = replace(predictor, parts=(replace(PART, name="supernet:elsewhere/last.safetensors"),))
    here, there = (CombinedEvaluator(one, [Cheap()], where="x") for one in (predictor, moved))
    other = CombinedEvaluator(fitted(13), [Cheap()], where="x")
    assert here.fingerprint == there.fingerprint != other.fingerprint


def test_parts_of_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="was fitted to cheap of evaluator eeeeeeeeeeeeeeee, here it is 0000"):
        CombinedEvaluator(fitted(12), [Cheap(fingerprint="0" * 16)], where="fitted.json")


def test_a_candidate_that_a_part_cannot_evaluate_is_refused_by_its_reason() -> None:
    evaluator = CombinedEvaluator(fitted(12), [Cheap()], where="fitted.json")
    (candidate,) = drawn(1)
    assert evaluator.why_not(candidate) is None
    smaller = replace(candidate, task=replace(TASK, image_size=(256, 256)))
    classes = replace(candidate, task=replace(TASK, num_classes=7))
    assert evaluator.why_not(smaller) == "the prediction is for 512x512 px, the candidate has 256x256."
    assert evaluator.why_not(classes) == "the prediction is for 59 classes, the candidate has 7."
    with pytest.raises(UserError, match="is for 512x512 px"):
        evaluator.evaluate(smaller, replicate=0)

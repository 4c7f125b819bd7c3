"""What may follow a recipe's name: evaluators of their own, and what none of them may change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluators.datasets.scenes import Scenes
from evaluators.named import evaluator_named, scorers_named
from evaluators.proxy import REFERENCE, SHORT, ProxyEvaluator, common_seed, proxy_named, training_seed
from tests.evaluators.test_proxy import MICRO_CANDIDATE, photographs
from topformer.errors import UserError

SMALL = Scenes(image_size=(64, 64), train_images=8, val_images=4)


def test_every_option_has_a_name_and_a_fingerprint_of_its_own() -> None:
    names = ("proxy-short", "proxy-short+common", "proxy-short+average", "proxy-short+all-pixels", "proxy-short+half")
    scorers = scorers_named(",".join((*names, "reference", "reference+judge")), REFERENCE, Scenes())
    assert [one.fidelity for one in scorers] == [*names, "reference", "reference+judge"]
    assert len({one.fingerprint for one in scorers}) == len(scorers)
    assert evaluator_named("proxy-short+half+common", Scenes()).fidelity == "proxy-short+common+half"


def test_options_change_what_they_say(tmp_path: object) -> None:
    plain = proxy_named("proxy-short", Scenes()).recipe
    averaged, all_of_them = (proxy_named(f"proxy-short+{one}", Scenes()).recipe for one in ("average", "all-pixels"))
    assert averaged.training.ema_decay == pytest.approx(1 - 8 / 370)
    assert replace(averaged.training, ema_decay=0.0) == plain.training
    assert (plain.evaluation_stride, all_of_them.evaluation_stride) == (4, 1)
    assert proxy_named("proxy-short+half", Scenes()).recipe.training.iterations == 185
    assert common_seed(0) != common_seed(1) != training_seed(MICRO_CANDIDATE, 1)


def test_an_option_that_changes_nothing_or_is_unknown_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = photographs(tmp_path_factory.mktemp("photographs") / "mine")
    for text, data, says in (
        ("proxy-short+averaged", Scenes(), "unknown option of a recipe 'averaged'.*average"),
        ("proxy-short+half+half", Scenes(), "names 'half' twice"),
        ("proxy-short+average", folder, "averages weights already"),
        ("proxy-short+all-pixels", folder, "scores all pixels already"),
        ("proxy-short+judge", Scenes(), "only reference judges"),
        ("reference+judge", folder, r"judges by the list test\.txt of photographs already"),
    ):
        with pytest.raises(UserError, match=says):
            evaluator_named(text, data)  # type: ignore[arg-type]


def test_scenes_that_judge_are_of_another_seed_and_no_other_images() -> None:
    assert SMALL.judging.seed != SMALL.seed
    assert SMALL.judging.judging == SMALL
    assert (SMALL.item("val", 0)[0] != SMALL.judging.item("val", 0)[0]).any()


@pytest.mark.slow
def test_a_judge_on_scenes_changes_nothing_else() -> None:
    small = replace(SHORT, canvas=(64, 64), reference_size=(64, 64), training=replace(SHORT.training, iterations=2))
    plain = ProxyEvaluator(replace(small, name="reference"), SMALL)
    judged = ProxyEvaluator(replace(small, name="reference"), SMALL, options=("judge",))
    found, before = (one.evaluate(MICRO_CANDIDATE, replicate=0, weights_out=None) for one in (judged, plain))
    assert before.judge_miou_pct is None
    assert found.judge_miou_pct is not None
    assert (found.miou_pct, found.train_loss) == (before.miou_pct, before.train_loss)
    assert found.judge_miou_pct != found.miou_pct

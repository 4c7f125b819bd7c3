"""The end of a training that is half done, by how others went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.scaling.curves import Curves, by_mean_gain, foretold
from tests.support.shell import Shell
from topformer.errors import UserError

RECORDS = Path(__file__).parents[3] / "experiments/results/photographs/records.jsonl"


def drawn(count: int = 40, *, seed: int = 0) -> Curves:
    """A loss that tells the end, and a score that tells little of it."""
    rng = np.random.default_rng(seed)
    end = rng.normal(40, 3, count)
    progress = np.linspace(0.1, 1, 10)
    loss = 3 - 1.5 * progress - (end[:, None] - 40) / 20 + rng.normal(0, 0.02, (count, 10))
    miou = end[:, None] * progress + rng.normal(0, 4, (count, 10))
    return Curves(miou_pct=miou, loss=loss, final_pct=end, arch=np.arange(count))


def test_the_end_is_foretold_better_than_by_the_mean_gain() -> None:
    known, others = drawn(), drawn(seed=1)
    found = [
        (foretold(known, m[:5], loss[:5]), by_mean_gain(known, m[:5], loss[:5]))
        for m, loss in zip(others.miou_pct.tolist(), others.loss.tolist(), strict=True)
    ]
    inside = [end.low_pct <= truth <= end.high_pct for (end, _), truth in zip(found, others.final_pct, strict=True)]
    assert 0.75 <= np.mean(inside) <= 1
    assert all(end.high_pct - end.low_pct < plain.high_pct - plain.low_pct for end, plain in found)


@pytest.mark.parametrize(
    ("scores", "losses"), [([1.0], []), ([], []), ([1.0] * 10, [1.0] * 10), ([float("nan")], [1.0])]
)
def test_an_impossible_curve_is_refused(scores: list[float], losses: list[float]) -> None:
    with pytest.raises(UserError, match=r"a curve of 1 to 9|finite"):
        foretold(drawn(), scores, losses)


def test_the_command_says_where_a_training_ends(shell: Shell) -> None:
    Path("run.csv").write_text("miou_pct,loss\n10.4,1.531\n14.4,0.981\n20.6,0.821\n")
    end = shell.json("scale", "curve", "run.csv", "--records", str(RECORDS))
    assert isinstance(end, dict)
    assert (end["tenths"], 30 < end["low_pct"] < end["mean_pct"] < end["high_pct"] < 55) == (3, True)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("miou_pct\n1\n", (), "lacks the column loss"),
        ("miou_pct,loss\n1,low\n", (), "line 2: miou_pct and loss must be numbers"),
        ("miou_pct,loss\n" + "1,1\n" * 12, (), "more than 10 rows"),
        ("miou_pct,loss\n1,1\n", (), "0 architectures have a curve by reference"),
        ("miou_pct,loss\n1,1\n", ("--records", str(RECORDS), "--fidelity", "macs"), "0 architectures"),
    ],
)
def test_bad_input_is_one_sentence(text: str, words: tuple[str, ...], said: str, shell: Shell) -> None:
    Path("run.csv").write_text(text)
    assert said in shell.refusal("scale", "curve", "run.csv", *words)

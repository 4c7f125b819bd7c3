"""Where will a training end that is half done? By finished trainings of the same schedule, and how they went.

The end is foretold by ridge regression on the scores and losses of the tenths that are done: the middle of a cosine
schedule is not the end of a shorter one, so that no law of length is asked. Its interval is the jackknife+ (Barber et
al., arXiv:1905.02928) over architectures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.store.records import Evaluation
from topformer.errors import UserError
from topformer.reading import file_text

Floats = NDArray[np.float64]
CURVE_POINTS = 10
"""Tenths of a training, as records have them."""
LEVEL = 0.9
LEAST_TRAININGS = 10
"""Of different architectures; fewer say nothing of a 90 % interval."""
PENALTIES = (1.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Finished trainings of one schedule."""

    miou_pct: Floats
    """(n, 10) on the first validation images, after each tenth."""
    loss: Floats
    """(n, 10) mean over each tenth."""
    final_pct: Floats
    """(n,) mIoU on all validation images at the end."""
    arch: NDArray[np.int64]
    """(n,) which architecture; trainings of one are left out together."""

    def done(self, tenths: int) -> Floats:
        """(n, 2 * tenths) what is known of each when so many tenths are done."""
        return np.concatenate([self.miou_pct[:, :tenths], self.loss[:, :tenths]], axis=1)

    def without(self, arch: int) -> Curves:
        kept = self.arch != arch
        return Curves(
            miou_pct=self.miou_pct[kept], loss=self.loss[kept], final_pct=self.final_pct[kept], arch=self.arch[kept]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The final mIoU of a training that is not done, in per cent."""

    tenths: int
    mean_pct: float
    low_pct: float
    high_pct: float
    """90 % interval."""
    trainings: int
    """How many finished ones it rests on."""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def curves_of(evaluations: Iterable[Evaluation], *, fidelity: str) -> Curves:
    """Of one fidelity, those whose curves were recorded.

    Raises `UserError` where they are of several evaluators, or too few to learn from.
    """
    every = [one for one in evaluations if one.record.fidelity == fidelity and one.record.accuracy is not None]
    if len({one.record.evaluator for one in every}) > 1:
        raise UserError(f"the trainings by {fidelity} are of several data sets or versions; give records of one.")
    rows = []
    for one in every:
        found = one.record.accuracy
        if found is not None and found.curve_miou_pct and found.curve_loss:
            rows.append((found.curve_miou_pct, found.curve_loss, found.miou_pct, one.candidate.arch.key))
    keys = list(dict.fromkeys(row[3] for row in rows))
    if len(keys) < LEAST_TRAININGS:
        raise UserError(
            f"{len(keys)} architectures have a curve by {fidelity}; at least {LEAST_TRAININGS} are needed to say where "
            "another training ends. Records of versions before curves were kept have none."
        )
    return Curves(
        miou_pct=np.array([row[0] for row in rows], dtype=np.float64),
        loss=np.array([row[1] for row in rows], dtype=np.float64),
        final_pct=np.array([row[2] for row in rows], dtype=np.float64),
        arch=np.array([keys.index(row[3]) for row in rows], dtype=np.int64),
    )


def foretold(known: Curves, miou_pct: Sequence[float], loss: Sequence[float]) -> End:
    """The end of a training of which so many tenths are done.

    Raises `UserError` for curves of unequal or impossible length, or with values that are not finite.
    """
    tenths = len(miou_pct)
    if len(loss) != tenths or not 1 <= tenths < CURVE_POINTS:
        raise UserError(
            f"a curve of 1 to {CURVE_POINTS - 1} tenths is foretold, with a score and a loss for each; these have "
            f"{tenths} and {len(loss)}."
        )
    given = np.array([*miou_pct, *loss], dtype=np.float64)
    if not np.isfinite(given).all():
        raise UserError("scores and losses of a curve must be finite numbers.")
    penalty = _penalty(known.done(tenths), known)
    return _by_jackknife(known, given, tenths, lambda part: _Ridge(part, tenths, penalty))


def by_mean_gain(known: Curves, miou_pct: Sequence[float], loss: Sequence[float]) -> End:
    """The last score plus what trainings gained from there on in the mean: what `foretold` must beat."""
    tenths = len(miou_pct)
    given = np.array([*miou_pct, *loss], dtype=np.float64)
    return _by_jackknife(known, given, tenths, lambda part: _Gain(part, tenths))


def read_curve(path: Path) -> tuple[list[float], list[float]]:
    """Scores and losses of a training that is not done: a .csv with columns miou_pct and loss, a row for each tenth.

    Raises `UserError` naming what is missing or no number.
    """
    rows = csv.DictReader(io.StringIO(file_text(path, "the curve")))
    columns = tuple(rows.fieldnames or ())
    if missing := [name for name in ("miou_pct", "loss") if name not in columns]:
        raise UserError(f"{path} lacks the column {missing[0]}; it has {', '.join(columns[:20]) or 'none'}.")
    scores, losses = [], []
    for number, row in enumerate(rows, start=2):
        if number > CURVE_POINTS + 1:
            raise UserError(f"{path} has more than {CURVE_POINTS} rows; a curve has one for each tenth of a training.")
        try:
            scores.append(float(row["miou_pct"]))
            losses.append(float(row["loss"]))
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {number}: miou_pct and loss must be numbers.") from None
    return scores, losses


class _Ridge:
    def __init__(self, known: Curves, tenths: int, penalty: float) -> None:
        done = known.done(tenths)
        self.centre, self.spread = done.mean(0), done.std(0) + 1e-9
        x, y = (done - self.centre) / self.spread, known.final_pct
        self.mean = float(y.mean())
        self.weights = _solved(x, y - self.mean, penalty)

    def at(self, done: Floats) -> Floats:
        """(m,) ends, from (m, 2 * tenths)."""
        return np.asarray(self.mean + (done - self.centre) / self.spread @ self.weights)


class _Gain:
    def __init__(self, known: Curves, tenths: int) -> None:
        self.tenths = tenths
        self.gain = float((known.final_pct - known.miou_pct[:, tenths - 1]).mean())

    def at(self, done: Floats) -> Floats:
        return np.asarray(done[:, self.tenths - 1] + self.gain)


def _solved(x: Floats, y: Floats, penalty: float) -> Floats:
    return np.asarray(np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y))


def _penalty(done: Floats, known: Curves) -> float:
    """The one that errs least when each architecture is left out in turn."""
    x = (done - done.mean(0)) / (done.std(0) + 1e-9)
    y = known.final_pct - known.final_pct.mean()
    return min(PENALTIES, key=lambda penalty: _left_out(x, y, known.arch, penalty))


def _left_out(x: Floats, y: Floats, arch: NDArray[np.int64], penalty: float) -> float:
    """Mean squared error of each architecture by the others; the hat matrix spares the refits."""
    hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T)
    error = y - hat @ y
    total = 0.0
    for one in np.unique(arch):
        own = arch == one
        inner = np.eye(int(own.sum())) - hat[np.ix_(own, own)]
        total += float((np.linalg.solve(inner, error[own]) ** 2).sum())
    return total / len(y)


def _by_jackknife(known: Curves, given: Floats, tenths: int, kind: Callable[[Curves], _Ridge | _Gain]) -> End:
    done = known.done(tenths)
    low, high = [], []
    for one in np.unique(known.arch):
        model = kind(known.without(int(one)))
        own = known.arch == one
        off = np.abs(known.final_pct[own] - model.at(done[own]))
        mean = float(model.at(given[None])[0])
        low += list(mean - off)
        high += list(mean + off)
    count = len(low)
    place = min(int(np.ceil(LEVEL * (count + 1))), count)
    return End(
        tenths=tenths,
        mean_pct=float(kind(known).at(given[None])[0]),
        low_pct=float(np.sort(low)[count - place]),
        high_pct=float(np.sort(high)[place - 1]),
        trainings=count,
    )

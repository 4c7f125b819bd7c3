"""Which trials are worth choosing? Non-domination in mIoU (more is better) and latency (less is better)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.store.records import Study, Trial
from topformer.errors import UserError

Points = Sequence[tuple[float, float]] | NDArray[np.float64]
"""(latency, mIoU) of each; as an array (n, 2)."""


def non_dominated(points: Points) -> tuple[int, ...]:
    """Indices of the front among (latency, mIoU) points, by latency; of equal points the first stays."""
    if not len(points):
        return ()
    ms, miou = np.array(points, dtype=np.float64).T
    order = np.lexsort((-miou, ms))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(miou[order])[:-1]])
    return tuple(order[miou[order] > best_before].tolist())


def nearest(points: Points, count: int) -> tuple[int, ...]:
    """Indices, ascending, of the `count` (latency, mIoU) points least far below the front; its members are 0 below."""
    if not len(points):
        return ()
    ms, miou = np.array(points, dtype=np.float64).T
    order = np.lexsort((-miou, ms))
    front = np.empty(len(points))
    front[order] = np.maximum.accumulate(miou[order])
    return tuple(int(index) for index in np.sort(np.argsort(front - miou, kind="stable")[:count]))


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area in ms * per cent between (latency, mIoU) points and a reference point: what a greater front has more of.

    The reference is (longest latency, least mIoU); points beyond it add nothing.
    """
    longest, least = reference
    inside = [(ms, miou) for ms, miou in points if ms < longest and miou > least]
    members = [inside[index] for index in non_dominated(inside)]
    ends = [*(ms for ms, _ in members[1:]), longest][: len(members)]
    return sum((end - ms) * (miou - least) for (ms, miou), end in zip(members, ends, strict=True))


def shortlist(points: Sequence[tuple[float, float]], count: int, reference: tuple[float, float]) -> tuple[int, ...]:
    """Indices, by latency, of up to `count` members of the front: its knee, then whichever adds most hypervolume."""
    members = list(non_dominated(points))
    if count >= len(members):
        return tuple(members)
    chosen = [knee(points)] if count else []
    while len(chosen) < count:
        rest = [index for index in members if index not in chosen]
        chosen.append(max(rest, key=lambda index: hypervolume([points[i] for i in (*chosen, index)], reference)))
    return tuple(index for index in members if index in chosen)


def knee(points: Sequence[tuple[float, float]]) -> int:
    """Index of the member of the front that is farthest above the line between its ends, both axes as shares of the
    front's extent; the most accurate one where none is above it."""
    members = non_dominated(points)
    if not members:
        raise ValueError("a front without points has no knee.")
    (first_ms, first_miou), (last_ms, last_miou) = points[members[0]], points[members[-1]]
    if len(members) < 3:
        return members[-1]

    def above(index: int) -> float:
        ms, miou = points[index]
        return (miou - first_miou) / (last_miou - first_miou) - (ms - first_ms) / (last_ms - first_ms)

    best = max(members, key=above)
    return best if above(best) > 0 else members[-1]


def evaluated(trials: Iterable[Trial], *, fidelity: str) -> tuple[Trial, ...]:
    """Completed trials of one fidelity; a front never mixes two."""
    return tuple(
        trial
        for trial in trials
        if trial.state == "complete" and trial.record is not None and trial.record.fidelity == fidelity
    )


def points(trials: Iterable[Trial]) -> list[tuple[float, float]]:
    """(latency in ms, mIoU in per cent) of completed trials."""
    return [(trial.latency.total_ms, trial.miou_pct or 0.0) for trial in trials]


def front(trials: Iterable[Trial], *, fidelity: str) -> tuple[Trial, ...]:
    """The Pareto front, by latency."""
    done = evaluated(trials, fidelity=fidelity)
    return tuple(done[index] for index in non_dominated(points(done)))


def budget_ms(text: str, trials: Iterable[Trial], *, fidelity: str) -> float:
    """A budget as people write it: a number of ms, or the name of an evaluated anchor, whose latency it then is."""
    try:
        return float(text.removesuffix("ms"))
    except ValueError:
        pass
    anchors = {t.anchor: t.latency.total_ms for t in evaluated(trials, fidelity=fidelity) if t.anchor}
    if text not in anchors:
        known = ", ".join(anchors) or "none yet"
        raise UserError(f"budget {text!r} is neither a number of ms nor an anchor of the study ({known}).")
    return anchors[text]


def best_under(trials: Iterable[Trial], latency_max_ms: float, *, fidelity: str) -> Trial:
    """The trial of highest mIoU whose predicted latency is at most the budget."""
    if not latency_max_ms > 0:
        raise UserError(f"a latency budget must be a positive number of ms, not {latency_max_ms:g}.")
    members = front(trials, fidelity=fidelity)
    within = [trial for trial in members if trial.latency.total_ms <= latency_max_ms]
    if not within:
        fastest = f"the fastest needs {members[0].latency.total_ms:.2f} ms" if members else "none is evaluated yet"
        raise UserError(f"no evaluated architecture runs within {latency_max_ms:g} ms; {fastest}.")
    return within[-1]


def nearest_anchor(trial: Trial, trials: Iterable[Trial], *, fidelity: str) -> Trial | None:
    """The evaluated anchor closest in latency."""
    anchors = [other for other in evaluated(trials, fidelity=fidelity) if other.anchor]
    return min(anchors, key=lambda a: abs(a.latency.total_ms - trial.latency.total_ms), default=None)


def hypervolume_reference(study: Study, trials: Sequence[Trial]) -> tuple[float, float]:
    """(ms, per cent) that a study's hypervolumes are measured from: its budget, or the longest latency of its first
    batch, and no mIoU at all. It is the same from the first batch to the last."""
    budget = study.config.latency.max_ms
    first = [trial.latency.total_ms for trial in trials if trial.batch == 0]
    return float(budget if budget is not None else max(first, default=0.0)), 0.0


def hypervolume_of(trials: Sequence[Trial], *, fidelity: str, reference: tuple[float, float]) -> float:
    """In ms * per cent."""
    return hypervolume(points(evaluated(trials, fidelity=fidelity)), reference)


def shortlisted(study: Study, trials: Sequence[Trial], count: int) -> tuple[Trial, ...]:
    """Up to `count` members of the front, by latency: the knee and those that keep most of its hypervolume."""
    if count < 1:
        raise UserError(f"a shortlist has at least 1 architecture, not {count}.")
    done = evaluated(trials, fidelity=study.fidelity)
    return tuple(done[index] for index in shortlist(points(done), count, hypervolume_reference(study, trials)))


def knee_of(study: Study, trials: Sequence[Trial]) -> Trial | None:
    """The front's knee; None without an evaluation."""
    done = evaluated(trials, fidelity=study.fidelity)
    return done[knee(points(done))] if done else None

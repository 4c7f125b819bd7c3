"""What does more size buy? A law with its intervals, as commands print it and reports draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.scaling.design import Plan, halving
from experiments.scaling.laws import LEVEL_PCT, Law, ends_of
from experiments.scaling.points import UNITS, Source
from topformer.errors import UserError

BEYOND = 1.5
"""So many times the largest size that was tried is the largest that is foretold."""
_SHOWN = 6

Cells = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """The law at one size, for the commonest group."""

    size: float
    mean_pct: float
    low_pct: float
    high_pct: float
    network_low_pct: float
    """90 % interval of one further network."""
    network_high_pct: float
    step_pct: float | None
    """What the next step of size buys, in points; None where none was asked for or it leads beyond what was tried."""
    step_low_pct: float | None
    step_high_pct: float | None
    tried: bool
    """Within the sizes that were evaluated."""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class LawView:
    """A law, what it foretells, and what would make it surer."""

    source: Source
    law: Law
    foretold: tuple[Foretold, ...]
    step: float | None
    plan: Plan | None

    @property
    def carried(self) -> bool:
        """Whether the points carry a law at all."""
        return self.law.grows

    @property
    def cells(self) -> tuple[Cells, ...]:
        return tuple(self._cells_of(one) for one in self.foretold)

    def _cells_of(self, one: Foretold) -> Cells:
        unit = UNITS[self.source.axis]
        cells = {
            unit: f"{one.size:.4g}{'' if one.tried else ' *'}",
            "mIoU % (90 %)": f"{one.mean_pct:.1f} ({one.low_pct:.1f} to {one.high_pct:.1f})",
            "one network (90 %)": f"{one.network_low_pct:.1f} to {one.network_high_pct:.1f}",
        }
        if self.step is not None:
            cells[f"next {self.step:g} {unit} buy"] = (
                "not known"
                if one.step_pct is None
                else f"{one.step_pct:+.2f} ({one.step_low_pct:.2f} to {one.step_high_pct:.2f})"
            )
        return cells

    @property
    def sentences(self) -> tuple[str, ...]:
        """The law, how it was chosen, and what is not known."""
        law, unit = self.law, UNITS[self.source.axis]
        errors = ", ".join(
            f"{form} {error:.2f}" for form, error in sorted(law.error_pct.items(), key=lambda item: item[1])
        )
        said = [
            f"{self.source.about}, {law.points.size.min():.3g} to {law.points.size.max():.3g} {unit}; an architecture "
            f"lies {law.noise_pct:.2f} points (s.d.) around the law.",
            f"{law.form}: {law.formula(unit)}, for {law.points.groups[0]}.",
            f"Errors in the mean of the largest sizes when fitted without them, points: {errors}.",
        ]
        if law.form == "line":
            said.append(
                "No curved form foretells surely better than a straight line in the logarithm, so the line is told."
            )
        offsets = law.best[law.form].offsets[0]
        if len(offsets) > 1:
            others = ", ".join(
                f"{name} {offset - offsets[0]:+.1f}" for name, offset in zip(law.points.groups, offsets, strict=True)
            )
            said.append(f"Offsets, points: {others}.")
        if (ceiling := law.ceiling) is not None:
            said.append(f"It approaches {ceiling[0]:.1f} % ({ceiling[1]:.1f} to {ceiling[2]:.1f}).")
        if any(not one.tried for one in self.foretold):
            said.append("* beyond the sizes that were tried.")
        if not self.carried:
            said.append(
                f"These points carry no law: the {LEVEL_PCT} % interval of the slope reaches to 0 or below, so that "
                "what more size buys is not known."
            )
        if self.plan is not None:
            at = " and ".join(f"{size:.3g} {unit}" for size in self.plan.sizes)
            said.append(
                f"The cheapest evaluations that would about halve the interval at {self.plan.at:.3g} {unit}: "
                f"{self.plan.each} at {at}."
            )
        return tuple(said)

    def as_dict(self) -> dict[str, Any]:
        law = self.law
        ceiling = law.ceiling
        return {
            "about": self.source.about,
            "axis": self.source.axis,
            "points": len(law.points.size),
            "smallest": float(law.points.size.min()),
            "largest": float(law.points.size.max()),
            "form": law.form,
            "formula": law.formula(UNITS[self.source.axis]),
            "carried": self.carried,
            "extrapolation_error_pct": dict(law.error_pct),
            "noise_pct": law.noise_pct,
            "offsets_pct": dict(zip(law.points.groups, law.best[law.form].offsets[0].tolist(), strict=True)),
            "ceiling_pct": None if ceiling is None else list(ceiling),
            "foretold": [one.as_dict() for one in self.foretold],
            "step": self.step,
            "would_halve": None if self.plan is None else self.plan.as_dict(),
        }


def law_view(source: Source, law: Law, *, at: Sequence[float] = (), step: float | None = None) -> LawView:
    """At the sizes asked for, by default evenly over those that were tried and half as much beyond.

    Raises `UserError` for a size or a step that is not above 0, and for a size too far beyond what was tried.
    """
    tried = law.points.size
    for size in (*at, *([] if step is None else [step])):
        if not 0 < size < float("inf"):
            raise UserError(f"sizes and steps must be above 0, not {size:g}.")
    if far := [size for size in at if size > 4 * tried.max() or size < tried.min() / 4]:
        raise UserError(
            f"{far[0]:g} is more than four times beyond the sizes that were tried, {tried.min():.3g} to "
            f"{tried.max():.3g}: no law reaches so far; evaluate networks nearer to it."
        )
    sizes = at or tuple(float(one) for one in np.geomspace(tried.min(), BEYOND * tried.max(), _SHOWN))
    return LawView(
        source=source,
        law=law,
        foretold=tuple(_foretold(law, size, step) for size in sizes),
        step=step,
        plan=halving(law, max(*sizes, float(tried.max()))),
    )


def _foretold(law: Law, size: float, step: float | None) -> Foretold:
    group = np.array([0])
    low, high = law.interval(size)
    network_low, network_high = law.interval(size, networks=1)
    gained = None
    if step is not None and size + step <= law.points.size.max():
        first, second = np.array([size]), np.array([size + step])
        drawn = law.draws(second, group) - law.draws(first, group)
        gained = float((law.mean(second, group) - law.mean(first, group))[0]), *ends_of(drawn)
    return Foretold(
        size=float(size),
        mean_pct=float(law.mean(np.array([size]), group)[0]),
        low_pct=low,
        high_pct=high,
        network_low_pct=network_low,
        network_high_pct=network_high,
        step_pct=gained[0] if gained else None,
        step_low_pct=gained[1] if gained else None,
        step_high_pct=gained[2] if gained else None,
        tried=bool(law.points.size.min() <= size <= law.points.size.max()),
    )

"""A law of mIoU by size, drawn with its points and intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.reports.figures import drawn
from experiments.scaling.points import UNITS
from experiments.views.scaling import BEYOND, LawView


def draw_law(view: LawView, path: Path) -> None:
    """Points by group, the law of each, and the 90 % interval of the commonest one's, dashed beyond what was tried."""
    law = view.law
    points, largest = law.points, float(law.points.size.max())
    sizes = np.geomspace(points.size.min(), BEYOND * largest, 60)
    with drawn(path, 8, 5) as figure:
        axes = figure.add_subplot()
        for number, name in enumerate(points.groups):
            own = points.group == number
            colour = f"C{number % 10}"
            axes.scatter(points.size[own], points.score_pct[own], s=10, alpha=0.5, color=colour, label=name)
            mean = law.mean(sizes, np.full(len(sizes), number))
            axes.plot(sizes[sizes <= largest], mean[sizes <= largest], color=colour)
            axes.plot(sizes[sizes >= largest], mean[sizes >= largest], color=colour, linestyle="--")
        low, high = np.array([law.interval(float(size)) for size in sizes]).T
        axes.fill_between(sizes, low, high, color="C0", alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel(f"{view.source.axis.rpartition('_')[0] or view.source.axis}, {UNITS[view.source.axis]}")
        axes.set_ylabel("mIoU, %")
        axes.set_title(f"{law.form}: {law.formula(UNITS[view.source.axis])}", fontsize=9)
        if len(points.groups) > 1:
            axes.legend(title="injected scales", fontsize=8)

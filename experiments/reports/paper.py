"""A table of the paper as a file: Markdown, CSV, LaTeX or JSON text, or a picture."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from evaluators.trust import Z_90
from experiments.reports.figures import PICTURES, drawn
from experiments.views.paper import Cells, PaperView
from topformer.errors import UserError
from topformer.writing import write_whole

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LABEL_WIDTH, _LABEL_HEIGHT = 0.8, 0.5
"""Natural logarithm of ms, and points of mIoU, that a label takes."""
_TEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def write_paper(views: Sequence[PaperView], path: Path) -> None:
    """Raises `UserError` for a suffix that is not known, and where the file cannot be written."""
    require_paper_file(path, len(views))
    if path.suffix in PICTURES:
        draw_paper(views[0], path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _TEXTS[path.suffix](views).encode())
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r} ({error.strerror}).") from None


def require_paper_file(path: Path, tables: int) -> None:
    """Raise `UserError` where `write_paper` could not write so many tables under that name."""
    if path.suffix not in (*_TEXTS, *PICTURES):
        raise UserError(f"--out must end in {', '.join((*_TEXTS, *PICTURES))}, not {str(path)!r}.")
    if path.suffix in PICTURES and tables > 1:
        raise UserError(
            f"{str(path)!r} is a picture, which holds one table: name one, or a .md, .csv, .tex or .json file."
        )


def markdown(views: Sequence[PaperView]) -> str:
    """Each table with its question, its orderings, and the sentences that explain it."""
    parts = []
    for view in views:
        parts.append(f"## {view.table.name}: {view.table.title}\n\n{view.table.question}\n")
        parts.append(_markdown_table(view.cells))
        if view.orderings:
            parts.append(_markdown_table(view.orderings))
        parts.append("\n".join(f"* {sentence}" for sentence in view.sentences) + "\n")
    return "\n".join(parts)


def _markdown_table(rows: Sequence[Cells]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] or "" for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def comma_separated(views: Sequence[PaperView]) -> str:
    """One row for each network of every table, then one for each ordering; a column says which table."""
    rows = [{"table": view.table.name, **cells} for view in views for cells in (*view.cells, *view.orderings)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex(views: Sequence[PaperView]) -> str:
    """A `table` environment for each, with booktabs' rules."""
    parts = []
    for view in views:
        columns = list(view.cells[0])
        lines = [columns, *([row[column] or "" for column in columns] for row in view.cells)]
        head, *rest = (" & ".join(map(_tex, line)) + r" \\" for line in lines)
        parts += [
            r"\begin{table}",
            rf"\caption{{{_tex(view.table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


def as_json(views: Sequence[PaperView]) -> str:
    """What `--json` prints."""
    return json.dumps([view.as_dict() for view in views], indent=2) + "\n"


_TEXTS: Mapping[str, Callable[[Sequence[PaperView]], str]] = {
    ".md": markdown,
    ".csv": comma_separated,
    ".tex": latex,
    ".json": as_json,
}


def draw_paper(view: PaperView, path: Path) -> None:
    """Score against latency where the paper prints both, as its Figure 1; else what our networks cost and score."""
    pairs = [row for row in view.table.rows if row.published.score and row.published.latency_ms]
    if view.table.shows != "costs":
        raise UserError(f"{view.table.name} is not drawn; write a .md, .csv, .tex or .json file.")
    with drawn(path, 9, 5) as figure:
        if pairs:
            _scatter(view, figure.add_subplot())
            return
        scored = view.scores is not None and any(view.scores.by_row.values())
        left = figure.add_subplot(1, 2 if scored else 1, 1)
        names = list(view.counted)
        left.barh(names, [view.counted[name].fvcore_g for name in names], color="0.7")
        left.set_xlabel("10⁹ multiply-adds, as fvcore counts them")
        left.set_title(view.table.question)
        left.invert_yaxis()
        if scored:
            _scores(view, names, figure.add_subplot(1, 2, 2, sharey=left))


def _scatter(view: PaperView, axes: Axes) -> None:
    both = {
        row.name: (float(row.published.latency_ms), float(row.published.score))
        for row in view.table.rows
        if row.published.latency_ms and row.published.score
    }
    heights = _apart(list(both.values()))
    for (name, at), height in zip(both.items(), heights, strict=True):
        own = view.counted.get(name)
        axes.scatter(*at, color="tab:red" if own else "0.5", marker="*" if own else "o", s=90 if own else 30, zorder=3)
        axes.annotate(
            name, (at[0] * (1 if own else 1.06), height + (_LABEL_HEIGHT if own else 0)), fontsize=6, va="center"
        )
        if own and own.latency:
            low, high = own.latency.total_ms - own.latency.low_ms, own.latency.high_ms - own.latency.total_ms
            axes.errorbar(own.latency.total_ms, at[1], xerr=[[low], [high]], color="tab:blue", fmt="|", capsize=2)
    axes.set_xscale("log")
    axes.set_xlabel(f"latency, ms: published (points), estimated by {view.prices.name} (blue)")
    axes.set_ylabel(f"published {view.table.measure}")
    axes.set_title(view.table.title)
    axes.margins(x=0.12)
    axes.set_ylim(top=max(heights) + 1)


def _apart(points: Sequence[tuple[float, float]]) -> list[float]:
    """Heights of the labels of (ms, score): their points', or so far above that none covers another."""
    heights: dict[int, float] = {}
    for number in sorted(range(len(points)), key=lambda one: points[one][1]):
        x, height = math.log(points[number][0]), points[number][1]
        beside = [heights[other] for other in heights if abs(math.log(points[other][0]) - x) < _LABEL_WIDTH]
        while any(abs(other - height) < _LABEL_HEIGHT for other in beside):
            height += _LABEL_HEIGHT / 2
        heights[number] = height
    return [heights[number] for number in range(len(points))]


def _scores(view: PaperView, names: Sequence[str], axes: Axes) -> None:
    assert view.scores is not None
    for name in names:
        values = [one.miou_pct for one in view.scores.by_row.get(name, ())]
        if values:
            noise_pct = view.scores.noise_pct
            margin = None if noise_pct is None else Z_90 * noise_pct / len(values) ** 0.5
            axes.errorbar(fmean(values), name, xerr=margin, fmt="o", color="tab:blue", capsize=3)
    axes.set_xlabel(
        f"mIoU on {view.scores.dataset} by {view.scores.fidelity}, %\n(bars: 90 %, by the noise of a training)"
    )
    axes.tick_params(labelleft=False)

"""From data frames to figures; pure functions.

Plotly reads a part of HTML in titles, labels and legends, links among it: text from a store is escaped first.
"""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from experiments.views.front import margin_text

FRONT_COLOUR = "#1f77b4"
ANCHOR_COLOUR = "#d62728"
BUDGET_COLOUR = "#2ca02c"
KNEE_COLOUR = "#ff7f0e"


def pareto_figure(
    frame: pd.DataFrame, *, budget_ms: float, best_trial: int | None, fidelity: str, table: str, revision: str
) -> go.Figure:
    """mIoU in per cent against latency in ms: front joined, anchors starred, knee and budget marked, errors as bars.

    Each point's `customdata` is its trial number. Where the noise between trainings is known, its colour is its
    probability of being on the front. `revision` keeps zoom and selection over refreshes.
    """
    figure = go.Figure()
    dominated, members = frame[~frame["on_front"]], frame[frame["on_front"]]
    anchors = frame[frame["anchor"] != ""]
    figure.add_trace(_with_errors(dominated, "dominated", "lightgrey", 9))
    line = _with_errors(members, "Pareto front", FRONT_COLOUR, 11)
    line.mode = "lines+markers"
    line.line = {"color": FRONT_COLOUR, "shape": "hv", "width": 1}
    figure.add_trace(line)
    stars = _points(anchors, "anchors", {"color": ANCHOR_COLOUR, "size": 15, "symbol": "star"})
    stars.mode = "markers+text"
    stars.text = anchors["anchor"].map(_escaped)
    stars.textposition = "bottom right"
    figure.add_trace(stars)
    if best_trial is not None:
        best = frame[frame["trial"] == best_trial]
        ring = {"size": 20, "symbol": "circle-open", "color": BUDGET_COLOUR, "line": {"width": 3}}
        figure.add_trace(_points(best, "best under the budget", ring))
    diamond = {"size": 20, "symbol": "diamond-open", "color": KNEE_COLOUR, "line": {"width": 2}}
    figure.add_trace(_points(frame[frame["knee"]], "knee", diamond))
    figure.add_vline(x=budget_ms, line_dash="dash", line_color=BUDGET_COLOUR, annotation_text=f"{budget_ms:g} ms")
    figure.update_layout(
        xaxis_title=_escaped(f"latency, ms ({table})"),
        yaxis_title=_escaped(f"mIoU, % ({fidelity})"),
        uirevision=revision,
        legend={"orientation": "h", "y": 1.12},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        height=460,
    )
    return figure


def block_figure(frame: pd.DataFrame) -> go.Figure:
    """Latency of each block in ms, in the order they run, coloured by part of the network."""
    figure = go.Figure()
    frame = frame.assign(block=frame["block"].map(_escaped), module=frame["module"].map(_escaped))
    for module, rows in frame.groupby("module", sort=False):
        figure.add_trace(go.Bar(x=rows["ms"], y=rows["block"], name=str(module), orientation="h"))
    figure.update_layout(
        xaxis_title="latency, ms",
        yaxis={"autorange": "reversed", "categoryorder": "array", "categoryarray": list(frame["block"])},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        height=max(300, 20 * len(frame) + 80),
    )
    return figure


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _with_errors(frame: pd.DataFrame, name: str, colour: str, size: int) -> go.Scatter:
    """Points with the interval of their latency, and of their mIoU where the noise between trainings is known."""
    points = _points(frame, name, {"color": colour, "size": size})
    bar = {"type": "data", "color": colour, "thickness": 1}
    points.error_x = bar | {
        "symmetric": False,
        "array": frame["latency_high_ms"] - frame["latency_ms"],
        "arrayminus": frame["latency_ms"] - frame["latency_low_ms"],
    }
    if frame["miou_margin_pct"].notna().any():
        points.error_y = bar | {"array": frame["miou_margin_pct"]}
    if frame["front_probability"].notna().any():
        points.marker = {
            "color": frame["front_probability"],
            "cmin": 0,
            "cmax": 1,
            "colorscale": [[0, "lightgrey"], [1, FRONT_COLOUR]],
            "colorbar": {"title": "on front", "thickness": 8},
            "line": {"color": colour, "width": 1},
            "size": size,
        }
    return points


def _points(frame: pd.DataFrame, name: str, marker: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=frame["latency_ms"],
        y=frame["miou_pct"],
        customdata=frame["trial"].tolist(),
        hovertext=[_hover(row) for row in frame.to_dict("records")],
        hovertemplate="%{hovertext}<extra></extra>",
        mode="markers",
        name=name,
        marker=marker,
    )


def _hover(row: Mapping[Hashable, Any]) -> str:
    """What is known of a point, in numbers alone."""
    known = pd.notna(row["front_probability"])
    lines = [
        f"trial {row['trial']}{', knee' if row['knee'] else ''}",
        f"mIoU {row['miou_pct']:.2f}{margin_text(row['miou_margin_pct'] if known else None)} %",
        f"{row['latency_ms']:.2f} ms ({row['latency_low_ms']:.2f} to {row['latency_high_ms']:.2f})",
    ]
    return "<br>".join([*lines, f"on the front: probability {row['front_probability']:.2f}"] if known else lines)

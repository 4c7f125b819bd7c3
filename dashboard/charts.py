"""From data frames to figures; pure functions.

Plotly reads a part of HTML in titles, labels and legends, links among it: text from a store is escaped first.
"""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

FRONT_COLOUR = "#1f77b4"
ANCHOR_COLOUR = "#d62728"
BUDGET_COLOUR = "#2ca02c"


def pareto_figure(
    frame: pd.DataFrame, *, budget_ms: float, best_trial: int | None, fidelity: str, table: str, revision: str
) -> go.Figure:
    """mIoU in per cent against latency in ms: dominated points faded, front joined, anchors starred, budget drawn.

    Each point's `customdata` is its trial number. `revision` keeps zoom and selection over refreshes.
    """
    figure = go.Figure()
    dominated, members = frame[~frame["on_front"]], frame[frame["on_front"]]
    anchors = frame[frame["anchor"] != ""]
    figure.add_trace(_points(dominated, "dominated", {"color": "lightgrey", "size": 9}))
    line = _points(members, "Pareto front", {"color": FRONT_COLOUR, "size": 11})
    line.mode = "lines+markers"
    line.line = {"color": FRONT_COLOUR, "shape": "hv", "width": 1}
    line.error_x = {
        "type": "data",
        "symmetric": False,
        "array": members["latency_high_ms"] - members["latency_ms"],
        "arrayminus": members["latency_ms"] - members["latency_low_ms"],
        "thickness": 1,
    }
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


def _points(frame: pd.DataFrame, name: str, marker: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=frame["latency_ms"],
        y=frame["miou_pct"],
        customdata=frame["trial"].tolist(),
        mode="markers",
        name=name,
        marker=marker,
        hovertemplate="trial %{customdata}<br>mIoU %{y:.2f} %<br>%{x:.2f} ms<extra></extra>",
    )

"""The Pareto dashboard: layout only. Run it with `topformer-nas dashboard`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.charts import block_figure, pareto_figure
from dashboard.queries import StudyView, best_row, block_frame, class_frame, study_names, study_view
from dashboard.text import say
from experiments import DEFAULT_URL, without_password
from topformer.errors import UserError

REFRESH_S = 5


def selected_trial(event: Mapping[str, Any]) -> int | None:
    """The trial number of a clicked point."""
    points = event.get("selection", {}).get("points", [])
    return int(points[0]["customdata"]) if points else None


def page() -> None:
    st.set_page_config(page_title="topformer-nas", layout="wide")
    st.title("TopFormer search")
    url = os.environ.get("TOPFORMER_NAS_STORAGE", DEFAULT_URL)
    try:
        names = study_names(url)
    except UserError as error:
        say("warning", str(error))
        return
    if not names:
        shown = without_password(url)
        say(
            "warning", f"{shown} holds no study yet; launch one with: topformer-nas search quickstart --storage {shown}"
        )
        return
    name = str(st.sidebar.selectbox("study", names, key="study"))
    try:
        running = study_view(url, name).running
    except UserError as error:
        say("warning", str(error))
        return
    st.fragment(study_section, run_every=REFRESH_S if running else None)(url, name)


def study_section(url: str, name: str) -> None:
    """One study; a fragment, so that it refreshes while the study runs."""
    view = study_view(url, name)
    health(view)
    if view.frame.empty:
        st.info("No evaluation is complete yet; this page refreshes by itself.")
        return
    left, right = st.columns([3, 2])
    with left:
        number = front_section(view)
    with right:
        architecture_section(view, number, url=url)


def health(view: StudyView) -> None:
    """What the numbers are worth, before any of them is shown."""
    wanted = view.study.config.search.trials
    failed = sum(trial.state == "failed" for trial in view.trials)
    state = "running or interrupted" if view.running else "finished"
    st.text(
        f"{state}: {len(view.frame)} of {wanted} architectures evaluated, {failed} failed · mIoU by "
        f"{view.study.fidelity} · latency from table {view.table_name} ({view.table_kind}; {view.interval_note})"
    )
    if view.ranking.trusted:
        say("info", f"{view.study.fidelity}: {view.ranking.sentence}.")
    else:
        say("warning", f"{view.study.fidelity}: {view.ranking.sentence}. Read the front as a shortlist.")


def front_section(view: StudyView) -> int:
    """Budget, scatter and table; gives the trial to show."""
    frame = view.frame
    low, high = float(frame["latency_ms"].min()), float(frame["latency_ms"].max())
    ceiling = max(high, low + 0.1) * 1.05
    budget = st.slider(
        "latency budget, ms",
        min_value=round(low, 1),
        max_value=round(ceiling, 1) + 0.1,
        value=round(ceiling, 1),
        step=0.1,
    )
    best = best_row(frame, budget)
    if best is None:
        say("info", f"No evaluated architecture runs within {budget:g} ms; the fastest needs {low:.2f} ms.")
    else:
        say(
            "success",
            f"Best under {budget:g} ms: trial {best['trial']}{' (' + best['anchor'] + ')' if best['anchor'] else ''}, "
            f"mIoU {best['miou_pct']:.2f} %, {best['latency_ms']:.2f} ms "
            f"({best['latency_low_ms']:.2f} to {best['latency_high_ms']:.2f})",
        )
    best_trial = None if best is None else int(best["trial"])
    figure = pareto_figure(
        frame,
        budget_ms=budget,
        best_trial=best_trial,
        fidelity=f"{view.study.fidelity}; {view.ranking.short}",
        table=view.table_name,
        revision=view.study.name,
    )
    event = st.plotly_chart(figure, width="stretch", on_select="rerun", selection_mode="points", key="pareto")
    st.dataframe(
        frame[
            ["trial", "anchor", "miou_pct", "latency_ms", "latency_low_ms", "latency_high_ms", "params_m", "on_front"]
        ],
        width="stretch",
        hide_index=True,
    )
    clicked = selected_trial(event)
    fallback = best_trial if best_trial is not None else int(frame["trial"].iloc[0])
    numbers = [int(number) for number in frame["trial"]]
    default = clicked if clicked in numbers else fallback
    return int(
        st.selectbox(
            "architecture (or click a point)", numbers, index=numbers.index(default), format_func=lambda n: f"trial {n}"
        )
    )


def architecture_section(view: StudyView, number: int, *, url: str) -> None:
    trial = next(trial for trial in view.trials if trial.number == number)
    st.subheader(f"Trial {number}{f' ({trial.anchor})' if trial.anchor else ''}")
    storage = "" if url == DEFAULT_URL else f" --storage {without_password(url)}"
    st.code(
        f"topformer-nas export {view.study.name}#{number} --out exported{storage}", language="bash", wrap_lines=True
    )
    st.plotly_chart(block_figure(block_frame(trial)), width="stretch", key="blocks")
    arch = trial.candidate.arch
    st.json(
        {
            "widths": arch.widths,
            "depths": [len(stage) for stage in arch.stages],
            "L": arch.num_blocks,
            "H": arch.num_heads,
            "M": arch.injection_channels,
            "output stride": arch.token_stride,
            "injected scales": arch.injected_strides,
            "architecture": arch.as_dict(),
            "task": trial.candidate.task.as_dict(),
        },
        expanded=1,
    )
    with st.expander("IoU of each class"):
        st.dataframe(class_frame(trial), width="stretch", hide_index=True)


if __name__ == "__main__":
    page()

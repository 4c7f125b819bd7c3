"""Which architecture of a study fits a latency budget, how sure is that, and what is it made of?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.charts import block_figure, pareto_figure
from dashboard.queries import block_frame, class_frame, front_frame, front_of, storage, studies_of
from dashboard.text import say
from experiments import DEFAULT_URL, without_password
from experiments.store.records import Trial
from experiments.views.front import FrontView, margin_text
from topformer.errors import UserError

REFRESH_S = 5


def selected_trial(event: Mapping[str, Any]) -> int | None:
    """The trial number of a clicked point."""
    points = event.get("selection", {}).get("points", [])
    return int(points[0]["customdata"]) if points else None


def page() -> None:
    st.title("TopFormer search")
    url = storage()
    try:
        studies = studies_of(url)
        if not studies:
            shown = without_password(url)
            launch = f"launch one with: topformer-nas search quickstart --storage {shown}"
            say("warning", f"{shown} holds no study yet; {launch}")
            return
    except UserError as error:
        say("warning", str(error))
        return
    name = str(st.sidebar.selectbox("study", list(studies), key="study"))
    running = studies[name].finished is None
    st.fragment(study_section, run_every=REFRESH_S if running else None)(url, name)


def study_section(url: str, name: str) -> None:
    """One study; a fragment, so that it refreshes while the study runs."""
    try:
        view = front_of(url, name)
    except UserError as error:
        say("warning", str(error))
        return
    frame = front_frame(view)
    health(view, len(frame))
    if frame.empty:
        st.info("No evaluation is complete yet; this page refreshes by itself.")
        return
    left, right = st.columns([3, 2])
    with left:
        number = front_section(view, frame)
    with right:
        architecture_section(view, next(trial for trial in view.trials if trial.number == number), url=url)


def health(view: FrontView, evaluated: int) -> None:
    """What the numbers are worth, before any of them is shown."""
    study, table = view.study, view.study.table
    failed = sum(trial.state == "failed" for trial in view.trials)
    state = "running or interrupted" if study.finished is None else "finished"
    st.text(
        f"{state}: {evaluated} of {study.config.search.trials} architectures evaluated, {failed} failed · mIoU by "
        f"{study.fidelity} · latency from table {table.name} ({table.kind}; {table.interval_note})"
    )
    if view.ranking.trusted:
        say("info", f"{study.fidelity}: {view.ranking.sentence}.")
    else:
        say("warning", f"{study.fidelity}: {view.ranking.sentence}. Read the front as a shortlist.")


def front_section(view: FrontView, frame: pd.DataFrame) -> int:
    """Budget, scatter and table; gives the trial to show."""
    low, high = float(frame["latency_ms"].min()), float(frame["latency_ms"].max())
    ceiling = max(high, low + 0.1) * 1.05
    budget = st.slider(
        "latency budget, ms",
        min_value=round(low, 1),
        max_value=round(ceiling, 1) + 0.1,
        value=round(ceiling, 1),
        step=0.1,
    )
    best = view.best_under(budget)
    if best is None:
        say("info", f"No evaluated architecture runs within {budget:g} ms; the fastest needs {low:.2f} ms.")
    else:
        trial, latency = best.trial, best.trial.latency
        against = None if trial.anchor else view.against_anchor(best)
        say(
            "success",
            f"Best under {budget:g} ms: trial {trial.number}{_in_brackets(trial)}, mIoU {trial.miou_pct:.2f}"
            f"{margin_text(best.miou_margin_pct)} %, {latency.total_ms:.2f} ms ({latency.low_ms:.2f} to "
            f"{latency.high_ms:.2f}){f'; {against.sentence}' if against is not None else ''}",
        )
    figure = pareto_figure(
        frame,
        budget_ms=budget,
        best_trial=None if best is None else best.trial.number,
        fidelity=f"{view.study.fidelity}; {view.ranking.short}",
        table=view.study.table.name,
        revision=view.study.name,
    )
    event = st.plotly_chart(figure, width="stretch", on_select="rerun", selection_mode="points", key="pareto")
    st.dataframe(frame, width="stretch", hide_index=True)
    st.text(view.notes[-1])
    clicked = selected_trial(event)
    numbers = [int(number) for number in frame["trial"]]
    fallback = numbers[0] if best is None else best.trial.number
    default = clicked if clicked in numbers else fallback
    return int(
        st.selectbox(
            "architecture (or click a point)", numbers, index=numbers.index(default), format_func=lambda n: f"trial {n}"
        )
    )


def architecture_section(view: FrontView, trial: Trial, *, url: str) -> None:
    st.subheader(f"Trial {trial.number}{_in_brackets(trial)}")
    flag = "" if url == DEFAULT_URL else f" --storage {without_password(url)}"
    command = f"topformer-nas export {view.study.name}#{trial.number} --out exported{flag}"
    st.code(command, language="bash", wrap_lines=True)
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


def _in_brackets(trial: Trial) -> str:
    return f" ({trial.anchor})" if trial.anchor else ""

"""How far can the order of each fidelity be believed, by the trust reports of the store and of the tool?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.queries import report_rows_of, storage
from dashboard.text import say
from experiments.views.trust import report_view
from topformer.errors import UserError


def page() -> None:
    st.title("Trust")
    try:
        rows, left_out = report_rows_of(storage())
    except UserError as error:
        say("warning", str(error))
        return
    for sentence in left_out:
        say("warning", f"left out: {sentence}")
    reports = {f"{row.report.name} ({row.source})": row.report for row in rows}
    view = report_view(reports[str(st.selectbox("trust report", list(reports)))])
    st.dataframe(pd.DataFrame(view.agreement).fillna(""), width="stretch", hide_index=True)
    for sentence in view.about:
        st.text(sentence)
    if view.orderings:
        st.dataframe(pd.DataFrame(view.orderings).fillna(""), width="stretch", hide_index=True)
    for sentence in view.decided:
        st.text(sentence)
    for warning in view.warnings:
        say("warning", warning.removeprefix("warning: "))

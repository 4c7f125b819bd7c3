"""Which studies does the store hold, and how do several of them compare?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.queries import comparison_of, storage, study_rows_of
from dashboard.text import say
from topformer.errors import UserError


def page() -> None:
    st.title("Studies")
    url = storage()
    try:
        rows = study_rows_of(url)
        st.dataframe(pd.DataFrame([row.as_dict() for row in rows]), width="stretch", hide_index=True)
        names = st.multiselect("compare studies of one table and evaluator", [row.study for row in rows])
        if len(names) > 1:
            compared = [one.as_dict() for one in comparison_of(url, names)]
            st.dataframe(pd.DataFrame(compared), width="stretch", hide_index=True)
    except UserError as error:
        say("warning", str(error))

"""Which pages does the dashboard have? Run it with `topformer-nas dashboard`.

A page is a module beside this one, a layout over one view. There is no folder `pages`, for Streamlit would take every
file in it for a script to run.
"""

from __future__ import annotations

import streamlit as st

from dashboard import front, studies, trust


def main() -> None:
    st.set_page_config(page_title="topformer-nas", layout="wide")
    pages = [
        st.Page(front.page, title="Front", url_path="front", default=True),
        st.Page(studies.page, title="Studies", url_path="studies"),
        st.Page(trust.page, title="Trust", url_path="trust"),
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()

"""How is text from a store shown, which somebody else may have written? As text: no link, no picture, no markup.

Streamlit's messages and captions are Markdown, which no escaping keeps from turning an address into a link; only
`st.text` shows what it is given.
"""

from __future__ import annotations

from typing import Literal

import streamlit as st

_SIGNS = {"warning": "⚠", "info": "ℹ", "success": "✓"}


def say(kind: Literal["warning", "info", "success"], text: str) -> None:
    """A message in a box of its own."""
    with st.container(border=True):
        st.text(f"{_SIGNS[kind]} {text}")

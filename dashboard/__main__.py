"""Serves the dashboard to this machine's own browser: python -m dashboard [--port N] [--headless]."""

from __future__ import annotations

import argparse
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from streamlit.starlette import App

HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names under which a browser may ask. A page from elsewhere can have its own name resolve to this machine, and would
then count as the dashboard's own (DNS rebinding)."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboard")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--headless", action="store_true", help="do not open a browser")
    asked = parser.parse_args()
    app = App(
        Path(__file__).with_name("app.py").resolve(),
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
    )
    app.run(
        config={
            "server.port": asked.port,
            "server.headless": asked.headless,
            "server.address": "127.0.0.1",
            "browser.gatherUsageStats": False,
        }
    )


if __name__ == "__main__":
    main()

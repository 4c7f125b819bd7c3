"""The README's pictures, from the studies of a store: `make pictures` after `make demo`. Needs Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

import dashboard.app
from experiments import DEFAULT_URL
from experiments.reports.figures import draw_front
from experiments.store.store import Store
from experiments.views.front import front_view

HERE = Path(__file__).parent
STUDY = "quickstart"


def main() -> None:
    url = os.environ.get("TOPFORMER_NAS_STORAGE", DEFAULT_URL)
    with Store.open(url, read_only=True) as store:
        draw_front(front_view(store, STUDY, every=True), HERE / "front.png")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is needed for the dashboard's picture: apt-get install chromium")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(dashboard.app.__file__), f"--server.port={port}"]
    command += ["--server.headless=true", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    with subprocess.Popen(command, env={**os.environ, "TOPFORMER_NAS_STORAGE": url}) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            photograph(f"http://127.0.0.1:{port}", chromium, HERE / "dashboard.png")
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"{address} does not answer")


def photograph(address: str, chromium: str, path: Path) -> None:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1500, "height": 1150})
        page.goto(address)
        page.wait_for_selector(".js-plotly-plot .scatterlayer .point", timeout=60_000)
        page.wait_for_timeout(3000)
        page.screenshot(path=str(path))
        browser.close()


if __name__ == "__main__":
    main()

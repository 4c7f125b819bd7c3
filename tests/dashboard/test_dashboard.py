"""The dashboard: what the store holds is what it shows; an empty or missing store is a message, not a traceback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright
from streamlit.testing.v1 import AppTest
from toys import ToyEvaluator, run_toy, toy_config, toy_report, toy_url

import dashboard.app
from dashboard.app import selected_trial
from dashboard.charts import block_figure, pareto_figure
from dashboard.queries import best_row, block_frame, class_frame, study_view
from experiments.store import Store
from experiments.study import StudyResult

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def result(folder: Path) -> StudyResult:
    return run_toy(folder, toy_config(trials=12), ToyEvaluator())


def app(url: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("TOPFORMER_NAS_STORAGE", url)
    return AppTest.from_file(str(Path(dashboard.app.__file__)), default_timeout=60).run()


def test_the_frame_has_every_trial_and_marks_the_front(folder: Path, result: StudyResult) -> None:
    frame = study_view(toy_url(folder), "toy").frame
    assert sorted(frame["trial"]) == list(range(12))
    assert set(frame[frame["on_front"]]["trial"]) == {trial.number for trial in result.front}
    assert set(frame["anchor"]) == {"tiny", "small", "base", ""}
    assert frame["latency_ms"].is_monotonic_increasing


def test_the_best_row_under_a_budget_is_on_the_front(folder: Path, result: StudyResult) -> None:
    frame = study_view(toy_url(folder), "toy").frame
    budget = float(frame["latency_ms"].median())
    best = best_row(frame, budget)
    assert best is not None
    assert best["on_front"]
    assert best["miou_pct"] == frame[frame["latency_ms"] <= budget]["miou_pct"].max()
    assert best_row(frame, 0.0) is None


def test_blocks_of_a_trial_sum_to_its_latency(result: StudyResult) -> None:
    trial = result.trials[0]
    assert block_frame(trial)["ms"].sum() == pytest.approx(trial.latency.total_ms)
    assert list(class_frame(trial)["iou_pct"]) == [30.0] * 10 + [50.0] * 48  # the class that never occurs has none


def test_the_figure_joins_the_front_and_carries_trial_numbers(folder: Path, result: StudyResult) -> None:
    frame = study_view(toy_url(folder), "toy").frame
    figure = pareto_figure(frame, budget_ms=1.0, best_trial=0, fidelity="toy", table="toy", revision="toy")
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces["Pareto front"].customdata) == {trial.number for trial in result.front}
    assert len(traces["dominated"].x) + len(traces["Pareto front"].x) == 12
    assert set(traces["anchors"].text) == {"tiny", "small", "base"}
    assert list(traces["best under the budget"].customdata) == [0]
    assert figure.layout.uirevision == "toy"


def test_the_block_figure_keeps_the_order_of_the_network(result: StudyResult) -> None:
    frame = block_frame(result.trials[0])
    assert list(block_figure(frame).layout.yaxis.categoryarray) == list(frame["block"])


def test_a_clicked_point_names_its_trial() -> None:
    assert selected_trial({"selection": {"points": [{"customdata": 7}]}}) == 7
    assert selected_trial({"selection": {"points": []}}) is None


def test_the_page_shows_the_front_and_distrusts_the_ranking(
    folder: Path, result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = app(toy_url(folder), monkeypatch)
    assert not page.exception
    assert "ranking untested" in page.warning[0].value
    assert "12 of 12 architectures evaluated" in page.caption[0].value
    assert "Best under" in page.success[0].value
    table: pd.DataFrame = page.dataframe[0].value
    assert len(table) == 12


def test_the_page_says_what_a_trust_report_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    for tau, shown in ((0.71, "info"), (0.45, "warning")):
        report = toy_report(tau)
        with Store.open(toy_url(tmp_path)) as store:
            store.add_trust_report(report.name, report.to_json())
        page = app(toy_url(tmp_path), monkeypatch)
        assert not page.exception
        assert f"ranking tau {tau}" in page.get(shown)[0].value
        assert bool(page.warning) == (shown == "warning")


def test_the_slider_moves_the_recommendation(
    folder: Path, result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = app(toy_url(folder), monkeypatch)
    first = page.success[0].value
    page = page.slider[0].set_value(page.slider[0].min).run()
    assert not page.exception
    shown = page.success[0].value if page.success else page.info[0].value
    assert shown != first


def test_choosing_an_architecture_shows_its_export_command(
    folder: Path, result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = app(toy_url(folder), monkeypatch)
    chooser = next(box for box in page.selectbox if "architecture" in box.label)
    page = chooser.set_value(5).run()
    assert not page.exception
    assert "toy#5" in page.code[0].value
    assert page.subheader[0].value.startswith("Trial 5")


def test_a_missing_store_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = app(f"sqlite:///{tmp_path}/none.db", monkeypatch)
    assert not page.exception
    assert "launch a study first" in page.warning[0].value
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(toy_url(tmp_path), create=True).engine.dispose()
    page = app(toy_url(tmp_path), monkeypatch)
    assert not page.exception
    assert "holds no study yet" in page.warning[0].value


def test_a_foreign_file_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.db").write_bytes(b"not a database at all" * 100)
    page = app(toy_url(tmp_path), monkeypatch)
    assert not page.exception
    assert page.warning


def test_a_study_without_results_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, report=stop)
    with Store.open(toy_url(tmp_path)) as store:
        store.create_study(
            "young",
            config=store.study("toy").config,
            evaluator="e",
            fidelity="f",
            table_text=store.study("toy").table_text,
        )
    page = app(toy_url(tmp_path), monkeypatch)
    page = page.sidebar.selectbox[0].set_value("young").run()
    assert not page.exception
    assert "No evaluation is complete yet" in page.info[0].value


@pytest.fixture
def served(folder: Path, result: StudyResult) -> Iterator[str]:
    """Address of the dashboard as `topformer-nas dashboard` serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(Path(dashboard.app.__file__)), f"--server.port={port}"]
    command += ["--server.headless=true", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    environment = {**os.environ, "TOPFORMER_NAS_STORAGE": toy_url(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_the_page_is_drawn_in_a_browser_and_a_click_opens_an_architecture(served: str, tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.goto(served)
        page.wait_for_selector(".js-plotly-plot .scatterlayer .point", timeout=60_000)
        assert "untested" in page.inner_text("body")
        traces = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace")
        assert traces.count() >= 3
        page.wait_for_timeout(1500)
        star = traces.nth(2).locator(".point").first.bounding_box()
        assert star is not None
        page.mouse.click(star["x"] + star["width"] / 2, star["y"] + star["height"] / 2)
        page.wait_for_function("document.body.innerText.includes('Trial 0 (tiny)')", timeout=30_000)
        page.screenshot(path=str(tmp_path / "dashboard.png"))
        browser.close()
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000

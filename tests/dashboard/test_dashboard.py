"""The dashboard: what the store holds is what it shows; an empty or missing store is a message, not a traceback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import FloatRect, Locator, Page, sync_playwright
from streamlit.testing.v1 import AppTest

import dashboard.app
from dashboard.charts import block_figure, pareto_figure
from dashboard.front import selected_trial
from dashboard.queries import block_frame, class_frame, front_frame, front_of
from experiments.search.study import StudyResult
from experiments.store.store import Store
from tests.support.ports import free_port
from tests.support.toys import ToyEvaluator, run_toy, toy_config, toy_report, toy_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(autouse=True)
def same_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit puts the page in the place of the program that runs, which worker processes would then run, too."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def result(folder: Path) -> StudyResult:
    return run_toy(folder, toy_config(trials=12), ToyEvaluator())


def app(url: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("TOPFORMER_NAS_STORAGE", url)
    return AppTest.from_file(str(Path(dashboard.app.__file__)), default_timeout=300).run()


def said(page: AppTest, fragment: str) -> str | None:
    """The first text on the page with this in it."""
    return next((text.value for text in page.text if fragment in text.value), None)


def test_the_frame_has_every_trial_and_marks_the_front(folder: Path, result: StudyResult) -> None:
    frame = front_frame(front_of(toy_url(folder), "toy"))
    assert sorted(frame["trial"]) == list(range(12))
    assert set(frame[frame["on_front"]]["trial"]) == {trial.number for trial in result.front}
    assert set(frame["anchor"]) == {"tiny", "small", "base", ""}
    assert frame["latency_ms"].is_monotonic_increasing


@pytest.fixture(scope="module")
def vouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a study whose evaluator a trust report knows, and so the noise between trainings."""
    folder = tmp_path_factory.mktemp("vouched")
    run_toy(folder, toy_config(trials=12))
    report = toy_report(0.71)
    with Store.open(toy_url(folder)) as store:
        store.add_trust_report(report.name, report.to_json())
    return folder


def test_the_frame_has_the_rows_of_the_front_command(vouched: Path) -> None:
    view = front_of(toy_url(vouched), "toy")
    frame = front_frame(view).set_index("trial")
    for row in view.as_dicts():
        shown = frame.loc[row["trial"]]
        for name in ("miou_pct", "miou_margin_pct", "latency_low_ms", "latency_high_ms", "front_probability", "knee"):
            assert shown[name] == row[name], name
    assert frame["knee"].sum() == 1
    assert (frame["miou_margin_pct"] > 0).all()


def test_without_known_noise_the_frame_has_no_margin_and_no_probability(folder: Path, result: StudyResult) -> None:
    frame = front_frame(front_of(toy_url(folder), "toy"))
    assert frame[["miou_margin_pct", "front_probability"]].isna().all(axis=None)


def drawn(folder: Path) -> dict[str, Any]:
    """Traces of the chart by name."""
    frame = front_frame(front_of(toy_url(folder), "toy"))
    figure = pareto_figure(frame, budget_ms=1.0, best_trial=0, fidelity="toy", table="toy", revision="toy")
    return {trace.name: trace for trace in figure.data}


def test_the_figure_has_error_bars_the_probability_and_the_knee(vouched: Path) -> None:
    frame, traces = front_frame(front_of(toy_url(vouched), "toy")), drawn(vouched)
    members = frame[frame["on_front"]]
    line = traces["Pareto front"]
    assert list(line.error_y.array) == list(members["miou_margin_pct"])
    assert list(line.error_x.arrayminus) == list(members["latency_ms"] - members["latency_low_ms"])
    assert list(line.marker.color) == list(members["front_probability"])
    assert list(traces["knee"].customdata) == list(frame[frame["knee"]]["trial"])
    assert "±" in traces["knee"].hovertext[0]


def test_the_figure_draws_no_error_that_nobody_knows(folder: Path, result: StudyResult) -> None:
    traces = drawn(folder)
    assert traces["Pareto front"].error_y.array is None
    assert traces["Pareto front"].error_x.array is not None
    assert not any("±" in text or "nan" in text for text in traces["dominated"].hovertext)


def test_blocks_of_a_trial_sum_to_its_latency(result: StudyResult) -> None:
    trial = result.trials[0]
    assert block_frame(trial)["ms"].sum() == pytest.approx(trial.latency.total_ms)
    assert list(class_frame(trial)["iou_pct"]) == [30.0] * 10 + [50.0] * 48  # the class that never occurs has none


def test_the_figure_joins_the_front_and_carries_trial_numbers(folder: Path, result: StudyResult) -> None:
    frame = front_frame(front_of(toy_url(folder), "toy"))
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
    assert said(page, "⚠ toy: ranking untested")
    assert said(page, "12 of 12 architectures evaluated")
    assert said(page, "✓ Best under")
    table: pd.DataFrame = page.dataframe[0].value
    assert len(table) == 12


@pytest.mark.slow
def test_the_page_says_what_a_trust_report_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path, toy_config(trials=6))
    for tau, sign in ((0.71, "ℹ"), (0.45, "⚠")):
        report = toy_report(tau)
        with Store.open(toy_url(tmp_path)) as store:
            store.add_trust_report(report.name, report.to_json())
        page = app(toy_url(tmp_path), monkeypatch)
        assert not page.exception
        assert said(page, f"{sign} toy: ranking tau {tau}")


def test_the_page_says_how_sure_its_recommendation_is(vouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = app(toy_url(vouched), monkeypatch)
    assert not page.exception
    best = said(page, "✓ Best under")
    assert best is not None
    assert " ±0.49 %" in best  # 1.645 times the noise of the toy report, 0.3
    assert said(page, "±: 90 % of repeated trainings")
    table: pd.DataFrame = page.dataframe[0].value
    assert {"miou_margin_pct", "front_probability", "knee"} <= set(table.columns)


def studies_page() -> None:
    from dashboard import studies  # noqa: PLC0415  # Streamlit runs the source of this function

    studies.page()


def trust_page() -> None:
    from dashboard import trust  # noqa: PLC0415

    trust.page()


def test_studies_are_listed_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, evaluator in (("one", "toy-1"), ("two", "toy-1"), ("three", "toy-2")):
        config = toy_config(trials=6).model_copy(update={"name": name})
        run_toy(tmp_path, config, ToyEvaluator(fingerprint=evaluator))
    monkeypatch.setenv("TOPFORMER_NAS_STORAGE", toy_url(tmp_path))
    page = AppTest.from_function(studies_page, default_timeout=300).run()
    assert not page.exception
    assert set(page.dataframe[0].value["study"]) == {"one", "two", "three"}
    page = page.multiselect[0].set_value(["one", "two"]).run()
    assert list(page.dataframe[1].value["study"]) == ["one", "two"]
    page = page.multiselect[0].set_value(["one", "three"]).run()
    assert said(page, "do not compare")


def test_a_trust_report_is_a_table(vouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPFORMER_NAS_STORAGE", toy_url(vouched))
    page = AppTest.from_function(trust_page, default_timeout=300).run()
    assert not page.exception
    assert page.selectbox[0].options[0] == "toy-report (store)"
    assert "0.71 (0.61 to 0.81)" in list(page.dataframe[0].value["tau"])


def test_a_trust_report_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(toy_url(tmp_path), create=True) as store:
        store.add_trust_report("damaged", "{}")
    monkeypatch.setenv("TOPFORMER_NAS_STORAGE", toy_url(tmp_path))
    page = AppTest.from_function(trust_page, default_timeout=60).run()
    assert not page.exception
    assert said(page, "left out: trust report 'damaged' of")


def test_the_slider_moves_the_recommendation(
    folder: Path, result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = app(toy_url(folder), monkeypatch)
    first = said(page, "Best under")
    page = page.slider[0].set_value(page.slider[0].min).run()
    assert not page.exception
    assert first != (said(page, "Best under") or said(page, "No evaluated architecture runs within"))


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
    assert said(page, "launch a study first")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(toy_url(tmp_path), create=True).engine.dispose()
    page = app(toy_url(tmp_path), monkeypatch)
    assert not page.exception
    assert said(page, "holds no study yet")


def test_a_foreign_file_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.db").write_bytes(b"not a database at all" * 100)
    page = app(toy_url(tmp_path), monkeypatch)
    assert not page.exception
    assert said(page, "is not a database of this tool")


def test_a_study_without_results_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, report=stop)
    with Store.open(toy_url(tmp_path)) as store:
        store.create_study(
            store.study("toy").config.model_copy(update={"name": "young"}),
            evaluator="e",
            fidelity="f",
            table_text=store.study("toy").table_text,
        )
    page = app(toy_url(tmp_path), monkeypatch)
    page = page.sidebar.selectbox[0].set_value("young").run()
    assert not page.exception
    assert "No evaluation is complete yet" in page.info[0].value


@pytest.fixture(scope="module")
def served(folder: Path, result: StudyResult) -> Iterator[str]:
    """Address of the dashboard as `topformer-nas dashboard` serves it."""
    port = free_port()
    command = [sys.executable, "-m", "dashboard", "--headless", "--port", str(port)]
    environment = {**os.environ, "TOPFORMER_NAS_STORAGE": toy_url(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.slow
def test_a_page_of_another_name_that_leads_here_is_refused(served: str) -> None:
    """DNS rebinding: any page can have its name resolve to this machine, and was served as the dashboard's own."""
    port = int(served.rpartition(":")[2])
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    upgrade = upgrade.format(key="dGhlIHNhbXBsZSBub25jZQ==")
    for host, own in (
        ("127.0.0.1", True),
        ("localhost", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
    ):
        for path, headers, status in (("/", "", b"200"), ("/_stcore/stream", upgrade, b"101")):
            origin = f"Origin: http://{host}:{port}\r\n" if headers else ""
            with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{origin}{headers}\r\n".encode())
                answer = connection.recv(100).split()[1]
            assert (answer == status) == own, (host, path, answer)


def wait_for(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


HOSTILE = (
    "![x](http://127.0.0.1:9/a.png) [c](http://127.0.0.1:9/b) http://127.0.0.1:9/c www.evil.example "
    '<a href="http://127.0.0.1:9/d">d</a> <img src=x> $x^2$ :red[e] :material/home: **f**'
)
SHOWN_AS_MARKUP = ("markdown", "caption", "title", "header", "subheader", "info", "warning", "error", "success")


def edited(column: str, value: object) -> object:
    """A column's content with hostile text for each of its strings; None where it has none."""
    if column.endswith("_json"):
        content = json.loads(str(value))
        hostile = hostile_like(content)
        return None if hostile == content else json.dumps(hostile)
    if column == "table_text":
        lines = str(value).splitlines()
        names = [line.replace('"toy"', json.dumps(HOSTILE)).replace('"none"', json.dumps(HOSTILE)) for line in lines]
        body = "\n".join(names[2:]) + "\n"
        return "\n".join([names[0], f"sha256 {hashlib.sha256(body.encode()).hexdigest()}", body])
    return HOSTILE if isinstance(value, str) else None


def hostile_like(value: object) -> object:
    if isinstance(value, dict):
        return {key: hostile_like(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile_like(one) for one in value]
    return HOSTILE if isinstance(value, str) else value


def text_columns(path: Path) -> list[tuple[str, str, object]]:
    """Table, column and the first content of every column that holds text, ours and Alembic's revision left out."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            (table, column, value)
            for table in sorted(tables)
            if table != "topformer_nas_revision"
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall()
            for (value,) in connection.execute(f"SELECT {column} FROM {table} WHERE {column} NOTNULL LIMIT 1")
            if isinstance(value, str)
        ]


def assert_no_markup(page: AppTest) -> None:
    for kind in SHOWN_AS_MARKUP:
        assert not any("127.0.0.1:9" in one.value for one in page.get(kind)), kind
    for label in [*(one.label for one in page.selectbox), *(one.label for one in page.slider)]:
        assert "127.0.0.1:9" not in label


@pytest.mark.slow
def test_whatever_text_a_store_holds_is_shown_as_text(
    folder: Path, result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive's fidelity made the browser fetch an image from another address."""
    run_toy(tmp_path, toy_config(trials=6))
    report = toy_report(0.71)
    with Store.open(toy_url(tmp_path)) as store:
        store.add_trust_report(report.name, report.to_json())
    columns = text_columns(tmp_path / "toy.db")
    assert len(columns) > 20
    seen = 0
    for table, column, value in columns:
        hostile = edited(column, value)
        if hostile is None:
            continue
        place = tmp_path / f"{table}-{column}"
        place.mkdir()
        with closing(sqlite3.connect(tmp_path / "toy.db")) as good, closing(sqlite3.connect(place / "toy.db")) as bad:
            good.backup(bad)
            bad.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (hostile, value))
            bad.commit()
        page = app(toy_url(place), monkeypatch)
        others = (studies_page, trust_page) if table in ("studies", "trust_reports") else ()
        for one in (page, *(AppTest.from_function(other, default_timeout=300).run() for other in others)):
            assert not one.exception, (table, column)
            assert_no_markup(one)
        for chart in page.get("plotly_chart"):
            figure = json.loads(chart.proto.spec)  # type: ignore[attr-defined]
            figure["layout"].pop("uirevision", None)  # a name for the figure, never shown
            drawn = json.dumps(figure, ensure_ascii=False)
            assert "<a" not in drawn, (table, column)
            assert "<img" not in drawn, (table, column)
            seen += "&lt;a href" in drawn
        seen += sum("127.0.0.1:9" in text.value for text in page.text)
    assert seen > 5


@contextmanager
def chromium(address: str, asked: Callable[[str], object] = str) -> Iterator[Page]:
    """That page once its chart is drawn, and what it `asked` for; a busy machine may take its time for anything."""
    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args, timeout=300_000)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(300_000)
        page.on("request", lambda request: asked(request.url))
        page.goto(address)
        page.wait_for_selector(".js-plotly-plot .scatterlayer .point")
        yield page
        browser.close()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_text_of_a_store_makes_no_browser_fetch_or_link(served: str, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "toy.db")) as connection:
        connection.execute("UPDATE studies SET fidelity = ?", (HOSTILE,))
        connection.execute("UPDATE records SET fidelity = ?", (HOSTILE,))
        connection.commit()
    asked: list[str] = []
    try:
        with chromium(served, asked.append) as page:
            page.wait_for_function("document.body.innerText.includes('![x](http://127.0.0.1:9/a.png) [c]')")
            page.wait_for_timeout(1500)  # what must not come has time to
            assert "![x](http://127.0.0.1:9/a.png) [c](http://127.0.0.1:9/b)" in page.inner_text("body")
            assert page.locator("a[href*='127.0.0.1:9'], a[href*='evil'], img[src*='127.0.0.1:9']").count() == 0
    finally:
        with closing(sqlite3.connect(folder / "toy.db")) as connection:
            connection.execute("UPDATE studies SET fidelity = 'toy'")
            connection.execute("UPDATE records SET fidelity = 'toy'")
            connection.commit()
    assert asked
    assert all(url.startswith((served, served.replace("http", "ws"), "data:", "blob:")) for url in asked)


def at_rest(locator: Locator) -> FloatRect:
    """Where it is once it has not moved for 1.5 s: charts are laid out more than once."""
    before = None
    for _ in range(200):
        box = locator.bounding_box()
        if box is not None and box == before:
            return box
        before = box
        locator.page.wait_for_timeout(1500)
    raise AssertionError("the page never comes to rest")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_the_page_is_drawn_in_a_browser_and_a_click_opens_an_architecture(served: str, tmp_path: Path) -> None:
    with chromium(served) as page:
        assert "untested" in page.inner_text("body")
        traces = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace")
        assert traces.count() >= 3
        star = at_rest(traces.nth(2).locator(".point").first)
        page.mouse.click(star["x"] + star["width"] / 2, star["y"] + star["height"] / 2)
        page.wait_for_function("document.body.innerText.includes('Trial 0 (tiny)')")
        page.screenshot(path=str(tmp_path / "dashboard.png"))
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000

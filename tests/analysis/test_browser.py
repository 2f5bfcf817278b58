"""What a reader sees: the report's page, and MLflow's own views of a study, in headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import analysis
from analysis import report
from benchmarks.synthetic_study import Size, write_study
from raylab.config import StudyConfig
from raylab.tracking import Tracker

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; .ci/packages installs it"),
]

SIZE = Size(languages=("fr", "te"), variants=("mono", "joint", "ffn", "meta_adapter"), seeds=2, grid=1, histories=10)
PATIENCE = 30_000  # milliseconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study with summary runs, as a sweep leaves it, and its report."""
    folder = tmp_path_factory.mktemp("browser")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    write_study(uri, "looked-at", SIZE)
    results = analysis.load("looked-at", uri)
    tracker = Tracker(
        uri, StudyConfig.model_validate(results.study.configuration), folder / "jobs", folder / "artifacts"
    )
    tracker.summaries(analysis.summarise(results))
    tracker.close()
    assert report.main(["looked-at", "--tracking-uri", uri, "--output", str(folder / "report")]) == 0
    return uri


@pytest.fixture(scope="module")
def page_file(store: str) -> Path:
    return Path(store.removeprefix("sqlite:///")).parent / "report" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(store: str) -> Iterator[str]:
    """Address of `mlflow server` on the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(store.removeprefix("sqlite:///")).parent,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, "mlflow server ended"
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the group is of its own; a polite end waits for the browser
        process.wait(20)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_page_fits_any_screen_and_asks_the_network_for_nothing(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(page_file.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is wider scrolls in its box, whose edges are on the screen.
    boxes = page.evaluate(
        "[...document.querySelectorAll('.wide, figure, p, dl, pre')].map(e => e.getBoundingClientRect().right)"
    )
    assert max(boxes) <= width
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    context.close()


def test_printed_page_shows_what_is_folded_on_screens(browser: Any, page_file: Path, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    configuration = page.locator("#provenance pre")
    assert configuration.bounding_box()["height"] > 100
    page.pdf(path=str(tmp_path / "report.pdf"), prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.close()


def test_mlflow_leads_from_the_experiment_to_values_and_report(browser: Any, server: str, store: str) -> None:
    results = analysis.load("looked-at", store)
    summaries = {(row["variant"], row["languages"]): row["metrics"] for row in analysis.summarise(results)}
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.set_default_timeout(PATIENCE)
    experiment = MlflowClient(store).get_experiment_by_name("looked-at").experiment_id
    start = context.new_page()
    start.goto(f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning")

    compared = _follow(context, start, "Side by side")
    compared.get_by_text(f"Comparing {len(summaries)} Runs").wait_for()
    compared.get_by_text("interference/mean").last.wait_for()
    text = compared.locator("body").inner_text()
    words = text.split()
    for variant, languages in list(summaries)[:3]:  # as many columns as there is room for
        assert f"{variant} {languages}" in text
        for name in ("within/mean", "interference/mean"):
            value = summaries[variant, languages].get(name)
            assert value is None or any(_is_near(word, value) for word in words), (variant, languages, name)

    charts = _follow(context, start, "Charts")
    charts.get_by_text(f"{len(summaries)} matching runs").wait_for()
    charts.get_by_text("interference/mean", exact=True).first.wait_for()

    frame = _follow(context, start, "Report").frame_locator("iframe")
    frame.get_by_role("heading", name="Study looked-at").wait_for()
    shown = frame.locator("table.heat td").first.inner_text().split()[0]
    joint = results.interference().query("variant == 'joint' and task == 'ner'").iloc[0]
    assert shown == f"{joint['difference']:+.1f}".replace("-", "−")
    context.close()


def _is_near(word: str, value: float) -> bool:
    """Whether a word is the value, rounded as MLflow's compare view does."""
    try:
        return abs(float(word) - value) < 0.006
    except ValueError:
        return False


def _follow(context: Any, page: Any, link: str) -> Any:
    """The page that a link of the experiment's description opens."""
    with context.expect_page() as opened:
        page.get_by_role("link", name=link, exact=True).click()
    return opened.value

"""The dashboard as a person sees it: the real command, and a real browser."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from stored_studies import TRIALS, completed, make_study, params

from tradeoff.studies.storage.opening import open_storage

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

ARGUMENTS = [
    "--no-sandbox", "--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-quic", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TRAINING = {"curve": [{"epoch": 1.0, "num_samples": 100, "accuracy": 0.75, "metrics": {}}]}


def wait_for_plots(address: str) -> None:
    """Returns once the dashboard has what the command writes when it starts."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        with urllib.request.urlopen(address.replace("/dashboard", "/api/studies/1"), timeout=30) as answer:
            if "curves" in {shown["id"] for shown in json.load(answer)["plotly_graph_objects"]}:
                return
        time.sleep(0.2)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a study's dashboard."""
    url = f"sqlite:///{tmp_path_factory.mktemp('browser')}/a.db"
    make_study(open_storage(url), (*TRIALS, completed((0.75, 30.0, 1950.0), params(8, 2), training=TRAINING)))
    command = [sys.executable, "-m", "tradeoff.studies.cli.main", "dashboard", "--storage", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = process.stdout.readline().split()[2]
        wait_for_plots(found)
        yield f"{found}/studies/1"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """One page for all tests: what the browser has compiled once is quick to open again."""
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def page(window: Any) -> Iterator[Any]:
    """The page; its test fails on an error in it, or on a request to anywhere else."""
    wrong: list[str] = []

    def note_error(error: Any) -> None:
        wrong.append(str(error))

    def note_request(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            wrong.append(request.url)

    window.on("pageerror", note_error)
    window.on("request", note_request)
    yield window
    window.remove_listener("pageerror", note_error)
    window.remove_listener("request", note_request)
    assert wrong == []


def test_the_study_is_shown_with_named_objectives_its_front_and_what_matters(page: Any, address: str) -> None:
    page.goto(address)
    for title in ("Pareto Front", "History", "Hyperparameter Importance", "Timeline"):
        page.get_by_text(title, exact=True).locator("visible=true").first.wait_for()
    # The names hold the units; the bars of the importance are drawn for each objective.
    for name in ("accuracy", "train_time_s", "peak_memory_mib"):
        page.locator(".js-plotly-plot .legendtext", has_text=re.compile(f"^{name}$")).first.wait_for()


def test_the_plots_that_the_dashboard_lacks_are_among_its_own(page: Any, address: str) -> None:
    if page.url != address:
        page.goto(address)
    for title in (
        "Accuracy over training time",
        "Accuracy over peak memory",
        "Accuracy over samples, by effective batch size",
    ):
        page.locator(".js-plotly-plot .gtitle", has_text=title).wait_for()
    assert page.get_by_text("WebGL is not supported").count() == 0


def test_a_trial_out_of_memory_is_pruned_infeasible_and_not_best(page: Any, address: str) -> None:
    page.goto(f"{address}/trials?numbers=5")
    page.get_by_text("Out of memory", exact=True).wait_for()
    listed = dict(re.findall(r"^Trial (\d+)\n((?:(?:Complete|Pruned|Best Trial)\n)+)", page.inner_text("body"), re.MULTILINE))
    assert listed["5"].split("\n")[:-1] == ["Pruned"]
    assert [number for number, state in listed.items() if "Best Trial" in state] == ["0", "1", "2", "4"]
    stored = page.request.get(address.replace("/dashboard/", "/api/")).json()
    assert stored["trials"][5]["constraints"] == [512.0]


def test_a_trial_has_its_note_and_its_files(page: Any, address: str) -> None:
    page.goto(f"{address}/trials?numbers=6")
    page.get_by_role("heading", name="8 x 2, fp32").wait_for()
    page.get_by_role("cell", name="1,950 MiB").wait_for()
    page.get_by_text("curve.csv").first.wait_for()


def test_the_study_has_its_note(page: Any, address: str) -> None:
    page.goto(f"{address}/note")
    page.get_by_role("heading", name="stars").wait_for()
    page.get_by_text("7 trials: 6 completed, 1 out of memory.").wait_for()
    page.get_by_text("Knee", exact=True).wait_for()
    page.get_by_role("cell", name="16 x 1, fp32").wait_for()

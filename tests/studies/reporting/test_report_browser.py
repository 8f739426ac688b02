"""The report as a person uses it, in a real browser."""

import dataclasses
import random
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_storage import in_memory
from optuna.trial import FrozenTrial
from stored_studies import OBJECTIVES, TRIALS, completed, large_study, make_study, out_of_memory, params

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.report import html_report
from tradeoff.studies.results.criteria import Limit
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

Open = Callable[..., Any]


def varied(count: int = 40) -> StudyResults:
    """A study with every kind of trial, on four batch sizes."""
    generator = random.Random(3)
    trials: list[FrozenTrial] = []
    for number in range(count):
        batch, steps, checkpointing = (8, 16, 32, 64)[number % 4], (1, 2, 4)[number // 4 % 3], number // 12 % 2 == 1
        settings = params(batch, steps, checkpointing=checkpointing, precision=("fp32", "bf16")[number // 24 % 2])
        time_s, memory_mib = 300 / batch * generator.uniform(0.8, 1.3), 200 + 30 * batch * (0.5 if checkpointing else 1)
        accuracy = 0.85 - 0.03 * (batch * steps / 64) + generator.uniform(-0.02, 0.02)
        sources = {"accuracy_source": "trained in trial 0", "train_time_s_source": "probe"} if number % 5 == 4 else {}
        trials.append(completed((round(accuracy, 3), time_s, memory_mib), settings, **sources))
    trials.append(out_of_memory(params(64, 4, precision="fp16")))
    results = read_results(make_study(in_memory(), tuple(trials), name="varied"))
    return dataclasses.replace(results, baselines={"accuracy": 0.3})


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return varied()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        yield library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"])


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a study; the test fails on an error in it or on a request to anywhere."""
    wrong: list[str] = []

    def open_page(
        results: StudyResults, fragment: str = "", *, other: StudyResults | None = None, width: int = 1280, **options: Any
    ) -> Any:
        path = tmp_path / "report.html"
        path.write_text(html_report(results, other), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
        )
        page.goto(f"{path.as_uri()}{fragment}")
        page.wait_for_timeout(250)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert wrong == []


def place_on_axis(page: Any, axis: str, at: str) -> tuple[float, float]:
    """Where a value is on an axis of the lines, in the window, into which they are scrolled first."""
    page.locator("#lines").scroll_into_view_if_needed()
    box = page.locator("#lines").bounding_box()
    k = f"axes.findIndex((each) => each.key === '{axis}')"
    x, y = page.evaluate(f"pictures.find((p) => p.host.id === 'lines').at.place({k}, {at})")
    return box["x"] + x, box["y"] + y


def taken(page: Any) -> str:
    return page.inner_text("#answer .take")


def test_the_pick_is_that_of_the_command_for_any_limits_and_each_want(results: StudyResults, opened: Open) -> None:
    page, generator = opened(results), random.Random(11)
    columns = {name: [record.values[name] for record in results.records if record.values] for name in OBJECTIVES}
    for _ in range(40):
        limits = {name: generator.choice(columns[name]) for name in generator.sample(OBJECTIVES, generator.randint(0, 3))}
        wanted = generator.choice(("balance", *OBJECTIVES))
        # The page has five digits: a limit in the middle between two values means the same to both.
        limits = {name: float(f"{value * 1.001:.4g}") for name, value in limits.items()}
        chosen = tuple(Limit.parse(f"{n}{'>=' if GOALS[n].direction == 'maximize' else '<='}{x}") for n, x in limits.items())
        way = {"maximize": wanted} if wanted == "accuracy" else {"knee": True} if wanted == "balance" else {"minimize": wanted}
        fragment = "&".join([*(f"{name}={value}" for name, value in limits.items()), f"want={wanted}"])
        page.evaluate("text => { readHash(text); changed(); }", fragment)
        try:
            expected = choose(results, Selection(limits=chosen, **way)).record.number
        except TradeoffError:
            assert taken(page) == "Nothing that was tried keeps these limits."
            continue
        assert page.evaluate("T.n[answer().pick]") == expected, fragment
        assert f"--trial {expected} --output chosen" in page.inner_text("#answer code")


def test_a_limit_below_everything_names_the_nearest_and_can_be_relaxed(results: StudyResults, opened: Open) -> None:
    page = opened(results, "#peak_memory_mib=100")
    assert taken(page) == "Nothing that was tried keeps these limits."
    least = min(record.values["peak_memory_mib"] for record in results.records if record.values)
    assert f"peak memory {least:,.0f} MiB, {least - 100:.0f} MiB too much" in page.inner_text("#answer")
    page.click("text=Relax the limits to fit it")
    assert taken(page).startswith("Take ")
    assert page.input_value("#limits input[aria-label^='peak memory at most,']") == f"{least:,.0f}"


def test_a_limit_that_is_typed_is_in_the_sentence_and_in_the_hash(results: StudyResults, opened: Open) -> None:
    page = opened(results)
    page.fill("#limits input[aria-label^='peak memory at most,']", "1,000")
    page.keyboard.press("Tab")
    lead = "With peak memory up to 1,000 MiB, for most accuracy:"
    assert page.inner_text("#answer .lead") == lead
    page.wait_for_function("location.hash === '#peak_memory_mib=1000'")
    assert opened(results, "#peak_memory_mib=1000").inner_text("#answer .lead") == lead
    assert page.get_attribute("#limits input[type=range] >> nth=1", "aria-valuetext") == "1,000 MiB"


def test_a_value_from_elsewhere_is_about_and_one_of_its_own_is_not(results: StudyResults, opened: Open) -> None:
    page = opened(results, "#trial=4")
    values = page.locator("#answer dd strong").all_inner_texts()
    assert [text.startswith("about ") for text in values] == [True, True, False]
    assert page.locator("#answer dd").first.inner_text().endswith("trained in trial 0")
    assert "You chose trial 4" in page.inner_text("#answer")
    page.click("text=Back to the recommendation")
    assert taken(page).startswith("Take ")


def test_a_brush_by_pointer_and_by_keys_says_the_same(results: StudyResults, opened: Open) -> None:
    page = opened(results)
    page.mouse.click(*place_on_axis(page, "precision", "unit(axisOf('precision'), 2)"))
    pointed = page.inner_text("#chips"), page.inner_text("#passing")
    page.wait_for_function("location.hash.startsWith('#b.precision')")
    fragment = page.evaluate("location.hash")
    assert pointed[0] == "precision: fp32 ✕"
    assert pointed[1] == "24 of 40 configurations pass"
    page.click(".chip")
    assert page.inner_text("#chips") == ""
    page.focus(".axis >> nth=3")
    page.keyboard.press("ArrowDown")
    assert (page.inner_text("#chips"), page.inner_text("#passing")) == pointed
    assert opened(results, fragment).inner_text("#passing") == pointed[1]
    page.keyboard.press("Delete")
    assert page.inner_text("#chips") == ""


def test_a_dragged_range_keeps_what_is_in_it_and_the_pick_does_not_follow(results: StudyResults, opened: Open) -> None:
    page = opened(results)
    before, (x, y) = taken(page), place_on_axis(page, "accuracy", "1")
    page.mouse.move(x, y - 4)
    page.mouse.down()
    page.mouse.move(x, y + 100, steps=4)
    page.mouse.up()
    brush = page.evaluate("state.brushes.accuracy")
    values = [record.values["accuracy"] for record in results.records if record.values]
    passing = sum(brush["low"] <= value <= brush["high"] for value in values)
    assert brush["high"] == max(values)
    assert 0 < passing < 40
    assert page.inner_text("#passing") == f"{passing} of 40 configurations pass"
    assert page.inner_text("#table-count").startswith(f"{passing} of")
    assert taken(page) == before


@pytest.mark.parametrize(
    "fragment", ["#trial=999&sort=nonsense", "#peak_memory_mib=&b.precision=9~1&b.none=1~2", "#want=%E0%A4%A&=&&"]
)
def test_a_broken_hash_is_ignored(results: StudyResults, opened: Open, fragment: str) -> None:
    page = opened(results, fragment)
    assert page.inner_text("#answer .lead") == "Without limits of yours, for the best balance:"
    assert page.inner_text("#chips") == ""


def column(page: Any, number: int) -> list[float]:
    texts = page.locator(f"#table-body td.number:nth-child({number})").all_inner_texts()
    return [float(text.rstrip("~").replace(",", "")) for text in texts if text]


def test_the_table_is_sorted_and_searched(results: StudyResults, opened: Open) -> None:
    page = opened(results)
    cells = page.locator("#table-body tr")
    accuracies = [
        float(text.rstrip("~")) for text in page.locator("#table-body td.number:nth-child(3)").all_inner_texts() if text
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    page.click("th:has-text('memory') button")
    assert page.get_attribute("th:has-text('memory')", "aria-sort") == "ascending"
    memories = column(page, 5)
    assert memories == sorted(memories)
    page.fill("#search", "bf16 memory<700")
    expected = [
        r for r in results.records if r.values and r.params["precision"] == "bf16" and r.values["peak_memory_mib"] < 700
    ]
    assert cells.count() == len(expected) > 0
    page.fill("#search", "no such word")
    assert page.inner_text("#table-count") == "No trial passes every filter."
    page.click("#table-clear")
    assert cells.count() == 41


def test_a_name_is_shown_and_never_becomes_part_of_the_page(results: StudyResults, opened: Open) -> None:
    name = "</script><b>x</b>'\""
    page = opened(dataclasses.replace(results, name=name))
    assert page.inner_text("h1") == name
    assert page.locator("main b").count() == 0
    svg = page.evaluate("pictures[0].svg(900, 536)")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "tradeoff export '</script><b>x</b>'\"'\"'\"' --trial" in page.inner_text("#answer code")


def test_a_point_of_the_front_is_reached_by_keys_and_chosen(results: StudyResults, opened: Open) -> None:
    page = opened(results)
    page.focus(".stop[tabindex='0'] >> nth=0")
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert page.locator("#tip strong").inner_text() == label.split(":")[0]
    page.keyboard.press("Enter")
    assert taken(page).rstrip(".") in (label.split(":")[0], f"Take {label.split(':')[0]}")
    assert page.locator(".stop[tabindex='0']").count() == 2  # one in each picture


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_no_page_scrolls_sideways_and_a_phone_shows_the_values(
    results: StudyResults, opened: Open, width: int, scheme: str
) -> None:
    page = opened(results, width=width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ends = "[...document.querySelectorAll('#table-body td.number')].map((each) => each.getBoundingClientRect().right)"
    right = max(page.evaluate(ends))
    assert right <= width
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 23, 29)")


def test_paper_has_vectors_every_row_and_few_pages(results: StudyResults, opened: Open) -> None:
    printed = opened(results).pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5


def test_without_a_script_the_answer_and_the_front_are_there(results: StudyResults, opened: Open) -> None:
    page = opened(results, java_script_enabled=False)
    assert taken(page).startswith("Take ")
    assert page.locator("noscript tr").count() > 2
    assert not page.locator("#limits").is_visible()


def test_two_thousand_trials_are_drawn_at_once(opened: Open) -> None:
    page = opened(read_results(large_study()))
    assert page.inner_text("#table-count") == "2,000 of 2,000 rows"
    page.click("text=Show all 2,000")
    assert page.locator("#table-body tr").count() == 2000
    assert len(page.content()) < 2_000_000


@pytest.mark.parametrize(
    ("trials", "objectives", "expected"),
    [
        ((), OBJECTIVES, "No configuration has finished yet."),
        ((out_of_memory(params(64)),), OBJECTIVES, "No configuration has finished yet."),
        (TRIALS[:1], OBJECTIVES, "Take 8 x 1, fp32."),
        ((completed((0.8, 40.0), params(8)), completed((0.7, 20.0), params(16))), OBJECTIVES[:2], "Take "),
        ((completed((0.8, 40.0), params(8)), completed((0.8, 20.0), params(16))), OBJECTIVES[:2], "Take 16 x 1, fp32."),
    ],
)
def test_small_studies_have_a_page(trials: Any, objectives: tuple[str, ...], expected: str, opened: Open) -> None:
    page = opened(read_results(make_study(in_memory(), trials, objectives=objectives)))
    assert taken(page).startswith(expected)


def test_a_second_study_is_picked_from_by_the_same_limits_and_can_be_hidden(results: StudyResults, opened: Open) -> None:
    trials = [
        completed((0.8, 20.0, 900.0), params(8, 1)),
        completed((0.6, 8.0, 500.0), params(16, 1)),
        completed((0.1, 1.0, 100.0), params(32, 1)),  # worse than the constant answer
    ]
    other = dataclasses.replace(
        read_results(make_study(in_memory(), tuple(trials), name="<b>other")), baselines={"accuracy": 0.3}
    )
    page = opened(results, "#want=accuracy", other=other)
    alone = taken(page)
    assert "In <b>other: 8 x 1" in page.inner_text("#in-other")
    assert "accuracy" in page.inner_text("#in-other")
    drawn = "pictures[0].at.drawn.filter((at) => at.i >= N).length"
    assert page.evaluate(drawn) == 3
    page.goto(page.url.split("#")[0] + "#train_time_s=10&want=accuracy")
    page.wait_for_timeout(250)
    assert "In <b>other: 16 x 1" in page.inner_text("#in-other")
    page.goto(page.url.split("#")[0] + "#train_time_s=1.5&want=accuracy")
    page.wait_for_timeout(250)
    assert "nothing that keeps these limits and is worth taking" in page.inner_text("#answer")
    page.click("#other")
    assert page.evaluate(drawn) == 0
    # It changes nothing of what is said of the study itself.
    assert taken(opened(results, "#want=accuracy")) == alone
    assert page.evaluate("tableRows().every((i) => i < N)")


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_the_page_of_one_study_or_two(
    results: StudyResults, opened: Open, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    for other, fragment in ((None, ""), (varied(20), "#peak_memory_mib=100")):
        page = opened(results, fragment, other=other, width=width, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        page.wait_for_timeout(250)
        assert [(fault["id"], node["html"]) for fault in axe.run(page).response["violations"] for node in fault["nodes"]] == []

import dataclasses
import json
import re
from pathlib import Path

import pytest
from memory_storage import in_memory
from stored_studies import completed, make_study, out_of_memory, params
from typer.testing import CliRunner

from tradeoff.studies.cli.main import app
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.report import html_report, markdown_report, write_report
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.storage.opening import open_storage


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return read_results(make_study(in_memory()))


@pytest.fixture(scope="module")
def page(results: StudyResults) -> str:
    return html_report(results)


def markup(page: str) -> str:
    """The page without its scripts, of which plotly's own holds addresses that nothing opens by itself."""
    return re.sub(r">\s+<", "><", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def figures(page: str) -> dict[str, dict[str, object]]:
    return json.loads(page.split('id="figures">')[1].split("</script>")[0])


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)""", markup(page)) == []
    assert "url(" not in markup(page)
    assert "@import" not in markup(page)
    assert page.count("plotly.js v") == 1


def test_every_plot_has_its_place_on_the_page(page: str) -> None:
    places = re.findall(r'class="plot[^"]*" id="([^"]+)"', markup(page))
    assert sorted(places) == sorted(figures(page))
    assert {"accuracy-over-peak-memory-mib", "hypervolume"} <= set(places)


def test_the_page_leads_with_the_knee_and_the_extremes(page: str) -> None:
    titles = re.findall(r'<div class="card[^"]*"><h3>([^<]+)</h3><strong>([^<]+)</strong>', markup(page))
    assert titles == [
        ("Knee", "16 x 1, fp32"),
        ("Highest accuracy", "8 x 1, fp32"),
        ("Lowest training time", "32 x 1, fp32"),
        ("Lowest peak memory", "4 x 2, checkpointing, fp32"),
    ]


def test_the_page_lists_every_trial_with_its_outcome(page: str) -> None:
    trials = page.split('id="trials"')[1].split("</table>")[0]
    assert trials.count("<tr") == 1 + 6
    assert '<tr class="over"><td>5</td><td>64</td>' in trials
    assert "<td>out of memory</td>" in trials


def test_a_name_can_not_become_part_of_the_page(results: StudyResults) -> None:
    page = html_report(dataclasses.replace(results, name="</script><script>alert(1)//"))
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)//" in page


def test_a_study_in_which_nothing_completed_still_has_a_page(results: StudyResults) -> None:
    page = html_report(dataclasses.replace(results, records=results.records[5:]))
    assert "1 trial: 1 out of memory on Test CPU." in page
    assert figures(page) == {}
    assert "tradeoff export" not in markup(page)


def test_two_objectives_are_enough() -> None:
    trials = (completed((0.8, 40.0), params(8)), completed((0.7, 20.0), params(16)), out_of_memory(params(64)))
    study = make_study(in_memory(), trials, objectives=("accuracy", "train_time_s"))
    shown = figures(html_report(read_results(study)))
    assert "accuracy-over-train-time-s" in shown
    assert "trade-off" not in shown


def test_the_markdown_has_the_front_and_folds_the_rest(results: StudyResults) -> None:
    text = markdown_report(results)
    assert text.startswith("## Trade-off of stars\n\n6 trials: 5 completed, 1 out of memory on Test CPU.\n")
    assert "| 1 | 16 x 1, fp32 | 0.790 | 20.00 | 1,000 | 16 | knee |" in text
    assert "<summary>All trials (6)</summary>\n\n| trial |" in text
    assert text.count("<details>") == text.count("</details>") == 3


def test_the_command_writes_the_page_and_prints_the_markdown(tmp_path: Path) -> None:
    storage = str(tmp_path / "a.db")
    make_study(open_storage(storage))
    output = tmp_path / "report.html"
    ended = CliRunner().invoke(app, ["report", "--storage", storage, "--output", str(output)])
    assert (ended.exit_code, ended.stdout) == (0, f"Report of stars: {output}\n")
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.glob(".report*")] == []
    printed = CliRunner().invoke(app, ["report", "stars", "--storage", storage, "--format", "md"])
    assert printed.stdout.startswith("## Trade-off of stars\n")


def test_a_place_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match="is a directory; name a file in it"):
        write_report("text", tmp_path)
    with pytest.raises(TradeoffError, match="must be in a directory that exists"):
        write_report("text", tmp_path / "none" / "report.html")


def judged_by(results: StudyResults, accuracy: float) -> StudyResults:
    return dataclasses.replace(results, baselines={"accuracy": accuracy})


def test_what_is_no_better_than_a_constant_answer_is_on_no_card_and_says_so(results: StudyResults) -> None:
    page = markup(html_report(judged_by(results, 0.75)))
    cards = re.findall(r'<div class="card[^"]*"><h3>([^<]+)</h3><strong>([^<]+)</strong>', page)
    assert {configuration for _, configuration in cards} == {"16 x 1, fp32", "8 x 1, fp32"}
    assert page.count('<tr class="weak">') == 2
    assert page.count("<td>no better than a constant answer</td>") == 2
    assert "A constant answer: accuracy 0.750." in page
    assert 'class="warning"' not in page
    text = markdown_report(judged_by(results, 0.75))
    assert "| 2 | 32 x 1, fp32 | 0.700 | 10.00 | 2,000 | 32 | no better than a constant answer |" in text
    assert "a constant answer: accuracy 0.750" in text


def test_a_study_with_nothing_better_than_a_constant_answer_says_so_first_and_recommends_nothing(results: StudyResults) -> None:
    beaten = judged_by(results, 0.9)
    page, text = markup(html_report(beaten)), markdown_report(beaten)
    sentence = "No configuration is clearly better than a constant answer (accuracy 0.900); what usually helps: more epochs"
    assert page.index('<p class="warning"><strong>' + sentence) < page.index('id="trade-off"')
    assert text.index(f"**{sentence}") < text.index("### Pareto front")
    for shown in (page, text):
        assert 'class="card' not in shown
        assert "Knee" not in shown
        assert "tradeoff export" not in shown
        assert shown.count("no better than a constant answer") >= 4


def test_values_on_cards_and_in_tables_have_their_spread() -> None:
    spread = completed((0.8, 40.0, 900.0), params(8), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5)
    found = read_results(make_study(in_memory(), (spread,)))
    page, text = markup(html_report(found)), markdown_report(found)
    assert '<dd class="best">0.800 ± 0.020</dd>' in page
    assert "<td>40.00 ± 1.50</td>" in page
    assert "| 0.800 ± 0.020 | 40.00 ± 1.50 |" in text
    assert "training time 40.00 ± 1.50 s" in text
    for shown in (page, text):
        assert "± standard deviation" in shown

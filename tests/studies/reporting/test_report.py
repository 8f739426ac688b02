import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from memory_storage import in_memory
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from stored_studies import OBJECTIVES, completed, make_study, params, record
from typer.testing import CliRunner

from tradeoff.studies.cli.main import app
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.report import html_report, markdown_report, write_report
from tradeoff.studies.reporting.report_tables import SAME_BY_DESIGN, steps
from tradeoff.studies.results import savings
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.storage.opening import open_storage


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return read_results(make_study(in_memory()))


@pytest.fixture(scope="module")
def page(results: StudyResults) -> str:
    return html_report(results)


def markup(page: str) -> str:
    """The page without its scripts."""
    return re.sub(r">\s+<", "><", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def data_of(page: str) -> dict[str, Any]:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_the_page_refers_to_nothing_outside_itself_and_is_small(page: str) -> None:
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)""", markup(page)) == []
    assert "url(" not in markup(page)
    assert "@import" not in markup(page)
    assert "plotly" not in page
    assert len(page) < 150_000


def test_without_a_script_the_page_has_the_knee_and_the_front(page: str) -> None:
    shown = markup(page)
    assert '<h2 class="take">Take 16 x 1, fp32.</h2>' in shown
    assert "<dt>accuracy</dt><dd><strong>0.790</strong></dd>" in shown
    assert shown.split("<noscript>")[1].split("</noscript>")[0].count("<tr>") == 1 + 4


def test_the_data_has_every_configuration_and_how_each_trial_ended(page: str) -> None:
    trials = data_of(page)["trials"]
    assert trials["n"] == [0, 1, 2, 3, 4, 5]
    assert trials["v"][0] == [0.8, 0.79, 0.7, 0.78, 0.6, None]
    assert [data_of(page)["outcomes"][each] for each in trials["outcome"]] == ["completed"] * 5 + ["out of memory"]
    assert trials["front"] == [0, 1, 2, 4]
    assert trials["needMib"] == {"5": 2500 + 512}
    assert trials["words"]["5"] == "out of memory in the probe"


def test_a_parameter_with_few_values_is_choices_and_one_with_many_numbers() -> None:
    domain = FloatDistribution(1e-6, 1e-1)
    trials = tuple(
        create_trial(
            values=[0.5 + number / 100, 20.0 + number],
            params={"per_device_train_batch_size": 8 << number % 2, "learning_rate": 1e-4 * (number + 1)},
            distributions={"per_device_train_batch_size": CategoricalDistribution((8, 16)), "learning_rate": domain},
            user_attrs={"outcome": "completed"},
        )
        for number in range(14)
    )
    study = make_study(in_memory(), trials, objectives=("accuracy", "train_time_s"))
    batch, rate = data_of(html_report(read_results(study)))["parameters"]
    assert batch == {"name": "per_device_train_batch_size", "label": "batch", "choices": ["8", "16"]}
    assert (rate["name"], rate["choices"]) == ("learning_rate", None)


def test_values_are_told_apart_as_measured_derived_and_predicted(results: StudyResults) -> None:
    sources = ({"accuracy": "trained in trial 0", "peak_memory_mib": "probe"}, {"train_time_s": "model"})
    records = [dataclasses.replace(record, sources=each) for record, each in zip(results.records, sources, strict=False)]
    trials = data_of(html_report(dataclasses.replace(results, records=(*records, *results.records[2:]))))["trials"]
    sources = [[trials["sources"][column[row]] for column in trials["source"]] for row in (0, 1)]
    measured = ["measured", 0, True]
    assert sources[0] == [["trained in trial 0", 1, False], measured, ["from a probe", 1, False]]
    assert sources[1] == [measured, ["predicted, not run", 2, False], measured]
    # A modelled time has the model's typical error, and what was measured once has none.
    assert trials["error"][1][1] > 0
    assert trials["error"][1][0] == 0


def test_what_mattered_is_read_off_pairs_that_differ_in_one_step_and_by_more_than_the_error() -> None:
    found = steps(
        [
            record(0, (0.8, 40.0, 900.0), params(8)),
            record(1, (0.79, 20.0, 1000.0), params(16)),
            record(2, (0.8, 60.0, 450.0), params(8, checkpointing=True), derived_from=0),
        ],
        OBJECTIVES,
        lambda record, name: 0.02 if name == "accuracy" else 0.0,
    )
    assert [(each.parameter, each.step, each.num_pairs) for each in found] == [
        ("batch", "8 → 16", 1),
        ("checkpointing", "off → on", 1),
    ]
    assert found[0].changes == [("-0.010", 0), ("-50%", 1), ("+11%", -1)]
    assert found[1].changes == [(SAME_BY_DESIGN, 0), ("+50%", -1), ("-50%", 1)]


def test_the_map_says_the_most_that_is_known_of_each_cell(results: StudyResults) -> None:
    page = markup(html_report(results))
    titles = re.findall(r"<caption>([^<]+)</caption>", page)
    assert {"fp32, checkpointing off", "fp32, checkpointing on"} <= set(titles)
    plain = next(each for each in page.split('<div class="map"') if "<caption>fp32, checkpointing off</caption>" in each)
    first_row = plain.split("<tbody>")[1].split("</tr>")[0]
    assert re.findall(r'<td title="([^"]+)">', first_row)[-2:] == ["trained", "ran out of memory"]


def test_the_page_says_the_last_lines_of_a_run(results: StudyResults) -> None:
    page = markup(html_report(results))
    for line in savings.lines(results):
        assert f'<p class="say">{line[0].upper()}{line[1:]}.</p>' in page


def test_a_name_can_not_become_part_of_the_page(results: StudyResults) -> None:
    page = html_report(dataclasses.replace(results, name="</script><script>alert(1)//"))
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)//" in page


def test_a_study_in_which_nothing_completed_still_has_a_page(results: StudyResults) -> None:
    page = html_report(dataclasses.replace(results, records=results.records[5:]))
    assert "1 trial: 1 out of memory on Test CPU." in page
    assert "No configuration has finished yet." in page
    assert data_of(page)["trials"]["front"] == []
    assert "tradeoff export" not in markup(page)


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
    named = tmp_path / "report.md"
    assert CliRunner().invoke(app, ["report", "--storage", storage, "--output", str(named)]).exit_code == 0
    assert named.read_text(encoding="utf-8").startswith("## Trade-off of stars\n")
    printed = CliRunner().invoke(app, ["report", "stars", "--storage", storage, "--format", "md"])
    assert printed.stdout.startswith("## Trade-off of stars\n")


def test_a_place_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match="is a directory; name a file in it"):
        write_report("text", tmp_path)
    with pytest.raises(TradeoffError, match="must be in a directory that exists"):
        write_report("text", tmp_path / "none" / "report.html")


def judged_by(results: StudyResults, accuracy: float) -> StudyResults:
    return dataclasses.replace(results, baselines={"accuracy": accuracy})


def test_what_is_no_better_than_a_constant_answer_says_so(results: StudyResults) -> None:
    page, text = html_report(judged_by(results, 0.75)), markdown_report(judged_by(results, 0.75))
    assert data_of(page)["trials"]["weak"] == [2, 4]
    assert data_of(page)["objectives"][0]["baseline"] == 0.75
    assert "A constant answer: accuracy 0.750." in markup(page)
    assert "| 2 | 32 x 1, fp32 | 0.700 | 10.00 | 2,000 | 32 | no better than a constant answer |" in text


def test_a_study_with_nothing_better_than_a_constant_answer_says_so_first_and_recommends_nothing(results: StudyResults) -> None:
    beaten = judged_by(results, 0.9)
    page, text = markup(html_report(beaten)), markdown_report(beaten)
    sentence = "No configuration is clearly better than a constant answer (accuracy 0.900); what usually helps: more epochs"
    assert page.index(f'<h2 class="take">{sentence}') < page.index('id="trade-off"')
    assert text.index(f"**{sentence}") < text.index("### Pareto front")
    for shown in (page, text):
        assert "Knee" not in shown
        assert "tradeoff export" not in shown
        assert shown.count("no better than a constant answer") >= 4


def test_values_have_their_spread_and_what_it_is_of() -> None:
    spread = completed((0.8, 40.0, 900.0), params(8), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5)
    found = read_results(make_study(in_memory(), (spread,)))
    page, text = html_report(found), markdown_report(found)
    trials = data_of(page)["trials"]
    assert [column[0] for column in trials["error"]] == [0.02, 1.5, 0]
    assert [trials["reasons"][column[0]] for column in trials["why"]] == ["3 seeds", "repeats or noise", ""]
    assert "<strong>0.800 ± 0.020</strong>" in page
    assert "| 0.800 ± 0.020 | 40.00 ± 1.50 |" in text
    for shown in (page, text):
        assert "± standard deviation" in shown


def test_two_studies_are_one_page_with_their_comparison(results: StudyResults) -> None:
    other = read_results(make_study(in_memory(), name="other"))
    page = html_report(results, other)
    found = data_of(page)
    own, both = len(data_of(html_report(results))["trials"]["n"]), len(found["trials"]["n"])
    assert found["other"] == {"name": "other", "front": list(range(own, both))}
    assert both - own == len(pareto_front(other.records, other.objectives))
    assert len(found["parameters"]) == len(data_of(html_report(results))["parameters"])
    assert "hypervolume of the front" in markup(page)
    assert "on the front of other" in markup(page)


def test_two_studies_that_can_not_be_compared_are_refused_in_a_sentence(results: StudyResults) -> None:
    other = dataclasses.replace(results, name="other", device={**results.device, "name": "another GPU"})
    with pytest.raises(TradeoffError, match=r"times and memory of different devices.*`tradeoff compare \S+ other`"):
        html_report(results, other)
    fewer = dataclasses.replace(results, name="other", objectives=results.objectives[:2])
    with pytest.raises(TradeoffError, match=r"one report: the objectives are accuracy, train_time_s, peak_memory_mib, and"):
        html_report(results, fewer)

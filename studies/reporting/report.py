"""The report of a study: one HTML file to send to someone, or Markdown for a pull request.

The HTML file holds plotly's own script, so it is about 5 MB, and works where there is no network.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting import plot_style
from tradeoff.studies.reporting.notes import PACKAGE, study_values
from tradeoff.studies.reporting.plots import search_plots, trade_off_plots
from tradeoff.studies.reporting.templating import render, render_html
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import capitalized, marks, short_configuration, with_spread

# How a job's own names read in a sentence.
_OUR_MODELS = {EMBEDDED: "The embedded model"}
_OUR_DATA = {EMBEDDED: "generated reviews", RANDOM_TOKENS: "random tokens"}


def html_report(results: StudyResults) -> str:
    """Return the report as one HTML page that needs no network."""
    from plotly.offline import get_plotlyjs

    front = judged_front(results)
    plots = trade_off_plots(results, front)
    for plot in plots:
        plot.figure.update_layout(showlegend=False, margin={"t": 10})
    searched = search_plots(results)
    figures = {plot.name: plot.figure for plot in (*plots, *searched)}
    best = {record.number for record in (front.knee, *front.extremes.values()) if record is not None}
    return render_html(
        PACKAGE,
        "report.html.jinja",
        **study_values(results),
        style=plot_style,
        subject=_subject(results.config.get("job", {})),
        cards=_cards(front),
        has_marked=any(standing.is_marked for standing in front.standings.values()),
        has_out_of_memory=any(record.outcome == "out_of_memory" for record in results.records),
        trade_off_plots=plots,
        front_classes=[_row_class(record, front, best) for record in front.records],
        search_plots=searched,
        trial_classes=["over" if record.outcome == "out_of_memory" else "" for record in results.records],
        version=results.tradeoff_version,
        # Closing the script early is the one thing that JSON in a page can do wrong.
        figures=Markup(
            json.dumps({name: json.loads(figure.to_json()) for name, figure in figures.items()}).replace("<", "\\u003c")
        ),
        plotly=Markup(get_plotlyjs()),
    )


def markdown_report(results: StudyResults) -> str:
    """Return the report's tables as Markdown of GitHub's kind; what is long is folded away."""
    return render(PACKAGE, "report.md.jinja", **study_values(results))


def check_report(output: Path) -> None:
    """Check that a report can go to this file, before any work is done.

    Raises:
        TradeoffError: It is a directory, or is in a directory that does not exist.
    """
    if output.is_dir():
        raise TradeoffError(f"--output must be a file, and {output} is a directory; name a file in it")
    if not output.absolute().parent.is_dir():
        raise TradeoffError(f"--output must be in a directory that exists, and {output.parent} does not; make it first")


def write_report(text: str, output: Path) -> None:
    """Write a report; a file that is there is replaced once the new one is complete.

    Raises:
        TradeoffError: It can't be written.
    """
    check_report(output)
    try:
        with temporary_folder(f".{output.name}-", output.absolute().parent) as temporary:
            complete = temporary / "report"
            complete.write_text(text, encoding="utf-8")
            os.replace(complete, output)
    except OSError as error:
        raise TradeoffError(f"the report can't be written to {output}: {error.strerror}; name another file") from error


def _subject(job: dict[str, Any]) -> str:
    model, data = job.get("model"), job.get("dataset")
    return f"{_OUR_MODELS.get(model, model)} on {_OUR_DATA.get(data, data)}. " if model and data else ""


def _row_class(record: TrialRecord, front: JudgedFront, best: Collection[int]) -> str:
    return "marked" if record.number in best else "weak" if front.standings[record.number].is_marked else ""


def _cards(front: JudgedFront) -> list[dict[str, Any]]:
    """Return the knee and the extremes, each configuration once."""
    best, found = front.extremes, marks(front)
    chosen = {record.number: record for record in (front.knee, *best.values()) if record is not None}
    return [
        {
            "title": capitalized(", ".join(mark for mark in found[number] if mark not in front.standings[number].words())),
            "remarks": front.standings[number].words(),
            "configuration": short_configuration(record.params),
            "trial": record.shown_number,
            "is_knee": "knee" in found[number],
            "measured": [
                (GOALS[name].label, with_spread(record, name, unit=True), best[name].number == number)
                for name in front.objectives
            ],
        }
        for number, record in chosen.items()
    ]

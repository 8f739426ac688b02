"""The report of a study: one HTML file to send to someone, or Markdown for a pull request.

The HTML file holds plotly's own script, so it is about 5 MB, and works where there is no network.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting import plot_style
from tradeoff.studies.reporting.heat_maps import heat_map_metrics, heat_maps, single_heat_map_figure
from tradeoff.studies.reporting.notes import PACKAGE, study_values
from tradeoff.studies.reporting.plots import HEAT_MAP_CAPTION, search_plots, trade_off_plots
from tradeoff.studies.reporting.templating import capitalized, render, render_html
from tradeoff.studies.results.front import extremes, knee, pareto_front
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import marks, short_configuration

# How a job's own names read in a sentence.
_OUR_MODELS = {EMBEDDED: "The embedded model"}
_OUR_DATA = {EMBEDDED: "generated reviews", RANDOM_TOKENS: "random tokens"}


def html_report(results: StudyResults) -> str:
    """Return the report as one HTML page that needs no network."""
    from plotly.offline import get_plotlyjs

    front = pareto_front(results.records, results.objectives)
    plots = trade_off_plots(results) if front else []
    for plot in plots:
        plot.figure.update_layout(showlegend=False, margin={"t": 10})
    searched = search_plots(results)
    maps, map_figures = _heat_maps(results) if front else ([], {})
    figures = {plot.name: plot.figure for plot in (*plots, *searched)} | map_figures
    found = marks(front, results.objectives)
    return render_html(
        PACKAGE,
        "report.html.jinja",
        **study_values(results),
        style=plot_style,
        subject=_subject(results.config.get("job", {})),
        cards=_cards(front, results.objectives) if front else [],
        has_out_of_memory=any(record.outcome == "out_of_memory" for record in results.records),
        trade_off_plots=plots,
        front_classes=["marked" if found[record.number] else "" for record in front],
        heat_map_caption=HEAT_MAP_CAPTION,
        heat_maps=maps,
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
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.absolute().parent) as temporary:
            complete = Path(temporary) / "report"
            complete.write_text(text, encoding="utf-8")
            os.replace(complete, output)
    except OSError as error:
        raise TradeoffError(f"the report can't be written to {output}: {error.strerror}; name another file") from error


def _subject(job: dict[str, Any]) -> str:
    model, data = job.get("model"), job.get("dataset")
    return f"{_OUR_MODELS.get(model, model)} on {_OUR_DATA.get(data, data)}. " if model and data else ""


def _cards(front: Sequence[TrialRecord], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Return the knee and the extremes, each configuration once."""
    best, found = extremes(front, objectives), marks(front, objectives)
    chosen = {record.number: record for record in (knee(front, objectives), *best.values())}
    return [
        {
            "title": capitalized(", ".join(found[number])),
            "configuration": short_configuration(record.params),
            "trial": number,
            "is_knee": "knee" in found[number],
            "measured": [
                (GOALS[name].label, GOALS[name].show_with_unit(record.values[name]), best[name].number == number)
                for name in objectives
            ],
        }
        for number, record in chosen.items()
    ]


def _heat_maps(results: StudyResults) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the heat maps of each metric that has any value, and their figures by the id of their place on the page."""
    groups, figures = [], {}
    for metric in heat_map_metrics(results):
        maps = heat_maps(results, metric)
        known = [value for one in maps for row in one.values for value in row if value is not None]
        if not known:
            continue
        places = []
        for position, one in enumerate(maps):
            identifier = f"map-{metric.name}-{position}".replace("_", "-")
            figures[identifier] = single_heat_map_figure(one, metric, maps)
            places.append((identifier, one.facet, int(figures[identifier].layout.height)))
        gradient = plot_style.SEQUENTIAL_CSS
        groups.append(
            {
                "title": capitalized(metric.heading),
                "low": metric.show(min(known)),
                "high": metric.show(max(known)),
                "gradient": gradient if metric.direction == "maximize" else gradient.replace("to right", "to left"),
                "columns": "by-three" if len(maps) % 3 == 0 else "by-two",
                "maps": places,
            }
        )
    return groups, figures

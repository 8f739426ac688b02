"""The report of a study: one HTML file to send to someone, or Markdown for a pull request.

The file holds plotly's own script, so it is about 5 MB, and works where there is no network.
"""

import html
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.heat_maps import heat_map_metrics, heat_maps, single_heat_map_figure
from tradeoff.studies.reporting.markdown import code_block, markdown_table, plain
from tradeoff.studies.reporting.notes import (
    choices,
    front_markdown,
    how_to_read,
    next_commands,
    searched,
    study_facts,
)
from tradeoff.studies.reporting.plot_style import SEQUENTIAL_CSS
from tradeoff.studies.reporting.plots import HEAT_MAP_CAPTION, Plot, search_plots, trade_off_plots
from tradeoff.studies.reporting.report_page import legend, page, plot_html, table
from tradeoff.studies.reporting.text_tables import front_text_table, has_values_from_elsewhere, trials_text_table
from tradeoff.studies.results.front import extremes, knee, pareto_front
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import ELSEWHERE, marks, short_configuration

# How a job's own names read in a sentence.
_OUR_MODELS = {EMBEDDED: "The embedded model"}
_OUR_DATA = {EMBEDDED: "generated reviews", RANDOM_TOKENS: "random tokens"}


def html_report(results: StudyResults) -> str:
    """The report as one HTML page that needs no network."""
    front = pareto_front(results.records, results.objectives)
    figures: dict[str, Any] = {}
    parts = [_head(results)]
    if front:
        parts += [_cards(front, results.objectives), _trade_off(results, figures), _front(front, results.objectives)]
        parts.append(_heat_maps(results, figures))
    if found := search_plots(results):
        parts += ['<h2 id="search">How the search went</h2>', _plots(found, figures)]
    parts += [_trials(results), _about(results, has_front=bool(front))]
    return page(title=f"{results.name}: trade-off report", body="\n".join(parts), figures=figures)


def markdown_report(results: StudyResults) -> str:
    """The report's tables as Markdown of GitHub's kind; what is long is folded away."""
    front = pareto_front(results.records, results.objectives)
    parts = [f"## Trade-off of {plain(results.name)}", f"{_subtitle(results)}"]
    if front:
        parts += [choices(results, front), "### Pareto front", front_markdown(front, results.objectives)]
    header, rows = trials_text_table(results.records, results.objectives)
    if rows:
        parts.append(_folded(f"All trials ({len(rows)})", markdown_table(header, rows, num_left=0)))
    parts += [_folded("What was searched", searched(results)), _folded("How to read it", how_to_read(results))]
    if front:
        parts += ["Train with one of them:", code_block("\n".join(next_commands(results)))]
    return "\n\n".join(parts) + "\n"


def check_report(output: Path) -> None:
    """Checks that a report can go to this file, before any work is done.

    Raises:
        TradeoffError: It is a folder, or is in a folder that does not exist.
    """
    if output.is_dir():
        raise TradeoffError(f"the output {output} is a folder; name a file")
    if not output.absolute().parent.is_dir():
        raise TradeoffError(f"the output {output} can't be written: there is no folder {output.parent}")


def write_report(text: str, output: Path) -> None:
    """Writes a report; a file that is there is replaced once the new one is complete.

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
        raise TradeoffError(f"the output {output} can't be written: {error.strerror}") from error


def _folded(title: str, text: str) -> str:
    # GitHub takes what follows a blank line for Markdown again.
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _subtitle(results: StudyResults) -> str:
    summary = results.summary()
    device = f" on {plain(str(results.device['name']))}" if "name" in results.device else ""
    return f"{summary[0].upper()}{summary[1:]}{device}."


def _head(results: StudyResults) -> str:
    job = results.config.get("job", {})
    model, data = job.get("model"), job.get("dataset")
    what = f"{_OUR_MODELS.get(model, model)} on {_OUR_DATA.get(data, data)}. " if model and data else ""
    device = f" on {results.device['name']}" if "name" in results.device else ""
    summary = results.summary()
    line = f"{what}{summary[0].upper()}{summary[1:]}{device}."
    return f'<header><h1>{html.escape(results.name)}</h1><p class="soft wide-text">{html.escape(line)}</p></header>'


def _cards(front: Sequence[TrialRecord], objectives: Sequence[str]) -> str:
    """The knee and the extremes, each configuration once."""
    best = extremes(front, objectives)
    found = marks(front, objectives)
    first = knee(front, objectives)
    order = [first, *(record for record in best.values() if record.number != first.number)]
    cards = []
    for number, record in {one.number: one for one in order}.items():
        title = ", ".join(found[number])
        values = []
        for name in objectives:
            mark = ' class="best"' if best[name].number == number else ""
            value = html.escape(GOALS[name].show_with_unit(record.values[name]))
            values.append(f"<dt>{html.escape(GOALS[name].label)}</dt><dd{mark}>{value}</dd>")
        cards.append(
            f'<div class="card{" knee" if "knee" in found[number] else ""}">'
            f"<h3>{html.escape(title[0].upper() + title[1:])}</h3>"
            f"<strong>{html.escape(short_configuration(record.params))}</strong><dl>{''.join(values)}</dl>"
            f'<p class="trial">trial {number}</p></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _trade_off(results: StudyResults, figures: dict[str, Any]) -> str:
    found = trade_off_plots(results)
    flat = [plot for plot in found if plot.name != "trade-off"]
    space = [plot for plot in found if plot.name == "trade-off"]
    for plot in flat:
        plot.figure.update_layout(showlegend=False, margin={"t": 10})
    has_over = any(record.outcome == "out_of_memory" for record in results.records)
    text = f'<h2 id="trade-off">The trade-off</h2>{legend(has_out_of_memory=has_over)}{_plots(flat, figures)}'
    for plot in space:
        plot.figure.update_layout(showlegend=False, margin={"t": 0})
        figures[plot.name] = plot.figure
        text += '<div class="plots">' + plot_html(
            plot.name, title=plot.title, caption=plot.caption, classes="screen", tall=True
        )  # fmt: skip
        text += "</div>"
    return text


def _plots(found: Sequence[Plot], figures: dict[str, Any]) -> str:
    """Plots side by side where there is room; the odd one out gets the whole width."""
    text = []
    for position, plot in enumerate(found):
        figures[plot.name] = plot.figure
        is_odd = len(found) % 2 == 1 and position == 0
        text.append(plot_html(plot.name, title=plot.title, caption=plot.caption, classes="wide" if is_odd else ""))
    return f'<div class="plots pairs">{"".join(text)}</div>'


def _front(front: Sequence[TrialRecord], objectives: Sequence[str]) -> str:
    header, rows = front_text_table(front, objectives)
    found = marks(front, objectives)
    note = f"<p class=soft>{ELSEWHERE} measured by another trial or a probe.</p>" if has_values_from_elsewhere(front) else ""
    body = table(header, rows, has_names=True, classes=["marked" if found[record.number] else "" for record in front])
    intro = "<p>None of these configurations dominates another; the marked ones are a good start.</p>"
    return f'<h2 id="front">The Pareto front</h2>{intro}{body}{note}'


def _heat_maps(results: StudyResults, figures: dict[str, Any]) -> str:
    parts = [f'<h2 id="maps">By batch size and accumulation</h2><p class="soft">{html.escape(HEAT_MAP_CAPTION)}</p>']
    for metric in heat_map_metrics(results):
        maps = heat_maps(results, metric)
        known = [value for one in maps for row in one.values for value in row if value is not None]
        if not known:
            continue
        shown = []
        for position, one in enumerate(maps):
            identifier = f"map-{metric.name}-{position}".replace("_", "-")
            figure = single_heat_map_figure(one, metric, maps)
            figures[identifier] = figure
            shown.append(plot_html(identifier, title=one.facet, height_px=int(figure.layout.height)))
        low, high = (f"{value:,.{metric.digits}f}" for value in (min(known), max(known)))
        gradient = SEQUENTIAL_CSS if metric.maximize else SEQUENTIAL_CSS.replace("to right", "to left")
        parts.append(
            f'<h3 class="group">{html.escape(metric.title[0].upper() + metric.title[1:])}</h3>'
            f'<p class="scale">{low}<i style="background: {gradient}"></i>{high}</p>'
            f'<div class="plots maps {"by-three" if len(maps) % 3 == 0 else "by-two"}">{"".join(shown)}</div>'
        )
    return "\n".join(parts)


def _trials(results: StudyResults) -> str:
    header, rows = trials_text_table(results.records, results.objectives)
    if not rows:
        return ""
    classes = ["over" if record.outcome == "out_of_memory" else "" for record in results.records]
    body = table(header, rows, classes=classes)
    return f'<h2 id="trials">All trials</h2><details><summary>Show all {len(rows)}</summary>{body}</details>'


def _about(results: StudyResults, *, has_front: bool) -> str:
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in study_facts(results))
    text = f'<h2 id="about">What was searched</h2><dl class="facts">{facts}</dl>'
    if has_front:
        commands = html.escape("\n".join(next_commands(results)))
        text += f'<h2 id="next">Train with one of them</h2><pre>{commands}</pre>'
    return f"{text}<footer>Made by tradeoff {html.escape(results.tradeoff_version)}.</footer>"

"""The style of plots: one palette, one layout, axes with units.

The colours are those of M. Okabe and K. Ito, "Color Universal Design" (https://jfly.uni-koeln.de/color/), which people with any
kind of colour vision can tell apart; shapes differ too, so that a plot printed in grey can still be read.

Plotly takes a few of HTML's tags for markup, and braces for values: whatever comes from a study goes through `plot_text`.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.front import near
from tradeoff.studies.results.tables import short_configuration, with_spread
from tradeoff.studies.visible import visible

BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
GREY, INK, GRID = "#8A94A0", "#1F2933", "#E3E7EB"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Values that differ by more than this factor are drawn on a logarithmic axis.
_LOG_RATIO = 30.0
_MARGIN = 0.06


def plot_text(text: str) -> str:
    """Return text that a plot shows as it is."""
    return html.escape(visible(text)).replace("{", "&#123;")


def layout(**changes: Any) -> dict[str, Any]:
    """Return the layout that all plots share, with changes."""
    # An empty template: plotly's own would be stored with every plot, and is larger than most of them.
    return {
        "template": {},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 16, "t": 36, "b": 52},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": INK}},
    } | changes


def axis(title: str, **changes: Any) -> dict[str, Any]:
    """Return an axis with a title, its lines in the shared style."""
    return {
        "title": {"text": plot_text(title), "standoff": 8},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GREY,
        "showline": True,
        "ticks": "outside",
        "tickcolor": GREY,
        "automargin": True,
    } | changes


def objective_axis(name: str, values: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Return the axis of an objective, its unit in the title; logarithmic where the values differ by orders of magnitude."""
    kind = "log" if is_logarithmic(values) else "linear"
    # "1,200" rather than plotly's "1.2k" or "1200".
    tickformat = "," if GOALS[name].digits == 0 and kind == "linear" else ""
    return axis(GOALS[name].heading, type=kind, tickformat=tickformat, **near_range(values), **changes)


def near_range(values: Sequence[float]) -> dict[str, Any]:
    """Return the range of an axis on which some values lie too far out to be drawn; nothing where plotly can choose it."""
    shown = near(values)
    if len(shown) == len(values):
        return {}
    ends = [lower_edge(shown), max(shown) + min(shown) - lower_edge(shown)]
    if is_logarithmic(shown):
        ends = [math.log10(ends[0]), math.log10(max(shown) * min(shown) / ends[0])]
    return {"range": ends}


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether values are spread so widely that a linear axis would crowd the small ones."""
    shown = near(values)
    return bool(shown) and min(shown) > 0 and max(shown) / min(shown) > _LOG_RATIO


def baseline_line(figure: Any, name: str, value: float, what: str, *, is_vertical: bool = False) -> None:
    """Draw the value of a baseline as a labelled line; `what` says what has it."""
    text = f"{what.removeprefix('a ').removeprefix('the ')} {GOALS[name].show(value)}"
    label = {"text": plot_text(text), "font": {"color": INK, "size": 12}}
    line = {"color": INK, "width": 1.5, "dash": "dashdot"}
    if is_vertical:
        figure.add_vline(x=value, line=line, annotation=label | {"textangle": -90, "xanchor": "right", "y": 0.5})
    else:
        figure.add_hline(y=value, line=line, annotation=label, annotation_position="top left")


def lower_edge(values: Sequence[float]) -> float:
    """Return a place just below all values, for trials without one."""
    low, high = min(near(values)), max(near(values))
    if is_logarithmic(values):
        return float(low / (high / low) ** _MARGIN)
    return low - _MARGIN * ((high - low) or abs(high) or 1.0)


def hover(record: TrialRecord) -> str:
    """Return the text that appears when the pointer is over a trial."""
    lines = [f"<b>{record.title}</b>", plot_text(short_configuration(record.told_params))]
    for name in record.values:
        source = record.sources.get(name, "measured")
        shown = f"{GOALS[name].label} {with_spread(record, name, unit=True)}"
        lines.append(plot_text(shown if source == "measured" else f"{shown} ({source})"))
    if record.outcome == "out_of_memory":
        shortfall = record.attributes.get("memory_shortfall_mib")
        lines.append("out of memory" + (f", short of {shortfall:,.0f} MiB or more" if shortfall is not None else ""))
    return "<br>".join(lines)

"""Draws the README's plots: the front of a stored study, and what a front costs with each method.

    python benchmarks/plots.py front sqlite:///tradeoff.db NAME docs/images/front.png
    python benchmarks/plots.py fronts curves.json docs/images/fronts.png  # written by compare_fronts.py --curves

Needs `pip install kaleido` and a Chromium or Chrome (BROWSER_PATH names it where it is not found).
"""

import itertools
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.studies.reporting.trade_off_plots import MARKED
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.results import read_results
from tradeoff.studies.results.tables import short_configuration
from tradeoff.studies.storage.opening import load_study, open_storage

COLORS = ("#888888", "#bbbbbb", "#E69F00", "#56B4E9", "#0072B2", "#D55E00")  # Okabe-Ito, safe for colour-blind readers
OURS = "decoupled"
# From here on an axis has hours, and minutes below.
HOURS_FROM_S = 6 * 3600.0
FONT = {"family": "DejaVu Sans, Arial, sans-serif", "size": 14, "color": "#1f2933"}
GRID = {"gridcolor": "#e4e7eb", "zeroline": False, "linecolor": "#9aa5b1"}


def front_plot(storage: str, name: str) -> go.Figure:
    """Draw accuracy over time and over memory: the front with its errors, the constant answer, and the memory limit.

    Raises:
        SystemExit: The study has nothing that is clearly better than a constant answer, which no plot should advertise.
    """
    results = read_results(load_study(name, open_storage(storage, create=False)))
    front = judged_front(results)
    chosen = front.knee
    if chosen is None:
        sys.exit(f"nothing to draw of {name}: {front.warning or 'no trial has completed'}")
    marked = {number for number, standing in front.standings.items() if standing.is_marked}
    others = [record for record in front.candidates if record.number not in front.standings]
    figure = make_subplots(cols=2, horizontal_spacing=0.09, shared_yaxes=True)
    for column, axis in ((1, "train_time_s"), (2, "peak_memory_mib")):
        for records, label, marker in (
            (others, "dominated", {"color": "white", "line": {"color": "#9aa5b1", "width": 1}, "size": 8}),
            ([one for one in front.records if one.number not in marked], "Pareto front", {"color": "#0072B2", "size": 11}),
            (
                [one for one in front.records if one.number in marked],
                MARKED,
                {"color": "white", "line": {"color": "#0072B2", "width": 2}, "size": 10},
            ),
            ([chosen], "knee", {"color": "#E69F00", "size": 18, "symbol": "star", "line": {"color": "#1f2933", "width": 1}}),
        ):
            figure.add_scatter(
                x=[record.values[axis] for record in records],
                y=[record.values["accuracy"] for record in records],
                error_x=_bars(records, axis) if label in ("Pareto front", MARKED) else None,
                error_y=_bars(records, "accuracy") if label in ("Pareto front", MARKED) else None,
                mode="markers",
                name=label,
                marker=marker,
                showlegend=column == 1 and bool(records),
                row=1,
                col=column,
            )
        figure.update_xaxes(title=GOALS[axis].heading, row=1, col=column, **GRID)
        if (baseline := results.baselines.get("accuracy")) is not None:
            # A line alone would not widen the axis.
            place = {"x": [chosen.values[axis]], "y": [baseline]}
            figure.add_scatter(**place, mode="markers", marker={"opacity": 0}, showlegend=False, row=1, col=column)
            label = {"text": f"constant answer {baseline:.3f}", "font_size": 12}
            line = {"color": "#1f2933", "dash": "dashdot", "width": 1.5}
            figure.add_hline(y=baseline, line=line, annotation=label, annotation_position="top left", row=1, col=column)
    if (limit_mib := results.memory_limit_mib) is not None:
        figure.add_vline(x=limit_mib, line={"color": "#D55E00", "dash": "dash"}, row=1, col=2)
        figure.add_annotation(
            x=limit_mib, y=0.02, yref="y2 domain", xref="x2", text="memory limit", textangle=-90, showarrow=False, xshift=-10,
            font={"color": "#D55E00"},
        )  # fmt: skip
    figure.update_yaxes(**GRID)
    figure.update_yaxes(title="accuracy", row=1, col=1)
    # A long label in one line would widen the axes.
    label = "<br>".join(textwrap.wrap(short_configuration(chosen.params), 24))
    for column, axis in ((1, "train_time_s"), (2, "peak_memory_mib")):
        figure.add_annotation(
            x=chosen.values[axis], y=chosen.values["accuracy"], text=label, showarrow=False, xanchor="left", xshift=14,
            yanchor="top", yshift=-14, row=1, col=column,
        )  # fmt: skip
    return figure


def _bars(records: Sequence[TrialRecord], objective: str) -> dict[str, Any] | None:
    """Return the standard deviations of values as error bars; None where none is known."""
    spreads = [record.attributes.get(spread_name(objective)) or 0.0 for record in records]
    return {"type": "data", "array": spreads, "color": "#52606d", "thickness": 1, "width": 3} if any(spreads) else None


def fronts_plot(path: Path) -> go.Figure:
    """Draw the selection volume over the time, for each table: the median over seeds, and a band from lowest to highest."""
    tables: dict[str, dict[str, list[list[list[float]]]]] = json.loads(path.read_text())
    figure = make_subplots(cols=len(tables), horizontal_spacing=0.07, shared_yaxes=True, subplot_titles=list(tables))
    for column, methods in enumerate(tables.values(), start=1):
        end_s = max(run[-1][0] for runs in methods.values() for run in runs)
        unit, unit_s = ("hours", 3600.0) if end_s > HOURS_FROM_S else ("minutes", 60.0)
        times = np.geomspace(end_s / 300, end_s, 300) / unit_s
        others = [name for name in methods if name != OURS]
        colors = dict(zip(others, itertools.cycle(COLORS[:-1]), strict=False)) | {OURS: COLORS[-1]}
        for name in (*others, OURS):
            runs, colour = methods[name], colors[name]
            shares = [[_at(run, time * unit_s) for time in times] for run in runs]
            low, middle, high = np.min(shares, axis=0), np.median(shares, axis=0), np.max(shares, axis=0)
            band = {"x": np.concatenate([times, times[::-1]]), "y": np.concatenate([high, low[::-1]])}
            place = {"row": 1, "col": column, "legendgroup": name}
            figure.add_scatter(
                **band, fill="toself", fillcolor=colour, opacity=0.15, mode="none", showlegend=False, hoverinfo="skip", **place
            )
            line = {"color": colour, "width": 4 if name == OURS else 2}
            figure.add_scatter(x=times, y=middle, mode="lines", name=name, line=line, showlegend=column == 1, **place)
        figure.update_xaxes(title=f"{unit} (log)", type="log", row=1, col=column, **GRID)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", **GRID)
    figure.update_yaxes(title="selection volume", row=1, col=1)
    return figure


def _at(run: list[list[float]], time_s: float) -> float:
    before = [share for spent_s, *_, share in run if spent_s <= time_s]
    return before[-1] if before else 0.0


def main() -> None:
    what, *arguments, output = sys.argv[1:]
    draw = {"front": front_plot, "fronts": fronts_plot}[what]
    figure = draw(*arguments) if what == "front" else draw(Path(arguments[0]))
    # The names of the fronts' methods take two lines.
    height, top, legend_y = (460, 120, 1.4) if what == "fronts" else (420, 70, 1.22)
    figure.update_layout(
        plot_bgcolor="white",
        font=FONT,
        margin={"l": 70, "r": 20, "t": top, "b": 60},
        legend={"orientation": "h", "y": legend_y},
    )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.write_image(output, width=1000, height=height, scale=2)


if __name__ == "__main__":
    main()

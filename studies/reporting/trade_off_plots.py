"""The front as plots: every two objectives against each other.

A trial that ran out of memory has no accuracy and no time. It is drawn at the edge, at the memory that it needed at least, so
that a person sees which configurations the memory limit excludes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.studies.reporting.plot_style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    VERMILLION,
    baseline_line,
    hover,
    layout,
    lower_edge,
    objective_axis,
)
from tradeoff.studies.results.evidence import JudgedFront
from tradeoff.studies.results.results import StudyResults

MEMORY = "peak_memory_mib"
# No better than a constant answer, or there by a difference within the error.
MARKED = "on the front, not clearly"
# A trial that needed far more memory than there is would squeeze everything else: it is drawn no further than this.
_FARTHEST = 1.3
# Objectives by the axis that shows them, "x" and "y".
Axes = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A study's trials as the plots tell them apart."""

    dominated: list[TrialRecord]
    front: list[TrialRecord]
    marked: list[TrialRecord]
    knee: list[TrialRecord]
    out_of_memory: list[TrialRecord]

    def completed(self) -> list[TrialRecord]:
        """Return the trials that have values, on the front or not."""
        return [*self.dominated, *self.front, *self.marked]

    def series(self) -> list[tuple[str, list[TrialRecord], dict[str, Any]]]:
        """Return the completed trials in the order in which they are drawn: name, trials and marker."""
        return [
            ("dominated", self.dominated, {"color": GREY, "size": 7, "opacity": 0.7, "symbol": "circle-open"}),
            ("Pareto front", self.front, {"color": BLUE, "size": 10, "symbol": "circle", "line": _line(1, "white")}),
            (MARKED, self.marked, {"color": BLUE, "size": 9, "symbol": "circle-open", "line": _line(2, BLUE)}),
            ("knee", self.knee, {"color": ORANGE, "size": 15, "symbol": "star", "line": _line(1, INK)}),
        ]


def group(results: StudyResults, front: JudgedFront) -> Groups:
    """Return the groups of a study's trials, whose front is `front`."""
    marked = {number for number, standing in front.standings.items() if standing.is_marked}
    return Groups(
        dominated=[record for record in front.candidates if record.number not in front.standings],
        front=[record for record in front.records if record.number not in marked],
        marked=[record for record in front.records if record.number in marked],
        knee=[front.knee] if front.knee is not None else [],
        out_of_memory=[record for record in results.records if record.outcome == "out_of_memory"],
    )


def pair_figure(results: StudyResults, groups: Groups, y: str, x: str) -> Any:
    """Draw one objective over another: the front, its knee, dominated trials, and the memory limit with what exceeded it."""
    import plotly.graph_objects as go

    axes = {"x": x, "y": y}
    figure = go.Figure(layout=layout())
    if len(results.objectives) == 2:
        points = sorted((record.values[x], record.values[y]) for record in (*groups.front, *groups.marked))
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines",
            line={**_line(1.5, BLUE), "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    for name, records, marker in groups.series():
        # The knee has those of its place on the front; on what is dominated they would hide the rest.
        bars = _bars(records, axes, marker) if records is groups.front or records is groups.marked else {}
        figure.add_scatter(**_coordinates(records, axes), **_markers(name, records, marker), **bars)
    drawn = _coordinates(groups.completed(), axes)
    for axis, name in axes.items():
        if (baseline := results.baselines.get(name)) is not None and drawn[axis]:
            baseline_line(figure, name, baseline, results.baseline_name, is_vertical=axis == "x")
            drawn[axis].append(baseline)
            # A line alone would not widen the axis.
            place = {other: [values[0]] for other, values in drawn.items()} | {axis: [baseline]}
            figure.add_scatter(**place, mode="markers", marker={"opacity": 0}, hoverinfo="skip", showlegend=False)
    if (limit_mib := results.memory_limit_mib) is not None and MEMORY in (x, y):
        over = _at_the_edge(groups, axes, limit_mib)
        if groups.out_of_memory:
            marker = {"color": VERMILLION, "size": 9, "symbol": "x-thin", "line": _line(2, VERMILLION)}
            figure.add_scatter(**over, **_markers("out of memory", groups.out_of_memory, marker))
        _add_limit_line(figure, limit_mib, is_vertical=x == MEMORY)
        axis = "x" if x == MEMORY else "y"
        drawn[axis] += [*over[axis], limit_mib]
    figure.update_xaxes(objective_axis(x, drawn["x"]))
    figure.update_yaxes(objective_axis(y, drawn["y"]))
    return figure


def _line(width: float, color: str) -> dict[str, Any]:
    return {"width": width, "color": color}


def _coordinates(records: Sequence[TrialRecord], axes: Axes) -> dict[str, list[float]]:
    return {axis: [record.values[name] for record in records] for axis, name in axes.items()}


def _markers(name: str, records: Sequence[TrialRecord], marker: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "mode": "markers",
        "marker": marker,
        "hovertext": [hover(record) for record in records],
        "hoverinfo": "text",
    }


def _bars(records: Sequence[TrialRecord], axes: Axes, marker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the standard deviations of the values that have one as error bars."""
    bars = {}
    for axis, name in axes.items():
        spreads = [float(record.attributes.get(spread_name(name)) or 0.0) for record in records]
        if any(spreads):
            bars[f"error_{axis}"] = {"type": "data", "array": spreads, "color": marker["color"], "thickness": 1, "width": 3}
    return bars


def _at_the_edge(groups: Groups, axes: Axes, limit_mib: float) -> dict[str, list[float]]:
    """Return the coordinates of the trials that ran out of memory: the memory that each needed, and the edge elsewhere."""
    drawn = _coordinates(groups.completed(), axes)
    farthest_mib = _FARTHEST * max([limit_mib, *(record.values[MEMORY] for record in groups.completed())])
    shortfalls = [float(record.attributes.get("memory_shortfall_mib") or 0.0) for record in groups.out_of_memory]
    needed_mib = [min(limit_mib + shortfall, farthest_mib) for shortfall in shortfalls]
    return {
        axis: needed_mib if name == MEMORY else [lower_edge(drawn[axis]) if drawn[axis] else 0.0] * len(needed_mib)
        for axis, name in axes.items()
    }


def _add_limit_line(figure: Any, limit_mib: float, *, is_vertical: bool) -> None:
    line = {**_line(1.5, VERMILLION), "dash": "dash"}
    label = {"text": f"limit {limit_mib:,.0f} MiB", "font": {"color": VERMILLION, "size": 12}}
    if is_vertical:
        figure.add_vline(x=limit_mib, line=line, annotation=label | {"textangle": -90, "xanchor": "right", "y": 0.5})
    else:
        figure.add_hline(y=limit_mib, line=line, annotation=label | {"yanchor": "bottom"})

"""The front as plots: every two objectives against each other, and three at once.

A trial that ran out of memory has no accuracy and no time. It is drawn at the edge, at the memory that it needed at least, so
that a person sees where the budget cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.plot_style import (
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    VERMILLION,
    hover,
    layout,
    lower_edge,
    objective_axis,
)
from tradeoff.studies.results.front import feasible, knee, pareto_front
from tradeoff.studies.results.results import StudyResults

MEMORY = "peak_memory_mib"
# What needed far more memory than there is would squeeze everything else: it is drawn no further than this.
_FARTHEST = 1.3


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A study's trials as the plots tell them apart."""

    dominated: list[TrialRecord]
    front: list[TrialRecord]
    knee: list[TrialRecord]
    out_of_memory: list[TrialRecord]

    def completed(self) -> list[TrialRecord]:
        """What has values, on the front or not."""
        return [*self.dominated, *self.front]


def memory_budget_mib(results: StudyResults) -> float | None:
    """The memory that a trial may need: the study's limit, or else the whole card; None on a CPU without a limit."""
    limit = results.config.get("limits", {}).get(MEMORY)
    if limit is None and results.device.get("kind") == "cuda":
        limit = results.device.get("total_memory_mib")
    return None if limit is None else float(limit)


def pair_figure(results: StudyResults, groups: Groups, y: str, x: str) -> Any:
    """One objective over another: the front, its knee, what is dominated, and the memory budget with what exceeded it."""
    import plotly.graph_objects as go

    budget = memory_budget_mib(results)
    xs, ys = ([record.values[name] for record in groups.completed()] for name in (x, y))
    figure = go.Figure(layout=layout())
    if len(results.objectives) == 2:
        points = sorted((record.values[x], record.values[y]) for record in groups.front)
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines",
            line={"color": BLUE, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    for name, records, marker in _series(groups):
        figure.add_scatter(
            x=[record.values[x] for record in records],
            y=[record.values[y] for record in records],
            name=name,
            mode="markers",
            marker=marker,
            hovertext=[hover(record) for record in records],
            hoverinfo="text",
        )
    if budget is not None and MEMORY in (x, y):
        over = groups.out_of_memory
        needed = [_needed_mib(record, budget, groups) for record in over]
        edge = [lower_edge(ys if x == MEMORY else xs) if xs else 0.0] * len(over)
        if over:
            figure.add_scatter(
                x=needed if x == MEMORY else edge,
                y=edge if x == MEMORY else needed,
                name="out of memory",
                mode="markers",
                marker={"color": VERMILLION, "size": 9, "symbol": "x-thin", "line": {"width": 2, "color": VERMILLION}},
                hovertext=[hover(record) for record in over],
                hoverinfo="text",
            )
        _add_budget_line(figure, budget, vertical=x == MEMORY)
        (xs if x == MEMORY else ys).extend([*needed, budget])
    figure.update_xaxes(objective_axis(x, xs))
    figure.update_yaxes(objective_axis(y, ys))
    return figure


def space_figure(results: StudyResults, groups: Groups) -> Any:
    """The first three objectives at once, the first one upward; the memory budget is a plane."""
    import plotly.graph_objects as go

    z, x, y = results.objectives[:3]
    budget = memory_budget_mib(results)
    values = {name: [record.values[name] for record in groups.completed()] for name in (x, y, z)}
    legend = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "bgcolor": "rgba(255, 255, 255, 0.7)"}
    figure = go.Figure(layout=layout(margin={"l": 0, "r": 0, "t": 8, "b": 0}, legend=legend))
    floor = lower_edge(values[z]) if values[z] else 0.0
    _add_stems(figure, [tuple(record.values[name] for name in (x, y, z)) for record in groups.front], floor)
    for name, records, marker in _series(groups):
        figure.add_scatter3d(
            x=[record.values[x] for record in records],
            y=[record.values[y] for record in records],
            z=[record.values[z] for record in records],
            name=name,
            mode="markers",
            # WebGL has fewer shapes, takes them from a font, and draws them larger.
            marker=marker | {"size": marker["size"] * 0.55, "symbol": "diamond" if name == "knee" else "circle"},
            hovertext=[hover(record) for record in records],
            hoverinfo="text",
        )
    if budget is not None and MEMORY in (x, y, z) and values[z]:
        edges = {name: lower_edge(values[name]) for name in (x, y, z)}
        over = groups.out_of_memory
        where = {
            name: [_needed_mib(record, budget, groups) if name == MEMORY else edges[name] for record in over]
            for name in (x, y, z)
        }
        if over:
            figure.add_scatter3d(
                x=where[x],
                y=where[y],
                z=where[z],
                name="out of memory",
                mode="markers",
                marker={"color": VERMILLION, "size": 4, "symbol": "square"},
                hovertext=[hover(record) for record in over],
                hoverinfo="text",
            )
        _add_budget_plane(figure, (x, y, z), values, edges, budget)
    plain = {"backgroundcolor": "white", "gridcolor": GRID, "showbackground": False, "nticks": 6, "ticks": ""}
    figure.update_scenes(
        xaxis=_scene_axis(GOALS[x].heading, plain),
        yaxis=_scene_axis(GOALS[y].heading, plain),
        zaxis=_scene_axis(GOALS[z].heading, plain),
        camera={"eye": {"x": -1.75, "y": -1.75, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.15}},
        aspectmode="cube",
    )
    return figure


def group(results: StudyResults) -> Groups:
    """Tells the trials apart: once for all plots, since a front of a thousand trials takes a while to find."""
    front = pareto_front(results.records, results.objectives)
    numbers = {record.number for record in front}
    return Groups(
        dominated=[record for record in feasible(results.records) if record.number not in numbers],
        front=front,
        knee=[knee(front, results.objectives)] if front else [],
        out_of_memory=[record for record in results.records if record.outcome == "out_of_memory"],
    )


def _series(groups: Groups) -> list[tuple[str, list[TrialRecord], dict[str, Any]]]:
    """What completed, in the order in which it is drawn: each with its name and its marker."""
    return [
        ("dominated", groups.dominated, {"color": GREY, "size": 7, "opacity": 0.7, "symbol": "circle-open"}),
        ("Pareto front", groups.front, {"color": BLUE, "size": 10, "symbol": "circle", "line": {"width": 1, "color": "white"}}),
        ("knee", groups.knee, {"color": ORANGE, "size": 15, "symbol": "star", "line": {"width": 1, "color": INK}}),
    ]


def _needed_mib(record: TrialRecord, budget_mib: float, groups: Groups) -> float:
    """The memory that a trial needed at least, as far as it is drawn."""
    highest = max([budget_mib, *(other.values[MEMORY] for other in groups.completed())])
    return min(budget_mib + float(record.attributes.get("memory_shortfall_mib") or 0.0), _FARTHEST * highest)


def _add_budget_line(figure: Any, budget_mib: float, *, vertical: bool) -> None:
    line = {"color": VERMILLION, "width": 1.5, "dash": "dash"}
    text = f"budget {budget_mib:,.0f} MiB"
    font = {"color": VERMILLION, "size": 12}
    if vertical:
        figure.add_vline(
            x=budget_mib, line=line, annotation={"text": text, "font": font, "textangle": -90, "xanchor": "right", "y": 0.5}
        )
    else:
        figure.add_hline(y=budget_mib, line=line, annotation={"text": text, "font": font, "yanchor": "bottom"})


def _add_stems(figure: Any, points: Sequence[tuple[float, ...]], floor: float) -> None:
    """A line from each point down to the floor: without it nobody can tell where in depth a point is."""
    figure.add_scatter3d(
        x=[value for point in points for value in (point[0], point[0], None)],
        y=[value for point in points for value in (point[1], point[1], None)],
        z=[value for point in points for value in (point[2], floor, None)],
        mode="lines",
        line={"color": GREY, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )


def _add_budget_plane(
    figure: Any, names: tuple[str, str, str], values: dict[str, list[float]], edges: dict[str, float], budget_mib: float
) -> None:
    corners: dict[str, list[float]] = {}
    spread = [name for name in names if name != MEMORY]
    for position, name in enumerate(spread):
        low, high = edges[name], max(values[name])
        corners[name] = [low, high, high, low] if position == 0 else [low, low, high, high]
    corners[MEMORY] = [budget_mib] * 4
    figure.add_mesh3d(
        x=corners[names[0]],
        y=corners[names[1]],
        z=corners[names[2]],
        i=[0, 0],
        j=[1, 2],
        k=[2, 3],
        color=VERMILLION,
        opacity=0.12,
        name=f"memory budget {budget_mib:,.0f} MiB",
        showlegend=True,
        hoverinfo="name",
    )


def _scene_axis(title: str, plain: dict[str, Any]) -> dict[str, Any]:
    # A scene's axes know fewer settings than those of a plane.
    return {
        "title": {"text": title, "font": {"size": 12}},
        "tickfont": {"size": 11},
        "linecolor": GREY,
        "zeroline": False,
        **plain,
    }

"""Batch size x accumulation steps as heat maps: one for each checkpointing and precision, for each metric.

All maps of a metric share their colours, so that they can be compared at a glance; bright is better for every metric. Where
several trials share a cell (they differ in another parameter), the best one is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS, Goal
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.plot_style import SEQUENTIAL, VERMILLION, axis, layout, plot_text
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.front import feasible, near
from tradeoff.studies.results.results import StudyResults

MEMORY = "peak_memory_mib"
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
OUT_OF_MEMORY_MARK = "OOM"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """The cells of one checkpointing and precision.

    Attributes:
        facet: The name of what the cells share: "fp32", "bf16, checkpointing".
        batches: Columns, increasing.
        accumulations: Rows, increasing.
        values: By row, then column; None where nothing completed.
        trials: The number of the trial that is shown in each cell.
        out_of_memory: (row, column) of the cells where trials only ran out of memory.
    """

    facet: str
    batches: tuple[int, ...]
    accumulations: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    trials: tuple[tuple[int | None, ...], ...]
    out_of_memory: frozenset[tuple[int, int]]


def heat_map_metrics(results: StudyResults) -> list[Goal]:
    """Return the objectives, and samples/s where it was measured."""
    metrics = [GOALS[name] for name in results.objectives]
    speeds = [speed for record in results.records if (speed := numeric_value(record, "samples_per_s")) is not None]
    if speeds and "samples_per_s" not in results.objectives:
        metrics.append(replace(GOALS["samples_per_s"], digits=1 if max(speeds) < 100 else 0))
    return metrics


def heat_maps(results: StudyResults, metric: Goal) -> list[HeatMap]:
    """Return the maps of a metric, full precision and no checkpointing first; all with the same rows and columns."""
    shown = {record.number for record in feasible(results.records)}
    if metric.name == MEMORY:
        # The probe measures it, so no training is needed.
        shown |= {record.number for record in results.records if record.outcome in ("probed", "stopped_early", "diverged")}
    records = [record for record in results.records if record.number in shown or record.outcome == "out_of_memory"]
    batches = tuple(sorted({record.params[BATCH] for record in records}))
    accumulations = tuple(sorted({_accumulation(record.params) for record in records}))
    facets = sorted({_facet(record.params) for record in records})
    maps = []
    for facet in facets:
        best: dict[tuple[int, int], TrialRecord] = {}
        exhausted = set()
        for record in records:
            if _facet(record.params) != facet:
                continue
            cell = (accumulations.index(_accumulation(record.params)), batches.index(record.params[BATCH]))
            if record.outcome == "out_of_memory":
                exhausted.add(cell)
            elif (value := numeric_value(record, metric.name)) is not None:
                current = numeric_value(best[cell], metric.name) if cell in best else None
                if current is None or metric.better(value, current):
                    best[cell] = record
        cells = [[best.get((row, column)) for column in range(len(batches))] for row in range(len(accumulations))]
        maps.append(
            HeatMap(
                facet=facet[2],
                batches=batches,
                accumulations=accumulations,
                values=tuple(tuple(None if one is None else numeric_value(one, metric.name) for one in row) for row in cells),
                trials=tuple(tuple(None if one is None else one.number for one in row) for row in cells),
                out_of_memory=frozenset(exhausted - best.keys()),
            )
        )
    return maps


def heat_map_figure(maps: Sequence[HeatMap], metric: Goal) -> Any:
    """Draw all maps in one figure, each under the name of its facet; it fits any height."""
    from plotly.subplots import make_subplots

    num_columns = 1 if len(maps) == 1 else 2 if len(maps) <= 4 else 3
    num_rows = -(-len(maps) // num_columns)
    figure = make_subplots(
        rows=num_rows,
        cols=num_columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[plot_text(one.facet) for one in maps],
        horizontal_spacing=0.04,
        vertical_spacing=0.14,
    )
    for position, one in enumerate(maps):
        row, column = position // num_columns + 1, position % num_columns + 1
        is_lowest = position + num_columns >= len(maps)
        for trace in _traces(one, metric, maps, has_bar=position == 0):
            figure.add_trace(trace, row=row, col=column)
        figure.update_yaxes(_category_axis("accumulation" if column == 1 else "", one.accumulations), row=row, col=column)
        figure.update_xaxes(_category_axis("batch size" if is_lowest else "", one.batches), row=row, col=column)
    return figure.update_layout(layout(showlegend=False)).update_annotations(font={"size": 13})


def single_heat_map_figure(one: HeatMap, metric: Goal, maps: Sequence[HeatMap]) -> Any:
    """Draw one map alone, in the colours that it shares with `maps`."""
    import plotly.graph_objects as go

    figure = go.Figure(_traces(one, metric, maps, has_bar=False), layout=layout(showlegend=False))
    figure.update_xaxes(_category_axis("batch size", one.batches))
    figure.update_yaxes(_category_axis("accumulation", one.accumulations))
    return figure.update_layout(height=96 + 38 * len(one.accumulations), margin={"l": 52, "r": 8, "t": 8, "b": 48})


def _traces(one: HeatMap, metric: Goal, maps: Sequence[HeatMap], *, has_bar: bool) -> list[Any]:
    """Return the cells of a map in the colours that `maps` share, and the marks of cells that ran out of memory."""
    import plotly.graph_objects as go

    facet, heading = plot_text(one.facet), plot_text(metric.heading)
    known = [value for other in maps for row in other.values for value in row if value is not None]
    batches, accumulations = [str(batch) for batch in one.batches], [str(steps) for steps in one.accumulations]
    texts = [["" if value is None else metric.show(value) for value in row] for row in one.values]
    hovers = [
        [
            "" if number is None else f"trial {number}<br>{batches[column]} x {accumulations[row]}, {facet}<br>"
            f"{heading}: {texts[row][column]}"
            for column, number in enumerate(numbers)
        ]
        for row, numbers in enumerate(one.trials)
    ]  # fmt: skip
    cells = go.Heatmap(
        x=batches,
        y=accumulations,
        z=one.values,
        zmin=min(near(known), default=0.0),
        zmax=max(near(known), default=1.0),
        text=texts,
        texttemplate="%{text}",
        hovertext=hovers,
        hoverinfo="text",
        hoverongaps=False,
        colorscale=SEQUENTIAL,
        reversescale=metric.direction == "minimize",
        xgap=2,
        ygap=2,
        showscale=has_bar,
        colorbar={"title": {"text": heading, "side": "right"}, "thickness": 12, "outlinewidth": 0, "nticks": 6},
    )
    exhausted = sorted(one.out_of_memory)
    marks = go.Scatter(
        x=[batches[column] for _, column in exhausted],
        y=[accumulations[row] for row, _ in exhausted],
        mode="text",
        text=[OUT_OF_MEMORY_MARK] * len(exhausted),
        textfont={"color": VERMILLION, "size": 12},
        hovertext=[f"{batches[column]} x {accumulations[row]}, {facet}<br>out of memory" for row, column in exhausted],
        hoverinfo="text",
    )
    return [cells, marks]


def _category_axis(title: str, values: Sequence[int]) -> dict[str, Any]:
    names = [str(value) for value in values]
    # The range is set, because cells that are all empty would take no room.
    return axis(
        title,
        type="category",
        categoryorder="array",
        categoryarray=names,
        range=[-0.5, len(names) - 0.5],
        showgrid=False,
        ticks="",
        showline=False,
    )


def _accumulation(params: Mapping[str, Any]) -> int:
    return int(params.get(ACCUMULATION, 1))


def _facet(params: Mapping[str, Any]) -> tuple[int, bool, str]:
    """Return the precision and checkpointing of a heat map as a sort key, full precision and none first, and its name."""
    precision, checkpointing = params.get("precision", "fp32"), bool(params.get("gradient_checkpointing", False))
    order = ("fp32", "bf16", "fp16")
    position = order.index(precision) if precision in order else len(order)
    return position, checkpointing, f"{precision}, checkpointing" if checkpointing else str(precision)

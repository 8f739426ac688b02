"""The plots of a study, from its results: for optuna-dashboard, and for anyone who has plotly.

They are figures of plotly without a title, which a plot has beside it, so that each place sets it in its own type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS, learned_names, learning_curve
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.plot_style import BLUE, axis, baseline_line, layout, near_range, plot_text
from tradeoff.studies.reporting.trade_off_plots import group, pair_figure
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.hypervolume import hypervolume_over_cost
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import capitalized, short_configuration

# The dark four fifths of Viridis: thin lines in its yellow can't be seen on white.
_LINE_COLORS = ((68, 1, 84), (62, 74, 137), (38, 130, 142), (53, 183, 121), (165, 197, 0))


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure with its words.

    Attributes:
        name: Letters and hyphens, fit for a file's name or the id of a page's element.
        title: A title.
        figure: A `plotly.graph_objects.Figure`.
    """

    name: str
    title: str
    figure: Any


def study_plots(results: StudyResults) -> list[Plot]:
    """Return every plot for which the study has data, the trade-off first; none while nothing completed."""
    return [*trade_off_plots(results, judged_front(results)), *search_plots(results)]


def trade_off_plots(results: StudyResults, front: JudgedFront) -> list[Plot]:
    """Return a plot of every two objectives; none for an empty front."""
    if not front.records:
        return []
    found, groups = [], group(results, front)
    for y, x in combinations(results.objectives, 2):
        found.append(
            Plot(
                name=f"{y}-over-{x}".replace("_", "-"),
                title=capitalized(f"{GOALS[y].label} over {GOALS[x].label}"),
                figure=pair_figure(results, groups, y, x),
            )
        )
    return found


def search_plots(results: StudyResults) -> list[Plot]:
    """Return the plots of the search itself: learning curves, and the hypervolume over the time spent."""
    found = []
    curves = curve_figure(results.records, results.baselines, results.baseline_name)
    if curves is not None:
        metric = _curve_metric(results.records)
        found.append(
            Plot(
                name="curves",
                title=capitalized(f"{GOALS[metric].label} over samples, by effective batch size"),
                figure=curves,
            )
        )
    if steps := hypervolume_over_cost(results.records, results.objectives):
        found.append(
            Plot(
                name="hypervolume",
                title="Hypervolume over the time spent on trials",
                figure=hypervolume_figure(steps),
            )
        )
    return found


def curve_figure(records: Sequence[TrialRecord], baselines: Mapping[str, float], baseline_name: str = "") -> Any:
    """Draw the evaluations of each training over the samples that it had seen, and the baseline under its name.

    Returns:
        A `plotly.graph_objects.Figure`; None if no training has any evaluation.
    """
    import plotly.graph_objects as go

    metric = _curve_metric(records)
    trained = [record for record in records if _curve(record, metric) and not record.is_published]
    if not trained:
        return None
    sizes = sorted({_effective_batch(record) for record in trained})
    figure = go.Figure(layout=layout(margin={"l": 64, "r": 8, "t": 16, "b": 52}))
    for record in sorted(trained, key=_effective_batch):
        size, points = _effective_batch(record), _curve(record, metric)
        configuration = plot_text(short_configuration(record.params))
        is_first = not any(trace.legendgroup == str(size) for trace in figure.data)
        color = _line_color(sizes.index(size), len(sizes))
        figure.add_scatter(
            x=[samples for samples, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            line={"color": color, "width": 1.5},
            marker={"size": 5},
            name=f"{size}",
            legendgroup=str(size),
            showlegend=is_first,
            hovertemplate=f"trial {record.number}: {configuration}<br>%{{x:,}} samples: %{{y:.6g}}<extra></extra>",
        )
    if (baseline := baselines.get(metric)) is not None:
        baseline_line(figure, metric, baseline, baseline_name)
        # A line alone would not widen the axis.
        figure.add_scatter(x=[0], y=[baseline], mode="markers", marker={"opacity": 0}, hoverinfo="skip", showlegend=False)
    figure.update_xaxes(axis("training samples", tickformat=",", rangemode="tozero"))
    values = [value for record in trained for _, value in _curve(record, metric)]
    figure.update_yaxes(axis(GOALS[metric].heading, **near_range([*values, *([] if baseline is None else [baseline])])))
    # Beside the plot: on a phone, a row above it would be too narrow for the names.
    legend = {"title": {"text": "effective<br>batch"}, "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    return figure.update_layout(legend=legend | {"orientation": "v"})


def hypervolume_figure(steps: Sequence[tuple[float, float]]) -> Any:
    """Draw the hypervolume as a staircase over the time that trials took, from the points of `hypervolume_over_cost`."""
    import plotly.graph_objects as go

    unit, seconds = _time_unit(steps[-1][0])
    figure = go.Figure(layout=layout(showlegend=False))
    figure.add_scatter(
        x=[spent_s / seconds for spent_s, _ in steps],
        y=[share for _, share in steps],
        mode="lines",
        line={"shape": "hv", "color": BLUE, "width": 2},
        fill="tozeroy",
        fillcolor="rgba(0, 114, 178, 0.08)",
        hovertemplate=f"%{{x:.1f}} {unit}: %{{y:.1%}}<extra></extra>",
    )
    figure.update_xaxes(axis(f"time spent on trials ({unit})", rangemode="tozero"))
    figure.update_yaxes(axis("hypervolume (share of the box)", range=[0, 1], tickformat=".0%"))
    return figure


def _curve_metric(records: Sequence[TrialRecord]) -> str:
    """Return the metric of the curves: the first learned objective, else accuracy, else the evaluation loss."""
    objectives = next((tuple(record.values) for record in records if record.values), ())
    names = (*learned_names(objectives), "accuracy")
    return next((name for name in names if any(_curve(record, name) for record in records)), "eval_loss")


def _curve(record: TrialRecord, metric: str) -> list[tuple[int, float]]:
    return learning_curve(record.attributes.get("training") or {}, metric)


def _line_color(position: int, count: int) -> str:
    """Return the colour of one of `count` lines, between the nearest two of the scale."""
    place = position * (len(_LINE_COLORS) - 1) / max(1, count - 1)
    below = min(int(place), len(_LINE_COLORS) - 2)
    pairs = zip(_LINE_COLORS[below], _LINE_COLORS[below + 1], strict=True)
    return f"rgb({', '.join(str(round(a + (b - a) * (place - below))) for a, b in pairs)})"


def _effective_batch(record: TrialRecord) -> int:
    return int(numeric_value(record, "effective_batch_size") or 0)


def _time_unit(longest_s: float) -> tuple[str, float]:
    return ("s", 1.0) if longest_s < 180 else ("min", 60.0) if longest_s < 3 * 3600 else ("h", 3600.0)

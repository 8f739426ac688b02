import dataclasses
import json

import optuna
import pytest
from memory_storage import in_memory
from stored_studies import TRIALS, completed, make_study, out_of_memory, params, record

from tradeoff.studies.reporting.plots import curve_figure, study_plots, trade_off_plots
from tradeoff.studies.reporting.trade_off_plots import MARKED, group, pair_figure
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.hypervolume import hypervolume_over_cost
from tradeoff.studies.results.results import StudyResults, read_results


def results_of(*trials: optuna.trial.FrozenTrial, objectives: tuple[str, ...] | None = None) -> StudyResults:
    storage = in_memory()
    study = make_study(storage, trials, **({} if objectives is None else {"objectives": objectives}))
    return read_results(study)


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return results_of(*TRIALS)


def plots_of(results: StudyResults):
    return trade_off_plots(results, judged_front(results))


def trace(figure, name):
    return next(one for one in figure.data if one.name == name)


def curve(*accuracies):
    return [{"num_samples": 100 * (epoch + 1), "accuracy": value} for epoch, value in enumerate(accuracies)]


def test_a_plot_of_two_objectives_tells_the_front_from_what_is_dominated(results):
    figure = pair_figure(results, group(results, judged_front(results)), "accuracy", "train_time_s")
    assert sorted(trace(figure, "Pareto front").x) == [10.0, 20.0, 40.0, 50.0]
    assert (trace(figure, "dominated").x, trace(figure, "dominated").y) == ((21.0,), (0.78,))
    assert figure.layout.xaxis.title.text == "training time (s)"
    assert figure.layout.yaxis.title.text == "accuracy"


def test_a_trial_out_of_memory_stands_beyond_the_limit_and_below_every_accuracy(results):
    figure = pair_figure(results, group(results, judged_front(results)), "accuracy", "peak_memory_mib")
    over = trace(figure, "out of memory")
    assert over.x == (3012.0,)  # the limit of 2,500, and the shortfall of 512
    assert over.y[0] < 0.6
    line = figure.layout.shapes[0]
    assert (line.x0, line.x1) == (2500, 2500)


def test_what_needs_far_too_much_memory_is_drawn_a_little_beyond_the_rest():
    far = results_of(completed((0.8, 40.0, 2400.0), params(8)), out_of_memory(params(64), shortfall_mib=90_000.0))
    over = trace(pair_figure(far, group(far, judged_front(far)), "accuracy", "peak_memory_mib"), "out of memory")
    assert over.x == (3250.0,)  # 1.3 times the limit
    assert "short of 90,000 MiB or more" in over.hovertext[0]


def test_without_memory_among_its_axes_a_plot_draws_no_limit(results):
    figure = pair_figure(results, group(results, judged_front(results)), "accuracy", "train_time_s")
    assert not figure.layout.shapes
    assert "out of memory" not in {one.name for one in figure.data}


def test_on_a_gpu_without_a_limit_it_is_its_memory(results):
    card = StudyResults(
        name="a",
        objectives=results.objectives,
        records=results.records,
        config={"limits": {"peak_memory_mib": None}},
        device={"kind": "cuda", "name": "A card", "total_memory_mib": 7611.0},
        versions={},
        tradeoff_version="0.1.0",
        storage="sqlite:///a.db",
    )
    assert pair_figure(card, group(card, judged_front(card)), "accuracy", "peak_memory_mib").layout.shapes[0].x0 == 7611.0


def test_two_objectives_make_one_plot():
    shown = plots_of(results_of(completed((0.8, 40.0), params(8)), objectives=("accuracy", "train_time_s")))
    assert [plot.name for plot in shown] == ["accuracy-over-train-time-s"]


def test_three_objectives_make_a_plot_of_every_two(results):
    assert [plot.name for plot in plots_of(results)] == [
        "accuracy-over-train-time-s",
        "accuracy-over-peak-memory-mib",
        "train-time-s-over-peak-memory-mib",
    ]


def test_a_study_in_which_nothing_completed_has_no_plots():
    assert study_plots(results_of(out_of_memory(params(64)))) == []
    assert study_plots(results_of()) == []


def test_every_plot_is_plain_json_that_older_versions_of_plotly_read(results):
    for plot in study_plots(results):
        text = plot.figure.to_json()
        assert "bdata" not in text, plot.name  # packed arrays, which plotly.js reads from 2.35 on
        assert json.loads(text)["data"], plot.name


def test_values_that_differ_by_orders_of_magnitude_are_drawn_on_a_logarithmic_axis():
    wide = results_of(completed((0.5, 1.0, 100.0), params(8)), completed((0.6, 100.0, 200.0), params(16)))
    figure = pair_figure(wide, group(wide, judged_front(wide)), "train_time_s", "peak_memory_mib")
    assert (figure.layout.yaxis.type, figure.layout.xaxis.type) == ("log", "linear")


def test_curves_share_a_colour_and_a_name_by_effective_batch():
    records = [
        record(0, (0.8, 1.0, 1.0), params(8), training={"curve": curve(0.5, 0.8)}),
        record(1, (0.8, 1.0, 1.0), params(4, 2), training={"curve": curve(0.4, 0.7)}),
        record(2, (0.8, 1.0, 1.0), params(16), training={"curve": curve(0.3, 0.6)}),
        record(3, (0.8, 1.0, 1.0), params(32), derived_from=0),
    ]
    figure = curve_figure(records, {})
    assert [one.name for one in figure.data] == ["8", "8", "16"]
    assert figure.data[0].line.color == figure.data[1].line.color != figure.data[2].line.color
    assert (figure.data[0].x, figure.data[0].y) == ((100, 200), (0.5, 0.8))


def test_a_job_without_accuracy_shows_its_evaluation_loss():
    records = [record(0, (0.8, 1.0, 1.0), params(8), training={"curve": [{"num_samples": 100, "eval_loss": 1.5}]})]
    assert curve_figure(records, {}).layout.yaxis.title.text == "evaluation loss"
    assert curve_figure([record(0, (0.8, 1.0, 1.0), params(8))], {}) is None


def test_the_hypervolume_grows_with_each_better_trial_and_counts_what_failures_cost():
    # Scaled to the best and the worst: (0, 1) and (1, 0), with the reference point at (1.1, 1.1).
    first = record(0, (0.8, 20.0), params(8), trial_time_s=30.0)
    second = record(2, (0.6, 10.0), params(16), trial_time_s=5.0)
    steps = hypervolume_over_cost([first, _failed(1, 10.0), second, _failed(3, 7.0)], ("accuracy", "train_time_s"))
    assert [cost for cost, _ in steps] == [0.0, 30.0, 45.0, 52.0]
    # Alone 1.1 x 0.1; both together less what they share, 0.1 x 0.1; of a box of 1.1 x 1.1.
    assert [share for _, share in steps] == pytest.approx([0.0, 0.11 / 1.21, 0.21 / 1.21, 0.21 / 1.21])


def test_there_is_no_hypervolume_before_anything_completed():
    assert hypervolume_over_cost([_failed(0, 3.0)], ("accuracy", "train_time_s")) == []


def _failed(number, trial_time_s):
    from tradeoff.objectives.measurements.records import TrialRecord

    return TrialRecord(number=number, outcome="failed", params=params(8), attributes={"trial_time_s": trial_time_s})


def test_no_text_of_a_study_becomes_markup_in_a_plot(results):
    """Plotly takes tags in titles and under the pointer for markup."""
    text = "<b>x</b>"
    training = {"curve": curve(0.5, 0.7)}
    trial = dataclasses.replace(
        record(9, (0.9, 5.0, 450.0), params(2) | {"precision": text}, training=training), sources={"accuracy": text}
    )
    over = dataclasses.replace(results.records[5], params=params(64) | {"precision": text})
    changed = dataclasses.replace(results, records=(*results.records, trial, over))
    # Plotly's own JSON escapes the letters of tags.
    plots = {plot.name: json.dumps(json.loads(plot.figure.to_json())) for plot in study_plots(changed)}
    escaped = {name for name, shown in plots.items() if "&lt;b&gt;" in shown}
    assert escaped >= {"curves", "accuracy-over-train-time-s"}
    assert [name for name, shown in plots.items() if text in shown] == []


def with_baseline(*trials, accuracy: float) -> StudyResults:
    return dataclasses.replace(results_of(*trials), baselines={"accuracy": accuracy})


def test_a_constant_answer_is_a_labelled_line_within_the_axes_of_every_plot_of_what_is_learned():
    found = with_baseline(completed((0.8, 40.0, 900.0), params(8), training={"curve": curve(0.5, 0.8)}), accuracy=0.42)
    plots = {plot.name: plot for plot in study_plots(found)}
    for name in ("accuracy-over-train-time-s", "accuracy-over-peak-memory-mib", "curves"):
        figure = plots[name].figure
        assert [line.y0 for line in figure.layout.shapes if line.y0 == line.y1] == [0.42], name
        assert "constant answer 0.420" in [note.text for note in figure.layout.annotations], name
        assert 0.42 in [y for one in figure.data for y in one.y], name
    assert not plots["train-time-s-over-peak-memory-mib"].figure.layout.annotations[0].text.startswith("constant")


def test_a_constant_answer_is_upright_where_the_metric_is_on_the_lower_axis():
    found = with_baseline(*TRIALS, accuracy=0.42)
    figure = pair_figure(found, group(found, judged_front(found)), "train_time_s", "accuracy")
    assert [line.x0 for line in figure.layout.shapes if line.x0 == line.x1] == [0.42]


def test_a_row_that_is_no_better_than_a_constant_answer_is_drawn_apart_and_is_not_the_knee():
    found = with_baseline(*TRIALS, accuracy=0.75)
    figure = pair_figure(found, group(found, judged_front(found)), "accuracy", "train_time_s")
    assert sorted(trace(figure, MARKED).y) == [0.60, 0.70]
    assert sorted(trace(figure, "Pareto front").y) == [0.79, 0.80]
    assert trace(figure, "knee").y[0] in (0.79, 0.80)


def test_a_front_with_nothing_better_than_a_constant_answer_has_plots_without_a_knee():
    found = with_baseline(*TRIALS, accuracy=0.9)
    figure = pair_figure(found, group(found, judged_front(found)), "accuracy", "train_time_s")
    assert (list(trace(figure, "knee").y), list(trace(figure, "Pareto front").y)) == ([], [])


def test_values_whose_spread_is_known_have_error_bars_in_both_directions():
    found = results_of(completed((0.8, 40.0, 900.0), params(8), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5))
    figure = pair_figure(found, group(found, judged_front(found)), "accuracy", "train_time_s")
    front = trace(figure, "Pareto front")
    assert (list(front.error_y.array), list(front.error_x.array)) == ([0.02], [1.5])
    assert "training time 40.00 ± 1.50 s" in front.hovertext[0]
    assert (
        trace(pair_figure(found, group(found, judged_front(found)), "accuracy", "train_time_s"), "knee").error_x.array is None
    )


def test_a_value_that_all_but_diverged_does_not_make_the_rest_look_alike() -> None:
    losses = (1.4, 1.2, 1.3, 1.5, 1e20)
    trials = [completed((loss, 10.0 + loss, 900.0 - number), params(2**number)) for number, loss in enumerate(losses)]
    results = results_of(*trials, objectives=("eval_loss", "train_time_s", "peak_memory_mib"))
    plots = {plot.name: plot for plot in study_plots(results)}
    low, high = plots["eval-loss-over-train-time-s"].figure.layout.yaxis.range
    assert 1.0 < low < 1.2
    assert 1.5 < high < 2
    assert judged_front(results).knee.number == 1

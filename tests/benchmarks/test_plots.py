import json
from pathlib import Path

import plots
import pytest
from stored_studies import TRIALS, completed, make_study, params

from tradeoff.studies.results.results import BASELINES
from tradeoff.studies.storage.opening import open_storage


def stored(folder: Path, accuracy: float) -> str:
    url = str(folder / "a.db")
    spread = completed((0.85, 60.0, 950.0), params(2), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5)
    make_study(open_storage(url), (*TRIALS, spread)).set_user_attr(BASELINES, {"accuracy": accuracy})
    return url


def test_the_plot_of_the_readme_has_the_constant_answer_the_marks_and_the_errors(tmp_path: Path) -> None:
    figure = plots.front_plot(stored(tmp_path, 0.75), "stars")
    assert [shape.y0 for shape in figure.layout.shapes if shape.y0 == shape.y1] == [0.75, 0.75]
    assert "constant answer 0.750" in [note.text for note in figure.layout.annotations]
    by_name = {trace.name: trace for trace in figure.data[:4]}
    assert sorted(by_name[plots.MARKED].y) == [0.60, 0.70]
    front = by_name["Pareto front"]
    assert max(front.y) == 0.85
    assert front.error_y.array[front.y.index(0.85)] == 0.02
    assert front.error_x.array[front.y.index(0.85)] == 1.5


def test_a_study_with_nothing_better_than_a_constant_answer_gets_no_plot(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no configuration is clearly better than a constant answer"):
        plots.front_plot(stored(tmp_path, 0.95), "stars")


def test_each_table_has_a_panel_with_every_method_and_its_band(tmp_path):
    curve = [[3600.0, 0.5], [7200.0, 0.9]]
    methods = {"decoupled": [curve, [[1800.0, 0.4], [3600.0, 1.0]]], "random": [curve, curve]}
    (tmp_path / "curves.json").write_text(json.dumps({"a": methods, "b": methods}))
    figure = plots.fronts_plot(tmp_path / "curves.json")
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [trace.name for trace in lines] == ["random", "decoupled"] * 2
    assert [trace.name for trace in lines if trace.showlegend] == ["random", "decoupled"]
    assert lines[1].y[-1] == pytest.approx(0.95)
    assert max(lines[0].y) == 0.9

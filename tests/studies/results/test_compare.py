"""Two trials or two studies side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from exported_studies import made_up
from stored_studies import OBJECTIVES, make_study, params, record
from typer.testing import CliRunner

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.cli import main as cli
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.compare import Comparison, Row, compare_studies, compare_trials
from tradeoff.studies.results.hypervolume import hypervolumes
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.storage.opening import open_storage


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return read_results(make_study(None))


def row(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.name == name)


def test_of_two_trials_only_the_parameters_that_differ_are_shown(results: StudyResults) -> None:
    found = [row.name for row in compare_trials(results, 0, 4).rows]
    assert found[:3] == ["per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"]
    assert "precision" not in found


def test_each_objective_has_its_difference_and_says_which_trial_is_better(results: StudyResults) -> None:
    comparison = compare_trials(results, 0, 2)
    accuracy, memory = row(comparison, "accuracy"), row(comparison, "peak_memory_mib")
    assert (accuracy.a, accuracy.b, accuracy.better) == (0.8, 0.7, "a")
    assert accuracy.difference == pytest.approx(-0.1)
    assert row(comparison, "train_time_s").better == "b"
    assert row(comparison, "train_time_s").ratio == pytest.approx(0.25)
    assert (memory.difference, memory.better) == (1100.0, "a")
    assert row(comparison, "effective_batch_size").difference == 24


def test_a_trial_that_dominates_the_other_is_named(results: StudyResults) -> None:
    assert "trial 1 is at least as good as trial 3 in every objective" in compare_trials(results, 1, 3).notes
    assert not any("at least as good" in note for note in compare_trials(results, 0, 1).notes)


def test_a_trial_out_of_memory_has_no_values_and_its_reason_below(results: StudyResults) -> None:
    comparison = compare_trials(results, 0, 5)
    assert row(comparison, "accuracy").b is None
    assert row(comparison, "accuracy").better is None
    assert "trial 5 is out of memory: out of memory in the probe" in comparison.notes


def test_a_missing_trial_is_the_users_to_fix(results: StudyResults) -> None:
    with pytest.raises(TradeoffError, match="has no trial 99"):
        compare_trials(results, 0, 99)


def fronts(*points: Sequence[tuple[float, float]]) -> list[list[TrialRecord]]:
    """Fronts of (training time, peak memory)."""
    return [[record(number, (0.5, *point)) for number, point in enumerate(front)] for front in points]


def test_the_hypervolume_is_a_share_of_the_box_around_both_fronts() -> None:
    # Scaled, the fronts are {(0, 1), (1, 0)} and {(0.5, 0.5)}; the box reaches to 1.1. The first covers two strips of
    # 1.1 x 0.1 that share 0.1 x 0.1, the second 0.6 x 0.6.
    found = hypervolumes(fronts([(10.0, 300.0), (20.0, 100.0)], [(15.0, 200.0)]), ["train_time_s", "peak_memory_mib"])
    assert found == [pytest.approx(0.21 / 1.21), pytest.approx(0.36 / 1.21)]


def test_an_empty_front_has_no_hypervolume_and_equal_ones_the_same() -> None:
    names = ["train_time_s", "peak_memory_mib"]
    assert hypervolumes(fronts([(10.0, 300.0)], []), names) == [pytest.approx(1.0), 0.0]
    one, other = hypervolumes(fronts([(10.0, 300.0)], [(10.0, 300.0)]), names)
    assert one == other


def test_two_studies_show_settings_that_differ_counts_best_values_and_fronts() -> None:
    good = made_up(record(0, (0.8, 10.0, 100.0), params(8)))
    poor = replace(
        made_up(record(0, (0.7, 20.0, 200.0), params(8)), record(1, (0.6, 15.0, 300.0), params(16))),
        name="moons",
        config={**good.config, "trials": 40},
    )
    comparison = compare_studies(good, poor)
    assert (row(comparison, "trials").a, row(comparison, "trials").b) == (None, 40)
    assert row(comparison, "completed").difference == 1
    assert (row(comparison, "front_size").a, row(comparison, "front_size").b) == (1, 2)
    assert (row(comparison, "best_train_time_s").b, row(comparison, "best_train_time_s").better) == (15.0, "a")
    assert row(comparison, "hypervolume").better == "a"
    assert row(comparison, "hypervolume").a == pytest.approx(1.0)
    assert any(note.startswith("2 of 2 on the front of moons are dominated by one of stars") for note in comparison.notes)
    assert any(note.startswith("0 of 1 on the front of stars are dominated by one of moons") for note in comparison.notes)
    assert not any("different devices" in note for note in comparison.notes)


def test_studies_of_different_devices_are_compared_with_a_warning() -> None:
    here = made_up(record(0, (0.8, 10.0, 100.0), params(8)))
    there = replace(here, device={"kind": "cuda", "name": "Another card"})
    comparison = compare_studies(here, there)
    assert row(comparison, "device").b == "Another card"
    assert "times and memory of different devices can't be compared" in comparison.notes


def test_a_study_with_nothing_completed_can_be_compared() -> None:
    comparison = compare_studies(made_up(), made_up(record(0, (0.8, 10.0, 100.0), params(8))))
    assert row(comparison, "hypervolume").a == 0.0
    assert row(comparison, "best_accuracy").a is None


def ask(tmp_path: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        cli.app, ["compare", *arguments, "--storage", str(tmp_path / "a.db")], catch_exceptions=False
    )  # fmt: skip
    assert done.exit_code == 0
    return done.stdout


def test_the_command_takes_two_numbers_for_trials_and_two_names_for_studies(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.db"))
    make_study(storage)
    make_study(storage, (), name="moons")
    trials = json.loads(ask(tmp_path, "0", "2", "--study", "stars", "--format", "json"))
    assert (trials["a"], trials["b"]) == ("trial 0", "trial 2")
    assert {"name": "peak_memory_mib", "a": 900.0, "b": 2000.0, "difference": 1100.0, "better": "a"} in trials["rows"]
    table = ask(tmp_path, "0", "2", "--study", "stars")
    assert "+1,100 (x 2.22)" in table
    studies = json.loads(ask(tmp_path, "stars", "moons", "--format", "json"))
    assert {entry["name"] for entry in studies["rows"]} >= {"hypervolume", "front_size", *(f"best_{x}" for x in OBJECTIVES)}
    for wrong, sentence in (
        (["0", "stars"], "two trials by number or two studies by name"),
        (["stars", "moons", "--study", "stars"], "--study is for two trials"),
        (["stars", "suns"], "no study 'suns'"),
    ):
        with pytest.raises(TradeoffError, match=sentence):
            ask(tmp_path, *wrong)

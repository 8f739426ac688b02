import dataclasses

import pytest
from memory_storage import in_memory
from stored_studies import make_study, params, record

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.markdown import code, code_block, markdown_table, plain
from tradeoff.studies.reporting.notes import study_note, trial_note
from tradeoff.studies.results.results import StudyResults, read_results


@pytest.fixture
def results() -> StudyResults:
    return read_results(make_study(in_memory()))


def test_the_note_of_a_completed_trial_has_its_values_and_where_they_come_from():
    derived = dataclasses.replace(
        record(3, (0.8, 40.0, 900.0), params(8, 2), derived_from=1),
        sources={"accuracy": "trained in trial 1", "train_time_s": "probe", "peak_memory_mib": "probe"},
    )
    note = trial_note(derived)
    assert note.startswith("### 8 x 2, fp32\n")
    assert "without a training of its own" in note
    assert "| accuracy | 0.800 | trained in trial 1 |" in note
    assert "| peak memory | 900 MiB | probe |" in note


def test_a_prediction_stands_beside_what_was_measured_with_its_error():
    measured = dataclasses.replace(
        record(0, (0.8, 40.0, 900.0), params(8), probe={"estimated_train_time_s": 42.0}, predicted_peak_memory_mib=891.0),
        sources={"train_time_s": "measured", "peak_memory_mib": "measured"},
    )
    note = trial_note(measured)
    assert "| training time | 40.00 s | 42.00 s (+5.0%) | measured |" in note
    assert "| peak memory | 900 MiB | 891 MiB (-1.0%) | measured |" in note


def test_a_time_that_comes_from_the_probe_is_not_its_own_prediction():
    derived = dataclasses.replace(
        record(0, (0.8, 40.0, 900.0), params(8), probe={"estimated_train_time_s": 40.0}), sources={"train_time_s": "probe"}
    )
    assert "predicted" not in trial_note(derived)


def test_the_four_memory_figures_are_told_apart_and_what_is_missing_is_left_out():
    figures = {"peak_allocated_mib": 700.0, "peak_reserved_mib": 800.0, "peak_device_mib": 1500.0}
    note = trial_note(record(0, (0.8, 40.0, 900.0), params(8), **figures))
    assert "| tensors in torch's CUDA allocator | 700 MiB |" in note
    assert "| what torch's CUDA allocator held, its cache included | 800 MiB |" in note
    assert "| what all processes held on the GPU | 1,500 MiB |" in note
    assert "| what the process held |" not in note


def test_the_note_of_a_trial_out_of_memory_says_where_why_and_by_how_much():
    over = TrialRecord(
        number=5,
        outcome="out_of_memory",
        params=params(64),
        stage="train",
        reason="can't allocate memory",
        attributes={"memory_shortfall_mib": 512.0, "requested_mib": 600.0, "free_mib": 88.0},
    )
    note = trial_note(over)
    assert "**Out of memory** in training: `can't allocate memory`" in note
    assert "It was short of at least 512 MiB; the allocation that failed asked for 600 MiB; free was 88 MiB." in note


def test_the_note_of_a_failed_trial_has_the_error_as_code():
    failed = TrialRecord(
        number=1, outcome="failed", params=params(8), stage="model", reason="no such model", attributes={"traceback": "a\n```b"}
    )
    assert "**Failed** while building the model: `no such model`" in trial_note(failed)
    assert "````\na\n```b\n````" in trial_note(failed)


def test_the_note_of_the_study_counts_outcomes_and_names_knee_and_extremes(results):
    note = study_note(results)
    assert "6 trials: 5 completed, 1 out of memory." in note
    assert "- **Knee**, the nearest to the best of everything at once: trial 1, 16 x 1, fp32: accuracy 0.790" in note
    assert "- **Lowest training time**: trial 2, 32 x 1, fp32" in note
    assert "- device: Test CPU, 8,192 MiB" in note
    assert "- memory limit: 2,500 MiB" in note
    assert "tradeoff export stars --storage InMemoryStorage --knee --output best" in note


def test_the_note_of_a_study_that_has_no_trial_yet_says_so():
    note = study_note(read_results(make_study(in_memory(), ())))
    assert "No trial yet." in note
    assert "tradeoff export" not in note


def test_a_name_can_not_become_markdown_or_html(results):
    note = study_note(dataclasses.replace(results, name="<img src=x onerror=alert(1)> *a*"))
    assert note.startswith("## &lt;img src=x onerror=alert(1)&gt; \\*a\\*\n")
    outside = note.split("```")[0::2]
    assert not any("<img" in part for part in outside)


def test_code_is_fenced_by_more_backquotes_than_it_holds():
    assert code("a\nb") == "`a b`"
    assert code("a `b`") == "`` a `b` ``"
    assert code_block("a") == "```\na\n```"


def test_a_cell_can_not_end_its_column():
    assert plain("a|b") == "a\\|b"
    assert plain("adamw_torch _a_ b__c") == r"adamw_torch \_a\_ b\_\_c"
    assert markdown_table(["x", "y"], [["1", "a|\nb"]]) == "| x | y |\n| :--- | :--- |\n| 1 | a\\| b |"
    assert (
        markdown_table(["x|", "y"], [["1", "2"]], num_left=0, is_last_left=False) == "| x\\| | y |\n| ---: | ---: |\n| 1 | 2 |"
    )
    assert markdown_table(["x", "y"], [["1", ""]], bold=0).endswith("\n| **1** |  |")


def test_the_note_of_a_trial_has_the_spread_of_its_values():
    note = trial_note(record(0, (0.8, 40.0, 900.0), params(8), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5))
    assert "| accuracy | 0.800 ± 0.020 |" in note
    assert "| training time | 40.00 ± 1.50 s |" in note


def test_the_note_of_a_study_with_nothing_better_than_a_constant_answer_warns_and_names_no_choice(results):
    note = study_note(dataclasses.replace(results, baselines={"accuracy": 0.9}))
    assert "**No configuration is clearly better than a constant answer (accuracy 0.900); what usually helps: " in note
    assert "a constant answer: accuracy 0.900" in note
    assert "Knee" not in note
    assert "tradeoff export" not in note

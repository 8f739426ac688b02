from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import Recorder
from simulated_runner import SimulatedRunner, SimulatedServer, decoupled, learned, new_study, objective, search, setup

import tradeoff.studies.workers.run
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Categorical, FloatRange, SearchSpace
from tradeoff.studies.cli.run import show_end
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.results.savings import Savings, prediction_errors, savings, stored_errors
from tradeoff.studies.workers.run import run_study

SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((8, 16)),
        "gradient_accumulation_steps": Categorical((1, 2)),
    }
)
JOB = TextClassificationJob(train_samples=64, epochs=1)


def record(outcome: Any, batch: int, accumulation: int = 1, **attributes: Any) -> TrialRecord:
    return TrialRecord(
        number=0,
        outcome=outcome,
        params={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation},
        attributes=attributes,
    )


def probe(micro_step_s: float) -> dict[str, Any]:
    return {"micro_step_time_s": micro_step_s, "optimizer_step_time_s": 0.0, "gradients_mib": 20.0}


PROBES = [
    record("probed", 8, probe=probe(1.0), peak_memory_mib=100.0, trial_time_s=3.0),
    record("probed", 16, probe=probe(2.0), peak_memory_mib=180.0, trial_time_s=3.0),
]
TRAINED = record("completed", 16, train_time_s=8.0, training={"eval_time_s": 2.0}, trial_time_s=12.0)
DERIVED = record("completed", 8, 2, derived_from=2, train_time_s=8.0, peak_memory_mib=120.0)
OUT_OF_MEMORY = record("out_of_memory", 16, 2, trial_time_s=5.0, memory_shortfall_mib=10.0)


def knowledge_of(records: list[TrialRecord], space: SearchSpace = SPACE) -> Knowledge:
    return Knowledge.of(records, setup(space, job=JOB, num_train=64, memory_limit_mib=190.0))


def savings_of(records: list[TrialRecord], space: SearchSpace = SPACE) -> Savings:
    return savings(records, knowledge_of(records, space))


def test_training_all_costs_what_fits_to_train_and_evaluate_and_the_rest_what_running_out_of_memory_cost() -> None:
    found = savings_of([*PROBES, TRAINED, DERIVED, OUT_OF_MEMORY])
    # Three configurations fit, each 64 samples in 8 s and 2 s of evaluation; the fourth runs out of memory after 5 s.
    assert found.all_s == pytest.approx(35)
    assert found.spent_s == pytest.approx(23)


def test_the_line_counts_configurations_by_what_was_done_and_is_an_estimate() -> None:
    line = str(savings_of([*PROBES, TRAINED, DERIVED, OUT_OF_MEMORY]))
    assert line == (
        "4 configurations: 2 probed, 1 trained, 1 derived, 1 out of memory; about 1.5 x cheaper than training all (estimate)"
    )


def test_a_configuration_that_was_derived_and_then_trained_counts_as_trained() -> None:
    found = savings_of([*PROBES, TRAINED, DERIVED, record("completed", 8, 2, train_time_s=8.0, training={"eval_time_s": 2.0})])
    assert (found.num_trained, found.num_derived) == (2, 0)


def test_what_is_predicted_to_exceed_the_budget_costs_nothing_where_nothing_has_run_out_of_memory() -> None:
    # 16 x 2 needs 180 MiB and 20 MiB of gradients, of a budget of 190.
    assert savings_of([*PROBES, TRAINED, DERIVED]).all_s == pytest.approx(30)


def test_nothing_is_estimated_before_every_configuration_is_known() -> None:
    line = str(savings_of([PROBES[0]]))
    assert line == "4 configurations: 1 probed, 0 trained, 0 derived, 0 out of memory"


def test_a_search_that_cost_more_than_it_saved_says_so() -> None:
    slow = record("failed", 8, trial_time_s=100.0)
    assert str(savings_of([*PROBES, TRAINED, OUT_OF_MEMORY, slow])).endswith("; no cheaper than training all (estimate)")


def test_a_learning_rate_out_of_a_range_is_left_out_of_the_count() -> None:
    space = SearchSpace(domains={**SPACE.domains, "learning_rate": FloatRange(1e-5, 1e-3)})
    trained = [
        TrialRecord(number=0, outcome="completed", params={**TRAINED.params, "learning_rate": rate}, attributes={})
        for rate in (1e-4, 2e-4)
    ]
    found = savings_of(trained, space)
    assert (found.num_configurations, found.num_trained) == (4, 1)
    # Of a range nobody trains all.
    assert str(replace(found, all_s=10.0, spent_s=5.0)) == (
        "4 configurations, each of any learning rate: 0 probed, 1 trained, 0 derived, 0 out of memory"
    )


def test_of_an_endless_space_the_line_says_no_more_than_what_was_looked_at() -> None:
    space = SearchSpace(domains={**SPACE.domains, "num_train_epochs": FloatRange(0.5, 3.0)})
    found = savings_of([*PROBES, TRAINED], space)
    assert str(found).startswith("at least 4,096 configurations: 2 probed, ")
    cheap = replace(found, spent_s=100.0, all_s=250.0)
    assert str(cheap).endswith("; at least 2.5 x cheaper than training all (estimate)")
    # What was not looked at costs something too.
    assert "cheaper" not in str(replace(cheap, all_s=90.0))


def test_predictions_that_were_stored_are_compared_with_what_the_trial_measured() -> None:
    records = [
        record("probed", 8, peak_memory_mib=100.0, predicted_peak_memory_mib=101.0),
        record("probed", 16, peak_memory_mib=200.0, predicted_peak_memory_mib=190.0),
        record("completed", 16, train_time_s=10.0, predicted_train_time_s=12.0),
    ]
    assert prediction_errors(records, knowledge_of(records)) == (
        "prediction errors: peak memory 3.0% median, 5.0% worst (2 trials); training time 20.0% median, 20.0% worst (1 trial)"
    )


def test_without_predictions_there_is_not_enough_to_tell() -> None:
    assert prediction_errors(PROBES, knowledge_of(PROBES)) == (
        "prediction errors: peak memory not known yet; training time not known yet"
    )


def test_a_derived_value_confirms_no_prediction() -> None:
    derived = record("completed", 8, derived_from=1, train_time_s=10.0, predicted_train_time_s=10.0)
    assert stored_errors([derived], "train_time_s") == []


def test_a_search_stores_what_it_predicted_beside_what_its_trials_measured() -> None:
    goal = objective(SimulatedRunner(), publishes_at_end=True)
    study = new_study(decoupled(goal))
    search(study, goal)
    records, knowledge = learned(goal, study)
    own = [record for record in records if record.outcome == "completed" and record.counts]
    assert own
    # The simulation's steps take exactly as long as its formula says.
    assert [record.attributes["predicted_train_time_s"] for record in own] == pytest.approx(
        [record.attributes["train_time_s"] for record in own]
    )
    # Before two batches have been measured there is no line to predict from.
    assert "predicted_peak_memory_mib" not in records[0].attributes
    assert "training time 0.0% median" in prediction_errors(records, knowledge)


def test_a_study_that_has_run_ends_with_both_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoff.studies.workers.run, "TrialServer", lambda: SimulatedServer(SimulatedRunner()))
    storage, display = f"sqlite:///{tmp_path}/a.db", Recorder()
    config = StudyConfig.model_validate(
        {"name": "lines", "job": JOB.model_dump(), "space": {"per_device_train_batch_size": [1, 2, 4]}, "trials": 8}
    )
    run_study(config, storage=storage)
    show_end("lines", storage, display)
    # Three batches, 1, 2 or 4 steps, with and without checkpointing, in three precisions.
    (counted,) = [line for line in display.messages if line.startswith("54 configurations: ")]
    assert counted.endswith(" x cheaper than training all (estimate)")
    assert any(line.startswith("prediction errors: peak memory ") for line in display.messages)

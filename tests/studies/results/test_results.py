import optuna
import pytest
from optuna.trial import TrialState, create_trial
from stored_studies import DISTRIBUTIONS, TRIALS, completed, make_study, out_of_memory, params

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.results import read_results


def test_a_study_is_read_back_as_it_was_stored() -> None:
    results = read_results(make_study(None))
    assert results.name == "stars"
    assert results.objectives == ("accuracy", "train_time_s", "peak_memory_mib")
    assert results.device["name"] == "Test CPU"
    assert results.config["job"]["seed"] == 7
    assert results.versions["torch"] == "2.13.0"
    assert results.tradeoff_version == "0.1.0"
    first = results.trial(0)
    assert first is not None
    assert first.values == {"accuracy": 0.80, "train_time_s": 40.0, "peak_memory_mib": 900.0}
    assert first.sources == {"accuracy": "measured", "train_time_s": "measured", "peak_memory_mib": "measured"}
    with pytest.raises(TradeoffError, match="has no trial 99"):
        results.trial(99)


def test_trials_are_counted_by_outcome_in_words() -> None:
    results = read_results(make_study(None))
    assert results.counts() == {"completed": 5, "out of memory": 1}
    assert results.summary() == "6 trials: 5 completed, 1 out of memory"
    assert read_results(make_study(None, ())).summary() == "no trial yet"


def test_a_trial_that_still_runs_is_counted_as_such() -> None:
    running = create_trial(state=TrialState.RUNNING, params=params(8), distributions=DISTRIBUTIONS)
    assert read_results(make_study(None, (running,))).summary() == "1 trial: 1 running or waiting"


def test_an_out_of_memory_trial_keeps_its_stage_and_reason_and_has_no_values() -> None:
    record = read_results(make_study(None, (out_of_memory(params(64), 300.0),))).records[0]
    assert (record.outcome, record.stage, record.reason) == ("out_of_memory", "probe", "out of memory in the probe")
    assert record.values == {}
    assert record.attributes["memory_shortfall_mib"] == 300.0


def test_a_completed_trial_over_a_limit_says_which_and_stays_off_the_front() -> None:
    study = make_study(None, TRIALS[:1])
    trial = completed((0.9, 1.0, 1.0), params(2))
    over = create_trial(
        values=trial.values, params=trial.params, distributions=DISTRIBUTIONS, user_attrs=trial.user_attrs,
        constraints={"memory_shortfall_mib": 12.0},
    )  # fmt: skip
    study.add_trial(over)
    results = read_results(study)
    assert results.records[1].attributes["violated"] == {"memory_shortfall_mib": 12.0}
    assert [record.number for record in pareto_front(results.records, results.objectives)] == [0]


def test_a_study_of_two_objectives_has_two_values_a_trial() -> None:
    study = make_study(None, (completed((0.8, 40.0), params(8)),), objectives=("accuracy", "train_time_s"))
    assert read_results(study).records[0].values == {"accuracy": 0.8, "train_time_s": 40.0}


def test_a_foreign_study_is_not_read() -> None:
    with pytest.raises(KeyError, match="config"):
        read_results(optuna.create_study())


INJECTED = 'measured\n    import os; os.system("touch hacked")\n    #'


@pytest.mark.parametrize(
    "source", [INJECTED, "measured ", "<b>", "trained in trial 1\u2028", "trained in trial ٣", "", 1, None, ["x"]]
)
def test_a_value_from_a_source_that_there_is_not_is_refused_in_a_sentence(source: object) -> None:
    trial = completed((0.80, 40.0, 900.0), params(8))
    trial.user_attrs = trial.user_attrs | {"sources": {"accuracy": source}}
    with pytest.raises(
        TradeoffError, match=r"^the study 'stars' in .* trial 0: (sources: accuracy: Input|accuracy_source must be measured,)"
    ) as refused:
        read_results(make_study(None, (trial,)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "source", ["probe", "model", "estimate", "trained in trial 12", "mean of trials 3 and 7", "mean of trials 3, 5 and 7"]
)
def test_every_source_that_a_search_writes_is_read(source: str) -> None:
    trial = completed((0.80, 40.0, 900.0), params(8), accuracy_source=source)
    assert read_results(make_study(None, (trial,))).records[0].sources["accuracy"] == source


def test_a_reason_is_one_line_whatever_code_has_raised_it() -> None:
    trial = create_trial(state=TrialState.FAIL, user_attrs={"outcome": "failed", "reason": "no\n  such\r\nlayer"})
    assert read_results(make_study(None, (trial,))).records[0].reason == "no such layer"

"""Four workers at once on one study: what each must know of the others."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from parallel_workers import num_out_of_memory, num_trainings, run_workers
from simulated_runner import OBJECTIVES

from tradeoff.objectives.measurements.records import read_record
from tradeoff.studies.storage.opening import open_storage

NUM_WORKERS = 4
NUM_TRIALS = 24
# A configuration may begin while the trial that speaks against it is being told; later it may not.
WHILE_TOLD_S = 0.5


@pytest.fixture(scope="module", params=["decoupled on PostgreSQL", "tpe on PostgreSQL", "random on SQLite"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    sampler, _, storage = request.param.split()
    folder = tmp_path_factory.mktemp(sampler)
    url = f"sqlite:///{folder}/a.db" if storage == "SQLite" else request.getfixturevalue("postgres").new_database()
    return run_workers(url, folder, num_workers=NUM_WORKERS, sampler=sampler, trials=NUM_TRIALS)


def test_the_study_ends_with_exactly_the_trials_that_were_asked_for(ran: SimpleNamespace) -> None:
    # The decoupled search may end by itself before, and never with more.
    counted = sum(read_record(trial, OBJECTIVES).counts for trial in ran.study.trials)
    assert counted == NUM_TRIALS or (counted < NUM_TRIALS and "tradeoff:plan" in ran.study.trials[0].system_attrs)


def test_no_trial_is_left_running(ran: SimpleNamespace) -> None:
    assert TrialState.RUNNING not in {trial.state for trial in ran.study.trials}


def test_every_worker_takes_part(ran: SimpleNamespace) -> None:
    assert {run.worker for run in ran.runs} == set(range(NUM_WORKERS))


def test_no_learning_class_is_trained_twice_with_the_same_seed(ran: SimpleNamespace) -> None:
    trained = num_trainings(ran.runs)
    assert trained
    assert trained.most_common(1)[0][1] == 1


def test_no_out_of_memory_is_paid_for_twice(ran: SimpleNamespace) -> None:
    needs = num_out_of_memory(ran.runs)
    assert needs
    assert needs.most_common(1)[0][1] == 1


def test_nothing_that_needs_as_much_is_run_once_an_out_of_memory_was_told(ran: SimpleNamespace) -> None:
    for trial in ran.study.trials:
        if trial.user_attrs.get("outcome") != "out_of_memory":
            continue
        needed = next(run.parameters for run in ran.runs if run.parameters.as_dict().items() >= trial.params.items())
        later = [run for run in ran.runs if run.begin_s > ran.told_s[trial.number] + WHILE_TOLD_S]
        assert not [run for run in later if run.parameters.needs_at_least_the_memory_of(needed)]


def test_two_workers_that_begin_at_once_leave_the_last_trial_to_one(tmp_path: Path) -> None:
    ran = run_workers(f"sqlite:///{tmp_path}/a.db", tmp_path, num_workers=3, sampler="random", trials=1)
    assert sum(read_record(trial, OBJECTIVES).counts for trial in ran.study.trials) == 1
    assert len(ran.runs) == 1
    assert len(open_storage(f"sqlite:///{tmp_path}/a.db").get_all_studies()) == 1

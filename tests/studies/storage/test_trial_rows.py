"""Trials read and written as rows: what Optuna itself reads and writes, in a few statements, on SQLite and PostgreSQL."""

import math
from collections import Counter
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from tradeoff.studies.execution.trial import run_trial
from tradeoff.studies.storage import trial_rows
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.retrying import PatientStorage

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> PatientStorage:
    is_file = request.param == "sqlite"
    return open_storage(f"sqlite:///{tmp_path}/a.db" if is_file else request.getfixturevalue("postgres_url"))


def as_plain(trials: list[FrozenTrial]) -> list[Any]:
    """Everything that a trial holds; a NaN, which is not even itself, by its name."""
    plain = []
    for trial in trials:
        steps = {step: "nan" if math.isnan(value) else value for step, value in trial.intermediate_values.items()}
        held = {name: value for name, value in vars(trial).items() if name != "intermediate_values"}
        plain.append((held, list(trial.params), steps))
    return plain


def with_trials_of_all_kinds(storage: RDBStorage) -> optuna.Study:
    study = optuna.create_study(study_name="kinds", storage=storage, directions=["maximize", "minimize"])
    distributions = {
        "z": FloatDistribution(1e-5, 1.0, log=True),
        "a": IntDistribution(1, 8),
        "m": CategoricalDistribution((False, True, "x", None)),
    }
    study.add_trial(
        create_trial(
            params={"z": 0.25, "a": 3, "m": "x"},
            distributions=distributions,
            values=[float("inf"), float("-inf")],
            user_attrs={"outcome": "completed", "é": [1, {"b": None}]},
            system_attrs={"plan": {"stages": []}},
            intermediate_values={3: 0.5, 1: float("nan"), 2: float("inf")},
        )
    )
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.ask().suggest_float("z", 1e-5, 1.0, log=True)
    study.enqueue_trial({"a": 2}, user_attrs={"retry_of": 0})
    other = optuna.create_study(study_name="other", storage=storage)
    other.add_trial(create_trial(value=1.0))
    return study


@pytest.mark.parametrize("states", [None, (TrialState.RUNNING, TrialState.WAITING)])
@pytest.mark.parametrize(("besides", "after"), [(set(), -1), (set(), 1), ({1}, 2), ({1, 4}, 3)])
def test_what_is_read_by_rows_is_what_optuna_reads(storage: PatientStorage, states: Any, besides: set[int], after: int) -> None:
    study_id = with_trials_of_all_kinds(storage)._study_id
    read = storage._get_trials(study_id, states, besides, after)
    assert as_plain(read) == as_plain(RDBStorage._get_trials(storage, study_id, states, besides, after))
    assert read
    for trial in read:
        assert as_plain([storage.get_trial(trial._trial_id)]) == as_plain([RDBStorage.get_trial(storage, trial._trial_id)])


def test_more_trials_than_a_list_may_hold_are_read_from_the_first_of_them_on(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = with_trials_of_all_kinds(storage)._study_id
    monkeypatch.setattr(trial_rows, "_MAX_IN_LIST", 1)
    assert [trial.number for trial in storage._get_trials(study_id, None, {2, 3}, 3)] == [1, 2, 3]


def test_a_trial_that_is_not_there_is_a_key_error(storage: PatientStorage) -> None:
    with pytest.raises(KeyError, match="no trial with id 77"):
        storage.get_trial(77)
    with pytest.raises(KeyError, match="no trial with id 77"):
        storage.set_trial_user_attr(77, "outcome", "completed")


def test_what_is_held_back_shows_to_its_worker_alone_until_the_trial_ends(storage: PatientStorage) -> None:
    study = optuna.create_study(storage=storage)
    elsewhere = PatientStorage(str(storage.url).replace("{", "{{"), place="elsewhere", heartbeat_interval=60)
    trial = study.ask()
    storage.hold(trial._trial_id)
    trial.set_user_attr("outcome", "out_of_memory")
    trial.set_constraint("memory_shortfall_mib", 3.0)
    assert storage.get_trial(trial._trial_id).user_attrs == {"outcome": "out_of_memory"}
    assert elsewhere.get_trial(trial._trial_id).user_attrs == {}
    study.tell(trial, state=TrialState.PRUNED)
    told = elsewhere.get_trial(trial._trial_id)
    assert (told.state, told.user_attrs, told.constraints) == (
        TrialState.PRUNED,
        {"outcome": "out_of_memory"},
        {"memory_shortfall_mib": 3.0},
    )


def test_parameters_that_are_held_back_are_written_all_or_none_and_fit_those_of_the_study(storage: PatientStorage) -> None:
    with_trials_of_all_kinds(storage)
    elsewhere = PatientStorage(str(storage.url).replace("{", "{{"), place="elsewhere", heartbeat_interval=60)
    trial = optuna.load_study(study_name="kinds", storage=elsewhere).ask()
    elsewhere.hold(trial._trial_id)
    trial.suggest_float("z", 1e-5, 1.0, log=True)
    trial.suggest_int("new", 1, 2)
    with pytest.raises(ValueError, match="distribution"):
        trial.suggest_categorical("a", [1, 2])
    assert storage.get_trial(trial._trial_id).params == {}
    elsewhere.write_held(trial._trial_id)
    assert storage.get_trial(trial._trial_id).params == trial.params
    assert list(trial.params) == ["z", "new"]


def test_a_trial_that_another_worker_has_ended_takes_nothing_that_was_held_back(storage: PatientStorage) -> None:
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    storage.hold(trial._trial_id)
    trial.set_user_attr("outcome", "completed")
    assert storage.give_up(trial._trial_id, {"outcome": "interrupted"}, None)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert study.trials[0].user_attrs == {"outcome": "interrupted"}


class Counted:
    """The statements and the transactions that wrote, of an engine."""

    def __init__(self, storage: PatientStorage) -> None:
        self.counts: Counter[str] = Counter()
        event.listen(storage.engine, "before_cursor_execute", self._statement)

    def _statement(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.counts["statements"] += 1
        self.counts["writes"] += not statement.startswith("SELECT")


def test_a_trial_costs_few_statements_however_much_it_measured(storage: PatientStorage) -> None:
    goal = simulated.objective(simulated.SimulatedRunner())
    study = simulated.new_study(simulated.decoupled(goal), storage=storage)
    for precision in ("fp32", "fp16"):
        study.enqueue_trial({"per_device_train_batch_size": 8, "gradient_checkpointing": True, "precision": precision})
    run_trial(study, study.ask(), goal)  # the first of a process compares the distributions
    trial = study.ask()
    counted = Counted(storage)
    run_trial(study, trial, goal)
    assert len(study.trials[1].user_attrs) > 5
    # Parameters; what was measured, values and state. On SQLite the state is locked by a statement that writes.
    assert counted.counts["writes"] <= 7
    assert counted.counts["statements"] <= 22
    assert goal.snapshot(study).records[1].outcome in ("probed", "completed")

"""A database that goes away, workers that vanish, and two that want the same: real servers, files and processes."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial
from postgres import PostgresServer
from running import poll

from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import RetryPolicy, StorageAwayError, StorageError
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_study import StoredStudy


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    postgres.start()


@pytest.fixture
def storage(postgres_url: str) -> RetryingStorage:
    return open_storage(postgres_url)


def new_study(storage: RetryingStorage) -> StoredStudy:
    optuna.create_study(study_name="away", storage=storage)
    return StoredStudy("away", storage)


def engine_of(storage: RetryingStorage) -> sqlalchemy.Engine:
    return storage.database.engine


def while_away(server: PostgresServer, operation: Callable[[], Any], said: list[str]) -> Any:
    """What the operation returns that is begun while the server is stopped: it has to wait until this one starts again."""
    server.stop()
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(operation)
        try:
            poll(lambda: said or future.done(), "the wait")
            assert not future.done()
        finally:
            # The server ends with the thread that starts it.
            server.start()
        return future.result(timeout=100)


def test_what_is_asked_while_the_database_is_away_is_done_when_it_is_back(
    server: PostgresServer, storage: RetryingStorage
) -> None:
    study, said = new_study(storage), []
    storage.retry = RetryPolicy(say=said.append)
    trial = while_away(server, study.ask, said)
    assert trial.number == 0
    assert len(said) == 2
    assert said[0].startswith(f"the storage postgresql+psycopg://tradeoff:***@127.0.0.1:{server.port}/")
    assert "does not answer" in said[0]
    assert server.password not in "".join(said)
    assert said[1].startswith("the storage answers again after")


def test_a_trial_is_told_after_the_database_was_away(server: PostgresServer, storage: RetryingStorage) -> None:
    study, said = new_study(storage), []
    storage.retry = RetryPolicy(say=said.append)
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)

    def tell() -> None:
        trial.set_user_attr("outcome", "completed")
        study.tell(trial, x)

    while_away(server, tell, said)
    (told,) = study.trials
    assert (told.state, told.value, told.params) == (TrialState.COMPLETE, x, {"x": x})


def test_without_patience_an_absent_database_is_one_sentence_without_the_password(
    server: PostgresServer, storage: RetryingStorage
) -> None:
    new_study(storage)
    server.stop()
    with pytest.raises(StorageError, match="does not answer") as caught:
        storage.get_all_studies()
    assert "\n" not in str(caught.value)
    assert server.password not in str(caught.value)


def test_a_database_that_is_away_is_an_error_at_once_to_who_opens_it_unless_others_have_it_open(
    server: PostgresServer, postgres_url: str
) -> None:
    new_study(open_storage(postgres_url))
    said: list[str] = []

    def open_in_the_middle_of_a_study() -> optuna.storages.BaseStorage:
        with pytest.raises(StorageAwayError, match="can't be opened"):
            open_storage(postgres_url)
        return open_storage(postgres_url, retry=RetryPolicy(say=said.append))

    opened = while_away(server, open_in_the_middle_of_a_study, said)
    assert len(opened.get_all_studies()) == 1
    waits, answers = said
    assert " can't be opened: " in waits
    assert waits.endswith(": waiting for it, nothing measured is lost")
    assert answers.startswith("the storage answers again after ")
    assert server.password not in "".join(said)


def test_the_user_can_end_a_wait(server: PostgresServer, storage: RetryingStorage) -> None:
    study = new_study(storage)
    said: list[str] = []
    storage.retry = RetryPolicy(say=said.append, stop=lambda: bool(said))
    server.stop()
    with pytest.raises(KeyboardInterrupt):
        study.ask()


def test_a_heartbeat_that_the_database_does_not_hear_is_left_out(server: PostgresServer, storage: RetryingStorage) -> None:
    trial_id = storage.create_new_trial(new_study(storage).study_id)
    server.stop()
    assert not storage.record_heartbeat(trial_id)
    server.start()
    assert storage.record_heartbeat(trial_id)


def test_a_connection_that_is_lost_while_trials_are_read_is_made_again(
    server: PostgresServer, storage: RetryingStorage
) -> None:
    import psycopg

    study, said = new_study(storage), []
    storage.retry = RetryPolicy(say=said.append)
    study.ask()
    cut = []

    def cut_off(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trial_values" in statement and not cut:
            cut.append(True)
            with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])

    sqlalchemy.event.listen(engine_of(storage), "before_cursor_execute", cut_off)
    assert [trial.number for trial in study.get_trials(deepcopy=False)] == [0]
    assert cut == [True]
    assert said[-1].startswith("the storage answers again")


def test_a_table_that_is_gone_is_not_waited_for(storage: RetryingStorage) -> None:
    study, said = new_study(storage), []
    storage.retry = RetryPolicy(say=said.append)
    with engine_of(storage).begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trials CASCADE"))
    with pytest.raises(StorageError, match="damaged"):
        study.ask()
    assert said == []


@pytest.fixture
def answers_are_lost(storage: RetryingStorage, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next commit succeed and its answer get lost, as when a server stops just then."""
    import psycopg

    dialect = engine_of(storage).dialect
    commit, lost = dialect.do_commit, [False]

    def commit_and_lose(connection: Any) -> None:
        commit(connection)
        if lost[0]:
            lost[0] = False
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", commit_and_lose)

    def lose() -> None:
        lost[0] = True

    return lose


def test_a_study_whose_creation_was_not_confirmed_is_created_once(
    storage: RetryingStorage, answers_are_lost: Callable[[], None]
) -> None:
    storage.retry = RetryPolicy(say=lambda _: None)
    for name in ("away", None):
        answers_are_lost()
        study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], name)
        assert storage.get_all_studies()[-1].study_name == storage.get_study_name_from_id(study_id)
    assert len(storage.get_all_studies()) == 2
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "away")


def test_a_trial_whose_creation_was_not_confirmed_is_created_once(
    storage: RetryingStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    storage.retry = RetryPolicy(say=lambda _: None)
    answers_are_lost()
    trial = study.ask()
    assert [(t.number, t._trial_id, t.state) for t in study.trials] == [(0, trial._trial_id, TrialState.RUNNING)]


def test_a_parameter_whose_writing_was_not_confirmed_is_written_once(
    storage: RetryingStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    storage.retry = RetryPolicy(say=lambda _: None)
    trial = study.ask()
    answers_are_lost()
    x = trial.suggest_float("x", 0, 1)
    assert study.trials[0].params == {"x": x}


def test_a_trial_whose_end_was_not_confirmed_is_told_once(
    storage: RetryingStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    storage.retry = RetryPolicy(say=lambda _: None)
    trial = study.ask()
    answers_are_lost()
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    assert [(t.state, t.values) for t in study.trials] == [(TrialState.COMPLETE, [0.5])]


def test_a_waiting_trial_that_was_taken_without_confirmation_is_ours(
    storage: RetryingStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    storage.retry = RetryPolicy(say=lambda _: None)
    study.enqueue_trial({"x": 0.5})
    answers_are_lost()
    assert study.ask().number == 0
    assert Owner.read(study.trials[0].system_attrs[OWNER_ATTRIBUTE]) == Owner.here()
    assert study.ask().number == 1


def test_a_waiting_trial_that_another_worker_took_meanwhile_is_not_ours(
    storage: RetryingStorage, postgres_url: str, server: PostgresServer
) -> None:
    study, said = new_study(storage), []
    study.enqueue_trial({"x": 0.5})
    other = open_storage(postgres_url, retry=RetryPolicy(say=lambda _: None))
    trial_id = study.trial_id(0)
    taken = []

    def say(line: str) -> None:
        said.append(line)
        if not taken:
            server.start()
            taken.append(other.set_trial_state_values(trial_id, TrialState.RUNNING))

    storage.retry = RetryPolicy(say=say)
    server.stop()
    assert not storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert taken == [True]


def test_a_trial_that_another_worker_has_ended_can_not_be_told(storage: RetryingStorage) -> None:
    trial = new_study(storage).ask()
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def test_of_several_workers_one_takes_a_waiting_trial(url: str) -> None:
    study = new_study(open_storage(url))
    for _ in range(20):
        study.add_trial(create_trial(state=TrialState.WAITING))
    taken: list[int] = []
    start = threading.Barrier(3)

    def take_all() -> None:
        worker = optuna.load_study(study_name="away", storage=open_storage(url))
        start.wait()
        while (trial_id := worker._pop_waiting_trial_id()) is not None:
            taken.append(trial_id)

    threads = [threading.Thread(target=take_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [trial._trial_id for trial in study.trials]

"""A database that goes away, workers that vanish, and two that want the same: real servers, files and processes."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from postgres import PostgresServer
from running import poll
from sqlalchemy.orm import Session

from tradeoff.studies.storage import retrying as patient_storage
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import Patience, StorageAwayError, StorageError
from tradeoff.studies.storage.retrying import PatientStorage, be_patient

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    postgres.start()


@pytest.fixture
def storage(postgres_url: str) -> PatientStorage:
    return open_storage(postgres_url)


def new_study(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(study_name="away", storage=storage)


def own(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return trial.system_attrs[OWNER_ATTRIBUTE]


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
    server: PostgresServer, storage: PatientStorage
) -> None:
    study, said = new_study(storage), []
    be_patient(storage, say=said.append)
    trial = while_away(server, study.ask, said)
    assert trial.number == 0
    assert len(said) == 2
    assert said[0].startswith(f"the storage postgresql+psycopg://tradeoff:***@127.0.0.1:{server.port}/")
    assert "does not answer" in said[0]
    assert server.password not in "".join(said)
    assert said[1].startswith("the storage answers again after")


def test_a_trial_is_told_after_the_database_was_away(server: PostgresServer, storage: PatientStorage) -> None:
    study, said = new_study(storage), []
    be_patient(storage, say=said.append)
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)

    def tell() -> None:
        trial.set_user_attr("outcome", "completed")
        study.tell(trial, x)

    while_away(server, tell, said)
    (told,) = study.trials
    assert (told.state, told.value, told.params) == (TrialState.COMPLETE, x, {"x": x})


def test_without_patience_an_absent_database_is_one_sentence_without_the_password(
    server: PostgresServer, storage: PatientStorage
) -> None:
    new_study(storage)
    server.stop()
    for ask in (storage.get_all_studies, storage.get_current_version):
        with pytest.raises(StorageError, match="does not answer") as caught:
            ask()
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
        return open_storage(postgres_url, patience=Patience(say=said.append, stop=lambda: False))

    opened = while_away(server, open_in_the_middle_of_a_study, said)
    assert len(opened.get_all_studies()) == 1
    waits, answers = said
    assert " can't be opened: " in waits
    assert waits.endswith(": waiting for it")
    assert answers.startswith("the storage answers after ")
    assert server.password not in "".join(said)


def test_the_user_can_end_a_wait(server: PostgresServer, storage: PatientStorage) -> None:
    study = new_study(storage)
    said: list[str] = []
    be_patient(storage, say=said.append, stop=lambda: bool(said))
    server.stop()
    with pytest.raises(KeyboardInterrupt):
        study.ask()


def test_a_heartbeat_that_the_database_does_not_hear_is_left_out(server: PostgresServer, storage: PatientStorage) -> None:
    trial_id = storage.create_new_trial(new_study(storage)._study_id)
    server.stop()
    storage.record_heartbeat(trial_id)
    server.start()
    storage.record_heartbeat(trial_id)


def test_a_connection_that_is_lost_while_trials_are_read_is_made_again(server: PostgresServer, storage: PatientStorage) -> None:
    import psycopg

    study, said = new_study(storage), []
    be_patient(storage, say=said.append)
    study.ask()
    cut = []

    def cut_off(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trial_values" in statement and not cut:
            cut.append(True)
            with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", cut_off)
    assert [trial.number for trial in study.get_trials(deepcopy=False)] == [0]
    assert cut == [True]
    assert said[-1].startswith("the storage answers again")


def test_an_error_of_ours_is_not_waited_for(storage: PatientStorage) -> None:
    study, said = new_study(storage), []
    be_patient(storage, say=said.append)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trials CASCADE"))
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.ask()
    assert said == []


@pytest.fixture
def answers_are_lost(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next commit succeed and its answer get lost, as when a server stops just then."""
    commit = Session.commit
    lost = [False]

    def commit_and_lose(session: Session) -> None:
        commit(session)
        if lost[0]:
            lost[0] = False
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(Session, "commit", commit_and_lose)

    def lose() -> None:
        lost[0] = True

    return lose


def test_a_trial_whose_making_was_not_confirmed_is_made_once(
    storage: PatientStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    be_patient(storage, say=lambda _: None)
    answers_are_lost()
    trial = study.ask()
    assert [(t.number, t._trial_id, t.state) for t in study.trials] == [(0, trial._trial_id, TrialState.RUNNING)]


def test_a_trial_whose_end_was_not_confirmed_is_told_once(
    storage: PatientStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    be_patient(storage, say=lambda _: None)
    trial = study.ask()
    answers_are_lost()
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    assert [(t.state, t.values) for t in study.trials] == [(TrialState.COMPLETE, [0.5])]


def test_a_waiting_trial_that_was_taken_without_confirmation_is_ours(
    storage: PatientStorage, answers_are_lost: Callable[[], None]
) -> None:
    study = new_study(storage)
    be_patient(storage, say=lambda _: None)
    study.enqueue_trial({"x": 0.5})
    answers_are_lost()
    assert study.ask().number == 0
    assert study.ask().number == 1


def test_a_trial_that_another_worker_has_ended_can_not_be_told(storage: PatientStorage) -> None:
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


DYING_WORKER = """
import os, signal, sys
import optuna
from tradeoff.studies.storage.opening import open_storage

study = optuna.load_study(study_name="away", storage=open_storage(sys.argv[1]))
study._storage.create_new_trial(study._study_id)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trial_of_a_worker_that_was_killed_on_this_machine_is_stale_at_once(url: str) -> None:
    storage = open_storage(url)
    study = new_study(storage)
    alive = study.ask()
    subprocess.run([sys.executable, "-c", DYING_WORKER, url], check=False, timeout=200)
    assert storage._get_stale_trial_ids(study._study_id) == [alive._trial_id + 1]


def test_a_silent_worker_of_another_machine_is_given_time_to_be_heard(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(storage)
    trial_id = study.ask()._trial_id
    elsewhere = {**Owner.here().as_dict(), "boot": "another", "mark": "m"}
    storage.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, elsewhere)
    storage.heartbeat_interval, storage.grace_period = 1, 1
    monkeypatch.setattr(patient_storage, "_RECONNECT_S", 0.2)
    assert storage._get_stale_trial_ids(study._study_id) == []
    begin_s = time.monotonic()
    assert poll(lambda: storage._get_stale_trial_ids(study._study_id), "the trial to be stale") == [trial_id]
    assert time.monotonic() - begin_s >= 1.2  # silent for more than an interval, and looked at again after another one


def test_a_silent_worker_that_is_heard_again_is_not_stale(storage: PatientStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(storage)
    trial_id = study.ask()._trial_id
    storage.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, {**Owner.here().as_dict(), "boot": "another", "mark": "m"})
    storage.heartbeat_interval, storage.grace_period = 1, 1
    monkeypatch.setattr(patient_storage, "_RECONNECT_S", 0.2)
    poll(lambda: storage._get_stale_trial_ids(study._study_id) or storage._first_seen_stale, "the silence")
    storage.record_heartbeat(trial_id)
    assert storage._get_stale_trial_ids(study._study_id) == []
    assert storage._first_seen_stale == {}


def test_a_trial_that_is_given_up_ends_with_its_reason_and_its_successor_waits(url: str) -> None:
    storage = open_storage(url)
    study = new_study(storage)
    trial = study.ask()
    successor = create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 0})
    assert storage.give_up(trial._trial_id, {"reason": "gone"}, successor)
    assert not storage.give_up(trial._trial_id, {"reason": "gone twice"}, successor)
    assert [(t.number, t.state, t.user_attrs) for t in study.trials] == [
        (0, TrialState.FAIL, {"reason": "gone"}),
        (1, TrialState.WAITING, {"retry_of": 0}),
    ]


def test_an_owner_is_known_again_after_a_round_trip_through_json() -> None:
    owner = Owner.here()
    assert Owner.read(json.loads(json.dumps(owner.as_dict()))) == owner
    assert owner.is_gone() is False


def test_a_process_that_has_ended_is_gone_and_one_elsewhere_is_not_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = Owner.here()
    began = here.began
    assert began is not None
    ended = Owner(host=here.host, boot=here.boot, namespace=here.namespace, pid=process.pid, began=began + 10**9)
    assert ended.is_gone() is True  # the id is in use, by another process
    process.communicate()
    assert Owner.read({**ended.as_dict(), "began": began}).is_gone() is True
    assert Owner.read({**here.as_dict(), "namespace": "pid:[1]"}).is_gone() is None
    assert Owner.read({**here.as_dict(), "boot": "another"}).is_gone() is None
    assert Owner.read({**here.as_dict(), "boot": "another"}).is_gone(one_machine=True) is True

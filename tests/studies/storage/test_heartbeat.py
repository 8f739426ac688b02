"""Workers that fall silent: killed on this machine, elsewhere, or while the database is away."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from running import poll

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage import heartbeat as heartbeats
from tradeoff.studies.storage.heartbeat import Heartbeat, SilenceWatch
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import HEARTBEAT_ATTRIBUTE, OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.stored_study import StoredStudy

ELSEWHERE = {**Owner.here().as_dict(), "boot": "another"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def study(postgres_url: str) -> StoredStudy:
    return new_study(postgres_url)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats a second apart, and a silence that is noticed soon."""
    monkeypatch.setenv("TRADEOFF_HEARTBEAT_S", "1")
    monkeypatch.setattr(heartbeats, "GRACE_INTERVALS", 1)
    monkeypatch.setattr(heartbeats, "_RECONNECT_S", 0.5)


def new_study(url: str) -> StoredStudy:
    storage = open_storage(url, retry=RetryPolicy(say=lambda _: None))
    optuna.create_study(study_name="silent", storage=storage)
    return StoredStudy("silent", storage)


def lost_in(study: StoredStudy) -> Callable[[], list[int]]:
    watch = SilenceWatch(study)
    return lambda: [trial.number for trial in watch.lost(study.get_trials(states=(TrialState.RUNNING,)))]


def ask_elsewhere(study: StoredStudy) -> int:
    """Begins a trial of a worker of which nothing is known here, and returns its id."""
    trial_id = study.trial_id(study.ask().number)
    study.storage.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, ELSEWHERE)
    return trial_id


DYING_WORKER = """
import os, signal, sys
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.stored_study import StoredStudy

StoredStudy("silent", open_storage(sys.argv[1], retry=RetryPolicy(say=print))).ask()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trial_of_a_worker_that_was_killed_on_this_machine_is_lost_at_once(url: str) -> None:
    study = new_study(url)
    study.ask()
    subprocess.run([sys.executable, "-c", DYING_WORKER, url], check=False, timeout=200)
    assert lost_in(study)() == [1]


@pytest.mark.usefixtures("quick")
def test_a_silent_worker_of_another_machine_is_given_time_to_be_heard(study: StoredStudy) -> None:
    ask_elsewhere(study)
    lost, begin_s = lost_in(study), time.monotonic()
    assert lost() == []
    assert poll(lost, "the trial to be lost") == [0]
    assert time.monotonic() - begin_s >= 1.5


@pytest.mark.usefixtures("quick")
def test_a_worker_that_is_heard_is_not_lost(study: StoredStudy) -> None:
    trial_id, lost = ask_elsewhere(study), lost_in(study)
    end_s = time.monotonic() + 3
    with Heartbeat(study, trial_id):
        while time.monotonic() < end_s:
            assert lost() == []
            time.sleep(0.1)
    assert poll(lost, "the trial to be lost") == [0]


@pytest.mark.usefixtures("quick")
def test_a_time_in_which_the_database_was_away_does_not_count_as_silence(study: StoredStudy) -> None:
    ask_elsewhere(study)
    lost = lost_in(study)
    assert lost() == []
    time.sleep(1.6)
    study.storage.answers_since_s = time.monotonic()  # as after an outage
    assert lost() == []
    assert poll(lost, "the trial to be lost") == [0]


@pytest.mark.usefixtures("quick")
def test_a_trial_of_a_program_that_leaves_no_name_is_left_alone_unless_it_was_queued(study: StoredStudy) -> None:
    study.storage.retry = None  # nor signs its trials
    study.enqueue_trial({"x": 1})
    for _ in range(2):
        study.ask()
    assert poll(lost_in(study), "a lost trial") == [0]


@pytest.mark.usefixtures("quick")
def test_a_beat_for_a_trial_that_has_ended_ends_the_heartbeat(study: StoredStudy) -> None:
    trial_id = study.trial_id(study.ask().number)
    with Heartbeat(study, trial_id) as heartbeat:
        poll(lambda: HEARTBEAT_ATTRIBUTE in study.storage.get_trial(trial_id).system_attrs, "a beat")
        study.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        poll(lambda: not heartbeat._thread.is_alive(), "the thread's end")


def test_who_was_not_heard_claims_the_trial_before_its_outcome_is_stored(
    study: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_id = study.trial_id(study.ask().number)
    locked = []
    lock = study.storage.lock
    monkeypatch.setattr(study.storage, "lock", lambda name: (locked.append(name), lock(name))[1])
    with Heartbeat(study, trial_id) as heartbeat:
        heartbeat.claim()
        assert locked == []
        heartbeat._heard_s -= 1000
        heartbeat.claim()
        assert locked == ["silent"]
    study.storage.set_trial_state_values(trial_id, TrialState.FAIL)
    with Heartbeat(study, trial_id) as heartbeat:
        heartbeat._heard_s -= 1000
        with pytest.raises(UpdateFinishedTrialError):
            heartbeat.claim()


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


@pytest.mark.parametrize("text", ["nan", "0", "-1", "1e3", "", "86401", "9" * 5000])
def test_an_interval_that_no_worker_can_keep_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRADEOFF_HEARTBEAT_S", text)
    with pytest.raises(TradeoffError, match="must be a whole number of seconds, at least 1 and at most 86,400, got"):
        heartbeats.heartbeat_interval_s()

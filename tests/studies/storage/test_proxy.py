"""Studies through a real gRPC proxy."""

import gc
import socket
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import simulated_runner as simulated
from grpc_proxy import Proxy
from optuna.trial import TrialState
from parallel_workers import num_out_of_memory, num_trainings, run_workers
from postgres import PostgresServer
from running import poll
from simulated_worker import Worker, small_study
from stored_studies import make_study
from typer.testing import CliRunner

from tradeoff.objectives.measurements.records import read_record
from tradeoff.objectives.objective import TrialDeferred
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.cli import front
from tradeoff.studies.cli.main import app, main
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.recovery import LOST_WORKER
from tradeoff.studies.storage import grpc_proxy, locks
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.retry_policy import StorageAwayError

NUM_TRIALS = 8


@pytest.fixture(scope="module", params=["decoupled", "random"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> SimpleNamespace:
    """A study of two workers behind a proxy over PostgreSQL."""
    folder = tmp_path_factory.mktemp(request.param)
    with Proxy(postgres.new_database()) as proxy:
        proxy.wait()
        ran = run_workers(proxy.url, folder, num_workers=2, sampler=request.param, trials=NUM_TRIALS)
        return SimpleNamespace(trials=ran.study.trials, runs=ran.runs, sampler=request.param)


def test_a_study_behind_a_proxy_ends_with_exactly_the_trials_that_were_asked_for(ran: SimpleNamespace) -> None:
    counted = sum(read_record(trial, simulated.OBJECTIVES).counts for trial in ran.trials)
    # The decoupled search may end by itself before, and never with more.
    assert counted == NUM_TRIALS or (counted < NUM_TRIALS and ran.sampler == "decoupled")
    assert TrialState.RUNNING not in {trial.state for trial in ran.trials}
    assert {run.worker for run in ran.runs} == {0, 1}


def test_behind_a_proxy_nothing_is_paid_for_twice(ran: SimpleNamespace) -> None:
    classes = num_trainings(ran.runs)
    assert classes
    assert classes.most_common(1)[0][1] == 1
    assert set(num_out_of_memory(ran.runs).values()) <= {1}


def test_a_front_is_read_through_a_proxy(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/a.db"
    make_study(open_storage(database))
    with Proxy(database) as proxy:
        proxy.wait()
        through = CliRunner().invoke(app, ["front", "--storage", proxy.url, "--format", "json"])
    directly = CliRunner().invoke(app, ["front", "--storage", database, "--format", "json"])
    assert directly.exit_code == through.exit_code == 0, through.output
    assert through.output == directly.output


@pytest.mark.parametrize(("url", "is_warned"), [("grpc://192.0.2.1:9", True), ("grpc://host.example:9", True),
                                                ("grpc://127.0.0.1:9", False), ("grpc://[::1]:9", False)])  # fmt: skip
@pytest.mark.parametrize("form", ["option", "file", "environment"])
def test_a_proxy_that_is_not_on_this_machine_is_warned_of_wherever_it_is_named(
    url: str, is_warned: bool, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url").write_text(url)
    if form == "environment":
        monkeypatch.setenv("TRADEOFF_STORAGE", url)
    named = {"option": ["--storage", url], "file": ["--storage", f"@{tmp_path}/url"], "environment": []}[form]
    monkeypatch.setattr(sys, "argv", ["tradeoff", "front", *named])
    monkeypatch.setattr(front, "results_of", lambda *_: (_ for _ in ()).throw(TradeoffError("not asked")))
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "tradeoff: not asked"
    assert [f"tradeoff: {url} is not on this machine" in line for line in lines[:-1]] == [True] * is_warned


def test_a_killed_worker_is_noticed_on_its_machine_and_a_proxy_that_stops_is_waited_for(tmp_path: Path) -> None:
    config = small_study()
    with Proxy(f"sqlite:///{tmp_path}/a.db") as proxy:
        proxy.wait()
        killed = Worker(proxy.url, config, tmp_path, hold=True)
        poll(lambda: killed.has_begun, "the first trial")
        killed.kill()
        worker = Worker(proxy.url, config, tmp_path, hold=True)
        poll(lambda: worker.has_begun, "a trial of the second worker")
        proxy.stop()
        worker.release()
        poll(lambda: worker.untold, "an outcome that is kept")
        proxy.start()
        output = worker.end()
        study = load_study(config.name, open_storage(proxy.url))
        trials = study.trials
    (lost,) = [trial for trial in trials if LOST_WORKER in trial.user_attrs]
    assert lost.state == TrialState.FAIL
    assert [trial.params for trial in trials if trial.user_attrs.get("retry_of") == lost.number] == [lost.params]
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == config.trials
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert "waiting for it, nothing measured is lost" in output
    assert "the storage answers again after" in output


def test_a_proxy_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grpc_proxy, "OPEN_LIMIT_S", 0.6)
    monkeypatch.setattr(gc, "disable", lambda: None)
    # It takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(sys, "argv", ["tradeoff", "front", "--storage", url])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"tradeoff: no gRPC proxy answers at {url} within 1 s: start one")


def test_what_the_proxy_can_not_do_is_one_sentence_and_so_is_one_that_is_gone(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    make_study(open_storage(str(database)))
    with Proxy(f"sqlite:///{database}") as proxy:
        proxy.wait()
        storage = open_storage(proxy.url)
        assert storage.get_all_studies()
        with sqlite3.connect(database) as connection:
            connection.execute("DROP TABLE studies")
        with pytest.raises(TradeoffError, match=f"the gRPC proxy {proxy.url} does not answer as it should: Exception"):
            storage.get_all_studies()
        proxy.stop()
        with pytest.raises(StorageAwayError, match=f"the gRPC proxy {proxy.url} does not answer: "):
            storage.get_all_studies()


def test_the_lock_of_a_holder_that_is_gone_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make_study(open_storage(str(tmp_path / "a.db"))).storage.inner
    monkeypatch.setattr(locks, "MAX_HELD_S", 0.5)
    gone, begin_s = locks.study_as_lock(storage, "stars"), time.monotonic()
    gone.__enter__()
    with locks.study_as_lock(storage, "stars"):
        assert time.monotonic() - begin_s >= 0.5
        # What it leaves behind is not the other one's lock.
        gone.__exit__(None, None, None)
    assert [study.study_name for study in storage.get_all_studies()] == ["stars"]


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tradeoff.studies.storage.grpc_proxy")
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(TradeoffError, match=r"the Python packages grpcio and protobuf, .* pip install 'tradeoff\[grpc\]'"):
        open_storage("grpc://127.0.0.1:13000")


def test_a_memory_that_another_worker_probes_is_not_probed_beside_it() -> None:
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=0))
    deferred: list[TrialDeferred] = []

    def ask(batch: int, accumulation: int) -> optuna.Trial:
        configuration = TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
        study.enqueue_trial(simulated.SPACE.stored(configuration), user_attrs={"retry_of": 0})
        return study.ask()

    def beside(_: TrialParameters, stages: tuple[str, ...]) -> None:
        if stages == ("probe",):
            with pytest.raises(TrialDeferred, match="measures its memory") as put_off:
                simulated.objective(simulated.SimulatedRunner())(ask(4, 4))
            deferred.append(put_off.value)

    goal = simulated.objective(simulated.SimulatedRunner(instead=beside))
    simulated.tell(study, ask(8, 1), goal)
    probed = ask(4, 2)  # of the class that was trained
    simulated.tell(study, probed, goal)
    assert [one.until for one in deferred] == [probed.number]

"""A database, or a study in it, that is taken away while the study runs, and a database that can only be read."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
import sqlalchemy
from grpc_proxy import Proxy
from optuna.trial import TrialState
from simulated_worker import small_study
from stored_studies import make_study

from tradeoff.studies.cli.main import app
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.retry_policy import StorageError, StudyGoneError
from tradeoff.studies.workers import run as runner


class Said(Display):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, line: str) -> None:
        self.lines.append(line)


def run(url: str, monkeypatch: pytest.MonkeyPatch, *, at_third: Callable[[], object] = lambda: None) -> list[str]:
    """Runs a study of four trials, and does something while the third one runs."""

    class Interrupted(simulated.SimulatedRunner):
        def run_trial(self, request: Mapping[str, Any], **arguments: Any) -> Any:
            if len(self.trained) == 2:
                at_third()
            return super().run_trial(request, **arguments)

    display = Said()
    monkeypatch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(Interrupted()))
    try:
        runner.run_study(small_study(), storage=url, display=display)
    except TradeoffError as error:
        display.lines.append(str(error))
        raise
    return display.lines


def remove(path: Path) -> None:
    for each in path.parent.glob("studies.db*"):
        each.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    make_study(open_storage(str(other)))
    other.replace(path)


def remove_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("change", [remove, move, replace, remove_directory])
def test_a_file_that_is_taken_away_ends_the_study_and_what_it_held_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    artifacts, path = tmp_path / "artifacts", tmp_path / "folder" / "studies.db"
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(artifacts))
    path.parent.mkdir()
    with pytest.raises(StorageError, match=r"was (deleted or moved|replaced by another file) while it was in use; everything"):
        run(str(path), monkeypatch, at_third=lambda: change(path))
    (copy,) = path.parent.glob("studies.db.rescued-*")
    assert len(list(artifacts.glob("pending-outcomes/*.json"))) == 1
    copy.rename(path)
    states = [trial.state for trial in optuna.load_study(study_name="small", storage=f"sqlite:///{path}").trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]


def test_a_copy_of_a_file_that_was_deleted_is_resumed_with_the_outcome_that_it_had_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "studies.db"
    url = f"sqlite:///{path}"
    with pytest.raises(StorageError):
        run(url, monkeypatch, at_third=lambda: remove(path))
    (copy,) = tmp_path.glob("studies.db.rescued-*")
    copy.rename(path)
    # As the next process: the outcome's own is this one.
    monkeypatch.setattr("tradeoff.studies.storage.owner.Owner.is_gone", lambda *_, **__: True)
    said = run(url, monkeypatch)
    assert [line for line in said if line.startswith("trial 2: recorded what process")]
    trials = load_study("small", open_storage(url)).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4


@pytest.fixture(params=["sqlite", "postgres", "grpc"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgres":
        yield request.getfixturevalue("postgres_url")
        return
    file = f"sqlite:///{tmp_path / 'studies.db'}"
    if request.param == "sqlite":
        yield file
        return
    with Proxy(file) as proxy:
        proxy.wait()
        yield proxy.url


def test_a_study_that_is_deleted_while_it_runs_ends_in_a_sentence(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(tmp_path / "artifacts"))

    def delete() -> None:
        storage = open_storage(url)
        storage.delete_study(storage.get_study_id_from_name("small"))

    with pytest.raises(StudyGoneError, match=r"^the study is no longer in the storage .*: it was deleted, .*; rerun"):
        run(url, monkeypatch, at_third=delete)
    assert list(tmp_path.glob("artifacts/pending-outcomes/*.json")) == []


def test_another_study_of_the_name_takes_no_outcome_of_one_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"

    def create_anew() -> None:
        storage = open_storage(url)
        directions = storage.get_study_directions(study_id := storage.get_study_id_from_name("small"))
        attributes = storage.get_study_user_attrs(study_id)
        storage.delete_study(study_id)
        study = optuna.create_study(study_name="small", storage=url, directions=directions)
        for name, value in attributes.items():
            study.set_user_attr(name, value)
        for _ in range(3):
            study.ask()

    with pytest.raises(StudyGoneError):
        run(url, monkeypatch, at_third=create_anew)
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [(trial.state, trial.user_attrs) for trial in trials] == [(TrialState.RUNNING, {})] * 3


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A study on a file system that can only be read."""
    folder, seen = tmp_path / "folder", tmp_path / "seen"
    folder.mkdir()
    seen.mkdir()
    make_study(open_storage(str(folder / "first.db"))).storage.inner.remove_session()
    with sqlalchemy.create_engine(f"sqlite:///{folder}/first.db").connect() as connection:
        connection.execute(sqlalchemy.text("VACUUM INTO :path"), {"path": str(folder / "whole.db")})
    for options in (["--bind", str(folder), str(seen)], ["-o", "remount,ro,bind", str(seen)]):
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no directory can be mounted here: {mounted.stderr.strip()}")
    yield seen / "whole.db"
    subprocess.run(["umount", "--lazy", str(seen)], check=True)


def test_a_file_that_can_only_be_read_is_read(read_only: Path, tmp_path: Path) -> None:
    for command in (
        ["front"],
        ["report", "--output", str(tmp_path / "report.html")],
        ["export", "--no-confirm", "--output", str(tmp_path / "best")],
        ["compare", "0", "1"],
    ):
        app([*command, "--storage", str(read_only)], standalone_mode=False)
    assert (tmp_path / "best" / "train.py").exists()


@pytest.mark.parametrize("command", [["worker", "stars"], ["run"]])
def test_nothing_is_started_on_a_file_that_can_only_be_read(read_only: Path, command: list[str]) -> None:
    with pytest.raises(TradeoffError, match=r"can't be (written|opened): .*(readonly|unable to open)"):
        app([*command, "--storage", str(read_only)], standalone_mode=False)


def test_who_may_only_read_reads_a_server_and_starts_nothing_there(postgres_url: str) -> None:
    make_study(open_storage(postgres_url))
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        role = f"reader_{os.getpid()}"
        connection.execute(sqlalchemy.text(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'"))
        connection.execute(sqlalchemy.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    url = engine.url.set(username=role, password="pw", drivername="postgresql").render_as_string(hide_password=False)
    app(["front", "--storage", url], standalone_mode=False)
    with pytest.raises(StorageError, match=r"can't be written: permission denied for table studies"):
        app(["worker", "--storage", url], standalone_mode=False)

"""Streams that can't be written, and a command where something is missing: the real command, in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from running import Recorder
from simulated_worker import small_study
from stored_studies import make_study

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.preparation import cache_folder
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.workers import run as runner

COMMAND = [sys.executable, "-m", "tradeoff"]
FULL = "tradeoff: the output can't be written: No space left on device; direct it elsewhere"
# A `tradeoff run` whose trials are formulas.
SIMULATED = """
import sys
import simulated_runner as simulated
from tradeoff.studies.cli.main import main
from tradeoff.studies.workers import run
run.TrialServer = lambda: simulated.SimulatedServer(simulated.SimulatedRunner())
sys.argv[0] = "tradeoff"
main()
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stored") / "a.db"
    make_study(open_storage(f"sqlite:///{path}"))
    return f"sqlite:///{path}"


def ended(
    *arguments: str, stdout: Any = subprocess.PIPE, close: tuple[int, ...] = (), command: list[str] = COMMAND, **changes: Any
) -> tuple[int, str]:
    """The exit status and the error stream; `close` are descriptors that the command does not have."""

    def prepare() -> None:
        for descriptor in close:
            os.close(descriptor)
        if changes.get("deleted"):
            os.rmdir(os.getcwd())

    variables = changes.get("variables", {})
    helpers = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [*command, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300, preexec_fn=prepare,
        cwd=changes.get("cwd"), env={**os.environ, **helpers, **variables},
    )  # fmt: skip
    return done.returncode, done.stderr


def gone_reader() -> int:
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("arguments", [("front",), ("--help",)])
def test_output_to_a_full_disk_is_one_sentence(arguments: tuple[str, ...], storage: str) -> None:
    with Path("/dev/full").open("w") as full:
        status, said = ended(*arguments, stdout=full, variables={"TRADEOFF_STORAGE": storage})
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(FULL)


def test_a_reader_that_has_read_enough_ends_the_command_without_a_word(storage: str) -> None:
    write = gone_reader()
    assert ended("front", "--format", "json", "--storage", storage, stdout=write) == (1, "")
    os.close(write)


def test_streams_that_are_closed_are_no_database_and_no_error(storage: str) -> None:
    assert ended("front", "--storage", storage, close=(0, 1)) == (0, "")


def test_a_name_that_the_encoding_lacks_is_shown_by_its_number(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    make_study(open_storage(url), name="sterne-★")
    variables = {"PYTHONIOENCODING": "ascii", "COLUMNS": "1"}
    assert ended("front", "--storage", url, variables=variables) == (0, "")


def test_a_working_directory_that_was_deleted_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    status, said = ended("front", cwd=tmp_path / "gone", deleted=True)
    assert (status, said) == (2, "tradeoff: the working directory has been deleted; change to one that exists: cd DIRECTORY\n")


def simulated_run(folder: Path, *arguments: str, **how: Any) -> tuple[int, str]:
    config = small_study(trials=4)
    (folder / "study.yaml").write_text(config.model_dump_json())
    variables = {"TRADEOFF_ARTIFACTS": str(folder / "artifacts"), "TRADEOFF_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", SIMULATED]
    return ended("run", "study.yaml", "--storage", "a.db", *arguments, cwd=folder, variables=variables, command=command, **how)


def test_a_study_whose_output_is_lost_stops_in_order_and_is_resumed(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        status, said = simulated_run(tmp_path, stdout=full)
    assert (status, said.startswith(FULL)) == (2, True)
    write = gone_reader()
    assert simulated_run(tmp_path, stdout=write) == (1, "")
    os.close(write)
    assert simulated_run(tmp_path, close=(0, 1)) == (0, "")
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path}/a.db").trials
    assert [trial.user_attrs["outcome"] for trial in trials] == ["completed"] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_runs_no_study_ends_with_a_lost_terminal_as_with_ctrl_c(number: signal.Signals) -> None:
    code = f"""
import os
from tradeoff.studies.cli import main
main.app = lambda: os.kill(os.getpid(), {int(number)})
main.main()
"""
    assert ended(command=[sys.executable, "-c", code]) == (130, "")


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("variables", "home", "message"),
    [
        ({}, no_home, "home directory, and this user has none: set TRADEOFF_CACHE to a directory that can be written, or HOME"),
        ({}, lambda: Path("/proc/home"), "can't be kept in /proc/home/.cache/tradeoff: .*; set TRADEOFF_CACHE to"),
        ({"XDG_CACHE_HOME": "/proc/xdg"}, no_home, "can't be kept in /proc/xdg/tradeoff: .*; set TRADEOFF_CACHE to"),
        ({"TRADEOFF_CACHE": "/proc/cache"}, no_home, "can't be kept in /proc/cache: .*; set TRADEOFF_CACHE to"),
    ],
)
def test_where_nothing_can_be_kept_the_variable_that_helps_is_named(
    variables: dict[str, str], home: Callable[[], Path], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRADEOFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(TradeoffError, match=message):
        cache_folder()


OUTSIDE = [
    ({"per_device_train_batch_size": 7}, "must be one of 2, 4, 8, got 7"),
    ({"per_device_train_batch_size": "x"}, "must be one of 2, 4, 8, got 'x'"),
    ({"gradient_checkpointing": 0}, "must be one of False, got 0"),
    ({"colour": 3}, "colour must be one of the study's parameters"),
]


@pytest.mark.parametrize("sampler", ["grid", "random", "decoupled"])
def test_an_enqueued_value_outside_the_space_is_one_sentence_and_the_study_goes_on(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
    url, config = f"sqlite:///{tmp_path}/a.db", small_study(sampler=sampler, trials=1)
    runner.run_study(config, storage=url, display=Recorder())
    known = optuna.load_study(study_name="small", storage=url)
    others = {"gradient_accumulation_steps": 1, "precision": "fp32", "gradient_checkpointing": False}
    for outside, _ in OUTSIDE:
        known.enqueue_trial({"per_device_train_batch_size": 4} | others | outside)
    display = Recorder()
    runner.run_study(config.model_copy(update={"trials": 2}), storage=url, display=display)
    said = [line for line in display.messages if "was enqueued with a value outside the space and is not run: " in line]
    assert len(said) == len(OUTSIDE)
    assert all(why in line for (_, why), line in zip(OUTSIDE, said, strict=True))
    assert sum(trial.user_attrs.get("outcome") == "completed" for trial in known.trials) >= 2

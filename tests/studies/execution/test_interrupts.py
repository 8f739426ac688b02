"""Ctrl-C: the handler in this process, and the real command at different moments."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.trial import TrialState
from running import Children, Recorder, SharedTrialServer, cache_folder, children, is_alive, poll, tiny_study

from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.studies.execution.interrupts import EXIT_STATUS, Interrupts
from tradeoff.studies.execution.preparation import InterruptibleRunner
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

# Far longer than any test waits.
ENDLESS_EPOCHS = 100_000
COMMAND = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_while_a_trial_is_waited_for_ctrl_c_interrupts_it() -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            press()
        assert interrupts.requested


def test_anywhere_else_ctrl_c_waits_until_a_trial_would_start() -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        press()
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pytest.fail("a trial was started")


def test_a_trial_that_has_ended_is_not_interrupted_any_more() -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        with interrupts.waiting():
            pass
        press()
        assert interrupts.requested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_lost_terminal_are_as_good_as_ctrl_c(number: signal.Signals) -> None:
    interrupts = Interrupts()
    with interrupts.handled(), pytest.raises(KeyboardInterrupt), interrupts.waiting():
        os.kill(os.getpid(), number)


def test_a_lost_terminal_is_never_the_second_ctrl_c() -> None:
    interrupts = Interrupts()
    interrupts.at_once = lambda: pytest.fail("ended immediately")
    with interrupts.handled():
        press()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.requested


def test_a_lost_terminal_that_nohup_has_ignored_still_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        with interrupts.handled():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_callers_handlers_come_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Interrupts().handled():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_handled_and_nothing_breaks() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def in_thread() -> None:
        with Interrupts().handled():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [before]


class PressedAtTheEdge(Interrupts):
    """Ctrl-C just before a trial is waited for, or just after."""

    def __init__(self, edge: str) -> None:
        super().__init__()
        self.edge = edge

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self.edge == "before":
            raise KeyboardInterrupt
        yield
        raise KeyboardInterrupt


@pytest.mark.parametrize(("edge", "outcome"), [("before", Interrupted(stage="start")), ("after", "what it answered")])
def test_ctrl_c_at_the_edge_of_a_trial_is_an_outcome_too(edge: str, outcome: Any) -> None:
    server = Mock(run_trial=Mock(return_value="what it answered"))
    ran = InterruptibleRunner(server=server, interrupts=PressedAtTheEdge(edge))
    assert ran.run_trial({}, time_limit_s=None, on_progress=None) == outcome


class Command:
    """A real `tradeoff run`, in a folder of its own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        study = folder / "study.yaml"
        plain = tiny_study(**settings).plain()
        plain["job"]["epochs"] = ENDLESS_EPOCHS
        study.write_text(json.dumps(plain))
        environment = {name: value for name, value in os.environ.items() if name != "TRADEOFF_STORAGE"}
        self.process = subprocess.Popen(
            [*COMMAND, "run", str(study)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"TRADEOFF_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"},
        )
        self._processes: set[int] = set()

    @property
    def family(self) -> set[int]:
        """The servers and trials seen so far, with those that are there now."""
        found = Children(self.process.pid)
        self._processes |= {*found.servers(), *found.trials()}
        return self._processes

    def wait_for_line(self, beginning: str) -> None:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline().decode()).startswith(beginning):
            assert line, f"the command ended before it said {beginning!r}"

    def wait_for_training(self) -> None:
        """Until a trial is well beyond its start."""
        poll(lambda: Children(self.process.pid).trials() and self.states() == [TrialState.RUNNING], "the start of a trial")

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.trials()]

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        if not (self.folder / "tradeoff.db").exists():
            return []
        try:
            return optuna.load_study(study_name="tiny", storage=f"sqlite:///{self.folder}/tradeoff.db").trials
        except KeyError:
            return []

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        assert self.family
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status, and what was printed."""
        output, errors = self.process.communicate(timeout=120)
        return self.process.returncode, (output + errors).decode()

    def leaves_nobody(self) -> bool:
        return not any(is_alive(pid) for pid in self._processes)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for pid in [command.process.pid, *command.family]:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_while_the_libraries_are_imported_ends_in_order(command: Command) -> None:
    command.wait_for_line("starting the trial server")
    poll(lambda: command.family, "the server's start")
    command.interrupt()
    status, output = command.end()
    assert status == EXIT_STATUS
    assert "Traceback" not in output
    assert "stopped; rerun the same command to resume" in output
    assert command.leaves_nobody()
    assert not (command.folder / "tradeoff.db").exists()


def test_ctrl_c_while_the_data_is_prepared_ends_in_order_and_leaves_no_half_of_it(command: Command) -> None:
    command.wait_for_line("preparing the data")
    poll(lambda: command.family, "the server")
    command.interrupt()
    status, output = command.end()
    assert status == EXIT_STATUS
    assert "Traceback" not in output
    assert command.leaves_nobody()


def test_a_lost_terminal_in_a_trial_stores_it_and_the_same_command_tries_its_configuration_first(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.wait_for_training()
    command.interrupt(signal.SIGHUP)  # as good as Ctrl-C
    command.interrupt(signal.SIGHUP)  # the kernel and the shell both send it
    status, output = command.end()
    assert status == EXIT_STATUS
    assert "Traceback" not in output
    assert command.leaves_nobody()
    interrupted, waiting = command.trials()
    assert (interrupted.state, interrupted.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert waiting.state == TrialState.WAITING

    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    job = tiny_study().job.model_dump() | {"epochs": ENDLESS_EPOCHS}
    again = Recorder(on_start=lambda *_: press())
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(job=job), storage=f"sqlite:///{command.folder}/tradeoff.db", display=again, cache=cache_folder())
    assert again.started == [(1, interrupted.params)]


# A job of the user's own whose model is loaded for ever in a trial; the first one is that of the preparation.
SLOW_MODEL = """
import time
from pathlib import Path
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer

FOLDER = Path(__file__).parent

def build(args):
    if (FOLDER / "prepared").exists():
        (FOLDER / "loading").touch()
        time.sleep(1000)
    (FOLDER / "prepared").touch()
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 16, "labels": [0, 1] * 8})
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    return Trainer(model=BertForSequenceClassification(config), args=args, train_dataset=rows, eval_dataset=rows)
"""


def test_ctrl_c_while_a_trial_loads_its_model_ends_it_and_its_configuration_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_model.py").write_text(SLOW_MODEL)
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    url = f"sqlite:///{tmp_path}/a.db"
    job = {
        "build": "slow_model:build",
        "python_path": str(tmp_path),
        "epochs": 1,
        "metric": "eval_loss",
        "direction": "minimize",
    }
    loads: list[int] = []

    def press_when_it_loads() -> None:
        poll((tmp_path / "loading").exists, "the loading of the model")
        loads.extend(Children().trials())
        press()

    pressing = threading.Thread(target=press_when_it_loads)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(job=job, objectives=["eval_loss", "train_time_s"]), storage=url, cache=cache_folder())
    pressing.join()
    interrupted, waiting = optuna.load_study(study_name="tiny", storage=url).trials
    assert (interrupted.state, interrupted.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert read_attributes(interrupted.user_attrs)["stage"] == "probe"  # of which the model is the beginning
    assert (waiting.state, waiting.system_attrs["fixed_params"]) == (TrialState.WAITING, interrupted.params)
    assert len(loads) == 1
    poll(lambda: not is_alive(loads[0]), "the end of the trial's process")


def test_in_a_program_of_the_users_own_the_second_ctrl_c_is_raised_and_ends_nothing_else() -> None:
    interrupts, ended = Interrupts(exits=False), []
    interrupts.at_once = lambda: ended.append("workers")
    with interrupts.handled():
        signal.raise_signal(signal.SIGINT)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert ended == ["workers"]


def test_ctrl_c_twice_ends_at_once_and_leaves_nobody(command: Command) -> None:
    command.wait_for_training()
    (server,) = Children(command.process.pid).servers()
    (trial,) = children(server)
    os.kill(server, signal.SIGSTOP)  # so that ending in order takes forever
    command.interrupt()
    poll(lambda: not is_alive(trial), "the end of the trial")
    command.interrupt()
    assert command.process.wait(timeout=120) == EXIT_STATUS
    os.kill(server, signal.SIGCONT)
    poll(command.leaves_nobody, "the end of the server and its trial")

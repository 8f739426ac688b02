"""A study under fire: the commands that work on it and read it, and what is done to them; `damage` looks at what is left.

Shared by the soak test (`benchmarks/soak.py`: at random, for many minutes) and its short form (`test_soak.py`: a
fault of each kind, when the study has come so far). Everything is real: the commands, the signals, the trainings, and those
that run out of memory under a limit of the operating system or whose loss is no number.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from postgres import PostgresServer
from running import PROC, Children, children, command_line, tiny_job

from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.registry import VisibleDevices
from tradeoff.objectives.measurements.records import read_record
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE
from tradeoff.studies.workers.places import places

ROOT = Path(__file__).parents[2]
NAME = "soak"
TRADEOFF = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]
# Batches of 16 take up to 10 MiB; of 64 it is 17 with checkpointing, and 24 without, which the operating system refuses.
BUDGET_MIB = 14.0
TOO_LARGE = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
             "precision": "fp32", "optim": "adamw_torch", "attn_implementation": "sdpa", "learning_rate": 1e-3}  # fmt: skip
DIVERGES = TOO_LARGE | {"per_device_train_batch_size": 16, "learning_rate": 1e8}


def study_under_fire(trials: int) -> StudyConfig:
    """Trainings of a second or so in many classes of memory, so that many of them run out of it and few speak for others."""
    return StudyConfig.model_validate(
        {
            "name": NAME,
            "job": tiny_job(train_samples=64, eval_samples=32, max_length=64).model_dump(),
            "space": {
                "per_device_train_batch_size": [4, 8, 16, 64],
                "gradient_accumulation_steps": [1, 2],
                "gradient_checkpointing": [False, True],
                "precision": "fp32",
                "optim": ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop"],
                "attn_implementation": ["sdpa", "eager"],
                # From about 1e6 on the loss is NaN.
                "learning_rate": {"low": 1e-4, "high": 1e8, "log": True},
            },
            "limits": {"peak_memory_mib": BUDGET_MIB},
            "objectives": ["eval_loss", "train_time_s", "peak_memory_mib"],
            "sampler": "random",
            "reuse": "off",
            "memory_estimate": "off",  # it would settle what does not fit before anything runs out of memory
            "trials": trials,
        }
    )


@dataclass(kw_only=True)
class Command:
    """A real `tradeoff`, and what it says.

    Attributes:
        role: The subcommand.
        process: The process.
        log: Where it writes.
    """

    role: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def workers(self) -> list[int]:
        """The processes of a `run` with several workers."""
        return [pid for pid in children(self.process.pid) if "tradeoff.studies.workers.worker_process" in command_line(pid)]

    @property
    def servers(self) -> list[int]:
        return [pid for parent in (self.process.pid, *self.workers) for pid in Children(parent).servers()]

    @property
    def trials(self) -> list[int]:
        return [pid for server in self.servers for pid in children(server)]


@dataclass(kw_only=True)
class UnderFire:
    """A study, and everything that runs for it.

    Attributes:
        folder: Where everything is.
        url: The storage.
        server: The database's server; None for SQLite.
        num_in_pool: Workers of `run`: those that join have as many processors each as these.
        choose: Which of several is hit; of those that there are, in the order in which they were started, the last.
        commands: Every command that was started.
        faults: How many of each kind there were.
    """

    folder: Path
    url: str
    server: PostgresServer | None
    num_in_pool: int
    choose: Callable[[Sequence[Any]], Any] = lambda found: found[-1]
    commands: list[Command] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    dashboard_answers: Counter[str] = field(default_factory=Counter)
    _study: optuna.Study | None = field(default=None, init=False)

    # What users start.

    def run(self, *, trials: int) -> Command:
        """`tradeoff run`, which makes the study or goes on with it."""
        (self.folder / "study.yaml").write_text(json.dumps(study_under_fire(trials).plain()))
        return self._start("run", "study.yaml", "--workers", str(self.num_in_pool))

    def join(self) -> Command:
        """`tradeoff worker`, as on another machine with as many processors as each worker of `run` has."""
        where = places(max(1, self.num_in_pool), devices=VisibleDevices(CpuDevice, []))
        command = self._start("worker", NAME)
        if processors := self.choose(where).processors:
            os.sched_setaffinity(command.process.pid, processors)
        return command

    def open_dashboard(self) -> Command:
        return self._start("dashboard", "--port", "0")

    def read(self, role: str) -> Command:
        """`tradeoff report` or `tradeoff front`."""
        return self._start(role, NAME, "--format", "md" if role == "report" else "json")

    def _start(self, role: str, *arguments: str) -> Command:
        environment = os.environ | {
            "TRADEOFF_STORAGE": self.url,
            "TRADEOFF_HEARTBEAT_S": "5",
            "TRADEOFF_CACHE": str(self.folder / "cache"),
            "TRADEOFF_ARTIFACTS": str(self.folder / "artifacts"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        path = self.folder / f"{len(self.commands):04}-{role}.txt"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*TRADEOFF, role, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self.commands.append(Command(role=role, process=process, log=path))
        return self.commands[-1]

    # What can be seen of them.

    def running(self, *roles: str) -> list[Command]:
        return [command for command in self.commands if command.is_running and command.role in roles]

    def study(self) -> optuna.Study | None:
        """The study, once it is complete enough to join."""
        if self._study is None:
            with contextlib.suppress(TradeoffError):
                storage = open_storage(self.url)
                load_study(NAME, storage)
                self._study = optuna.load_study(study_name=NAME, storage=storage)  # which shows what is wrong in it too
        return self._study

    def trials(self) -> list[FrozenTrial]:
        study = self.study()
        return [] if study is None else study.get_trials(deepcopy=False)

    def is_busy(self, worker: int) -> bool:
        """Whether a process runs a trial, and not what goes before the first."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        return any(trial.system_attrs.get(OWNER_ATTRIBUTE, {}).get("pid") == worker for trial in running)

    def num_counted(self) -> int:
        return sum(map(counts, self.trials()))

    def ask_dashboard(self) -> None:
        """Asks the dashboard that runs for all trials, as an open page does."""
        for dashboard in self.running("dashboard"):
            if (announced := re.search(r"^Dashboard at (\S+)/dashboard", dashboard.said, re.MULTILINE)) is None:
                continue  # not there yet
            address = f"{announced[1]}/api/studies/1?after=0"
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    self.dashboard_answers[str(answer.status)] += 1
            except urllib.error.HTTPError as error:
                self.dashboard_answers[str(error.code)] += 1
            except OSError as error:
                self.dashboard_answers[type(error).__name__] += 1

    # The faults. Each returns whether there was something to hit.

    def kill_a_trial(self) -> bool:
        return self._kill_one([pid for command in self.running("run", "worker") for pid in command.trials])

    def kill_a_server(self) -> bool:
        return self._kill_one([pid for command in self.running("run", "worker") for pid in command.servers])

    def kill_a_worker_of_run(self) -> bool:
        return self._kill_one([pid for command in self.running("run") for pid in command.workers])

    def kill_run(self) -> bool:
        """The process that has started the workers, and watches them."""
        return self._kill_one([command.process.pid for command in self.running("run")])

    def kill_a_joined_worker(self) -> bool:
        return self._kill_one([command.process.pid for command in self.running("worker")])

    def kill_everything(self) -> bool:
        """As when the machine goes: commands, workers, servers and trials, readers too."""
        while found := self.processes():
            for pid in found:
                _signal(pid, signal.SIGKILL)
            for command in self.commands:
                command.is_running  # noqa: B018  reaps it
        return True

    def press_ctrl_c(self) -> bool:
        return self._end_one(signal.SIGINT, "run", "worker")

    def send_sigterm(self) -> bool:
        """As Slurm and Kubernetes do before they kill."""
        return self._end_one(signal.SIGTERM, "worker")

    def stop_the_database(self, *, for_s: float = 1.0, at_once: bool = False) -> bool:
        assert self.server is not None
        self.server.stop(at_once=at_once)
        end_s = time.monotonic() + for_s
        self.ask_dashboard()
        time.sleep(max(0.0, end_s - time.monotonic()))
        self.server.start()
        return True

    def strike(self, fault: Callable[[], bool]) -> bool:
        """Does it, and counts it if it hit."""
        hit = fault()
        self.faults[getattr(fault, "__name__", "")] += hit
        return hit

    def _kill_one(self, found: Sequence[int]) -> bool:
        return bool(found) and _signal(self.choose(found), signal.SIGKILL)

    def _end_one(self, number: signal.Signals, *roles: str) -> bool:
        # Before it has said anything, Python itself is starting, and nothing of ours can handle a signal.
        found = [command for command in self.running(*roles) if command.said]
        return bool(found) and _signal(self.choose(found).process.pid, number)

    def processes(self) -> list[int]:
        """Every process that was started for the study, however it is related to this one: they inherit its folders' names."""
        mark = f"TRADEOFF_CACHE={self.folder / 'cache'}\0".encode()
        found = []
        for path in PROC.iterdir():
            with contextlib.suppress(OSError):
                if path.name.isdigit() and mark in (path / "environ").read_bytes():
                    found.append(int(path.name))
        return found

    # The end.

    def end(self) -> None:
        """Waits for those that work on the study, which end by themselves once it is complete, and ends those that read it."""
        for command in self.running("run", "worker", "report", "front"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.process.wait(timeout=120)
        for dashboard in self.running("dashboard"):
            self.ask_dashboard()
            dashboard.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                dashboard.process.wait(timeout=60)

    def close(self) -> None:
        """Ends whatever is left."""
        self.kill_everything()
        for command in self.commands:
            command.process.wait(timeout=60)


def counts(trial: FrozenTrial) -> bool:
    """Whether the study's number of trials counts it."""
    return trial.state.is_finished() and read_record(trial, ("eval_loss", "train_time_s", "peak_memory_mib")).counts


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

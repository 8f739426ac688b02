"""Real trials for tests: one warm server for all of them, a job of seconds, and a look at the processes there are."""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of, job_of_data
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import Display

PROC = Path("/proc")


@functools.cache
def shared_server() -> TrialServer:
    """A server that starts on first use and ends with the tests: importing torch once takes longer than most tests."""
    server = TrialServer()
    atexit.register(server.close)
    return server


@functools.cache
def cache_folder() -> Path:
    """Where prepared data is kept for the time of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="tradeoff-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tiny_job(**settings: Any) -> TextClassificationJob:
    tiny = {
        "train_samples": 64, "eval_samples": 32, "max_length": 32, "epochs": 1, "learning_rate": 5e-3, "eval_batch_size": 32
    }  # fmt: skip
    return TextClassificationJob(**(tiny | settings))


@functools.cache
def prepared(job: TextClassificationJob) -> dict[str, Any]:
    return shared_server().prepare(job.model_dump(), cache_folder())


def request(
    job: TextClassificationJob | None = None,
    *,
    stages: tuple[str, ...] = ("probe", "train"),
    memory_limit_mib: float | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """A trial's request; a micro-batch of 8 unless `parameters` say more."""
    job = job or tiny_job()
    settings = TrialParameters(**({"per_device_train_batch_size": 8} | parameters)).as_dict()
    return {
        "job": job.model_dump(),
        "parameters": settings,
        "data_folders": prepared(job_of_data(job_of(job, settings), settings))["folders"],
        "stages": list(stages),
        "memory_limit_mib": memory_limit_mib,
    }


def run(job: TextClassificationJob | None = None, **settings: Any) -> Any:
    """The outcome of a trial."""
    return shared_server().run_trial(request(job, **settings))


def tiny_study(**settings: Any) -> StudyConfig:
    """A study of four configurations that each sampler gets through in seconds."""
    tiny = {
        "name": "tiny",
        "job": tiny_job().model_dump(),
        "space": {
            "per_device_train_batch_size": [8, 16],
            "gradient_accumulation_steps": [1, 2],
            "gradient_checkpointing": False,
            "precision": "fp32",
        },
        "sampler": "random",
        "sampler_seed": 0,
        "reuse": "off",
        "memory_estimate": "off",
        "trials": 3,
    }
    return StudyConfig.model_validate(tiny | settings)


class SharedTrialServer:
    """Stands where a study makes a server of its own, and lends it the shared one."""

    def __enter__(self) -> Any:
        return shared_server()

    def __exit__(self, *_: object) -> None:
        """Leaves the server to the next study."""


class LentServer:
    """The shared server for an owner that closes it, which does nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(shared_server(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(shared_server(), name, value)

    def close(self) -> None:
        """Leaves the server to the next owner."""


class Events:
    """Remembers what a trial reports, and acts once when it first enters a stage."""

    def __init__(self, stage: str | None = None, action: Callable[[], None] | None = None) -> None:
        self.seen: list[Mapping[str, Any]] = []
        self._stage = stage
        self._action = action

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.seen.append(event)
        if self._action is not None and event["stage"] == self._stage:
            action, self._action = self._action, None
            action()

    @property
    def stages(self) -> list[str]:
        """The stages in the order in which they were entered."""
        return [event["stage"] for event in self.seen if "step" not in event]

    @property
    def acted(self) -> bool:
        return self._action is None


class Children:
    """The trial servers of a process, found as anyone can find them, and their trials."""

    def __init__(self, parent: int | None = None) -> None:
        self.parent = parent or os.getpid()

    def servers(self) -> list[int]:
        return [pid for pid in children(self.parent) if "tradeoff.objectives.isolation.warm_server" in command_line(pid)]

    def trials(self) -> list[int]:
        return [trial for server in self.servers() for trial in children(server)]


def only_trial() -> int:
    """The process of the trial that runs under this process."""
    (trial,) = Children().trials()
    return trial


def end_trial(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(only_trial(), number)


def parent_of(pid: int) -> int:
    return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for task in (PROC / str(pid) / "task").iterdir() for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


# As /proc/net/tcp and tcp6 write 127.0.0.1, ::1, and the former in the latter's form.
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def listening_addresses(pids: Iterable[int]) -> list[str]:
    """The addresses on which processes listen, in the kernel's form."""
    addresses = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            inodes = set()
            for path in (PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    inodes.add(os.readlink(path))
            for table in ("tcp", "tcp6"):
                rows = [line.split() for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]]
                # 0A is LISTEN (include/net/tcp_states.h).
                addresses += [row[1].split(":")[0] for row in rows if f"socket:[{row[9]}]" in inodes and row[3] == "0A"]
    return addresses


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and was not reaped does not."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def poll(condition: Callable[[], Any], what: str, *, limit_s: float = 120) -> Any:
    """Waits until the condition holds, and returns what it returned."""
    end_s = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"{what} did not happen"
        time.sleep(0.05)
    return value


class Recorder(Display):
    """A display that remembers."""

    def __init__(self, on_start: Callable[[int, TrialParameters], None] | None = None) -> None:
        self.messages: list[str] = []
        self.started: list[tuple[int, dict[str, Any]]] = []
        self.ended: list[Any] = []
        self._on_start = on_start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def message(self, line: str) -> None:
        self.messages.append(line)

    def show(self, what: Any) -> None:
        self.messages.append(str(what))

    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> Self:
        return self

    def trial_started(self, number: int, parameters: TrialParameters, *, worker: int = 0) -> None:
        self.started.append((number, parameters.as_dict()))
        if self._on_start is not None:
            self._on_start(number, parameters)

    def trial_ended(self, record: Any, *, worker: int = 0) -> None:
        self.ended.append(record)

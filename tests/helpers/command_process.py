"""A real `tradeoff` with several workers, seen from a test: its processes, its trials and what it prints."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
from optuna.trial import TrialState
from running import cache_folder, children, command_line, is_alive, poll, tiny_job

from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.storage.opening import open_storage

# Far longer than any test waits.
ENDLESS = tiny_job(epochs=100_000).model_dump()
COMMAND = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]


def worker_processes(parent: int) -> list[int]:
    return [pid for pid in children(parent) if "tradeoff.studies.workers.worker_process" in command_line(pid)]


def family(parent: int) -> set[int]:
    """The workers of a process, their servers and their trials."""
    found = set(worker_processes(parent))
    for pid in list(found):
        found |= {*children(pid), *(trial for server in children(pid) for trial in children(server))}
    return found


def write_study(folder: Path, config: StudyConfig) -> str:
    (folder / "study.yaml").write_text(json.dumps(config.plain()))
    return "study.yaml"


class Command:
    """The process, with the storage in its environment, or in the file that its arguments name.

    Attributes:
        storage: The storage's URL.
        seen: The processes of its family so far.
    """

    def __init__(self, folder: Path, storage: str, *arguments: str, in_environment: bool = True) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRADEOFF_STORAGE"}
        environment |= {"TRADEOFF_CACHE": str(cache_folder())} | ({"TRADEOFF_STORAGE": storage} if in_environment else {})
        self._log = folder / "log.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self.storage = storage
        self.seen: set[int] = set()

    def trials(self, name: str) -> list[optuna.trial.FrozenTrial]:
        try:
            return optuna.load_study(study_name=name, storage=open_storage(self.storage)).trials
        except KeyError:
            return []

    def look(self) -> set[int]:
        """Remembers the family as it is now, and returns it."""
        now = {*family(self.process.pid), *(p for c in children(self.process.pid) for p in [c, *children(c)])}
        self.seen |= now
        return now

    def wait_for_running(self, name: str, count: int) -> None:
        """Until so many trials have begun, each in its process."""

        def are_running() -> bool:
            self.look()
            assert self.process.poll() is None, self.output()
            return sum(trial.state == TrialState.RUNNING for trial in self.trials(name)) == count

        poll(are_running, "the start of the trials", limit_s=250)

    def output(self) -> str:
        return self._log.read_text()

    def end(self) -> tuple[int, str]:
        """The exit status, and what was printed."""
        return self.process.wait(timeout=120), self.output()

    def kill(self) -> None:
        """Ends the family, for a test that has failed."""
        for pid in (self.process.pid, *self.seen):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

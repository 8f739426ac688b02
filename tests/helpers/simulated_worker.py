"""A worker in a process of its own whose trials are formulas: real storages and real kills, without the seconds of a training.

A trial says that it begins by making the file `begun` in the folder, and
does not end while there is a file `hold`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simulated_runner as simulated
from rich.console import Console

from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.workers import run as runner


def small_study(**settings: Any) -> StudyConfig:
    """A study of six configurations that all fit."""
    space = SpaceConfig(
        per_device_train_batch_size=[2, 4, 8],
        gradient_accumulation_steps=[1, 2],
        gradient_checkpointing=[False],
        precision=["fp32"],
    )
    small = {"name": "small", "space": space, "sampler": "grid", "sampler_seed": 0, "reuse": "off", "trials": 4}
    return StudyConfig(**(small | settings))


class HeldRunner(simulated.SimulatedRunner):
    """Its trials end when they are let."""

    folder: Path

    def run_trial(self, request: Mapping[str, Any], **arguments: Any) -> Any:
        outcome = super().run_trial(request, **arguments)
        (self.folder / "begun").touch()
        while (self.folder / "hold").exists():
            time.sleep(0.01)
        return outcome


class Worker:
    """The process, seen from a test."""

    def __init__(
        self,
        url: str,
        config: StudyConfig,
        folder: Path,
        *,
        hold: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        if hold:
            (folder / "hold").touch()
        (folder / "begun").unlink(missing_ok=True)
        self._log = (folder / f"log-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, __file__, url, json.dumps(config.plain()), str(folder)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TRADEOFF_ARTIFACTS": str(folder / "artifacts")} | dict(environment or {}),
        )

    @property
    def has_begun(self) -> bool:
        """Whether a trial has begun; a process that ended before one did is an error."""
        assert (self.folder / "begun").exists() or self.process.poll() is None, self.output()
        return (self.folder / "begun").exists()

    @property
    def untold(self) -> list[Path]:
        """The outcomes that are kept on disk."""
        return sorted((self.folder / "artifacts" / "pending-outcomes").glob("*.json"))

    def release(self) -> None:
        """Lets trials end."""
        (self.folder / "hold").unlink()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def end(self) -> str:
        """What it printed, once it has ended well."""
        assert self.process.wait(timeout=200) == 0, self.output()
        return self.output()


def main(url: str, config: str, folder: str) -> None:
    held = HeldRunner()
    held.folder = Path(folder)
    runner.TrialServer = lambda: simulated.SimulatedServer(held)  # type: ignore[assignment,misc]
    display = PlainDisplay(Console(width=1000, force_terminal=False))
    storage = url or os.environ["TRADEOFF_STORAGE"]
    runner.run_study(StudyConfig.model_validate(json.loads(config)), storage=storage, display=display)


if __name__ == "__main__":
    main(*sys.argv[1:])

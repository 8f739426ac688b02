"""Prepares a study: the device, the space that it can run, and the data, with every check before the first trial.

A search, a confirmation and `tradeoff fit` prepare in the same way, so what one of them measures holds for the others.
"""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tradeoff.objectives.isolation.server_process import WorkerError
from tradeoff.objectives.isolation.trial_server import JobError, PreparationTimeoutError, ProcessKilledError, TrialServer
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import energy_names
from tradeoff.objectives.measurements.outcome import LONGEST_LIMIT_S, Interrupted, Outcome
from tradeoff.objectives.objective import Objective
from tradeoff.searchspace import SearchSpace
from tradeoff.studies.config.availability import (
    available_space,
    check_batches,
    check_devices,
    check_tokenizers,
    check_warmup,
    trainable_space,
)
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.memory_estimate import MemoryEstimation, start_memory_estimation
from tradeoff.studies.samplers.acquisition import import_ahead
from tradeoff.studies.storage.study import check_device

LEAST_PREPARATION_S = 30.0


class ProcessLostError(TradeoffError):
    """A process was killed while it prepared a study: nothing is wrong with the study, and another try may succeed."""


@dataclass(kw_only=True)
class InterruptibleRunner:
    """Runs trials that Ctrl-C may end, and keeps the output of the last one.

    Attributes:
        server: Where trials run.
        interrupts: What the user has asked for.
        log: The output of the last trial's process.
    """

    server: TrialServer
    interrupts: Interrupts
    log: str = ""

    def run_trial(
        self, request: Mapping[str, Any], *, time_limit_s: float | None, on_progress: Callable[[Mapping[str, Any]], None] | None
    ) -> Outcome:
        """Run the request, unless the user has asked to stop."""
        if self.interrupts.requested:
            return Interrupted(stage="start")
        # Nothing but the trial: its outcome must not be lost to a Ctrl-C.
        outcome = None
        try:
            with self.interrupts.waiting(), _full_disk_said():
                outcome = self.server.run_trial(request, time_limit_s=time_limit_s, on_progress=on_progress)
        except KeyboardInterrupt:  # just before it began, or just after it ended
            outcome = outcome or Interrupted(stage="start")
        self.log = self.server.log
        return outcome


@contextmanager
def _full_disk_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TradeoffError(
            f"the directory for temporary files, {tempfile.gettempdir()}, is full: free some space or set TMPDIR, and rerun"
            " the same command to resume; results already saved are kept"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A study that is ready to run here.

    Attributes:
        config: The study.
        device: What trials run on, as `TrialServer.describe_device` gives it.
        space: The study's space without what the device lacks.
        data: The prepared data, as `TrialServer.prepare` gives it.
        runner: Where trials run.
        estimation: The memory estimates in the making; None if there are none.
    """

    config: StudyConfig
    device: Mapping[str, Any]
    space: SearchSpace
    data: Mapping[str, Any]
    runner: InterruptibleRunner
    estimation: MemoryEstimation | None = None

    @cached_property
    def setup(self) -> StudySetup:
        """The terms of the study here."""
        return self.config.setup(
            self.space,
            self.device,
            num_train=self.data["num_train"],
            num_eval=self.data["num_eval"],
            num_packed=self.data.get("num_packed"),
        )

    def objective(self, display: Display) -> Objective:
        """Return the objective of the study, which shows its progress in `display`."""
        return Objective(
            setup=self.setup,
            data_folders=self.data["folders"],
            runner=self.runner,
            time_limit_s=self.config.limits.trial_time_s,
            on_start=display.trial_started,
            on_progress=display.progress,
        )


def prepare(
    config: StudyConfig,
    server: TrialServer,
    interrupts: Interrupts,
    *,
    display: Display,
    cache: Path | None = None,
    measured_on: Mapping[str, Any] | None = None,
    estimates_memory: bool = False,
    measures_baselines: bool = False,
    deadline_s: float | None = None,
) -> Preparation:
    """Describe the device, check the study against it, and load and tokenise the data unless that was done before.

    Args:
        config: The study.
        server: Where trials will run.
        interrupts: What the user has asked for.
        display: Where progress is shown.
        cache: Where prepared data is kept; see `cache_folder`.
        measured_on: The device that must be the one here; None for any.
        estimates_memory: Start to estimate memory, unless the study says not to.
        measures_baselines: Evaluate a language model before training.
        deadline_s: The moment of `time.monotonic` at which preparing the data is given up, though not in its first
            `LEAST_PREPARATION_S`: a study that is complete needs no more than that, however short the time.

    Raises:
        OtherDeviceError: The device is not the one that the study was measured on.
        ProcessLostError: A process was killed on the way.
        TradeoffError: The study can't run as it is written.
        KeyboardInterrupt: The user stopped it.
    """
    with interrupts.waiting():
        display.message("starting the trial server: importing torch and transformers")
        with _full_disk_said():
            server.start()
        if config.sampler == "decoupled":
            import_ahead()  # while the server imports too: between two trials it would keep the device waiting
        try:
            device = server.describe_device()
        except WorkerError as error:
            raise _ended(error) from error
        if measured_on is not None:
            check_device(config.name, measured_on, device)
        if (needing := energy_names(config.objectives)) and not device.get("measures_energy"):
            raise TradeoffError(
                f"{needing[0]} can't be an objective on {device['name']}, whose energy can't be measured;"
                " remove it from objectives"
            )
        space, line = available_space(config, device)
        together = f"{config.devices_per_trial} x " if config.devices_per_trial > 1 else ""
        display.message(f"device: {together}{device['name']}")
        for what in (check_devices(config.devices_per_trial, device), line):
            for each in (what or "").splitlines():
                display.message(each)
        folder = cache or cache_folder()
        start_estimation = partial(
            start_memory_estimation, config, server, device=device, cache=folder, display=display, interrupts=interrupts
        )
        texts = config.job if isinstance(config.job, TextClassificationJob) else None  # no other job's memory is estimated
        # Padded to one length, a batch is as long as it can be; else the data tells.
        is_known = texts is None or (texts.padding == "max_length" and "padding" not in space.domains)
        estimation = start_estimation(space, longest=None) if estimates_memory and is_known else None
        display.message("preparing the data")
        try:
            searched = {name: domain.examples() for name, domain in space.domains.items()}
            if limits_w := [limit_w for limit_w in searched.get("power_limit_w", ()) if limit_w is not None]:
                server.check_power_limits(limits_w)
            data = server.prepare(
                job_of_data(config.job, space.domains).model_dump(),
                folder,
                searched=searched,
                conditions=space.conditions,
                measures_baselines=measures_baselines,
                time_limit_s=_time_left_s(deadline_s),
                attempt_limit_s=config.limits.trial_time_s,
            )
        except JobError as error:
            raise TradeoffError(str(error)) from error
        except PreparationTimeoutError as error:
            raise TradeoffError(
                "the study was not prepared before --timeout was over; raise that, or see what the job's code or its data"
                " waits for"
            ) from error
        except WorkerError as error:
            raise _ended(error) from error
        check_batches(space, data["num_train"], config.devices_per_trial)
        check_tokenizers(config, data)
        space, left_out = trainable_space(space, data["lacks"])
        for what in (*data["notices"], left_out, check_warmup(space, config.job, data["num_train"], config.devices_per_trial)):
            for each in (what or "").splitlines():
                display.message(each)
        if texts is not None and estimates_memory and (left_out is not None or not is_known):
            if estimation is not None:
                estimation.cancel()  # it would fail at what the model can't do
            estimation = start_estimation(space, longest=None if is_known else data["longest"])
    runner = InterruptibleRunner(server=server, interrupts=interrupts)
    return Preparation(config=config, device=device, space=space, data=data, runner=runner, estimation=estimation)


def _time_left_s(deadline_s: float | None) -> float | None:
    if deadline_s is None:
        return None
    return min(LONGEST_LIMIT_S, max(LEAST_PREPARATION_S, deadline_s - time.monotonic()))


def _ended(error: WorkerError) -> TradeoffError:
    return (ProcessLostError if isinstance(error, ProcessKilledError) else TradeoffError)(str(error))


def cache_folder() -> Path:
    """Return where prepared data and memory traces are kept: `TRADEOFF_CACHE`, or `tradeoff` in the user's cache directory.

    Raises:
        TradeoffError: There is no such directory, and none can be made.
    """
    remedy = "set TRADEOFF_CACHE to a directory that can be written"
    if cache := os.environ.get("TRADEOFF_CACHE"):
        folder = Path(cache)
    else:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tradeoff"
        except RuntimeError as error:
            raise TradeoffError(
                f"prepared data is kept in the home directory, and this user has none: {remedy}, or HOME"
            ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TradeoffError(
            f"prepared data can't be kept in {folder}: {error.strerror}; {remedy}, or free some space there"
        ) from error
    return folder


def keep_compiled_code_in(cache: Path) -> None:
    """Tell torch, which reads it when it is imported, to keep what it compiles in a directory of this user's own.

    By default that is a directory under a fixed name in the one for temporary files, where any user could have put something.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))

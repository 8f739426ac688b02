"""Runs a study on this machine, with one worker in this process or several in processes of their own."""

from collections.abc import Sequence
from pathlib import Path

import optuna

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.config.stored import NO_CODE, AllowedCode
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.storage.urls import DEFAULT_STORAGE
from tradeoff.studies.workers.local import LocalWorkerPool
from tradeoff.studies.workers.places import Place, default_num_workers, memory_shares, places
from tradeoff.studies.workers.study_run import StudyRun, deadline_after


def run_study(
    config: StudyConfig,
    *,
    storage: str = DEFAULT_STORAGE,
    workers: int | None = 1,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
    function: bytes | None = None,
    interrupts: Interrupts | None = None,
) -> optuna.Study:
    """Create the study of `config`, or resume it, and run it to its number of trials.

    Examples:
        >>> from tradeoff.studies.config.presets import embedded
        >>> study = run_study(embedded(), storage="sqlite:///tradeoff.db")  # doctest: +SKIP

    Args:
        config: The study, from a preset, a file (`tradeoff.studies.config.study_file.load_config`), or made in Python.
        storage: A database URL, or the path of a SQLite file.
        workers: The number of trials that run at a time; None for one on each visible GPU, or each `devices_per_trial` of
            them. From 2 on each worker is a process of its own, with GPUs or a share of the processors of its own.
        timeout_s: No trial is started after this many seconds.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept; see `tradeoff.studies.execution.preparation.cache_folder`.
        function: The function that the job names, if only this program can run it; see `TrialServer`.
        interrupts: What Ctrl-C does; by default the second one exits this process.

    Returns:
        The study, an ordinary Optuna study.

    Raises:
        TradeoffError: The study can't run as it is written.
        StudyFailed: Five trials in a row failed, or every one of several workers died again and again.
        KeyboardInterrupt: The user stopped it; what was measured is stored, and the same call resumes it.
    """
    return _run(config, storage, workers, timeout_s, display, cache, NO_CODE, function, interrupts)


def join_study(
    name: str | None,
    *,
    storage: str,
    workers: int | None = 1,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
    allowed: AllowedCode = NO_CODE,
) -> optuna.Study:
    """Work on a study that exists, beside others on this machine or elsewhere, until it is complete.

    Everything about the study is read from its storage. The notes of the trials that ran here are written; the study's own
    note and plots are left to `tradeoff run` and `tradeoff dashboard`, so that many workers do not all draw the same.

    Args:
        name: The study's name; None for the one created last.
        storage: A database URL, or the path of a SQLite file.
        workers: As for `run_study`.
        timeout_s: As for `run_study`.
        display: As for `run_study`.
        cache: As for `run_study`.
        allowed: The code that the stored study may run: whoever can write to the storage can name any.

    Returns:
        The study.

    Raises:
        TradeoffError: There is no such study, it would run code that is not allowed, or this machine has another device.
        StudyFailed, KeyboardInterrupt: As for `run_study`.
    """
    return _run(name, storage, workers, timeout_s, display, cache, allowed)


def _run(
    study: StudyConfig | str | None,
    storage: str,
    workers: int | None,
    timeout_s: float | None,
    display: Display | None,
    cache: Path | None,
    allowed: AllowedCode,
    function: bytes | None = None,
    interrupts: Interrupts | None = None,
) -> optuna.Study:
    if workers is not None and workers < 1:
        raise TradeoffError(f"workers must be at least 1, got {workers}")
    display, interrupts, deadline_s = display or Display(), interrupts or Interrupts(), deadline_after(timeout_s)
    with interrupts.handled():
        run = StudyRun.of(
            study,
            storage,
            allowed=allowed,
            display=display,
            interrupts=interrupts,
            cache=cache,
            deadline_s=deadline_s,
            function=function,
        )
        num_devices = run.config.devices_per_trial
        if workers is None:
            workers = default_num_workers(devices_each=num_devices)
        if workers == 1:
            with TrialServer() as server:
                return run.search(server)
        where = places(workers, devices_each=num_devices)
        if where[0].processors:
            display.message(_shared_processors(where))
            line = memory_shares(workers * num_devices, run.config.limits.peak_memory_mib, KernelKillWatch().limit_mib())
            if line is not None:
                display.message(line)
        return LocalWorkerPool(run=run, places=where).work()


def _shared_processors(where: Sequence[Place]) -> str:
    num = len(where[0].processors)
    each = "1 processor each" if num == 1 else f"{num} processors each"
    return (
        f"{len(where)} workers share this machine's processors, {each}: trials that run at the same time slow each other down,"
        " so their times are those of a machine this busy"
    )

"""Runs a study on this machine, with as many workers as it has cards, and `tradeoff run` and `tradeoff worker` around that."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display, quiet_display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.loop import search
from tradeoff.studies.execution.preparation import OtherDeviceError, prepare
from tradeoff.studies.reporting.annotate import Annotator, artifact_folder
from tradeoff.studies.storage.opening import DEFAULT_STORAGE, load_study, open_storage
from tradeoff.studies.storage.retry_policy import Patience
from tradeoff.studies.storage.retrying import be_patient
from tradeoff.studies.storage.study import check_device, open_study
from tradeoff.studies.workers.local import Fleet
from tradeoff.studies.workers.places import Place, default_num_workers, memory_shares, places


def run_study(
    config: StudyConfig,
    *,
    storage: str = DEFAULT_STORAGE,
    workers: int | None = 1,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
    waits_for_storage: bool = False,
) -> optuna.Study:
    """Creates the study of `config`, or goes on with it, and runs it to its number of trials.

    Examples:
        >>> from tradeoff.studies.config.presets import embedded
        >>> study = run_study(embedded(), storage="sqlite:///tradeoff.db")  # doctest: +SKIP

    Args:
        config: The study, from a preset, a file (`tradeoff.studies.config.study_file.load_config`), or made in Python.
        storage: A database URL, or the path of a SQLite file.
        workers: How many trials run at a time; None for one on each visible card, or each `devices_per_trial` of them. From 2
            on each worker is a process of its own, with cards or a share of the processors of its own.
        timeout_s: No trial is started after this many seconds.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept; see `tradeoff.studies.execution.preparation.cache_folder`.
        waits_for_storage: Whether a single worker waits for a storage that does not answer at its start, because others have it
            open; by default that is an error at once.

    Returns:
        The study, an ordinary Optuna study.

    Raises:
        TradeoffError: The study can't run as it is written.
        StudyFailed: Five trials in a row failed.
        tradeoff.studies.workers.local.WorkersDied: Every one of several workers died, again and again.
        KeyboardInterrupt: The user ended it; what was measured is stored, and the same call goes on.
    """
    display = display or quiet_display()
    say = display.message

    def open_here(opened: BaseStorage, device: Mapping[str, Any]) -> tuple[optuna.Study, Annotator]:
        study = open_study(config, opened, device)
        return study, Annotator(study=study, artifacts=artifact_folder(study._storage), say=say)

    return _run(config, open_here, storage, workers, timeout_s, display, cache, waits_for_storage)


def join_study(
    name: str | None,
    *,
    storage: str,
    workers: int | None = 1,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
    waits_for_storage: bool = False,
) -> optuna.Study:
    """Works on a study that exists, beside others on this machine or elsewhere, until it is complete.

    Everything about the study is read from its storage. The notes of the trials that ran here are written; the study's own
    note and plots are left to `tradeoff run` and `tradeoff dashboard`, so that many workers do not all draw the same.

    Args:
        name: The study's name; None for the one created last.
        storage: A database URL, or the path of a SQLite file.
        workers: As for `run_study`.
        timeout_s: As for `run_study`.
        display: As for `run_study`.
        cache: As for `run_study`.
        waits_for_storage: As for `run_study`.

    Returns:
        The study.

    Raises:
        TradeoffError: There is no such study, or this machine has another device.
        StudyFailed, tradeoff.studies.workers.local.WorkersDied, KeyboardInterrupt: As for `run_study`.
    """
    display = display or quiet_display()
    say = display.message
    patience = Patience(say=say, stop=lambda: False) if waits_for_storage else None
    stored = load_study(name, open_storage(storage, create=False, patience=patience))
    config = StudyConfig.model_validate(stored.user_attrs["config"])
    measured_on = stored.user_attrs["device"]

    def open_here(opened: BaseStorage, device: Mapping[str, Any]) -> tuple[optuna.Study, Annotator]:
        try:
            check_device(config.name, measured_on, device)
        except TradeoffError as error:
            raise OtherDeviceError(str(error)) from error
        study = load_study(config.name, opened)
        return study, Annotator(study=study, artifacts=artifact_folder(study._storage), say=say, only_trials=True)

    return _run(config, open_here, storage, workers, timeout_s, display, cache, waits_for_storage, measured_on["name"])


def _run(
    config: StudyConfig,
    open_here: Callable[[BaseStorage, Mapping[str, Any]], tuple[optuna.Study, Annotator]],
    storage: str,
    workers: int | None,
    timeout_s: float | None,
    display: Display,
    cache: Path | None,
    waits_for_storage: bool,
    measured_on: str | None = None,
) -> optuna.Study:
    if workers is None:
        workers = default_num_workers(devices_each=config.devices_per_trial)
    if workers < 1:
        raise TradeoffError(f"workers must be at least 1, got {workers}")
    interrupts = Interrupts()
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def open_patiently(device: Mapping[str, Any]) -> tuple[optuna.Study, Annotator]:
        patience = Patience(say=display.message, stop=lambda: interrupts.requested)
        # One that a worker has read its study from is there, or away for a while.
        waits = waits_for_storage or measured_on is not None
        opened = open_storage(storage, patience=patience if waits else None)
        be_patient(opened, say=patience.say, stop=patience.stop)
        if (lacks := getattr(opened, "lacks", None)) is not None:
            display.message(lacks)
        return open_here(opened, device)

    if workers > 1:
        where = places(workers, devices_each=config.devices_per_trial)
        if where[0].processors:
            display.message(_shared_processors(where))
            num_processes, limit_mib = workers * config.devices_per_trial, config.limits.peak_memory_mib
            if (line := memory_shares(num_processes, limit_mib, KernelKillWatch().limit_mib())) is not None:
                display.message(line)
        fleet = Fleet(
            config=config,
            places=where,
            storage=storage,
            open_study=open_patiently,
            display=display,
            interrupts=interrupts,
            cache=cache,
            measured_on=measured_on,
            deadline_s=deadline_s,
        )
        with interrupts.handled():
            return fleet.run()
    with interrupts.handled(), TrialServer() as server:
        ready = prepare(config, server, interrupts, display=display, cache=cache, measured_on=measured_on, plans=True)
        study, annotator = open_patiently(ready.device)
        try:
            with display.running(study.study_name, ready.device, config):
                search(
                    study,
                    ready,
                    display=display,
                    interrupts=interrupts,
                    annotator=annotator,
                    deadline_s=deadline_s,
                )
        finally:
            annotator.finish()
    return study


def _shared_processors(where: Sequence[Place]) -> str:
    num = len(where[0].processors)
    each = "1 processor each" if num == 1 else f"{num} processors each"
    return (
        f"{len(where)} workers share this machine's processors, {each}: trials that run at the same time slow each other down,"
        " so their times are those of a machine this busy"
    )

"""The way of a study from its configuration to its trials; every kind of worker takes the same steps in the same order.

1. The configuration is compared with the stored study, or read from it: `StudyRun.of`.
2. Device, space and data are prepared: `tradeoff.studies.execution.preparation`.
3. The study is opened, and created if it does not exist: only now is it known what device it is measured on.
4. Trials are run until it is complete: `tradeoff.studies.execution.loop`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.config.stored import NO_CODE, AllowedCode, stored_config
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.loop import search
from tradeoff.studies.execution.preparation import prepare
from tradeoff.studies.reporting.annotate import Annotator, artifact_folder
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.storage.study import changed_code, check_contents, open_study, stored_device
from tradeoff.studies.storage.urls import storage_url
from tradeoff.studies.tracking.tracking import Tracking, check_trackers


@dataclass(kw_only=True)
class StudyRun:
    """A study that this process runs, alone or with workers that it starts.

    Attributes:
        config: The study.
        url: The storage as the user named it.
        display: Where progress is shown.
        interrupts: What the user has asked for.
        cache: Where prepared data is kept; see `tradeoff.studies.execution.preparation.cache_folder`.
        deadline_s: The moment of `time.monotonic` after which no trial is started.
        only_trials: Whether the study's own note and plots are left to another process.
        estimates_memory: Whether memory is estimated here, if the study holds no estimates.
        measured_on: The device of the stored study; None if the study does not exist yet.
        opened: The storage; None as long as it is a file that does not exist, which is created once the study is prepared.
        function: The function that the job names, if only this program can run it; see `TrialServer`.
    """

    config: StudyConfig
    url: str
    display: Display
    interrupts: Interrupts
    cache: Path | None = None
    deadline_s: float | None = None
    only_trials: bool = False
    estimates_memory: bool = True
    measured_on: Mapping[str, Any] | None = None
    opened: RetryingStorage | None = None
    function: bytes | None = None

    @classmethod
    def of(
        cls,
        study: StudyConfig | str | None,
        url: str,
        *,
        waits: bool = False,
        allowed: AllowedCode = NO_CODE,
        **settings: Any,
    ) -> Self:
        """Return the run of a study, after comparing its configuration with the stored one.

        Args:
            study: The configuration of a study, which is created unless it exists; or the name of a stored one to join beside
                the process that created it, None for the one created last.
            url: The storage as the user named it.
            waits: Wait for a storage that does not answer, because others have it open; by default that is an error.
            allowed: The code that a stored configuration may name.
            settings: Further attributes: `display`, `interrupts` and others.

        Raises:
            TradeoffError: The storage can't be opened, or holds no such study, one of this name with other settings, or one
                whose code may not run; or a tracker is not installed.
        """
        display, interrupts = settings["display"], settings["interrupts"]
        if isinstance(study, StudyConfig):
            check_trackers(study.track)
            if _is_new_file(url):
                return cls(config=study, url=url, **settings)
            opened = _open(url, display, interrupts, waits=waits)
            return cls(config=study, url=url, opened=opened, measured_on=stored_device(study, opened), **settings)
        opened = _open(url, display, interrupts, waits=waits, create=False)
        found = load_study(study, opened)
        stored, settings = found.user_attrs, settings | {"only_trials": True}
        config = stored_config(stored, name=found.study_name, place=opened.place, allowed=allowed)
        check_trackers(config.track)
        return cls(config=config, url=url, opened=opened, measured_on=stored["device"], **settings)

    @property
    def storage(self) -> RetryingStorage:
        """The storage."""
        if self.opened is None:
            self.opened = _open(self.url, self.display, self.interrupts)
        return self.opened

    def open(self, device: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> tuple[StoredStudy, Annotator]:
        """Return the study, with what writes its notes; create it for `device` if it does not exist.

        Args:
            device: What it is measured on.
            contents: The fingerprints of its data and its model; None where nothing was read.

        Raises:
            TradeoffError: Another process has created a study of this name, with other settings, another device or another
                content of its data.
        """
        if self.only_trials and self.measured_on is not None:
            study = load_study(self.config.name, self.storage)
            if contents is not None:
                check_contents(study, self.config, contents)
        else:
            study = open_study(self.config, self.storage, device, contents)
        if contents is not None and (line := changed_code(study, self.config, contents)) is not None:
            self.display.message(line)
        annotator = Annotator(
            study=study, artifacts=artifact_folder(self.storage), say=self.display.message, only_trials=self.only_trials
        )
        return study, annotator

    def search(self, server: TrialServer) -> StoredStudy:
        """Prepare the study, and run trials until it is complete.

        Raises:
            TradeoffError: The study can't run as it is written, or not on this device.
            StudyFailed: Five trials in a row failed.
            KeyboardInterrupt: The user stopped it.
        """
        server.function = self.function
        ready = prepare(
            self.config,
            server,
            self.interrupts,
            display=self.display,
            cache=self.cache,
            measured_on=self.measured_on,
            estimates_memory=self.estimates_memory,
            measures_baselines=True,
            deadline_s=self.deadline_s,
        )
        study, annotator = self.open(ready.device, ready.data["contents"])
        tracking = Tracking(study=study, config=self.config, device=ready.device["name"], say=self.display.message)
        try:
            with self.display.running(study.study_name, ready.device, self.config):
                search(
                    study,
                    ready,
                    display=self.display,
                    interrupts=self.interrupts,
                    listeners=(annotator, tracking),
                    deadline_s=self.deadline_s,
                )
        finally:
            annotator.finish()
            tracking.finish()
        return study


def deadline_after(timeout_s: float | None) -> float | None:
    """Return the moment of `time.monotonic` at which a timeout from now has passed."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def _open(url: str, display: Display, interrupts: Interrupts, *, waits: bool = False, create: bool = True) -> RetryingStorage:
    retry = RetryPolicy(say=display.message, stop=lambda: interrupts.requested)
    storage = open_storage(url, create=create, retry=retry if waits else None)
    storage.retry = retry
    storage.check_writable()
    return storage


def _is_new_file(url: str) -> bool:
    url = storage_url(url)
    return url.startswith("sqlite") and not Path(url.partition(":///")[2].partition("?")[0]).exists()

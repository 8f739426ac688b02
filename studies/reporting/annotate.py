"""Writes a study's notes, plots and files to its storage, where optuna-dashboard shows them.

A search writes nothing while its trial runs, so no measurement is disturbed. A trial's note takes a few writes once it has
ended; the study's note and plots are updated between trials, seldom enough to stay below a hundredth of the time, and at the
end. `tradeoff dashboard` updates them when it starts and while it serves.
"""

import io
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.dashboard_entries import DashboardEntries
from tradeoff.studies.reporting.notes import study_note, trial_note
from tradeoff.studies.reporting.trial_files import trial_files
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import SCHEMA, SCHEMA_ATTRIBUTE
from tradeoff.studies.storage.retry_policy import StorageError, StudyGoneError

if TYPE_CHECKING:
    from tradeoff.studies.storage.retrying import RetryingStorage
    from tradeoff.studies.storage.stored_study import StoredStudy

MIN_INTERVAL_S = 10.0
MAX_SHARE_OF_TIME = 0.01


def annotate_trial(study: "StoredStudy", record: TrialRecord, *, artifacts: Path | None = None, log: str | None = None) -> None:
    """Write the note and the files of a trial that has ended.

    Args:
        study: The trial's study.
        record: The trial.
        artifacts: The directory of Optuna's `FileSystemArtifactStore`; without one no files are kept.
        log: The output of the trial's process, where it is at hand.
    """
    _annotate_trial(study, record, _entries(study), artifacts=artifacts, log=log)


def annotate_study(study: "StoredStudy", *, artifacts: Path | None = None) -> None:
    """Write the note and the plots of a study, and those of its trials' notes and files that are missing."""
    from tradeoff.studies.reporting.plot_style import plot_text
    from tradeoff.studies.reporting.plots import study_plots

    results, entries = read_results(study), _entries(study)
    for record in results.records:
        if record.outcome is not None and record.number >= 0:
            _annotate_trial(study, record, entries, artifacts=artifacts)
    entries.save_note(study_note(results))
    for plot in study_plots(results):
        # The dashboard shows a plot without its title.
        plot.figure.update_layout(
            title={"text": plot_text(plot.title), "x": 0.01, "y": 0.985, "yanchor": "top", "font": {"size": 15}},
            margin={"t": plot.figure.layout.margin.t + 28},
        )
        entries.save_plot(plot.name, plot.figure.to_json())


def artifact_folder(storage: "RetryingStorage") -> Path:
    """Return the directory of a storage's artifacts: `TRADEOFF_ARTIFACTS`, else one beside a SQLite file or here."""
    if folder := os.environ.get("TRADEOFF_ARTIFACTS"):
        return Path(folder)
    if storage.database.is_local_file:
        path = Path(storage.database.url.removeprefix("sqlite:///").partition("?")[0])
        return path.with_name(f"{path.stem}-artifacts")
    return Path("tradeoff-artifacts")


@dataclass(kw_only=True)
class Annotator:
    """Updates a running study's notes and plots between its trials.

    Attributes:
        study: The study.
        artifacts: The directory of the trials' files; None for no files.
        say: Shows a line to the user.
        only_trials: Leave the study's own note and plots to another process.
        clock: A monotonic clock in seconds.
    """

    study: "StoredStudy"
    artifacts: Path | None = None
    say: Callable[[str], None] = lambda _: None
    only_trials: bool = False
    clock: Callable[[], float] = time.monotonic
    _due_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._due_s = self.clock() + MIN_INTERVAL_S

    def trial_ended(self, record: TrialRecord, *, log: str | None = None) -> None:
        """Write the trial's note and files, and the study's note and plots if they are due."""
        self._with_files(lambda artifacts: annotate_trial(self.study, record, artifacts=artifacts, log=log))
        self.refresh()

    def refresh(self) -> None:
        """Write the study's note and plots if they are due."""
        if self.clock() >= self._due_s:
            self.finish()

    def finish(self) -> None:
        """Write everything; call it when the study ends, too."""
        if self.only_trials:
            return
        begin_s = self.clock()
        self._with_files(lambda artifacts: annotate_study(self.study, artifacts=artifacts))
        end_s = self.clock()
        self._due_s = end_s + max(MIN_INTERVAL_S, (end_s - begin_s) / MAX_SHARE_OF_TIME)

    def _with_files(self, annotate: Callable[[Path | None], None]) -> None:
        """Annotate; once files can't be written, go on without them: no result depends on them."""
        try:
            annotate(self.artifacts)
        except OSError as error:
            self.say(f"trials' files can't be kept in {self.artifacts}: {error.strerror}; the study continues without them")
            self.artifacts = None
            annotate(None)


def keep_annotated(
    storage: "RetryingStorage",
    stop: threading.Event,
    *,
    artifacts: Path | None,
    interval_s: float = 5.0,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Annotate every study of a storage that `tradeoff` made, again whenever trials have ended, until `stop` is set.

    It is for the process that serves the dashboard.

    Raises:
        optuna.exceptions.StorageInternalError: The storage can't be written.
    """
    from tradeoff.studies.storage.stored_study import StoredStudy

    seen: dict[str, tuple[int, int]] = {}
    studies: dict[str, StoredStudy] = {}
    refused: set[str] = set()
    while True:
        begin_s = time.monotonic()
        for frozen in storage.get_all_studies():
            if "config" not in frozen.user_attrs or frozen.user_attrs.get(SCHEMA_ATTRIBUTE) != SCHEMA:
                continue
            name = frozen.study_name
            try:
                if (study := studies.get(name)) is None:
                    study = studies[name] = StoredStudy(name, storage)
                trials = study.get_trials(deepcopy=False)
                state = (len(trials), sum(trial.state.is_finished() for trial in trials))
                if seen.get(name) != state:
                    annotate_study(study, artifacts=artifacts)
                    seen[name] = state
            except StudyGoneError:
                continue
            except StorageError:
                raise
            except TradeoffError as error:  # damaged: the others are none the worse for it
                if name not in refused:
                    refused.add(name)
                    warn(str(error))
        # A study of a thousand trials takes seconds to draw: it gets at most a tenth of a core.
        if stop.wait(max(interval_s, 9 * (time.monotonic() - begin_s))):
            return


def _entries(study: "StoredStudy") -> DashboardEntries:
    return DashboardEntries(
        attributes=study.storage.get_study_system_attrs(study.study_id),
        write=partial(study.storage.set_study_system_attr, study.study_id),
        max_text_length=study.storage.database.max_text_length,
    )


def _annotate_trial(
    study: "StoredStudy",
    record: TrialRecord,
    entries: DashboardEntries,
    *,
    artifacts: Path | None,
    log: str | None = None,
) -> None:
    trial_id = study.trial_id(record.number)
    entries.save_note(trial_note(record), trial_id=trial_id)
    if artifacts is None:
        return
    for name, text in trial_files(record, log=log).items():
        # The same file of the same trial has the same name in the store, whoever writes it.
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"tradeoff:{study.study_name}:{trial_id}:{name}"))
        if not entries.has_file(trial_id, identifier):
            _store_file(artifacts, identifier, text)
            entries.list_file(trial_id, identifier, name)


def _store_file(directory: Path, identifier: str, text: str) -> None:
    from optuna.artifacts import FileSystemArtifactStore

    directory.mkdir(parents=True, exist_ok=True)
    FileSystemArtifactStore(directory).write(identifier, io.BytesIO(text.encode()))

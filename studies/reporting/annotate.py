"""Writes a study's notes, plots and files into its storage, where optuna-dashboard shows them.

The formats are optuna-dashboard's own (`optuna_dashboard._note`, `._custom_plot_data`, `.artifact._backend`), written here
directly: importing it takes seconds, and it cuts a text into dozens of pieces, a transaction for each. One piece is one write,
so a reader never sees half a plot while another process writes the same.

A search writes nothing while its trial runs, so no measurement is disturbed. A trial's note takes a few writes once it has
ended; the study's note and plots are refreshed between trials, as seldom as keeps them below a hundredth of the time, and at
the end. `tradeoff dashboard` refreshes them when it starts and while it serves.
"""

import csv
import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.notes import study_note, trial_note
from tradeoff.studies.results.results import StudyResults, read_results

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

# What a person writes below this line of a note is theirs. A note without the line has been taken over, and is left alone.
NOTE_END = "*Kept up to date by tradeoff; what you write below this line stays.*"
# What the smallest text column holds (MySQL's), less what escaping adds.
MAX_PIECE = 30_000
MIN_INTERVAL_S = 10.0
MAX_SHARE_OF_TIME = 0.01

_NOTE = "dashboard:{}note_"
_PLOT = "dashboard:plot_data:{}:"
_ARTIFACT = "dashboard:artifacts:{}:"


def annotate_trial(
    study: "optuna.Study", record: TrialRecord, *, artifacts: Path | None = None, log: str | None = None
) -> None:
    """Writes the note of a trial that has ended, and its files; what has not changed is not written again.

    Args:
        study: The trial's study.
        record: The trial.
        artifacts: The folder of Optuna's `FileSystemArtifactStore`; without one no files are kept.
        log: What the trial's process printed, where it is at hand.
    """
    attributes = study._storage.get_study_system_attrs(study._study_id)
    _annotate_trial(study, record, attributes, artifacts=artifacts, log=log)


def annotate_study(study: "optuna.Study", *, artifacts: Path | None = None) -> None:
    """Writes the note and the plots of a study, and what its trials lack."""
    results = read_results(study)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    for record in results.records:
        if record.outcome is not None:
            _annotate_trial(study, record, attributes, artifacts=artifacts)
    _save_note(study, attributes, "", study_note(results))
    for name, figure in _figures(results).items():
        _save_text(study, attributes, _PLOT.format(name), figure)


def artifact_folder(storage: "BaseStorage") -> Path:
    """Where a storage's artifacts are: `TRADEOFF_ARTIFACTS`, else a folder beside a SQLite file or in the working folder."""
    if folder := os.environ.get("TRADEOFF_ARTIFACTS"):
        return Path(folder)
    # Optuna wraps a database in a cache once a study is loaded from it.
    backend = getattr(storage, "_backend", storage)
    url = getattr(backend, "url", "")
    if str(url).startswith("sqlite:///"):
        path = Path(str(url).removeprefix("sqlite:///").partition("?")[0])
        return path.with_name(f"{path.stem}-artifacts")
    return Path("tradeoff-artifacts")


@dataclass(kw_only=True)
class Annotator:
    """Keeps a running study's notes and plots up to date, between its trials.

    Attributes:
        study: The study.
        artifacts: Where the trials' files go; None for nowhere.
        say: Shows a line to the user.
        only_trials: Whether the study's own note and plots are left to another process.
        clock: Seconds that only grow.
    """

    study: "optuna.Study"
    artifacts: Path | None = None
    say: Callable[[str], None] = lambda _: None
    only_trials: bool = False
    clock: Callable[[], float] = time.monotonic
    _due_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._due_s = self.clock() + MIN_INTERVAL_S

    def trial_ended(self, record: TrialRecord, *, log: str | None = None) -> None:
        """Writes the trial's note and files, and if it is time the study's note and plots."""
        self._with_files(lambda artifacts: annotate_trial(self.study, record, artifacts=artifacts, log=log))
        if self.clock() >= self._due_s:
            self.finish()

    def finish(self) -> None:
        """Writes everything: to be called when the study ends, too."""
        if self.only_trials:
            return
        begin_s = self.clock()
        self._with_files(lambda artifacts: annotate_study(self.study, artifacts=artifacts))
        end_s = self.clock()
        self._due_s = end_s + max(MIN_INTERVAL_S, (end_s - begin_s) / MAX_SHARE_OF_TIME)

    def _with_files(self, annotate: Callable[[Path | None], None]) -> None:
        """Annotates, without files from the moment on at which they can't be written: no result depends on them."""
        try:
            annotate(self.artifacts)
        except OSError as error:
            self.say(f"trials' files can't be kept in {self.artifacts}: {error.strerror}; the study goes on without them")
            self.artifacts = None
            annotate(None)


def keep_annotated(storage: "BaseStorage", stop: threading.Event, *, artifacts: Path | None, interval_s: float = 5.0) -> None:
    """Annotates every study of a storage that `tradeoff` made, again whenever trials have ended, until `stop` is set.

    For the process that serves the dashboard, which only then costs anything.

    Raises:
        optuna.exceptions.StorageInternalError: The storage can't be written.
    """
    import optuna

    seen: dict[int, tuple[int, int]] = {}
    studies: dict[int, optuna.Study] = {}
    while True:
        begin_s = time.monotonic()
        for frozen in storage.get_all_studies():
            if "config" not in frozen.user_attrs:
                continue
            try:
                if (study := studies.get(frozen._study_id)) is None:
                    study = optuna.load_study(study_name=frozen.study_name, storage=storage)
                    studies[frozen._study_id] = study
                trials = study.get_trials(deepcopy=False)
                state = (len(trials), sum(trial.state.is_finished() for trial in trials))
                if seen.get(frozen._study_id) != state:
                    annotate_study(study, artifacts=artifacts)
                    seen[frozen._study_id] = state
            except KeyError:
                continue  # deleted meanwhile
        # A study of a thousand trials takes seconds to draw: a tenth of a core is the most that it gets.
        if stop.wait(max(interval_s, 9 * (time.monotonic() - begin_s))):
            return


def _annotate_trial(
    study: "optuna.Study",
    record: TrialRecord,
    attributes: Mapping[str, Any],
    *,
    artifacts: Path | None,
    log: str | None = None,
) -> None:
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, record.number)
    _save_note(study, attributes, f"{trial_id}:", trial_note(record))
    if artifacts is None:
        return
    for name, text in trial_files(record, log=log).items():
        # The same file of the same trial has the same name in the store, whoever writes it.
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"tradeoff:{study.study_name}:{trial_id}:{name}"))
        key = _ARTIFACT.format(trial_id) + identifier
        if key in attributes:
            continue
        _store_file(artifacts, identifier, text)
        # A trial that has ended takes no more attributes of its own; the dashboard looks among the study's too.
        kind = "text/csv" if name.endswith(".csv") else "text/plain"
        meta = {"artifact_id": identifier, "filename": name, "mimetype": kind, "encoding": None}
        study._storage.set_study_system_attr(study._study_id, key, json.dumps(meta))


def trial_files(record: TrialRecord, *, log: str | None = None) -> dict[str, str]:
    """The text of a trial's files by name: its learning curve and its memory over time as CSV, its log."""
    training = record.attributes.get("training") or {}
    files = {}
    if curve := training.get("curve"):
        names = [name for name in curve[0] if name != "metrics"]
        files["curve.csv"] = _as_csv(names, [[point.get(name) for name in names] for point in curve])
    if samples := training.get("memory_samples"):
        files["memory.csv"] = _as_csv(["time_s", "memory_mib"], samples)
    if text := log or record.attributes.get("traceback"):
        files["log.txt"] = str(text)
    return files


def _as_csv(header: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _store_file(folder: Path, identifier: str, text: str) -> None:
    from optuna.artifacts import FileSystemArtifactStore

    folder.mkdir(parents=True, exist_ok=True)
    FileSystemArtifactStore(folder).write(identifier, io.BytesIO(text.encode()))


def _figures(results: StudyResults) -> dict[str, str]:
    """The plots as JSON by name, each with its title, which the dashboard does not show otherwise."""
    from tradeoff.studies.reporting.plots import study_plots

    found = {}
    for plot in study_plots(results):
        margin = plot.figure.layout.margin.t
        plot.figure.update_layout(
            title={"text": plot.title, "x": 0.01, "y": 0.985, "yanchor": "top", "font": {"size": 15}},
            margin={"t": margin + 28},
        )
        found[plot.name] = plot.figure.to_json()
    return found


def _save_note(study: "optuna.Study", attributes: Mapping[str, Any], owner: str, text: str) -> None:
    prefix = _NOTE.format(owner)
    before = _text(attributes, f"{prefix}str:")
    kept = ""
    if before:
        _, line, kept = before.partition(NOTE_END)
        if not line:
            return
    text = f"{text}\n---\n{NOTE_END}{kept}"
    if text != before:
        _save_text(study, attributes, f"{prefix}str:", text)
        # A version that grows makes the dashboard refuse to overwrite what its user has not seen.
        study._storage.set_study_system_attr(study._study_id, f"{prefix}ver", attributes.get(f"{prefix}ver", 0) + 1)


def _text(attributes: Mapping[str, Any], prefix: str) -> str:
    pieces: list[str] = []
    while (piece := attributes.get(f"{prefix}{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def _save_text(study: "optuna.Study", attributes: Mapping[str, Any], prefix: str, text: str) -> None:
    """Stores a text in as few pieces as the storage allows, and empties what is left of a longer one."""
    if text == _text(attributes, prefix):
        return
    size = MAX_PIECE if _may_be_mysql(study) else max(1, len(text))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    while f"{prefix}{len(pieces)}" in attributes:
        pieces.append("")
    for position, piece in enumerate(pieces):
        study._storage.set_study_system_attr(study._study_id, f"{prefix}{position}", piece)


def _may_be_mysql(study: "optuna.Study") -> bool:
    # What is behind a gRPC proxy is not known.
    backend = getattr(study._storage, "_backend", study._storage)
    return str(getattr(backend, "url", "")).startswith(("mysql", "mariadb", "grpc"))

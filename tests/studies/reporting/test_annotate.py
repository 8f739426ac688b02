import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from memory_storage import in_memory
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard.artifact._backend import list_trial_artifacts
from stored_studies import completed, make_study, out_of_memory, params

from tradeoff.objectives.measurements.records import read_record
from tradeoff.studies.reporting.annotate import (
    Annotator,
    annotate_study,
    annotate_trial,
    artifact_folder,
    keep_annotated,
)
from tradeoff.studies.reporting.dashboard_entries import NOTE_END
from tradeoff.studies.reporting.trial_files import trial_files
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import open_storage

TRAINING = {
    "curve": [{"epoch": 1.0, "num_samples": 100, "accuracy": 0.7, "metrics": {}}],
    "memory_samples": [[0.0, 800.0], [0.5, 900.0]],
}
TRIALS = (completed((0.8, 40.0, 900.0), params(8), training=TRAINING), out_of_memory(params(64)))


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return make_study(open_storage(str(tmp_path / "a.db")), TRIALS)


def note_of(study: optuna.Study, number: int) -> str:
    trial = study.get_trials()[number]
    # The dashboard reads a trial's note by the trial's id; it offers that for running trials alone.
    return optuna_dashboard._note.get_note_from_system_attrs(attributes(study), trial._trial_id)["body"]


def attributes(study: optuna.Study) -> dict[str, Any]:
    return study.storage.get_study_system_attrs(study.study_id)


def last_record(study: optuna.Study):
    return read_record(study.get_trials()[-1], ("accuracy", "train_time_s", "peak_memory_mib"))


def test_the_dashboard_reads_the_notes_and_the_plots(study: optuna.Study) -> None:
    annotate_study(study)
    assert optuna_dashboard.get_note(study).startswith("## stars\n")
    assert note_of(study, 1).startswith("### 64 x 1, fp32\n\n**Out of memory**: `out of memory in the probe`\n")
    plots = get_plotly_graph_objects(attributes(study))
    assert {"accuracy-over-train-time-s", "curves"} <= plots.keys()
    shown = json.loads(plots["accuracy-over-train-time-s"])
    assert shown["layout"]["title"]["text"] == "Accuracy over training time"


def test_what_has_not_changed_is_not_written_again(study: optuna.Study) -> None:
    annotate_study(study)
    before = attributes(study)
    annotate_study(study)
    assert attributes(study) == before
    assert before["dashboard:note_ver"] == 1


def test_what_a_person_writes_below_the_line_stays(study: optuna.Study) -> None:
    annotate_study(study)
    optuna_dashboard.save_note(study, optuna_dashboard.get_note(study) + "\n\nTrial 0 is good enough. " + "x" * 5000)
    study.add_trial(completed((0.9, 30.0, 800.0), params(16)))
    annotate_study(study)
    note = optuna_dashboard.get_note(study)
    assert "3 trials: 2 completed" in note
    assert note.endswith("Trial 0 is good enough. " + "x" * 5000)


def test_a_note_that_a_person_has_replaced_is_left_alone(study: optuna.Study) -> None:
    annotate_study(study)
    optuna_dashboard.save_note(study, "Mine.")
    annotate_study(study)
    assert optuna_dashboard.get_note(study) == "Mine."


def test_a_text_that_has_become_shorter_leaves_nothing_of_the_longer_one(study: optuna.Study) -> None:
    annotate_study(study)
    optuna_dashboard.save_note(study, "x" * 10_000 + NOTE_END)
    annotate_study(study)
    assert optuna_dashboard.get_note(study).startswith("## stars\n")
    assert "xxx" not in optuna_dashboard.get_note(study)


def test_a_trials_files_are_kept_once_and_found_by_the_dashboard(study: optuna.Study, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for _ in range(2):
        annotate_study(study, artifacts=folder)
    trial = study.get_trials()[0]
    listed = list_trial_artifacts(attributes(study), {}, trial)
    assert sorted((meta["filename"], meta["mimetype"]) for meta in listed) == [
        ("curve.csv", "text/csv"),
        ("memory.csv", "text/csv"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(meta["artifact_id"] for meta in listed)


def test_the_files_of_a_trial_are_its_curve_its_memory_and_its_log(study: optuna.Study) -> None:
    record = read_record(study.get_trials()[0], ("accuracy", "train_time_s", "peak_memory_mib"))
    files = trial_files(record, log="a line\n")
    (point,) = csv.DictReader(files["curve.csv"].splitlines())
    assert point == {"epoch": "1.0", "num_samples": "100", "train_time_s": "1.0", "accuracy": "0.7"}
    assert files["memory.csv"] == "time_s,memory_mib\n0.0,800.0\n0.5,900.0\n"
    assert files["log.txt"] == "a line\n"


def test_artifacts_are_beside_a_sqlite_file_unless_another_folder_is_named(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRADEOFF_ARTIFACTS", raising=False)
    assert artifact_folder(study.storage) == tmp_path / "a-artifacts"
    assert artifact_folder(in_memory()) == Path("tradeoff-artifacts")
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", "/data/files")
    assert artifact_folder(study.storage) == Path("/data/files")


def test_while_a_study_runs_plots_are_drawn_as_seldom_as_they_cost(study: optuna.Study) -> None:
    now = iter([0.0, 10.0, 10.0, 12.0, 150.0, 211.9, 212.0, 212.0, 213.0])
    annotator = Annotator(study=study, clock=lambda: next(now))
    drawn = []
    for batch in (1, 2, 4, 16):
        study.add_trial(completed((0.9, 30.0, 800.0), params(batch)))
        annotator.trial_ended(last_record(study))
        drawn.append(f"{len(study.get_trials())} trials" in optuna_dashboard.get_note(study))
        assert note_of(study, last_record(study).number).startswith(f"### {batch} x 1")
    # The first drawing took 2 s: the next one is due 200 s after it.
    assert drawn == [True, False, False, True]


def test_a_trial_that_ends_is_noted_without_a_word_about_the_others(study: optuna.Study) -> None:
    annotate_trial(study, last_record(study))
    assert note_of(study, 1)
    assert not note_of(study, 0)
    assert not optuna_dashboard.get_note(study)


def test_studies_are_kept_annotated_until_it_is_stopped(study: optuna.Study) -> None:
    other = optuna.create_study(study_name="other", storage=study.storage)

    class Rounds(threading.Event):
        """Lets three rounds pass, with a trial that ends between the first two."""

        def __init__(self) -> None:
            super().__init__()
            self.rounds = self._go()

        def _go(self) -> Iterator[bool]:
            assert "2 trials" in optuna_dashboard.get_note(study)
            study.add_trial(completed((0.9, 30.0, 800.0), params(16)))
            yield False
            assert "3 trials" in optuna_dashboard.get_note(study)
            yield True

        def wait(self, timeout: float | None = None) -> bool:
            return next(self.rounds)

    keep_annotated(study.storage, Rounds(), artifacts=None)
    assert "3 trials" in optuna_dashboard.get_note(study)
    assert not optuna_dashboard.get_note(other)


def test_a_search_goes_on_while_another_thread_annotates_its_storage(study: optuna.Study, tmp_path: Path) -> None:
    stop = threading.Event()
    reader = open_storage(str(tmp_path / "a.db"), create=False)
    thread = threading.Thread(target=keep_annotated, args=(reader, stop), kwargs={"artifacts": None, "interval_s": 0.01})
    thread.start()
    try:
        study.optimize(_as_measured, n_trials=12)
    finally:
        stop.set()
        thread.join()
    assert [trial.state.name for trial in study.get_trials()[2:]] == ["COMPLETE"] * 12
    annotate_study(study)
    # They draw from seven configurations: of each the last trial stands.
    records = read_results(study).records
    standing = sum(record.outcome == "completed" for record in records)
    superseded = sum(record.outcome == "superseded" for record in records)
    counts = f"14 trials: {standing} completed, 1 out of memory, {superseded} superseded."
    assert counts in optuna_dashboard.get_note(study)
    assert standing + superseded == 13


def _as_measured(trial: optuna.Trial) -> tuple[float, float, float]:
    trial.suggest_categorical("per_device_train_batch_size", (1, 2, 4, 8, 16, 32, 64))
    trial.set_user_attr("outcome", "completed")
    return 0.5 + trial.number / 100, 10.0 + trial.number, 100.0

"""The dashboard's private formats: these tests fail when a version of it reads other ones."""

from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs
from optuna_dashboard.artifact._backend import list_trial_artifacts

from tradeoff.studies.reporting.dashboard_entries import NOTE_END, DashboardEntries


@pytest.fixture
def attributes() -> dict[str, Any]:
    return {}


def entries(attributes: dict[str, Any], max_text_length: int | None = None) -> DashboardEntries:
    return DashboardEntries(attributes=attributes, write=attributes.__setitem__, max_text_length=max_text_length)


@pytest.mark.parametrize("max_text_length", [None, 7])
def test_the_dashboard_reads_notes_and_plots_however_they_are_cut(attributes: dict[str, Any], max_text_length: int) -> None:
    written = entries(attributes, max_text_length)
    written.save_note("of the study")
    written.save_note("of the trial", trial_id=3)
    written.save_plot("front", '{"data": [], "layout": {}}')
    assert get_note_from_system_attrs(attributes, None)["body"] == f"of the study\n---\n{NOTE_END}"
    assert get_note_from_system_attrs(attributes, 3) == {"version": 1, "body": f"of the trial\n---\n{NOTE_END}"}
    assert get_plotly_graph_objects(attributes) == {"front": '{"data": [], "layout": {}}'}


def test_the_dashboard_lists_a_trials_files_among_the_studys_attributes(attributes: dict[str, Any]) -> None:
    storage = optuna.storages.InMemoryStorage()
    trial_id = storage.create_new_trial(storage.create_new_study([optuna.study.StudyDirection.MINIMIZE]))
    written = entries(attributes)
    assert not written.has_file(trial_id, "an-id")
    written.list_file(trial_id, "an-id", "curve.csv")
    assert written.has_file(trial_id, "an-id")
    assert list_trial_artifacts(attributes, {}, storage.get_trial(trial_id)) == [
        {"artifact_id": "an-id", "filename": "curve.csv", "mimetype": "text/csv", "encoding": None}
    ]


def test_what_the_dashboard_writes_is_read(attributes: dict[str, Any]) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="stars", storage=storage)
    optuna_dashboard.save_note(study, f"ours\n---\n{NOTE_END}\ntheirs " + "x" * 5000)
    attributes |= storage.get_study_system_attrs(storage.get_study_id_from_name("stars"))
    entries(attributes).save_note("new")
    assert get_note_from_system_attrs(attributes, None)["body"] == f"new\n---\n{NOTE_END}\ntheirs " + "x" * 5000

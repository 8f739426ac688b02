import shutil
from pathlib import Path

import pytest
from running import cache_folder, prepared, request, shared_server, tiny_job

from tradeoff.objectives.isolation.trial_server import JobError
from tradeoff.objectives.measurements.outcome import Failed


def test_the_device_is_described_with_the_precisions_it_has() -> None:
    device = shared_server().describe_device()
    assert "fp32" in device["precisions"]
    assert device["total_memory_mib"] > 0
    assert device["name"]


def test_preparing_answers_with_the_facts_of_the_data() -> None:
    facts = prepared(tiny_job())
    assert (facts["num_train"], facts["num_eval"], facts["num_labels"]) == (64, 32, 5)
    assert sum(facts["label_counts"]) == 64
    assert Path(facts["folder"]).parent == cache_folder()


def test_data_that_was_deleted_is_a_failure_with_its_traceback(tmp_path: Path) -> None:
    facts = shared_server().prepare(tiny_job(data_seed=7).model_dump(), tmp_path)
    shutil.rmtree(facts["folder"])
    outcome = shared_server().run_trial(request() | {"data_folders": facts["folders"]})
    assert isinstance(outcome, Failed)
    assert outcome.stage == "data"
    assert "prepared.json must be as it was written" in outcome.reason
    assert outcome.traceback.startswith("Traceback (most recent call last)")
    assert outcome.measurements.trial_time_s is None


def test_an_error_in_a_stage_names_the_stage_and_keeps_what_was_measured() -> None:
    outcome = shared_server().run_trial(request(tiny_job(optim="adamw_bnb_8bit")))
    assert isinstance(outcome, Failed)
    assert outcome.stage == "probe"
    assert "bitsandbytes" in outcome.reason
    assert outcome.measurements.trial_time_s is not None
    assert "context" in outcome.measurements.memory_by_stage_mib


def test_a_request_that_is_no_job_is_a_failure_and_not_a_crash() -> None:
    outcome = shared_server().run_trial(request() | {"job": {"epochs": -1}})
    assert isinstance(outcome, Failed)
    assert "epochs" in outcome.traceback


def test_an_error_outside_of_every_stage_leaves_its_traceback() -> None:
    outcome = shared_server().run_trial(request() | {"task": "prepare"})
    assert isinstance(outcome, Failed)
    assert outcome.reason == "the trial's process ended with exit code 1 and no answer, in stage 'data'"
    assert outcome.traceback.endswith("KeyError: 'cache_folder'")


def test_a_column_that_the_data_lacks_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,stars\nfine,1\n")
    with pytest.raises(
        JobError, match=r"label_column must name a column of .*reviews\.csv, got 'label'; its columns are stars, text"
    ):
        shared_server().prepare(tiny_job(dataset=str(tmp_path / "reviews.csv")).model_dump(), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))

"""Training an exported configuration to a model: measured values beside expected ones, and a training that survives a kill."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported_studies import TINY, made_up
from forked import run_python
from stored_studies import params, record

from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import RANDOM_TOKENS, BuiltInJob
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.expected import comparison_lines, expected_measurements
from tradeoff.studies.export.export import export
from tradeoff.studies.export.exported import full_job
from tradeoff.studies.export.train import train_export
from tradeoff.studies.results.selection import Selection, choose

# Long enough to be killed in the middle: 320 steps, a checkpoint every 16.
LONGER = TINY.model_copy(update={"train_samples": 320, "epochs": 2.0})
TALKS = CausalLMJob(train_samples=320, eval_samples=16, max_length=64, epochs=2.0, learning_rate=1e-3, seed=3)
HUB = TextClassificationJob(dataset="someone/reviews", train_samples=100)


def exported(folder: Path, job: BuiltInJob, batch: int, **settings: Any) -> Path:
    figures = {"training": {"num_samples": 64, "num_steps": 8}, "samples_per_s": 6.4, "context_mib": 400.0}
    results = made_up(record(0, (0.25, 10.0, 100.0), params(batch) | settings, **figures), job=job)
    export(results, choose(results, Selection()), folder)
    return folder


def train(folder: Path, output: Path) -> tuple[str, ...]:
    """What Python runs for `tradeoff train`."""
    return "-c", "from tradeoff.studies.cli.main import main; main()", "train", str(folder), "--output", str(output)


def start(folder: Path, output: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, *train(folder, output)]
    environment = {**os.environ, "TRADEOFF_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    return printed


def results_in(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "results.json").read_text()))


@pytest.mark.parametrize(
    ("job", "settings", "learned"),
    [(LONGER, {}, "accuracy"), (TALKS, {"packing": True, "lora_rank": 2}, "token_accuracy")],
    ids=["classifier", "packed language model with adapters"],
)
def test_a_training_that_is_killed_goes_on_and_ends_as_if_nothing_had_happened(
    job: BuiltInJob, settings: dict[str, Any], learned: str, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    folder, cache = exported(tmp_path / "chosen", job, 2, **settings), tmp_path / "cache"
    done = run_python(
        *train(folder, tmp_path / "whole"), folder=tmp_path, environment={**os.environ, "TRADEOFF_CACHE": str(cache)}
    )
    assert done.returncode == 0, done.stderr

    killed = start(folder, tmp_path / "model", cache)
    while not list(tmp_path.glob("model/checkpoints/*/tradeoff-complete.json")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(timeout=30) == -signal.SIGKILL
    killed.communicate()
    assert not (tmp_path / "model" / "results.json").exists()
    printed = finish(start(folder, tmp_path / "model", cache))

    whole, resumed = results_in(tmp_path / "whole"), results_in(tmp_path / "model")
    assert whole["resumed_from_step"] is None
    num_steps = int(whole["measured"]["num_steps"])
    assert num_steps == 320 or (settings["packing"] and 100 < num_steps < 320)
    assert resumed["resumed_from_step"] in range(math.ceil(num_steps / 20), num_steps)
    for name in (learned, "eval_loss", "num_steps"):
        assert resumed["measured"][name] == whole["measured"][name]
    weights = "adapter_model.safetensors" if job is TALKS else "model.safetensors"
    ours, theirs = (load_file(tmp_path / name / weights) for name in ("whole", "model"))
    assert ours
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert not (tmp_path / "model" / "checkpoints").exists()
    assert "accuracy" in printed
    assert ("(expected 0.250)" in printed) == (job is LONGER)
    assert "'eval_loss'" not in done.stdout + printed  # as the Trainer prints it
    assert "FutureWarning" not in printed


def test_a_training_ends_with_a_model_that_loads_and_results_beside_the_expected_ones(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, output = exported(tmp_path / "chosen", TINY, 16), tmp_path / "model"
    printed = finish(start(folder, output, tmp_path / "cache"))
    assert "[transformers]" not in printed  # of checkpoints whose order their dates don't tell, for one
    assert "Loading weights" not in printed
    assert "FutureWarning" not in printed
    assert "\nepoch 1: accuracy " in printed
    results = results_in(output)
    assert results["expected"]["accuracy"] == 0.25
    assert results["expected"]["train_time_s"] == 10.0
    assert results["expected"]["peak_memory_mib"] == 100.0
    assert results["measured"]["num_steps"] == 4
    assert 0 <= results["measured"]["accuracy"] <= 1
    assert results["measured"]["train_time_s"] > 0
    assert results["measured"]["peak_memory_mib"] > 0
    assert (results["num_train"], results["num_eval"]) == (64, 32)
    model = AutoModelForSequenceClassification.from_pretrained(output)
    tokens = AutoTokenizer.from_pretrained(output)("the food was good", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 5)

    with pytest.raises(TradeoffError, match="holds a finished training"):
        train_export(folder, output)


def test_a_kill_after_the_last_checkpoint_costs_no_more_than_the_last_evaluation(tmp_path: Path) -> None:
    """In a process of its own: a training changes settings of torch."""
    code = f"""
import dataclasses, json, pathlib
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.trial.retraining import last_checkpoint, retrain
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters
job = TextClassificationJob(**{TINY.model_dump()!r})
folder = pathlib.Path({str(tmp_path)!r})
data, output = load_workload(job, prepare_workload(job, folder / "cache")["folders"]), folder / "model"
output.mkdir()
def run():
    return retrain(job, TrialParameters(per_device_train_batch_size=8), data, start_device(), output=output,
                   on_progress=lambda event: said.extend(event[name] for name in event if name == "notice"))
said = []
first = run()
checkpoint, before = last_checkpoint(output / "checkpoints")
assert before["step"] == 8, before
marker = checkpoint / "tradeoff-complete.json"
marker.write_text(json.dumps(before | {{"curve": []}}))
unfinished = output / "checkpoints" / "checkpoint-9"
unfinished.mkdir()
second = run()
assert not unfinished.exists()
assert said == []
assert second.resumed_from_step == 8
a, b = first.measurements.training, second.measurements.training
assert [point.epoch for point in a.curve] == [point.epoch for point in b.curve] == [1.0]
assert a.curve[0].eval_loss == b.curve[0].eval_loss
assert b.num_steps == 8 and b.num_samples == 64
(checkpoint / "optimizer.pt").write_bytes(b"cut off")
third = run()
assert third.resumed_from_step == 7, third
removed = "was damaged (ValueError) and is removed; the training resumes before it"
assert said == ["the checkpoint " + str(checkpoint) + " " + removed], said
"""
    done = run_python("-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_all_samples_of_a_job_are_those_the_data_has_and_generated_ones_stay_as_many() -> None:
    assert full_job(HUB, "all").train_samples is None
    assert full_job(HUB, "study").train_samples == 100
    assert full_job(HUB, "5000").train_samples == 5000
    assert full_job(TINY, "all").train_samples == 64
    for wrong in ("0", "many", "-1", "1.5"):
        with pytest.raises(TradeoffError, match="--train-samples must be"):
            full_job(HUB, wrong)


def test_the_expected_time_grows_with_the_samples_and_nothing_else_does() -> None:
    found = expected_measurements(
        {
            "values": {"accuracy": {"value": 0.6}, "train_time_s": {"value": 30.0}, "peak_memory_mib": {"value": 900.0}},
            "measured": {"num_samples": 300, "samples_per_s": 10.0},
            "memory_mib": {"peak_memory_mib": 900.0, "context_mib": 400.0},
            "job": {"epochs": 3, "train_samples": 100},
        },
        num_train=1000,
    )
    # 100 samples in 3 epochs took 30 s: 1,000 samples take 300 s.
    assert found == {
        "accuracy": 0.6,
        "train_time_s": 300.0,
        "samples_per_s": 10.0,
        "peak_memory_mib": 900.0,
        "context_mib": 400.0,
    }


def test_the_expected_time_of_a_trial_that_was_not_trained_itself_is_for_its_jobs_samples() -> None:
    exported = {
        "values": {"train_time_s": {"value": 30.0}},
        "measured": {},
        "memory_mib": {},
        "job": {"epochs": 3, "train_samples": 100},
    }
    assert expected_measurements(exported, num_train=200) == {"train_time_s": 60.0}
    assert expected_measurements(exported | {"job": {"epochs": 3, "train_samples": None}}, num_train=200) == {
        "train_time_s": 30.0
    }


def test_an_expected_value_has_its_spread_and_that_of_the_time_grows_with_the_samples() -> None:
    values = {"accuracy": {"value": 0.6, "std": 0.02}, "train_time_s": {"value": 30.0, "std": 1.5}}
    exported = {
        "values": values,
        "measured": {"num_samples": 300},
        "memory_mib": {},
        "job": {"epochs": 3, "train_samples": 100},
    }
    found = expected_measurements(exported, num_train=200)
    assert found == {"accuracy": 0.6, "accuracy_std": 0.02, "train_time_s": 60.0, "train_time_s_std": 3.0}
    device = {"device": {"name": "Card"}, "expected_device": "Card"}
    lines = comparison_lines({"measured": {"accuracy": 0.61, "train_time_s": 61.0}, "expected": found, **device})
    assert lines == ["accuracy 0.610 (expected 0.600 ± 0.020)", "training time 61.00 s (expected 60.00 ± 3.00)"]


def test_the_comparison_names_both_devices_where_they_differ() -> None:
    lines = comparison_lines(
        {
            "measured": {"accuracy": 0.6, "peak_memory_mib": 1200.0},
            "expected": {"accuracy": 0.62},
            "device": {"name": "Card B"},
            "expected_device": "Card A",
        }
    )
    assert lines == [
        "accuracy 0.600 (expected 0.620)",
        "peak memory 1,200 MiB",
        "the expected time and memory are of Card A, and the measured ones of Card B",
    ]


def test_an_output_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path / "chosen", TINY, 8)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("precious")
    with pytest.raises(TradeoffError, match="must be a new or empty directory"):
        train_export(folder, tmp_path / "taken")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tradeoff-training.json").write_text('{"job": {}}')
    with pytest.raises(TradeoffError, match="holds another training"):
        train_export(folder, tmp_path / "other")
    with pytest.raises(TradeoffError, match="can't be written"):
        train_export(folder, tmp_path / "missing" / "model")


def test_a_training_is_not_resumed_on_data_that_has_changed_but_data_that_could_not_be_read_may_be_mended(
    tmp_path: Path,
) -> None:
    data, output = tmp_path / "reviews.csv", tmp_path / "model"
    data.write_text("text,label\ngood,\n")
    job = TINY.model_copy(update={"dataset": str(data)})
    folder = exported(tmp_path / "chosen", job, 8)
    for text in ("text,label\ngood,\n", "text,label\nfine,\n"):
        data.write_text(text)
        with pytest.raises(TradeoffError, match="a label must be an integer or a word, got nothing in row 1"):
            train_export(folder, output, cache=tmp_path / "cache")
    (output / "checkpoints").mkdir()
    with pytest.raises(TradeoffError, match="got nothing in row 1"):
        train_export(folder, output, cache=tmp_path / "cache")
    data.write_text("text,label\nbad,\n")
    with pytest.raises(TradeoffError, match="holds another training that is not finished"):
        train_export(folder, output, cache=tmp_path / "cache")


def test_a_folder_that_is_no_export_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match="must be a directory that `tradeoff export` wrote"):
        train_export(tmp_path, tmp_path / "model")
    (tmp_path / "tradeoff.yaml").write_text("job: {model: bert, speed: 3}\n")
    with pytest.raises(TradeoffError, match="speed"):
        train_export(tmp_path, tmp_path / "model")


def test_random_tokens_are_refused(tmp_path: Path) -> None:
    job = TINY.model_copy(update={"dataset": RANDOM_TOKENS, "eval_samples": 0})
    parameters = TrialParameters(per_device_train_batch_size=4).as_dict()
    (tmp_path / "tradeoff.yaml").write_text(yaml.safe_dump({"job": job.model_dump(), "parameters": parameters}))
    with pytest.raises(TradeoffError, match="random tokens"):
        train_export(tmp_path, tmp_path / "model")

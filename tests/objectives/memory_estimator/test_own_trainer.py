"""Estimates of Trainers that a user's own function builds, against what real runs of them allocate on a CPU."""

from pathlib import Path

import own_trainers
import pytest
from memory_on_cpu import counted_peak_mib, train
from transformers import TrainingArguments

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.memory_estimator.own_trainer import own_estimator
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory
from tradeoff.objectives.trainers.custom_trainer import build_trainer
from tradeoff.searchspace import TrialParameters

EIGHT = TrialParameters(per_device_train_batch_size=8)
NO_CONTEXT = GpuMemory(context_mib=0, loaded_code_mib=0)


def job(function, **settings):
    return CustomJob(
        build=f"own_trainers:{function}",
        python_path=str(Path(own_trainers.__file__).parent),
        **({"metric": None, "optim": "adamw_torch", "eval_batch_size": 4} | settings),
    )


def estimated_mib(own_job, parameters):
    estimator = own_estimator(own_job, parameters, gpu=NO_CONTEXT, foreach=False, target="cpu")
    [estimate] = estimator.estimate([parameters])
    return estimate.lower_bound_mib


def counted_mib(own_job, parameters, folder):
    arguments = training_arguments(own_job, parameters, output_dir=str(folder)) | {"use_cpu": True, "disable_tqdm": True}
    return counted_peak_mib(lambda: train(build_trainer(own_job, TrainingArguments(**arguments), parameters)))


@pytest.mark.parametrize(
    ("own_job", "changes"),
    [
        (job("tags"), {"gradient_accumulation_steps": 2}),
        (job("tags", metric="eval_right", direction="maximize"), {"precision": "bf16"}),
        (job("translation"), {"gradient_checkpointing": True}),
        (job("images"), {}),
    ],
    ids=["tags", "evaluated tags", "translation", "images"],
)
def test_an_own_trainer_is_estimated_as_it_allocates(own_job, changes, tmp_path):
    parameters = EIGHT.replace(**changes)
    assert estimated_mib(own_job, parameters) == pytest.approx(counted_mib(own_job, parameters, tmp_path), rel=0.02)


def test_an_evaluation_keeps_the_predictions_of_all_batches(monkeypatch):
    monkeypatch.setattr(own_trainers, "TAGS", 5000)
    few, many = (
        own_estimator(job("tags", metric=metric, direction="maximize"), EIGHT, gpu=NO_CONTEXT).estimate([EIGHT])[0]
        for metric in (None, "eval_right")
    )
    # The last of 6 batches is appended to a copy of the others.
    scores_mib = own_trainers.ROWS * own_trainers.LENGTH * 5000 * 4 / 2**20
    assert many.peak_memory_mib - few.peak_memory_mib > scores_mib


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("by_value", "the memory of vit models can't be estimated, since .* depends on the data"),
        ("broken", r"job.build 'own_trainers:broken' fails \(.*own_trainers.py, line \d+\): RuntimeError: no such data"),
        ("missing", "has no function missing"),
    ],
)
def test_what_cant_be_traced_is_a_sentence(function, sentence):
    with pytest.raises(ValueError, match=sentence):
        own_estimator(job(function), EIGHT, gpu=NO_CONTEXT).estimate([EIGHT])

"""What the knowledge of a study takes for granted of real trainings: the first epoch of several is a training of one."""

import pytest
from transformers import PrinterCallback

from tradeoff.objectives.job.arguments import jobs_of_data, name_of_data, training_arguments
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED
from tradeoff.objectives.trainers.prepared_data import prepare
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

SMALL = {"model": EMBEDDED, "dataset": EMBEDDED, "train_samples": 48, "eval_samples": 16, "max_length": 32}
JOBS = {"text_classification": TextClassificationJob(**SMALL), "causal_lm": CausalLMJob(**SMALL | {"max_length": 96})}


def eval_losses(job, epochs, cache):
    """The evaluation loss after each epoch of a training."""
    parameters = TrialParameters(per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=epochs)
    (of_data,) = jobs_of_data(job, {})
    workload = load_workload(job, {name_of_data(job): str(prepare(of_data, cache / "data").folder)})
    settings = training_arguments(job, parameters, output_dir=str(cache / "output")) | {"use_cpu": True}
    settings |= {"disable_tqdm": True, "eval_strategy": "epoch", "logging_strategy": "no", "save_strategy": "no"}
    trainer = workload.trainer(workload.arguments_class(**settings), parameters)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("task", JOBS)
def test_the_first_epoch_of_several_is_a_training_of_one_where_the_rate_does_not_fall(task, tmp_path):
    constant = JOBS[task].model_copy(update={"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2})
    assert eval_losses(constant, 2, tmp_path)[0] == eval_losses(constant, 1, tmp_path)[0]


def test_where_the_rate_falls_to_0_it_is_another_training(tmp_path):
    falling = JOBS["text_classification"]
    assert eval_losses(falling, 2, tmp_path)[0] != eval_losses(falling, 1, tmp_path)[0]

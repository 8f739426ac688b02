import pytest
from pydantic import ValidationError

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import Lora


def test_a_trial_sets_the_fields_of_the_job_that_it_searches():
    job = job_of(
        TextClassificationJob(), {"model": "bert", "max_length": 64, "dropout": 0.2, "frozen_layers": 2, "optim": "sgd"}
    )
    assert (job.model, job.max_length, job.dropout, job.frozen_layers, job.optim) == ("bert", 64, 0.2, 2, "adamw_torch")


def test_a_rank_of_none_trains_without_adapters_whatever_the_job_says():
    job = TextClassificationJob(lora=Lora(r=4))
    assert job_of(job, {"lora_rank": None, "lora_alpha": 3}).lora is None
    assert job_of(job, {}).lora == Lora(r=4)


def test_the_scale_is_the_jobs_or_else_twice_the_rank():
    assert job_of(TextClassificationJob(), {"lora_rank": 16}).lora.settings()["alpha"] == 32
    assert job_of(TextClassificationJob(lora=Lora(alpha=5)), {"lora_rank": 16}).lora.settings()["alpha"] == 5
    assert job_of(TextClassificationJob(lora=Lora(alpha=5)), {"lora_rank": 16, "lora_alpha": 7.0}).lora.settings()["alpha"] == 7


def test_layers_that_get_an_adapter_are_one_word_in_a_search_space():
    lora = job_of(TextClassificationJob(), {"lora_rank": 2, "lora_target_modules": "query, value"}).lora
    assert lora.target_modules == ("query", "value")
    assert Lora(target_modules=["query"]).target_modules == ("query",)


def test_a_job_that_sets_nothing_is_left_as_it_is():
    job = TextClassificationJob()
    assert job_of(job, {"per_device_train_batch_size": 8}) is job


def test_a_function_of_the_users_own_is_given_the_values_and_its_job_is_left_as_it_is():
    job = CustomJob(build="module:build")
    assert job_of(job, {"model": "bert", "lora_rank": 4}) is job


@pytest.mark.parametrize(
    "settings",
    [{"dropout": 1.0}, {"frozen_layers": -1}, {"lora": {"r": 0}}, {"lora": {"target_modules": []}}, {"lora": {"x": 1}}],
)
def test_values_without_a_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        TextClassificationJob(**settings)

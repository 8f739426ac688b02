"""A training of several epochs settles the shorter ones that it contains, where the schedule does not know its end."""

from dataclasses import replace

import pytest
import simulated_runner as simulated

from tradeoff.objectives.job.jobs import CustomJob, TextClassificationJob
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.settled import derived_records
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Categorical, SearchSpace

CONSTANT = TextClassificationJob(train_samples=1000, lr_scheduler_type="constant")
SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "num_train_epochs": Categorical((1, 2, 3, 4)),
        "lr_scheduler_type": Categorical(("constant", "linear")),
    }
)


def trained(number, batch, epochs, accuracies, *, accumulation=1, **parameters):
    curve = [
        {"epoch": float(epoch), "num_samples": 1000 * epoch, "train_time_s": 10.0 * epoch, "accuracy": accuracy}
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    values = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs,
        "lr_scheduler_type": "constant",
    }
    attributes = {
        "accuracy": accuracies[-1],
        "train_time_s": 10.0 * epochs,
        "peak_memory_mib": 500.0,
        "training": {"curve": curve},
    }
    attributes["probe"] = {"micro_step_time_s": 0.04, "optimizer_step_time_s": 0.0}
    return TrialRecord(number=number, outcome="completed", params=values | parameters, attributes=attributes)


def probed(number, batch, accumulation):
    record = trained(number, batch, 1, [0.0], accumulation=accumulation)
    attributes = {name: record.attributes[name] for name in ("peak_memory_mib", "probe")}
    return replace(record, outcome="probed", attributes=attributes)


def known(*records, job=CONSTANT, space=SPACE):
    setup = simulated.setup(space, job=job, num_train=1000)
    return Knowledge.of(records, setup)


def accuracies(knowledge):
    """The accuracy that each settled configuration is known by: of batch, accumulation and epochs."""
    return {
        (r.params["per_device_train_batch_size"], r.params["gradient_accumulation_steps"], r.params["num_train_epochs"]): (
            r.values["accuracy"],
            r.sources["accuracy"],
        )
        for r in derived_records(knowledge)
    }


def test_each_epoch_of_a_constant_schedule_is_a_training():
    found = accuracies(known(probed(6, 4, 2), trained(7, 8, 3, [0.5, 0.6, 0.65])))
    assert found[8, 1, 1] == (0.5, "trained in trial 7")
    assert found[8, 1, 2] == (0.6, "trained in trial 7")
    assert found[4, 2, 2] == (0.6, "trained in trial 7")  # the same effective batch
    assert (8, 1, 4) not in found


def test_a_training_of_its_own_counts_rather_than_a_part_of_another():
    found = accuracies(known(probed(6, 4, 2), trained(7, 8, 1, [0.52]), trained(8, 8, 3, [0.5, 0.6, 0.65])))
    assert found[4, 2, 1] == (0.52, "trained in trial 7")
    assert found[4, 2, 2] == (0.6, "trained in trial 8")


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"lr_scheduler_type": "linear"}, {"lr_scheduler_type": None}),
        ({}, {"lr_scheduler_type": "linear"}),
        ({"warmup_steps": 0.1}, {}),
    ],
    ids=["a job's schedule that falls", "a trial's schedule that falls", "a warm-up that is a share of all steps"],
)
def test_nothing_follows_where_the_steps_depend_on_the_end(changes, parameters):
    job = replace_job(changes)
    record = trained(7, 8, 3, [0.5, 0.6, 0.65], **parameters)
    record = replace(record, params={name: value for name, value in record.params.items() if value is not None})
    assert known(record, job=job).prefixes == {}


def replace_job(changes):
    return TextClassificationJob(**CONSTANT.model_dump() | changes)


def test_a_function_of_the_users_own_may_read_the_number_of_epochs():
    job = CustomJob(build="module:build", metric="accuracy", lr_scheduler_type="constant")
    assert known(trained(7, 8, 3, [0.5, 0.6, 0.65]), job=job).prefixes == {}


def test_an_evaluation_that_is_no_number_settles_nothing():
    knowledge = known(trained(7, 8, 3, [float("nan"), 0.6, 0.65]))
    assert [o.parameters["num_train_epochs"] for o in knowledge.prefixes.values()] == [2]


def test_a_whole_number_of_warm_up_steps_is_a_part_of_every_training():
    job = replace_job({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20})
    space = SearchSpace(domains={name: domain for name, domain in SPACE.domains.items() if name != "lr_scheduler_type"})
    record = trained(7, 8, 3, [0.5, 0.6, 0.65])
    record = replace(record, params={name: value for name, value in record.params.items() if name in space.domains})
    assert len(known(record, job=job, space=space).prefixes) == 2

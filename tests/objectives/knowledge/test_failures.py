"""What failed trials have in common, and what is left out of a search for it."""

from typing import Any

import pytest
import simulated_runner as simulated

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters

SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "gradient_checkpointing": Categorical((False, True)),
        "precision": Categorical(("fp32", "fp16")),
        "attn_implementation": Categorical(("sdpa", "eager")),
    }
)
BOTH: dict[str, Any] = {"attention": "eager", "checkpointing": True}
PROBE = {"micro_step_time_s": 0.1, "optimizer_step_time_s": 0.02, "gradients_mib": 100.0}


def configuration(batch=4, accumulation=1, *, checkpointing=False, precision="fp32", attention="sdpa"):
    return TrialParameters(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        precision=precision,
        attn_implementation=attention,
    )


def probed(*, micro_step_s=0.1, outcome="probed", **chosen):
    probe = PROBE | {"micro_step_time_s": micro_step_s}
    return outcome, configuration(**chosen), None, {"probe": probe, "peak_memory_mib": 100.0}


def trained(outcome="completed", **chosen):
    return outcome, configuration(**chosen), None, {"training": {"curve": []}, "accuracy": 0.5}


def failed(stage="model", outcome="failed", **chosen):
    return outcome, configuration(**chosen), stage, {}


def known(*trials):
    records = [
        TrialRecord(
            number=number, outcome=outcome, params=parameters.as_dict(), reason="no kernel", stage=stage, attributes=attributes
        )
        for number, (outcome, parameters, stage, attributes) in enumerate(trials)
    ]
    return Knowledge.of(records, simulated.setup(SPACE))


def left_out(*trials):
    return [sorted(each.option) for each in known(*trials).failures.left_out]


def test_an_option_that_fails_wherever_it_is_tried_is_left_out():
    trials = [failed(attention="eager"), probed(), probed(batch=8), failed(batch=8, attention="eager")]
    assert left_out(*trials) == [[("attn_implementation", "eager")]]
    knowledge = known(*trials)
    line = (
        "attn_implementation=eager is left out from now on: it failed wherever it was tried, in trials 0, 3;"
        " the last one: no kernel"
    )
    assert str(knowledge.failures.left_out[0]) == line
    assert knowledge.ruled_out(configuration(batch=8, checkpointing=True, attention="eager")) == (
        "attn_implementation=eager failed wherever it was tried"
    )
    assert knowledge.ruled_out(configuration(batch=8, checkpointing=True)) is None


def test_what_fails_for_a_parameter_that_changes_learning_alone_works_without_it():
    setup = simulated.setup(SearchSpace(domains={**SPACE.domains, "weight_decay": Categorical((0.0, 0.1))}))
    works, fails = [(*trial, 0.0) for trial in (probed(), probed(batch=8))], [(*failed(batch=batch), 0.1) for batch in (4, 8)]
    unknown = (*failed(batch=8, checkpointing=True), 0.1)
    records = [
        TrialRecord(
            number=number,
            outcome=outcome,
            params={**parameters, "weight_decay": decay},
            reason="no",
            stage=stage,
            attributes=attributes,
        )
        for number, (outcome, parameters, stage, attributes, decay) in enumerate([unknown, *works, *fails])
    ]
    knowledge = Knowledge.of(records, setup)
    tried = configuration(batch=8, checkpointing=True)
    assert knowledge.ruled_out(tried.replace(weight_decay=0.1)) == "weight_decay=0.1 failed wherever it was tried"
    assert knowledge.ruled_out(tried.replace(weight_decay=0.0)) is None
    assert Knowledge.of(records[:1], setup).ruled_out(tried.replace(weight_decay=0.0)) == "its probe failed or ran out of time"


@pytest.mark.parametrize(
    "trials",
    [
        # One failure, two of the same configuration, one that worked, or nothing to compare with.
        [failed(attention="eager"), probed(), probed(batch=8)],
        [failed(attention="eager"), failed(attention="eager"), probed(), probed(batch=8)],
        [failed(attention="eager"), failed(batch=8, attention="eager"), probed(), probed(batch=8, attention="eager")],
        [failed(attention="eager"), failed(batch=8, attention="eager")],
        # Either eager or checkpointing may be at fault.
        [failed(**BOTH), failed(batch=8, **BOTH), probed(), probed(batch=8)],
    ],
)
def test_nothing_is_left_out_on_weak_evidence(trials):
    assert left_out(*trials) == []


def test_two_options_that_fail_only_together_are_left_out_together():
    both = {"attention": "eager", "precision": "fp16"}
    works = [probed(attention="eager"), probed(precision="fp16"), probed(batch=8, attention="eager")]
    works += [probed(batch=8, precision="fp16"), probed(accumulation=2), probed(checkpointing=True)]
    assert left_out(failed(**both), failed(batch=8, **both), *works) == [
        [("attn_implementation", "eager"), ("precision", "fp16")]
    ]


def test_what_fails_in_training_is_left_out_though_its_probes_work():
    trials = [failed("train", attention="eager"), trained(), trained(batch=8), failed("train", batch=8, attention="eager")]
    assert left_out(*trials, probed(attention="eager")) == [[("attn_implementation", "eager")]]


def test_a_class_is_given_up_for_its_trainings_alone():
    eager = configuration(attention="eager")
    assert not known(failed("model", attention="eager"), failed("model", checkpointing=True)).failures.given_up
    assert not known(failed("train", attention="eager")).failures.given_up
    twice = known(failed("train", attention="eager"), failed("train", checkpointing=True))
    assert twice.failures.given_up == {twice.class_of(eager)}


def test_a_divergence_counts_for_the_class_unless_half_precision_may_be_at_fault():
    assert known(trained("diverged")).failures.given_up
    half = known(trained("diverged", precision="fp16"))
    assert not half.failures.given_up
    assert half.ruled_out(configuration(batch=4, precision="fp16", checkpointing=True)) == (
        "its learning class diverged in half precision"
    )
    assert half.ruled_out(configuration()) is None


def test_what_would_take_as_long_as_a_training_that_ran_out_of_time_is_not_tried():
    knowledge = known(
        probed(micro_step_s=1.0, checkpointing=True),
        probed(micro_step_s=0.9),
        probed(micro_step_s=2.0, attention="eager"),
        failed("train", "timed_out", checkpointing=True),
    )
    assert knowledge.ruled_out(configuration(attention="eager")) == (
        "it is predicted to take as long as a training that ran out of time"
    )
    assert knowledge.ruled_out(configuration()) is None

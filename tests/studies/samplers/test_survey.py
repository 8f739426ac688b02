"""Which probes the survey asks for, on a simulated card: it finds what fits, and little that does not."""

from dataclasses import replace

import pytest
from simulated_runner import BUDGET_MIB, SPACE, UPDATE_S, memory_mib, setup, simulated_probe
from simulated_survey import Survey, largest_that_fits, space

from tradeoff.objectives.measurements.outcome import Completed, Failed, Measurements, OutOfMemory
from tradeoff.searchspace import Categorical, EffectiveBatchSizeRange, IntRange, Precision, SearchSpace, TrialParameters
from tradeoff.studies.samplers.survey import Depth


def test_every_line_with_accumulation_ends_with_the_largest_batch_that_fits_measured():
    survey = Survey(SPACE).run()
    measured, fits = survey.largest_measured(), largest_that_fits(SPACE)
    assert {key: batch for key, batch in measured.items() if key[2]} == {key: batch for key, batch in fits.items() if key[2]}


def test_time_and_memory_of_everything_that_fits_are_known_in_the_end():
    survey = Survey(SPACE).run()
    knowledge = survey.knowledge()
    for p in SPACE.grid():
        if memory_mib(p) <= BUDGET_MIB:
            assert knowledge.cost(p).peak_memory_mib == pytest.approx(memory_mib(p))


def test_few_probes_run_out_of_memory():
    runner = Survey(SPACE).run().runner
    assert len(runner.out_of_memory) <= 4  # one for each way to compute
    assert len(runner.probed) + len(runner.out_of_memory) <= 24


def test_a_range_of_batches_is_surveyed_exactly_in_few_probes():
    every = space(IntRange(1, 64), (1,))
    survey = Survey(every).run()
    assert survey.largest_measured() == largest_that_fits(every)
    # A smallest, a middle and a largest one for each of four lines; one more each to see that no larger one fits.
    assert len(survey.runner.probed) + len(survey.runner.out_of_memory) <= 24


def test_a_range_of_batches_with_accumulation_needs_few_probes_more():
    every = space(IntRange(1, 64))
    survey = Survey(every).run()
    assert {k: b for k, b in survey.largest_measured().items() if k[2]} == {
        k: b for k, b in largest_that_fits(every).items() if k[2]
    }
    assert len(survey.runner.probed) + len(survey.runner.out_of_memory) <= 40


def test_no_configuration_is_probed_twice():
    runner = Survey(SPACE).run().runner
    ran = runner.probed + runner.out_of_memory
    assert len(set(ran)) == len(ran)


def test_a_probe_that_is_running_is_not_proposed_again():
    survey = Survey(SPACE)
    first = survey.next()
    second = survey.next([first])
    assert second not in (first, None)
    assert survey.next([first, second]) not in (first, second)


def test_a_running_probe_of_another_learning_rate_is_the_same_probe():
    survey = Survey(SPACE)
    first = survey.next()
    assert survey.next([first.replace(learning_rate=1e-3)]) != first


def test_a_worker_that_died_takes_no_line_with_it():
    one_line = space(Categorical((1, 2, 4, 8, 16)), (1,), ("fp16",))
    dead = Survey(one_line).next()
    survey = Survey(one_line).run(pending=[dead])
    assert dead not in survey.runner.probed
    assert survey.largest_measured() == largest_that_fits(one_line)
    assert survey.knowledge().cost(dead).source("peak_memory_mib") == "model"


def test_one_batch_is_one_probe_a_line():
    one = space(Categorical((4,)), (1,))
    assert len(Survey(one).run().runner.probed) == 4


def test_rules_that_leave_no_configuration_leave_no_probe():
    nothing = space(Categorical((4,)), effective_batch_size=EffectiveBatchSizeRange(low=1000))
    assert Survey(nothing).next() is None


def test_a_survey_where_nothing_fits_ends():
    survey = Survey(SPACE, budget_mib=500.0).run()
    assert survey.runner.probed == []
    # The smallest batch of each line, with gradients held and without.
    assert len(survey.runner.out_of_memory) == 8


def test_what_fits_without_accumulation_alone_is_found():
    # The gradients are 420 MiB: at 2,900 MiB a batch of 1 fits without them alone, at fp32 without checkpointing.
    assert memory_mib(TrialParameters(per_device_train_batch_size=1)) == 2698
    survey = Survey(SPACE, budget_mib=2900.0).run()
    fits = largest_that_fits(SPACE, 2900.0)
    assert (False, "fp32", True) not in fits
    assert survey.largest_measured()[False, "fp32", False] == fits[False, "fp32", False] == 1


def test_lines_with_two_batches_without_accumulation_and_one_with_it_are_known():
    # At 3,400 MiB: fp32 fits 2 without accumulation, and 1 with it.
    budget_mib = 3400.0
    survey = Survey(SPACE, budget_mib=budget_mib).run()
    assert survey.largest_measured()[False, "fp32", False] == 2
    assert survey.largest_measured()[False, "fp32", True] == 1


def test_a_probe_that_fails_is_not_asked_for_again():
    def fails(p, stages):
        return Failed(stage="model", reason="no such kernel") if p.per_device_train_batch_size == 1 else None

    survey = Survey(space(Categorical((1, 2, 4, 8)), (1,)), instead=fails).run()
    failed = [record for record in survey.records if record.outcome == "failed"]
    assert len(failed) == 2  # then it is clear that the batch is to blame
    assert {key: batch for key, batch in survey.largest_measured().items() if key[1] == "fp32"} == {
        (False, "fp32", False): 8,
        (True, "fp32", False): 8,
    }


def test_the_first_step_surveys_one_way_to_compute():
    survey = Survey(SPACE).run(depth=Depth.FIRST)
    assert {(p.gradient_checkpointing, p.precision.value) for p in survey.runner.probed} == {(False, "fp32")}


def test_a_way_that_is_slower_and_no_smaller_at_the_same_effective_batch_gets_one_probe_at_first():
    def slow_fp16(p, stages):
        if p.precision.value != "fp16":
            return None
        # As large as fp32, and three times as slow.
        like = p.replace(precision=Precision.FP32)
        probe = simulated_probe(like)
        slowed = replace(probe, micro_step_time_s=3 * probe.micro_step_time_s, optimizer_step_time_s=3 * UPDATE_S)
        asked.append(p)
        return Completed(measurements=Measurements(probe=slowed, trial_time_s=1.0))

    asked = []
    survey = Survey(space(Categorical((1, 2, 4, 8))), instead=slow_fp16).run(depth=Depth.PROMISING)
    assert 0 < len(asked) <= 2  # one with checkpointing, one without
    survey.run(depth=Depth.EVERYTHING)
    assert len(asked) > 4


WIDE = {
    "optim": Categorical(("adamw_torch", "adafactor", "sgd")),
    "attn_implementation": Categorical(("sdpa", "eager")),
    "padding": Categorical(("max_length", "longest")),
    "max_length": Categorical((64, 128, 256)),
}


def wide_space(**more):
    return SearchSpace(domains={**SPACE.domains, **WIDE, **more})


def test_in_a_large_space_each_value_is_probed_beside_the_first_ones():
    survey = Survey(wide_space()).run()
    first = {name: domain.examples()[0] for name, domain in WIDE.items()}
    first |= {"gradient_checkpointing": False, "precision": "fp32"}
    for p in survey.runner.probed:
        assert sum(p[name] != value for name, value in first.items()) <= 1, p
    assert {p["max_length"] for p in survey.runner.probed} == {64, 256}
    assert len(survey.runner.probed) + len(survey.runner.out_of_memory) <= 24  # of 144 compute configurations


def test_in_a_large_space_the_costs_of_what_was_not_probed_are_predicted_with_an_error():
    knowledge = Survey(wide_space()).run().knowledge()
    structures = knowledge.setup.space.structures
    costs = {p: cost for p in structures if (cost := knowledge.cost(p)) is not None}
    assert len(costs) > 0.8 * len(structures)
    unprobed = [p for p in costs if knowledge.memory.measured_mib(p) is None]
    deviations = sorted(abs(costs[p].peak_memory_mib - memory_mib(p)) / costs[p].error("peak_memory_mib") for p in unprobed)
    assert deviations[int(0.9 * len(deviations))] < 2


def test_if_nothing_of_the_first_values_fits_another_takes_their_place():
    def too_large(p, stages):
        return OutOfMemory(stage="probe", reason="no room", shortfall_mib=9.0) if p["optim"] == "adamw_torch" else None

    survey = Survey(wide_space(), instead=too_large).run()
    assert {p["optim"] for p in survey.runner.probed} == {"adafactor", "sgd"}
    assert {p["attn_implementation"] for p in survey.runner.probed} == {"sdpa", "eager"}


def test_a_value_that_needs_another_is_probed_beside_it():
    # Flash attention computes in 16 bits alone, and fp32 comes first.
    flash = wide_space(attn_implementation=Categorical(("sdpa", "flash_attention_2")))
    probed = Survey(flash).run().runner.probed
    assert {p["precision"] for p in probed if p["attn_implementation"] == "flash_attention_2"} == {"fp16"}


def test_epochs_are_probed_once_for_all():
    survey = Survey(SearchSpace(domains={**SPACE.domains, "num_train_epochs": Categorical((1, 2, 3))})).run()
    assert len(survey.records) == len(Survey(SPACE).run().records)
    knowledge = survey.knowledge()
    p = survey.runner.probed[0]
    one, three = (knowledge.cost(p.replace(num_train_epochs=epochs)).train_time_s for epochs in (1, 3))
    assert three == pytest.approx(3 * one, rel=0.01)


def test_of_a_drawn_space_all_members_of_a_class_are_found():
    space = wide_space(dropout=Categorical((0.0, 0.1, 0.2)), lora_rank=Categorical((None, 4, 8, 16)))
    terms = setup(space)
    assert space.is_drawn
    member = space.structures[-1]
    members = terms.members_of(member)
    assert member in members
    assert len(members) == len(set(members)) > 8
    assert {terms.class_of(p) for p in members} == {terms.class_of(member)}
    assert {p.gradient_checkpointing for p in members} == {False, True}


def test_in_a_small_space_nothing_is_predicted_from_other_compute_configurations():
    knowledge = Survey(SPACE).run(depth=Depth.FIRST).knowledge()
    surveyed = {p.speed_class() for p in knowledge.setup.space.structures if knowledge.cost(p) is not None}
    assert len(surveyed) == 1

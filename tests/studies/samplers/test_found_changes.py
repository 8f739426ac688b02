"""What a knob changes of which nothing is known, on a simulated card: found by probes, the same for all who read them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from simulated_runner import (
    SPACE,
    SimulatedRunner,
    decoupled,
    new_study,
    objective,
    search,
    setup,
    simulated_probe,
)
from simulated_survey import Survey

from tradeoff.objectives.knowledge.found_changes import Found, _memory_differs
from tradeoff.objectives.measurements.outcome import Completed, Measurements, OutOfMemory
from tradeoff.searchspace import Categorical, FloatRange, Knobs, SearchSpace
from tradeoff.studies.samplers.survey import Depth


def space_with(changes=None, **domains):
    return SearchSpace(domains={**SPACE.domains, **domains}, knobs=Knobs(changes or {}))


def measured(memory=lambda p: 1.0, time=lambda p: 1.0):
    """Answers with the simulated probe, times a factor of memory and of time."""

    def probe(p, stages):
        known = simulated_probe(p)
        peak_mib = known.memory.peak_memory_mib * memory(p)
        if peak_mib > 7611:
            return OutOfMemory(stage="probe", reason="no room", shortfall_mib=peak_mib - 7611)
        changed = replace(
            known,
            memory=replace(known.memory, peak_memory_mib=peak_mib),
            micro_step_time_s=known.micro_step_time_s * time(p),
        )
        return Completed(measurements=Measurements(probe=changed, trial_time_s=1.0))

    return probe


def found_by(space, **factors):
    survey = Survey(space, instead=measured(**factors)).run()
    return survey, {found.name: found for found in survey.knowledge().found}


def test_a_knob_on_which_no_cost_depends_is_found_by_one_more_probe_and_is_learned_only():
    survey, found = found_by(space_with(weight_x=Categorical((0.0, 0.1))))
    assert found["weight_x"].changes == {"learning"}
    assert str(found["weight_x"]).startswith("weight_x: neither memory nor time depends on it (trials ")
    knowledge = survey.knowledge()
    assert "weight_x" in knowledge.setup.space.learning_only
    assert len(knowledge.setup.space.structures) == len(SPACE.structures)
    without, _ = found_by(SPACE)
    assert len(survey.records) == len(without.records) + 1


def test_a_knob_that_changes_time_alone_is_found_to_and_shares_its_memory():
    survey, found = found_by(space_with(kernel=Categorical(("a", "b"))), time=lambda p: 2.0 if p["kernel"] == "b" else 1.0)
    assert found["kernel"].changes == {"time", "learning"}
    assert "memory does not depend on it, time depends on it" in str(found["kernel"])
    assert "kernel" not in survey.knowledge().setup.space.structures[0].memory_class()


def test_a_knob_that_changes_memory_alone_is_found_to():
    _, found = found_by(space_with(cache=Categorical((False, True))), memory=lambda p: 1.1 if p["cache"] else 1.0)
    assert found["cache"].changes == {"memory", "learning"}


def test_times_that_are_too_uncertain_are_said_to_be():
    survey = Survey(space_with(x=Categorical((0, 1))))

    def busy(p, stages):
        if isinstance(outcome := measured()(p, stages), OutOfMemory):
            return outcome
        probe = replace(outcome.measurements.probe, busy_share=0.9)
        return Completed(measurements=replace(outcome.measurements, probe=probe))

    survey.runner.instead = busy
    (found,) = survey.run(depth=Depth.FIRST).knowledge().found
    assert found.changes == {"time", "learning"}
    assert "memory does not depend on it, time is too uncertain here to tell, and taken to depend on it" in str(found)


def test_each_word_is_compared_and_of_numbers_the_ends():
    space = space_with(word=Categorical(("a", "b", "c")), number=FloatRange(0.0, 1.0))
    survey, found = found_by(space, time=lambda p: 1.5 if p["word"] == "c" else 1.0)
    assert found["word"].changes == {"time", "learning"}
    assert found["number"].changes == {"learning"}
    assert {p["number"] for p in survey.runner.probed} <= {0.0, 1.0}


def test_what_runs_out_of_memory_where_the_first_value_fits_changes_memory():
    _, found = found_by(space_with(cache=Categorical((False, True))), memory=lambda p: 3.0 if p["cache"] else 1.0)
    assert "memory" in found["cache"].changes


def test_a_declaration_that_measurements_contradict_is_said_and_they_win():
    told = {"cache": ["learning"], "fine": ["learning"]}
    space = space_with(told, cache=Categorical((False, True)), fine=Categorical((1, 2)))
    survey, found = found_by(space, memory=lambda p: 1.2 if p["cache"] else 1.0)
    assert found["cache"].contradicts
    assert found["cache"].changes == {"memory", "learning"}
    assert "memory depends on it" in str(found["cache"])
    assert "unlike its `changes` say (learning)" in str(found["cache"])
    assert not found["fine"].contradicts
    assert "cache" not in survey.knowledge().setup.space.learning_only


def test_nothing_is_asked_of_a_knob_that_is_told_to_change_all_costs():
    told = {"size": ["memory", "time", "learning"]}
    assert found_by(space_with(told, size=Categorical((1, 2))))[1] == {}


def test_true_is_not_compared_with_one():
    _, found = found_by(space_with(odd=Categorical((False, "on"))), memory=lambda p: 1.2 if p["odd"] == "on" else 1.0)
    assert found["odd"].changes == {"memory", "learning"}


@pytest.mark.parametrize("told", [None, frozenset({"learning"})])
def test_what_is_found_is_stored_as_plain_values(told):
    found = Found(name="x", changes=frozenset({"time", "learning"}), told=told, numbers=(3, 4), unclear=frozenset({"time"}))
    assert Found.from_dict("x", found.as_dict()) == found


def test_a_search_uses_what_it_finds_and_every_reader_finds_the_same():
    space = space_with(weight_x=Categorical((0.0, 0.1)))
    runner = SimulatedRunner()
    goal = objective(runner, space=space, publishes_at_end=True)
    study = new_study(decoupled(goal))
    assert search(study, goal) is not None
    knowledge = goal.snapshot(study).knowledge
    assert [found.name for found in knowledge.found] == ["weight_x"]
    again = objective(runner, space=space, publishes_at_end=True).snapshot(study).knowledge
    assert again.found == knowledge.found
    assert again.setup.space.knobs == knowledge.setup.space.knobs
    assert {p.get("weight_x") for p in runner.trained} == {0.0, 0.1}
    assert len(runner.probed) < 50


def test_the_terms_stay_the_same_object_while_nothing_new_is_found():
    goal = objective(SimulatedRunner(), space=space_with(weight_x=Categorical((0.0, 0.1))))
    study = new_study(decoupled(goal))
    assert goal.snapshot(study).knowledge.setup is goal.setup
    assert setup(SPACE).space.knobs == Knobs()


def test_what_decides_whether_another_knob_is_set_is_not_looked_at_alone():
    domains = {**SPACE.domains, "kind": Categorical(("a", "b")), "size": Categorical((1, 2))}
    space = SearchSpace(domains=domains, only_with={"size": {"kind": ("b",)}})
    survey, found = found_by(space, time=lambda p: 1.5 if p.get("size") == 2 else 1.0)
    assert "kind" not in found
    # Every structure is one that a trial can have.
    assert all(("size" in p) == (p["kind"] == "b") for p in survey.knowledge().setup.space.structures)


@pytest.mark.parametrize(
    ("first", "other", "differs"), [(6.09, 6.34, False), (609.0, 634.0, True), (6.0, 8.0, True), (8e3, 8.05e3, False)]
)
def test_peaks_that_differ_by_little_or_by_a_small_share_are_the_same(first, other, differs):
    seen = [SimpleNamespace(record=SimpleNamespace(outcome="probed"), peak_memory_mib=mib) for mib in (first, other)]
    assert _memory_differs(*seen) is differs

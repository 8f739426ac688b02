"""What memory estimates do for a search, on a simulated GPU."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from running import Recorder, SharedTrialServer, cache_folder, tiny_study
from simulated_runner import (
    BUDGET_MIB,
    JOB,
    SPACE,
    SimulatedRunner,
    SimulatedServer,
    decoupled,
    memory_mib,
    new_study,
    objective,
    search,
    setup,
    tell,
)
from simulated_survey import Survey, largest_that_fits
from simulated_survey import space as space_of

from tradeoff.objectives.isolation.trial_server import WorkerError
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import PUBLISHES, read_attributes, read_record
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES, MemoryEstimate, MemoryEstimates
from tradeoff.objectives.trial.messages import Answer, Refusal
from tradeoff.searchspace import Categorical, IntRange, SearchSpace, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.memory_estimate import MAX_BATCHES, configurations_to_estimate, start_memory_estimation
from tradeoff.studies.results.results import read_results
from tradeoff.studies.results.savings import lines, stored_errors
from tradeoff.studies.workers import run as study_runner
from tradeoff.studies.workers.run import run_study


def estimates_of(space=SPACE, *, scale=1.0, bound=0.93):
    """Estimates that are off by a factor, with a bound below them."""
    return MemoryEstimates.of(
        (p, MemoryEstimate(peak_memory_mib=scale * memory_mib(p), lower_bound_mib=bound * scale * memory_mib(p)))
        for p in configurations_to_estimate(space)
    )


# Six configurations, of which 64 x 1 and 64 x 2 do not fit.
FEW = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((2, 8, 64)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "gradient_checkpointing": Categorical((False,)),
        "precision": Categorical(("fp32",)),
    }
)

SMALL = space_of(Categorical((1, 2, 4, 8, 16, 32, 64)), (1, 2), ("fp32",))


class EstimatedSurvey(Survey):
    def __init__(self, space, memory_estimates, **settings):
        super().__init__(space, **settings)
        self.estimates = memory_estimates

    def knowledge(self):
        return Knowledge.of(self.records, setup(self.space, memory_limit_mib=self.budget_mib), memory_estimates=self.estimates)


def with_accumulation(found):
    return {key: batch for key, batch in found.items() if key[2]}


@pytest.mark.parametrize("scale", [0.8, 0.95, 1.0, 1.05, 1.2])
@pytest.mark.parametrize("space", [SPACE, space_of(IntRange(1, 64))], ids=["powers", "range"])
def test_a_survey_with_estimates_finds_the_same_boundary_with_fewer_probes(space, scale):
    without = Survey(space).run()
    estimated = EstimatedSurvey(space, estimates_of(space, scale=scale)).run()
    assert with_accumulation(estimated.largest_measured()) == with_accumulation(largest_that_fits(space))
    assert len(estimated.runner.requests) < len(without.runner.requests)
    assert len(estimated.runner.out_of_memory) < len(without.runner.out_of_memory)


def test_what_surely_does_not_fit_is_never_probed():
    memory_estimates = estimates_of(bound=0.99)
    survey = EstimatedSurvey(SPACE, memory_estimates).run()
    bounds = [
        memory_estimates.at(p.memory_class(), p.per_device_train_batch_size).lower_bound_mib
        for p in survey.runner.out_of_memory
    ]
    assert all(bound <= BUDGET_MIB for bound in bounds)


def test_a_decoupled_search_with_estimates_runs_out_of_memory_less_often_and_finds_as_good_a_front():
    fronts, misses = [], []
    for memory_estimates in (None, estimates_of(SMALL)):
        runner = SimulatedRunner()
        goal = objective(runner, space=SMALL, publishes_at_end=True)
        study = new_study(decoupled(goal))
        if memory_estimates is not None:
            study.set_user_attr(MEMORY_ESTIMATES, memory_estimates.as_dict())
        search(study, goal)
        misses.append(len(runner.out_of_memory))
        fronts.append({round(trial.values[2]) for trial in study.best_trials})
    assert misses[1] < misses[0]
    assert min(fronts[1]) == min(fronts[0])


def asked(goal, batch, *, enqueue=False):
    """The record of a trial of this micro-batch, and the trial."""
    study = new_study(optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr(MEMORY_ESTIMATES, estimates_of().as_dict())
    params = SPACE.stored(TrialParameters(per_device_train_batch_size=batch))
    if enqueue:
        study.enqueue_trial(params)
    else:
        study.sampler = optuna.samplers.PartialFixedSampler(params, study.sampler)
    tell(study, study.ask(), goal)
    return read_record(study.trials[0], goal.setup.objectives), study.trials[0]


def test_under_another_sampler_what_surely_does_not_fit_is_settled_free_of_charge():
    runner = SimulatedRunner()
    goal = objective(runner, publishes_at_end=True)
    record, trial = asked(goal, 64)
    assert (record.outcome, record.counts, runner.requests) == ("skipped", False, [])
    needed = 0.93 * memory_mib(TrialParameters(per_device_train_batch_size=64))
    assert record.reason == f"needs at least {needed:,.0f} MiB by the memory estimate, more than the limit of {BUDGET_MIB:,.0f}"
    assert trial.constraints["memory_shortfall_mib"] == pytest.approx(needed - BUDGET_MIB)


def test_what_the_user_asks_for_by_name_is_run_all_the_same():
    runner = SimulatedRunner()
    goal = objective(runner, publishes_at_end=True)
    record, _ = asked(goal, 64, enqueue=True)
    assert record.outcome == "out_of_memory"
    assert record.attributes["estimated_peak_memory_mib"] == memory_mib(TrialParameters(per_device_train_batch_size=64))


def test_every_trial_that_ran_has_a_prediction_and_its_source():
    goal = objective(SimulatedRunner(), space=SMALL, publishes_at_end=True)
    study = new_study(decoupled(goal))
    study.set_user_attr(MEMORY_ESTIMATES, estimates_of(SMALL, scale=1.05).as_dict())
    search(study, goal)
    records = [read_record(trial, goal.setup.objectives) for trial in study.trials]
    ran = [r for r in records if r.outcome in ("probed", "completed") and not r.is_derived and PUBLISHES not in r.attributes]
    assert all(record.attributes["estimated_peak_memory_mib"] > 0 for record in ran)
    first = ran[0]
    assert first.attributes["predicted_peak_memory_mib_source"] == "estimate"
    assert first.attributes["predicted_peak_memory_mib"] == pytest.approx(1.05 * first.attributes["peak_memory_mib"])
    # Off by a twentieth at first, and right once two peaks of a line have told its scale: nearly so for a small batch, whose
    # peak is its update, of which larger ones tell little.
    assert stored_errors(records, "peak_memory_mib", source="estimate")[0] == pytest.approx(0.05)
    later = stored_errors(records, "peak_memory_mib", source="model")
    assert later
    assert max(map(abs, later)) < 0.01


@dataclass
class EstimatedStudy:
    """A study in this process on a simulated GPU; its memory is estimated once it was asked for often enough."""

    after: int = 0
    error: str | None = None
    requests: list = field(default_factory=list)

    def run(self, storage, monkeypatch, **settings):
        runner = SimulatedRunner()
        server = SimulatedServer(runner, estimate_answer=self._answer)
        monkeypatch.setattr(study_runner, "TrialServer", lambda: server)
        plain = load_config(None).plain() | {"name": "estimated", "job": JOB.model_dump(), "trials": 1, "sampler_seed": 0}
        plain["space"] = {name: list(domain.values()) for name, domain in FEW.domains.items()}
        plain["limits"] = {"peak_memory_mib": BUDGET_MIB}
        config = StudyConfig.model_validate(plain | settings)
        display = Recorder()
        return run_study(config, storage=storage, display=display), display, runner

    def _answer(self, request):
        self.requests.append(request)
        if len(self.requests) <= self.after:
            return None
        answer = {"estimates": estimates_of(FEW).as_dict(), "notices": ["a trace is made again"]}
        return Answer(answer=answer) if self.error is None else Refusal(error=self.error)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/a.db"


def test_a_study_keeps_its_estimates_and_says_what_they_rule_out(storage, monkeypatch):
    study, display, runner = EstimatedStudy().run(storage, monkeypatch)
    assert MemoryEstimates.from_dict(study.user_attrs["memory_estimates"]).curves.keys() == estimates_of(FEW).curves.keys()
    assert "memory estimate: 2 of 6 configurations cannot fit in 7,611 MiB and are never tried" in display.messages
    assert "a trace is made again" in display.messages
    assert runner.out_of_memory == []
    saved, off = lines(read_results(study))
    assert "0 out of memory, 2 ruled out by the memory estimate" in saved
    assert ", by the memory estimate 0.0% median" in off


def test_a_study_that_is_resumed_takes_the_estimates_that_it_has(storage, monkeypatch):
    EstimatedStudy().run(storage, monkeypatch)
    estimated = EstimatedStudy(error="would be asked in vain")
    study, display, runner = estimated.run(storage, monkeypatch, trials=2)
    assert estimated.requests == []
    assert not [line for line in display.messages if "memory estimate" in line]
    trained = [trial for trial in study.trials if trial.params == SPACE.stored(runner.trained[-1])]
    assert "estimated_peak_memory_mib" in read_attributes(trained[0].user_attrs)


def test_a_study_on_a_gpu_does_not_wait_for_its_estimates(storage, monkeypatch):
    study, _, runner = EstimatedStudy(after=2).run(storage, monkeypatch)
    assert "memory_estimates" in study.user_attrs
    assert "estimated_peak_memory_mib" not in read_attributes(study.trials[0].user_attrs)
    assert "estimated_peak_memory_mib" in read_attributes(study.trials[1].user_attrs)
    assert runner.out_of_memory == []


def test_without_estimates_a_study_says_why_in_a_line_and_searches(storage, monkeypatch):
    study, display, _ = EstimatedStudy(error="the memory of odd models can't be estimated").run(storage, monkeypatch, trials=2)
    assert "no memory estimate: the memory of odd models can't be estimated" in display.messages
    assert any(trial.user_attrs["outcome"] == "completed" for trial in study.trials)


def test_a_study_that_insists_on_estimates_ends_with_the_reason(storage, monkeypatch):
    with pytest.raises(TradeoffError, match="memory_estimate: on requires an estimate, and there is none: odd models"):
        EstimatedStudy(error="odd models").run(storage, monkeypatch, memory_estimate="on")


def test_a_job_of_the_users_own_has_no_estimates_and_the_study_says_so_in_a_line():
    display = Recorder()
    settings = {"cache": None, "longest": None, "display": display, "interrupts": Interrupts()}
    for setting in ("auto", "on"):
        config = SimpleNamespace(memory_estimate=setting, job=object())
        estimation = start_memory_estimation(config, None, FEW, {"kind": "cuda"}, **settings)
        study = new_study(optuna.samplers.RandomSampler())
        if setting == "on":
            with pytest.raises(TradeoffError, match="the memory of a custom job is not estimated"):
                estimation.begin(study, objective(SimulatedRunner()))
        else:
            estimation.begin(study, objective(SimulatedRunner()))
    assert display.messages == ["no memory estimate: the memory of a custom job is not estimated; probes measure it anyway"]


@pytest.mark.parametrize("error", [ConnectionResetError("the server ended"), WorkerError("the server ended")], ids=type)
def test_estimates_that_can_not_be_started_end_no_study(error):
    def start_task(request):
        raise error

    config = load_config(None)
    estimation = start_memory_estimation(
        config,
        SimpleNamespace(start_task=start_task),
        FEW,
        {"kind": "cuda", "total_memory_mib": BUDGET_MIB},
        cache=Path(),
        longest=None,
        display=(display := Recorder()),
        interrupts=Interrupts(),
    )
    estimation.begin(new_study(optuna.samplers.RandomSampler()), objective(SimulatedRunner()))
    assert display.messages == ["no memory estimate: the process that makes it could not be started: the server ended"]


def test_a_study_may_do_without(storage, monkeypatch):
    estimated = EstimatedStudy()
    study, _, _ = estimated.run(storage, monkeypatch, memory_estimate="off")
    assert estimated.requests == []
    assert not any("estimated_peak_memory_mib" in read_attributes(trial.user_attrs) for trial in study.trials)


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_plan_is_written_as_words_that_yaml_takes_for_truth_values(written, meant):
    assert load_config(None, overrides=[f"memory_estimate={written}"]).memory_estimate == meant


def test_many_micro_batches_are_estimated_in_even_ratios():
    space = space_of(IntRange(1, 512))
    by_class = {}
    for parameters in configurations_to_estimate(space):
        by_class.setdefault(parameters.memory_class(), []).append(parameters.per_device_train_batch_size)
    assert len(by_class) == 8
    for batches in by_class.values():
        assert batches == sorted(set(batches))
        assert (batches[0], batches[-1]) == (1, 512)
        assert len(batches) <= MAX_BATCHES


def test_a_real_study_on_this_cpu_estimates_its_memory(storage, monkeypatch):
    monkeypatch.setattr(study_runner, "TrialServer", SharedTrialServer)
    config = tiny_study(memory_estimate="on", sampler="decoupled", reuse="effective-batch", limits={"peak_memory_mib": 60})
    study = run_study(config, storage=storage, display=Recorder(), cache=cache_folder())
    ran = [trial for trial in study.trials if trial.user_attrs["outcome"] == "probed"]
    assert ran
    for trial in ran[1:]:
        predicted, measured = (
            read_attributes(trial.user_attrs)["predicted_peak_memory_mib"],
            read_attributes(trial.user_attrs)["peak_memory_mib"],
        )
        assert predicted == pytest.approx(measured, rel=0.5)

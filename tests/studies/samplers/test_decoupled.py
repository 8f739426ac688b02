"""Whole studies of the decoupled search over a simulated job: how they end, go on, and what they find for what it costs."""

import statistics
from dataclasses import replace

import optuna
import pytest
import simulated_runner as simulated
from optuna.trial import TrialState

from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.outcome import Failed, Interrupted, TimedOut
from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.searchspace import Categorical, EffectiveBatchSizeRange, FloatRange, Reuse, SearchSpace
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.samplers.publishing import publish

SMALL = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8, 16)),
        "gradient_accumulation_steps": Categorical((1, 2, 4)),
        "precision": Categorical(("fp32", "fp16")),
    }
)


class SlowProbes(simulated.SimulatedRunner):
    """Probes that take an hour each."""

    def run_trial(self, request, **arguments):
        outcome = super().run_trial(request, **arguments)
        return replace(outcome, measurements=replace(outcome.measurements, trial_time_s=3600.0))


class Searched:
    """A study, its objective and its sampler."""

    def __init__(self, *, space=SMALL, seed=0, storage=None, runner=None, budget_mib=simulated.BUDGET_MIB, **settings):
        self.runner = runner or simulated.SimulatedRunner(seed=seed, budget_mib=budget_mib)
        terms = {"space": space, "memory_limit_mib": budget_mib, "publishes_at_end": True}
        self.goal = simulated.objective(self.runner, **(terms | settings))
        self.sampler = simulated.decoupled(self.goal, seed=seed)
        self.study = simulated.new_study(self.sampler, storage=storage, objectives=self.goal.setup.objectives)

    def run(self, **limits):
        self.why = simulated.search(self.study, self.goal, **limits)
        return self

    def step(self):
        trial = self.study.ask()
        simulated.tell(self.study, trial, self.goal)
        return trial.number

    def classes(self):
        _, knowledge = simulated.learned(self.goal, self.study)
        return [knowledge.class_of(parameters) for parameters in self.runner.trained]

    def front(self):
        records = self.goal.snapshot(self.study).settled
        return [self.goal.setup.space.read(record.params) for record in pareto_front(records, self.goal.setup.objectives)]


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def test_a_study_ends_by_itself_and_says_why():
    searched = Searched().run()
    assert "to the hypervolume" in searched.why or "every learning class" in searched.why
    assert searched.sampler.finished(searched.study) == searched.why


def test_no_class_is_trained_twice_and_no_configuration_probed_twice():
    searched = Searched(space=simulated.SPACE).run()
    assert len(searched.classes()) == len(set(searched.classes())) > 3
    assert len(searched.runner.probed) == len(set(searched.runner.probed))


def test_trainings_are_by_the_fastest_member_that_fits():
    searched = Searched(space=simulated.SPACE).run()
    for trained in searched.runner.trained:
        members = [
            p
            for p in simulated.SPACE.grid()
            if p.learning_class() == trained.learning_class() and simulated.memory_mib(p) <= simulated.BUDGET_MIB
        ]
        assert simulated.train_time_s(trained) == min(map(simulated.train_time_s, members))


def test_nothing_on_the_front_is_a_models_word():
    searched = Searched(space=simulated.SPACE).run()
    records, _ = simulated.learned(searched.goal, searched.study)
    sources = {source for record in pareto_front(records, simulated.OBJECTIVES) for source in record.sources.values()}
    assert "model" not in sources
    assert "measured" in sources


def test_a_study_where_nothing_fits_ends_with_that_reason():
    searched = Searched(budget_mib=100.0).run()
    assert searched.why == "no configuration of the space is known to fit"
    assert searched.runner.trained == []


def test_one_configuration_is_probed_and_trained_once():
    one = SearchSpace(domains={"per_device_train_batch_size": Categorical((8,))})
    searched = Searched(space=one).run()
    assert len(searched.runner.probed) == len(searched.runner.trained) == 1
    assert searched.why == "every learning class that fits has been trained"


def test_fixed_values_and_limits_are_kept():
    space = SearchSpace(
        domains={**SMALL.domains, "precision": Categorical(("fp16",))},
        effective_batch_size=EffectiveBatchSizeRange(low=8, high=32),
    )
    searched = Searched(space=space).run()
    everything = [space.read(trial.params) for trial in searched.study.trials]
    assert {p.precision.value for p in everything} == {"fp16"}
    assert all(8 <= p.effective_batch_size() <= 32 for p in everything)
    assert searched.runner.trained


def test_a_study_goes_on_from_its_storage_alone(storage):
    whole = Searched().run()
    runner = simulated.SimulatedRunner()
    for _ in range(3):
        Searched(storage=storage, runner=runner).run(max_trials=3)
    again = Searched(storage=storage, runner=runner).run()
    assert again.why is not None
    assert len(again.classes()) == len(set(again.classes()))
    assert len(runner.probed) == len(set(runner.probed))
    assert set(runner.trained) == set(whole.runner.trained)


def test_a_finished_study_runs_nothing_more(storage):
    first = Searched(storage=storage).run()
    again = Searched(storage=storage).run()
    assert again.why == first.why
    assert again.runner.requests == []


def test_what_a_killed_worker_did_not_publish_is_published_once_the_search_has_gone_on_to_its_end(storage):
    # An effective batch of 32 is 16 x 2, 8 x 4 and 4 x 8; the first does not fit.
    space = SearchSpace(domains={**SMALL.domains, "gradient_accumulation_steps": Categorical((2, 4, 8))})
    first = Searched(space=space, storage=storage)
    while not first.runner.trained:
        first.step()
    assert first.study.get_trials(states=(TrialState.COMPLETE,)) == []
    assert len(first.front()) > 1  # what has been trained, and what follows from it
    later = Searched(space=space, storage=storage).run()
    published = [tuple(trial.params.values()) for trial in later.study.get_trials(states=(TrialState.COMPLETE,))]
    assert len(published) == len(set(published)) > 1
    assert publish(later.study, later.goal.setup) == 0


def test_a_study_half_done_by_tpe_goes_on_decoupled():
    searched = Searched(space=simulated.SPACE)
    searched.study.sampler = optuna.samplers.TPESampler(seed=0)
    searched.study.optimize(searched.goal, n_trials=15)
    before = len(searched.runner.trained)
    searched.study.sampler = searched.sampler
    searched.run()
    assert searched.why is not None
    assert len(searched.runner.trained) > before > 0
    assert len(searched.classes()) == len(set(searched.classes()))


def test_enqueued_trials_are_run_as_asked_and_in_full():
    searched = Searched()
    asked = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "precision": "fp32"}
    searched.study.enqueue_trial(asked)
    searched.run()
    assert searched.study.trials[0].params == asked
    assert read_attributes(searched.study.trials[0].user_attrs)["accuracy_source"] == "measured"
    assert searched.runner.requests[0]["stages"] == ["probe", "train"]


def test_an_enqueued_trial_is_trained_though_its_class_has_been():
    searched = Searched().run()
    trained = searched.runner.trained[0]
    searched.study.enqueue_trial(SMALL.stored(trained))
    searched.step()
    assert searched.runner.trained[-1] == trained
    assert searched.runner.trained.count(trained) == 2


def test_an_enqueued_trial_that_is_interrupted_is_trained_though_its_class_has_been():
    searched = Searched().run()
    trained = searched.runner.trained[0]
    searched.study.enqueue_trial(SMALL.stored(trained))
    searched.runner.instead = lambda parameters, stages: Interrupted(stage="train")
    for _ in range(2):
        trial = searched.study.ask()
        with pytest.raises(KeyboardInterrupt):
            searched.goal(trial)
        searched.study.tell(trial, state=TrialState.FAIL)
    searched.runner.instead = None
    searched.step()
    assert searched.runner.trained[-1] == trained
    assert searched.runner.trained.count(trained) == 2


def test_an_enqueued_value_is_kept_where_the_others_are_free():
    searched = Searched()
    searched.study.enqueue_trial({"per_device_train_batch_size": 16})
    searched.step()
    assert searched.study.trials[0].params["per_device_train_batch_size"] == 16
    assert set(searched.study.trials[0].params) == set(SMALL.domains)


def test_an_interrupted_probe_is_asked_for_again_as_a_probe():
    interrupted = []

    def once(parameters, stages):
        if not interrupted:
            interrupted.append((parameters, stages))
            return Interrupted(stage="probe")
        return None

    searched = Searched(runner=simulated.SimulatedRunner(instead=once))
    trial = searched.study.ask()
    with pytest.raises(KeyboardInterrupt):
        searched.goal(trial)
    searched.study.tell(trial, state=TrialState.FAIL)
    searched.step()
    assert searched.runner.probed == [interrupted[0][0]]
    assert searched.runner.trained == []


def test_a_class_whose_training_fails_is_left_and_the_rest_goes_on():
    def fails(parameters, stages):
        wrong = "train" in stages and parameters.effective_batch_size() == 32
        return Failed(stage="train", reason="not a number") if wrong else None

    searched = Searched(runner=simulated.SimulatedRunner(instead=fails)).run()
    assert searched.why is not None
    assert searched.runner.trained
    failed = [trial.params for trial in searched.study.trials if trial.state == TrialState.FAIL]
    assert len(failed) == len({tuple(params.items()) for params in failed}) > 0


ATTENTIONS = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "attn_implementation": Categorical(("eager", "sdpa")),
    }
)


@pytest.mark.parametrize("stage", ["model", "train"])
def test_an_option_that_fails_costs_its_siblings_nothing(stage):
    def fails(p, stages):
        if p["attn_implementation"] == "eager" and (stage == "model" or "train" in stages):
            return Failed(stage=stage, reason="no eager attention")
        return None

    searched = Searched(space=ATTENTIONS, runner=simulated.SimulatedRunner(instead=fails))
    searched.sampler.min_gain = 0.0
    searched.run()
    everything = {p for p in ATTENTIONS.grid() if p["attn_implementation"] == "sdpa"}
    assert set(searched.runner.trained) <= everything
    assert len(searched.classes()) == 3  # effective batches of 4, 8 and 16
    assert searched.why == "every learning class that fits has been trained"
    records, knowledge = simulated.learned(searched.goal, searched.study)
    assert sum(record.outcome == "failed" for record in records) == 2
    assert [str(each).partition(" is")[0] for each in knowledge.failures.left_out] == ["attn_implementation=eager"]
    completed = {searched.goal.setup.space.read(record.params) for record in records if record.outcome == "completed"}
    assert completed == everything


def test_a_time_limit_that_only_checkpointing_exceeds_costs_no_class():
    def slow(p, stages):
        if p.gradient_checkpointing:
            return TimedOut(stage="probe", reason="longer than 5 s", limit_s=5.0)
        return None

    space = SearchSpace(domains={**SMALL.domains, "gradient_checkpointing": Categorical((True, False))})
    searched = Searched(space=space, runner=simulated.SimulatedRunner(instead=slow))
    searched.sampler.min_gain = 0.0
    searched.run()
    assert {effective.effective_batch_size for effective in searched.classes()} == {4, 8, 16, 32}  # 64 does not fit


def test_a_user_can_have_every_class_trained_or_the_best_accuracy_looked_for():
    usual, whole, accurate = (Searched(space=simulated.SPACE) for _ in range(3))
    usual.run()
    whole.sampler.min_gain = 0.0
    whole.run(max_trials=400)
    accurate.sampler.preferred = "accuracy"
    accurate.run(max_trials=400)
    fitting = {p.learning_class() for p in simulated.SPACE.grid() if simulated.memory_mib(p) <= simulated.BUDGET_MIB}
    assert set(whole.classes()) == fitting
    assert whole.why == "every learning class that fits has been trained"
    # The two take different ways, so one need not train more than the other.
    best = [max(map(simulated.accuracy, searched.runner.trained)) for searched in (usual, accurate)]
    assert best[1] >= best[0]
    assert max(len(usual.classes()), len(accurate.classes())) < len(fitting)
    assert "or to the best accuracy" in accurate.why


def test_what_is_left_untrained_is_listed_with_what_it_would_add():
    searched = Searched(space=simulated.SPACE).run()
    left = searched.sampler.planner(searched.goal.snapshot(searched.study)).untrained()
    everything = {p.learning_class() for p in simulated.SPACE.grid()}
    assert {each.learning_class for each in left} == everything - set(searched.classes())
    promising = [each.gain for each in left if each.gain is not None]
    assert promising == sorted(promising, reverse=True)
    assert promising[0] < 0.002
    fitting = {p.learning_class() for p in simulated.SPACE.grid() if simulated.memory_mib(p) <= simulated.BUDGET_MIB}
    assert {each.learning_class for each in left if each.why == "does not fit"} == everything - fitting


def plan(trial):
    return trial.storage.get_trial_system_attrs(trial._trial_id)[TRIAL_PLAN]


def workers(storage, runner, *, count=2, **settings):
    return [Searched(storage=storage, runner=runner, **settings) for _ in range(count)]


def ask(worker):
    """Asks as a search does: whoever has planned what another worker has begun since plans anew."""
    if not worker.sampler.plan_stands(worker.goal.snapshot(worker.study)):
        worker.sampler.finished(worker.study)
    return worker.study.ask()


def test_two_workers_never_train_one_class_at_once(storage):
    runner = simulated.SimulatedRunner()
    pair = workers(storage, runner)
    for _ in range(60):
        # Both have looked for work before either has taken it.
        finished = [worker.sampler.finished(worker.study) is not None for worker in pair]
        if all(finished):
            break
        trials = [(worker, ask(worker)) for worker, ended in zip(pair, finished, strict=True) if not ended]
        for worker, trial in trials:
            simulated.tell(worker.study, trial, worker.goal)
    else:
        pytest.fail("the search does not end")
    assert len(runner.trained) > 2
    classes = pair[0].classes()
    assert len(classes) == len(set(classes))


def test_two_workers_that_chose_the_same_probe_run_different_ones(storage):
    first, second = workers(storage, simulated.SimulatedRunner())
    first.sampler.finished(first.study)
    second.sampler.finished(second.study)
    plans = [plan(ask(worker))["params"] for worker in (first, second)]
    assert plans[0] != plans[1]


def test_a_worker_that_died_in_a_training_blocks_its_class_alone(storage):
    dead, alive = workers(storage, simulated.SimulatedRunner())
    while dead.sampler.finished(dead.study) is None:
        trial = dead.study.ask()
        if "train" in plan(trial)["stages"]:
            lost = dead.goal.setup.space.read(plan(trial)["params"])
            break
        simulated.tell(dead.study, trial, dead.goal)
    alive.run()
    assert alive.why is not None
    assert len(alive.runner.trained) > 1
    assert lost.learning_class() not in alive.classes()


def test_a_worker_that_died_in_a_probe_blocks_nothing(storage):
    dead, alive = workers(storage, simulated.SimulatedRunner())
    dead.study.ask()
    alive.run()
    assert alive.why is not None
    _, knowledge = simulated.learned(alive.goal, alive.study)
    fits = [p for p in SMALL.grid() if simulated.memory_mib(p) <= simulated.BUDGET_MIB]
    assert all(knowledge.cost(p) is not None for p in fits)


def test_a_study_without_accuracy_finds_the_fastest_and_the_smallest():
    objectives = ("train_time_s", "peak_memory_mib")
    searched = Searched(space=simulated.SPACE, objectives=objectives).run()
    assert searched.why is not None
    fits = [p for p in simulated.SPACE.grid() if simulated.memory_mib(p) <= simulated.BUDGET_MIB]
    front = searched.front()
    assert min(map(simulated.memory_mib, front)) <= 1.05 * min(map(simulated.memory_mib, fits))
    assert min(map(simulated.train_time_s, front)) <= 1.05 * min(map(simulated.train_time_s, fits))
    assert not searched.runner.trained  # probes settle all of it


def test_the_first_class_is_trained_before_a_survey_that_takes_longer():
    searched = Searched(space=simulated.SPACE)
    cheap = min(map(simulated.train_time_s, simulated.SPACE.grid()))
    assert cheap > simulated.PROBE_S
    # A probe counts as a second in a simulated trial: a training takes longer than the whole survey.
    searched.run(max_trials=8)
    assert not searched.runner.trained
    slow = Searched(space=simulated.SPACE, runner=SlowProbes())
    slow.run(max_trials=8)
    assert slow.runner.trained


def test_what_would_stand_on_the_front_if_the_model_were_a_little_off_is_probed():
    searched = Searched(space=simulated.SPACE).run()
    plans = [trial.system_attrs.get(TRIAL_PLAN, {"why": ""}) for trial in searched.study.trials]
    checked = [plan for plan in plans if "it would add" in plan["why"] or "checks a predicted value" in plan["why"]]
    assert checked
    assert all(plan["stages"] == ["probe"] for plan in checked)


def test_a_study_without_memory_ends_with_a_front_of_accuracy_and_time():
    searched = Searched(space=simulated.SPACE, objectives=("accuracy", "train_time_s")).run()
    assert searched.why is not None
    assert len(searched.front()) > 1


def test_learning_rates_are_drawn_and_the_survey_is_not_repeated_for_them():
    space = SearchSpace(domains={**SMALL.domains, "learning_rate": FloatRange(1e-5, 1e-3, log=True)})
    searched = Searched(space=space).run(max_trials=40)
    structures = [p.structure for p in searched.runner.probed]
    assert len(structures) == len(set(structures))
    rates = {p["learning_rate"] for p in searched.runner.trained}
    assert len(rates) > 3
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)


def test_a_probe_tells_nothing_of_the_learning_rate_that_optuna_stores_with_it():
    space = SearchSpace(domains={**SMALL.domains, "learning_rate": FloatRange(1e-5, 1e-3, log=True)})
    searched = Searched(space=space).run(max_trials=12)
    records, _ = simulated.learned(searched.goal, searched.study)
    probed = [record for record in records if record.outcome == "probed"]
    assert probed
    assert all({*record.params} - {*record.told_params} == {"learning_rate"} for record in probed)
    trained = [record for record in records if "training" in record.attributes]
    assert trained
    assert all(record.told_params == record.params for record in trained)


def test_sharing_makes_a_front_of_more_configurations_than_trainings():
    shared = Searched(space=simulated.SPACE).run()
    assert len(shared.front()) > len(shared.runner.trained)


def test_where_nothing_is_shared_everything_on_the_front_is_trained():
    apart = Searched(reuse=Reuse.OFF).run()
    assert apart.why is not None
    assert set(apart.front()) <= set(apart.runner.trained)
    assert not [trial for trial in apart.study.trials if "derived_from" in trial.user_attrs]


def cost_to_reach(searched, share, *, max_trials):
    """Simulated seconds until the study's own front has this share of the hypervolume, at its true accuracies."""
    goal = share * simulated.true_hypervolume()
    trained = 0
    for _ in range(max_trials):
        if isinstance(searched.study.sampler, type(searched.sampler)) and searched.sampler.finished(searched.study):
            break
        searched.step()
        if len(searched.runner.trained) > trained:
            trained = len(searched.runner.trained)
            if simulated.hypervolume(searched.front()) >= goal:
                return searched.runner.spent_s
    return float("inf")


def train_every_trial(sampler, seed):
    """A loop around Optuna as a user would write it: no knowledge, no sharing."""
    searched = Searched(space=simulated.SPACE, seed=seed, reuse=Reuse.OFF, publishes_at_end=False)
    searched.study.sampler = sampler
    return searched


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_the_front_is_found_for_a_fraction_of_the_cost_of_training_every_trial(name):
    ours, theirs = [], []
    for seed in range(3):
        ours.append(cost_to_reach(Searched(space=simulated.SPACE, seed=seed), 0.95, max_trials=100))
        samplers = {
            "random": optuna.samplers.RandomSampler(seed=seed),
            "tpe": optuna.samplers.TPESampler(seed=seed, multivariate=True),
        }
        theirs.append(cost_to_reach(train_every_trial(samplers[name], seed), 0.95, max_trials=120))
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{name} costs {ratio:.1f} times as much as the decoupled search to reach 95%")
    assert ratio > 2

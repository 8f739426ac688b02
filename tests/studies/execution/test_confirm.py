import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from running import SharedTrialServer, cache_folder, tiny_study
from simulated_runner import OBJECTIVES, SimulatedRunner, decoupled, memory_mib, new_study, objective, search
from stored_studies import completed, make_study, params, record
from typer.testing import CliRunner

import tradeoff.studies.execution.confirm
import tradeoff.studies.workers.run
from tradeoff.objectives.measurements.outcome import Failed, Interrupted
from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.objectives.objective import Objective
from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters
from tradeoff.studies.cli import confirm as confirm_command
from tradeoff.studies.cli.confirm import confirmations_table
from tradeoff.studies.cli.main import app
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.confirm import Confirmation, _template, confirm, to_confirm
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.publication import as_they_stand
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.samplers.publishing import SUPERSEDED
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.workers.run import run_study

SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((1, 2, 4)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "gradient_checkpointing": Categorical((False, True)),
        "precision": Categorical(("fp32",)),
    }
)


@pytest.fixture
def searched() -> tuple[optuna.Study, Objective, SimulatedRunner]:
    """A study that the decoupled search has ended, with derived configurations on its front."""
    runner = SimulatedRunner()
    goal = objective(runner, space=SPACE, publishes_at_end=True)
    study = new_study(decoupled(goal))
    search(study, goal)
    return study, goal, runner


def results_of(study: optuna.Study, goal: Objective) -> StudyResults:
    records, stands_for = as_they_stand([read_record(t, goal.setup.objectives) for t in study.get_trials(deepcopy=False)])
    return StudyResults(
        name="simulated", objectives=OBJECTIVES, records=tuple(records), stands_for=stands_for, config={}, device={},
        versions={}, tradeoff_version="", storage="",
    )  # fmt: skip


def derived_on_front(study: optuna.Study, goal: Objective) -> list[TrialRecord]:
    return to_confirm(results_of(study, goal))


def test_a_confirmed_configuration_stands_on_the_front_with_its_measured_values(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, runner = searched
    claim = derived_on_front(study, goal)[0]
    number = claim.number
    trained_before = len(runner.trained)
    (confirmation,) = confirm(study, goal, [claim])
    assert confirmation.claimed.number == number
    assert confirmation.confirmed
    assert len(runner.trained) == trained_before + 1
    assert confirmation.measured.params == confirmation.claimed.params
    assert set(confirmation.measured.sources.values()) == {"measured"}
    assert confirmation.measured.attributes["confirms"] == number
    numbers = [record.number for record in pareto_front(results_of(study, goal).records, OBJECTIVES)]
    assert number not in numbers
    assert study.user_attrs[SUPERSEDED][str(number)] == confirmation.measured.number
    assert (results_of(study, goal).trial(number).outcome, study.trials[number].state) == ("superseded", TrialState.COMPLETE)


def test_a_configuration_is_confirmed_without_what_its_conditions_leave_unset() -> None:
    domains = {
        "per_device_train_batch_size": Categorical((4, 8)),
        "lr_scheduler_type": Categorical(("linear", "cosine")),
        "warmup_ratio": Categorical((0.0, 0.1)),
    }
    space = SearchSpace(domains=domains, only_with={"warmup_ratio": {"lr_scheduler_type": ("linear",)}})
    goal = objective(SimulatedRunner(), space=space)
    own = {"per_device_train_batch_size": 4, "lr_scheduler_type": "cosine"}
    template = _template(goal, record(2, (0.5, 1.0, 100.0), own))
    assert template.system_attrs["fixed_params"] == own


def test_every_derived_configuration_of_the_front_is_confirmed(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, _ = searched
    claims = derived_on_front(study, goal)
    numbers = [claim.number for claim in claims]
    ended: list[Confirmation] = []
    assert [each.claimed.number for each in confirm(study, goal, claims, on_end=ended.append)] == numbers
    assert [each.claimed.number for each in ended] == numbers
    assert not {claim.number for claim in derived_on_front(study, goal)} & set(numbers)


def test_what_runs_out_of_memory_when_it_is_confirmed_is_off_the_front(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, runner = searched
    claim = derived_on_front(study, goal)[0]
    claimed = TrialParameters(**claim.params)
    runner.budget_mib = memory_mib(claimed) - 1
    (confirmation,) = confirm(study, goal, [claim])
    assert (confirmation.confirmed, confirmation.measured.outcome) == (False, "out_of_memory")
    assert confirmation.difference("accuracy") is None
    assert study.trials[confirmation.measured.number].state == TrialState.PRUNED
    front = pareto_front(results_of(study, goal).records, OBJECTIVES)
    assert confirmation.claimed.params not in [record.params for record in front]


def test_a_confirmation_that_fails_is_shown_and_the_next_one_goes_on(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, runner = searched
    first = TrialParameters(**derived_on_front(study, goal)[0].params)
    runner.instead = lambda p, stages: Failed(stage="train", reason="ValueError: no") if p == first else None
    failed, *others = confirm(study, goal, derived_on_front(study, goal))
    assert (failed.measured.outcome, failed.measured.reason) == ("failed", "ValueError: no")
    assert others
    assert all(each.confirmed for each in others)


def test_an_interrupted_confirmation_ends_its_trial_and_is_not_queued_again(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, runner = searched
    runner.instead = lambda p, stages: Interrupted(stage="train")
    with pytest.raises(KeyboardInterrupt):
        confirm(study, goal, derived_on_front(study, goal))
    assert study.trials[-1].state == TrialState.FAIL
    assert study.trials[-1].user_attrs["outcome"] == "interrupted"
    assert study.get_trials(states=(TrialState.WAITING,)) == []


def test_a_confirmation_leaves_what_somebody_has_enqueued_alone(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, _ = searched
    study.enqueue_trial(SPACE.stored(TrialParameters(per_device_train_batch_size=1, gradient_accumulation_steps=1)))
    confirm(study, goal, derived_on_front(study, goal)[:1])
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 1


def test_a_trial_that_was_trained_itself_needs_no_confirmation(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    study, goal, _ = searched
    results = results_of(study, goal)
    trained = next(record for record in results.records if record.outcome == "completed" and not record.is_derived)
    assert to_confirm(results, trained.number) == []


def test_a_trial_that_is_not_there_or_has_no_values_is_refused_with_what_is_wrong(
    searched: tuple[optuna.Study, Objective, SimulatedRunner],
) -> None:
    results = results_of(*searched[:2])
    with pytest.raises(TradeoffError, match="has no trial 999"):
        to_confirm(results, 999)
    probed = next(record.number for record in results.records if record.outcome == "probed")
    with pytest.raises(TradeoffError, match=f"trial {probed} is probed"):
        to_confirm(results, probed)


def test_a_difference_is_measured_minus_claimed_in_the_objectives_own_unit_and_a_share_of_the_claim_in_the_table() -> None:
    def record(number: int, *values: float) -> TrialRecord:
        return TrialRecord(
            number=number,
            outcome="completed",
            params=params(8),
            values=dict(zip(OBJECTIVES, values, strict=True)),
        )

    confirmation = Confirmation(claimed=record(1, 0.75, 10.0, 100.0), measured=record(2, 0.5, 11.0, 90.0))
    assert confirmation.as_dict(OBJECTIVES)["difference"] == {
        "accuracy": -0.25, "train_time_s": 1.0, "peak_memory_mib": -10.0
    }  # fmt: skip
    table = confirmations_table([confirmation], OBJECTIVES)
    shown = " ".join(line.plain for line in table.lines(200))
    assert "measured minus expected" in shown
    assert "0.750 -> 0.500 (-0.250)" in shown
    assert "10.00 -> 11.00 (+10.0%)" in shown
    assert "100 -> 90 (-10.0%)" in shown


DERIVED: dict[str, Any] = {
    "derived_from": 0,
    "accuracy_source": "trained in trial 0",
    "train_time_s_source": "probe",
    "peak_memory_mib_source": "probe",
}


def test_an_export_on_another_machine_says_so_and_keeps_the_values_as_derived(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/a.db"
    trials = (completed((0.80, 40.0, 900.0), params(8)), completed((0.80, 20.0, 800.0), params(4, 2), **DERIVED))
    make_study(open_storage(storage), trials)
    done = CliRunner().invoke(app, ["export", "--storage", storage, "--output", str(tmp_path / "chosen")])
    assert done.exit_code == 0, done.output
    assert "was measured on Test CPU" in done.stderr
    assert "trial 1 is not confirmed" in done.stderr
    assert "trained in trial 0" in (tmp_path / "chosen" / "tradeoff.yaml").read_text()


@pytest.mark.parametrize("outcome", ["diverged", "timed_out", "out_of_memory"])
def test_a_confirmation_in_which_nothing_completes_names_the_cause(outcome: Any) -> None:
    derived = record(1, (0.8, 20.0, 800.0))
    ended = TrialRecord(number=7, outcome=outcome, params={}, reason="for a reason")
    why = confirm_command._none_confirmed([Confirmation(claimed=derived, measured=ended)])
    assert why is not None
    assert f"trial 7, ended as {outcome.replace('_', ' ')}: for a reason; choose another one" in why
    assert confirm_command._none_confirmed([Confirmation(claimed=derived, measured=record(8, (0.8, 20.0, 800.0)))]) is None


def test_an_export_can_be_told_not_to_confirm(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/a.db"
    make_study(open_storage(storage), (completed((0.80, 20.0, 800.0), params(4, 2), **DERIVED),))
    arguments = ["export", "--storage", storage, "--output", str(tmp_path / "chosen"), "--no-confirm"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""


def test_real_trainings_confirm_a_trial_and_then_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoff.studies.workers.run, "TrialServer", SharedTrialServer)
    monkeypatch.setattr(tradeoff.studies.execution.confirm, "TrialServer", SharedTrialServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    storage = f"sqlite:///{tmp_path}/a.db"
    study = run_study(tiny_study(sampler="decoupled", reuse="effective-batch", sampler_seed=None), storage=storage)
    assert sorted(trial.number for trial in study.best_trials) == sorted(
        record.number for record in pareto_front(read_results(study).records, OBJECTIVES)
    )
    derived = [record for record in read_results(study).records if record.is_derived]
    assert derived
    number = derived[0].number
    arguments = ["confirm", "--storage", storage, "--trial", str(number), "--format", "json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["trial"], row["outcome"]) == (number, "completed")
    assert set(row["claimed"]) == set(row["measured"]) == set(row["difference"]) == set(OBJECTIVES)
    again = CliRunner().invoke(app, arguments)
    assert (again.exit_code, json.loads(again.stdout)) == (0, [])
    assert f"trial {row['confirmed_by']} has measured the configuration of trial {number}" in again.stderr
    # An export of the derived trial is one of the trial that has confirmed it.
    done = CliRunner().invoke(
        app, ["export", "--trial", str(number), "--storage", storage, "--output", str(tmp_path / "chosen")]
    )
    assert done.exit_code == 0, done.output
    assert f"trial: {row['confirmed_by']}\n" in (tmp_path / "chosen" / "tradeoff.yaml").read_text()

"""How `tradeoff run` ends: its exit status, and what it says of the classes that nobody has trained."""

from pathlib import Path
from typing import Any

import pytest
import simulated_runner as simulated
from typer.testing import CliRunner

from tradeoff.objectives.measurements.outcome import Completed, Failed, Measurements, OutOfMemory, TimedOut
from tradeoff.studies.cli.main import app
from tradeoff.studies.errors import TradeoffError

STUDY = """
name: simulated
job: {model: embedded, dataset: embedded, train_samples: 1000, epochs: 3}
space:
  per_device_train_batch_size: [4, 8, 16]
  gradient_accumulation_steps: [1, 2, 4]
  gradient_checkpointing: false
  precision: fp32
  attn_implementation: [sdpa, eager]
memory_estimate: "off"
trials: %d
"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, instead: Any = None, trials: int = 24) -> Any:
    held = simulated.SimulatedRunner(instead=instead)
    monkeypatch.setattr("tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(held))
    (tmp_path / "study.yaml").write_text(STUDY % trials)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "study.yaml"), "--storage", str(tmp_path / "a.db"), *options])
    return result, " ".join((result.output).split()), held


def fails(reason: str, *, attention: str | None = None) -> Any:
    return lambda p, _: Failed(stage="model", reason=reason) if attention in (None, p["attn_implementation"]) else None


@pytest.mark.parametrize("sampler", ["decoupled", "random"])
def test_an_option_that_fails_is_said_once_and_the_study_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    result, text, _ = run(
        tmp_path,
        monkeypatch,
        "--set",
        f"sampler={sampler}",
        "--set",
        "sampler_seed=1",
        instead=fails("no kernel", attention="eager"), trials=5,
    )  # fmt: skip
    assert result.exit_code == 0
    assert text.count("attn_implementation=eager is left out from now on") == 1


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (Failed(stage="model", reason="no such layer"), "trials in a row failed; the last one: no such layer"),
        (Failed(stage="model", reason="no such layer"), "no such layer; the job is at fault"),
        (TimedOut(stage="probe", reason="longer than 1 s", limit_s=1.0), "raise limits.trial_time_s"),
        (OutOfMemory(stage="probe", reason="no room", shortfall_mib=5.0), "ran out of memory"),
    ],
)
def test_a_study_in_which_nothing_completes_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any, cause: str
) -> None:
    result, text, _ = run(tmp_path, monkeypatch, instead=lambda *_: outcome)
    assert result.exit_code == 1
    assert cause in text


def test_a_space_of_fewer_configurations_than_failures_that_end_a_study_fails_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, text, _ = run(
        tmp_path, monkeypatch, "--set", "space.per_device_train_batch_size=4", "--set", "space.gradient_accumulation_steps=1",
        "--set", "space.attn_implementation=sdpa", instead=fails("no such layer"),
    )  # fmt: skip
    assert result.exit_code == 1
    assert "nothing has completed (1 trial: 1 failed); the last trial that failed is 0: no such layer" in text


def test_the_end_lists_what_was_left_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, text, first = run(tmp_path, monkeypatch)
    assert result.exit_code == 0
    assert "not trained:" in text
    assert "expected to add 0." in text
    result, text, rest = run(tmp_path, monkeypatch, "--train-all", "--trials", "40")
    assert result.exit_code == 0
    assert "not trained: 1 learning class effective batch 64, fp32: does not fit" in text
    assert {p.effective_batch_size() for p in first.trained + rest.trained} == {4, 8, 16, 32}


def test_only_a_learned_objective_can_be_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, _ = run(tmp_path, monkeypatch, "--set", "prefer=train_time_s")
    assert "must be one that a training measures, accuracy, got 'train_time_s'" in str(result.exception)


def test_a_worker_of_a_study_in_which_nothing_completes_names_the_cause_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch, instead=lambda *_: Failed(stage="model", reason="no such layer"))
    result = CliRunner().invoke(app, ["worker", "--storage", str(tmp_path / "a.db")])
    text = " ".join(result.output.split())
    assert result.exit_code == 1, text
    assert "no such layer" in text


def test_a_study_that_can_not_be_read_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradeoff.studies.cli.run.run_study", lambda *_, **__: None)
    result, _, _ = run(tmp_path, monkeypatch)
    assert isinstance(result.exception, TradeoffError)


@pytest.mark.parametrize("seconds", ["0", "1e300"])
def test_a_timeout_of_any_size_ends_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    result, text, _ = run(tmp_path, monkeypatch, "--timeout", seconds, trials=2)
    assert result.exit_code == 0
    assert ("is there for workers to join: tradeoff worker" in text) == (seconds == "0")


def test_what_a_knob_is_found_to_change_is_said_once_stored_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = ("--set", "space.average_tokens_across_devices=[false, true]")
    said = "average_tokens_across_devices: neither memory nor time depends on it (trials"
    result, text, _ = run(tmp_path, monkeypatch, *option)
    assert result.exit_code == 0, text
    assert text.count(said) == 1
    where = ("--storage", str(tmp_path / "a.db"))
    front = CliRunner().invoke(app, ["front", *where])
    assert said in " ".join(front.output.split())
    report = CliRunner().invoke(app, ["report", *where, "--format", "md", "--output", str(tmp_path / "report.md")])
    assert report.exit_code == 0, report.output
    assert "average_tokens_across_devices: neither memory nor time depends on it" in (
        tmp_path / "report.md"
    ).read_text().replace("\\", "")


def test_a_declaration_that_measurements_contradict_is_said_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(p: Any, stages: tuple[str, ...]) -> Any:
        probe = simulated.simulated_probe(p, 2.0 if p.get("average_tokens_across_devices") else 1.0)
        return Completed(measurements=Measurements(probe=probe, trial_time_s=1.0)) if stages == ("probe",) else None

    option = "space.average_tokens_across_devices={values: [false, true], changes: [learning]}"
    result, text, _ = run(tmp_path, monkeypatch, "--set", option, instead=slower)
    assert result.exit_code == 0, text
    assert "average_tokens_across_devices: time depends on it (trials" in text
    assert "unlike its `changes` say (learning); it is searched as measured" in text.split("not trained")[0]


def test_what_is_expected_of_untrained_configurations_is_said_at_the_end_and_by_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, text, held = run(tmp_path, monkeypatch, "--set", "sampler_seed=1", trials=2)
    assert result.exit_code == 0
    assert held.trained
    assert "predicted, and not trained: expected on the front" in text
    shown = CliRunner().invoke(app, ["front", "simulated", "--storage", str(tmp_path / "a.db")])
    told = " ".join(shown.output.split())
    line = text.split("expected on the front ")[1].split(" MiB")[0]
    assert "accuracy" in line
    assert "±" in line
    assert line in told
    chosen = CliRunner().invoke(app, ["front", "simulated", "--storage", str(tmp_path / "a.db"), "--knee"])
    assert "predicted, and not trained" not in chosen.output

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from stored_studies import TRIALS, completed, make_study, params

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import check_output, export
from tradeoff.studies.export.exported import read_export
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Choice, Selection, choose
from tradeoff.studies.storage.opening import open_storage


@pytest.fixture(scope="module")
def results() -> StudyResults:
    mixed = completed(
        (0.9, 5.0, 450.0),
        params(16, 4, checkpointing=True, precision="bf16"),
        derived_from=2,
        accuracy_source="trained in trial 2",
        peak_reserved_mib=420.0,
        training={"num_steps": 64, "train_loss": 1.25, "energy_j": None},
    )
    return read_results(make_study(None, (*TRIALS, mixed)))


def loaded(folder: Path) -> Any:
    """The file as an example script of transformers reads it."""
    from transformers import HfArgumentParser, TrainingArguments

    return HfArgumentParser((TrainingArguments,)).parse_json_file(str(folder / "training_args.json"))[0]


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_the_arguments_load_into_training_arguments_and_mean_the_trial(results: StudyResults, tmp_path: Path) -> None:
    export(results, choose(results, Selection(trial=6)), tmp_path / "chosen")
    arguments = loaded(tmp_path / "chosen")
    assert arguments.per_device_train_batch_size == 16
    assert arguments.gradient_accumulation_steps == 4
    assert arguments.gradient_checkpointing is True
    assert arguments.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert (arguments.fp16, arguments.bf16) == (False, True)
    assert arguments.learning_rate == 3e-4
    assert arguments.num_train_epochs == 2
    assert arguments.lr_scheduler_type == "linear"
    assert arguments.optim == "adamw_torch"
    assert (arguments.warmup_steps, arguments.weight_decay, arguments.max_grad_norm) == (0, 0.0, 1.0)
    assert arguments.seed == 7
    assert arguments.per_device_eval_batch_size == 8
    assert arguments.eval_strategy == "epoch"
    assert arguments.save_strategy == "no"
    assert arguments.report_to == []
    assert arguments.dataloader_num_workers == 0
    assert arguments.output_dir == str(tmp_path / "chosen" / "model")


def test_a_configuration_without_checkpointing_loads_with_checkpointing_off(results: StudyResults, tmp_path: Path) -> None:
    export(results, choose(results, Selection(trial=0)), tmp_path / "chosen")
    arguments = loaded(tmp_path / "chosen")
    assert arguments.gradient_checkpointing is False
    assert (arguments.fp16, arguments.bf16) == (False, False)


def test_what_a_trial_searched_goes_before_what_the_job_holds() -> None:
    job = TextClassificationJob(learning_rate=1e-5, eval_samples=0)
    searched = TrialParameters(
        per_device_train_batch_size=4,
        precision="fp16",
        learning_rate=2e-4,
        dataloader_num_workers=2,
        dataloader_pin_memory=False,
    )  # type: ignore[arg-type]
    arguments = training_arguments(job, searched, output_dir="out")
    assert arguments["learning_rate"] == 2e-4
    assert arguments["fp16"] is True
    assert arguments["dataloader_num_workers"] == 2
    assert arguments["dataloader_pin_memory"] is False
    assert arguments["eval_strategy"] == "no"
    assert "gradient_checkpointing_kwargs" not in arguments
    assert training_arguments(job, TrialParameters(per_device_train_batch_size=4), output_dir="out")["learning_rate"] == 1e-5


def test_every_argument_is_a_field_of_training_arguments_and_plain_data() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    parameters = TrialParameters(per_device_train_batch_size=4, gradient_checkpointing=True, dataloader_pin_memory=True)
    arguments = training_arguments(TextClassificationJob(), parameters, output_dir="out")
    assert set(arguments) <= known
    assert json.loads(json.dumps(arguments)) == arguments


def test_the_provenance_says_where_the_configuration_and_each_value_come_from(results: StudyResults, tmp_path: Path) -> None:
    export(results, choose(results, Selection(trial=6)), tmp_path / "chosen")
    found = yaml.safe_load((tmp_path / "chosen" / "tradeoff.yaml").read_text())
    assert found["study"] == {
        "name": "stars",
        "storage": "InMemoryStorage",
        "trials": {"completed": 6, "out of memory": 1},
    }
    assert found["trial"] == 6
    assert found["chosen"] == "asked for by number"
    assert found["parameters"] == params(16, 4, checkpointing=True, precision="bf16")
    assert found["effective_batch_size"] == 64
    assert found["values"] == {
        "accuracy": {"value": 0.9, "source": "trained in trial 2"},
        "train_time_s": {"value": 5.0, "source": "measured"},
        "peak_memory_mib": {"value": 450.0, "source": "measured"},
    }
    assert found["memory_mib"] == {"peak_memory_mib": 450.0, "peak_reserved_mib": 420.0}
    measured = {"train_time_s": 5.0, "eval_time_s": 0.0, "samples_per_s": 20.0, "train_loss": 1.25}
    assert found["measured"] == measured | {"num_steps": 64, "num_samples": 100}
    assert found["model"] == "embedded"
    assert found["data"]["dataset"] == "embedded"
    assert found["seed"] == 7
    assert found["device"]["name"] == "Test CPU"
    assert found["versions"]["transformers"] == "5.23.0"
    assert found["tradeoff_version"] == "0.1.0"


def test_an_export_has_the_spread_of_its_values_and_the_constant_answer_and_its_card_the_marks(tmp_path: Path) -> None:
    spread = completed((0.85, 60.0, 950.0), params(2), accuracy_std=0.02, num_seeds=3, train_time_s_std=1.5)
    found = replace(read_results(make_study(None, (*TRIALS, spread))), baselines={"accuracy": 0.75})
    export(found, choose(found, Selection(maximize="accuracy")), tmp_path / "chosen")
    origin = yaml.safe_load((tmp_path / "chosen" / "tradeoff.yaml").read_text())
    assert origin["values"]["accuracy"] == {"value": 0.85, "source": "measured", "std": 0.02}
    assert origin["values"]["train_time_s"]["std"] == 1.5
    assert origin["constant_answer"] == {"accuracy": 0.75}
    card = (tmp_path / "chosen" / "README.md").read_text()
    assert "accuracy 0.850 ± 0.020, training time 60.00 ± 1.50 s" in card
    assert "**chosen, highest accuracy**" in card
    assert card.count("| no better than a constant answer |") == 2
    assert "A constant answer: accuracy 0.750." in card
    assert "the study has accuracy 0.85 ± 0.02, measured" in (tmp_path / "chosen" / "train.py").read_text()


def test_a_configuration_no_better_than_a_constant_answer_is_exported_by_its_number_alone_and_says_so(
    results: StudyResults, tmp_path: Path
) -> None:
    beaten = replace(results, baselines={"accuracy": 0.95})
    with pytest.raises(TradeoffError, match=r"clearly better than a constant answer .*; --trial N chooses one nevertheless"):
        choose(beaten, Selection())
    export(beaten, choose(beaten, Selection(trial=0)), tmp_path / "chosen")
    card = " ".join((tmp_path / "chosen" / "README.md").read_text().split())
    assert (
        "**No configuration is clearly better than a constant answer (accuracy 0.950); what usually helps: more epochs" in card
    )


def test_the_storage_is_written_without_its_password(tmp_path: Path) -> None:
    study = make_study(open_storage(f"sqlite:///{tmp_path}/a.db"))
    study.storage.database.url = "postgresql://ada:secret@host/studies"
    stored = read_results(study)
    export(stored, choose(stored, Selection()), tmp_path / "chosen")
    text = (tmp_path / "chosen" / "tradeoff.yaml").read_text()
    assert "postgresql://ada:***@host/studies" in text
    assert "secret" not in text


def test_a_configuration_that_has_no_trial_yet_is_exported_without_a_number(results: StudyResults, tmp_path: Path) -> None:
    unpublished = replace(choose(results, Selection(trial=0)).record, number=-1)
    export(results, Choice(record=unpublished, why="knee"), tmp_path / "chosen")
    assert read_export(tmp_path / "chosen")["trial"] is None
    for name in ("README.md", "train.py"):
        text = (tmp_path / "chosen" / name).read_text()
        assert "a configuration that is not published yet of the study stars" in text
        assert "trial -1" not in text
    assert "\n| **-** |" in (tmp_path / "chosen" / "README.md").read_text()


def test_an_output_folder_that_holds_something_is_refused_and_left_alone(results: StudyResults, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.bin").write_text("precious")
    with pytest.raises(TradeoffError, match=r"must be a new or empty directory, and .*old is neither"):
        export(results, choose(results, Selection()), tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "model.bin"]


def test_an_empty_folder_is_filled(results: StudyResults, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    written = export(results, choose(results, Selection()), tmp_path / "empty")
    assert sorted(path.name for path in written) == [
        "README.md",
        "accelerate_config.yaml",
        "embedded_model.py",
        "eval.jsonl",
        "flags.txt",
        "text_labels.py",
        "tradeoff.yaml",
        "train.jsonl",
        "train.py",
        "training_args.json",
    ]
    assert all(path.is_file() for path in written)


def test_a_file_in_the_way_and_a_missing_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TradeoffError, match="must be a new or empty directory"):
        check_output(tmp_path / "file")
    with pytest.raises(TradeoffError, match="must be in a directory that exists"):
        check_output(tmp_path / "nowhere" / "chosen")


def test_nothing_is_left_behind_when_writing_fails(results: StudyResults, tmp_path: Path) -> None:
    choice = choose(results, Selection())
    unwritable = Choice(record=choice.record, why=object())  # type: ignore[arg-type]  # YAML has no form for it
    with pytest.raises(yaml.YAMLError):
        export(results, unwritable, tmp_path / "chosen")
    name_too_long = tmp_path / ("x" * 300)
    with pytest.raises(TradeoffError, match="can't be written: File name too long"):
        export(results, choice, name_too_long)
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_a_relative_folder_stands_where_the_command_ran(
    results: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(results, choose(results, Selection()), Path("chosen"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chosen"]


def test_what_is_exported_is_what_optuna_stored(tmp_path: Path) -> None:
    study = make_study(open_storage(str(tmp_path / "a.db")))
    best = max(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)), key=lambda trial: trial.values[0])
    stored = read_results(study)
    export(stored, choose(stored, Selection(maximize="accuracy")), tmp_path / "chosen")
    found = yaml.safe_load((tmp_path / "chosen" / "tradeoff.yaml").read_text())
    assert found["parameters"] == best.params
    assert [found["values"][name]["value"] for name in stored.objectives] == best.values

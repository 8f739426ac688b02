"""`tradeoff.hyperparameter_search` beside the Trainer's own method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import line_trainer
import pytest
import torch
from running import SharedTrialServer, cache_folder
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import BestRun

import tradeoff
from tradeoff.studies.python.hyperparameter_search import _OF_TRIALS, _Rebuilt, _space, _suggested
from tradeoff.studies.workers import run as runner


def made(model_init: Callable[..., Any] = lambda: line_trainer.Line(), **arguments: Any) -> Trainer:
    usual = {"output_dir": "out", "num_train_epochs": 1, "use_cpu": True, "report_to": "none", "eval_strategy": "epoch"}
    return Trainer(
        model_init=model_init,
        args=TrainingArguments(**usual | arguments),
        train_dataset=line_trainer.samples(),
        eval_dataset=line_trainer.samples(16),
        compute_metrics=lambda prediction: {"worst": float(abs(prediction.predictions - prediction.label_ids).max())},
    )


def hp_space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16]),
    }


def test_the_same_script_gets_the_best_run_and_the_trade_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)

    def model_init(trial: Any) -> torch.nn.Module:
        return line_trainer.Line(trial.suggest_categorical("width", [1, 2]) if trial is not None else 1)

    def with_width(trial: Any) -> dict[str, Any]:
        trial.suggest_categorical("width", [1, 2])
        return hp_space(trial)

    trainer = made(model_init)
    before = trainer.hyperparameter_search(with_width, n_trials=1, backend="optuna", direction="maximize")
    after = tradeoff.hyperparameter_search(
        trainer, with_width, lambda metrics: -metrics["eval_worst"], 2, "maximize", progress=False
    )
    assert isinstance(after, BestRun)
    assert before.hyperparameters.keys() <= after.hyperparameters.keys()
    front = after.run_summary.front
    assert after.objective == front["eval_score"].max() < 0
    assert after.hyperparameters["width"] in (1, 2)
    assert after.hyperparameters["bf16"] is False


def test_what_is_not_suggested_is_as_the_trainer_says() -> None:
    trainer = made(per_device_train_batch_size=4, gradient_accumulation_steps=2, bf16=True, dataloader_num_workers=1)
    space = _space(
        trainer.args, lambda trial: {"weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1), "max_grad_norm": 2}
    )
    assert (space["per_device_train_batch_size"], space["dataloader_num_workers"]) == (4, 1)
    assert "train_sampling_strategy" not in space
    assert (space["gradient_accumulation_steps"], space["precision"], space["max_grad_norm"]) == (2, "bf16", [2])


def test_a_trial_trains_with_the_trainers_own_arguments_where_it_sets_none() -> None:
    trainer = made(
        per_device_train_batch_size=4,
        adam_beta1=0.8,
        remove_unused_columns=False,
        weight_decay=0.1,
        save_steps=7,
        logging_steps=3,
    )
    rebuilt = _Rebuilt.of(trainer, lambda metrics: 1.0, "eval_score", set_by_trials=_OF_TRIALS)
    trial = TrainingArguments("trial", use_cpu=True, per_device_train_batch_size=2, report_to="none")
    found = rebuilt(trial).args
    assert (found.adam_beta1, found.remove_unused_columns, found.per_device_train_batch_size) == (0.8, False, 2)
    assert (found.save_steps, found.output_dir, found.weight_decay) == (500, "trial", 0.0)


def sometimes(trial: Any) -> dict[str, Any]:
    if trial.suggest_categorical("optim", ["sgd", "adamw_torch"]) == "sgd":
        return {"weight_decay": trial.suggest_float("weight_decay", 0, 1)}
    return {}


@pytest.mark.parametrize(
    ("suggest", "sentence"),
    [
        (sometimes, "the same parameters in each call, and weight_decay is not in all of them"),
        (
            lambda trial: {"warmup_steps": 2 * trial.suggest_int("warmup_steps", 1, 5)},
            "under the same name, and warmup_steps is",
        ),
        (lambda trial: {"max_grad_norm": trial.number}, "must give max_grad_norm the same values in each call"),
        (lambda trial: None, "hp_space must return a dictionary of parameters, got None"),
    ],
)
def test_a_space_that_changes_is_a_sentence(suggest: Callable[[Any], dict[str, Any]], sentence: str) -> None:
    with pytest.raises(tradeoff.TradeoffError, match=sentence):
        _suggested(suggest)


def test_a_trainer_without_model_init_and_several_directions_are_sentences() -> None:
    trainer = line_trainer.build(TrainingArguments("out", use_cpu=True, report_to="none"))
    with pytest.raises(tradeoff.TradeoffError, match="the Trainer has no model_init"):
        tradeoff.hyperparameter_search(trainer, hp_space)
    with pytest.raises(tradeoff.TradeoffError, match="direction must be minimize or maximize"):
        tradeoff.hyperparameter_search(made(), hp_space, direction=["minimize", "maximize"])  # type: ignore[arg-type]
    with pytest.raises(tradeoff.TradeoffError, match="takes no backend, since it is one; leave backend out"):
        tradeoff.hyperparameter_search(made(), hp_space, backend="optuna")


def test_a_misspelt_argument_is_a_sentence() -> None:
    with pytest.raises(tradeoff.TradeoffError, match=r"suggests lerning_rate, .* did you mean 'learning_rate'"):
        tradeoff.hyperparameter_search(made(), lambda trial: {"lerning_rate": trial.suggest_float("lerning_rate", 0, 1)})

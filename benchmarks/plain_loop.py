"""What a user would write today, for on_the_clock.py: one process, the Trainer in it, Optuna around it.

It is given what helps it: the tokenised data, a sampler that models parameters jointly, and out-of-memory as a pruned trial. A
limit on the data of a process that has run other trials before would also count what the allocator keeps of them, so a
configuration that the table knows to run out of memory is stopped with torch's own error after its first step instead.
"""

import gc
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from fronts.table import Key, key_of
from transformers import Trainer, TrainerCallback, TrainingArguments

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers.accuracy import compute_metrics
from tradeoff.objectives.trainers.models import build_model
from tradeoff.objectives.trainers.prepared_data import load
from tradeoff.objectives.trainers.samples.labelled import collator
from tradeoff.searchspace import SearchSpace, TrialParameters

# Peak memory in MiB; None of what does not fit.
Peaks = Mapping[Key, float | None]
OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


class OutOfMemoryAfterOneStep(TrainerCallback):
    """Raises torch's error after the first step of a configuration that does not fit."""

    def __init__(self, fits: bool) -> None:
        self.fits = fits

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if not self.fits:
            raise RuntimeError(OUT_OF_MEMORY)


def make_trainer(job: TextClassificationJob, data: Any, parameters: TrialParameters, folder: str, *, fits: bool) -> Trainer:
    quiet = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    return Trainer(
        model=build_model(job, data.model),
        args=TrainingArguments(**(training_arguments(job, parameters, output_dir=folder) | quiet)),
        train_dataset=data.train,
        eval_dataset=data.eval,
        data_collator=collator(data.tokenizer, job.padding, is_padded=data.is_padded, max_length=job.max_length),
        compute_metrics=compute_metrics,
        callbacks=[OutOfMemoryAfterOneStep(fits)],
    )


def plain_trials(
    job: TextClassificationJob, space: SearchSpace, folder: Path, peaks: Peaks, *, seed: int, max_s: float
) -> Iterator[tuple[float, dict[str, Any], tuple[float, float, float] | None]]:
    """Run trial after trial; yield seconds so far, parameters, and accuracy, seconds and MiB (None out of memory)."""
    data = load(folder)
    study = optuna.create_study(
        directions=["maximize", "minimize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True)
    )
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < max_s:
        trial = study.ask()
        parameters = space.suggest(trial)
        memory_mib = peaks[key_of(parameters.as_dict())]
        with tempfile.TemporaryDirectory() as output:
            trainer = make_trainer(job, data, parameters, output, fits=memory_mib is not None)
            try:
                train_s = trainer.train().metrics["train_runtime"]
            except RuntimeError as error:
                if OUT_OF_MEMORY not in str(error):
                    raise
                trial.set_constraint("memory", 1.0)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                yield time.perf_counter() - begin_s, parameters.as_dict(), None
                continue
        accuracy = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]
        assert memory_mib is not None
        values = (accuracy, float(train_s), memory_mib)
        study.tell(trial, values)
        del trainer
        gc.collect()
        yield time.perf_counter() - begin_s, parameters.as_dict(), values


def hyperparameter_search(
    job: TextClassificationJob, space: SearchSpace, folder: Path, peaks: Peaks, *, seed: int
) -> tuple[int, str]:
    """`Trainer.hyperparameter_search` as far as it goes: the number of trials it began, and what ended it."""
    data = load(folder)
    begun: list[TrialParameters] = []
    callback = OutOfMemoryAfterOneStep(True)

    def hp_space(trial: optuna.Trial) -> dict[str, Any]:
        begun.append(space.suggest(trial))
        callback.fits = peaks[key_of(begun[-1].as_dict())] is not None
        arguments = training_arguments(job, begun[-1], output_dir="")
        names = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "bf16")
        return {name: arguments.get(name, False) for name in names}

    with tempfile.TemporaryDirectory() as output:
        first = TrialParameters(per_device_train_batch_size=32)
        trainer = make_trainer(job, data, first, output, fits=True)
        trainer.model_init = lambda: build_model(job, data.model)
        trainer.add_callback(callback)
        try:
            trainer.hyperparameter_search(
                hp_space=hp_space,
                compute_objective=lambda metrics: [metrics["eval_accuracy"], metrics["eval_runtime"]],
                n_trials=24,
                direction=["maximize", "minimize"],
                backend="optuna",
                sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
            )
        except RuntimeError as error:
            return len(begun), f"ended by {str(error).splitlines()[0][:60]}"
    return len(begun), "ran to its end"

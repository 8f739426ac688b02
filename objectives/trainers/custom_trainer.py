"""Builds a Trainer with the user's own function, and checks it before a study starts.

The user's module is imported in the process that trains and nowhere else: it may start CUDA, and it may fail.
"""

import importlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainingArguments, set_seed

from tradeoff.objectives.data.samples import first_rows, num_rows
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.settings import CustomJob
from tradeoff.objectives.measurements.goals import learned_value, metric_name
from tradeoff.objectives.trainers.evaluations import numbers_of
from tradeoff.searchspace import TrialParameters

# Arguments that a trial sets and that change none of its measurements.
_FREE = {"report_to", "logging_strategy"}


def build_trainer(job: CustomJob, arguments: TrainingArguments, settings: Mapping[str, Any]) -> Trainer:
    """Call the user's function.

    Args:
        job: Names the function.
        arguments: The function's argument.
        settings: What the trial's configuration sets besides the arguments; passed to the function by keyword.

    Raises:
        ValueError: There is no such function, or it did not return a Trainer with these arguments.
        Exception: Whatever the function itself raises.
    """
    asked = {name: getattr(arguments, name) for name in _set_by_trials(job)}
    trainer = load_function(job)(arguments, **job.kwargs, **settings)
    if not isinstance(trainer, Trainer):
        raise ValueError(f"job.build {job.build!r} must return a transformers.Trainer, got {type(trainer).__name__}")
    for name, value in asked.items():
        if (has := getattr(trainer.args, name)) != value:
            raise ValueError(
                f"job.build {job.build!r} must pass on the TrainingArguments that it is given:"
                f" the trial sets {name} to {value!r}, and its Trainer has {has!r}"
            )
    if trainer.train_dataset is None or not hasattr(trainer.train_dataset, "__len__"):
        raise ValueError(f"the Trainer of job.build {job.build!r} must have a train_dataset whose length is known")
    if job.evaluates and trainer.eval_dataset is None:
        raise ValueError(
            f"the Trainer of job.build {job.build!r} must have an eval_dataset for job.metric {job.metric};"
            " set job.metric to null if there is nothing to evaluate"
        )
    return trainer


def load_function(job: CustomJob) -> Callable[..., Any]:
    """Import the user's module and return the function from it.

    Raises:
        ValueError: There is no such module or function.
        Exception: Whatever the module itself raises when it is imported.
    """
    module_name, _, name = job.build.partition(":")
    folder = job.python_path or ""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # If the user's own module lacks another one, that is the user's error and keeps its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"job.build {job.build!r} must name a module, and there is no module {error.name}"
            f" in {folder or 'the working directory'}; set job.python_path to its directory"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"job.build {job.build!r} must name a function, and {module.__file__} has no function {name}")
    return function  # type: ignore[no-any-return]


def describe_trainer(job: CustomJob) -> dict[str, Any]:
    """Build the user's Trainer once, evaluate a batch, and return how much data it has.

    Returns:
        `num_train` and `num_eval`.

    Raises:
        ValueError: The job can't be run as the user wrote it, or the user's function fails.
    """
    with tempfile.TemporaryDirectory(prefix="tradeoff-") as folder:
        smallest = TrialParameters(per_device_train_batch_size=1)
        # With a strategy, the Trainer itself would refuse what is refused below in terms of the job.
        settings = training_arguments(job, smallest, output_dir=folder) | {"disable_tqdm": True, "eval_strategy": "no"}
        arguments = TrainingArguments(**settings, use_cpu=start_device().uses_host_processors)
        set_seed(job.seed)
        with _user_errors(job, "fails"):
            trainer = build_trainer(job, arguments, {})
        if not job.evaluates:
            return {"num_train": len(trainer.train_dataset), "num_eval": 0}
        _check_metric(job, trainer)
        return {"num_train": len(trainer.train_dataset), "num_eval": num_rows(trainer.eval_dataset)}


def _check_metric(job: CustomJob, trainer: Trainer) -> None:
    """Look for the metric in the evaluation of a few samples."""
    assert job.metric is not None
    failed: list[Exception] = []
    rows = first_rows(trainer.eval_dataset, job.eval_batch_size)
    try:
        with _user_errors(job, "builds a Trainer whose evaluation fails"), tolerant_metrics(trainer, failed.append):
            metrics = numbers_of(trainer.evaluate(eval_dataset=rows))
    except ValueError as error:
        # What fails only with so few samples (a correlation of one, say), or for lack of memory, is left to the trials.
        if failed or (error.__cause__ is not None and out_of_memory_details(error.__cause__) is not None):
            return
        raise
    if not failed and learned_value({"metrics": metrics}, metric_name(job.metric)) is None:
        keys = ", ".join(sorted(key for key in metrics if key != "epoch"))
        raise ValueError(f"job.metric must be a key of the Trainer's evaluation, got {job.metric!r}; its keys are {keys}")


@contextmanager
def tolerant_metrics(trainer: Trainer, on_error: Callable[[Exception], None]) -> Iterator[None]:
    """Let `compute_metrics` fail: the user's may not be written for the few samples that a probe evaluates."""
    original = trainer.compute_metrics

    def tolerant(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the user's own code, with samples that it was not written for
            traceback.print_exc()
            on_error(error)
            return {}

    # Without it the Trainer would keep no predictions, and peak memory would differ.
    trainer.compute_metrics = None if original is None else tolerant
    try:
        yield
    finally:
        trainer.compute_metrics = original


@contextmanager
def _user_errors(job: CustomJob, what: str) -> Iterator[None]:
    """Report an error of the user's own code in a sentence that says what and where it was."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(("job.", "the Trainer of job.build")):
            raise
        raise _explained(job, what, error) from error
    except Exception as error:
        raise _explained(job, what, error) from error


def _explained(job: CustomJob, what: str, error: Exception) -> ValueError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if job.python_path and frame.filename.startswith(job.python_path)]
    last = (own or frames)[-1]
    line = traceback.format_exception_only(error)[-1].strip()
    traceback.print_exception(error)
    return ValueError(f"job.build {job.build!r} {what} ({last.filename}, line {last.lineno}): {line}")


def _set_by_trials(job: CustomJob) -> set[str]:
    """Return the names of the arguments that trials set and that change their measurements."""
    smallest = TrialParameters(per_device_train_batch_size=1)
    always = {"max_steps", "gradient_checkpointing", "train_sampling_strategy", "use_cpu"}
    return always | training_arguments(job, smallest, output_dir="").keys() - _FREE

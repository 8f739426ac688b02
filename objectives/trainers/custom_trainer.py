"""Builds a Trainer with the user's own function, and checks it before a study starts.

The user's module is imported in the process that trains and nowhere else: it may start CUDA, and it may fail.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import EarlyStoppingCallback, IntervalStrategy, Trainer, TrainingArguments

from tradeoff.objectives.data.samples import first_rows, num_rows
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.job.arguments import settings_beside_arguments, training_arguments
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.job.sent_function import load, received
from tradeoff.objectives.measurements.goals import learned_value, metric_name
from tradeoff.objectives.trainers.evaluations import numbers_of
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.names import hint

# Arguments that a trial sets and that change none of its measurements. A Trainer that keeps its best model must save.
_FREE = {"report_to", "logging_strategy", "save_strategy"}


class ExplainedError(ValueError):
    """An error of the user's own code, in a sentence that says what and where it was."""


def build_trainer(job: CustomJob, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:
    """Call the user's function.

    Args:
        job: Names the function.
        arguments: The function's argument.
        parameters: The trial's configuration; what it sets besides the arguments is passed to the function by keyword.

    Raises:
        JobFault: There is no such function, or it did not return a Trainer with these arguments.
        Exception: Whatever the function itself raises.
    """
    strategies = arguments.eval_strategy, arguments.save_strategy
    if job.evaluates:
        # One that keeps its best model refuses to be built where nothing is evaluated or saved, as in a probe.
        arguments.eval_strategy = arguments.save_strategy = IntervalStrategy.EPOCH
    asked = {name: getattr(arguments, name) for name in _set_by_trials(job, parameters)}
    try:
        trainer = load_function(job)(arguments, **job.kwargs, **settings_beside_arguments(parameters))
    except ValueError as error:
        if job.evaluates and "eval_dataset" in str(error):  # the Trainer's own refusal
            raise _without_evaluation(job) from error
        raise
    if not isinstance(trainer, Trainer):
        raise JobFault(f"job.build {job.build!r} must return a transformers.Trainer, got {type(trainer).__name__}")
    for name, value in asked.items():
        if (has := getattr(trainer.args, name)) != value:
            raise JobFault(
                f"job.build {job.build!r} must pass on the TrainingArguments that it is given:"
                f" the trial sets {name} to {value!r}, and its Trainer has {has!r}; {_place_of(name, job)}"
            )
    if trainer.train_dataset is None or not hasattr(trainer.train_dataset, "__len__"):
        raise JobFault(f"the Trainer of job.build {job.build!r} must have a train_dataset whose length is known")
    if len(trainer.train_dataset) == 0:
        raise JobFault(f"the train_dataset of job.build {job.build!r} must hold at least one sample, got none")
    if job.evaluates and not trainer.eval_dataset:
        raise _without_evaluation(job)
    _evaluate_and_save(trainer, *strategies)
    return trainer


def _place_of(name: str, job: CustomJob) -> str:
    """Return where a user sets what a function may not change."""
    if name in type(job).model_fields:
        return f"set job.{name} in the study file instead"
    return "leave it as it is in the function"


def _without_evaluation(job: CustomJob) -> JobFault:
    return JobFault(
        f"the Trainer of job.build {job.build!r} must have an eval_dataset for job.metric {job.metric};"
        " set job.metric to null if there is nothing to evaluate"
    )


def _evaluate_and_save(trainer: Trainer, eval_strategy: str, save_strategy: str) -> None:
    """Let a Trainer evaluate and save as asked, and save after each evaluation if it loads its best model at the end."""
    is_evaluated = eval_strategy != IntervalStrategy.NO
    trainer.args.eval_strategy = eval_strategy
    trainer.args.save_strategy = eval_strategy if trainer.args.load_best_model_at_end and is_evaluated else save_strategy
    if not is_evaluated:
        trainer.args.load_best_model_at_end = False
        # It refuses to start where nothing is evaluated.
        trainer.remove_callback(EarlyStoppingCallback)


def load_function(job: CustomJob) -> Callable[..., Any]:
    """Return the user's function: the one that was sent, or from its module, which is imported.

    Raises:
        JobFault: There is no such module or function.
        Exception: Whatever a module itself raises when it is imported.
    """
    module_name, _, name = job.build.partition(":")
    if job.is_sent:
        if (function := received()) is None:
            raise JobFault(
                f"job.build {name!r} is a function of the program that has made the study, which alone can run it: call"
                " tradeoff.search there again, or keep the function in a module"
            )
        return load(function)
    folder = job.python_path or ""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # If the user's own module lacks another one, that is the user's error and keeps its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise JobFault(
            f"job.build {job.build!r} must name a module, and there is no module {error.name}"
            f" in {folder or 'the working directory'}; set job.python_path to its directory, or say it with --build"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise JobFault(f"job.build {job.build!r} must name a function, and {module.__file__} has no function {name}")
    return function  # type: ignore[no-any-return]


def check_keywords(job: CustomJob, searched: Collection[str], conditional: Collection[str] = ()) -> None:
    """Check that the user's function takes what it is to be called with.

    Args:
        job: Names the function, and its fixed keyword arguments.
        searched: The parameters of the study that the function is given by keyword.
        conditional: Those that are not always set.

    Raises:
        JobFault: It does not.
    """
    try:
        takes = list(inspect.signature(load_function(job)).parameters.values())
    except (TypeError, ValueError):  # a function that tells nothing of what it takes, such as one in C
        return
    positional = [one for one in takes if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    by_keyword = [one for one in takes if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    names = [one.name for one in by_keyword if one not in positional[:1]]
    for key, name in [*(("space.", name) for name in searched), *(("job.kwargs.", name) for name in job.kwargs)]:
        if positional and name == positional[0].name and positional[0] in by_keyword:
            raise JobFault(f"{key}{name}: job.build {job.build!r} is given the TrainingArguments for it; leave it out")
        if name not in names and not any(one.kind is one.VAR_KEYWORD for one in takes):
            said = hint(name, function=job.build, keywords=names)
            raise JobFault(f"{key}{name}: job.build {job.build!r} must take the keyword, and does not; {said}")
    for one in by_keyword:
        if one.name in conditional and one.default is one.empty:
            raise JobFault(
                f"space.{one.name}: it is not always set (only_with), so job.build {job.build!r} must have a default for it"
            )


def examine_trainer(job: CustomJob, trainer: Trainer) -> dict[str, Any]:
    """Return what a Trainer tells of its job, after evaluating a batch.

    Returns:
        `num_train`, `num_eval`, and `has_checkpointing`.

    Raises:
        ValueError: It does not evaluate what the job says.
    """
    if job.evaluates:
        _check_metric(job, trainer)
    model = trainer.model
    # transformers' models say whether they can; of others only those that have the switch are asked to.
    can_switch = hasattr(model, "gradient_checkpointing_enable")
    return {
        "num_train": len(trainer.train_dataset),
        "num_eval": num_rows(trainer.eval_dataset) if job.evaluates else 0,
        "has_checkpointing": can_switch and bool(getattr(model, "supports_gradient_checkpointing", True)),
    }


def _check_metric(job: CustomJob, trainer: Trainer) -> None:
    """Look for the metric in the evaluation of a few samples."""
    assert job.metric is not None
    failed: list[Exception] = []
    rows = first_rows(trainer.eval_dataset, job.eval_batch_size)
    try:
        with tolerant_metrics(trainer, failed.append):
            metrics = numbers_of(trainer.evaluate(eval_dataset=rows))
    except Exception as error:
        # What fails only with so few samples (a correlation of one, say), or for lack of memory, is left to the trials.
        if failed or out_of_memory_details(error) is not None:
            return
        raise ExplainedError(explained(job, "builds a Trainer whose evaluation fails", error)) from error
    if not failed and learned_value({"metrics": metrics}, metric_name(job.metric)) is None:
        keys = ", ".join(sorted(key for key in metrics if key != "epoch"))
        raise JobFault(f"job.metric must be a key of the Trainer's evaluation, got {job.metric!r}; its keys are {keys}")


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


def explained(job: CustomJob, what: str, error: BaseException) -> str:
    """Return an error of the user's own code in a sentence that says what and where it was."""
    frames = list(traceback.extract_tb(error.__traceback__))
    own = [frame for frame in frames if job.python_path and frame.filename.startswith(job.python_path)]
    last = (own or frames)[-1]
    line = traceback.format_exception_only(error)[-1].strip()
    return f"job.build {job.build!r} {what} ({last.filename}, line {last.lineno}): {line}"


def _set_by_trials(job: CustomJob, parameters: TrialParameters) -> set[str]:
    """Return the names of the arguments that a trial sets and that change its measurements."""
    always = {"max_steps", "gradient_checkpointing", "train_sampling_strategy", "use_cpu"}
    return always | training_arguments(job, parameters, output_dir="").keys() - _FREE

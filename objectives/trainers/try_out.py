"""Tries a job out before its study: an evaluation and a step on its longest samples, with every option that may fail alone.

What fails with each value of an option is the job's fault, and the study is refused. What fails with one value alone is
taken out of the search. Values of several options are tried together, so that a job that works costs as many steps as its
option with the most values has.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PrinterCallback, set_seed

from tradeoff.objectives.data.samples import longest_rows
from tradeoff.objectives.device.base import Device
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.arguments import job_of, training_arguments
from tradeoff.objectives.job.jobs import AnyJob
from tradeoff.objectives.trainers.custom_trainer import tolerant_metrics
from tradeoff.objectives.trainers.evaluations import evaluate_alike
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.conditions import Conditions, set_values, with_conditions
from tradeoff.searchspace.constraints import check_conflicts
from tradeoff.searchspace.domains import is_number
from tradeoff.searchspace.kinds import Names, Switch

Choices = Mapping[str, Sequence[Any]]
# Compiling takes longer than all the rest, and fails for other reasons than the job's.
_NOT_TRIED = {"torch_compile"}
# Numbers of which one tells of all whether the model can be trained with them.
_ONE_OF = ("dropout", "lora_rank")
# Words that only what takes them can judge.
_WORDS = ("lora_target_modules", "lr_scheduler_kwargs")


class OptionLackedError(ValueError):
    """The model's class lacks an option: the end of a line that says so."""


@dataclass
class TryOut:
    """The attempts at a job.

    Attributes:
        job: The job.
        folders: Its prepared data, as `prepare_workload` returns it.
        device: The device, started in this process.
        steps: Whether a step is taken; otherwise the Trainer is only built and looked at.
        facts: What the Trainer has told of the job, as `Workload.examine` returns it; empty if none could be built.
    """

    job: AnyJob
    folders: Mapping[str, str]
    device: Device
    steps: bool = True

    def __post_init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def attempt(self, parameters: TrialParameters) -> BaseException | None:
        """Build a Trainer and take a step; return the error, unless memory ran out, which is for the trials to find.

        Raises:
            JobFault: The job is not as its user has to write it, whatever is searched.
        """
        try:
            with temporary_folder() as folder:
                self._run(parameters, str(folder))
        except JobFault:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  any model, any code of the user's, which may end the process too
            traceback.print_exc()
            return None if out_of_memory_details(error) is not None else error
        return None

    def _run(self, parameters: TrialParameters, folder: str) -> None:
        job = job_of(self.job, parameters)
        workload = load_workload(job, self.folders)
        settings = training_arguments(job, parameters, output_dir=folder) | {
            "use_cpu": self.device.uses_host_processors,
            "disable_tqdm": True,
            "eval_strategy": "no",
            "logging_strategy": "no",
        }
        set_seed(self.job.seed)
        trainer = workload.trainer(workload.arguments_class(**settings), parameters)
        evaluate_alike(trainer, parameters)
        trainer.remove_callback(PrinterCallback)
        is_first = not self.facts
        if is_first:
            self.facts = workload.examine(trainer)
        if parameters.gradient_checkpointing and self.facts["has_checkpointing"] is False:
            raise OptionLackedError(f"the model, {type(trainer.model).__name__}, can't compute its activations again")
        if not self.steps:
            return
        workload.check_option(trainer, parameters)
        evaluated_on = trainer.eval_dataset if self.job.evaluates and is_first else None
        if evaluated_on is not None:
            with tolerant_metrics(trainer, lambda _: None):
                trainer.evaluate(eval_dataset=longest_rows(evaluated_on, self.job.eval_batch_size))
        trainer.train_dataset = longest_rows(trainer.train_dataset, parameters.per_device_train_batch_size)
        trainer.args.max_steps = 1
        trainer.train()


def options(choices: Choices) -> dict[str, tuple[Any, ...]]:
    """Return those of the searched values that may fail by themselves: named ones, and one of a number that needs something."""
    named = {
        name: tuple(values)
        for name, values in choices.items()
        if (isinstance(KNOBS[name].kind, Names | Switch) and name not in _NOT_TRIED) or name in _WORDS
    }
    # Of a knob of which nothing is known, what is no number.
    opened = {name: [value for value in values if not is_number(value)] for name, values in choices.items()}
    named |= {name: tuple(values) for name, values in opened.items() if values and KNOBS[name].is_open}
    one_each = {name: [value for value in choices.get(name, ()) if value][:1] for name in _ONE_OF}
    return named | {name: tuple(values) for name, values in one_each.items() if values}


def failing_options(
    base: TrialParameters,
    choices: Choices,
    attempt: Callable[[TrialParameters], BaseException | None],
    conditions: Conditions | None = None,
) -> tuple[dict[tuple[str, Any], BaseException], BaseException | None]:
    """Find the values that make a job fail.

    Args:
        base: A configuration, of which the options are varied.
        choices: The values of each option.
        attempt: Tries a configuration, and returns the error.
        conditions: The values that others must have for an option to be set.

    Returns:
        The error of each option and value that fails; and the error of the job itself, None if it can be trained.
    """
    known: dict[TrialParameters, BaseException | None] = {}
    needed = conditions or {}

    def error_of(parameters: TrialParameters) -> BaseException | None:
        parameters = TrialParameters(**set_values(parameters, needed))
        if parameters not in known:
            known[parameters] = attempt(parameters)
        return known[parameters]

    def can_replace(parameters: TrialParameters, name: str) -> bool:
        others = [parameters.replace(**{name: value}) for value in choices[name] if value != parameters.get(name)]
        # One that leaves other options unset may work for that reason.
        held = set_values(parameters, needed).keys()
        others = [other for other in others if set_values(other, needed).keys() == held]
        return any(check_conflicts(other) is None and error_of(other) is None for other in others)

    failed = {together: error for together in _together(base, choices, needed) if (error := error_of(together)) is not None}
    working = next((together for together in _together(base, choices, needed) if together not in failed), None)
    if failed and working is None and error_of(base) is None:
        working = base  # all values of an option fail, and the job works without it
    failing: dict[tuple[str, Any], BaseException] = {}
    for together, error in failed.items():
        guilty = [name for name in choices if can_replace(together, name)]
        failing |= {(name, together[name]): error for name in guilty}
        if guilty or working is None:
            continue
        # Several of its values fail: each is tried in a configuration that works.
        for name in choices:
            alone = working.replace(**{name: together[name]})
            if check_conflicts(alone) is None and (own := error_of(alone)) is not None:
                failing[name, together[name]] = own
    return failing, None if failing else next(iter(failed.values()), None)


def _together(base: TrialParameters, choices: Choices, conditions: Conditions) -> Iterator[TrialParameters]:
    """Yield configurations in which every value occurs, as few as there can be."""
    occurred: set[tuple[str, Any]] = set()
    first: dict[str, Any] = {}
    for position in range(max((len(values) for values in choices.values()), default=1)):
        each = {name: values[min(position, len(values) - 1)] for name, values in choices.items()}
        first = first or each
        if check_conflicts(together := base.replace(**each)) is None:
            occurred |= set_values(together, conditions).items()
            yield together
    # What its conditions left unset there.
    for name, values in choices.items():
        for value in values if conditions.get(name) else ():
            together = base.replace(**first | with_conditions({name: value}, conditions))
            if (name, value) not in occurred and check_conflicts(together) is None:
                occurred |= set_values(together, conditions).items()
                yield together

"""Finds values that `TrainingArguments` refuses, before a trial is given one."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainingArguments

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.trainers.model_files import JobFault, first_line
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.conditions import Conditions, set_values, with_conditions
from tradeoff.searchspace.domains import is_number
from tradeoff.searchspace.knob import Target


def check_arguments(
    job: TrainingSettings,
    searched: Mapping[str, Sequence[Any]],
    conditions: Conditions,
    *,
    base: TrialParameters,
    use_cpu: bool,
) -> None:
    """Make `TrainingArguments` with each value that is searched; of numbers, with the first and the last one.

    Args:
        job: The job.
        searched: The values of each parameter.
        conditions: What they depend on.
        base: The other values.
        use_cpu: Whether trials run on a CPU.

    Raises:
        JobFault: One is refused; the sentence holds the reason as it is given there.
    """
    always = {name: values[0] for name, values in searched.items() if len(values) == 1}
    for name, values in arguments_to_try(searched).items():
        for value in values:
            chosen = {**base, **always, **with_conditions({name: value}, conditions)}
            parameters = TrialParameters(**set_values(chosen, conditions))
            error = _refusal(job, parameters, use_cpu)
            if error is not None and _refusal(job, parameters.without([name]), use_cpu) is None:
                raise JobFault(
                    f"space.{name}: TrainingArguments refuses {value!r} ({first_line(error)}); search others, or leave it out"
                )


def arguments_to_try(searched: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the values that `TrainingArguments` takes: all but numbers, and of these the first and the last one."""
    found = {}
    for name, values in searched.items():
        if KNOBS[name].target is Target.ARGUMENTS:
            numbers = [value for value in values if is_number(value)]
            others = [value for value in values if not is_number(value)]
            found[name] = [*others, *numbers[:1], *numbers[1:][-1:]]
    return found


def _refusal(job: TrainingSettings, parameters: TrialParameters, use_cpu: bool) -> Exception | None:
    # No trial writes where this says.
    settings = training_arguments(job, parameters, output_dir="refused-values") | {"use_cpu": use_cpu}
    try:
        TrainingArguments(**settings)
    except Exception as error:  # noqa: BLE001  any of those that transformers and what it asks raise for a value
        return error
    return None

"""The one mapping from a job and a trial's parameters to `transformers.TrainingArguments`.

A trial trains with it and an export writes it down, so the two can't drift apart. It returns plain values and imports nothing
of transformers: an export needs no heavy library, and a file of these values is what `HfArgumentParser` reads.
"""

from collections.abc import Collection
from typing import Any, TypeVar

from tradeoff.objectives.job.settings import TextClassificationJob, TrainingSettings
from tradeoff.searchspace import Precision, TrialParameters

SomeJob = TypeVar("SomeJob", bound=TrainingSettings)


def training_arguments(job: TrainingSettings, parameters: TrialParameters, *, output_dir: str) -> dict[str, Any]:
    """The keyword arguments of `TrainingArguments` for one configuration of a job.

    A setting that a trial depends on is named also where it equals today's default: defaults differ between versions of
    transformers (the optimizer's already does), and an exported file has to mean the same later.

    Args:
        job: What all trials hold fixed.
        parameters: What this trial sets; a parameter that is not searched keeps the job's value, or transformers' default.
        output_dir: Where the Trainer may write.

    Returns:
        Plain values by name, ready for `TrainingArguments(**values)` or for a JSON file.

    Example:
        >>> values = training_arguments(
        ...     TextClassificationJob(), TrialParameters(per_device_train_batch_size=8), output_dir="output"
        ... )
        >>> values["per_device_train_batch_size"], values["bf16"]
        (8, False)
    """
    arguments: dict[str, Any] = {
        "output_dir": output_dir,
        "per_device_train_batch_size": parameters.per_device_train_batch_size,
        "gradient_accumulation_steps": parameters.gradient_accumulation_steps,
        "fp16": parameters.precision is Precision.FP16,
        "bf16": parameters.precision is Precision.BF16,
        "learning_rate": job.learning_rate if parameters.learning_rate is None else parameters.learning_rate,
        "num_train_epochs": job.epochs,
        "lr_scheduler_type": job.lr_scheduler_type,
        "warmup_steps": job.warmup_steps,
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "optim": parameters.optim or job.optim,
        "seed": job.seed,
        "per_device_eval_batch_size": job.eval_batch_size,
        "eval_strategy": "epoch" if job.evaluates else "no",
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_num_workers": parameters.dataloader_num_workers or 0,
    }
    if parameters.gradient_checkpointing:
        # Newer versions of transformers have a second name for it and warn of this one, which all of version 5 reads;
        # off is the default of both.
        arguments["gradient_checkpointing"] = True
        # The re-entrant variant needs inputs that require gradients, and torch advises against it:
        # https://docs.pytorch.org/docs/stable/checkpoint.html
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    if parameters.dataloader_pin_memory is not None:
        arguments["dataloader_pin_memory"] = parameters.dataloader_pin_memory
    if parameters.train_sampling_strategy is not None:
        arguments["train_sampling_strategy"] = parameters.train_sampling_strategy
    if parameters.torch_compile is not None:
        arguments["torch_compile"] = parameters.torch_compile
    return arguments


def beside_arguments(parameters: TrialParameters) -> dict[str, Any]:
    """What a configuration sets that is no business of `TrainingArguments`: of the model, and of how batches are made."""
    settings = {"attn_implementation": parameters.attn_implementation, "padding": parameters.padding}
    return {name: value for name, value in settings.items() if value is not None}


def padding(job: TextClassificationJob, parameters: TrialParameters) -> str:
    """How a configuration pads: "max_length" or "longest"."""
    return parameters.padding or job.padding


def job_of_data(job: SomeJob, searched: Collection[str]) -> SomeJob:
    """The job for which data is prepared where some parameters are searched.

    Samples that are padded when they are tokenised have one length: they can't be padded less afterwards, nor be grouped by
    length. Where either is searched, samples are kept as they are and padded as they are put together.

    Args:
        job: The job of the study.
        searched: The names of the parameters that trials set.
    """
    is_padded_later = not {"padding", "train_sampling_strategy"}.isdisjoint(searched)
    if not is_padded_later or not isinstance(job, TextClassificationJob):
        return job
    return job.model_copy(update={"padding": "longest"})

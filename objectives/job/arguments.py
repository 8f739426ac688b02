"""The one mapping from a job and a trial's parameters to `transformers.TrainingArguments`.

A trial trains with it and an export writes it down, so the two can't drift apart. It returns plain values and imports nothing
of transformers: an export needs no heavy library, and a file of these values is what `HfArgumentParser` reads.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import BuiltInJob, Lora, TrainingSettings
from tradeoff.searchspace import TrialParameters

SomeJob = TypeVar("SomeJob", bound=TrainingSettings)

# The parameters that are fields of the built-in job, and those that are fields of its adapters.
_JOB_FIELDS = ("model", "max_length", "dropout", "frozen_layers", "packing", "load_in_4bit", "activation_offloading")
_LORA_FIELDS = {"lora_alpha": "alpha", "lora_target_modules": "target_modules"}
# Each is a copy of all samples.
MAX_PREPARED = 32


def training_arguments(job: TrainingSettings, parameters: TrialParameters, *, output_dir: str) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments` for one configuration of a job.

    A setting that a trial depends on is written out even where it equals today's default: defaults differ between versions of
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
    searched: dict[str, Any] = {}
    for name, value in parameters.items():
        searched |= parameters.knobs[name].as_arguments(value)
    fixed = {
        "learning_rate": job.learning_rate,
        "num_train_epochs": job.epochs,
        "lr_scheduler_type": job.lr_scheduler_type,
        "warmup_steps": job.warmup_steps,
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "optim": job.optim,
        "seed": job.seed,
        "per_device_eval_batch_size": job.eval_batch_size,
        "eval_strategy": "epoch" if job.evaluates else "no",
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_num_workers": 0,
    }
    if isinstance(job, CausalLMJob):
        # TRL's defaults are the opposite of transformers'.
        fixed |= {"gradient_checkpointing": False, "bf16": False}
    # What is searched comes first in an exported file, and overrides the job's own values.
    return {"output_dir": output_dir, **searched, **fixed, **searched}


def job_of(job: SomeJob, parameters: Mapping[str, Any]) -> SomeJob:
    """Return the job of one trial: that of the study, with the values that the trial's parameters set in it.

    Args:
        job: The job of the study.
        parameters: The trial's, or some of them.
    """
    if not isinstance(job, BuiltInJob):
        return job
    set_here = {name: parameters[name] for name in _JOB_FIELDS if name in parameters and name in type(job).model_fields}
    lora = job.lora
    if "lora_rank" in parameters:
        rank = parameters["lora_rank"]
        lora = None if rank is None else (lora or Lora()).model_copy(update={"r": rank})
    if lora is not None:
        adapters = {key: parameters[name] for name, key in _LORA_FIELDS.items() if name in parameters}
        lora = Lora.model_validate(lora.model_dump() | adapters)
    if lora is None and getattr(job, "load_in_4bit", False):
        set_here["load_in_4bit"] = False  # what has 4 bits can't be trained itself
    return job.model_copy(update=set_here | {"lora": lora}) if set_here or lora != job.lora else job


def settings_beside_arguments(parameters: TrialParameters) -> dict[str, Any]:
    """Return what a configuration sets that `TrainingArguments` does not take: of the model, and of how batches are made."""
    return {name: value for name, value in parameters.items() if parameters.knobs[name].is_beside_arguments}


def padding(job: TextClassificationJob, parameters: TrialParameters) -> str:
    """Return how a configuration pads: "max_length" or "longest"."""
    return str(parameters.get("padding", job.padding))


def name_of_data(job: BuiltInJob) -> str:
    """Return the name of a job's prepared data among those of a study: its tokens are of this model, and as many as these."""
    return f"{job.model}, {job.max_length} tokens"


def jobs_of_data(job: SomeJob, searched: Mapping[str, Collection[Any]]) -> list[SomeJob]:
    """Return the jobs for which a study prepares data: one for each model and length, a model's greatest length first.

    Args:
        job: The job of the study.
        searched: The values of each parameter that trials set.

    Raises:
        ValueError: They are too many.
    """
    job = job_of_data(job, searched)
    if isinstance(job, CausalLMJob) and True in searched.get("packing", ()):
        job = job.model_copy(update={"packing": True})
    if not isinstance(job, BuiltInJob):
        return [job]
    models = searched.get("model") or (job.model,)
    lengths = sorted(searched.get("max_length") or (job.max_length,), reverse=True)
    if (number := len(models) * len(lengths)) > MAX_PREPARED:
        raise ValueError(
            f"data is prepared for each model and each max_length, at most {MAX_PREPARED} in all, got {number}; search fewer"
        )
    # A language model is evaluated on the same text however much of it a configuration trains on.
    common = {"eval_max_length": job.eval_max_length or lengths[0]} if isinstance(job, CausalLMJob) else {}
    return [job.model_copy(update={"model": model, "max_length": length} | common) for model in models for length in lengths]


def job_of_data(job: SomeJob, searched: Collection[str]) -> SomeJob:
    """Return the job for which data is prepared where some parameters are searched, but for its model and length.

    Samples that are padded when they are tokenised all have the same length: they can't be padded less afterwards, nor grouped
    by length. Where either is searched, samples are not padded before they are collated.

    Args:
        job: The job of the study.
        searched: The names of the parameters that trials set.
    """
    is_padded_later = not {"padding", "train_sampling_strategy"}.isdisjoint(searched)
    if not is_padded_later or not isinstance(job, TextClassificationJob):
        return job
    return job.model_copy(update={"padding": "longest"})

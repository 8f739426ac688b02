"""A chosen configuration as the arguments of a Trainer, in a script of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, parse_job
from tradeoff.studies.config.study_file import read_json
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.exported import read_export


def training_arguments(directory: str | Path, **changes: Any) -> Any:
    """Return the `transformers.TrainingArguments` of an exported configuration; of a language model TRL's `SFTConfig`.

    Example:
        >>> arguments = tradeoff.training_arguments("chosen", output_dir="model", num_train_epochs=5)
        >>> arguments.per_device_train_batch_size, arguments.num_train_epochs
        (16, 5)

    Args:
        directory: The directory that `tradeoff export` or `Result.export` wrote.
        changes: Further arguments, or other values for some.

    Raises:
        TradeoffError: The directory is no export.
    """
    path = Path(directory) / "training_args.json"
    job = parse_job(read_export(Path(directory))["job"])
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise TradeoffError(f"{path} must be the arguments that `tradeoff export` wrote, and can't be read: {error}") from error
    return arguments_of(job, {**values, **changes})


def arguments_of(job: AnyJob, values: Mapping[str, Any]) -> Any:
    """Return arguments of the class that a job's Trainer takes."""
    if isinstance(job, CausalLMJob):
        from trl import SFTConfig

        return SFTConfig(**values)
    from transformers import TrainingArguments

    return TrainingArguments(**values)

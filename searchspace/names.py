"""The names that a study can search, and the nearest one to a name that nothing takes."""

import difflib
from collections.abc import Collection

from tradeoff.searchspace.knob import Target
from tradeoff.searchspace.knobs import KNOBS
from tradeoff.searchspace.training_arguments import OPEN_FIELDS

# What some call parameters that have another name here.
OTHER_NAMES = {
    "accumulation": "gradient_accumulation_steps",
    "batch_size": "per_device_train_batch_size",
    "checkpointing": "gradient_checkpointing",
    "epochs": "num_train_epochs",
    "group_by_length": "train_sampling_strategy",
    "lora_r": "lora_rank",
    "lr": "learning_rate",
    "model_name_or_path": "model",
    "optimizer": "optim",
}
# What a class of trials holds beside parameters.
TAKEN_NAMES = {
    "accumulates": "whether gradients are accumulated",
    "effective_batch_size": "the samples of an optimizer step",
}
# Parameters that set fields of `TrainingArguments` and are none of them.
_NOT_FIELDS = ("precision", "warmup_ratio")


def hint(name: str, *, function: str | None = None, keywords: Collection[str] = ()) -> str:
    """Return the end of a sentence about a name that nothing takes: what was meant, and what takes that.

    Args:
        name: The name.
        function: The user's own function, where there is one; what the built-in job takes means nothing beside it.
        keywords: What the function takes.

    Example:
        >>> hint("weight_dcay")
        "did you mean 'weight_decay' (of TrainingArguments)?"
    """
    fields = [*(field for field in KNOBS if KNOBS[field].target is Target.ARGUMENTS), *OPEN_FIELDS]
    others = [other for other in KNOBS if other not in fields] if function is None else list(keywords)
    meant = OTHER_NAMES.get(name)
    if meant not in (*fields, *others):
        meant = next(iter(difflib.get_close_matches(name, [*fields, *others], n=1)), None)
    if meant is None:
        if function is None:
            return "a parameter is a field of TrainingArguments or a setting of the built-in job"
        return f"beside fields of TrainingArguments there may be what {function} takes: {', '.join(others) or 'nothing'}"
    owner = "TrainingArguments" if meant in fields else function or "the built-in job"
    return f"did you mean {meant!r}{'' if meant in _NOT_FIELDS else f' (of {owner})'}?"

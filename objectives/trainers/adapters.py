"""Low-rank adapters (LoRA) beside a model's frozen weights, by peft.

E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (https://arxiv.org/abs/2106.09685).
"""

import re
from typing import Any

from tradeoff.objectives.job.settings import ALL_LINEAR, Lora
from tradeoff.objectives.trainers.layers import frozen_modules
from tradeoff.objectives.trainers.model_files import OptionFault, first_line

# Names of heads that peft trains as a whole in every classifier, whether there are such or not.
_ADDED_BY_PEFT = {"classifier", "score"}


def adapted(model: Any, lora: Lora, *, frozen_layers: int, fresh: tuple[str, ...] = (), name: str) -> Any:
    """Return a model with adapters, of which these and the head alone are trained.

    Args:
        model: The model, which is changed.
        lora: The adapters.
        frozen_layers: The first layers that get none.
        fresh: Further modules that are trained as a whole: those whose weights the checkpoint lacks.
        name: The job's name for the model.

    Raises:
        OptionFault: The model has no such layers.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    parts = [each for each, module in model.named_children() if next(module.parameters(), None) is not None]
    head = [each for each in parts if each != model.base_model_prefix]
    # An adapter beside what is trained anyway would be of no use.
    excluded = [f"(.*\\.)?{re.escape(each)}(\\..*)?" for each in (*head, *fresh)]
    excluded += [f"{re.escape(each)}(\\..*)?" for each in frozen_modules(model, frozen_layers, name=name)]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.r,
        lora_alpha=lora.effective_alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if lora.target_modules == (ALL_LINEAR,) else [*lora.target_modules],
        exclude_modules="|".join(excluded) or None,
        modules_to_save=[each for each in (*head, *fresh) if each not in _ADDED_BY_PEFT],
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise OptionFault(
            f"the adapters of model {name!r} must go to layers that it has, and peft refuses {', '.join(lora.target_modules)}"
            f" ({first_line(error)}); set job.lora.target_modules to names of its linear layers, or to {ALL_LINEAR}"
        ) from error

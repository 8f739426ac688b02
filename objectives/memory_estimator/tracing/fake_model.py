"""A model on fake tensors, from its configuration alone: it needs neither weights nor, for a local configuration, a network."""

from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)
from transformers.initialization import no_init_weights

from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.objectives.memory_estimator.tracing.model_config import first_line

_HEADS = {
    "sequence-classification": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "causal-lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
}


def build_fake_model(config: PretrainedConfig, settings: TraceSettings) -> torch.nn.Module:
    """Return the model in training mode; to be called under `FakeTensorMode`.

    Raises:
        ValueError: The model type has no such head or attention, or it has too few positions.
    """
    # A copy: the caller's configuration may be used for other settings.
    config = type(config).from_dict(config.to_dict())
    config.use_cache = False
    if settings.task == "sequence-classification":
        if settings.num_labels is not None:
            config.num_labels = settings.num_labels
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and settings.sequence_length > positions:
        raise ValueError(
            f"sequence_length must not exceed the {positions} positions of the model, got {settings.sequence_length}"
        )
    auto_class, supported = _HEADS[settings.task]
    if type(config) not in supported:
        known = [task for task, (_, mapping) in _HEADS.items() if type(config) in mapping]
        remedy = f"they have one for {' and '.join(known)}" if known else "choose another model"
        raise ValueError(f"{config.model_type} models have no head for {settings.task}: {remedy}")
    try:
        with no_init_weights():
            model = auto_class.from_config(
                config, attn_implementation=settings.attention, dtype=getattr(torch, settings.weights_dtype)
            )
    except Exception as error:  # of any type: the model's own code, on any configuration
        how = "" if settings.attention is None else f" with attention {settings.attention!r}"
        remedy = ", try eager" if settings.attention == "sdpa" else ""
        raise ValueError(f"a {config.model_type} model can't be built{how}{remedy}: {first_line(error)}") from error
    # Without initialisation tied weights are still separate: an output layer would be counted besides its embedding.
    model.tie_weights()
    model.train()
    return model  # type: ignore[no-any-return]


def fake_batch(model: Any, batch_size: int, settings: TraceSettings) -> dict[str, torch.Tensor]:
    """Return the inputs of one micro-batch, as the data collator does."""
    shape = (batch_size, settings.sequence_length)
    batch = {"input_ids": torch.ones(shape, dtype=torch.long)}
    # Eager attention adds its mask even if nothing is masked.
    if settings.padded or model.config._attn_implementation == "eager":
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
    if settings.task == "causal-lm":
        batch["labels"] = torch.ones(shape, dtype=torch.long)
    else:
        # A model with a single label is a regression, and its labels are floats.
        regression = model.config.num_labels == 1
        batch["labels"] = torch.ones(batch_size, dtype=torch.float32 if regression else torch.long)
    return batch

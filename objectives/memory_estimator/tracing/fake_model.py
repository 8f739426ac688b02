"""A model from its configuration alone, on fake tensors: shapes and types of every weight, no data.

Runs wherever torch and transformers are imported; it needs neither weights nor, for a local configuration, a network.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig
from transformers.initialization import no_init_weights

from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.objectives.memory_estimator.tracing.model_config import first_line

_AUTO_CLASSES = {"sequence-classification": AutoModelForSequenceClassification, "causal-lm": AutoModelForCausalLM}


def build_fake_model(config: PretrainedConfig, settings: TraceSettings) -> torch.nn.Module:
    """The model in training mode; to be called under `FakeTensorMode`.

    Raises:
        ValueError: The model type has no such head or no such attention, or its positions are too few.
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
    auto_class = _AUTO_CLASSES[settings.task]
    if type(config) not in auto_class._model_mapping:
        known = [task for task, other in _AUTO_CLASSES.items() if type(config) in other._model_mapping]
        remedy = f"it works for {' and '.join(known)}" if known else "choose another model"
        raise ValueError(f"{config.model_type} models have no head for {settings.task}: {remedy}")
    try:
        with no_init_weights():
            model = auto_class.from_config(
                config, attn_implementation=settings.attention, dtype=getattr(torch, settings.weights_dtype)
            )
    except (ValueError, ImportError, AssertionError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        # The model's own code, on whatever its configuration says.
        how = "" if settings.attention is None else f" with attention {settings.attention!r}"
        remedy = ", try eager" if settings.attention == "sdpa" else ""
        raise ValueError(f"a {config.model_type} model can't be built{how}{remedy}: {first_line(error)}") from error
    # Without initialisation transformers leaves tied weights apart: an output layer would be counted beside its embedding.
    model.tie_weights()
    model.train()
    return model  # type: ignore[no-any-return]


def fake_batch(model: Any, batch_size: int, settings: TraceSettings) -> dict[str, torch.Tensor]:
    """Inputs of one micro-batch, as the data collator gives them."""
    shape = (batch_size, settings.sequence_length)
    batch = {"input_ids": torch.ones(shape, dtype=torch.long)}
    # Eager attention adds its mask also where nothing is masked.
    if settings.padded or model.config._attn_implementation == "eager":
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
    if settings.task == "causal-lm":
        batch["labels"] = torch.ones(shape, dtype=torch.long)
    else:
        # Given as floats where the model regresses on a single value.
        regression = model.config.num_labels == 1
        batch["labels"] = torch.ones(batch_size, dtype=torch.float32 if regression else torch.long)
    return batch

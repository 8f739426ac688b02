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
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import FakeTensorMode
from tradeoff.objectives.memory_estimator.tracing.four_bit import pack_weights, with_four_bit_layers
from tradeoff.objectives.memory_estimator.tracing.language_loss import add_head
from tradeoff.objectives.memory_estimator.tracing.model_config import first_line
from tradeoff.objectives.trainers.trained_parts import adapted, freeze

_HEADS = {
    "sequence-classification": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "causal-lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "sft": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
}


def build_fake_model(config: PretrainedConfig, settings: TraceSettings, fake: FakeTensorMode) -> torch.nn.Module:
    """Return the model on fake tensors, in training mode.

    Raises:
        ValueError: The model type has no such head or attention, or it has too few positions.
    """
    # A copy: the caller's configuration may be used for other settings.
    config = type(config).from_dict(config.to_dict())
    if settings.loop == "trainer":
        config.use_cache = False
    if settings.task == "sequence-classification":
        if settings.num_labels is not None:
            config.num_labels = settings.num_labels
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
    positions = getattr(config, "max_position_embeddings", None)
    longest = max(settings.sequence_length, settings.eval_length or 0)
    if positions is not None and 0 < positions < longest:  # XLNet has -1: any number
        raise ValueError(f"sequence_length must not exceed the {positions} positions of the model, got {longest}")
    auto_class, supported = _HEADS[settings.task]
    if type(config) not in supported:
        known = [task for task, (_, mapping) in _HEADS.items() if type(config) in mapping]
        remedy = f"they have one for {' and '.join(known)}" if known else "choose another model"
        raise ValueError(f"{config.model_type} models have no head for {settings.task}: {remedy}")
    try:
        with no_init_weights(), torch.device("meta"):
            model = auto_class.from_config(
                config, attn_implementation=settings.attention, dtype=getattr(torch, settings.weights_dtype)
            )
    except Exception as error:  # of any type: the model's own code, on any configuration
        how = "" if settings.attention is None else f" with attention {settings.attention!r}"
        remedy = ", try eager" if settings.attention == "sdpa" else ""
        raise ValueError(f"a {config.model_type} model can't be built{how}{remedy}: {first_line(error)}") from error
    # Without initialisation tied weights are still separate: an output layer would be counted besides its embedding.
    model.tie_weights()
    if settings.task == "sft":
        add_head(model)
    if settings.four_bit:
        with_four_bit_layers(model)
    if settings.lora is None:
        freeze(model, settings.frozen_layers, name=config.model_type)
    else:
        writes = settings.task != "sequence-classification"
        with torch.device("meta"):
            model = _with_adapters(model, settings, writes=writes)
    if settings.four_bit and settings.task == "sft":
        # SFTTrainer keeps adapters beside quantized weights in half precision.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    make_fake(model, fake)
    if settings.four_bit:
        with fake:
            pack_weights(model)
    model.train()
    return model  # type: ignore[no-any-return]


def fake_batch(model: Any, batch_size: int, settings: TraceSettings, *, evaluates: bool = False) -> dict[str, Any]:
    """Return the inputs of one micro-batch, or of a batch that is evaluated, as the data collator does."""
    if settings.packed and not evaluates:
        return _packed_batch(batch_size, settings.sequence_length)
    shape = (batch_size, (settings.eval_length if evaluates else None) or settings.sequence_length)
    batch = {"input_ids": torch.ones(shape, dtype=torch.long)}
    # Eager attention adds its mask even if nothing is masked.
    if settings.padded or model.config._attn_implementation == "eager":
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
    if settings.task != "sequence-classification":
        batch["labels"] = torch.ones(shape, dtype=torch.long)
    else:
        # A model with a single label is a regression, and its labels are floats.
        regression = model.config.num_labels == 1
        batch["labels"] = torch.ones(batch_size, dtype=torch.float32 if regression else torch.long)
    return batch


def make_fake(model: torch.nn.Module, fake: FakeTensorMode) -> dict[torch.Tensor, torch.Tensor]:
    """Put fake tensors of the CPU in place of a model's own: of real ones, or of meta tensors, on which peft builds adapters.

    Returns:
        The fake tensor of each.
    """
    made: dict[torch.Tensor, torch.Tensor] = {}  # a tied weight is one tensor in several places

    def of(tensor: torch.Tensor) -> torch.Tensor:
        if tensor not in made:
            made[tensor] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            if isinstance(tensor, torch.nn.Parameter):
                made[tensor] = torch.nn.Parameter(made[tensor], requires_grad=tensor.requires_grad)
        return made[tensor]

    with fake:
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                setattr(module, name, of(parameter))
            for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
                setattr(module, name, of(buffer))
    return made


def _with_adapters(model: Any, settings: TraceSettings, *, writes: bool) -> Any:
    assert settings.lora is not None
    try:
        return adapted(
            model,
            **settings.lora.settings(),
            frozen_layers=settings.frozen_layers,
            writes=writes,
            name=model.config.model_type,
        )
    except ImportError as error:
        raise ValueError("adapters need the package peft, which is not installed (pip install 'tradeoff[lora]')") from error


def _packed_batch(num_rows: int, length: int) -> dict[str, Any]:
    """Return a batch of TRL's collator without padding: all rows behind each other, each taken for one text."""
    shape = (1, num_rows * length)
    batch: dict[str, Any] = {name: torch.ones(shape, dtype=torch.long) for name in ("input_ids", "labels", "position_ids")}
    batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = torch.ones(num_rows + 1, dtype=torch.int32)
    batch["max_length_q"] = batch["max_length_k"] = length
    batch["seq_idx"] = torch.ones(shape, dtype=torch.int32)
    return batch

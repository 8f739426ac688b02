"""The parts of a model that are trained, whatever its class calls them: its layers, its head, adapters beside its weights.

An export holds this file for its `train.py`, so nothing of ours is imported here. Adapters are LoRA's (E. J. Hu et al.,
"LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685), by peft.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch

ALL_LINEAR = "all-linear"
# Names of heads that peft trains as a whole in every classifier, whether there are such or not.
_ADDED_BY_PEFT = {"classifier", "score"}


class OptionFault(ValueError):
    """A model can't be trained with the value of one option: a sentence that says so, or the end of a line."""


def layers_of(model: Any) -> tuple[str, torch.nn.ModuleList]:
    """Return the encoder's layers, in order, and the name that they have in the model.

    Args:
        model: A model of transformers with a head.

    Raises:
        OptionFault: It has none.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    # A head, or the experts of one layer, may be a list too.
    num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    named = next((found for found in lists if len(found[1]) == num_layers), lists[0] if lists else None)
    if named is None:
        raise OptionFault(f"frozen_layers needs a model with layers, and {type(model).__name__} has none; set it to 0")
    return named


def num_layers(model: Any) -> int | None:
    """Return the number of a model's layers; None if it has no list of them."""
    try:
        return len(layers_of(model)[1])
    except OptionFault:
        return None


def frozen_modules(model: Any, num_layers: int, *, name: str) -> list[str]:
    """Return the names of what is frozen with the first layers: these, and all that lies before the first of them.

    A gradient that went to the embeddings would have to pass all frozen layers.

    Args:
        model: A model of transformers with a head.
        num_layers: How many layers; 0 for none, and no embeddings either.
        name: The job's name for the model.

    Raises:
        OptionFault: It has fewer layers.
    """
    if num_layers == 0:
        return []
    path, layers = layers_of(model)
    if num_layers > len(layers):
        raise OptionFault(
            f"frozen_layers must not exceed the {len(layers)} layers of model {name!r}, got {num_layers};"
            f" set {len(layers)} or less"
        )
    frozen = [f"{path}.{position}" for position in range(num_layers)]
    for owner_name in _owners(path):
        for child_name, _ in model.get_submodule(owner_name).named_children():
            child_path = f"{owner_name}.{child_name}".lstrip(".")
            if f"{path}.".startswith(f"{child_path}."):
                break
            frozen.append(child_path)
    # Relative positions are declared behind the layers, and read by each.
    return frozen + [
        module_name
        for module_name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and not any(part.isdecimal() for part in module_name.split("."))
    ]


def _owners(path: str) -> list[str]:
    """Return the names of the modules that hold a module, the model itself first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]


def freeze(model: Any, num_layers: int, *, name: str) -> None:
    """Keep the embeddings and the first layers of a model as they are; see `frozen_modules`.

    Raises:
        OptionFault: It has fewer layers.
    """
    for module_name in frozen_modules(model, num_layers, name=name):
        model.get_submodule(module_name).requires_grad_(False)


def set_dropout(config: Any, dropout: float, *, name: str) -> None:
    """Set every dropout that a model's configuration names; one that is None follows another.

    Args:
        config: The configuration, which is changed.
        dropout: The share of values that is left out.
        name: The job's name for the model.

    Raises:
        OptionFault: It names none.
    """
    config = config.get_text_config()
    keys = [key for key, value in config.to_dict().items() if "dropout" in key or key.endswith("_pdrop")]
    keys = [key for key in keys if type(getattr(config, key)) in (int, float)]
    if not keys:
        raise OptionFault(f"dropout needs a model that has some, and the configuration of {name!r} names none; leave it out")
    for key in keys:
        setattr(config, key, dropout)


def untrained_modules(missing_keys: Collection[str]) -> list[str]:
    """Return the modules of a model's body that are new, as a sentence's pooler often is, from the weights that it lacked."""
    return sorted({key.rpartition(".")[0] for key in missing_keys if ".pooler." in key})


def four_bit(compute_dtype: torch.dtype) -> Any:
    """Return the configuration of weights of 4 bits, as QLoRA has them (T. Dettmers et al., 2023, https://arxiv.org/abs/2305.14314).

    Args:
        compute_dtype: What they are computed with.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute_dtype
    )


def adapted(
    model: Any,
    *,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
    frozen_layers: int,
    fresh: Sequence[str] = (),
    writes: bool = False,
    name: str,
) -> Any:
    """Return a model with adapters, of which these, a classifier's head and what is new are trained alone.

    Args:
        model: The model, which is changed.
        r: The rank of the adapters.
        alpha: Their scale.
        dropout: The dropout of an adapter's input.
        target_modules: The names of the layers that get one, or `ALL_LINEAR`.
        frozen_layers: The first layers of the model that get none.
        fresh: Modules that are trained as a whole, as the head is.
        writes: True if it is a language model, whose head is a part of what it has learned.
        name: The job's name for the model.

    Raises:
        OptionFault: The model has no such layers.
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # that is the Trainer's to enable
    parts = [each for each, module in model.named_children() if next(module.parameters(), None) is not None]
    heads = [each for each in parts if each != model.base_model_prefix]
    whole = [*([] if writes else heads), *fresh]
    # An adapter beside what is trained anyway would be of no use, and TRL does not train one of a language model's head.
    excluded = [f"(.*\\.)?{re.escape(each)}(\\..*)?" for each in dict.fromkeys((*heads, *whole))]
    excluded += [f"{re.escape(each)}(\\..*)?" for each in frozen_modules(model, frozen_layers, name=name)]
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if writes else TaskType.SEQ_CLS,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ALL_LINEAR if list(target_modules) == [ALL_LINEAR] else [*target_modules],
        exclude_modules="|".join(excluded) or None,
        modules_to_save=[each for each in whole if each not in _ADDED_BY_PEFT] or None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        layers = ", ".join(_linear_layers(model, besides=heads))
        raise OptionFault(
            f"the adapters of model {name!r} must go to layers that it has, and peft refuses {', '.join(target_modules)}"
            f" ({str(error).splitlines()[0].rstrip('.')}); name {ALL_LINEAR}, or some of {layers}"
        ) from error


def _linear_layers(model: Any, besides: Collection[str]) -> list[str]:
    """Return the last parts of the names of a model's linear layers, each once, without those of some parts."""
    linear = [name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear if name.partition(".")[0] not in besides))

"""The named values that some parameters may take, and what a machine must have for them.

They are the names of `transformers`, written down here so that a study file can be checked without importing it; a test
compares them with the installed version.
"""

# Values of `TrainingArguments.optim`, and the package that each needs besides torch and transformers.
OPTIMIZERS: dict[str, str | None] = {
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "adafactor": None,
    "sgd": None,
    "adagrad": None,
    "rmsprop": None,
    **dict.fromkeys(
        (
            "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "ademamix", "ademamix_8bit",
            "paged_ademamix_32bit", "paged_ademamix_8bit", "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
            "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
        ),
        "bitsandbytes",
    ),
    **dict.fromkeys(("adamw_torch_8bit", "adamw_torch_4bit"), "torchao"),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"), "schedulefree"),
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
}  # fmt: skip
# Names that transformers knows and a study can't use, and why.
REFUSED_OPTIMIZERS: dict[str, str] = {
    **dict.fromkeys(
        (
            "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise", "apollo_adamw", "apollo_adamw_layerwise",
        ),
        "it must be told which layers to treat (optim_target_modules)",
    ),
    **dict.fromkeys(("lomo", "adalomo"), "it updates within the backward pass, so gradients can't accumulate"),
    "adamw_torch_xla": "it is for TPUs",
    "adamw_torch_npu_fused": "it is for NPUs",
    "adamw_anyprecision": "its package, torchdistx, is no longer kept",
}  # fmt: skip
# Names of one algorithm: what they learn differs by rounding alone.
SAME_ALGORITHM = {"adamw_torch_fused": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}

PADDINGS = ("max_length", "longest")
# Values of `TrainingArguments.train_sampling_strategy` that shuffle.
SAMPLING_STRATEGIES = ("random", "group_by_length")
# Values of `attn_implementation` in `from_pretrained`.
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")
FLASH_ATTENTION = "flash_attention_2"

CHOICES: dict[str, tuple[str, ...]] = {
    "optim": tuple(OPTIMIZERS),
    "padding": PADDINGS,
    "train_sampling_strategy": SAMPLING_STRATEGIES,
    "attn_implementation": ATTENTION_IMPLEMENTATIONS,
}


def check_choice(name: str, value: object) -> None:
    """Checks a value of a parameter that takes names.

    Raises:
        ValueError: There is no such value, or a study can't use it; the sentence says which there are.
    """
    if value in CHOICES[name]:
        return
    if name == "optim" and value in REFUSED_OPTIMIZERS:
        raise ValueError(f"optim {value!r} can't be used here: {REFUSED_OPTIMIZERS[str(value)]}; choose another")
    close = _closest(str(value), CHOICES[name])
    hint = f"did you mean {close!r}?" if close is not None else f"there are {', '.join(CHOICES[name])}"
    raise ValueError(f"{name} must be a name that transformers has, got {value!r}; {hint}")


def _closest(value: str, names: tuple[str, ...]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(value, names, n=1, cutoff=0.75)), None)

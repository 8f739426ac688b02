"""The named values that some knobs take, and what a machine must have for them.

They are the names of `transformers`, written down here so that a study file can be checked without importing it; a test
compares them with the installed version.
"""

from enum import StrEnum


class Precision(StrEnum):
    """The arithmetic of a training step: full precision, or mixed precision with 16-bit activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


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
# Optimizers of transformers that a study can't use, and why.
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
    "adamw_anyprecision": "its package, torchdistx, is no longer maintained",
}  # fmt: skip
# Names of one algorithm: results differ only by rounding.
SAME_ALGORITHM = {"adamw_torch_fused": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}

PADDINGS = ("max_length", "longest")
# Values of `TrainingArguments.train_sampling_strategy` that shuffle.
SAMPLING_STRATEGIES = ("random", "group_by_length")
# Values of `attn_implementation` in `from_pretrained`.
FLASH_ATTENTION = "flash_attention_2"
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", FLASH_ATTENTION)
# Values of `TrainingArguments.lr_scheduler_type`, and those that a training of their own arguments alone can use.
SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "greedy", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
SCHEDULERS_WITH_ARGUMENTS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")
# Those that follow a metric.
SCHEDULERS_OF_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")

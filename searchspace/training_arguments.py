"""The fields of `transformers.TrainingArguments`: which of them a study can search by their own names, and what they change.

They are written down here, as `choices` does with names, so that a study file can be checked without importing transformers; a
test compares them with the installed version. Fields with a declaration of their own are in `tradeoff.searchspace.knobs`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tradeoff.searchspace.choices import SCHEDULERS, SCHEDULERS_OF_EVALUATIONS, SCHEDULERS_WITH_ARGUMENTS
from tradeoff.searchspace.kinds import Anything, Kind, Names, Numbers, OrNone, Switch, WholeNumbers
from tradeoff.searchspace.knob import Knob, Learning, Memory

_SHARE = Numbers(must="be at least 0 and below 1", allows=lambda share: 0 <= share < 1)
_NOT_NEGATIVE = Numbers(must="be at least 0", allows=lambda number: number >= 0)
_POSITIVE = Numbers(must="be positive", allows=lambda number: number > 0)
_COUNT = WholeNumbers(must="be at least 1", allows=lambda count: count >= 1)
_SCHEDULER = Names(
    names=tuple(name for name in SCHEDULERS if name not in (*SCHEDULERS_WITH_ARGUMENTS, *SCHEDULERS_OF_EVALUATIONS)),
    refused={
        **dict.fromkeys(SCHEDULERS_WITH_ARGUMENTS, "it needs arguments of its own"),
        **dict.fromkeys(SCHEDULERS_OF_EVALUATIONS, "it follows evaluations"),
    },
)

_LEARNING: dict[str, tuple[Kind, str]] = {
    "weight_decay": (_NOT_NEGATIVE, "the optimizer's weight decay; default: the job's"),
    "lr_scheduler_type": (_SCHEDULER, "how the learning rate falls; default: the job's"),
    "lr_scheduler_kwargs": (OrNone(kind=Anything()), "the scheduler's own arguments, as JSON in a text"),
    "warmup_steps": (_NOT_NEGATIVE, "warm-up steps; below 1, a share of all steps; default: the job's"),
    "adam_beta1": (_SHARE, "decay of AdamW's mean of gradients"),
    "adam_beta2": (_SHARE, "decay of AdamW's mean of squared gradients"),
    "adam_epsilon": (_POSITIVE, "AdamW's epsilon"),
    "max_grad_norm": (_NOT_NEGATIVE, "norm to which gradients are clipped; default: the job's"),
    "label_smoothing_factor": (_SHARE, "probability that is spread over the other labels"),
    "neftune_noise_alpha": (OrNone(kind=_NOT_NEGATIVE), "noise that is added to embeddings"),
}
_TIME: dict[str, tuple[Kind, str]] = {
    "dataloader_persistent_workers": (Switch(), "keep the processes that load data from epoch to epoch"),
    "dataloader_prefetch_factor": (OrNone(kind=_COUNT), "batches that each of them loads ahead"),
    "dataloader_in_order": (Switch(), "keep the order of what they load"),
}
# Compiling and kernels compute the same in another order.
_COMPUTE: dict[str, tuple[Kind, str]] = {
    "torch_compile_backend": (OrNone(kind=Anything()), "backend of torch.compile"),
    "torch_compile_mode": (OrNone(kind=Anything()), "mode of torch.compile"),
    "use_liger_kernel": (Switch(), "Liger's fused kernels, on a GPU"),
    "torch_empty_cache_steps": (OrNone(kind=_COUNT), "steps after which unused memory is given back"),
    "ddp_bucket_cap_mb": (OrNone(kind=_COUNT), "size of the parts in which several devices exchange gradients"),
}
# What a value means something with, and nothing without.
_ONLY_WITH = {
    "dataloader_persistent_workers": "dataloader_num_workers",
    "dataloader_prefetch_factor": "dataloader_num_workers",
    "torch_compile_backend": "torch_compile",
    "torch_compile_mode": "torch_compile",
}


def _fields(fields: Mapping[str, tuple[Kind, str]], **changes: Any) -> Iterator[Knob]:
    """Yield the declarations of fields that change the same."""
    for name, (kind, about) in fields.items():
        yield Knob(
            name=name,
            kind=kind,
            description=about,
            label=name.replace("_", " "),
            only_with=_ONLY_WITH.get(name),
            names_itself=kind is _SCHEDULER,
            **changes,
        )


FIELDS: tuple[Knob, ...] = (
    *_fields(_LEARNING, learning=Learning.METHOD),
    *_fields(_TIME, changes_time=True),
    *_fields(_COMPUTE, memory=Memory(), changes_time=True, learning=Learning.ROUNDING),
)

# Fields that may be searched, and of which it is not known what they change.
OPEN_FIELDS: tuple[str, ...] = (
    "average_tokens_across_devices", "dataloader_drop_last", "dataloader_multiprocessing_context",
    "ddp_broadcast_buffers", "ddp_find_unused_parameters", "ddp_static_graph", "optim_args", "optim_target_modules", "tf32",
)  # fmt: skip

# Fields that would change an evaluation too: labels are smoothed there as well, and the last samples left out.
OF_EVALUATIONS = frozenset({"label_smoothing_factor", "dataloader_drop_last"})

_PLACES = "the study has its own places for what is written"
_EVALUATION = "every configuration is evaluated in the same way"
_SAVING = "trials save nothing; `tradeoff train` does"
_REPORTS = "the study keeps its own records"
_STRATEGIES = "how a model is spread over devices is not searched; devices_per_trial says how many there are"

# Fields that can't be searched, each with the reason as a clause.
REFUSED_FIELDS: dict[str, str] = {
    **dict.fromkeys(("fp16", "bf16"), "search precision instead"),
    **dict.fromkeys(
        ("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
        "search gradient_checkpointing instead",
    ),
    **dict.fromkeys(("max_steps",), "search num_train_epochs instead"),
    **dict.fromkeys(("seed", "data_seed"), "seeds_per_class says with how many seeds a training is repeated"),
    **dict.fromkeys(("output_dir", "run_name", "project", "log_level", "log_level_replica", "disable_tqdm"), _PLACES),
    **dict.fromkeys(
        (
            "bf16_full_eval", "fp16_full_eval", "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size",
            "prediction_loss_only", "eval_on_start", "eval_do_concat_batches", "eval_use_gather_object",
            "eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "label_names", "use_cache",
        ),
        _EVALUATION,
    ),
    **dict.fromkeys(
        (
            "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint",
            "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "ignore_data_skip",
            "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "push_to_hub", "hub_token",
            "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision",
        ),
        _SAVING,
    ),
    **dict.fromkeys(
        (
            "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
            "include_num_input_tokens_seen", "report_to", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
            "debug", "skip_memory_metrics",
        ),
        _REPORTS,
    ),
    **dict.fromkeys(
        (
            "accelerator_config", "parallelism_config", "fsdp", "fsdp_config", "deepspeed", "ddp_timeout", "local_rank",
            "use_cpu",
        ),
        _STRATEGIES,
    ),
    "ddp_backend": "the kind of device decides it",
    "auto_find_batch_size": "it would change the batch size, which is searched",
    "full_determinism": "job.deterministic is for that",
    "liger_kernel_config": "a value of a parameter is one number, word or truth value",
    "remove_unused_columns": "it belongs to the data",
    "length_column_name": "it belongs to the data",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "nothing depends on it here"),
}  # fmt: skip

"""A configuration in the words of other trainers: the files that `tradeoff export --to` adds.

Each target has a table of what its own keys say; whatever a configuration sets beyond that stands in the file's first lines, by
name and value, so that nothing is left out without a word. Axolotl's and LLaMA-Factory's keys are those of their references:
https://docs.axolotl.ai/docs/config-reference.html, https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob
from tradeoff.objectives.job.settings import ALL_LINEAR, EMBEDDED, gguf_file
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.choices import FLASH_ATTENTION
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.visible import visible

Target = Literal["axolotl", "trl", "llamafactory", "accelerate", "deepspeed"]
TARGETS: tuple[Target, ...] = get_args(Target)
# Fields of TRL's SFTConfig that say what a job's own settings say too.
_OF_THE_JOB = {"max_length", "packing", "eval_packing", "activation_offloading"}
# What changes neither training nor memory, and is the other program's own business.
_OWN = {"output_dir", "report_to", "logging_strategy", "save_strategy", "eval_strategy", "use_cpu", "do_train", "do_eval"}
_AXOLOTL = {
    "per_device_train_batch_size": "micro_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "num_train_epochs": "num_epochs",
    "lr_scheduler_type": "lr_scheduler",
    "optim": "optimizer",
    **{
        name: name
        for name in (
            "gradient_accumulation_steps", "learning_rate", "lr_scheduler_kwargs", "weight_decay", "max_grad_norm",
            "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules", "seed", "bf16", "fp16", "tf32",
            "gradient_checkpointing", "gradient_checkpointing_kwargs", "dataloader_num_workers",
            "dataloader_prefetch_factor", "dataloader_drop_last", "torch_compile", "torch_compile_backend",
            "torch_compile_mode", "neftune_noise_alpha", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
            "ddp_find_unused_parameters",
        )
    },
}  # fmt: skip
_AXOLOTL_ATTENTION = {"eager": "eager_attention", "sdpa": "sdp_attention", FLASH_ATTENTION: "flash_attention"}
_LLAMAFACTORY_ATTENTION = {"eager": "disabled", "sdpa": "sdpa", FLASH_ATTENTION: "fa2"}
_BY_TRAINER = {"output_dir": "model", "logging_strategy": "epoch", "save_strategy": "epoch"}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What an export writes down.

    Attributes:
        job: The job, with what the configuration sets of it.
        parameters: The configuration.
        arguments: Its TrainingArguments, with those of TRL's SFTConfig for a language model.
        num_devices: The devices that train it together.
        title: Where it is from.
    """

    job: AnyJob
    parameters: TrialParameters
    arguments: Mapping[str, Any]
    num_devices: int
    title: str


def targets_of(names: Collection[str]) -> list[Target]:
    """Return the targets of these names.

    Raises:
        TradeoffError: There is no such target.
    """
    found = [target for name in names for target in TARGETS if target == name]
    if unknown := [name for name in names if name not in TARGETS]:
        raise TradeoffError(f"--to must be one of {', '.join(TARGETS)}, got {unknown[0]!r}")
    return found


def check_target(target: Target, job: AnyJob) -> None:
    """Check that a program can train a job.

    Raises:
        TradeoffError: It can't; the sentence says why.
    """
    if target in ("accelerate", "deepspeed"):
        return
    if not isinstance(job, CausalLMJob):
        raise TradeoffError(
            f"--to {target} is for language models (job.task: causal_lm), and this study is none; choose accelerate"
            " or deepspeed"
        )
    if job.model == EMBEDDED or gguf_file(job.model) is not None:
        kind = "the embedded model has random weights" if job.model == EMBEDDED else f"{job.model} is a GGUF file"
        raise TradeoffError(f"--to {target} needs a model that {target} can load, and {kind}; choose accelerate or deepspeed")


def target_files(target: Target, chosen: Configuration) -> dict[str, str]:
    """Return the files for a target by name, besides those that every export has.

    Raises:
        TradeoffError: The target can't train the job.
    """
    check_target(target, chosen.job)
    return _WRITERS[target](chosen)


def _axolotl(chosen: Configuration) -> dict[str, str]:
    job, arguments, left = _language(chosen.job), chosen.arguments, _left_of_job(chosen.job)
    attention = chosen.parameters.get("attn_implementation")
    by_length = arguments.get("train_sampling_strategy") == "group_by_length"
    said = {*_AXOLOTL, *_OWN, *_OF_THE_JOB, "warmup_steps", *(["train_sampling_strategy"] if by_length else [])}
    left |= {name: value for name, value in arguments.items() if name not in said}
    config: dict[str, Any] = {
        "base_model": job.model,
        "trust_remote_code": job.trust_remote_code,
        "datasets": [_axolotl_data(job, job.train_split)],
        **({"test_datasets": [_axolotl_data(job, job.eval_split, is_eval=True)]} if job.evaluates else {}),
        "sequence_len": job.max_length,
        "sample_packing": job.packing,
        "eval_sample_packing": False,
        "pad_to_sequence_len": False,
        "train_on_inputs": False,
        **{_AXOLOTL[name]: value for name, value in arguments.items() if name in _AXOLOTL},
        **_warmup(arguments["warmup_steps"]),
        **({"group_by_length": True} if by_length else {}),
        **({} if attention is None else {_AXOLOTL_ATTENTION[attention]: True}),
        **({"evals_per_epoch": 1} if job.evaluates else {}),
        "saves_per_epoch": 1,
        "output_dir": "model",
    }
    if job.lora is not None:
        lora = job.lora.settings()
        is_all = lora["target_modules"] == [ALL_LINEAR]
        config |= {"adapter": "qlora" if job.load_in_4bit else "lora", "load_in_4bit": job.load_in_4bit, "lora_r": lora["r"]}
        config |= {"lora_alpha": round(lora["alpha"]), "lora_dropout": lora["dropout"]}
        config |= {"lora_target_linear": True} if is_all else {"lora_target_modules": lora["target_modules"]}
    notes = ["for a data set with a column text: type: completion, and field: text"]
    if arguments["bf16"]:
        notes += ["with bf16, Axolotl keeps the weights in bf16; the study kept them in fp32"]
    return {"axolotl.yaml": _yaml(chosen, config, "axolotl train axolotl.yaml", left, notes)}


def _axolotl_data(job: CausalLMJob, split: str, *, is_eval: bool = False) -> dict[str, Any]:
    if not _is_on_hub(job):
        file = _local_file(job, is_eval=is_eval)
        return {"path": file, "ds_type": _loader(file), "data_files": [file], "split": "train", "type": "chat_template"}
    name = {} if job.dataset_config is None else {"name": job.dataset_config}
    return {"path": job.dataset, **name, "split": split, "type": "chat_template", "roles_to_train": ["assistant"]}


def _warmup(steps: float) -> dict[str, float]:
    return {"warmup_ratio": steps} if 0 < steps < 1 else {"warmup_steps": int(steps)}


def _trl(chosen: Configuration) -> dict[str, str]:
    job, left = _language(chosen.job), _left_of_job(chosen.job)
    left.pop("activation_offloading", None)
    config: dict[str, Any] = {"model_name_or_path": job.model, "trust_remote_code": job.trust_remote_code, "dtype": "float32"}
    by_trainer = dict(_BY_TRAINER)
    if _is_on_hub(job):
        config |= {"dataset_name": job.dataset, "dataset_config": job.dataset_config}
        config |= {"dataset_train_split": job.train_split, "dataset_test_split": job.eval_split}
    else:
        file = _local_file(job)
        config |= {"datasets": [{"path": _loader(file), "data_files": file}]}
        by_trainer |= {"eval_strategy": "no"}
        left |= {"eval_strategy": chosen.arguments["eval_strategy"]}
    if (attention := chosen.parameters.get("attn_implementation")) is not None:
        config |= {"attn_implementation": attention}
    if job.lora is not None:
        lora = job.lora.settings()
        config |= {"use_peft": True, "lora_r": lora["r"], "lora_alpha": round(lora["alpha"]), "lora_dropout": lora["dropout"]}
        config |= {"lora_target_modules": lora["target_modules"], "load_in_4bit": job.load_in_4bit}
    notes = ["of conversations, TRL learns every message; assistant_only_loss: true, if the chat template marks the answers"]
    return {"trl.yaml": _yaml(chosen, config | dict(chosen.arguments) | by_trainer, "trl sft --config trl.yaml", left, notes)}


def _llamafactory(chosen: Configuration) -> dict[str, str]:
    job, left = _language(chosen.job), _left_of_job(chosen.job)
    left.pop("train_samples", None)
    arguments = {name: value for name, value in chosen.arguments.items() if name not in _OF_THE_JOB}
    arguments.pop("gradient_checkpointing_kwargs", None)
    config: dict[str, Any] = {
        "model_name_or_path": job.model,
        "trust_remote_code": job.trust_remote_code,
        "stage": "sft",
        "do_train": True,
        "do_eval": job.evaluates,
        "finetuning_type": "full" if job.lora is None else "lora",
        "dataset_dir": ".",
        "dataset": "tradeoff_train",
        **({"eval_dataset": "tradeoff_eval"} if job.evaluates else {}),
        "max_samples": job.train_samples,
        "cutoff_len": job.max_length,
        "packing": job.packing,
        # It computes activations again unless it is told not to.
        "disable_gradient_checkpointing": not arguments.pop("gradient_checkpointing"),
        "use_reentrant_gc": False,
        "enable_liger_kernel": arguments.pop("use_liger_kernel", False),
    }
    if (attention := chosen.parameters.get("attn_implementation")) is not None:
        config |= {"flash_attn": _LLAMAFACTORY_ATTENTION[attention]}
    if job.lora is not None:
        lora = job.lora.settings()
        targets = "all" if lora["target_modules"] == [ALL_LINEAR] else ",".join(lora["target_modules"])
        config |= {"lora_rank": lora["r"], "lora_alpha": round(lora["alpha"]), "lora_dropout": lora["dropout"]}
        config |= {"lora_target": targets, **({"quantization_bit": 4} if job.load_in_4bit else {})}
    notes = ["the chat template is the model's own, unless you set template; the data sets are those of dataset_info.json"]
    text = _yaml(chosen, config | arguments | _BY_TRAINER, "llamafactory-cli train llamafactory.yaml", left, notes)
    data = {"tradeoff_train": _llamafactory_data(job, job.train_split)}
    data |= {"tradeoff_eval": _llamafactory_data(job, job.eval_split, is_eval=True)} if job.evaluates else {}
    return {"llamafactory.yaml": text, "dataset_info.json": json.dumps(data, indent=2) + "\n"}


def _llamafactory_data(job: CausalLMJob, split: str, *, is_eval: bool = False) -> dict[str, Any]:
    if _is_on_hub(job):
        config = {} if job.dataset_config is None else {"subset": job.dataset_config}
        source = {"hf_hub_url": job.dataset, **config, "split": split}
    else:
        source = {"file_name": _local_file(job, is_eval=is_eval)}
    roles = {f"{name}_tag": name for name in ("user", "assistant", "system")}
    tags = {"role_tag": "role", "content_tag": "content", **roles}
    return {**source, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}


def _deepspeed(chosen: Configuration) -> dict[str, str]:
    """The configuration of DDP, which the study measured; its optimizer and scheduler are the Trainer's."""
    batch, steps = (chosen.arguments[name] for name in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    config = {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": steps,
        "train_batch_size": batch * steps * chosen.num_devices,
        "gradient_clipping": chosen.arguments["max_grad_norm"],
        **{name: {"enabled": bool(chosen.arguments.get(name))} for name in ("bf16", "fp16")},
        "zero_optimization": {"stage": 0},
        "zero_allow_untested_optimizer": True,
    }
    return {"deepspeed.json": json.dumps(config, indent=2) + "\n"}


_WRITERS: dict[Target, Callable[[Configuration], dict[str, str]]] = {
    "axolotl": _axolotl,
    "trl": _trl,
    "llamafactory": _llamafactory,
    "accelerate": lambda chosen: {},  # every export has accelerate_config.yaml
    "deepspeed": _deepspeed,
}


def _language(job: AnyJob) -> CausalLMJob:
    assert isinstance(job, CausalLMJob)  # `check_target` has refused the others
    return job


def _left_of_job(job: AnyJob) -> dict[str, Any]:
    """Return what a job sets that no target has a key for: the choice of the samples, and how the model is trained."""
    job = _language(job)
    choice = ("train_samples", "eval_samples", "data_seed") if job.train_samples or job.eval_samples else ()
    names = (*choice, "eval_max_length", "dropout", "frozen_layers", "activation_offloading")
    return {name: value for name in names if (value := getattr(job, name))}


def _is_on_hub(job: CausalLMJob) -> bool:
    return not job.is_local_file and job.dataset != EMBEDDED


def _local_file(job: CausalLMJob, *, is_eval: bool = False) -> str:
    """Return the file with the samples: the user's own, or one that is exported beside."""
    if job.dataset == EMBEDDED:
        return "eval.jsonl" if is_eval else "train.jsonl"
    return (job.eval_dataset if is_eval else None) or job.dataset


def _loader(file: str) -> str:
    """Return the name under which the library datasets reads a file."""
    ending = file.lower().removesuffix(".gz").rpartition(".")[2]
    return {"parquet": "parquet", "csv": "csv", "tsv": "csv"}.get(ending, "json")


def _yaml(chosen: Configuration, config: Mapping[str, Any], command: str, left: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Return a YAML file with a head that says where it is from, how it is used, and what it does not say."""
    head = [f"The configuration that tradeoff chose: {chosen.title}.", command]
    if left:
        head += ["Not in this file: " + ", ".join(f"{name}={value}" for name, value in left.items())]
    lines = "".join(f"# {visible(line)}\n" for line in (*head, *notes))
    return lines + yaml.safe_dump({name: value for name, value in config.items() if value is not None}, sort_keys=False)

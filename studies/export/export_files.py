"""The files of an export for programs other than ours: Accelerate, the example scripts of transformers, `train.py`."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tradeoff.objectives.job.arguments import padding
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob, local_path
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.export.train_script import modules, parts_used, train_script

# The file for transformers' run_classification.py.
EXAMPLE = "run_classification.json"
# In `$(cat flags.txt)` a blank would begin another flag, and a star would name files.
_WORD = re.compile(r'[\w.,:={}"+-]+')


def accelerate_config(arguments: Mapping[str, Any], *, num_devices: int = 1) -> str:
    """Return a configuration for `accelerate launch --config_file`, for as many devices as a trial had.

    Without GPUs, `accelerate launch` starts several processes through MPI alone; torchrun needs none.

    Accelerate has no place for accumulation and batch size in it: they are the Trainer's.
    """
    use_cpu = bool(arguments.get("use_cpu", False))
    several = "MULTI_CPU" if use_cpu else "MULTI_GPU"
    return yaml.safe_dump(
        {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": several if num_devices > 1 else "NO",
            "mixed_precision": next((name for name in ("fp16", "bf16") if arguments.get(name)), "no"),
            "num_processes": num_devices,
            "num_machines": 1,
            "machine_rank": 0,
            "main_training_function": "main",
            "use_cpu": use_cpu,
            "debug": False,
        },
        sort_keys=False,
    )


def flags(arguments: Mapping[str, Any]) -> str:
    """Return the arguments as flags, one a line, without blanks: for `script.py $(cat flags.txt)` and for an `args_file`."""
    # None is the default of each argument that takes it, and no word for it is read.
    given = {name: value for name, value in (dict(arguments) | {"output_dir": "model"}).items() if value is not None}
    return "".join(f"--{name} {_flag_value(value)}\n" for name, value in given.items())


def example_arguments(job: AnyJob, parameters: TrialParameters, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what transformers' examples/pytorch/text-classification/run_classification.py reads from a JSON file.

    None where that script can't: it classifies, reads data and models of the hub alone, trains all of their weights as they
    are, and has no option for the attention.
    """
    if not isinstance(job, TextClassificationJob) or not has_hub_data(job) or job.model == EMBEDDED:
        return None
    if "attn_implementation" in parameters or parts_used(job):
        return None
    own = {
        "model_name_or_path": job.model,
        "trust_remote_code": job.trust_remote_code,
        "dataset_name": job.dataset,
        "dataset_config_name": job.dataset_config,
        # It loses a split that is called as it calls it itself.
        "train_split_name": None if job.train_split == "train" else job.train_split,
        "validation_split_name": None if job.eval_split == "validation" else job.eval_split,
        "text_column_names": job.text_column,
        "label_column_name": job.label_column,
        "max_seq_length": job.max_length,
        "pad_to_max_length": padding(job, parameters) == "max_length",
        "shuffle_train_dataset": True,
        "shuffle_seed": job.data_seed,
        "max_train_samples": job.train_samples,
        "max_eval_samples": job.eval_samples,
    }
    return {name: value for name, value in own.items() if value is not None} | dict(arguments)


def has_hub_data(job: BuiltInJob) -> bool:
    """Return True if a job reads a data set of the hub."""
    return not job.is_local_file and job.dataset not in (EMBEDDED, RANDOM_TOKENS) and is_on_hub(job.dataset)


def is_on_hub(name: str) -> bool:
    """Return True if a name may be one of the hub's, and of nothing here."""
    # What can't be one of the hub's is left out: a viewer may show what stands in a card's front matter as HTML.
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) is not None and not os.path.exists(local_path(name))


def training_files(
    job: AnyJob, parameters: TrialParameters, *, title: str, expected: Mapping[str, str], num_devices: int = 1
) -> dict[str, str]:
    """Return `train.py` and what it needs beside it, by name; nothing where it would have nothing to train."""
    if isinstance(job, TextClassificationJob) and job.dataset == RANDOM_TOKENS:
        return {}
    if isinstance(job, CustomJob) and job.is_sent:
        return {}  # no other program can import its function
    files = {"train.py": train_script(job, parameters, title=title, expected=expected, num_devices=num_devices)}
    if isinstance(job, BuiltInJob):
        files |= modules(job)
        files |= _generated(job) if job.dataset == EMBEDDED else {}
    return files


def _generated(job: BuiltInJob) -> dict[str, str]:
    """Return the generated samples, split as `tradeoff.objectives.data.sources` splits them."""
    from tradeoff.objectives.data.generated_conversations import generate_conversations
    from tradeoff.objectives.data.reviews import generate_reviews

    assert job.train_samples is not None
    assert job.eval_samples is not None
    count = job.train_samples + job.eval_samples
    samples: list[dict[str, Any]]
    if isinstance(job, CausalLMJob):
        samples = [{"messages": messages} for messages in generate_conversations(count, seed=job.data_seed)]
    else:
        reviews = generate_reviews(count, seed=job.data_seed)
        samples = [{"text": review.text, "label": review.stars - 1} for review in reviews]
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    files = {"train.jsonl": "".join(lines[: job.train_samples])}
    if job.evaluates:
        files["eval.jsonl"] = "".join(lines[job.train_samples :])
    return files


def _flag_value(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping) else str(value)
    if _WORD.fullmatch(text) is None:
        raise ValueError(f"the value of a flag must be a word that a shell leaves as it is, got {text!r}")
    return text

"""The files of an export for programs other than ours: Accelerate, the example scripts of transformers, `train.py`."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.export.train_script import modules, train_script

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

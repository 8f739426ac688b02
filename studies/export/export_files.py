"""The files of an export for programs other than ours: Accelerate, the example scripts of transformers, `train.py`."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, AnyJob, CustomJob, TextClassificationJob
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.export.custom_script import custom_script
from tradeoff.studies.export.train_script import embedded_module, train_script


def accelerate_config(arguments: Mapping[str, Any], *, num_processes: int = 1) -> str:
    """A configuration for `accelerate launch --config_file`, for as many devices as a trial had.

    Without cards, `accelerate launch` starts several processes through MPI alone; torchrun needs none.

    Accelerate has no place for accumulation and batch size in it: they are the Trainer's.
    """
    precision = next((name for name in ("fp16", "bf16") if arguments.get(name)), "no")
    use_cpu = bool(arguments.get("use_cpu", False))
    several = "MULTI_CPU" if use_cpu else "MULTI_GPU"
    return yaml.safe_dump(
        {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": several if num_processes > 1 else "NO",
            "mixed_precision": precision,
            "num_processes": num_processes,
            "num_machines": 1,
            "machine_rank": 0,
            "main_training_function": "main",
            "use_cpu": use_cpu,
            "debug": False,
        },
        sort_keys=False,
    )


def flags(arguments: Mapping[str, Any]) -> str:
    """The arguments as flags, one a line, without blanks inside: for `script.py $(cat flags.txt)` and for an `args_file`."""
    return "".join(f"--{name} {_flag_value(value)}\n" for name, value in (dict(arguments) | {"output_dir": "model"}).items())


def training_files(
    job: AnyJob, parameters: TrialParameters, *, title: str, expected: str | None, num_processes: int = 1
) -> dict[str, str]:
    """`train.py` and what it needs beside it, by name; nothing for random tokens, from which nothing can be learned."""
    if isinstance(job, CustomJob):
        return {"train.py": custom_script(job, parameters, title=title, expected=expected, num_processes=num_processes)}
    if job.dataset == RANDOM_TOKENS:
        return {}
    files = {"train.py": train_script(job, parameters, title=title, expected=expected, num_processes=num_processes)}
    if job.model == EMBEDDED:
        files["embedded_model.py"] = embedded_module()
    if job.dataset == EMBEDDED:
        files |= _reviews(job)
    return files


def _reviews(job: TextClassificationJob) -> dict[str, str]:
    """The generated reviews in the split that `tradeoff.objectives.data.sources` makes."""
    from tradeoff.objectives.data.reviews import generate_reviews

    assert job.train_samples is not None
    assert job.eval_samples is not None
    reviews = generate_reviews(job.train_samples + job.eval_samples, seed=job.data_seed)
    lines = [json.dumps({"text": review.text, "label": review.stars - 1}, ensure_ascii=False) + "\n" for review in reviews]
    files = {"train.jsonl": "".join(lines[: job.train_samples])}
    if job.evaluates:
        files["eval.jsonl"] = "".join(lines[job.train_samples :])
    return files


def _flag_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    return str(value)

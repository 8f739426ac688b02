"""The exported `train.py`: the job's own steps, written out for transformers and datasets, or for TRL, alone.

Only what the job needs is written: one way to read the data, one way to build the model. What it does mirrors
`objectives/trainers/` and `objectives/trial/session.py`, so that it reaches the accuracy that the study measured. Of a custom
job it calls the user's function.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tradeoff.objectives.isolation.warm_server import server_environment
from tradeoff.objectives.job.arguments import job_of_data, padding, settings_beside_arguments
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob, gguf_file, local_path
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.choices import Precision
from tradeoff.searchspace.training_arguments import OF_EVALUATIONS
from tradeoff.studies.reporting.templating import render

# The same patterns as in `tradeoff.objectives.trainers.models`, which is not imported because it imports torch.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
_PACKAGE = "tradeoff.studies.export"


def launch_command(num_devices: int) -> str:
    """Return the command that starts `train.py`."""
    return "python train.py" if num_devices == 1 else f"torchrun --nproc_per_node {num_devices} train.py"


def train_script(
    job: AnyJob, parameters: TrialParameters, *, title: str, expected: Mapping[str, str], num_devices: int = 1
) -> str:
    """Return the text of `train.py`.

    Args:
        job: The study's job.
        parameters: The chosen configuration; most of it is in `training_args.json`, padding and attention are not.
        title: The chosen configuration in words.
        expected: In words, where the study has them: the learned value and where it comes from as `learned`, and `time`.
        num_devices: Devices that train together.

    Raises:
        ValueError: The job's data are random tokens, from which nothing can be learned.
    """
    shared = {
        "title": title,
        "command": launch_command(num_devices),
        "num_devices": num_devices,
        "expected": expected.get("learned"),
        "expected_time": expected.get("time"),
        "spin_count": server_environment({})["GOMP_SPINCOUNT"],
        "evaluates_alike": not OF_EVALUATIONS.isdisjoint(parameters),
    }
    if isinstance(job, CustomJob):
        return render(_PACKAGE, "custom_train.py.jinja", job=job, **shared, **_custom_values(job, parameters))
    if isinstance(job, CausalLMJob):
        return render(_PACKAGE, "language_train.py.jinja", job=job, **shared, **_language_values(job, parameters))
    return render(_PACKAGE, "train.py.jinja", job=job, **shared, **_text_classification_values(job, parameters))


def modules(job: BuiltInJob) -> dict[str, str]:
    """Return the modules that `train.py` imports from beside it, by name: the study's own, so that both read the same data."""
    # Read and not imported: they import transformers or pyarrow, and nothing of ours.
    is_language = isinstance(job, CausalLMJob)
    wanted = {
        "embedded_model.py": ("trainers/embedded.py", job.model == EMBEDDED),
        "trained_parts.py": ("trainers/trained_parts.py", bool(parts_used(job))),
        "text_files.py": ("data/text_files.py", job.dataset != EMBEDDED and job.is_local_file),
        "text_labels.py": ("data/labels.py", not is_language and (job.evaluates or job.dataset != EMBEDDED)),
        "language_columns.py": ("data/language_columns.py", is_language and job.dataset != EMBEDDED),
        "language_tokens.py": ("trainers/language_tokens.py", is_language),
        "language_trainer.py": ("trainers/language_trainer.py", is_language),
    }
    folder = Path(__file__).parents[2] / "objectives"
    return {name: (folder / path).read_text(encoding="utf-8") for name, (path, is_wanted) in wanted.items() if is_wanted}


def parts_used(job: BuiltInJob) -> list[str]:
    """Return the names that `train.py` imports from `trained_parts.py`: none where a whole model is trained as it is."""
    used = {
        "adapted": job.lora is not None,
        "four_bit": isinstance(job, CausalLMJob) and job.load_in_4bit,
        "freeze": job.lora is None and job.frozen_layers > 0,
        "set_dropout": job.dropout is not None,
        # A language model has no new parts.
        "untrained_modules": isinstance(job, TextClassificationJob) and job.lora is not None and _has_weights(job),
    }
    return [name for name, is_used in used.items() if is_used]


def _has_weights(job: BuiltInJob) -> bool:
    local = local_path(job.model)
    return job.model != EMBEDDED and (not os.path.isdir(local) or any(next(local.glob(pattern), None) for pattern in _WEIGHTS))


def _custom_values(job: CustomJob, parameters: TrialParameters) -> dict[str, object]:
    module, _, function = job.build.partition(":")
    settings = {**job.kwargs, **settings_beside_arguments(parameters)}
    key = None if job.metric is None else f"eval_{job.metric.removeprefix('eval_')}"
    return {
        "module": module,
        "function": function,
        # kwargs are JSON; as text they are read in the same way as the study read them.
        "kwargs": json.dumps(settings) if settings else None,
        "key": key,
        "bare": key and key.removeprefix("eval_"),
    }


def _text_classification_values(job: TextClassificationJob, parameters: TrialParameters) -> dict[str, object]:
    if job.dataset == RANDOM_TOKENS:
        raise ValueError("train.py needs data to learn from, and dataset is 'random-tokens'; run a study with another dataset")
    return _built_in_values(job, parameters) | {
        "is_language": False,
        "auto_class": "AutoModelForSequenceClassification",
        "texts": ["text"] if job.dataset == EMBEDDED else [name for name in job.columns().values() if name != job.label_column],
        "label": job.label_column,
        "columns": job.columns(),
        "padding": padding(job, parameters),
        "is_padded_later": job_of_data(job, parameters.as_dict()).padding != "max_length",
    }


def _language_values(job: CausalLMJob, parameters: TrialParameters) -> dict[str, object]:
    steps = {
        "all_words": job.model == EMBEDDED,
        "cut": True,
        "num_characters": job.evaluates,
        "num_counted": job.evaluates,
        "packed": job.packing,
        "tokenised": True,
        "with_answers_apart": True,
    }
    return _built_in_values(job, parameters) | {
        "is_language": True,
        "auto_class": "AutoModelForCausalLM",
        "steps": [name for name, is_taken in steps.items() if is_taken],
    }


def _built_in_values(job: BuiltInJob, parameters: TrialParameters) -> dict[str, object]:
    reader, sources = _sources(job)
    local = local_path(job.model)
    is_local = os.path.isdir(local)
    model, file = gguf_file(job.model) or (job.model, None)
    if is_local or os.path.isfile(local):
        model = str((local.parent if file else local).resolve())
    return {
        "reader": reader,
        "sources": sources,
        "model": model,
        "gguf_file": file,
        "is_embedded_model": job.model == EMBEDDED,
        "has_weights": _has_weights(job),
        "makes_config": job.model != EMBEDDED and (not _has_weights(job) or job.dropout is not None),
        "parts": parts_used(job),
        "compute_dtype": "bfloat16" if parameters.precision is Precision.BF16 else "float32",
        "finds_new": "untrained_modules" in parts_used(job),
        "lora": None if job.lora is None else job.lora.settings(),
        "attention": parameters.get("attn_implementation"),
    }


def _sources(job: BuiltInJob) -> tuple[str, list[str]]:
    """Return the way to read the data, and the files or the splits that are read: one that is split, or one for each part."""
    if job.dataset == EMBEDDED:
        return "embedded", []
    if not job.is_local_file:
        return "hub", [job.train_split, *([job.eval_split] if job.evaluates and job.eval_split != job.train_split else [])]
    paths = [job.dataset, *([job.eval_dataset] if job.evaluates and job.eval_dataset is not None else [])]
    return "files", [_absolute(path) for path in paths]


def _absolute(name: str) -> str:
    """Return a local file's absolute path; the name as it is where there is no such file here."""
    path = local_path(name)
    return str(path.resolve()) if os.path.exists(path) else name

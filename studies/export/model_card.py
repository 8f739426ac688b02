"""The exported `README.md`: a model card with the trade-offs of the study and the configuration that was chosen."""

import json
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.arguments import job_of, padding
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, TextClassificationJob, parse_job
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob, gguf_file, local_path
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.stored import option_for
from tradeoff.studies.export.memory_advice import MARGIN, memory_to_leave_free_mib
from tradeoff.studies.export.train_script import launch_command, parts_used
from tradeoff.studies.reporting.templating import render
from tradeoff.studies.reporting.text_tables import TextTable, parameter_columns
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice
from tradeoff.studies.results.tables import front_notes, is_elsewhere, marks, short_configuration, shown_value, with_spread
from tradeoff.studies.visible import visible


def model_card(results: StudyResults, choice: Choice, arguments: Mapping[str, Any], files: Collection[str]) -> str:
    """Return the text of `README.md`.

    Args:
        results: The study.
        choice: The chosen configuration.
        arguments: Its TrainingArguments.
        files: The names of the other files of the export.
    """
    record, num_devices = choice.record, results.num_devices
    parameters = TrialParameters(**record.params)
    job = job_of(parse_job(results.config["job"]), parameters)
    epochs = parameters.get("num_train_epochs", job.epochs)
    front = judged_front(results)
    shown = front.records if record.number in front.standings else (*front.records, record)
    device_kind = device_class(results.device)
    measurements = {**record.attributes, **record.values}
    free_mib = memory_to_leave_free_mib(measurements, device_kind)
    return render(
        "tradeoff.studies.export",
        "README.md.jinja",
        results=results,
        choice=choice,
        job=job,
        parameters=parameters,
        num_devices=num_devices,
        front_matter=_front_matter(job),
        title=_title(job),
        configuration=short_configuration(record.params),
        device=str(results.device.get("name", "an unnamed device")),
        num_train="all" if job.num_train_asked is None else f"{job.num_train_asked:,}",
        epochs=f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}",
        measured=", ".join(f"{GOALS[name].label} {with_spread(record, name, unit=True)}" for name in results.objectives),
        elsewhere=[(GOALS[name].label, record.sources[name]) for name in results.objectives if is_elsewhere(record, name)],
        trade_offs=_trade_offs(front, shown, chosen=record.number),
        chosen_row=[other.number for other in shown].index(record.number),
        warning=front.warning,
        notes=front_notes(front, shown),
        free_mib=None if free_mib is None else f"{free_mib:,}",
        peak_mib=None if free_mib is None else GOALS["peak_memory_mib"].show(measurements["peak_memory_mib"]),
        margin_percent=round(100 * MARGIN),
        peak_scope=device_kind.peak_scope,
        has_accelerate=num_devices == 1 or not device_kind.uses_host_processors,
        is_custom=isinstance(job, CustomJob),
        is_language=isinstance(job, CausalLMJob),
        adapters=_adapters(job),
        has_script="train.py" in files,
        launch=launch_command(num_devices),
        code_option=option_for(job),
        example_script=_example_script(job, parameters, num_devices) if "flags.txt" in files else None,
        arguments_json=json.dumps({name: value for name, value in arguments.items() if name != "output_dir"}, indent=2),
    )


def _front_matter(job: AnyJob) -> dict[str, Any]:
    """Return what the hub reads of a model card; names of the hub only."""
    if isinstance(job, CustomJob):
        return {"library_name": "transformers"}
    # Of a GGUF file on the hub, where it is.
    model = job.model.rpartition(":")[0] if gguf_file(job.model) is not None else job.model
    return {
        "library_name": "transformers" if job.lora is None else "peft",
        "pipeline_tag": "text-generation" if isinstance(job, CausalLMJob) else "text-classification",
        **({"metrics": ["perplexity" if isinstance(job, CausalLMJob) else "accuracy"]} if job.evaluates else {}),
        **({"base_model": model} if model != EMBEDDED and _is_on_hub(model) else {}),
        **({"tags": [f"base_model:adapter:{model}", "lora"]} if job.lora is not None and _is_on_hub(model) else {}),
        **({"datasets": [job.dataset]} if _has_hub_data(job) else {}),
    }


def _adapters(job: AnyJob) -> str | None:
    """Return in words the adapters that are trained, and of which model; None where it is trained itself."""
    if isinstance(job, CustomJob) or job.lora is None:
        return None
    lora = job.lora.settings()
    layers = ", ".join(lora["target_modules"])
    bits = " in 4 bits" if getattr(job, "load_in_4bit", False) else ""
    return f"LoRA adapters of rank {lora['r']} (alpha {lora['alpha']:g}, {layers}) of the model {job.model}{bits}"


def _title(job: AnyJob) -> str:
    if isinstance(job, CustomJob):
        return job.build
    writes = isinstance(job, CausalLMJob)
    model = f"A small {'Llama' if writes else 'BERT'} with random weights" if job.model == EMBEDDED else job.model
    generated = "generated conversations" if writes else "generated reviews"
    data = {EMBEDDED: generated, RANDOM_TOKENS: "random tokens"}.get(job.dataset, job.dataset)
    is_local_model = job.model != EMBEDDED and os.path.exists(local_path(job.model))
    return f"{Path(model).name if is_local_model else model} on {Path(data).name if job.is_local_file else data}"


def _has_hub_data(job: BuiltInJob) -> bool:
    return not job.is_local_file and job.dataset not in (EMBEDDED, RANDOM_TOKENS) and _is_on_hub(job.dataset)


def _is_on_hub(name: str) -> bool:
    # What can't be one of the hub's is left out: a viewer may show what stands in a card's front matter as HTML.
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) is not None and not os.path.exists(local_path(name))


def _trade_offs(front: JudgedFront, shown: Sequence[TrialRecord], *, chosen: int) -> TextTable:
    names, cells = parameter_columns(shown)
    found = marks(front)
    header = ["trial", *names, *(GOALS[name].heading for name in front.objectives), ""]
    rows = [
        [
            record.shown_number,
            *cells[position],
            *(shown_value(record, name) for name in front.objectives),
            ", ".join([*(["chosen"] if record.number == chosen else []), *found.get(record.number, [])]),
        ]
        for position, record in enumerate(shown)
    ]
    return TextTable(header, rows)


def _example_script(job: AnyJob, parameters: TrialParameters, num_devices: int) -> str | None:
    """Return the command that trains with transformers' examples/pytorch/text-classification/run_classification.py.

    None where that script can't: it classifies, reads data and models of the hub alone, trains all of their weights as they
    are, and has no option for the attention.
    """
    if not isinstance(job, TextClassificationJob) or not _has_hub_data(job) or job.model == EMBEDDED:
        return None
    if "attn_implementation" in parameters or parts_used(job):
        return None
    options = {
        "model_name_or_path": job.model,
        "dataset_name": job.dataset,
        "dataset_config_name": job.dataset_config,
        "train_split_name": job.train_split,
        "validation_split_name": job.eval_split,
        "text_column_names": job.text_column,
        "label_column_name": job.label_column,
        "max_seq_length": job.max_length,
        "pad_to_max_length": padding(job, parameters) == "max_length",
        "shuffle_train_dataset": True,
        "shuffle_seed": job.data_seed,
        "max_train_samples": job.train_samples,
    }
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    launcher = "python" if num_devices == 1 else f"torchrun --nproc_per_node {num_devices}"
    command = shlex.join([*words, "--do_train", *(["--do_eval"] if job.evaluates else [])])
    return visible(f"{launcher} run_classification.py $(cat flags.txt) {command}")

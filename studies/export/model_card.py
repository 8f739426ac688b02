"""The exported `README.md`: a model card with the trade-offs of the study and the configuration that was chosen."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, parse_job
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, gguf_file, local_path
from tradeoff.objectives.measurements.goals import GOALS, learned_names
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.stored import option_for
from tradeoff.studies.export.export_files import EXAMPLE, has_hub_data, is_on_hub
from tradeoff.studies.export.memory_advice import MARGIN, memory_to_leave_free_mib
from tradeoff.studies.export.train_script import launch_command
from tradeoff.studies.reporting.templating import render
from tradeoff.studies.reporting.text_tables import TextTable, parameter_columns
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.expectation import MEASURED, source_of
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice
from tradeoff.studies.results.tables import front_notes, marks, short_configuration, shown_value, with_spread


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
        front_matter=_front_matter(job) | _model_index(results, record, job),
        title=_title(job),
        configuration=short_configuration(record.params),
        device=str(results.device.get("name", "an unnamed device")),
        num_train="all" if job.num_train_asked is None else f"{job.num_train_asked:,}",
        epochs=f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}",
        measured=", ".join(f"{GOALS[name].label} {with_spread(record, name, unit=True)}" for name in results.objectives),
        elsewhere=[(GOALS[name].label, source) for name in results.objectives if (source := _elsewhere(record, name))],
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
        example_script=f"{_launcher(num_devices)} run_classification.py {EXAMPLE}" if EXAMPLE in files else None,
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
        **({"base_model": model} if model != EMBEDDED and is_on_hub(model) else {}),
        **({"tags": [f"base_model:adapter:{model}", "lora"]} if job.lora is not None and is_on_hub(model) else {}),
        **({"datasets": [job.dataset]} if has_hub_data(job) else {}),
    }


def _model_index(results: StudyResults, record: TrialRecord, job: AnyJob) -> dict[str, Any]:
    """Return the learned values of the chosen configuration as measured, in the form in which the hub lists results."""
    names = [name for name in learned_names(results.objectives) if name in record.values]
    if isinstance(job, CustomJob) or not names:  # of a job of the user's own, nobody knows the data
        return {}
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    measured = {**record.values, **record.attributes.get(MEASURED, {})}
    task = "text-generation" if isinstance(job, CausalLMJob) else "text-classification"
    data: dict[str, Any] = {"dataset_type": "generated" if job.dataset == EMBEDDED else "local"}
    if has_hub_data(job):
        part = {"dataset_config": job.dataset_config, "dataset_split": job.eval_split}
        data = {"dataset_type": job.dataset} | {name: text for name, text in part.items() if text and is_on_hub(text)}
    found = [
        EvalResult(
            task_type=task,
            dataset_name=str(data["dataset_type"]),
            metric_type=name.removeprefix("eval_"),
            metric_name=GOALS[name].label,
            metric_value=measured[name],
            **data,
        )
        for name in names
    ]
    # Like every name in a front matter, one that holds no markup.
    name = re.sub(r"[^\w.-]+", "-", results.name, flags=re.ASCII)
    return {"model-index": eval_results_to_model_index(name, found)}


def _launcher(num_devices: int) -> str:
    return "python" if num_devices == 1 else f"torchrun --nproc_per_node {num_devices}"


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


def _elsewhere(record: TrialRecord, objective: str) -> str | None:
    """Return where a value comes from that is not what its trial has measured, in words; None if it is."""
    source = source_of(record, objective)
    if (own := record.attributes.get(MEASURED, {}).get(objective)) is not None:
        return f"it is {source}, where its own reached {GOALS[objective].show(own)}"
    return None if source == "measured" else source


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

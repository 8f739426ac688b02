"""A chosen configuration as files that a person trains with again.

`training_args.json` is what `transformers.HfArgumentParser.parse_json_file` reads, `tradeoff.yaml` says where it comes from,
`README.md` shows the trade-offs, `train.py` trains; `export_files.py` makes those for other programs. The folder appears
complete or not at all.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.settings import TextClassificationJob, parse_job
from tradeoff.objectives.measurements.goals import learned_names
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export_files import accelerate_config, flags, training_files
from tradeoff.studies.export.memory_advice import memory_to_leave_free_mib
from tradeoff.studies.export.model_card import model_card
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice

MEMORY_FIGURES = (
    "peak_memory_mib", "peak_allocated_mib", "peak_reserved_mib", "peak_process_mib", "peak_device_mib", "context_mib"
)  # fmt: skip
# Measured values worth keeping beside the objectives, where the trial has them.
OTHER_FIGURES = (
    "samples_per_s", "eval_loss", "train_loss", "eval_time_s", "trial_time_s", "num_steps", "num_samples",
    "gpu_utilization_percent", "energy_j",
)  # fmt: skip


def export(results: StudyResults, choice: Choice, output: Path) -> list[Path]:
    """Writes the chosen configuration.

    Args:
        results: The study it comes from.
        choice: What `tradeoff.studies.results.selection.choose` took.
        output: A folder that does not exist yet, or is empty.

    Returns:
        The files written.

    Raises:
        TradeoffError: The folder exists and holds something, or can't be written.
    """
    check_output(output)
    files = export_files(results, choice, output_dir=str(output / "model"))
    try:
        # A sibling, so that the last step is a rename on the same file system: complete, or not there.
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.absolute().parent) as folder:
            complete = Path(folder) / "complete"
            complete.mkdir()
            for name, text in files.items():
                (complete / name).write_text(text, encoding="utf-8")
            # A folder renamed onto an empty one takes its place; one that filled up meanwhile makes it fail.
            os.rename(complete, output)
    except OSError as error:
        raise _cannot_write(output, error) from error
    return [output / name for name in files]


def check_output(output: Path) -> None:
    """Checks that an export can go to this folder, before any work is done.

    Raises:
        TradeoffError: It exists and is not an empty folder, or its parent does not exist.
    """
    try:
        is_folder, exists = output.is_dir(), os.path.lexists(output)
        is_filled = is_folder and any(output.iterdir())
        has_parent = output.absolute().parent.is_dir()
    except OSError as error:
        raise _cannot_write(output, error) from error
    if is_filled:
        raise TradeoffError(f"the output folder {output} exists and is not empty; name another one")
    if exists and not is_folder:
        raise TradeoffError(f"the output {output} exists and is not a folder; name another one")
    if not has_parent:
        raise TradeoffError(f"the output folder {output} can't be made: there is no folder {output.parent}")


def export_files(results: StudyResults, choice: Choice, *, output_dir: str) -> dict[str, str]:
    """The text of each file by name; `output_dir` is where the Trainer will write."""
    job = parse_job(results.config["job"])
    parameters = TrialParameters(**choice.record.params)
    arguments = training_arguments(job, parameters, output_dir=output_dir)
    if device_class(results.device).uses_host_processors:
        # What the trials ran with; without it transformers refuses bf16 where there is no card.
        arguments["use_cpu"] = True
    files = {
        "training_args.json": json.dumps(arguments, indent=2) + "\n",
        "tradeoff.yaml": yaml.safe_dump(provenance(results, choice), sort_keys=False, allow_unicode=True, width=120),
        "accelerate_config.yaml": accelerate_config(arguments, num_devices=results.num_devices),
        "flags.txt": flags(arguments),
    }
    title = f"trial {choice.record.number} of the study {results.name}"
    files |= training_files(job, parameters, title=title, expected=_expected(results, choice), num_devices=results.num_devices)
    return files | {"README.md": model_card(results, choice, arguments, list(files))}


def provenance(results: StudyResults, choice: Choice) -> dict[str, Any]:
    """Where the configuration comes from, and what it was measured to do, as plain data."""
    record = choice.record
    job = results.config["job"]
    figures = {**record.attributes.get("training", {}), **record.attributes, **record.values}
    return {
        "tradeoff_version": results.tradeoff_version,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": {"name": results.name, "storage": results.storage, "trials": results.counts()},
        "trial": record.number,
        "chosen": choice.why,
        "parameters": TrialParameters(**record.params).as_dict(),
        "devices_per_trial": results.num_devices,
        "effective_batch_size": TrialParameters(**record.params).effective_batch_size(results.num_devices),
        "values": {
            name: {"value": record.values[name], "source": record.sources.get(name, "unknown")} for name in results.objectives
        },
        "memory_mib": _present(figures, MEMORY_FIGURES),
        "memory_to_leave_free_mib": memory_to_leave_free_mib(figures, device_class(results.device)),
        "measured": _present(figures, OTHER_FIGURES),
        **_origin(job),
        "seed": job["seed"],
        "job": dict(job),
        "limits": results.config.get("limits"),
        "device": dict(results.device),
        "versions": dict(results.versions),
    }


def _origin(job: Mapping[str, Any]) -> dict[str, Any]:
    """The model and the data; of a job of the user's own, the function that knows them."""
    parsed = parse_job(job)
    if not isinstance(parsed, TextClassificationJob):
        return {"build": job["build"]}
    return {"model": job["model"], "data": {name: value for name, value in job.items() if name in parsed.data_settings()}}


def _expected(results: StudyResults, choice: Choice) -> str | None:
    """What the chosen trial has learned and where that comes from: "0.612, measured"."""
    for name in learned_names(results.objectives):
        if (value := choice.record.values.get(name)) is not None:
            return f"{value:g}, {choice.record.sources.get(name, 'unknown')}"
    return None


def _cannot_write(output: Path, error: OSError) -> TradeoffError:
    return TradeoffError(f"the output folder {output} can't be written: {error.strerror}; name another one")


def _present(figures: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: figures[name] for name in names if figures.get(name) is not None}

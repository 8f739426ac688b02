"""A chosen configuration as files to train with.

`training_args.json` is read by `transformers.HfArgumentParser.parse_json_file`, `tradeoff.yaml` records the origin, `README.md`
shows the trade-offs, `train.py` trains; `export_files.py` makes the files for other programs. The directory appears complete or
not at all.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.arguments import job_of, jobs_of_data, training_arguments
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, parse_job
from tradeoff.objectives.measurements.goals import GOALS, cost_goals, learned_names
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.space import ParameterConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export_files import EXAMPLE, accelerate_config, example_arguments, flags, training_files
from tradeoff.studies.export.memory_advice import memory_to_leave_free_mib
from tradeoff.studies.export.model_card import model_card
from tradeoff.studies.export.targets import Configuration, Target, target_files
from tradeoff.studies.reporting.notes import MEMORY_INSTRUMENTS
from tradeoff.studies.reporting.templating import yaml_text
from tradeoff.studies.results.expectation import MEASURED, source_of
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice

MEMORY_MEASUREMENTS = ("peak_memory_mib", *MEMORY_INSTRUMENTS)
# Measurements worth keeping beside costs and objectives, where the trial has them.
OTHER_MEASUREMENTS = (
    "eval_loss", "train_loss", "eval_time_s", "trial_time_s", "num_steps", "num_samples", "gpu_utilization_percent",
)  # fmt: skip


def export(results: StudyResults, choice: Choice, output: Path, *, targets: Sequence[Target] = ()) -> list[Path]:
    """Write the chosen configuration.

    Args:
        results: The study.
        choice: The choice of `tradeoff.studies.results.selection.choose`.
        output: A directory that does not exist yet, or is empty.
        targets: Other trainers whose files are added.

    Returns:
        The files written.

    Raises:
        TradeoffError: The directory is not empty, or can't be written; or a target can't train the job.
    """
    check_output(output)
    files = export_files(results, choice, output_dir=str(output / "model"), targets=targets)
    try:
        # A sibling, so that the last step is a rename on the same file system: complete, or not there.
        with temporary_folder(f".{output.name}-", output.absolute().parent) as temporary:
            complete = temporary / "complete"
            complete.mkdir()
            for name, text in files.items():
                (complete / name).write_text(text, encoding="utf-8")
            # A directory renamed onto an empty one takes its place; if that one has been filled meanwhile, it fails.
            os.rename(complete, output)
    except OSError as error:
        raise _cannot_write(output, error) from error
    return [output / name for name in files]


def check_output(output: Path) -> None:
    """Check that an export can go to this directory, before any work is done.

    Raises:
        TradeoffError: It exists and is not an empty directory, or its parent does not exist.
    """
    try:
        is_usable = not os.path.lexists(output) or (output.is_dir() and not any(output.iterdir()))
        has_parent = output.absolute().parent.is_dir()
    except OSError as error:
        raise _cannot_write(output, error) from error
    if not is_usable:
        raise TradeoffError(f"--output must be a new or empty directory, and {output} is neither; name another one")
    if not has_parent:
        raise TradeoffError(f"--output must be in a directory that exists, and {output.parent} does not; make it first")


def export_files(results: StudyResults, choice: Choice, *, output_dir: str, targets: Sequence[Target] = ()) -> dict[str, str]:
    """Return the text of each file by name; `output_dir` is the Trainer's."""
    parameters = TrialParameters(**choice.record.params)
    results = _with_evaluation_length(results, parameters)
    job = job_of(parse_job(results.config["job"]), parameters)
    # The Trainer itself does not read the last two, and scripts that use it do.
    arguments = training_arguments(job, parameters, output_dir=output_dir) | {"do_train": True, "do_eval": job.evaluates}
    if device_class(results.device).uses_host_processors:
        # As in the trials; without it transformers refuses bf16 where there is no GPU.
        arguments["use_cpu"] = True
    if isinstance(job, CausalLMJob):
        # Further fields of TRL's SFTConfig, which those of a language model are read as.
        arguments |= {"max_length": job.max_length, "packing": job.packing, "eval_packing": False}
        arguments["activation_offloading"] = job.activation_offloading
    files = {
        "training_args.json": json.dumps(arguments, indent=2) + "\n",
        "tradeoff.yaml": yaml_text(provenance(results, choice)),
        "accelerate_config.yaml": accelerate_config(arguments, num_devices=results.num_devices),
    }
    if (example := example_arguments(job, parameters, arguments)) is not None:
        files[EXAMPLE] = json.dumps(example | {"output_dir": "model"}, indent=2) + "\n"
    # Where a shell would take one of the values apart, training_args.json alone holds them.
    with contextlib.suppress(ValueError):
        files["flags.txt"] = flags(arguments)
    title = f"{choice.record.origin} of the study {results.name}"
    chosen = Configuration(job=job, parameters=parameters, arguments=arguments, num_devices=results.num_devices, title=title)
    for target in targets:
        files |= target_files(target, chosen)
    files |= training_files(job, parameters, title=title, expected=_expected(results, choice), num_devices=results.num_devices)
    return files | {"README.md": model_card(results, choice, arguments, list(files))}


def _with_evaluation_length(results: StudyResults, parameters: TrialParameters) -> StudyResults:
    """Return a study whose job says at which length its language models were evaluated: all at the greatest one searched."""
    job = job_of(parse_job(results.config["job"]), parameters)
    if not isinstance(job, CausalLMJob):
        return results
    spec = results.config.get("space", {}).get("max_length")
    searched = {} if spec is None else {"max_length": ParameterConfig.read("max_length", spec).domain.examples()}
    length = jobs_of_data(job, searched)[0].eval_max_length
    return replace(results, config={**results.config, "job": {**results.config["job"], "eval_max_length": length}})


def provenance(results: StudyResults, choice: Choice) -> dict[str, Any]:
    """Return the origin of the configuration and its measurements, as plain data."""
    record, job, parameters = choice.record, results.config["job"], TrialParameters(**choice.record.params)
    measurements = {**record.attributes.get("training", {}), **record.attributes, **record.values}
    return {
        "tradeoff_version": results.tradeoff_version,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": {"name": results.name, "storage": results.storage, "trials": results.counts()},
        "trial": record.number if record.number >= 0 else None,
        "chosen": choice.why,
        "parameters": parameters.as_dict(),
        "devices_per_trial": results.num_devices,
        "effective_batch_size": parameters.effective_batch_size(results.num_devices),
        "values": {
            name: {"value": record.values[name], "source": source_of(record, name, default="unknown")} | _spread(record, name)
            for name in results.objectives
        },
        "constant_answer": {name: value for name, value in results.baselines.items() if name in results.objectives},
        "memory_mib": _present(measurements, MEMORY_MEASUREMENTS),
        "memory_to_leave_free_mib": memory_to_leave_free_mib(measurements, device_class(results.device)),
        "measured": _present(
            measurements, (*(name for name in cost_goals() if name not in MEMORY_MEASUREMENTS), *OTHER_MEASUREMENTS)
        ),
        **_origin(job_of(parse_job(job), parameters)),
        "seed": job["seed"],
        "job": dict(job),
        "limits": results.config.get("limits"),
        "device": dict(results.device),
        "versions": dict(results.versions),
    }


def _origin(job: AnyJob) -> dict[str, Any]:
    """Return the model and the data of the trial; of a custom job, the function that knows them."""
    return {"build": job.build} if isinstance(job, CustomJob) else {"model": job.model, "data": job.data_settings()}


def _expected(results: StudyResults, choice: Choice) -> dict[str, str]:
    """Return the chosen trial's time, and its first learned value: "accuracy 0.612 ± 0.01, mean of trials 3 and 7"."""
    record, found = choice.record, {}
    if (time_s := {**record.attributes.get("training", {}), **record.values}.get("train_time_s")) is not None:
        found["time"] = GOALS["train_time_s"].show_with_spread(time_s, record.attributes.get(spread_name("train_time_s")))
    for name in learned_names(results.objectives):
        if (value := record.values.get(name)) is not None:
            spread = _spread(record, name)
            error = f" ± {spread['std']:.2g}" if "std" in spread else ""
            own = f", where its own reached {spread[MEASURED]:g}" if MEASURED in spread else ""
            return found | {"learned": f"{name} {value:g}{error}, {source_of(record, name, default='unknown')}{own}"}
    return found


def _spread(record: TrialRecord, objective: str) -> dict[str, float]:
    """Return the standard deviation of a value as `std`, and of what is expected what was measured, where they are known."""
    std, measured = record.attributes.get(spread_name(objective)), record.attributes.get(MEASURED, {}).get(objective)
    return ({} if std is None else {"std": float(std)}) | ({} if measured is None else {MEASURED: measured})


def _cannot_write(output: Path, error: OSError) -> TradeoffError:
    return TradeoffError(f"--output {output} can't be written: {error.strerror}; name another directory")


def _present(measurements: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: measurements[name] for name in names if measurements.get(name) is not None}

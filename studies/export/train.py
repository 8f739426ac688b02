"""Training of an exported configuration on all of the data, to a model that is kept.

It needs the export alone; the study itself need not be at hand. After a kill, the same call resumes.
"""

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.data.contents import local_contents
from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.extras import first_missing
from tradeoff.objectives.device.power_limit import restore_power_limits
from tradeoff.objectives.isolation.forked import forked
from tradeoff.objectives.isolation.warm_server import PRELOADED, server_environment
from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import AnyJob, parse_job
from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.objectives.measurements.records import measurement_attributes
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.stored import NO_CODE, AllowedCode
from tradeoff.studies.config.study_file import read_json
from tradeoff.studies.environment import library_versions, tradeoff_version
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.preparation import cache_folder, keep_compiled_code_in
from tradeoff.studies.export.expected import comparison_lines, expected_measurements, training_measurements
from tradeoff.studies.export.exported import full_job, read_export
from tradeoff.studies.export.hub import check_push, push, write_model_card
from tradeoff.studies.export.train_script import launch_command

RESULTS = "results.json"
_REQUEST = "tradeoff-training.json"


def train_export(
    directory: Path,
    output: Path,
    *,
    train_samples: str = "all",
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Mapping[str, Any]], None] = lambda event: None,
    allowed: AllowedCode = NO_CODE,
    merge: bool = False,
    repo: str | None = None,
) -> dict[str, Any]:
    """Train an exported configuration, or resume a training that was ended.

    The evaluation samples are as many as the study's. With data that is split from one table, more training samples mean that
    other evaluation samples are drawn; training and evaluation never overlap.

    Args:
        directory: The directory that `tradeoff export` wrote.
        output: The model's directory: it does not exist, is empty, or holds this same training.
        train_samples: "all" that the data has, "study" for as many as the study trained on, or a number. Generated reviews
            have no end: of them, "all" means as many as in the study.
        cache: The directory of prepared data.
        say: Shows a line to the user.
        on_progress: Called with each stage, step and evaluation, as `tradeoff.objectives.trial.retraining.retrain` says.
        allowed: The code that the export may run: whoever wrote it can name any.
        merge: Add the trained adapters to the weights of their model, and keep that alone.
        repo: The repository of the Hub to which the finished model is uploaded; None for none.

    Returns:
        The content of `results.json`: `expected` and `measured` values by name, and their origin.

    Raises:
        TradeoffError: The directory is no export, has no adapters to merge, or would run code that is not allowed; the output
            holds something else; the device lacks the precision; the data can't be used; memory ran out; or the model can't be
            uploaded.
    """
    if repo is not None:
        check_push(repo)
    exported = read_export(directory)
    if (num_devices := exported.get("devices_per_trial", 1)) > 1:
        raise TradeoffError(
            f"`tradeoff train` trains on one device, and this configuration on {num_devices} together; "
            f"run {launch_command(num_devices)} in {directory}"
        )
    parameters = TrialParameters(**exported["parameters"])
    searched = {name: [value] for name, value in parameters.items()}
    study_job = allowed.checked(parse_job(exported["job"]), where=str(directory), searched=searched)
    job = full_job(job_of(study_job, parameters), train_samples)
    adapted = job if isinstance(job, BuiltInJob) and job.lora is not None else None
    if merge and adapted is None:
        raise TradeoffError(
            f"--merge is for adapters of a built-in job, and {directory} trains a model without them; leave it out"
        )
    try:
        contents = local_contents(job) if isinstance(job, BuiltInJob) else {}
    except OSError as error:
        raise TradeoffError(f"{error.filename} must be a file that can be read: {error.strerror}; mend that first") from error
    # Where a module is from may change, as in a study.
    _claim(
        output,
        {"job": job.model_dump(mode="json", exclude={"python_path"}), "parameters": parameters.as_dict(), "contents": contents},
    )
    # Read by the libraries when they are imported, which happens below and not before. What transformers reports of weights and
    # files is for whoever asks for it.
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    os.environ.update(server_environment(dict(os.environ)))
    keep_compiled_code_in(cache or cache_folder())
    say("importing torch and transformers")
    for module in PRELOADED:
        importlib.import_module(module)  # as where the study ran: what is imported later would count as the training's memory
    from tradeoff.objectives.device.out_of_memory import out_of_memory_details
    from tradeoff.objectives.device.registry import see_one_device, start_device
    from tradeoff.objectives.trainers.workloads import load_workload, merge_adapters
    from tradeoff.objectives.trial.retraining import CHECKPOINTS, remove_checkpoints, retrain

    see_one_device()
    info = DeviceInfo.from_dict(forked(_described, parameters.get("power_limit_w"), refusal=TradeoffError))
    if parameters.precision.value not in info.precisions:
        raise TradeoffError(
            f"{info.name} trains in {', '.join(info.precisions)}, and the configuration needs {parameters.precision.value};"
            " export one of another precision"
        )
    if (why := first_missing(parameters, job=job, abilities={*info.precisions, *info.extras})) is not None:
        raise TradeoffError(f"{why}; install it, or export another configuration")
    say(f"device: {info.name}")
    say("preparing the data")
    data = forked(_prepared, job, cache or cache_folder(), searched, refusal=TradeoffError)
    if data["lacks"]:
        raise TradeoffError(f"{data['lacks'][0]['reason']}; export another configuration")
    for notice in data["notices"]:
        say(notice)
    say(f"{data['num_train']:,} training and {data['num_eval']:,} evaluation samples")
    try:
        workload, device = load_workload(job, data["folders"]), start_device()
        trained = retrain(job, parameters, workload, device, output=output, on_progress=on_progress)
        if merge and adapted is not None:
            say("merging the adapters into their model")
            merge_adapters(adapted, data["folders"], output)
    except OSError as error:
        raise TradeoffError(
            f"the training in {output} can't go on ({error}); mend that, and rerun the same command to resume"
        ) from error
    except (RuntimeError, MemoryError) as error:
        details = out_of_memory_details(error)
        if details is None:
            raise
        peak_mib = exported["memory_mib"].get("peak_memory_mib", "unknown")
        raise TradeoffError(
            f"out of memory: {details.message} (the study measured a peak of {peak_mib} MiB);"
            " free memory, or export with a tighter --limit"
        ) from error
    finally:
        restore_power_limits(output / CHECKPOINTS)
    results = {
        "tradeoff_version": tradeoff_version(),
        "study": exported["study"]["name"],
        "trial": exported["trial"],
        "parameters": parameters.as_dict(),
        "num_train": data["num_train"],
        "num_eval": data["num_eval"],
        "resumed_from_step": trained.resumed_from_step,
        "checkpoint_time_s": trained.checkpoint_time_s,
        "expected": expected_measurements(exported, num_train=data["num_train"]),
        "measured": training_measurements(measurement_attributes(trained.measurements)),
        "device": info.as_dict(),
        "expected_device": exported["device"].get("name"),
        "versions": library_versions(),
    }
    write_model_card(directory, output, results["measured"], comparison_lines(results), is_merged=merge)
    # Written last: a directory that holds it holds a finished model.
    _write_json(output / RESULTS, results)
    remove_checkpoints(output)
    if repo is not None:
        say(f"uploading the model to {repo}")
        say(f"the model is at {push(output, repo, leave_out=[_REQUEST])}")
    return results


def _described(power_limit_w: float | None) -> dict[str, Any]:
    from tradeoff.objectives.device.registry import start_device

    device = start_device()
    try:
        if power_limit_w is not None:
            device.check_power_limits([power_limit_w])
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    return device.info.as_dict()


def _prepared(job: AnyJob, cache: Path, searched: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    from tradeoff.objectives.trainers.preparation import prepare_workload

    try:
        return prepare_workload(job, cache, searched)
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    except OSError as error:
        raise TradeoffError(
            f"the data can't be prepared ({error}); mend that, or set TRADEOFF_CACHE to another directory"
        ) from error


def _claim(output: Path, request: Mapping[str, Any]) -> None:
    """Make the output directory this training's own, or find that it is.

    Raises:
        TradeoffError: It holds something else, or a finished training.
    """
    marker = output / _REQUEST
    try:
        if (output / RESULTS).exists():
            raise TradeoffError(f"--output {output} holds a finished training ({RESULTS}); name another directory")
        if marker.exists():
            try:
                before = read_json(marker)
            except ValueError as error:
                raise TradeoffError(f"--output {output} has a {_REQUEST} that can't be read ({error}); name another") from error
            # Data may be mended as long as nothing was trained on it.
            if not (output / "checkpoints").exists():
                before["contents"] = request["contents"]
            if before != request:
                raise TradeoffError(f"--output {output} holds another training that is not finished; name another directory")
            _write_json(marker, request)
            return
        if output.exists() and (not output.is_dir() or {*output.iterdir()} - {_unfinished(marker)}):
            raise TradeoffError(f"--output must be a new or empty directory, and {output} is neither; name another one")
        output.mkdir(exist_ok=True)
        _write_json(marker, request)
    except OSError as error:
        raise TradeoffError(f"--output {output} can't be written: {error.strerror}; name another directory") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is either complete or not there."""
    _unfinished(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(_unfinished(path), path)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}")

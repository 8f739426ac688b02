"""`tradeoff train`: the exported configuration on all of the data, to a model that is kept, beside what was promised.

The folder that an export made is all it needs; the study itself need not be at hand. The same command goes on after a kill.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tradeoff.objectives.device.extras import first_missing
from tradeoff.objectives.isolation.warm_server import server_environment
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.objectives.job.settings import (
    EMBEDDED,
    RANDOM_TOKENS,
    AnyJob,
    CustomJob,
    TextClassificationJob,
    parse_job,
    register_goals,
)
from tradeoff.objectives.measurements.goals import GOALS, learned_value
from tradeoff.objectives.measurements.records import measurement_attributes
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.environment import library_versions, tradeoff_version
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.export.export import MEMORY_FIGURES
from tradeoff.studies.export.train_script import launch_command

RESULTS = "results.json"
_REQUEST = "tradeoff-training.json"
_PLAIN_INTERVAL_S = 10.0
_STAGES = {"probe": "measuring memory on the longest samples", "train": "training"}
# What is promised and measured under the same name, in the order in which it is shown.
_COSTS = ("train_time_s", "samples_per_s", "peak_memory_mib", "energy_j")


def train_export(
    folder: Path, output: Path, *, train_samples: str = "all", cache: Path | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Trains an exported configuration, or goes on with a training that was ended.

    The evaluation samples are as many as the study's. With data that is split from one table, more training samples mean that
    other evaluation samples are drawn; training and evaluation never overlap.

    Args:
        folder: What `tradeoff export` wrote.
        output: The model's folder: it does not exist, is empty, or holds this same training.
        train_samples: "all" that the data has, "study" for as many as the study trained on, or a number. Generated reviews
            have no end: of them, "all" means as many as in the study.
        cache: Where prepared data is kept.
        console: Where progress is shown; nowhere by default.

    Returns:
        What `results.json` holds: `promised` and `measured` figures by name, and where they come from.

    Raises:
        TradeoffError: The folder is no export, the output holds something else, the device lacks the precision, the data can't
            be used, or memory ran out.
    """
    say = console or Console(quiet=True)
    exported = read_export(folder)
    if (num_devices := exported.get("devices_per_trial", 1)) > 1:
        raise TradeoffError(
            f"this configuration trains on {num_devices} devices together, and `tradeoff train` on one; "
            f"run {launch_command(num_devices)} in {folder}"
        )
    study_job = parse_job(exported["job"])
    parameters = TrialParameters(**exported["parameters"])
    job = full_job(study_job, train_samples)
    _claim(output, {"job": job.model_dump(mode="json"), "parameters": parameters.as_dict()})
    # Read by torch and datasets when they are imported, which happens below and not before.
    os.environ.update(server_environment(dict(os.environ)))
    say.print("importing torch and transformers", highlight=False)
    from tradeoff.objectives.device.out_of_memory import out_of_memory_details
    from tradeoff.objectives.device.registry import see_one_device, start_device
    from tradeoff.objectives.trainers.workloads import load_workload, prepare_workload
    from tradeoff.objectives.trial.retraining import remove_checkpoints, retrain
    from tradeoff.studies.execution.preparation import cache_folder

    see_one_device()
    device = start_device()
    if parameters.precision.value not in device.info.precisions:
        raise TradeoffError(
            f"{device.info.name} does not train in {parameters.precision.value}, it has {', '.join(device.info.precisions)};"
            " export a configuration of another precision"
        )
    abilities = {*device.info.precisions, *device.info.extras}
    if (why := first_missing(parameters, optimizer=job.optim, abilities=abilities)) is not None:
        raise TradeoffError(f"{why}; install it, or export another configuration")
    say.print(f"device: {device.info.name}\npreparing the data", highlight=False)
    try:
        data = prepare_workload(job_of_data(job, parameters.as_dict()), cache or cache_folder())
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    say.print(f"{data['num_train']:,} training and {data['num_eval']:,} evaluation samples", highlight=False)
    try:
        with _progress_display(say) as on_progress:
            workload = load_workload(job, data["folder"])
            trained = retrain(job, parameters, workload, device, output=output, on_progress=on_progress)
    except (RuntimeError, MemoryError) as error:
        details = out_of_memory_details(error)
        if details is None:
            raise
        raise TradeoffError(
            f"out of memory: {details.message}; the study measured a peak of"
            f" {exported['memory_mib'].get('peak_memory_mib', 'unknown')} MiB. Free memory, or export with a tighter --limit"
        ) from error
    results = {
        "tradeoff_version": tradeoff_version(),
        "study": exported["study"]["name"],
        "trial": exported["trial"],
        "parameters": parameters.as_dict(),
        "num_train": data["num_train"],
        "num_eval": data["num_eval"],
        "resumed_from_step": trained.resumed_from_step,
        "checkpoint_time_s": trained.checkpoint_time_s,
        "promised": promised(exported, num_train=data["num_train"]),
        "measured": measured(measurement_attributes(trained.measurements)),
        "device": device.info.as_dict(),
        "promised_device": exported["device"].get("name"),
        "versions": library_versions(),
    }
    unfinished = output / f".{RESULTS}"
    unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    # Written last: a folder that holds it holds a finished model.
    os.replace(unfinished, output / RESULTS)
    remove_checkpoints(output)
    return results


def read_export(folder: Path) -> dict[str, Any]:
    """The `tradeoff.yaml` of an export.

    Raises:
        TradeoffError: The folder is no export, or one of random tokens, from which nothing can be learned.
    """
    path = folder / "tradeoff.yaml"
    try:
        exported = yaml.safe_load(path.read_text(encoding="utf-8"))
        job = parse_job(exported["job"])
        TrialParameters(**exported["parameters"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError, ValueError) as error:
        message = " ".join(str(error).split())
        raise TradeoffError(
            f"{folder} must be a folder that `tradeoff export` made; its tradeoff.yaml can't be used: {message}"
        ) from error
    if isinstance(job, TextClassificationJob) and job.dataset == RANDOM_TOKENS:
        raise TradeoffError(
            "the study trained on random tokens, for time and memory alone: there is nothing to learn from them"
        )
    register_goals(job)
    return dict(exported)


def full_job(job: AnyJob, train_samples: str) -> AnyJob:
    """The job on as many training samples as asked for; a job of the user's own knows its samples itself.

    Raises:
        TradeoffError: The number is neither "all", "study" nor a number of at least 1, or the job takes none.
    """
    if isinstance(job, CustomJob):
        if train_samples in ("all", "study"):
            return job
        raise TradeoffError(f"--train-samples goes with text classification: {job.build} chooses its samples itself")
    if train_samples == "study" or (train_samples == "all" and job.dataset == EMBEDDED):
        return job
    if train_samples == "all":
        return job.model_copy(update={"train_samples": None})
    if not train_samples.isdigit() or int(train_samples) < 1:
        raise TradeoffError(f'--train-samples must be "all", "study" or a number of at least 1, got {train_samples!r}')
    return job.model_copy(update={"train_samples": int(train_samples)})


def promised(exported: Mapping[str, Any], *, num_train: int) -> dict[str, float]:
    """What the study measured of the configuration, its time scaled to the number of samples that are trained on now."""
    figures = {name: value["value"] for name, value in exported["values"].items()}
    figures = {**exported["measured"], **exported["memory_mib"], **figures}
    found = {name: float(figures[name]) for name in (*_compared(), *MEMORY_FIGURES) if figures.get(name) is not None}
    job = exported["job"]
    # What the trial processed; of one whose time was not measured by a training, what its job asks for.
    num_samples = exported["measured"].get("num_samples") or (job.get("train_samples") or num_train) * job["epochs"]
    if "train_time_s" in found:
        found["train_time_s"] *= num_train * job["epochs"] / num_samples
    return found


def measured(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a training under the names under which they are promised, and its number of steps."""
    names = (*_compared(), *MEMORY_FIGURES, "num_steps")
    flat = {**figures.get("training", {}), **figures}
    return {name: float(flat[name]) for name in names if flat.get(name) is not None}


def _compared() -> tuple[str, ...]:
    """What is learned, then what it costs."""
    return (*(name for name, goal in GOALS.items() if goal.learned), *_COSTS)


def comparison_lines(results: Mapping[str, Any]) -> list[str]:
    """What was measured beside what was promised, a line each, and what makes the two hard to compare."""
    lines = []
    for name in _compared():
        if name not in results["measured"]:
            continue
        goal = GOALS[name]
        value = goal.show_with_unit(results["measured"][name])
        expected = results["promised"].get(name)
        lines.append(f"{goal.label} {value}" + ("" if expected is None else f" (promised {goal.show(expected)})"))
    if (ours := results["device"]["name"]) != (theirs := results["promised_device"]):
        lines.append(f"time and memory were promised for {theirs}, and measured on {ours}")
    return lines


def train_command(folder: Path, output: Path, *, train_samples: str) -> int:
    """What `tradeoff train` does.

    Returns:
        The exit status: 0, or 130 if the user ended it.
    """
    console = Console(file=sys.stdout)  # this very stream: a library's own lines are redirected elsewhere
    try:
        results = train_export(folder, output, train_samples=train_samples, console=console)
    except KeyboardInterrupt:
        console.print("ended; the same command goes on from the last checkpoint", highlight=False)
        return EXIT_STATUS
    for line in comparison_lines(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"model, tokenizer and {RESULTS} are in {output}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _claim(output: Path, request: Mapping[str, Any]) -> None:
    """Makes the output folder this training's own, or finds that it is.

    Raises:
        TradeoffError: It holds something else, or a finished training.
    """
    marker = output / _REQUEST
    try:
        if (output / RESULTS).exists():
            raise TradeoffError(f"the output folder {output} holds a finished training ({RESULTS}); name another one")
        if marker.exists():
            if json.loads(marker.read_text(encoding="utf-8")) != request:
                raise TradeoffError(
                    f"the output folder {output} holds another training that was not finished; name another one"
                )
            return
        unfinished = output / f".{_REQUEST}"
        if output.exists() and (not output.is_dir() or {*output.iterdir()} - {unfinished}):
            raise TradeoffError(f"the output folder {output} exists and is not an empty folder; name another one")
        output.mkdir(exist_ok=True)
        unfinished.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, marker)
    except OSError as error:
        raise TradeoffError(f"the output folder {output} can't be written: {error.strerror}; name another one") from error


@contextmanager
def _progress_display(console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on a terminal, a line now and then elsewhere; stages and evaluations are lines in both."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("steps", total=None)
        last_line_s = time.monotonic()

        def show(event: Mapping[str, Any]) -> None:
            nonlocal last_line_s
            if "evaluation" in event:
                learned = [
                    f"{goal.label} {goal.show(value)}"
                    for goal in GOALS.values()
                    if goal.learned and (value := learned_value(event["evaluation"], goal.name)) is not None
                ]
                console.print(f"epoch {event['evaluation'].epoch:g}: {' '.join(learned)}", highlight=False)
            elif "step" not in event:
                console.print(_STAGES.get(event["stage"], event["stage"]), highlight=False)
            elif console.is_terminal:
                bar.update(task, completed=event["step"], total=event["total"])
            elif time.monotonic() - last_line_s >= _PLAIN_INTERVAL_S:
                last_line_s = time.monotonic()
                console.print(f"step {event['step']} of {event['total']}", highlight=False)

        yield show

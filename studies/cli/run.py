"""`tradeoff run`: creates a study or resumes it, on this machine or on a Ray cluster."""

import os
import shlex
from typing import Annotated

import typer

from tradeoff.objectives.job.jobs import parse_job
from tradeoff.studies.cli.options import Overrides, Preset, StorageUrl, StudyFile, Timeout, Workers
from tradeoff.studies.config.stored import option_for
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display, terminal_display
from tradeoff.studies.execution.interrupts import run_to_end
from tradeoff.studies.results import savings
from tradeoff.studies.results.ending import nothing_completed, predicted_lines, untrained_lines
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.results import read_results
from tradeoff.studies.results.shared_machine import busy_lines
from tradeoff.studies.results.tables import front_table
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE, masked
from tradeoff.studies.workers.ray_cluster import run_on_ray
from tradeoff.studies.workers.run import run_study


def run(
    study_file: StudyFile = None,
    preset: Preset = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="The study's total number of trials.", show_default=False)
    ] = None,
    train_all: Annotated[
        bool, typer.Option("--train-all", help="Train every learning class that fits, whatever it is expected to add.")
    ] = False,
    timeout: Timeout = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The study's name.", show_default=False)] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    workers: Workers = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Write each trial to wandb, mlflow, tensorboard or trackio too. Repeatable."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run the workers on the Ray cluster at ADDRESS; auto: the one that runs here, local: start one.",
            show_default=False,
        ),
    ] = None,
    ray_resource: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The Ray resource that stands for a device; default: GPU.", show_default=False),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Create a study, or resume it, and run it to its number of trials.

    Ctrl-C stops it after cleaning up; press Ctrl-C twice to stop immediately. Nothing measured is lost: rerun the same command
    to resume.

    \b
    Example:
      tradeoff run
      tradeoff run study.yaml --trials 40 --set job.epochs=1
      tradeoff run --preset yelp-bert --storage sqlite:///yelp.db
      tradeoff run study.yaml --track mlflow
      tradeoff run study.yaml --ray auto --storage @storage-url
    """
    display = terminal_display()
    config = load_config(
        study_file,
        preset=preset,
        overrides=overrides or [],
        trials=trials,
        name=name,
        stop_below_gain=0.0 if train_all else None,
        track=track or None,
    )
    if ray_resource is not None and ray is None:
        raise TradeoffError("--ray-resource requires --ray ADDRESS, which was not given")

    def search() -> None:
        if ray is None:
            run_study(config, storage=storage, workers=workers, timeout_s=timeout, display=display)
        else:
            run_on_ray(
                config,
                address=ray,
                storage=storage,
                resource=ray_resource,
                workers=workers,
                timeout_s=timeout,
                display=display,
            )

    status = run_to_end(search, display.message)
    # --timeout 0 creates a study for workers to join.
    has_completed = show_end(config.name, storage, display, has_ended_well=status == 0, only_creates=timeout == 0)
    raise typer.Exit(status or int(not has_completed))


def show_end(name: str, storage: str, display: Display, *, has_ended_well: bool = True, only_creates: bool = False) -> bool:
    """Print the front of a study, what the search has saved and left untrained, and the commands that come next.

    Args:
        name: The study's name.
        storage: Where it is kept.
        display: Where to print.
        has_ended_well: Whether it ended as it should: otherwise there may be no study, and why has been said.
        only_creates: Whether no trial was to be run.

    Returns:
        True if something has completed, or nothing was to be run.

    Raises:
        TradeoffError: The study can't be read.
    """
    try:
        results = read_results(load_study(name, open_storage(storage, create=False)))
    except TradeoffError:
        if has_ended_well:
            raise
        return False
    if only_creates and not results.records:
        display.message(f"the study {name!r} is there for workers to join: tradeoff worker {shlex.quote(name)}")
        return True
    if (why := nothing_completed(results)) is not None:
        display.message(f"tradeoff: {why}")
        return False
    front = judged_front(results)
    display.show(front_table(front, title=f"Pareto front of {name}", caption=results.summary()))
    unlike_told = [str(found) for found in results.found if found.contradicts]
    told = (*busy_lines(results.records), *savings.lines(results), *unlike_told)
    for line in (*told, *predicted_lines(results), *untrained_lines(results)):
        display.message(line)
    is_named = storage not in (DEFAULT_STORAGE, os.environ.get("TRADEOFF_STORAGE"))
    option = f" --storage {shlex.quote(masked(storage))}" if is_named else ""
    code = option_for(parse_job(results.config["job"]))
    display.message("next:")
    if front.recommended:
        display.message(f"  tradeoff export {shlex.quote(name)}{option}{code} --output best   the knee as TrainingArguments")
    display.message(f"  tradeoff dashboard{option}   every trial in the browser")
    return True

"""Runs a study on this machine, with as many workers as it has cards, and `tradeoff run` and `tradeoff worker` around that."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from objectives.isolation import TrialServer
from studies import savings
from studies.annotate import Annotator, artifact_folder
from studies.config import StudyConfig
from studies.display import Display, quiet_display, terminal_display
from studies.errors import TradeoffError
from studies.front import pareto_front
from studies.interrupts import EXIT_STATUS, Interrupts
from studies.patient_storage import be_patient
from studies.preparation import prepare
from studies.results import read_results
from studies.samplers import build_sampler
from studies.search import Search, StudyFailed
from studies.storage import DEFAULT_STORAGE, load_study, masked, open_storage
from studies.study import open_study
from studies.study_file import load_config
from studies.tables import front_table

__all__ = ["StudyFailed", "run_command", "run_study", "show_end"]


def run_study(
    config: StudyConfig,
    *,
    storage: str = DEFAULT_STORAGE,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
) -> optuna.Study:
    """Creates the study of `config`, or goes on with it, and runs it to its number of trials.

    Example:
        >>> from studies.presets import embedded
        >>> study = run_study(embedded(), storage="sqlite:///tradeoff.db")  # doctest: +SKIP

    Args:
        config: The study, from a preset, a file (`studies.study_file.load_config`), or made in Python.
        storage: A database URL, or the path of a SQLite file.
        timeout_s: No trial is started after this many seconds.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept; see `studies.preparation.cache_folder`.

    Returns:
        The study, an ordinary Optuna study.

    Raises:
        TradeoffError: The study can't run as it is written.
        StudyFailed: Five trials in a row failed.
        KeyboardInterrupt: The user ended it; what was measured is stored, and the same call goes on.
    """
    display = display or quiet_display()
    interrupts = Interrupts()
    begin_s = time.monotonic()
    with interrupts.handled(), TrialServer() as server:
        ready = prepare(config, server, interrupts, display=display, cache=cache, plans=True)
        opened = open_storage(storage)
        be_patient(opened, say=display.message, stop=lambda: interrupts.requested)
        study = open_study(config, opened, ready.device)
        objective = ready.objective(display)
        assert ready.planning is not None
        ready.planning.begin(study, objective)
        study.sampler = build_sampler(
            config,
            objective,
            budget_mib=ready.budget_mib,
            baselines=ready.data["baselines"],
            num_trials=len(study.get_trials(deepcopy=False)),
        )
        annotator = Annotator(study=study, artifacts=artifact_folder(study._storage), say=display.message)
        search = Search(study, config, objective, ready.runner, display, interrupts, annotator, ready.planning)
        try:
            with display.running(study.study_name, ready.device, config):
                search.run(None if timeout_s is None else begin_s + timeout_s)
        finally:
            ready.planning.cancel()
            annotator.finish()
    return study


def run_command(
    *,
    study_file: Path | None,
    preset: str | None,
    trials: int | None,
    timeout_s: float | None,
    name: str | None,
    storage: str,
    overrides: Sequence[str],
) -> int:
    """What `tradeoff run` does: runs a study with a display, prints its front and what to do next.

    Returns:
        The exit status: 0, 1 if trial after trial failed, 130 if the user ended it.

    Raises:
        TradeoffError: The study can't run as it is written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    display = terminal_display()
    config = load_config(study_file, preset=preset, overrides=overrides, trials=trials, name=name)
    status = 0
    try:
        run_study(config, storage=storage, timeout_s=timeout_s, display=display)
    except StudyFailed as error:
        display.message(f"tradeoff: {error}")
        status = 1
    except KeyboardInterrupt:
        display.message("ended; the same command goes on")
        status = EXIT_STATUS
    show_end(config.name, storage, display)
    return status


def show_end(name: str, storage: str, display: Display) -> None:
    """Prints the front of a study, and the commands that use it."""
    try:
        results = read_results(load_study(name, open_storage(storage, create=False)))
    except TradeoffError:
        return  # ended before there was a study
    front = pareto_front(results.records, results.objectives)
    if front:
        display.show(front_table(front, results.objectives, title=f"Pareto front of {name}", caption=results.summary()))
    else:
        display.message(f"no configuration has completed yet ({results.summary()})")
        return
    for line in savings.lines(results):
        display.message(line)
    option = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(masked(storage))}"
    display.message(
        "next:\n"
        f"  tradeoff export {shlex.quote(name)}{option} --output best   the knee as TrainingArguments\n"
        f"  tradeoff dashboard{option}   every trial in the browser"
    )

"""Runs a study: prepares it once, then asks, measures and tells until the budget is spent.

What counts against `trials` are trials that were trained or ran out of memory or time. Failures don't count, but five in a row
end the study: something is wrong with the job, and more trials would not mend it.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from objectives.isolation import TrialServer
from objectives.objective import Objective, TrialFailed
from objectives.records import TrialRecord, read_record
from studies import savings
from studies.annotate import Annotator, artifact_folder
from studies.config import StudyConfig
from studies.display import Display, quiet_display, terminal_display
from studies.errors import TradeoffError
from studies.front import pareto_front
from studies.interrupts import EXIT_STATUS, Interrupts
from studies.preparation import InterruptibleRunner, prepare
from studies.results import read_results
from studies.sampler import DecoupledSampler
from studies.samplers import build_sampler
from studies.storage import DEFAULT_STORAGE, load_study, masked, open_storage
from studies.study import open_study
from studies.study_file import load_config
from studies.tables import front_table

MAX_FAILURES_IN_A_ROW = 5
# Trials that need no training, one after the other, after which a space counts as exhausted.
MAX_FREE_IN_A_ROW = 200


class StudyFailed(RuntimeError):
    """Trial after trial failed; the message holds the last error."""


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
        ready = prepare(config, server, interrupts, display=display, cache=cache)
        study = open_study(config, open_storage(storage), ready.device)
        objective = ready.objective(display)
        study.sampler = build_sampler(
            config,
            objective,
            budget_mib=ready.budget_mib,
            baseline_accuracy=ready.data["majority_share"] or 0.0,
            num_trials=len(study.get_trials(deepcopy=False)),
        )
        annotator = Annotator(study=study, artifacts=artifact_folder(study._storage))
        search = _Search(study, config, objective, ready.runner, display, interrupts, annotator)
        try:
            with display.running(study.study_name, ready.device, config):
                search.run(None if timeout_s is None else begin_s + timeout_s)
        finally:
            annotator.finish()
    return study


@dataclass
class _Search:
    """The loop over trials, and the rules by which it ends."""

    study: optuna.Study
    config: StudyConfig
    objective: Objective
    runner: InterruptibleRunner
    display: Display
    interrupts: Interrupts
    annotator: Annotator
    failures: list[str] = field(default_factory=list)
    free: int = 0

    def run(self, deadline_s: float | None) -> None:
        self.display.trials(self._records())
        while self._num_counted() < self.config.trials:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                self.display.message("the time is up; the same command goes on")
                return
            if (why := self._finished()) is not None:
                self.display.message(why)
                return
            self.study.optimize(self.objective, n_trials=1, catch=(TrialFailed,), callbacks=[self._ended])
            if len(self.failures) >= MAX_FAILURES_IN_A_ROW:
                raise StudyFailed(f"{len(self.failures)} trials in a row failed; the last one: {self.failures[-1]}")
            if self.free >= MAX_FREE_IN_A_ROW:
                self.display.message(
                    f"the sampler proposed {self.free} configurations in a row that need no trial: the space is exhausted"
                )
                return
            if self.interrupts.requested:
                raise KeyboardInterrupt

    def _ended(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        record = read_record(trial, self.config.objectives)
        if record.outcome == "failed":
            self.failures.append(record.reason)
        elif record.outcome != "skipped":  # a trial that was not run says nothing of the job
            self.failures.clear()
        # A probe is work too, though it does not count: a survey of a large space is long.
        is_free = record.outcome == "skipped" or (record.is_derived and "probe" not in record.attributes)
        self.free = self.free + 1 if is_free else 0
        self.display.trial_ended(record)
        if isinstance(study.sampler, DecoupledSampler):
            study.sampler.publish(study, ended=trial.number)
        self.annotator.trial_ended(record, log=self.runner.log)
        self.display.trials(self._records())

    def _finished(self) -> str | None:
        """Why the sampler has nothing left to propose, in a sentence, or None."""
        sampler = self.study.sampler
        if isinstance(sampler, optuna.samplers.GridSampler) and sampler.is_exhausted(self.study):
            return "every configuration of the grid has been tried"
        return sampler.finished(self.study) if isinstance(sampler, DecoupledSampler) else None

    def _records(self) -> list[TrialRecord]:
        return self.objective.learn(self.study)[0]

    def _num_counted(self) -> int:
        return sum(record.counts for record in self._records())


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

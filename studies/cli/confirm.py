"""Confirmations as a table for a person or as JSON, and the commands that confirm: `tradeoff confirm`, and an export."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna
from rich.console import Console

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.confirm import Confirmation, confirm_stored, measured_by, to_confirm
from tradeoff.studies.execution.display import Display, PlainDisplay
from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.execution.preparation import OtherDeviceError
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Choice, Selection, choose
from tradeoff.studies.results.tables import short_configuration
from tradeoff.studies.storage.opening import load_study, open_storage

if TYPE_CHECKING:
    from rich.table import Table


def confirm_command(name: str | None, storage: str, *, trial: int | None, as_json: bool) -> int:
    """What `tradeoff confirm` does: progress goes to the error stream, the result to the output.

    Args:
        name: The study; None for the latest one.
        storage: Where it is kept.
        trial: The trial to confirm; None for all of the front that is derived.
        as_json: Print JSON instead of a table.

    Returns:
        The exit status: 0, 1 if a confirmation failed with a real error, 130 if the user ended it.

    Raises:
        TradeoffError: There is no such trial, or the study can't be run here.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    display = PlainDisplay(Console(stderr=True))
    study = load_study(name, open_storage(storage, create=False))
    results = read_results(study)
    numbers = to_confirm(results, trial)
    if not numbers:
        display.message(_nothing_to_confirm(results, trial))
        if as_json:
            print("[]")
        return 0
    done: list[Confirmation] = []
    status = 0
    try:
        confirm_stored(study, numbers, display=display, on_end=done.append)
    except KeyboardInterrupt:
        display.message("ended; the same command confirms the rest")
        status = EXIT_STATUS
    if as_json:
        print(confirmations_as_json(done, results.objectives))
    elif done:
        console = Console()
        (console if console.is_terminal else Console(width=200)).print(confirmations_table(done, results.objectives))
    if trial is None and not status and (left := len(to_confirm(read_results(study)))):
        display.message(f"the measured values have changed the front: {left} of it {'is' if left == 1 else 'are'} derived")
    if any(each.measured.outcome == "failed" for each in done):
        return status or 1
    return status


def confirm_choice(
    results: StudyResults, choice: Choice, selection: Selection, *, storage: str, display: Display | None = None
) -> tuple[StudyResults, Choice]:
    """Confirms a choice that is derived, and chooses again until what is chosen was measured.

    Args:
        results: The study.
        choice: What was chosen from it.
        selection: How it was chosen.
        storage: Where it is kept.
        display: Where progress is shown; the error stream by default.

    Returns:
        The study with its confirmations, and the choice. On another machine than the study's both are as they were.

    Raises:
        TradeoffError: The configuration does not run, or nothing is left to choose.
        KeyboardInterrupt: The user ended it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    display = display or PlainDisplay(Console(stderr=True))
    study = load_study(results.name, open_storage(storage, create=False))
    while choice.record.is_derived:
        number = choice.record.number
        if (measured := measured_by(results, choice.record)) is None:
            display.message(
                f"trial {number} ({short_configuration(choice.record.params)}) is derived, and is trained now to confirm it;"
                " --no-confirm exports it as it is"
            )
            try:
                (confirmation,) = confirm_stored(study, [number], display=display)
            except OtherDeviceError as error:
                display.message(f"{error}: trial {number} is not confirmed, and its values are marked as derived")
                return results, choice
            measured = confirmation.measured
            results = read_results(study)
        if measured.outcome not in ("completed", "out_of_memory"):
            raise TradeoffError(
                f"trial {number} can't be confirmed, its training {measured.outcome or 'has not ended'}: {measured.reason};"
                " --no-confirm exports it as it is"
            )
        if selection.trial is None:
            # The measured values may have moved the front, and the limits hold for them.
            choice = choose(results, selection)
        elif measured.outcome == "completed":
            choice = choose(results, _for_trial(selection, measured.number))
            choice = Choice(record=choice.record, why=f"confirms trial {number}, which was {choice.why}")
        else:
            raise TradeoffError(f"trial {number} does not fit, as trial {measured.number} has found; choose another one")
    return results, choice


def confirmations_table(confirmations: Sequence[Confirmation], objectives: Sequence[str]) -> "Table":
    """A row for each configuration: every objective as claimed, as measured, and how far apart."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Claimed -> measured (difference)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )  # fmt: skip
    table.add_column("trial", justify="right")
    table.add_column("confirmed by", justify="right")
    table.add_column("batch x accumulation")
    for name in objectives:
        table.add_column(GOALS[name].short_heading, justify="right")
    table.add_column("")
    for each in confirmations:
        cells = [str(each.claimed.number), str(each.measured.number), short_configuration(each.claimed.params)]
        cells += [_side_by_side(each, name) for name in objectives]
        cells.append("" if each.confirmed else (each.measured.outcome or "running").replace("_", " "))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def confirmations_as_json(confirmations: Sequence[Confirmation], objectives: Sequence[str]) -> str:
    """A list of objects: `trial`, `confirmed_by`, `outcome`, and each objective `claimed`, `measured` and its `difference`."""
    return json.dumps([each.as_dict(objectives) for each in confirmations], indent=2)


def _nothing_to_confirm(results: StudyResults, trial: int | None) -> str:
    if trial is None:
        return f"nothing to confirm: no configuration of the front of {results.name!r} is derived ({results.summary()})"
    record = results.record(trial)
    assert record is not None
    measured = measured_by(results, record)
    if measured is None or measured.number == trial:
        return f"nothing to confirm: trial {trial} was trained itself"
    return f"nothing to confirm: trial {measured.number} has measured the configuration of trial {trial}"


def _side_by_side(confirmation: Confirmation, name: str) -> str:
    goal = GOALS[name]
    claimed = goal.show(confirmation.claimed.values[name])
    if name not in confirmation.measured.values:
        return f"{claimed} -> none"
    both = f"{claimed} -> {goal.show(confirmation.measured.values[name])}"
    if (difference := confirmation.difference(name)) is None:
        return both
    return f"{both} ({difference:+.3f})" if goal.direction == "maximize" else f"{both} ({difference:+.1%})"


def _for_trial(selection: Selection, number: int) -> Selection:
    return Selection(limits=selection.limits, trial=number)

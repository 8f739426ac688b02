"""`tradeoff confirm`: trains what a study derived; an export of a derived configuration does the same first."""

import json
from collections.abc import Sequence
from typing import Annotated

import optuna
import typer

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.cli.options import (
    Build,
    OwnStudyFile,
    StorageUrl,
    StudyName,
    TableOrJson,
    TrustRemoteCode,
    code_and_study,
)
from tradeoff.studies.config.stored import NO_CODE, AllowedCode
from tradeoff.studies.errors import OtherDeviceError, TradeoffError
from tradeoff.studies.execution.confirm import Confirmation, confirm_stored, measured_by, to_confirm
from tradeoff.studies.execution.display import Display, PlainDisplay, print_result, standard_console
from tradeoff.studies.execution.interrupts import run_to_end
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Choice, Selection, choose
from tradeoff.studies.results.tables import short_configuration
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def confirm(
    name: StudyName = None,
    trial: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The trial; default: every derived trial of the front.", show_default=False),
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output_format: TableOrJson = "table",
    build: Build = None,
    trust_remote_code: TrustRemoteCode = False,
    study_file: OwnStudyFile = None,
) -> None:
    """Train configurations whose values the study derived, and show expected and measured values side by side.

    Each confirmation is a trial of the study. From then on the front holds the measured values, and a configuration that turns
    out not to fit is no longer on it. This needs the device that the study was measured on.

    \b
    Example:
      tradeoff confirm
      tradeoff confirm my-study --trial 12
    """
    as_json, display = output_format == "json", PlainDisplay(standard_console(stderr=True))
    allowed, name = code_and_study(build, trust_remote_code, study_file, name=name)
    study = load_study(name, open_storage(storage, create=False))
    results = read_results(study)
    claims = to_confirm(results, trial)
    if not claims:
        display.message(_nothing_to_confirm(results, trial))
        if as_json:
            print("[]")
        return
    done: list[Confirmation] = []
    status = run_to_end(
        lambda: confirm_stored(study, claims, display=display, on_end=done.append, allowed=allowed),
        display.message,
        interrupted="stopped; rerun the same command to confirm the rest",
    )
    if as_json:
        print(confirmations_as_json(done, results.objectives))
    elif done:
        print_result(confirmations_table(done, results.objectives))
    if trial is None and not status and (left := len(to_confirm(read_results(study)))):
        display.message(f"the measured values have changed the front: {left} of it {'is' if left == 1 else 'are'} derived")
    if not status and (why := _none_confirmed(done)) is not None:
        display.message(f"tradeoff: {why}")
        status = 1
    raise typer.Exit(status or int(any(each.measured.outcome == "failed" for each in done)))


def confirm_choice(
    results: StudyResults,
    choice: Choice,
    selection: Selection,
    *,
    storage: str,
    display: Display | None = None,
    allowed: AllowedCode = NO_CODE,
) -> tuple[StudyResults, Choice]:
    """Confirm a derived choice, and choose again, until the choice is a measured trial.

    Args:
        results: The study.
        choice: The trial chosen from it.
        selection: How it was chosen.
        storage: Where the study is kept.
        display: Where progress is shown; default: the error stream.
        allowed: The code that the stored study may run.

    Returns:
        The study with its confirmations, and the choice. Both are unchanged on a machine with another device.

    Raises:
        TradeoffError: The configuration does not run, or nothing is left to choose.
        KeyboardInterrupt: The user stopped it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    display = display or PlainDisplay(standard_console(stderr=True))
    study = load_study(results.name, open_storage(storage, create=False))
    while choice.record.is_derived:
        title = choice.record.title if choice.record.number >= 0 else "the choice"
        if (measured := measured_by(results, choice.record)) is None:
            display.message(
                f"the values of {title} ({short_configuration(choice.record.params)}) are derived: training it now to"
                " confirm them; --no-confirm exports it unmeasured"
            )
            try:
                (confirmation,) = confirm_stored(study, [choice.record], display=display, allowed=allowed)
            except OtherDeviceError as error:
                display.message(f"{error}: {title} is not confirmed, and its values are marked as derived")
                return results, choice
            measured = confirmation.measured
            results = read_results(study)
        if measured.outcome not in ("completed", "out_of_memory"):
            raise TradeoffError(
                f"{title} can't be confirmed: its training {measured.outcome or 'has not ended'}: {measured.reason};"
                " --no-confirm exports it unmeasured"
            )
        if selection.trial is None:
            # The measured values may have moved the front, and the limits hold for them.
            choice = choose(results, selection)
        elif measured.outcome == "completed":
            choice = choose(results, _for_trial(selection, measured.number))
            choice = Choice(record=choice.record, why=f"confirms {title}, which was {choice.why}")
        else:
            raise TradeoffError(f"{title} does not fit: trial {measured.number} ran out of memory; choose another one")
    return results, choice


def confirmations_table(confirmations: Sequence[Confirmation], objectives: Sequence[str]) -> FittedTable:
    """Return a row for each configuration: every objective as expected, as measured, and the difference."""
    head = ["trial", "confirmed by", "batch x accumulation", *(GOALS[name].short_heading for name in objectives), ""]
    rows = [
        [
            each.claimed.shown_number,
            str(each.measured.number),
            short_configuration(each.claimed.params),
            *(_side_by_side(each, name) for name in objectives),
            "" if each.confirmed else (each.measured.outcome or "running").replace("_", " "),
        ]
        for each in confirmations
    ]
    return FittedTable(
        head=head, rows=rows, left=["batch x accumulation"], title="Expected -> measured (measured minus expected)"
    )


def confirmations_as_json(confirmations: Sequence[Confirmation], objectives: Sequence[str]) -> str:
    """Return a list of objects: `trial`, `confirmed_by`, `outcome`, and `claimed`, `measured`, `difference` by objective."""
    return json.dumps([each.as_dict(objectives) for each in confirmations], indent=2)


def _none_confirmed(done: Sequence[Confirmation]) -> str | None:
    """Return why no training has completed, by the last one, in a sentence; None if one has, or nothing was trained."""
    if not done or any(each.measured.outcome == "completed" for each in done):
        return None
    last = done[-1].measured
    return (
        f"no configuration was confirmed; the last training, trial {last.number}, ended as"
        f" {(last.outcome or 'running').replace('_', ' ')}: {last.reason}; choose another one of `tradeoff front`"
    )


def _nothing_to_confirm(results: StudyResults, trial: int | None) -> str:
    if trial is None:
        return f"nothing to confirm: no configuration of the front of {results.name!r} is derived ({results.summary()})"
    record = results.trial(trial)
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
    expected = confirmation.claimed.values[name]
    if goal.learned or not expected:
        return f"{both} ({'+' if difference >= 0 else ''}{goal.show(difference)})"
    return f"{both} ({difference / expected:+.1%})"


def _for_trial(selection: Selection, number: int) -> Selection:
    return Selection(limits=selection.limits, trial=number)

"""The commands that measure for a study besides its search: `tradeoff fit` and `tradeoff confirm`."""

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tradeoff.studies.cli.options import StorageUrl, StudyName
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import DEFAULT_STORAGE


class ResultFormat(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


ResultFormatOption = Annotated[ResultFormat, typer.Option("--format", help="How it is printed.")]


def fit(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="The study file; without one, a preset.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(metavar="PRESET", help="A preset's name.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the study file. Repeatable.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit-mib",
            min=1,
            metavar="MIB",
            help="The memory budget; else the study's, or the device's.",
            show_default=False,
        ),
    ] = None,
    output_format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Find the largest batch that fits, exactly, for each checkpointing and precision, with and without accumulation.

    Every batch is tried with the real Trainer on the longest sequences, in a process of its own; a few probes find the last one
    that fits, and show that the next one does not. The space's own batch sizes don't count.

    \b
    Example:
      tradeoff fit
      tradeoff fit study.yaml --limit-mib 8192
      tradeoff fit --preset yelp-bert --set space.precision=bf16 --format json
    """
    from tradeoff.studies.cli.fit import fit_command

    gc.enable()
    code = fit_command(
        study_file=study_file,
        preset=preset,
        overrides=overrides or [],
        limit_mib=limit,
        as_json=output_format is ResultFormat.JSON,
    )
    raise typer.Exit(code)


def confirm(
    name: StudyName = None,
    trial: Annotated[int | None, typer.Option(min=0, metavar="N", help="Confirm this trial.", show_default=False)] = None,
    front: Annotated[bool, typer.Option("--front", help="Confirm all of the front that is derived; the default.")] = False,
    storage: StorageUrl = DEFAULT_STORAGE,
    output_format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Train for real what the study derived, and show claimed and measured values side by side.

    Each confirmation is a trial of the study; from then on the front has the measured values, and what does not fit after all
    is off it. It runs on the device that the study was measured on.

    \b
    Example:
      tradeoff confirm
      tradeoff confirm my-study --trial 12
    """
    if front and trial is not None:
        raise TradeoffError("choose in one way: --front and --trial exclude each other")
    from tradeoff.studies.cli.confirm import confirm_command

    gc.enable()
    raise typer.Exit(confirm_command(name, storage, trial=trial, as_json=output_format is ResultFormat.JSON))

"""The command `tradeoff plan`."""

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TABLE = "table"
    JSON = "json"


class Attention(StrEnum):
    """How attention is computed."""

    EAGER = "eager"
    SDPA = "sdpa"


def plan(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="The study file; without one, a preset.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(metavar="PRESET", help="A preset's name.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the study file. Repeatable.")
    ] = None,
    device_memory: Annotated[
        float | None, typer.Option(min=1, metavar="MIB", help="The card's memory; else the study's limit.", show_default=False)
    ] = None,
    context_memory: Annotated[
        float | None, typer.Option(min=0, metavar="MIB", help="What the CUDA context takes.", show_default=False)
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens; else the job's max_length.", show_default=False)
    ] = None,
    attention: Annotated[Attention | None, typer.Option(help="Else what transformers chooses.", show_default=False)] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="As TrainingArguments.optim; else the job's.", show_default=False)
    ] = None,
    foreach: Annotated[bool, typer.Option(help="Update all parameters at once, torch's default on a card.")] = True,
    devices: Annotated[bool, typer.Option("--devices", help="Show what fits on each known card.")] = False,
    frontier: Annotated[bool, typer.Option("--frontier", help="Show only the largest batches that fit.")] = False,
    output_format: Annotated[PlanFormat, typer.Option("--format", help="How it is printed.")] = PlanFormat.TABLE,
) -> None:
    """Predict the peak GPU memory of a study's configurations, with no GPU and no weights.

    \b
    Example:
      tradeoff plan study.yaml --device-memory 24564
      tradeoff plan --preset yelp-bert --devices
      tradeoff plan study.yaml --device-memory 8192 --frontier --format json
    """
    from tradeoff.studies.cli.plan import plan_command

    gc.enable()
    plan_command(
        study_file=study_file,
        preset=preset,
        overrides=overrides or [],
        device_memory_mib=device_memory,
        context_memory_mib=context_memory,
        sequence_length=sequence_length,
        attention=attention.value if attention is not None else None,
        optimizer=optimizer,
        foreach=foreach,
        devices=devices,
        frontier=frontier,
        output_format=output_format.value,
    )

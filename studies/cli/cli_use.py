"""The commands that use what a study found again: `tradeoff train`, `compare` and `sweep`."""

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tradeoff.studies.cli.options import StorageUrl
from tradeoff.studies.storage.opening import DEFAULT_STORAGE, open_storage


class CompareFormat(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    JSON = "json"


class SweepFormat(StrEnum):
    """How a sweep is printed."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"


class SweepJob(StrEnum):
    """What a preset's grid is run on."""

    PRESET = "preset"
    EMBEDDED = "embedded"


def train(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `tradeoff export` wrote.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="The model's folder.", show_default=False)
    ],
    train_samples: Annotated[
        str, typer.Option(metavar="N", help="all that the data has, as many as the study, or a number.")
    ] = "all",
) -> None:
    """Train an exported configuration on all of its data, and save the model beside what was promised.

    After Ctrl-C or a kill the same command goes on from the last checkpoint. results.json holds the measured accuracy, time and
    memory next to the study's. Generated reviews have no end: all of them are as many as in the study.

    \b
    Example:
      tradeoff train chosen --output model
      tradeoff train chosen --train-samples 50000 --output model
    """
    from tradeoff.studies.export.train import train_command

    gc.enable()
    raise typer.Exit(train_command(folder, output, train_samples=train_samples))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A trial's number or a study's name.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The trials' study; the latest one by default.", show_default=False)
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output_format: Annotated[CompareFormat, typer.Option("--format", help="How it is printed.")] = CompareFormat.TABLE,
) -> None:
    """Show two trials of a study, or two studies, side by side: what differs, by how much, and which front is better.

    \b
    Example:
      tradeoff compare 3 7 --study my-study
      tradeoff compare yelp-a100 yelp-t4
    """
    from tradeoff.studies.cli import compare as compare_output

    comparison = compare_output.compare(a, b, open_storage(storage, create=False), study=study)
    if output_format is CompareFormat.JSON:
        print(compare_output.as_json(comparison))
    else:
        from rich.console import Console

        console = Console()
        (console if console.is_terminal else Console(width=200)).print(compare_output.as_table(comparison))


def sweep(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="A study file; its whole grid is run.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="lecture-batch-size, lecture-accumulation, lecture-yelp or lecture-checkpointing.",
            show_default=False,
        ),
    ] = None,
    job: Annotated[
        SweepJob, typer.Option(help="The preset's own job, or the embedded one, which needs neither a GPU nor a network.")
    ] = SweepJob.PRESET,
    output_format: Annotated[SweepFormat, typer.Option("--format", help="How it is printed.")] = SweepFormat.TABLE,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study's name; sweep-PRESET by default.", show_default=False)
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the study file. Repeatable.")
    ] = None,
) -> None:
    """Run every configuration of a grid, and print time, samples/s, memory, loss and accuracy of each.

    The presets are tables of a published lecture, whose figures stand beside the measured ones. A sweep is a study of its own:
    the same command goes on with it, and front, export and compare work on it.

    \b
    Example:
      tradeoff sweep --preset lecture-batch-size
      tradeoff sweep --preset lecture-accumulation --job embedded --format markdown
      tradeoff sweep study.yaml --set space.precision=fp32 --format csv
    """
    from tradeoff.studies.cli.sweep import run_sweep

    gc.enable()
    code = run_sweep(
        study_file,
        preset=preset,
        embedded=job is SweepJob.EMBEDDED,
        output_format=output_format.value,
        storage=storage,
        name=name,
        overrides=list(overrides or ()),
    )
    raise typer.Exit(code)

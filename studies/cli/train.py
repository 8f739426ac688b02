"""`tradeoff train`: trains an exported configuration."""

from pathlib import Path
from typing import Annotated

import typer

from tradeoff.studies.export.train import train_command


def train(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory that `tradeoff export` wrote.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="The directory for the model.", show_default=False)
    ],
    train_samples: Annotated[
        str, typer.Option(metavar="N", help="How many training samples: all, study for as many as the study, or a number.")
    ] = "all",
) -> None:
    """Train an exported configuration on all of its data, and save the model beside expected and measured values.

    After Ctrl-C or a kill, rerun the same command to resume from the last checkpoint. results.json holds the measured accuracy,
    time and memory beside the study's. Generated reviews are endless: all of them means as many as in the study.

    \b
    Example:
      tradeoff train chosen --output model
      tradeoff train chosen --train-samples 50000 --output model
    """
    raise typer.Exit(train_command(directory, output, train_samples=train_samples))

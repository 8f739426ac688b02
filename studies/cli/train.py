"""`tradeoff train`: trains an exported configuration."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from tradeoff.objectives.measurements.goals import GOALS, learned_value
from tradeoff.studies.cli.options import Build, OwnStudyFile, TrustRemoteCode, code_and_study
from tradeoff.studies.execution.display import PlainDisplay, standard_console
from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.export.expected import comparison_lines
from tradeoff.studies.export.train import RESULTS, train_export

_PLAIN_INTERVAL_S = 10.0
_STAGES = {"probe": "measuring memory on the longest samples", "train": "training"}


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
    merge: Annotated[
        bool, typer.Option("--merge", help="Add the trained adapters to the weights of their model, and keep that alone.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Upload the model to this repository of the Hugging Face Hub.", show_default=False),
    ] = None,
    build: Build = None,
    trust_remote_code: TrustRemoteCode = False,
    study_file: OwnStudyFile = None,
) -> None:
    """Train an exported configuration on all of its data, and save the model beside expected and measured values.

    After Ctrl-C or a kill, rerun the same command to resume from the last checkpoint. results.json holds what was
    measured beside the study's values. Generated samples are endless: all of them means as many as in the study.

    \b
    Example:
      tradeoff train chosen --output model
      tradeoff train chosen --train-samples 50000 --output model
      tradeoff train chosen --merge --output model
      tradeoff train chosen --output model --push ada/reviews
      tradeoff train chosen --build stars:build --output model
    """
    allowed, _ = code_and_study(build, trust_remote_code, study_file)
    console = standard_console()  # this very stream: a library's own lines are redirected elsewhere
    say = PlainDisplay(console).message
    # Names that the libraries are about to change are nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    try:
        with _progress(console, say) as on_progress:
            results = train_export(
                directory,
                output,
                train_samples=train_samples,
                say=say,
                on_progress=on_progress,
                allowed=allowed,
                merge=merge,
                repo=push,
            )
    except KeyboardInterrupt:
        say("ended; rerun the same command to resume from the last checkpoint")
        raise typer.Exit(EXIT_STATUS) from None
    for line in comparison_lines(results):
        say(line)
    say(f"model, tokenizer and {RESULTS} are in {output}")


@contextmanager
def _progress(console: Console, say: Callable[[str], None]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show progress: a bar on a terminal, a line now and then elsewhere; stages and evaluations are lines in both."""
    # The bar has the room that the numbers leave.
    shrinking = BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=40))
    columns = (TextColumn("{task.description}"), shrinking, MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True, expand=True)
    try:
        task = bar.add_task("steps", total=None, visible=False)
        last_line_s = time.monotonic()

        def show(event: Mapping[str, Any]) -> None:
            nonlocal last_line_s
            if "evaluation" in event:
                learned = [
                    f"{goal.label} {goal.show(value)}"
                    for goal in GOALS.values()
                    if goal.learned and (value := learned_value(event["evaluation"], goal.name)) is not None
                ]
                say(f"epoch {event['evaluation'].epoch:g}: {' '.join(learned)}")
            elif "notice" in event:
                say(event["notice"])
            elif "step" not in event:
                say(_STAGES.get(event["stage"], event["stage"]))
            elif console.is_terminal:
                bar.start()  # not before there are steps: until the data is prepared there is no other thread (`forked`)
                bar.update(task, completed=event["step"], total=event["total"], visible=True)
            elif time.monotonic() - last_line_s >= _PLAIN_INTERVAL_S:
                last_line_s = time.monotonic()
                say(f"step {event['step']} of {event['total']}")

        yield show
    finally:
        bar.stop()

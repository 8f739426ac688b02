"""The command `tradeoff`.

Each command is a module of this package that holds a function of the same name, and is imported when it is used: `--help` and
`front` have to answer at once. A `TradeoffError` is the user's to fix and becomes one sentence with exit code 2; every other
exception is a bug and keeps its traceback.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tradeoff.studies.environment import tradeoff_version
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import EXIT_STATUS, take_signals_for_ctrl_c
from tradeoff.studies.execution.output import StandardStreams

COMMANDS = {
    "run": "Create a study, or resume it, and run it to its number of trials.",
    "worker": "Work on an existing study beside other workers until it is complete.",
    "front": "Show the Pareto front of a study, or choose one configuration of it.",
    "export": "Write a configuration of the front as files to train with.",
    "dashboard": "Serve optuna-dashboard with the studies of a storage.",
    "report": "Write a study's plots and tables as an HTML page or as Markdown.",
    "confirm": "Train derived configurations, and compare expected with measured values.",
    "fit": "Find the largest batch that fits by probing it.",
    "plan": "Estimate the peak GPU memory of a study's configurations without a GPU.",
    "sweep": "Run every configuration of a grid, and tabulate what each measured.",
    "compare": "Compare two trials of a study, or two studies.",
    "train": "Train an exported configuration on all of its data.",
}
# Plain help keeps the lines of the examples as they are, and needs no rich.
_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}


class _Commands(TyperGroup):
    """The commands, each imported when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command = typer.Typer(**_PLAIN)
        command.command(cmd_name)(getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name))
        return typer.main.get_command(command)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_Commands,
    name="tradeoff",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    **_PLAIN,
)


def main() -> None:
    """Run the command that the program's arguments name."""
    streams = StandardStreams()
    take_signals_for_ctrl_c()
    sentence = None
    try:
        _check_directory()
        status = app()
    except TradeoffError as error:
        status, sentence = 2, str(error)
    except SystemExit as ended:  # typer's only way to return
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:  # before typer could see it
        status = EXIT_STATUS
    sys.exit(streams.end(status, sentence))


def _check_directory() -> None:
    """Refuse to work in a directory that was deleted: relative paths, and some libraries, need one.

    Raises:
        TradeoffError: It was.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise TradeoffError("the working directory has been deleted; change to one that exists: cd DIRECTORY") from error


def _show_version(value: bool) -> None:
    if value:
        print(f"tradeoff {tradeoff_version()}")
        raise typer.Exit


@app.callback()
def tradeoff(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search batch size, gradient accumulation, checkpointing and precision jointly; see accuracy against time against memory.

    \b
    Example:
      tradeoff run
      tradeoff front
      tradeoff export --knee --output chosen
    """


if __name__ == "__main__":
    main()

"""`tradeoff dashboard`: serves optuna-dashboard with the studies of a storage."""

import sys
from typing import Annotated

import typer

from tradeoff.studies.cli.options import StorageUrl
from tradeoff.studies.execution.output import say
from tradeoff.studies.reporting.dashboard import serve
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def dashboard(
    storage: StorageUrl = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="The port; 0 for any free one.")] = 8080,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="Accept connections from other machines, which can then change and delete studies."
        ),
    ] = False,
) -> None:
    """Serve optuna-dashboard with a storage's studies, their notes, plots and files, until Ctrl-C.

    \b
    Example:
      tradeoff dashboard
      tradeoff dashboard --storage sqlite:///yelp.db --port 0
    """
    opened = open_storage(storage, create=False)
    load_study(None, opened)  # an empty storage is an error here rather than an empty page
    if allow_remote:
        say(f"tradeoff: whoever reaches port {port} of {host} can read, change and delete the studies", file=sys.stderr)
    serve(
        opened,
        host=host,
        port=port,
        allow_remote=allow_remote,
        announce=lambda url: say(f"Dashboard at {url} (press Ctrl-C to stop)"),
        warn=lambda sentence: say(f"tradeoff: {sentence}", file=sys.stderr),
    )

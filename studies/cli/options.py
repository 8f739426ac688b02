"""The options that several commands share, and how they are read together."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from tradeoff.studies.config.stored import AllowedCode
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.execution.output import say
from tradeoff.studies.results.criteria import Limit, Within, parse_weights
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import is_loopback, storage_url


def _say_if_open(storage: str) -> str:
    """Warn of a gRPC proxy that is not on this machine, and return the storage as it was given."""
    if storage.startswith(("grpc:", "@")):
        url = storage_url(storage)
        if url.startswith("grpc:") and not is_loopback(urlsplit(url).hostname or ""):
            say(
                f"tradeoff: {url} is not on this machine, and a gRPC proxy has neither a password nor encryption: whoever"
                " reaches its port can read, forge and delete every study; keep it within a private network",
                file=sys.stderr,
            )
    return storage


StudyFile = Annotated[
    Path | None,
    typer.Argument(metavar="STUDY.yaml", help="The study file; without one, a preset is used.", show_default=False),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="PRESET", help="embedded (the default), yelp-bert or dummy-bert.", show_default=False),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the study file. Repeatable.")
]
StudyName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The study; default: the one created last.", show_default=False)
]
StorageUrl = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="TRADEOFF_STORAGE",
        metavar="URL",
        callback=_say_if_open,
        help="A SQLite file, a PostgreSQL or MySQL URL, grpc://HOST:PORT, or @FILE for a file that holds one of these. A"
        " password in a file or in the environment variable does not show in the list of processes.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=10_000, metavar="N", help="Trials to run at a time; default: one per visible GPU, one on a CPU."
    ),
]


def _seconds(text: str) -> float:
    """Return a finite number of seconds, of at least 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise typer.BadParameter(f"it must be a finite number of seconds, at least 0, got {text!r}")
    return seconds


Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=_seconds,
        metavar="SECONDS",
        help="Start no trial after this many seconds, and prepare no longer.",
        show_default=False,
    ),
]
Build = Annotated[
    str | None,
    typer.Option(
        metavar="[DIR/]MODULE:FUNCTION",
        help="Let it call this function of your own, if job.build names it; default directory: the working directory.",
        show_default=False,
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let it run code that comes with its model or data set from the Hub.")
]
OwnStudyFile = Annotated[
    Path | None,
    typer.Option(
        "--study-file",
        metavar="STUDY.yaml",
        help="Let it run the code that this study file names, and use its study by default.",
        show_default=False,
    ),
]
TableOrJson = Annotated[Literal["table", "json"], typer.Option("--format", help="Print a table, or JSON.")]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="LIMIT",
        help='Keep only trials that satisfy LIMIT, such as "peak_memory_mib<=7000". Repeatable.',
    ),
]
Withins = Annotated[
    list[str] | None,
    typer.Option(
        "--within",
        metavar="OBJECTIVE:DISTANCE",
        help="Keep only trials this close to the best: accuracy:0.005, train_time_s:10%. Repeatable.",
    ),
]
Trial = Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Choose trial N.", show_default=False)]
Knee = Annotated[bool, typer.Option("--knee", help="Choose the knee: the trial closest to the best of every objective.")]
Maximize = Annotated[
    str | None, typer.Option("--maximize", metavar="METRIC", help="Choose the largest METRIC.", show_default=False)
]
Minimize = Annotated[
    str | None, typer.Option("--minimize", metavar="METRIC", help="Choose the smallest METRIC.", show_default=False)
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="OBJECTIVE:NUMBER",
        help="Choose the knee with weighted objectives; an objective that is not named has weight 1. Repeatable.",
    ),
]


def code_and_study(
    build: str | None, trust_remote_code: bool, study_file: Path | None, *, name: str | None = None
) -> tuple[AllowedCode, str | None]:
    """Return the code that the options let a stored study run, and the name of the study to use.

    Args:
        build: A function that may be called.
        trust_remote_code: Whether code from the Hub may run.
        study_file: A study file of the user's own, whose code may run.
        name: The study's name as given; by default that of the study file, or None for the study created last.

    Raises:
        TradeoffError: The study file can't be used.
    """
    own = None if study_file is None else load_config(study_file)
    allowed = AllowedCode(build=build, trust_remote_code=trust_remote_code)
    if own is not None:
        allowed = replace(allowed, job=own.job, space=own.search_space())
    return allowed, own.name if name is None and own is not None else name


def selection_of(
    *,
    limit: list[str] | None,
    within: list[str] | None,
    trial: int | None,
    knee: bool,
    maximize: str | None,
    minimize: str | None,
    weight: list[str] | None,
) -> Selection:
    """Return the selection that the options describe.

    Raises:
        TradeoffError: An option can't be parsed, or two exclude each other.
    """
    return Selection(
        limits=tuple(Limit.parse(text) for text in limit or ()),
        within=tuple(Within.parse(text) for text in within or ()),
        trial=trial,
        knee=knee,
        maximize=maximize,
        minimize=minimize,
        weights=parse_weights(weight or ()),
    )


def results_of(name: str | None, storage: str) -> StudyResults:
    """Return the results of a stored study; of the one created last without a name.

    Raises:
        TradeoffError: There is no such study or storage.
    """
    return read_results(load_study(name, open_storage(storage, create=False)))

"""The options that several commands of `tradeoff` share, and what they mean together."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tradeoff.studies.results.selection import Selection


class Format(StrEnum):
    """How a front is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"


StudyName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The study; the latest one by default.", show_default=False)
]
StorageUrl = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="TRADEOFF_STORAGE",
        metavar="URL",
        help="A SQLite file, a PostgreSQL or MySQL URL, grpc://HOST:PORT, or @FILE that holds one: there, and in the variable,"
        " a password is in no list of processes.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, metavar="N", help="Trials that run at a time: one per visible GPU by default, one on a CPU."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run the workers on a Ray cluster: its address, auto for the one here, local for one of its own.",
        show_default=False,
    ),
]
RayResource = Annotated[
    str | None,
    typer.Option(
        "--ray-resource", metavar="NAME", help="The Ray resource that stands for devices; GPU by default.", show_default=False
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Start no trial after this time.", show_default=False)
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="LIMIT", help='Only what keeps it, such as "peak_memory_mib<=7000". Repeatable.'),
]
Withins = Annotated[
    list[str] | None,
    typer.Option(
        "--within", metavar="OBJECTIVE:DISTANCE", help="Only what is this close to the best: accuracy:0.005, train_time_s:10%."
    ),
]
Trial = Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Choose this trial.", show_default=False)]
Knee = Annotated[bool, typer.Option("--knee", help="Choose the knee: the nearest to the best of everything at once.")]
Maximize = Annotated[str | None, typer.Option("--maximize", metavar="METRIC", help="Choose the largest.", show_default=False)]
Minimize = Annotated[str | None, typer.Option("--minimize", metavar="METRIC", help="Choose the smallest.", show_default=False)]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="OBJECTIVE:NUMBER", help="Choose the knee with such weights; 1 if not named. Repeatable."),
]


def selection(
    limit: list[str] | None,
    within: list[str] | None,
    trial: int | None,
    knee: bool,
    maximize: str | None,
    minimize: str | None,
    weight: list[str] | None,
) -> "Selection":
    """The selection that the options describe.

    Raises:
        TradeoffError: One can't be read, or two exclude each other.
    """
    from tradeoff.studies.results.criteria import Limit, Within, parse_weights
    from tradeoff.studies.results.selection import Selection

    return Selection(
        limits=tuple(Limit.parse(text) for text in limit or ()),
        within=tuple(Within.parse(text) for text in within or ()),
        trial=trial,
        knee=knee,
        maximize=maximize,
        minimize=minimize,
        weights=parse_weights(weight or ()),
    )

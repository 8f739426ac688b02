"""`tradeoff report`: writes a study's plots and tables."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tradeoff.studies.cli.options import StorageUrl, StudyName, results_of
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.output import say
from tradeoff.studies.reporting.report import check_report, html_report, markdown_report, write_report
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def report(
    name: StudyName = None,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="A second study, whose front is shown beside the first.", show_default=False),
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write, Markdown if it ends in .md; default: report.html, and standard output for Markdown.",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        Literal["html", "md"] | None,
        typer.Option("--format", help="Write an HTML page, or Markdown; default: by the file's ending.", show_default=False),
    ] = None,
) -> None:
    """Write a study's plots and tables as one HTML file that needs no network, or its tables as Markdown.

    \b
    Example:
      tradeoff report --output report.html
      tradeoff report yelp-small yelp-base
      tradeoff report my-study --output report.md
      tradeoff report my-study --format md
    """
    if output_format is None:
        output_format = "md" if output is not None and output.suffix.lower() in (".md", ".markdown") else "html"
    if other is not None and output_format == "md":
        raise TradeoffError(
            f"Markdown is of one study; `tradeoff compare {name} {other}` prints a table of two, or leave {other} out"
        )
    if output is None and output_format == "md":
        print(markdown_report(results_of(name, storage)), end="")
        return
    output = output or Path("report.html")
    check_report(output)
    results = results_of(name, storage)
    beside = None if other is None else results_of(other, storage)
    write_report(html_report(results, beside) if output_format == "html" else markdown_report(results), output)
    say(f"Report of {results.name}{f' and {other}' * (other is not None)}: {output}")

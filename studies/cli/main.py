"""The command `tradeoff`.

Nothing heavy is imported until a command needs it: `--help` and `front` have to answer at once. A `TradeoffError` is the
user's to fix and becomes one sentence with exit code 2; every other exception is ours and keeps its traceback.
"""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradeoff.studies.cli.cli_measure import confirm, fit
from tradeoff.studies.cli.cli_plan import plan
from tradeoff.studies.cli.cli_use import compare, sweep, train
from tradeoff.studies.cli.options import (
    Format,
    Knee,
    Limits,
    Maximize,
    Minimize,
    Ray,
    RayResource,
    ReportFormat,
    StorageUrl,
    StudyName,
    Timeout,
    Trial,
    Weights,
    Withins,
    Workers,
)
from tradeoff.studies.cli.options import selection as read_selection
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import DEFAULT_STORAGE, load_study, open_storage

if TYPE_CHECKING:
    from tradeoff.studies.results.results import StudyResults


app = typer.Typer(
    name="tradeoff",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: it keeps the examples' lines as they are, and needs no rich.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """The entry point of the command."""
    # Imports make many objects and little garbage: looking for it costs a sixth of the time of an answer.
    gc.disable()
    try:
        app()
    except TradeoffError as error:
        print(f"tradeoff: {error}", file=sys.stderr)
        sys.exit(2)


def _show_version(value: bool) -> None:
    if value:
        from tradeoff.studies.environment import tradeoff_version

        print(f"tradeoff {tradeoff_version()}")
        raise typer.Exit


@app.callback()
def tradeoff(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Search batch size, gradient accumulation, checkpointing and precision jointly; see accuracy against time against memory.

    \b
    Example:
      tradeoff run
      tradeoff front
      tradeoff export --knee --output chosen
    """


@app.command()
def run(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="The study file; without one, a preset.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="PRESET", help="embedded (the default), yelp-bert or dummy-bert.", show_default=False)
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="The study's number of trials.", show_default=False)] = None,
    timeout: Timeout = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The study's name.", show_default=False)] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    workers: Workers = None,
    ray: Ray = None,
    ray_resource: RayResource = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the study file. Repeatable.")
    ] = None,
) -> None:
    """Create a study, or go on with it to its number of trials.

    Ctrl-C ends it after cleaning up, twice at once; nothing measured is lost, and the same command goes on.

    \b
    Example:
      tradeoff run
      tradeoff run study.yaml --trials 40 --set job.epochs=1
      tradeoff run --preset yelp-bert --storage sqlite:///yelp.db
      tradeoff run study.yaml --ray auto --storage @storage-url
    """
    from tradeoff.studies.workers.run import run_command

    gc.enable()
    code = run_command(
        study_file=study_file,
        preset=preset,
        trials=trials,
        timeout_s=timeout,
        name=name,
        storage=storage,
        overrides=list(overrides or ()),
        workers=workers,
        ray=ray,
        ray_resource=ray_resource,
    )
    raise typer.Exit(code)


@app.command()
def worker(
    name: StudyName = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    workers: Workers = None,
    timeout: Timeout = None,
) -> None:
    """Work on a study that exists, beside others on this machine or elsewhere, until it is complete.

    Everything is read from the storage. It may join and leave at any time: on SIGTERM or Ctrl-C it ends in order, and what it
    had begun is tried again by others.

    \b
    Example:
      tradeoff worker
      TRADEOFF_STORAGE=postgresql://ada:secret@db/studies tradeoff worker reviews
      tradeoff worker reviews --storage @/run/secrets/storage --workers 4
    """
    from tradeoff.studies.workers.run import worker_command

    gc.enable()
    raise typer.Exit(worker_command(name, storage=storage, workers=workers, timeout_s=timeout))


@app.command()
def front(
    name: StudyName = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output_format: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.TABLE,
    limit: Limits = None,
    within: Withins = None,
    trial: Trial = None,
    knee: Knee = False,
    maximize: Maximize = None,
    minimize: Minimize = None,
    weight: Weights = None,
) -> None:
    """Show the Pareto front of a study, best accuracy first; with a way to choose, that one configuration.

    \b
    Example:
      tradeoff front
      tradeoff front my-study --limit "peak_memory_mib<=7000" --format json
      tradeoff front --within accuracy:0.005 --minimize train_time_s
    """
    from tradeoff.studies.results.selection import choose, qualifying_front
    from tradeoff.studies.results.tables import front_as_csv, front_as_json, front_table

    selection = read_selection(limit, within, trial, knee, maximize, minimize, weight)
    results = _results(name, storage)
    only = choose(results, selection).record if selection.ways() else None
    rows = qualifying_front(results, selection)
    if output_format is Format.JSON:
        print(front_as_json(rows, results.objectives, only=only))
    elif output_format is Format.CSV:
        print(front_as_csv(rows, results.objectives, only=only), end="")
    elif not rows:
        print(f"The front of {results.name} is empty, nothing has completed ({results.summary()}).")
    else:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # a file or a pipe has no width to fit
        device = f" on {results.device['name']}" if "name" in results.device else ""
        title = f"Pareto front of {results.name}{device}"
        console.print(front_table(rows, results.objectives, only=only, title=title, caption=results.summary()))


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.", show_default=False)],
    name: StudyName = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    limit: Limits = None,
    within: Withins = None,
    trial: Trial = None,
    knee: Knee = False,
    maximize: Maximize = None,
    minimize: Minimize = None,
    weight: Weights = None,
    confirm_first: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Train a derived configuration first, to measure it.")
    ] = True,
) -> None:
    """Write one configuration of the front, the knee by default, as files to train with.

    train.py trains as the study did, with transformers and datasets alone; training_args.json, flags.txt and
    accelerate_config.yaml are for other programs; README.md is a model card with the trade-offs; tradeoff.yaml says where
    it all comes from and what was measured.
    With --within alone the best in the first of the other objectives is taken: the fastest within half a point of the best.
    What was derived from another trial is trained first, where the study's device is here, and its values are measured.

    \b
    Example:
      tradeoff export --output chosen
      tradeoff export my-study --limit "peak_memory_mib<=7000" --maximize accuracy --output chosen
      tradeoff export --within accuracy:0.005 --output fast
    """
    from tradeoff.studies.export.export import check_output
    from tradeoff.studies.export.export import export as write_export
    from tradeoff.studies.results.selection import choose

    selection = read_selection(limit, within, trial, knee, maximize, minimize, weight)
    check_output(output)
    results = _results(name, storage)
    choice = choose(results, selection)
    if confirm_first and choice.record.is_derived:
        from tradeoff.studies.cli.confirm import confirm_choice

        gc.enable()
        results, choice = confirm_choice(results, choice, selection, storage=storage)
    written = write_export(results, choice, output)
    print(f"Trial {choice.record.number} of {results.name}: {choice.why}.")
    for path in written:
        print(f"  {path}")


@app.command()
def dashboard(
    storage: StorageUrl = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="The port; 0 for any free one.")] = 8080,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in: it has no passwords, they can change and delete.")
    ] = False,
) -> None:
    """Serve optuna-dashboard on the storage's studies, with their notes, plots and files, until Ctrl-C.

    \b
    Example:
      tradeoff dashboard
      tradeoff dashboard --storage sqlite:///yelp.db --port 0
    """
    from tradeoff.studies.reporting.dashboard import serve

    gc.enable()
    opened = open_storage(storage, create=False)
    load_study(None, opened)  # an empty storage is said so here, and not shown as an empty page
    serve(
        opened,
        host=host,
        port=port,
        allow_remote=allow_remote,
        announce=lambda url: print(f"Dashboard at {url} (Ctrl-C ends it)", flush=True),
        warn=lambda sentence: print(f"tradeoff: {sentence}", file=sys.stderr, flush=True),
    )


@app.command()
def report(
    name: StudyName = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file; report.html, or printed as md.", show_default=False),
    ] = None,
    output_format: Annotated[ReportFormat, typer.Option("--format", help="A page, or Markdown.")] = ReportFormat.HTML,
) -> None:
    """Write the study's plots and tables as one HTML file that needs no network, or its tables as Markdown.

    \b
    Example:
      tradeoff report --output report.html
      tradeoff report my-study --format md
    """
    from tradeoff.studies.reporting.report import check_report, html_report, markdown_report, write_report

    gc.enable()
    if output is None and output_format is ReportFormat.MD:
        print(markdown_report(_results(name, storage)), end="")
        return
    output = output or Path("report.html")
    check_report(output)
    results = _results(name, storage)
    write_report(html_report(results) if output_format is ReportFormat.HTML else markdown_report(results), output)
    print(f"Report of {results.name}: {output}")


for command in (confirm, fit, plan, sweep, compare, train):
    app.command()(command)


def _results(name: str | None, storage: str) -> "StudyResults":
    from tradeoff.studies.results.results import read_results

    return read_results(load_study(name, open_storage(storage, create=False)))


if __name__ == "__main__":
    main()

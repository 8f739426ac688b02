"""`tradeoff export`: writes a configuration of the front as files to train with."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import CustomJob, parse_job
from tradeoff.studies.cli import options
from tradeoff.studies.cli.confirm import confirm_choice
from tradeoff.studies.cli.options import code_and_study, results_of, selection_of
from tradeoff.studies.config.stored import check_module
from tradeoff.studies.execution.output import say
from tradeoff.studies.export.export import check_output
from tradeoff.studies.export.export import export as write_export
from tradeoff.studies.export.targets import TARGETS, check_target, targets_of
from tradeoff.studies.results.selection import choose
from tradeoff.studies.results.tables import capitalized
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to create.", show_default=False)],
    name: options.StudyName = None,
    storage: options.StorageUrl = DEFAULT_STORAGE,
    limit: options.Limits = None,
    within: options.Withins = None,
    trial: options.Trial = None,
    knee: options.Knee = False,
    maximize: options.Maximize = None,
    minimize: options.Minimize = None,
    weight: options.Weights = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="PROGRAM", help=f"Add what another program reads: {', '.join(TARGETS)}. Repeatable."),
    ] = None,
    confirm_first: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Train a derived configuration first, to measure it.")
    ] = True,
    build: options.Build = None,
    trust_remote_code: options.TrustRemoteCode = False,
    study_file: options.OwnStudyFile = None,
) -> None:
    """Write one configuration of the front, by default the knee, as files to train with.

    train.py trains as the study did, with transformers and datasets alone. training_args.json, flags.txt and
    accelerate_config.yaml are for other programs. README.md is a model card with the trade-offs. tradeoff.yaml records the
    origin and the measured values.
    With --within alone, the best in the first of the other objectives is chosen: the fastest within half a point of the best.
    A configuration whose values are derived from another trial is trained first if this machine has the study's device.

    \b
    Example:
      tradeoff export --output chosen
      tradeoff export my-study --limit "peak_memory_mib<=7000" --maximize accuracy --output chosen
      tradeoff export --within accuracy:0.005 --output fast
      tradeoff export --to trl --to deepspeed --output chosen
    """
    selection = selection_of(
        limit=limit, within=within, trial=trial, knee=knee, maximize=maximize, minimize=minimize, weight=weight
    )
    allowed, name = code_and_study(build, trust_remote_code, study_file, name=name)
    check_output(output)
    results = results_of(name, storage)
    selection = selection.of(results.objectives)
    choice = choose(results, selection)
    targets = targets_of(to or ())
    for target in targets:
        check_target(target, job_of(parse_job(results.config["job"]), choice.record.params))
    if confirm_first and choice.record.is_derived:
        results, choice = confirm_choice(results, choice, selection, storage=storage, allowed=allowed)
    # train.py runs what the job names, from where it says.
    job = allowed.checked(
        parse_job(results.config["job"]),
        where=f"the study {results.name!r} in {results.storage}",
        searched={name: [value] for name, value in choice.record.params.items()},
    )
    if isinstance(job, CustomJob):
        check_module(job)
    results = replace(results, config={**results.config, "job": job.model_dump(mode="json")})
    written = write_export(results, choice, output, targets=targets)
    say(f"{capitalized(choice.record.origin)} of {results.name}: {choice.why}.")
    for path in written:
        say(f"  {path}")

"""`tradeoff plan`: estimates the memory of each configuration of a study, without a GPU and without weights."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tradeoff.objectives.memory_estimator.run_estimate import DEFAULT_CONTEXT_MEMORY_MIB, GpuMemory
from tradeoff.objectives.memory_estimator.settings import Loop, Sharding
from tradeoff.studies.cli.options import Overrides, Preset, StudyFile
from tradeoff.studies.cli.plan_tables import estimates_table, fits_by_gpu, frontier_table, gpus_table
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import print_result
from tradeoff.studies.execution.output import say
from tradeoff.studies.execution.space_estimates import Assumptions, Attention, estimate_memory, note
from tradeoff.studies.reporting.report import check_report, tables_page, write_report

_PAGE = Path("memory.html")


def plan(
    study_file: StudyFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    device_memory: Annotated[
        float | None,
        typer.Option(min=1, max=1e12, metavar="MIB", help="The GPU's memory; default: the study's limit.", show_default=False),
    ] = None,
    context_memory: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e12, metavar="MIB", help="The memory of the CUDA context, if you have measured it.", show_default=False
        ),
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens; default: the job's max_length.", show_default=False)
    ] = None,
    attention: Annotated[
        Attention | None, typer.Option(help="The attention implementation; default: the study's.", show_default=False)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A value of TrainingArguments.optim; default: the study's.", show_default=False),
    ] = None,
    foreach: Annotated[bool, typer.Option(help="Update all parameters at once, torch's default on a GPU.")] = True,
    loop: Annotated[
        Loop, typer.Option(help="The Trainer's loop, or a plain one that keeps a step's outputs until the next ones.")
    ] = "trainer",
    sharding: Annotated[
        Sharding | None,
        typer.Option(
            help="Spread weights, gradients and the optimizer's state over the devices of a trial (FSDP2; ZeRO 3 and 2).",
            show_default=False,
        ),
    ] = None,
    expandable_segments: Annotated[
        bool, typer.Option("--expandable-segments", help="Torch's allocator with expandable_segments:True.")
    ] = False,
    devices: Annotated[bool, typer.Option("--devices", help="Show what fits on each known GPU.")] = False,
    frontier: Annotated[bool, typer.Option("--frontier", help="Show only the largest batches that fit.")] = False,
    output_format: Annotated[
        Literal["table", "json", "html"], typer.Option("--format", help="Print a table, or JSON, or write an HTML page.")
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help=f"The page's file; default: {_PAGE}.", show_default=False),
    ] = None,
) -> None:
    """Estimate the peak GPU memory of a study's configurations, without a GPU and without weights.

    \b
    Example:
      tradeoff plan study.yaml --device-memory 24564
      tradeoff plan --preset yelp-bert --devices
      tradeoff plan study.yaml --set devices_per_trial=8 --sharding full_shard --device-memory 24564
      tradeoff plan study.yaml --device-memory 8192 --frontier --format json
      tradeoff plan study.yaml --device-memory 24564 --format html --output memory.html
    """
    if output is not None and output_format != "html":
        raise TradeoffError("--output is the file of an HTML page: add --format html, or redirect what is printed")
    if output_format == "html":
        check_report(output or _PAGE)
    config = load_config(study_file, preset=preset, overrides=overrides or [])
    limit_mib = config.limits.peak_memory_mib
    if device_memory is None and limit_mib is not None and limit_mib > (context_memory or DEFAULT_CONTEXT_MEMORY_MIB):
        device_memory = limit_mib  # a limit below the context is one for training on a CPU
    if frontier and device_memory is None:
        raise TradeoffError("--frontier requires the GPU's memory: give --device-memory MIB, or set limits.peak_memory_mib")
    try:
        gpu = GpuMemory(
            total_mib=None if devices else device_memory,
            context_mib=context_memory,
            expandable_segments=expandable_segments,
        )
        assumed = Assumptions(
            gpu=gpu,
            sequence_length=sequence_length,
            attention=attention,
            optimizer=optimizer,
            foreach=foreach,
            loop=loop,
            sharding=sharding,
        )
        found = estimate_memory(config, assumed)
    except TradeoffError:
        raise
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    estimates, largest = found.estimates, found.largest
    if devices:
        rows = fits_by_gpu(estimates)
        tables = [gpus_table(rows)]
    else:
        chosen = [each for each in largest.values() if each is not None] if frontier else estimates
        rows = [estimate.as_dict() for estimate in chosen]
        tables = [] if frontier else [estimates_table(estimates, device_memory)]
        if device_memory is not None:
            tables.append(frontier_table(largest, device_memory))
    notes = []
    if largest and not any(largest.values()):
        least = min(estimate.upper_bound_mib for estimate in estimates)
        notes.append(f"no configuration fits: the smallest is certain to fit in {least:,.0f} MiB")
    if context_memory is None:
        notes.append(
            f"the CUDA context is taken to be {DEFAULT_CONTEXT_MEMORY_MIB:g} MiB, and the bounds allow for any that is known;"
            " nvidia-smi after torch.ones(1).cuda() tells it: --context-memory MIB"
        )
    for line in notes:
        note(line)
    if output_format == "json":
        print(json.dumps(rows, indent=2))
        return
    if output_format == "html":
        write_report(tables_page(f"Memory of {config.name}", tables, notes), output or _PAGE)
        say(f"Memory of {config.name}: {output or _PAGE}")
        return
    for table in tables:
        print_result(table)

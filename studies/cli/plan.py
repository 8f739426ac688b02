"""`tradeoff plan`: estimates the memory of each configuration of a study, without a GPU and without weights."""

import json
import sys
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.job import model_config, trace_settings, trains_all_weights
from tradeoff.objectives.memory_estimator.run_estimate import DEFAULT_CONTEXT_MEMORY_MIB, GpuMemory, RunEstimate
from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters
from tradeoff.studies.cli.options import Overrides, Preset, StudyFile, TableOrJson
from tradeoff.studies.cli.plan_tables import estimates_table, fits_by_gpu, frontier_of, frontier_table, gpus_table
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import print_result
from tradeoff.studies.execution.preparation import cache_folder, keep_compiled_code_in

Attention = Literal["eager", "sdpa"]

# The parameters that memory depends on; the others would only repeat the same rows.
_DECISIVE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "precision", "model", "max_length",
    "dropout", "frozen_layers", "lora_rank",
)  # fmt: skip


def plan(
    study_file: StudyFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    device_memory: Annotated[
        float | None,
        typer.Option(min=1, max=1e12, metavar="MIB", help="The GPU's memory; default: the study's limit.", show_default=False),
    ] = None,
    context_memory: Annotated[
        float, typer.Option(min=0, max=1e12, metavar="MIB", help="The memory of the CUDA context.")
    ] = DEFAULT_CONTEXT_MEMORY_MIB,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens; default: the job's max_length.", show_default=False)
    ] = None,
    attention: Annotated[
        Attention | None, typer.Option(help="The attention implementation; default: transformers' choice.", show_default=False)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A value of TrainingArguments.optim; default: the job's.", show_default=False),
    ] = None,
    foreach: Annotated[bool, typer.Option(help="Update all parameters at once, torch's default on a GPU.")] = True,
    devices: Annotated[bool, typer.Option("--devices", help="Show what fits on each known GPU.")] = False,
    frontier: Annotated[bool, typer.Option("--frontier", help="Show only the largest batches that fit.")] = False,
    output_format: TableOrJson = "table",
) -> None:
    """Estimate the peak GPU memory of a study's configurations, without a GPU and without weights.

    \b
    Example:
      tradeoff plan study.yaml --device-memory 24564
      tradeoff plan --preset yelp-bert --devices
      tradeoff plan study.yaml --device-memory 8192 --frontier --format json
    """
    config = load_config(study_file, preset=preset, overrides=overrides or [])
    limit_mib = config.limits.peak_memory_mib
    if device_memory is None and limit_mib is not None and limit_mib > context_memory:
        device_memory = limit_mib  # a limit below the context is one for training on a CPU
    if frontier and device_memory is None:
        raise TradeoffError("--frontier requires the GPU's memory: give --device-memory MIB, or set limits.peak_memory_mib")
    try:
        estimates = estimate_memory(
            config,
            device_memory_mib=None if devices else device_memory,
            context_memory_mib=context_memory,
            sequence_length=sequence_length,
            attention=attention,
            optimizer=optimizer,
            foreach=foreach,
        )
    except TradeoffError:
        raise
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    if devices:
        rows = fits_by_gpu(estimates)
        tables = [gpus_table(rows)]
    else:
        rows = [estimate.as_dict() for estimate in (frontier_of(estimates) if frontier else estimates)]
        tables = [] if frontier else [estimates_table(estimates)]
        if device_memory is not None:
            tables.append(frontier_table(estimates, device_memory))
    if output_format == "json":
        print(json.dumps(rows, indent=2))
        return
    for table in tables:
        print_result(table)


def estimate_memory(
    config: StudyConfig,
    *,
    device_memory_mib: float | None = None,
    context_memory_mib: float = DEFAULT_CONTEXT_MEMORY_MIB,
    sequence_length: int | None = None,
    attention: Attention | None = None,
    optimizer: str | None = None,
    foreach: bool = True,
) -> list[RunEstimate]:
    """Estimate the memory of each configuration of a study's space; progress goes to the error stream.

    Args:
        config: The study.
        device_memory_mib: The GPU's memory; None for estimates without a verdict.
        context_memory_mib: The memory of the CUDA context.
        sequence_length: Tokens; None for `job.max_length`.
        attention: The attention implementation; None for the study's, or transformers' choice.
        optimizer: A value of `TrainingArguments.optim`; None for the study's, or `job.optim`.
        foreach: Whether AdamW and SGD update all parameters at once.

    Raises:
        ValueError: No model's memory can be estimated, or an argument is out of range.
    """
    job = config.job
    if not isinstance(job, TextClassificationJob):
        raise TradeoffError("tradeoff plan estimates the memory of text classification; tradeoff fit measures any job's")
    attention = _one_of(config, "attn_implementation", attention, "--attention sdpa")
    optimizer = _one_of(config, "optim", optimizer, "--optimizer adamw_torch")
    keep_compiled_code_in(cache_folder())
    groups: dict[TextClassificationJob, list[TrialParameters]] = {}
    is_partial = False
    for parameters in memory_space(config).grid():
        own_job = job_of(job, parameters)
        if trains_all_weights(own_job):
            groups.setdefault(own_job, []).append(parameters)
        else:
            is_partial = True
    unplanned = [*(["adapters and frozen layers"] if is_partial else []), *_not_planned(config)]
    if not groups:
        raise TradeoffError(f"memory is not estimated with {unplanned[0]}; tradeoff fit measures it")
    if unplanned:
        print(f"not planned for: {', '.join(unplanned)}; a study's probes and tradeoff fit measure that", file=sys.stderr)
    estimates: list[RunEstimate] = []
    failures: dict[str, ValueError] = {}
    for own_job, configurations in groups.items():
        settings = trace_settings(
            own_job, sequence_length=sequence_length, attention=attention, optimizer=optimizer, foreach=foreach
        )
        estimator = MemoryEstimator(
            model_config(own_job, settings),
            settings=settings,
            gpu=GpuMemory(total_mib=device_memory_mib, context_mib=context_memory_mib),
            # A device's share: beside it, a device holds no more than the buckets in which gradients are exchanged.
            train_samples=None if job.train_samples is None else -(-job.train_samples // config.devices_per_trial),
            epochs=job.epochs,
            eval_batch_size=job.eval_batch_size if job.evaluates else None,
            cache_folder=cache_folder() / "traces",
            progress=lambda line: print(line, file=sys.stderr),
        )
        found: dict[TrialParameters, RunEstimate] = {}
        for is_on in (False, True):
            alike = [parameters for parameters in configurations if parameters.gradient_checkpointing == is_on]
            try:
                found |= zip(alike, estimator.estimate(alike), strict=True)
            except ValueError as error:
                failures[own_job.model + " with checkpointing" * is_on] = error
                break  # what a model can't do, it can't do with checkpointing either
        estimates += [found[parameters] for parameters in configurations if parameters in found]
    if failures and not estimates:
        raise next(iter(failures.values()))
    for what, failure in failures.items():
        print(f"not planned: {what}: {failure}", file=sys.stderr)
    return estimates


def memory_space(config: StudyConfig) -> SearchSpace:
    """Return a study's space without the parameters that memory does not depend on."""
    space = config.search_space()
    domains = {name: domain for name, domain in space.domains.items() if name in _DECISIVE}
    if "dropout" in domains:
        # A mask takes the same memory whatever its share is.
        domains["dropout"] = Categorical((max(domains["dropout"].examples()),))
    return replace(space, domains=domains)


def _not_planned(config: StudyConfig) -> list[str]:
    """Return the labels of other parameters that may change memory, of which several values are searched."""
    space = config.search_space()
    known = {*_DECISIVE, "attn_implementation", "optim"}
    return [
        space.knobs[name].label
        for name, domain in space.domains.items()
        if name not in known and space.knobs[name].memory is not None and len(domain.examples()) > 1
    ]


def _one_of(config: StudyConfig, name: str, asked: Any, option: str) -> Any:
    """Return the value of a parameter to estimate memory for: the requested one, or the only one that the study has.

    Raises:
        TradeoffError: The study searches several, and none was requested.
    """
    domain = config.search_space().domains.get(name)
    values = (domain.values() or ()) if domain is not None else ()
    if asked is not None or not values:
        return asked
    if len(values) > 1:
        raise TradeoffError(
            f"memory is estimated for one value of {name}, and the study searches {', '.join(values)}: name one, {option}"
        )
    return values[0]

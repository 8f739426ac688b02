"""`tradeoff plan`: estimates the memory of each configuration of a study, without a GPU and without weights."""

import json
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.job import model_config, trace_settings
from tradeoff.objectives.memory_estimator.run_estimate import DEFAULT_CONTEXT_MEMORY_MIB, GpuMemory, RunEstimate
from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters
from tradeoff.studies.cli.options import Overrides, Preset, StudyFile, TableOrJson
from tradeoff.studies.cli.plan_tables import estimates_table, fits_by_gpu, frontier_table, gpus_table
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import print_result
from tradeoff.studies.execution.output import say
from tradeoff.studies.execution.preparation import cache_folder, keep_compiled_code_in

Attention = Literal["eager", "sdpa"]

# What changes memory in ways that no trace on fake tensors shows.
_NOT_PLANNED = ("torch_compile", "load_in_4bit", "activation_offloading")

# The parameters that memory depends on; the others would only repeat the same rows.
_DECISIVE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "precision", "model", "max_length",
    "packing", "dropout", "frozen_layers", "lora_rank", "lora_target_modules", "optim", "attn_implementation", *_NOT_PLANNED,
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
    if device_memory is None and limit_mib is not None and limit_mib > (context_memory or DEFAULT_CONTEXT_MEMORY_MIB):
        device_memory = limit_mib  # a limit below the context is one for training on a CPU
    if frontier and device_memory is None:
        raise TradeoffError("--frontier requires the GPU's memory: give --device-memory MIB, or set limits.peak_memory_mib")
    try:
        estimates, largest = estimate_memory(
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
        found = [each for each in largest.values() if each is not None]
        rows = [estimate.as_dict() for estimate in (found if frontier else estimates)]
        tables = [] if frontier else [estimates_table(estimates)]
        if device_memory is not None:
            tables.append(frontier_table(largest, device_memory))
    if largest and not any(largest.values()):
        least = min(estimate.upper_bound_mib for estimate in estimates)
        _note(f"no configuration fits: the smallest is certain to fit in {least:,.0f} MiB")
    if context_memory is None:
        _note(
            f"the CUDA context is taken to be {DEFAULT_CONTEXT_MEMORY_MIB:g} MiB, and the bounds allow for any that is known;"
            " nvidia-smi after torch.ones(1).cuda() tells it: --context-memory MIB"
        )
    if output_format == "json":
        print(json.dumps(rows, indent=2))
        return
    for table in tables:
        print_result(table)


def estimate_memory(
    config: StudyConfig,
    *,
    device_memory_mib: float | None = None,
    context_memory_mib: float | None = None,
    sequence_length: int | None = None,
    attention: Attention | None = None,
    optimizer: str | None = None,
    foreach: bool = True,
) -> tuple[list[RunEstimate], dict[TrialParameters, RunEstimate | None]]:
    """Estimate the memory of each configuration of a study's space; progress goes to the error stream.

    Returns:
        The estimates, and where the GPU's memory is known the largest batch that fits, of all and not only of the study's, by
        the parameters with a batch of 1.

    Args:
        config: The study.
        device_memory_mib: The GPU's memory; None for estimates without a verdict.
        context_memory_mib: The memory of the CUDA context; None if nobody has measured it.
        sequence_length: Tokens; None for `job.max_length`.
        attention: The attention implementation; None for the study's, or transformers' choice.
        optimizer: A value of `TrainingArguments.optim`; None for the study's, or `job.optim`.
        foreach: Whether AdamW and SGD update all parameters at once.

    Raises:
        ValueError: No model's memory can be estimated, or an argument is out of range.
    """
    job = config.job
    if not isinstance(job, BuiltInJob):
        raise TradeoffError("tradeoff plan estimates the memory of the built-in tasks; tradeoff fit measures any job's")
    if isinstance(job, CausalLMJob) and job.eval_max_length is None:
        lengths = config.search_space().domains.get("max_length")
        longest = job.max_length if lengths is None else max(lengths.examples())
        job = job.model_copy(update={"eval_max_length": longest})
    keep_compiled_code_in(cache_folder())
    groups: dict[tuple[BuiltInJob, str | None, str | None], list[TrialParameters]] = {}
    left_out: set[str] = set()
    for parameters in memory_space(config, without=_given(attn_implementation=attention, optim=optimizer)).grid():
        chosen = job_of(job, parameters)
        if unknown := [name for name in _NOT_PLANNED if parameters.get(name) or getattr(chosen, name, False)]:
            left_out.update(unknown)
            continue
        key = chosen, parameters.get("attn_implementation", attention), parameters.get("optim", optimizer)
        groups.setdefault(key, []).append(parameters)
    names = ", ".join(name for name in _NOT_PLANNED if name in left_out)
    if not groups:
        raise TradeoffError(f"memory is not estimated with {names}, which allocates otherwise; tradeoff fit measures it")
    if left_out:
        _note(f"not planned: {names}, which allocates otherwise; a study's probes and tradeoff fit measure it")
    if config.devices_per_trial > 1:
        _note("a device of several is planned with its gradient buckets, and without what NCCL keeps beside them")
    estimates: list[RunEstimate] = []
    largest: dict[TrialParameters, RunEstimate | None] = {}
    failures: dict[str, ValueError] = {}
    for (own_job, own_attention, own_optimizer), configurations in groups.items():
        label = " ".join(filter(None, (own_job.model, own_attention, own_optimizer)))
        # Texts that are packed are fewer rows than samples, and only the data tells how many.
        is_packed = isinstance(own_job, CausalLMJob) and own_job.packing
        train_samples = None if is_packed or job.train_samples is None else -(-job.train_samples // config.devices_per_trial)
        try:
            settings = trace_settings(
                own_job,
                sequence_length=sequence_length,
                attention=own_attention,
                optimizer=own_optimizer,
                foreach=foreach,
                num_devices=config.devices_per_trial,
            )
        except ValueError as error:
            failures[label] = error
            continue
        estimator = MemoryEstimator(
            model_config(own_job, settings),
            settings=settings,
            gpu=GpuMemory(total_mib=device_memory_mib, context_mib=context_memory_mib),
            train_samples=train_samples,
            epochs=job.epochs,
            eval_batch_size=job.eval_batch_size if job.evaluates else None,
            cache_folder=cache_folder() / "traces",
            progress=_note,
        )
        found: dict[TrialParameters, RunEstimate] = {}
        for is_on in (False, True):
            alike = [parameters for parameters in configurations if parameters.gradient_checkpointing == is_on]
            try:
                found |= zip(alike, estimator.estimate(alike), strict=True)
            except ValueError as error:
                failures[label + " with checkpointing" * is_on] = error
                break  # what a model can't do, it can't do with checkpointing either
        estimates += [found[parameters] for parameters in configurations if parameters in found]
        if device_memory_mib is not None:
            largest |= estimator.largest_fitting(found.values())
    if failures and not estimates:
        raise next(iter(failures.values()))
    for what, failure in failures.items():
        _note(f"not planned: {what}: {failure}")
    return estimates, largest


def _note(line: str) -> None:
    """Print a line beside the table."""
    say(line, file=sys.stderr)


def _given(**options: Any) -> set[str]:
    """Return the names of the parameters whose values are given on the command line instead."""
    return {name for name, value in options.items() if value is not None}


def memory_space(config: StudyConfig, without: Collection[str] = ()) -> SearchSpace:
    """Return a study's space without the parameters that memory does not depend on.

    Args:
        config: The study.
        without: Further parameters to leave out.
    """
    space = config.search_space()
    domains = {name: domain for name, domain in space.domains.items() if name in _DECISIVE and name not in without}
    if "dropout" in domains:
        # A mask takes the same memory whatever its share is.
        domains["dropout"] = Categorical((max(domains["dropout"].examples()),))
    return replace(space, domains=domains)

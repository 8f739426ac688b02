"""`tradeoff plan`: the memory that each configuration of a study will take, told without a GPU and without weights."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tradeoff.objectives.job.settings import TextClassificationJob
from tradeoff.searchspace import SearchSpace, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError

if TYPE_CHECKING:
    from rich.table import Table

    from tradeoff.objectives.memory_estimator.prediction import MemoryPrediction

# The parameters on which memory depends; the others would only repeat the same rows.
_DECISIVE = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "precision")


def plan_command(
    *,
    study_file: Path | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    device_memory_mib: float | None = None,
    context_memory_mib: float | None = None,
    sequence_length: int | None = None,
    attention: Literal["eager", "sdpa"] | None = None,
    optimizer: str | None = None,
    foreach: bool = True,
    devices: bool = False,
    frontier: bool = False,
    output_format: Literal["table", "json"] = "table",
    cache_folder: Path | None = None,
) -> None:
    """Predicts the peak memory of a study's configurations and prints it.

    Args:
        study_file: The study file; None for the preset alone.
        preset: A preset's name.
        overrides: `KEY=VALUE`, as for `tradeoff run`.
        device_memory_mib: The card's memory; None for `limits.peak_memory_mib`, if that is more than a CUDA context. Without
            either there is no verdict.
        context_memory_mib: What the CUDA context takes; None for the documented default.
        sequence_length: Tokens; None for `job.max_length`.
        attention: The attention's implementation; None for what transformers chooses.
        optimizer: A name of `TrainingArguments.optim`; None for `job.optim`.
        foreach: Whether AdamW and SGD handle all parameters at once, torch's default on a card.
        devices: Show for each known card what fits, instead of a row for each configuration.
        frontier: Show only the largest batch that fits, per checkpointing, precision and accumulation.
        output_format: How it is printed.
        cache_folder: Where traces are kept; None for the user's cache folder.

    Raises:
        TradeoffError: The study file is wrong, or its model's memory can't be predicted.
    """
    config = load_config(study_file, preset=preset, overrides=overrides)
    if device_memory_mib is None:
        device_memory_mib = _card_limit(config, context_memory_mib)
    if frontier and device_memory_mib is None:
        raise TradeoffError("a frontier needs the card's memory: give --device-memory MIB, or limits.peak_memory_mib")
    try:
        predictions = study_plan(
            config,
            device_memory_mib=None if devices else device_memory_mib,
            context_memory_mib=context_memory_mib,
            sequence_length=sequence_length,
            attention=attention,
            optimizer=optimizer,
            foreach=foreach,
            cache_folder=cache_folder,
        )
    except TradeoffError:
        raise
    except ValueError as error:
        raise TradeoffError(str(error)) from error
    from tradeoff.studies.cli import plan_tables

    if devices:
        fits = plan_tables.what_fits(predictions)
        _print(output_format, [card.as_dict() for card in fits], [plan_tables.cards_table(fits)])
        return
    shown = plan_tables.frontier_of(predictions) if frontier else predictions
    tables = [] if frontier else [plan_tables.predictions_table(predictions)]
    if device_memory_mib is not None:
        tables.append(plan_tables.frontier_table(predictions, device_memory_mib))
    _print(output_format, [prediction.as_dict() for prediction in shown], tables)


def study_plan(
    config: StudyConfig,
    *,
    device_memory_mib: float | None = None,
    context_memory_mib: float | None = None,
    sequence_length: int | None = None,
    attention: Literal["eager", "sdpa"] | None = None,
    optimizer: str | None = None,
    foreach: bool = True,
    cache_folder: Path | None = None,
    progress: bool = True,
) -> "list[MemoryPrediction]":
    """The predictions for a study's space; see `plan_command` for the arguments.

    Raises:
        ValueError: The model's memory can't be predicted, or an argument is out of range.
    """
    from tradeoff.objectives.memory_estimator.job import model_config, trace_settings
    from tradeoff.objectives.memory_estimator.predict import plan
    from tradeoff.objectives.memory_estimator.prediction import DEFAULT_CONTEXT_MEMORY_MIB
    from tradeoff.objectives.memory_estimator.store import default_cache_folder

    job = config.job
    if not isinstance(job, TextClassificationJob):
        raise TradeoffError("tradeoff plan predicts memory of text classification; tradeoff fit measures that of any job")
    attention = _one_of(config, "attn_implementation", attention, "--attention sdpa")
    optimizer = _one_of(config, "optim", optimizer, "--optimizer adamw_torch")
    settings = trace_settings(job, sequence_length=sequence_length, attention=attention, optimizer=optimizer, foreach=foreach)
    return plan(
        model_config(job, settings),
        memory_space(config).grid(),
        settings=settings,
        device_memory_mib=device_memory_mib,
        context_memory_mib=DEFAULT_CONTEXT_MEMORY_MIB if context_memory_mib is None else context_memory_mib,
        # A device's share: beside it, a device holds no more than the buckets in which gradients are exchanged.
        train_samples=None if job.train_samples is None else -(-job.train_samples // config.devices_per_trial),
        epochs=job.epochs,
        eval_batch_size=job.eval_batch_size if job.evaluates else None,
        cache_folder=default_cache_folder() if cache_folder is None else cache_folder,
        progress=(lambda line: print(line, file=sys.stderr)) if progress else None,
    )


def _one_of(config: StudyConfig, name: str, asked: Any, option: str) -> Any:
    """The value of a parameter for which memory is predicted: what is asked for, or the only one that the study has.

    Raises:
        TradeoffError: The study searches several, and none was asked for.
    """
    domain = config.search_space().domains.get(name)
    values = (domain.values() or ()) if domain is not None else ()
    if asked is not None or not values:
        return asked
    if len(values) > 1:
        raise TradeoffError(
            f"memory is predicted for one value of {name}, and the study searches {', '.join(values)}: name one, {option}"
        )
    return values[0]


def memory_space(config: StudyConfig) -> SearchSpace:
    """A study's space without the parameters on which memory does not depend."""
    space = config.search_space()
    return replace(space, domains={name: domain for name, domain in space.domains.items() if name in _DECISIVE})


def key_of(parameters: TrialParameters) -> tuple[Any, ...]:
    """What two configurations share that need the same memory: finds a trial's prediction in a plan."""
    return tuple(getattr(parameters, name) for name in _DECISIVE)


def _card_limit(config: StudyConfig, context_memory_mib: float | None) -> float | None:
    from tradeoff.objectives.memory_estimator.prediction import DEFAULT_CONTEXT_MEMORY_MIB

    limit = config.limits.peak_memory_mib
    context = DEFAULT_CONTEXT_MEMORY_MIB if context_memory_mib is None else context_memory_mib
    # A limit below that is one for training on a CPU, and says nothing of a card.
    return limit if limit is not None and limit > context else None


def _print(output_format: str, rows: Sequence[Mapping[str, Any]], tables: "Sequence[Table]") -> None:
    if output_format == "json":
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width to fit
    for table in tables:
        console.print(table)

"""The memory estimates of a study's whole space, for `tradeoff plan`: what can't be traced is left out in a line."""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import CausalLMJob, CustomJob
from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.job import model_config, trace_settings
from tradeoff.objectives.memory_estimator.own_trainer import own_estimator
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory, RunEstimate
from tradeoff.objectives.memory_estimator.settings import Loop, Sharding
from tradeoff.searchspace import Categorical, Precision, SearchSpace, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.output import say
from tradeoff.studies.execution.preparation import cache_folder, keep_compiled_code_in

Attention = Literal["eager", "sdpa"]

# What changes memory in ways that no trace on fake tensors shows.
_NOT_PLANNED = ("torch_compile", "activation_offloading")
# And what a function may do with a keyword of that name, in a job of one's own.
_NOT_PLANNED_OF_OWN = (*_NOT_PLANNED, "load_in_4bit")

# The parameters that memory depends on; the others would only repeat the same rows.
_DECISIVE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "precision", "model", "max_length",
    "packing", "dropout", "frozen_layers", "lora_rank", "lora_target_modules", "optim", "attn_implementation",
    *_NOT_PLANNED_OF_OWN,
)  # fmt: skip

# Configurations that differ in these alone are traced with one model.
_OF_ONE_MODEL = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "precision": Precision.FP32,
}


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is planned beside what a study says.

    Attributes:
        gpu: The GPU's memory.
        sequence_length: Tokens; None for `job.max_length`.
        attention: The attention implementation; None for the study's, or transformers' choice.
        optimizer: A value of `TrainingArguments.optim`; None for the study's, or `job.optim`.
        foreach: Whether AdamW and SGD update all parameters at once.
        loop, sharding: As in `TraceSettings`.
    """

    gpu: GpuMemory = field(default_factory=GpuMemory)
    sequence_length: int | None = None
    attention: Attention | None = None
    optimizer: str | None = None
    foreach: bool = True
    loop: Loop = "trainer"
    sharding: Sharding | None = None


@dataclass(frozen=True, kw_only=True)
class SpaceEstimates:
    """The memory of a study's configurations.

    Attributes:
        estimates: Those of all that can be traced.
        largest: Where the GPU's memory is known, the largest batch that fits, of all and not only of the study's, by the
            parameters with a batch of 1; None where none fits.
    """

    estimates: list[RunEstimate]
    largest: Mapping[TrialParameters, RunEstimate | None]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Configurations that are traced with one model, what they are in words, and how their estimator is made."""

    label: str
    make: Callable[[], MemoryEstimator]
    configurations: list[TrialParameters] = field(default_factory=list)


def estimate_memory(config: StudyConfig, assumed: Assumptions | None = None) -> SpaceEstimates:
    """Estimate the memory of each configuration of a study's space; progress goes to the error stream.

    Raises:
        ValueError: No model's memory can be estimated, or a setting is out of range.
    """
    assumed = assumed or Assumptions()
    estimates: list[RunEstimate] = []
    largest: dict[TrialParameters, RunEstimate | None] = {}
    failures: dict[str, ValueError] = {}
    for group in _groups(config, assumed):
        try:
            estimator = group.make()
        except ValueError as error:
            failures[group.label] = error
            continue
        found: dict[TrialParameters, RunEstimate] = {}
        for is_on in (False, True):
            alike = [parameters for parameters in group.configurations if parameters.gradient_checkpointing == is_on]
            try:
                found |= zip(alike, estimator.estimate(alike), strict=True)
            except ValueError as error:
                failures[group.label + " with checkpointing" * is_on] = error
                break  # what a model can't do, it can't do with checkpointing either
        estimates += [found[parameters] for parameters in group.configurations if parameters in found]
        if assumed.gpu.total_mib is not None:
            largest |= estimator.largest_fitting(found.values())
    if failures and not estimates:
        raise next(iter(failures.values()))
    for what, failure in failures.items():
        note(f"not planned: {what}: {failure}")
    return SpaceEstimates(estimates=estimates, largest=largest)


def _groups(config: StudyConfig, assumed: Assumptions) -> Iterable[_Group]:
    keep_compiled_code_in(cache_folder())
    job = config.job
    if isinstance(job, CustomJob):
        for name, value in (("--sequence-length", assumed.sequence_length), ("--attention", assumed.attention)):
            if value is not None:
                raise TradeoffError(
                    f"{name} is for the built-in tasks, and job.build makes its own model and rows; leave it out"
                )
        for name, asked in (("--loop", assumed.loop), ("--sharding", assumed.sharding)):
            if asked not in ("trainer", None):
                raise TradeoffError(f"{name} {asked} is for the built-in tasks, and job.build returns a Trainer; leave it out")
    if isinstance(job, CausalLMJob) and job.eval_max_length is None:
        lengths = config.search_space().domains.get("max_length")
        longest = job.max_length if lengths is None else max(lengths.examples())
        job = job.model_copy(update={"eval_max_length": longest})
    groups: dict[Any, _Group] = {}
    left_out: set[str] = set()
    given = {name for name, value in (("attn_implementation", assumed.attention), ("optim", assumed.optimizer)) if value}
    for parameters in memory_space(config, without=given).grid():
        chosen = job_of(job, parameters)
        names = _NOT_PLANNED_OF_OWN if isinstance(chosen, CustomJob) else _NOT_PLANNED
        if unknown := [name for name in names if parameters.get(name) or getattr(chosen, name, False)]:
            left_out.update(unknown)
            continue
        if isinstance(chosen, CustomJob):
            # It may make anything of what it is called with.
            key: Any = parameters.replace(**_OF_ONE_MODEL)
            group = _own_group(chosen, key, config, assumed)
        else:
            assert isinstance(chosen, BuiltInJob)
            attention = parameters.get("attn_implementation", assumed.attention)
            optimizer = parameters.get("optim", assumed.optimizer)
            key = chosen, attention, optimizer
            group = _built_in_group(chosen, config, replace(assumed, attention=attention, optimizer=optimizer))
        groups.setdefault(key, group).configurations.append(parameters)
    them = ", ".join(name for name in _NOT_PLANNED_OF_OWN if name in left_out)
    if not groups:
        raise TradeoffError(f"memory is not estimated with {them}, which allocates otherwise; tradeoff fit measures it")
    if left_out:
        note(f"not planned: {them}, which allocates otherwise; a study's probes and tradeoff fit measure it")
    if config.devices_per_trial > 1:
        its = "gradient buckets" if assumed.sharding is None else "share and what it gathers of the others'"
        note(f"a device of several is planned with its {its}, and without what NCCL keeps beside them")
    return groups.values()


def _own_group(job: CustomJob, parameters: TrialParameters, config: StudyConfig, assumed: Assumptions) -> _Group:
    make = partial(
        own_estimator,
        job,
        parameters,
        gpu=assumed.gpu,
        optimizer=assumed.optimizer,
        foreach=assumed.foreach,
        num_devices=config.devices_per_trial,
        progress=note,
    )
    keywords = [f"{name}={value}" for name, value in parameters.items() if name not in _OF_ONE_MODEL]
    return _Group(label=" ".join([job.build, *keywords]), make=make)


def _built_in_group(job: BuiltInJob, config: StudyConfig, assumed: Assumptions) -> _Group:
    def make() -> MemoryEstimator:
        settings = trace_settings(
            job,
            sequence_length=assumed.sequence_length,
            attention=assumed.attention,
            optimizer=assumed.optimizer,
            foreach=assumed.foreach,
            num_devices=config.devices_per_trial,
            loop=assumed.loop,
            sharding=assumed.sharding,
        )
        # Texts that are packed are fewer rows than samples, and only the data tells how many.
        is_packed = isinstance(job, CausalLMJob) and job.packing
        samples = None if is_packed or job.train_samples is None else -(-job.train_samples // config.devices_per_trial)
        return MemoryEstimator(
            model_config(job, settings),
            settings=settings,
            gpu=assumed.gpu,
            train_samples=samples,
            epochs=job.epochs,
            eval_batch_size=job.eval_batch_size if job.evaluates and assumed.loop == "trainer" else None,
            cache_folder=cache_folder() / "traces",
            progress=note,
        )

    return _Group(label=" ".join(filter(None, (job.model, assumed.attention, assumed.optimizer))), make=make)


def note(line: str) -> None:
    """Print a line beside the table."""
    say(line, file=sys.stderr)


def memory_space(config: StudyConfig, without: Collection[str] = ()) -> SearchSpace:
    """Return a study's space without the parameters that memory does not depend on.

    Args:
        config: The study.
        without: Further parameters to leave out.
    """
    space = config.search_space()
    is_own = isinstance(config.job, CustomJob)
    decisive = {name for name in space.domains if name in _DECISIVE or (is_own and space.knobs[name].memory is not None)}
    domains = {name: domain for name, domain in space.domains.items() if name in decisive - set(without)}
    if "dropout" in domains:
        # A mask takes the same memory whatever its share is.
        domains["dropout"] = Categorical((max(domains["dropout"].examples()),))
    return replace(space, domains=domains)

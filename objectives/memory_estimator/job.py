"""The memory estimates of a training job: its model's configuration, and how its steps are computed."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.arguments import job_of, name_of_data
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimate, MemoryEstimates
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.run_estimate import DEFAULT_CONTEXT_MEMORY_MIB, GpuMemory, RunEstimate
from tradeoff.objectives.memory_estimator.settings import OPTIMIZERS, Loop, Sharding, Task, TraceSettings
from tradeoff.searchspace import MemoryClass, TrialParameters
from tradeoff.searchspace.choices import PADDINGS
from tradeoff.searchspace.job_knobs import JOB_KNOBS

# On a CPU a peak is measured in pages that were touched: at worst 6.5% below what was requested, in 40 probes of the embedded
# job. A bound that rules configurations out keeps more than twice that distance.
CPU_BOUND_SHARE = 0.85
# What can be traced of the knobs that change memory, besides checkpointing, precision and accumulation: not compiled code,
# which allocates as its compiler likes, and not the package of flash attention.
_TRACED: Mapping[str, Collection[Any]] = {
    "optim": OPTIMIZERS,
    "attn_implementation": ("eager", "sdpa"),
    "padding": PADDINGS,
    "torch_compile": (False,),
}
_NUM_CONVERSATIONS = 200

_VARIED = ("gradient_checkpointing", "precision", "accumulates")


def trace_settings(
    job: BuiltInJob,
    *,
    sequence_length: int | None = None,
    attention: str | None = None,
    optimizer: str | None = None,
    foreach: bool = True,
    num_devices: int = 1,
    loop: Loop = "trainer",
    sharding: Sharding | None = None,
) -> TraceSettings:
    """Return how a job's steps are traced.

    Args:
        job: The job.
        sequence_length: Tokens; None for `job.max_length`, and in an evaluation `eval_max_length`.
        attention: The attention implementation; None for transformers' choice.
        optimizer: A name of `TrainingArguments.optim`; None for `job.optim`.
        foreach: Whether AdamW and SGD update all parameters at once.
        num_devices: Devices that train a configuration.
        loop: As in `TraceSettings`; a plain one computes a language model's own loss, and not TRL's.
        sharding: As in `TraceSettings`.

    Raises:
        ValueError: Memory can't be estimated with such a setting.
    """
    is_plain = loop == "plain"
    writer: Task = "causal-lm" if is_plain else "sft"
    return TraceSettings(
        sequence_length=job.max_length if sequence_length is None else sequence_length,
        eval_length=job.eval_max_length if isinstance(job, CausalLMJob) and sequence_length is None else None,
        task=writer if isinstance(job, CausalLMJob) else "sequence-classification",
        loop=loop,
        num_labels=job.num_labels if isinstance(job, TextClassificationJob) else None,
        packed=isinstance(job, CausalLMJob) and job.packing and not is_plain,
        lora=job.lora,
        four_bit=isinstance(job, CausalLMJob) and job.load_in_4bit,
        frozen_layers=job.frozen_layers,
        num_devices=num_devices,
        sharding=sharding,
        attention=attention,  # type: ignore[arg-type]  # checked there
        # Random tokens fill every sequence: there is nothing to mask.
        padded=job.dataset != RANDOM_TOKENS,
        optimizer=job.optim if optimizer is None else optimizer,
        foreach=foreach,
        weight_decay=job.weight_decay,
        max_grad_norm=0.0 if is_plain else job.max_grad_norm,
    )


def model_config(job: BuiltInJob, settings: TraceSettings) -> Any:
    """Return what `tradeoff.objectives.memory_estimator.tracing.model_config.load_config` reads for a job's model."""
    if job.model != EMBEDDED and job.dropout is None:
        return job.model
    from tradeoff.objectives.memory_estimator.tracing.model_config import load_config
    from tradeoff.objectives.trainers.trained_parts import set_dropout

    length = max(settings.sequence_length, settings.eval_length or 0)
    config = _embedded_config(job, length) if job.model == EMBEDDED else load_config(job.model)
    if job.dropout is not None:
        set_dropout(config, job.dropout, name=job.model)
    return config


def _embedded_config(job: BuiltInJob, length: int) -> Any:
    """Return the configuration of an embedded model; with the words of generated texts, since the job's are not known here."""
    from tradeoff.objectives.trainers import embedded

    if isinstance(job, TextClassificationJob):
        from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer

        vocabulary = len(reviews_tokenizer())
        return embedded.embedded_model_config(vocab_size=vocabulary, max_length=length, num_labels=job.num_labels)
    from tradeoff.objectives.data.generated_conversations import generate_conversations

    conversations = generate_conversations(_NUM_CONVERSATIONS, seed=0)
    texts = (message["content"] for conversation in conversations for message in conversation)
    return embedded.embedded_llama_config(vocab_size=len(embedded.embedded_chat_tokenizer(texts)), max_length=length)


def estimate_for_search(
    job: TextClassificationJob,
    configurations: Iterable[TrialParameters],
    *,
    device: Mapping[str, Any],
    memory_limit_mib: float,
    longest: Mapping[str, int] | None = None,
    cache_folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> MemoryEstimates:
    """Estimate what the probes of a study will measure.

    Args:
        job: What is trained.
        configurations: One for each memory class and micro-batch.
        device: The device of the trials, as `tradeoff.objectives.device.base.DeviceInfo.as_dict` gives it.
        memory_limit_mib: The most that a trial may use.
        longest: Tokens of the longest sequence for each model and length, by `name_of_data`; None where all are as long as
            that length.
        cache_folder: The directory to store traces in.
        say: Called with a line for the user about what is stored there, and about a model without an estimate.

    Raises:
        ValueError: No model's memory can be estimated.
    """
    groups: dict[tuple[TextClassificationJob, MemoryClass], list[TrialParameters]] = {}
    unknown: set[str] = set()
    for parameters in configurations:
        own_job = job_of(job, parameters)
        # What the tracer varies by itself, or the job holds, is not a part of its settings.
        settings_of = parameters.memory_class().without((*_VARIED, *(knob.name for knob in JOB_KNOBS)))
        is_traced = all(name in _TRACED and value in _TRACED[name] for name, value in settings_of.items())
        if is_traced:
            groups.setdefault((own_job, settings_of), []).append(parameters)
        unknown |= settings_of.keys() - _TRACED.keys()
    if unknown and not groups:
        raise ValueError(f"nobody knows by how much {' and '.join(sorted(unknown))} changes memory before it is measured")
    if not groups:
        raise ValueError(f"memory is estimated for {', '.join(OPTIMIZERS)} with eager or sdpa attention, not compiled")
    target = device_class(device).traced_allocator
    is_caching = target == "cuda"
    measured_context = device.get("context_mib") if is_caching else 0.0
    context = DEFAULT_CONTEXT_MEMORY_MIB if measured_context is None else float(measured_context)
    gpu = GpuMemory(
        total_mib=memory_limit_mib if is_caching and memory_limit_mib > context else None,
        context_mib=context,
        loaded_code_mib=0.0,  # a trial's peak includes the context as it was measured at its start
    )
    estimates: list[RunEstimate] = []
    failures: dict[str, ValueError] = {}
    for (own_job, searched), group in groups.items():
        # With padding to the limit every sequence is that long, whatever the samples are.
        is_padded = longest is None or searched.get("padding") == "max_length"
        settings = trace_settings(
            own_job,
            sequence_length=None if is_padded or longest is None else longest[name_of_data(own_job)],
            attention=searched.get("attn_implementation"),
            optimizer=searched.get("optim"),
        )
        if is_caching:
            workspaces = BlasWorkspace.of_environment(os.environ)
            settings = replace(settings, flash_attention="bf16" in device["precisions"], blas=workspaces)
        else:
            settings = replace(settings, target=target, foreach=False)
        estimator = MemoryEstimator(
            model_config(own_job, settings),
            settings=settings,
            gpu=gpu,
            eval_batch_size=job.eval_batch_size if job.evaluates else None,
            cache_folder=cache_folder,
            say=say,
        )
        try:
            estimates += estimator.estimate(group)
        except ValueError as error:
            failures.setdefault(own_job.model, error)
    if failures and not estimates:
        raise next(iter(failures.values()))
    for model, failure in failures.items():
        (say or (lambda _: None))(f"no memory estimate of {model}: {failure}")
    # A bound does not include a context that nobody measured.
    unmeasured = context if measured_context is None else 0.0

    def searched_estimate(each: RunEstimate) -> MemoryEstimate:
        bound = each.lower_bound_mib
        if is_caching:
            return MemoryEstimate(peak_memory_mib=each.peak_memory_mib, lower_bound_mib=bound - unmeasured)
        # The CPU's allocator neither rounds nor retains while memory is measured.
        return MemoryEstimate(peak_memory_mib=bound, lower_bound_mib=CPU_BOUND_SHARE * bound)

    return MemoryEstimates.of((each.parameters, searched_estimate(each)) for each in estimates)

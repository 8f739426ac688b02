"""The answer of a trial's process: one of five outcomes, with everything that was measured until then.

The outcome crosses a process boundary as JSON, so a trial that crashed, or one that runs the user's code, can't make the
parent run anything. Quantities carry their unit in their name; None means "not measured here", never zero.
"""

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Discriminator, TypeAdapter

Stage = Literal["start", "data", "model", "probe", "train", "end"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One point of a training's learning curve.

    Attributes:
        epoch: Epochs done, from 1.
        num_samples: Training samples processed so far.
        train_time_s: Training time so far, evaluations left out.
        loss: Mean training loss since the previous evaluation.
        eval_loss: Loss on the evaluation data.
        accuracy: Share of the evaluation data that was classified correctly, 0 to 1.
        metrics: Every number that the evaluation returned, by the Trainer's key.
    """

    epoch: float
    num_samples: int
    train_time_s: float
    loss: float | None = None
    eval_loss: float | None = None
    accuracy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peak memory in MiB, measured in several ways; None for what does not exist on a device.

    For a trial on several devices each value is the highest of all ranks: the fullest device decides whether the trial fits.

    Attributes:
        peak_allocated_mib: Tensors alive in torch's CUDA allocator.
        peak_reserved_mib: Memory that torch's CUDA allocator held, cached blocks included.
        peak_process_mib: Memory that this process held on the GPU (NVML); on a CPU, its peak resident memory.
        peak_device_mib: Memory that all processes held on the GPU (NVML).
        context_mib: The CUDA context, measured after initialization; on a CPU, the resident memory before the model was built.
        peak_memory_mib: The objective. On a GPU the context plus `peak_reserved_mib`: whether the next run fits depends on
            it. On a CPU, peak resident memory above `context_mib` while freed blocks go back to the system; that setting makes
            steps slower, so only the probe measures it there, and a training leaves it None.
    """

    peak_memory_mib: float | None
    peak_allocated_mib: float | None = None
    peak_reserved_mib: float | None = None
    peak_process_mib: float | None = None
    peak_device_mib: float | None = None
    context_mib: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """The measurements of a probe: a few seconds of the real Trainer.

    Attributes:
        memory: Peaks over an evaluation batch and two optimizer steps on the longest sequences.
        micro_step_time_s: Median forward and backward pass of one ordinary micro-batch.
        optimizer_step_time_s: Median time of one optimizer update, after its micro-steps.
        eval_batch_time_s: Median evaluation of one ordinary batch; None without evaluation, or if `evaluate` is the user's
            own and never calls `prediction_step`.
        estimated_train_time_s: Training time of the whole run at these rates.
        probe_time_s: Time of the probe itself.
        gradients_mib: Size of the gradients of all trainable weights, which accumulation holds through a forward pass.
        power_w: Average power of the GPU while steps were timed; None unless energy is an objective.
        compile_time_s: Time that `torch.compile` adds to the training, which `estimated_train_time_s` includes and the step
            times leave out.
        num_rows: What the training reads per epoch: samples, or the sequences into which a language model's are packed.
        num_timed_steps: Optimizer steps that were timed.
        micro_step_spread: Relative standard error of `micro_step_time_s`, by the steps' spread; None for fewer than three.
        busy_share: Share of the processors that other processes took meanwhile, 0 if enough was idle; None if not known.
        num_other_processes: Other processes on the GPU; None on a CPU or if NVML does not report them.
    """

    memory: Memory
    micro_step_time_s: float
    optimizer_step_time_s: float
    eval_batch_time_s: float | None
    estimated_train_time_s: float
    probe_time_s: float
    gradients_mib: float = 0.0
    power_w: float | None = None
    compile_time_s: float = 0.0
    num_rows: int | None = None
    num_timed_steps: int = 0
    micro_step_spread: float | None = None
    busy_share: float | None = None
    num_other_processes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """The measurements of a full training.

    Attributes:
        memory: Peaks over the training and its evaluations.
        train_time_s: Time of the training without evaluations; data loading is included.
        eval_time_s: Time of all evaluations.
        num_steps: Optimizer steps.
        num_samples: Training samples processed.
        samples_per_s: `num_samples / train_time_s`.
        tokens_per_s: The same in tokens, without padding; None of data that has no tokens.
        train_loss: Mean loss over the run, as the Trainer reports it.
        curve: One evaluation an epoch.
        gpu_utilization_percent: Mean over the training, as NVML reports it.
        energy_j: Energy that the trial's GPUs used during the training, without evaluations, as NVML reports it.
        memory_samples: Memory over time: seconds since the training began, and MiB held.
        busy_share: As `ProbeResult.busy_share`, over the whole training.
        num_other_processes: As `ProbeResult.num_other_processes`, at the end of the training.
    """

    memory: Memory
    train_time_s: float
    eval_time_s: float
    num_steps: int
    num_samples: int
    samples_per_s: float
    train_loss: float | None
    tokens_per_s: float | None = None
    curve: list[Evaluation] = field(default_factory=list)
    gpu_utilization_percent: float | None = None
    energy_j: float | None = None
    memory_samples: list[tuple[float, float]] = field(default_factory=list)
    busy_share: float | None = None
    num_other_processes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything that was measured, whatever the outcome.

    Attributes:
        trial_time_s: From the request to the outcome.
        first_step_time_s: From the request to the end of the first optimizer step.
        memory_by_stage_mib: Memory held at the end of each stage: context, model, probe, train.
    """

    probe: ProbeResult | None = None
    training: TrainingResult | None = None
    trial_time_s: float | None = None
    first_step_time_s: float | None = None
    memory_by_stage_mib: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """The trial ran to its end."""

    measurements: Measurements
    kind: Literal["completed"] = "completed"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory:
    """The trial needed more memory than there is.

    Attributes:
        stage: Where it happened.
        reason: A sentence that quotes the error.
        requested_mib: The allocation that failed, if the error says it.
        free_mib: Memory that was free then, if the error says it.
        shortfall_mib: Lower bound of the memory that was missing, above 0.
    """

    stage: Stage
    reason: str
    shortfall_mib: float
    requested_mib: float | None = None
    free_mib: float | None = None
    measurements: Measurements = field(default_factory=Measurements)
    kind: Literal["out_of_memory"] = "out_of_memory"


# The longest time limit: the system's `poll`, which waits for a trial, takes at most 2**31 milliseconds, 24 days.
LONGEST_LIMIT_S = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedOut:
    """The trial was ended because it took longer than the study allows."""

    stage: Stage
    reason: str
    limit_s: float
    measurements: Measurements = field(default_factory=Measurements)
    kind: Literal["timed_out"] = "timed_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """An error other than running out of memory, or a process that ended without an answer."""

    stage: Stage
    reason: str
    traceback: str = ""
    measurements: Measurements = field(default_factory=Measurements)
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """The user ended the study while the trial ran."""

    stage: Stage
    reason: str = "interrupted by the user"
    measurements: Measurements = field(default_factory=Measurements)
    kind: Literal["interrupted"] = "interrupted"


Outcome = Annotated[Completed | OutOfMemory | TimedOut | Failed | Interrupted, Discriminator("kind")]
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def to_json(outcome: Outcome) -> str:
    """Return the outcome as a line of JSON, in which a loss that is NaN or infinite is kept."""
    # pydantic's own JSON writer turns NaN into null; the standard library's keeps it.
    return json.dumps(_OUTCOME.dump_python(outcome))


def from_json(text: str) -> Outcome:
    """Return the outcome that `to_json` wrote.

    Raises:
        ValueError: The text is not JSON, or not an outcome.
    """
    return _OUTCOME.validate_python(json.loads(text))

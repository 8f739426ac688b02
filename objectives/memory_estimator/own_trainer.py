"""The memory estimates of a job with a Trainer of the user's own, which is built to be traced."""

import tempfile
import warnings
from collections.abc import Callable
from typing import Literal

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.searchspace import TrialParameters


def own_estimator(
    job: CustomJob,
    parameters: TrialParameters,
    *,
    gpu: GpuMemory,
    optimizer: str | None = None,
    foreach: bool = True,
    num_devices: int = 1,
    target: Literal["cuda", "cpu"] = "cuda",
    progress: Callable[[str], None] | None = None,
) -> MemoryEstimator:
    """Build the Trainer of a configuration on the CPU, and return an estimator that traces it.

    Args:
        job: Names the function that builds it, which is imported here.
        parameters: A configuration; others may differ in batch, accumulation, checkpointing and precision.
        gpu: The GPU's memory.
        optimizer: A name of `TrainingArguments.optim`; None for the job's.
        foreach: Whether optimizers update all parameters at once.
        num_devices: Devices that train a configuration.
        target: As in `TraceSettings`.
        progress: Called with a sentence before each trace.

    Raises:
        ValueError: The function fails, or what it returns can't be traced.
    """
    from transformers import TrainingArguments, set_seed

    from tradeoff.objectives.memory_estimator.tracing.trainer_trace import TrainerTracer
    from tradeoff.objectives.trainers.custom_trainer import build_trainer, explained
    from tradeoff.objectives.trainers.model_files import JobFault

    # On the CPU no data moves, and the Trainer's own precision would ask for a GPU: the tracer has it instead.
    on_cpu: dict[str, object] = {
        "use_cpu": True,
        "fp16": False,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    if optimizer is not None:
        on_cpu["optim"] = optimizer
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of our names of arguments, which older releases know
            arguments = TrainingArguments(**training_arguments(job, parameters, output_dir=folder) | on_cpu)
        set_seed(job.seed)
        try:
            trainer = build_trainer(job, arguments, parameters)
        except JobFault:
            raise
        except Exception as error:  # the user's own code
            raise ValueError(explained(job, "fails", error)) from error
    settings = TraceSettings(
        sequence_length=1,  # its rows tell how long they are
        task="own",
        num_devices=num_devices,
        foreach=foreach,
        max_grad_norm=trainer.args.max_grad_norm,
        target=target,
    )
    tracer = TrainerTracer(trainer, settings, evaluates=job.evaluates)
    num_samples = len(trainer.train_dataset)
    return MemoryEstimator(
        tracer.config,
        settings=settings,
        gpu=gpu,
        train_samples=-(-num_samples // num_devices),
        epochs=job.epochs,
        eval_batch_size=job.eval_batch_size if job.evaluates else None,
        num_kept_batches=tracer.num_kept_batches,
        progress=progress,
        tracer=lambda *_: tracer,
    )

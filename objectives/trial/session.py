"""What the stages of one trial share: the job, the device, its meters, and the way a Trainer is built.

A probe and a training build their Trainer here, from the same arguments, so that what the probe measures is what the training
will do.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, set_seed

from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.cpu import MemoryMeter, synchronized_clock
from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.measurements.outcome import Measurements, ProbeResult, TrainingResult
from tradeoff.objectives.trainers.workloads import Workload
from tradeoff.objectives.trial.compilation import compile_from_scratch, forget_compiled_code
from tradeoff.objectives.trial.ranks import Ranks
from tradeoff.objectives.trial.reporter import Reporter
from tradeoff.searchspace import TrialParameters


@dataclass(kw_only=True)
class TrialSession:
    """One trial in the making: its inputs, and what was measured so far."""

    job: TrainingSettings
    parameters: TrialParameters
    workload: Workload
    device: DeviceInfo
    meter: MemoryMeter
    memory_limit_mib: float | None
    reporter: Reporter
    folder: str
    begin_s: float
    measures_power: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    probe_result: ProbeResult | None = None
    training_result: TrainingResult | None = None
    first_step_time_s: float | None = None
    memory_by_stage_mib: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.job.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling fresh tensors with NaN would cost time and memory, and changes nothing for code that writes first.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.parameters.get("torch_compile"):
            compile_from_scratch()
        self.note_memory("context")

    def note_memory(self, stage: str) -> None:
        """Records what the process holds now, as the lecture that this product reproduces prints it for each stage."""
        # A stage that both the probe and the training pass through is recorded the first time.
        self.memory_by_stage_mib.setdefault(stage, self.meter.held_mib())

    def note_first_step(self) -> None:
        """Records how long it took from the request to the first optimizer step."""
        if self.first_step_time_s is None:
            self.first_step_time_s = self.clock_s() - self.begin_s

    def clock_s(self) -> float:
        """Now, with all work on the device finished."""
        return synchronized_clock(self.device)

    def report(self) -> None:
        """Sends what is measured so far."""
        self.reporter.measured(self.finish())

    def finish(self) -> Measurements:
        """Everything measured so far."""
        return Measurements(
            probe=self.probe_result,
            training=self.training_result,
            trial_time_s=time.perf_counter() - self.begin_s,
            first_step_time_s=self.first_step_time_s,
            memory_by_stage_mib=dict(self.memory_by_stage_mib),
        )

    @contextmanager
    def trainer(self, **overrides: Any) -> Iterator[Trainer]:
        """A Trainer with a fresh model; afterwards everything that it held is given back.

        Args:
            overrides: Arguments that differ from the trial's own.
        """
        arguments = training_arguments(self.job, self.parameters, output_dir=self.folder) | {
            "use_cpu": self.device.kind == "cpu",
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "epoch",
            "logging_nan_inf_filter": False,  # a loss that is not a number is shown as what it is
            "report_to": "none",
        }
        set_seed(self.job.seed)
        trainer = self.workload.trainer(TrainingArguments(**(arguments | overrides)), self.parameters)
        self.note_memory("model")
        try:
            yield trainer
        finally:
            # The caller's name keeps the Trainer itself alive; what is large hangs on these.
            trainer.accelerator.free_memory()
            trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = trainer.callback_handler = None
            if self.parameters.get("torch_compile"):
                forget_compiled_code()
            gc.collect()
            if self.device.kind == "cuda":
                torch.cuda.empty_cache()

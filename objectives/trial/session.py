"""The state that the stages of one trial share: the job, the device, its meters, and the way a Trainer is built.

A probe and a training build their Trainer here from the same arguments, so that the probe measures what the training will do.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, set_seed

from tradeoff.objectives.device.base import Device, MemoryMeter
from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.measurements.outcome import Measurements, ProbeResult, TrainingResult
from tradeoff.objectives.trainers.evaluations import evaluate_alike
from tradeoff.objectives.trainers.workloads import Workload
from tradeoff.objectives.trial.compilation import compile_from_scratch, forget_compiled_code
from tradeoff.objectives.trial.ranks import Ranks
from tradeoff.objectives.trial.reporter import Reporter
from tradeoff.searchspace import TrialParameters


@dataclass(kw_only=True)
class TrialSession:
    """One running trial: its inputs, and what has been measured so far."""

    job: TrainingSettings
    parameters: TrialParameters
    workload: Workload
    device: Device
    memory_limit_mib: float | None
    reporter: Reporter
    folder: str
    begin_s: float
    measures_power: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    meter: MemoryMeter = field(init=False)
    probe_result: ProbeResult | None = None
    training_result: TrainingResult | None = None
    first_step_time_s: float | None = None
    memory_by_stage_mib: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Whoever trains, a study or `tradeoff train`, measures from here: what is imported is not the training's memory.
        self.workload.import_ahead()
        self.meter = self.device.memory_meter()
        if (limit_w := self.parameters.get("power_limit_w")) is not None:
            self.device.limit_power(limit_w, Path(self.folder))
        if self.job.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling new tensors with NaN would cost time and memory, and changes nothing for code that writes before it reads.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.parameters.get("torch_compile"):
            compile_from_scratch()
        self.note_memory("context")

    def note_memory(self, stage: str) -> None:
        """Record the memory that the process holds at the end of a stage."""
        # A stage that both the probe and the training pass through is recorded the first time.
        self.memory_by_stage_mib.setdefault(stage, self.meter.held_mib())

    def note_first_step(self) -> None:
        """Record the time from the request to the end of the first optimizer step."""
        if self.first_step_time_s is None:
            self.first_step_time_s = self.clock_s() - self.begin_s

    def clock_s(self) -> float:
        """Return the current time, with all work on the device finished."""
        return self.device.clock_s()

    def report(self) -> None:
        """Send what has been measured so far."""
        self.reporter.measured(self.finish())

    def finish(self) -> Measurements:
        """Return everything that has been measured so far."""
        return Measurements(
            probe=self.probe_result,
            training=self.training_result,
            trial_time_s=time.perf_counter() - self.begin_s,
            first_step_time_s=self.first_step_time_s,
            memory_by_stage_mib=dict(self.memory_by_stage_mib),
        )

    @contextmanager
    def trainer(self, **overrides: Any) -> Iterator[Trainer]:
        """Build a Trainer with a new model, and afterwards free everything that it held.

        Args:
            overrides: Arguments that replace the trial's own.
        """
        arguments = training_arguments(self.job, self.parameters, output_dir=self.folder) | {
            "use_cpu": self.device.uses_host_processors,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "epoch",
            "logging_nan_inf_filter": False,  # a loss that is NaN is reported as such
            "report_to": "none",
        }
        set_seed(self.job.seed)
        trainer = self.workload.trainer(self.workload.arguments_class(**(arguments | overrides)), self.parameters)
        evaluate_alike(trainer, self.parameters)
        self.note_memory("model")
        try:
            yield trainer
        finally:
            # The caller keeps the Trainer itself alive; these hold what is large.
            trainer.accelerator.free_memory()
            trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = trainer.callback_handler = None
            if self.parameters.get("torch_compile"):
                forget_compiled_code()
            gc.collect()
            self.device.release_cached_memory()

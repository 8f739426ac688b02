"""The memory estimates of a running study: made while the data is prepared, and stored with the study once they are there.

Estimates may not cost a study more than they save. On a GPU nothing waits for them: the first probe is the same with and
without them, and they are made by CPU cores that a probe hardly needs. On a CPU they would disturb timed steps, so the study
waits for a few seconds, and then continues without them. Traces are kept, so that the next study of the same model has its
estimates at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.isolation.background import BackgroundTask
from tradeoff.objectives.isolation.server_process import WorkerError
from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES
from tradeoff.objectives.objective import Objective
from tradeoff.objectives.trial.messages import Refusal
from tradeoff.searchspace import MemoryClass, SearchSpace, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts

# About what estimates save if probes are as short as on a CPU: two for each compute configuration.
MAX_WAIT_S = 10.0
# With fewer cores, tracing would slow down the steps of a probe on a GPU as well.
MIN_CPUS_BESIDE_A_GPU = 4
# Micro-batches to estimate in each memory class; those in between are interpolated.
MAX_BATCHES = 48


@dataclass(kw_only=True)
class MemoryEstimation:
    """Memory estimates in the making.

    Attributes:
        config: The study.
        device: The device of its trials.
        display: Where a line is shown.
        interrupts: What the user has asked for.
        task: The process that makes the estimates; None if there is none.
        failure: Why there is none, in a sentence.
    """

    config: StudyConfig
    device: Mapping[str, Any]
    display: Display
    interrupts: Interrupts
    task: BackgroundTask | None = None
    failure: str | None = None

    def begin(self, study: optuna.Study, objective: Objective) -> None:
        """Wait for the estimates as long as that is worth it, unless the study has them.

        Raises:
            TradeoffError: The study requires estimates, and there are none.
            KeyboardInterrupt: The user pressed Ctrl-C.
        """
        if MEMORY_ESTIMATES in study.user_attrs:
            self.cancel()
            return
        if self.failure is not None:
            self._do_without(self.failure)
        shares_processors = device_class(self.device).uses_host_processors
        waits = shares_processors or self.device.get("num_cpus", 1) < MIN_CPUS_BESIDE_A_GPU
        timeout_s = None if self.config.memory_estimate == "on" else MAX_WAIT_S if waits else 0.0
        with self.interrupts.waiting():
            self.poll(study, objective, timeout_s=timeout_s)
        if self.task is not None and waits:
            self.cancel()
            self._do_without(f"it was not ready {timeout_s:g} s after the data; memory_estimate: on waits for it")

    def poll(self, study: optuna.Study, objective: Objective, *, timeout_s: float | None = 0.0) -> None:
        """Store the estimates with the study once they are there, and say in a line what they rule out."""
        if self.task is None or (reply := self.task.reply(timeout_s=timeout_s)) is None:
            return
        self.task = None
        if isinstance(reply, Refusal):
            self._do_without(reply.error)
            return
        for notice in reply.answer["notices"]:
            self.display.message(notice)
        study.set_user_attr(MEMORY_ESTIMATES, reply.answer["estimates"])
        knowledge = objective.snapshot(study).knowledge
        needs = [knowledge.memory.lower_bound_mib(structure) or 0.0 for structure in objective.setup.space.structures]
        limit_mib = objective.setup.memory_limit_mib
        looked_at = " that were looked at" * objective.setup.space.is_drawn
        if num_never := sum(needed > limit_mib for needed in needs):
            self.display.message(
                f"memory estimate: {num_never:,} of {len(needs):,} configurations{looked_at} cannot fit in"
                f" {limit_mib:,.0f} MiB and are never tried"
            )

    def _do_without(self, reason: str) -> None:
        if self.config.memory_estimate == "on":
            raise TradeoffError(f"memory_estimate: on requires an estimate, and there is none: {reason}")
        self.display.message(f"no memory estimate: {reason}")

    def cancel(self) -> None:
        """End the process that makes the estimates."""
        if self.task is not None:
            self.task.cancel()
            self.task = None


def start_memory_estimation(
    config: StudyConfig,
    server: TrialServer,
    space: SearchSpace,
    device: Mapping[str, Any],
    *,
    cache: Path,
    longest: Mapping[str, int] | None,
    display: Display,
    interrupts: Interrupts,
) -> MemoryEstimation | None:
    """Start the process that makes a study's estimates; None if the study wants none.

    Args:
        config: The study.
        server: The server to fork the process from.
        space: The space, without what the device lacks.
        device: The device of the trials.
        cache: The directory in which traces have a directory of their own.
        longest: Tokens of the longest sequence for each model and length; None where all are padded to that length.
        display: Where lines are shown.
        interrupts: What the user has asked for.
    """
    if config.memory_estimate == "off":
        return None
    estimation = MemoryEstimation(config=config, device=device, display=display, interrupts=interrupts)
    if not isinstance(config.job, TextClassificationJob):
        what = "a language model" if isinstance(config.job, CausalLMJob) else "a custom job"
        estimation.failure = f"the memory of {what} is not estimated; probes measure it anyway"
        return estimation
    request = {
        "task": "estimate_memory",
        "job": config.job.model_dump(),
        "configurations": [parameters.as_dict() for parameters in configurations_to_estimate(space)],
        "changes": {name: sorted(changed) for name, changed in space.knobs.changes.items()},
        "device": dict(device),
        "memory_limit_mib": config.memory_limit_mib(device),
        "longest": longest,
        "cache_folder": str(cache / "traces"),
    }
    try:
        estimation.task = server.start_task(request)
    except (ConnectionError, WorkerError) as error:
        estimation.failure = f"the process that makes it could not be started: {error}"
    return estimation


def configurations_to_estimate(space: SearchSpace) -> list[TrialParameters]:
    """Return a configuration for each memory class and micro-batch of a space; of many micro-batches, some in even ratios."""
    found: dict[MemoryClass, dict[int, TrialParameters]] = {}
    for structure in sorted(space.structures, key=lambda p: (p.per_device_train_batch_size, p.gradient_accumulation_steps)):
        found.setdefault(structure.memory_class(), {}).setdefault(structure.per_device_train_batch_size, structure)
    chosen = []
    for by_batch in found.values():
        batches = list(by_batch)
        if len(batches) > MAX_BATCHES:
            ratio = batches[-1] / batches[0]
            wanted = [batches[0] * ratio ** (step / (MAX_BATCHES - 1)) for step in range(MAX_BATCHES)]
            batches = sorted({min(batches, key=lambda batch: abs(batch - one)) for one in wanted})
        chosen += [by_batch[batch] for batch in batches]
    return chosen

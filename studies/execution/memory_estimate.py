"""The memory plan of a running study: made beside the preparation of the data, kept with the study, and used once it is there.

A plan may cost a study no more than it saves. On a card nothing waits for it: the first probe is the same with a plan and
without, and the plan is made by processor cores that a probe hardly needs. On a CPU it would take them from the steps that are
timed, so the study waits a few seconds, and then goes on without it. Traces are kept, so the next study of the same model has
its plan at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.isolation.background import BackgroundTask
from tradeoff.objectives.isolation.trial_server import TrialServer, WorkerError
from tradeoff.objectives.job.settings import TextClassificationJob
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES
from tradeoff.objectives.objective import Objective
from tradeoff.objectives.trial.messages import Refusal
from tradeoff.searchspace import MemoryClass, SearchSpace, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts

# About what a plan saves where probes are as short as on a CPU: two for each way to compute.
MAX_WAIT_S = 10.0
# With fewer cores a trace would slow down the steps of a probe on a card as well.
MIN_CPUS_BESIDE_A_GPU = 4
# Micro-batches that are planned in each memory class; what lies between is close to their line.
MAX_BATCHES = 48


@dataclass(kw_only=True)
class MemoryEstimation:
    """A memory plan in the making.

    Attributes:
        config: The study.
        device: The device of its trials.
        display: Where a line is shown.
        interrupts: What the user has asked for.
        task: The process that makes the plan; None where none is made.
        failure: Why none is made, in a sentence.
    """

    config: StudyConfig
    device: Mapping[str, Any]
    display: Display
    interrupts: Interrupts
    task: BackgroundTask | None = None
    failure: str | None = None

    def begin(self, study: optuna.Study, objective: Objective) -> None:
        """Waits for the estimates as long as that is worth it, unless the study holds some.

        Raises:
            TradeoffError: The study asks for a plan, and there can be none.
            KeyboardInterrupt: The user ended it.
        """
        if self.config.plan == "off":
            return
        if MEMORY_ESTIMATES in study.user_attrs:
            self.cancel()
            return
        if self.task is None:
            if self.failure is not None:
                self._do_without(self.failure)
            return  # another worker makes them
        shares_processors = device_class(self.device).uses_host_processors
        waits = shares_processors or self.device.get("num_cpus", 1) < MIN_CPUS_BESIDE_A_GPU
        timeout_s = None if self.config.plan == "on" else MAX_WAIT_S if waits else 0.0
        with self.interrupts.waiting():
            self.poll(study, objective, timeout_s=timeout_s)
        if self.task is not None and waits:
            self.cancel()
            self.display.message(f"no memory plan: it was not ready {timeout_s:g} s after the data; plan: on waits for it")

    def poll(self, study: optuna.Study, objective: Objective, *, timeout_s: float | None = 0.0) -> None:
        """Store the estimates with the study once they are there, and say in a line what they rule out."""
        if self.task is None or (reply := self.task.reply(timeout_s=timeout_s)) is None:
            return
        self.task = None
        if isinstance(reply, Refusal):
            self._do_without(reply.error)
            return
        study.set_user_attr(MEMORY_ESTIMATES, reply.answer)
        knowledge = objective.snapshot(study).knowledge
        needs = [knowledge.memory.lower_bound_mib(structure) or 0.0 for structure in objective.setup.space.structures]
        limit_mib = objective.setup.memory_limit_mib
        if num_never := sum(needed > limit_mib for needed in needs):
            self.display.message(
                f"memory plan: {num_never} of {len(needs)} configurations surely need more than"
                f" {limit_mib:,.0f} MiB and are never tried"
            )

    def _do_without(self, reason: str) -> None:
        if self.config.plan == "on":
            raise TradeoffError(f"plan: on needs a memory plan, and there is none: {reason}")
        self.display.message(f"no memory plan: {reason}")

    def cancel(self) -> None:
        """Ends the making of a plan."""
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
    sequence_length: int,
    display: Display,
    interrupts: Interrupts,
) -> MemoryEstimation:
    """Starts the process that makes a study's plan, unless the study wants none or has a job whose memory can't be told.

    Args:
        config: The study.
        server: Where the process is forked from.
        space: The space, without what the device lacks.
        device: The device of the trials.
        cache: Traces are kept in a folder in it.
        sequence_length: Tokens of the longest sequence.
        display: Where lines are shown.
        interrupts: What the user has asked for.
    """
    planning = MemoryEstimation(config=config, device=device, display=display, interrupts=interrupts)
    if config.plan == "off":
        return planning
    if not isinstance(config.job, TextClassificationJob):
        planning.failure = "what a job of your own takes is not predicted; probes measure it all the same"
        return planning
    request = {
        "task": "plan",
        "job": config.job.model_dump(),
        "configurations": [parameters.as_dict() for parameters in planned_configurations(space)],
        "device": dict(device),
        "memory_limit_mib": config.memory_limit_mib(device),
        "sequence_length": sequence_length,
        "cache_folder": str(cache / "traces"),
    }
    try:
        planning.task = server.start_task(request)
    except (ConnectionError, WorkerError) as error:
        planning.failure = f"the process that was to make it could not be started: {error}"
    return planning


def planned_configurations(space: SearchSpace) -> list[TrialParameters]:
    """One configuration for each memory class and micro-batch of a space; of many micro-batches, some in even ratios."""
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

"""The largest micro-batch that fits, exactly, for each compute configuration: found by probes that a linear model guides.

Memory is close to linear in the micro-batch, so after two probes the line through them meets the limit near the answer, and
the next two mostly settle it: one batch fits, the next does not. Where the line turns out to be wrong, steps away from it that
double, and halving the bracket at last, find the answer in a number of probes that grows with its logarithm.

Halving from a batch that fails, as is common, can miss up to half of what fits: https://github.com/huggingface/accelerate/issues/3650
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.outcome import Completed, Interrupted, Outcome, OutOfMemory
from tradeoff.objectives.measurements.records import TrialRecord, outcome_attributes
from tradeoff.searchspace import ACCUMULATION, MICRO_BATCH, MemoryClass, SearchSpace, TrialParameters
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.preparation import Preparation

# The first batch to try; a batch of one says little about the next one.
FIRST_BATCH = 8
# With nothing to draw a line through, a batch that fits is followed by one this many times larger.
GROWTH = 4

# Combinations of what memory depends on that are looked at: each takes about four probes.
MAX_COMBINATIONS = 256

# Parts of a memory class that have fields of their own in what is printed.
ALWAYS_SHOWN = ("gradient_checkpointing", "precision", "accumulates")

Probe = Callable[[TrialParameters], Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The largest micro-batch of one compute configuration.

    Attributes:
        parameters: The configuration with the batch that was found, or with 1 if not even that fits.
        batch: The largest batch that fits; None if none does, or a probe failed.
        peak_memory_mib: Its peak memory.
        samples_per_s: Training samples a second at this batch, updates left out.
        next_needs_mib: The least memory that the next batch needs; None if it was not tried.
        num_probes: Probes that were run.
        elapsed_s: The time of all probes.
        is_all: Whether the batch holds all training samples, so that there is no larger one.
        failure: The error of a probe that failed for another reason than memory, or None.
    """

    parameters: TrialParameters
    batch: int | None
    peak_memory_mib: float | None
    samples_per_s: float | None
    next_needs_mib: float | None
    num_probes: int
    elapsed_s: float
    is_all: bool = False
    failure: str | None = None

    @property
    def further(self) -> dict[str, Any]:
        """The rest of what decides memory, where it is searched: optimizer, attention and the like."""
        return {name: value for name, value in self.parameters.memory_class().items() if name not in ALWAYS_SHOWN}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "gradient_checkpointing": self.parameters.gradient_checkpointing,
            "precision": self.parameters.precision.value,
            "accumulates": self.parameters.gradient_accumulation_steps > 1,
            **self.further,
            "largest_batch": self.batch,
            "peak_memory_mib": self.peak_memory_mib,
            "samples_per_s": self.samples_per_s,
            "next_batch_needs_at_least_mib": self.next_needs_mib,
            "holds_all_samples": self.is_all,
            "probes": self.num_probes,
            "elapsed_s": self.elapsed_s,
            "failure": self.failure,
        }


def compute_configurations(space: SearchSpace) -> list[TrialParameters]:
    """Return a configuration, with a batch of 1, for each memory class of a space: checkpointing, precision and so on.

    A parameter that does not change the memory of a step takes the first of its values.

    Raises:
        TradeoffError: There are more than anybody would wait for.
    """
    left_out = {MICRO_BATCH, ACCUMULATION, *space.learning_only}
    listed = {
        name: (domain.values() or domain.examples()[-1:])[: None if space.knobs[name].memory else 1]
        for name, domain in space.domains.items()
        if name not in left_out
    }
    steps = space.domains.get(ACCUMULATION)
    listed[ACCUMULATION] = tuple(sorted((steps.values() if steps is not None else None) or (1,)))
    if (number := math.prod(map(len, listed.values()))) > MAX_COMBINATIONS:
        widest = max(listed, key=lambda name: len(listed[name]))
        raise TradeoffError(
            f"tradeoff fit finds the largest batch for at most {MAX_COMBINATIONS} combinations of what memory depends on, and"
            f" the space has {number:,}, with {len(listed[widest])} values of {widest} among them: name fewer values, such as"
            f" --set space.{widest}={listed[widest][0]}"
        )
    found: dict[MemoryClass, TrialParameters] = {}
    for values in itertools.product(*listed.values()):
        parameters = space.parameters({MICRO_BATCH: 1, **dict(zip(listed, values, strict=True))})
        if space.conflict(parameters) is None:
            found.setdefault(parameters.memory_class(), parameters)
    return list(found.values())


def fit_study(ready: Preparation, *, on_probe: Callable[[TrialParameters, Outcome], None]) -> Iterator[Fit]:
    """Find the largest batch for each compute configuration of a study, one after the other.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    enforced_mib = ready.config.limits.peak_memory_mib
    if enforced_mib is None and device_class(ready.device).uses_host_memory:
        # A process that takes all of the machine's memory would take others down with it.
        enforced_mib = ready.setup.memory_limit_mib

    def probe(parameters: TrialParameters) -> Outcome:
        request = {
            "job": ready.config.job.model_dump(),
            "parameters": parameters.as_dict(),
            "data_folders": ready.data["folders"],
            "stages": ["probe"],
            "memory_limit_mib": enforced_mib,
            "num_ranks": ready.config.devices_per_trial,
        }
        outcome = ready.runner.run_trial(request, time_limit_s=ready.config.limits.trial_time_s, on_progress=None)
        if isinstance(outcome, Interrupted):
            raise KeyboardInterrupt
        on_probe(parameters, outcome)
        return outcome

    # A batch on each device must not exceed all samples together.
    share = ready.setup.num_devices
    packed = {name: max(1, rows // share) for name, rows in ready.setup.num_packed.items()}
    setup = replace(ready.setup, num_train=ready.setup.num_train // share, num_packed=packed)
    return fit_all(compute_configurations(ready.space), probe, Knowledge(setup=setup))


def fit_all(configurations: Iterable[TrialParameters], probe: Probe, knowledge: Knowledge) -> Iterator[Fit]:
    """Find the largest batch for each of `configurations`; the probes of one of them guide those of the next.

    Args:
        configurations: The configurations; their batch is not used.
        probe: Runs a configuration's probe to its outcome.
        knowledge: What is known already; its setup's `num_rows` is the largest batch that there is.
    """
    for configuration in configurations:
        search = _Search(configuration=configuration, probe=probe, knowledge=knowledge)
        yield search.run()
        knowledge = search.knowledge


@dataclass(kw_only=True)
class _Search:
    """The search for one configuration: the largest batch that fitted, and the smallest that did not."""

    configuration: TrialParameters
    probe: Probe
    knowledge: Knowledge
    low: int = 0
    high: int = field(init=False)
    largest: Completed | None = None
    next_needs_mib: float | None = None
    failure: str | None = None
    num_probes: int = 0
    num_wrong: int = 0

    def __post_init__(self) -> None:
        self.high = self._num_rows + 1

    @property
    def _num_rows(self) -> int:
        """The sequences that a batch may hold at most; packed, each is of several samples."""
        return self.knowledge.setup.num_rows(self.configuration)

    def run(self) -> Fit:
        """Probe until the bracket is closed."""
        begin_s = time.perf_counter()
        while self.high - self.low > 1 and self.failure is None:
            batch = self._next_batch()
            self._take(batch, self.probe(self._with(batch)))
        probed = None if self.largest is None else self.largest.measurements.probe
        found = probed is not None and self.failure is None
        samples = self.low * self.knowledge.setup.num_train / self._num_rows
        return Fit(
            parameters=self._with(max(self.low, 1)),
            batch=self.low if found else None,
            peak_memory_mib=probed.memory.peak_memory_mib if probed is not None and found else None,
            samples_per_s=samples / probed.micro_step_time_s if probed is not None and found else None,
            next_needs_mib=self.next_needs_mib,
            num_probes=self.num_probes,
            elapsed_s=time.perf_counter() - begin_s,
            is_all=found and self.low == self._num_rows,
            failure=self.failure,
        )

    def _next_batch(self) -> int:
        """Return where the line meets the limit; once a probe has shown the line to be wrong, ever farther away from there."""
        # Of a batch that can't have been measured, only a line can tell.
        if self.knowledge.memory_mib(self._with(self._num_rows + 1)) is None:
            return self._without_a_line()
        fitting, too_large = self.low, self.high
        while too_large - fitting > 1:
            middle = (fitting + too_large) // 2
            fitting, too_large = (middle, too_large) if self._predicted(middle) <= self._limit_mib else (fitting, middle)
        step = 1 << self.num_wrong
        if fitting == self.low:
            # By the line there is nothing more; the next batch shows it.
            batch = self.low + step
        elif fitting == self.high - 1 and self._has_failed and self._predicted(self.high) <= self._limit_mib:
            # The farther the line had to reach, the farther it may be off.
            batch = self.high - max(1, (self.high - self.low) // 8) * step
        else:
            return fitting
        self.num_wrong += 1
        middle = (self.low + self.high) // 2
        return min(batch, max(middle, self.low + 1)) if fitting == self.low else max(batch, middle)

    def _without_a_line(self) -> int:
        if not self._has_failed:
            return min(self.low * GROWTH or FIRST_BATCH, self._num_rows)
        return max(self.low + 1, min(math.isqrt(max(self.low, 1) * self.high), self.high - 1))

    @property
    def _limit_mib(self) -> float:
        return self.knowledge.setup.memory_limit_mib

    @property
    def _has_failed(self) -> bool:
        """True if the upper end of the bracket was probed."""
        return self.high <= self._num_rows

    def _predicted(self, batch: int) -> float:
        memory = self.knowledge.memory_mib(self._with(batch))
        assert memory is not None  # there is a line
        return memory[0]

    def _take(self, batch: int, outcome: Outcome) -> None:
        self.num_probes += 1
        parameters = self._with(batch)
        attributes = outcome_attributes(outcome)
        record = TrialRecord(number=0, outcome=attributes.pop("outcome"), params=parameters.as_dict(), attributes=attributes)
        self.knowledge = self.knowledge.with_observation(Observation(record=record, parameters=parameters))
        match outcome:
            case Completed():
                self.low, self.largest = batch, outcome
            case OutOfMemory():
                self.high, self.next_needs_mib = batch, self._limit_mib + outcome.shortfall_mib
            case _:
                self.failure = f"batch {batch}: {outcome.reason}"

    def _with(self, batch: int) -> TrialParameters:
        return self.configuration.replace(per_device_train_batch_size=batch)

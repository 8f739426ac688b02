"""The probe: a few seconds of the real Trainer that measure a configuration's memory and speed, worst case first.

Peak memory shows at once: an evaluation batch and two optimizer steps on the longest sequences reach the peak of a whole
training. The first step creates the optimizer's state, the second is the first to run with it. So a configuration that does
not fit fails here, within seconds, and not in the middle of an epoch.

Two micro-batches stand for any number of accumulation steps: with more than one, gradients stay allocated through a forward
pass, and further micro-batches add nothing but their token ids.

On several devices every rank does this with its share of the batch and compares its own peak with the limit; the highest peak
is the trial's. The times are those of rank 0.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from tradeoff.objectives.data.samples import longest_rows, ordinary_rows, row_lengths, take
from tradeoff.objectives.device.base import DeviceMonitor
from tradeoff.objectives.device.load import ProcessorLoad
from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.measurements.outcome import Memory, ProbeResult
from tradeoff.objectives.trainers.custom_trainer import tolerant_metrics
from tradeoff.objectives.trial.compilation import CompileClock, num_compiled
from tradeoff.objectives.trial.ranks import Ranks, highest
from tradeoff.objectives.trial.session import TrialSession
from tradeoff.objectives.trial.step_clock import StepClock

MEMORY_STEPS = 2
WARM_UP_STEPS = 1
MAX_TIMED_STEPS = 50
COMPILING_STEPS = 4  # extra steps if the model is compiled: those in which something is compiled are not timed
TIMED_S = 0.2  # steps are timed for at least this long
# They are timed for longer while their spread is unknown or large; of a large batch, one step is enough.
MAX_TIMED_S = 1.0
MAX_SPREAD = 0.02
# NVML updates its energy counter every 20 to 100 ms, so power takes longer to measure than time.
MAX_POWER_STEPS = 1000
POWER_S = 2.0


def probe(session: TrialSession) -> ProbeResult:
    """Measure a configuration's peak memory and step times, and store them in the session.

    Raises:
        Exception: Whatever the training would raise; most often that memory ran out.
    """
    session.reporter.enter("probe")
    begin_s = session.clock_s()
    compiles = bool(session.parameters.get("torch_compile"))
    clock = StepClock(session.clock_s, skip_steps=WARM_UP_STEPS, num_compiled=num_compiled if compiles else None)
    compile_clock = CompileClock(session.clock_s)
    session.meter.reset_peak()
    with session.trainer(
        eval_strategy="no",
        logging_strategy="no",
        train_sampling_strategy="sequential",
        gradient_accumulation_steps=min(session.parameters.gradient_accumulation_steps, 2),
    ) as trainer:
        if compiles:
            compile_clock.attach(trainer)
        trained_on, evaluated_on = trainer.train_dataset, trainer.eval_dataset if session.job.evaluates else None
        memory = _measure_memory(session, trainer, evaluated_on)
        session.device.lift_memory_limit()
        if session.memory_limit_mib is not None and memory.peak_memory_mib is not None:
            session.device.check_peak(memory.peak_memory_mib, session.memory_limit_mib)
        memory = highest([Memory(**peaks) for peaks in session.ranks.gather("probe", asdict(memory))])
        trainer.train_dataset = trained_on
        eval_batch_time_s, timed = _measure_time(session, trainer, evaluated_on, clock)
        gradients_mib = sum(w.numel() * w.element_size() for w in trainer.model.parameters() if w.requires_grad) / 2**20
    micro_step_time_s = statistics.median(clock.micro_step_s)
    update_time_s = statistics.median(clock.update_s)
    num_ranks, num_samples = session.ranks.world_size, len(trained_on)
    schedule = Schedule.of(session.job, session.parameters, num_samples=num_samples, num_devices=num_ranks)
    # An epoch's last micro-batch is smaller if the samples don't divide evenly: a shape that the probe does not see.
    has_smaller = num_samples % (session.parameters.per_device_train_batch_size * num_ranks) > 0
    compile_time_s = compile_clock.time_s(further_shapes=int(has_smaller))
    session.probe_result = ProbeResult(
        memory=memory,
        micro_step_time_s=micro_step_time_s,
        optimizer_step_time_s=update_time_s,
        eval_batch_time_s=eval_batch_time_s,
        estimated_train_time_s=compile_time_s + schedule.train_time_s(micro_step_time_s, update_time_s),
        probe_time_s=session.clock_s() - begin_s,
        gradients_mib=gradients_mib,
        power_w=timed.power_w,
        compile_time_s=compile_time_s,
        num_rows=num_samples,
        num_timed_steps=len(clock.update_s),
        micro_step_spread=clock.micro_step_spread,
        busy_share=timed.busy_share,
        num_other_processes=timed.num_other_processes,
    )
    session.note_memory("probe")
    session.report()
    return session.probe_result


def _measure_memory(session: TrialSession, trainer: Trainer, evaluated_on: Any) -> Memory:
    with session.device.measuring_memory():
        if evaluated_on is not None:
            _evaluate(trainer, longest_rows(evaluated_on, session.job.eval_batch_size * session.ranks.world_size))
        micro_batches = trainer.args.gradient_accumulation_steps * session.ranks.world_size
        batch = session.parameters.per_device_train_batch_size * micro_batches
        trainer.train_dataset = longest_rows(trainer.train_dataset, batch, repeats=MEMORY_STEPS)
        trainer.args.max_steps = MEMORY_STEPS
        first_step = _FirstStep(session)
        trainer.add_callback(first_step)
        trainer.train()
        trainer.remove_callback(first_step)
        return session.meter.read()


def _measure_time(
    session: TrialSession, trainer: Trainer, evaluated_on: Any, clock: StepClock
) -> tuple[float | None, "_Circumstances"]:
    """Time ordinary steps with `clock`.

    Returns:
        The time of an evaluation batch, or None if none was timed, and what was measured besides the times.
    """
    num_ranks = session.ranks.world_size
    num_steps = WARM_UP_STEPS + (MAX_POWER_STEPS if session.measures_power else MAX_TIMED_STEPS)
    num_steps += COMPILING_STEPS if session.parameters.get("torch_compile") else 0
    # The Trainer reads its arguments anew for each training; with one micro-batch a step the two times can be told apart.
    trainer.args.gradient_accumulation_steps = trainer.accelerator.gradient_accumulation_steps = 1
    trainer.args.max_steps = num_steps
    trainer.train_dataset = _timed_rows(session, trainer.train_dataset, num_steps * num_ranks)
    clock.attach(trainer, exchanges=num_ranks > 1)
    enough_s = POWER_S if session.measures_power else TIMED_S
    with session.device.monitor() as monitor:
        compiles = bool(session.parameters.get("torch_compile"))
        energy_j = monitor.total_energy_j if session.measures_power else DeviceMonitor().total_energy_j
        until = _UntilTimed(clock, session.clock_s, energy_j, enough_s, session.ranks, compiles=compiles)
        trainer.add_callback(until)
        trainer.train()
        num_other_processes = monitor.num_other_processes()
    powers_w = [power_w for power_w in session.ranks.gather("power", until.power_w) if power_w is not None]
    timed = _Circumstances(
        power_w=sum(powers_w) if powers_w else None,
        # Ranks on one machine's processors take them from each other.
        busy_share=until.busy_share if num_ranks == 1 else None,
        num_other_processes=num_other_processes,
    )
    if evaluated_on is None:
        return None, timed
    rows = ordinary_rows(evaluated_on, 3 * session.job.eval_batch_size * num_ranks, session.job.seed, repeat=False)
    return _time_prediction_steps(session, trainer, rows), timed


def _time_prediction_steps(session: TrialSession, trainer: Trainer, dataset: Any) -> float | None:
    """Return the median time of a batch; None if the user's own `evaluate` does not call `prediction_step`."""
    times_s: list[float] = []
    original = trainer.prediction_step

    @wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin_s = session.clock_s()
        result = original(*args, **kwargs)
        times_s.append(session.clock_s() - begin_s)
        return result

    trainer.prediction_step = timed
    _evaluate(trainer, dataset)
    return statistics.median(times_s) if times_s else None


def _evaluate(trainer: Trainer, dataset: Any) -> None:
    """Evaluate a few samples, for the memory and the time that it takes."""
    with tolerant_metrics(trainer, lambda _: None):
        trainer.evaluate(eval_dataset=dataset)


def _timed_rows(session: TrialSession, dataset: Any, num_steps: int) -> Any:
    """Return the rows of `num_steps` micro-batches as a training sees them.

    Samples that are grouped by length make batches of different lengths, of which only a few are timed: those that are nearest
    to the mean length represent all.
    """
    batch = session.parameters.per_device_train_batch_size
    lengths = row_lengths(dataset) if session.parameters.get("train_sampling_strategy") == "group_by_length" else None
    if lengths is None or len(lengths) < batch:
        return ordinary_rows(dataset, batch * num_steps, session.job.seed)
    effective_batch = batch * session.parameters.gradient_accumulation_steps
    generator = torch.Generator().manual_seed(session.job.seed)
    order = get_length_grouped_indices(lengths, effective_batch, generator=generator)
    batches = [order[begin : begin + batch] for begin in range(0, len(lengths) - batch + 1, batch)]
    longest = [max(lengths[row] for row in rows) for rows in batches]
    mean = statistics.fmean(longest)
    nearest = sorted(range(len(batches)), key=lambda position: abs(longest[position] - mean))
    return take(dataset, [row for step in range(num_steps) for row in batches[nearest[step % len(nearest)]]])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Circumstances:
    """What was measured while steps were timed, as `ProbeResult` describes it."""

    power_w: float | None
    busy_share: float | None
    num_other_processes: int | None


class _FirstStep(TrainerCallback):  # type: ignore[misc]
    """Records the end of the trial's first optimizer step."""

    def __init__(self, session: TrialSession) -> None:
        self._session = session

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._session.note_first_step()


class _UntilTimed(TrainerCallback):  # type: ignore[misc]
    """Ends the timed steps once they have taken long enough, and agree.

    Ranks must end after the same step, or one would wait for the others forever. So after a fixed number of first steps, the
    same in each rank whatever it compiles in them, rank 0 decides how many more to take, and decides again after these.

    Attributes:
        power_w: The average power since the warm-up; None if nothing counts energy.
        busy_share: The share of the processors that other processes took since the warm-up; None if nothing was timed.
    """

    def __init__(
        self,
        clock: StepClock,
        now_s: Callable[[], float],
        energy_j: Callable[[], float | None],
        enough_s: float,
        ranks: Ranks,
        *,
        compiles: bool = False,
    ) -> None:
        self._clock = clock
        self._now_s = now_s
        self._energy_j = energy_j
        self._enough_s = enough_s
        self._ranks = ranks
        self._first_steps = WARM_UP_STEPS + (COMPILING_STEPS if compiles else 0)
        self._begin_s: float | None = None
        self._begin_j: float | None = None
        self._decides_after: float = 1
        self._load: ProcessorLoad | None = None
        self.power_w: float | None = None
        self.busy_share: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        num_timed = state.global_step - self._first_steps
        # With one rank, a step that compiled something is not timed, nor is any before it. Ranks may compile in different
        # steps, so with several only the step's number may decide.
        is_early = not self._clock.update_s if self._ranks.world_size == 1 else num_timed < 1
        if is_early:
            self._load = ProcessorLoad()
            self._begin_s, self._begin_j = self._now_s(), self._energy_j()
        elif self._begin_s is not None and self._is_enough(num_timed, self._now_s() - self._begin_s):
            control.should_training_stop = True

    def _is_enough(self, num_timed: int, elapsed_s: float) -> bool:
        if self._ranks.world_size == 1:
            return elapsed_s >= self._wanted_s(elapsed_s)
        if num_timed == self._decides_after:
            # A rank that has compiled in every step so far has timed none of them: then all continue to the last step.
            more = math.ceil((self._wanted_s(elapsed_s) / elapsed_s - 1) * num_timed) if self._clock.update_s else None
            wanted = self._ranks.gather(f"timed steps after {num_timed}", more)
            if wanted[0] is not None and wanted[0] <= 0 and None not in wanted:
                return True
            self._decides_after = math.inf if None in wanted else num_timed + wanted[0]
        return False

    def _wanted_s(self, elapsed_s: float) -> float:
        """Return how long to go on in all: until the spread is known and small, and not for longer than the limit."""
        spread = self._clock.micro_step_spread
        is_known = spread is not None and spread <= MAX_SPREAD
        if elapsed_s < self._enough_s or is_known:
            return self._enough_s
        return min(2 * elapsed_s, max(MAX_TIMED_S, self._enough_s)) if elapsed_s < MAX_TIMED_S else elapsed_s

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.busy_share = self._load.busy_share() if self._load is not None else None
        if self._begin_s is not None and self._begin_j is not None and (energy_j := self._energy_j()) is not None:
            elapsed_s = self._now_s() - self._begin_s
            self.power_w = (energy_j - self._begin_j) / elapsed_s if elapsed_s > 0 else None

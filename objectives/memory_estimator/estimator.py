"""Estimates the peak memory of every configuration of a space without a GPU: the entry point of the package.

Each class of configurations (checkpointing and precision) is traced at a few batch sizes, and every batch in between follows
exactly. Each configuration's whole run is then replayed through the caching allocator, once without a limit and once within the
GPU's memory.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.memory_estimator.events import LinearSegments, NotAligned, Segments
from tradeoff.objectives.memory_estimator.largest_batch import largest_batch
from tradeoff.objectives.memory_estimator.replay import (
    Replays,
    RunLength,
    RunPeak,
    accumulation_groups,
    replay_run,
    with_late_releases,
)
from tradeoff.objectives.memory_estimator.run_estimate import MIN_ORDER_MARGIN, GpuMemory, RunEstimate, estimate_run
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.store import TraceStore
from tradeoff.searchspace import TrialParameters

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tradeoff.objectives.memory_estimator.tracing.trace import Tracer

# Other orders of releases to replay for each class of configurations, with and without accumulation.
_NUM_ORDERS = 2
# The largest micro-batch to look for where the samples set no limit.
_MOST_SEARCHED = 65_536


class MemoryEstimator:
    """Estimates the memory of one model's training runs, and keeps its traces.

    Examples:
        >>> from transformers import BertConfig
        >>> small = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=100)
        >>> settings = TraceSettings(sequence_length=16, num_labels=5)
        >>> estimator = MemoryEstimator(small, settings=settings, gpu=GpuMemory(total_mib=1000, context_mib=417))
        >>> [estimate] = estimator.estimate([TrialParameters(per_device_train_batch_size=4)])
        >>> estimate.fits
        True

    Args:
        model_config: A hub name, a directory with a `config.json`, such a file, its contents, or a transformers configuration.
        settings: How training runs.
        gpu: The GPU's memory.
        train_samples: Samples in a pass over the data; None for a run long enough to repeat itself. A run of few steps can
            need less: before the first one there is no optimizer state.
        epochs: Passes over the data.
        eval_batch_size: The batch size of an evaluation before and after training; None for no evaluation.
        num_kept_batches: The batches of an evaluation whose predictions are kept on the GPU.
        cache_folder: The directory to store traces in; None to keep them in memory only.
        progress: Called with a sentence before each trace.
        say: Called with a line for the user if a stored trace is damaged, or none can be stored. Default: `progress`.
        tracer: Makes the tracer, in place of `tradeoff.objectives.memory_estimator.tracing.trace.Tracer`.

    Raises:
        ValueError: There is no such configuration, or a setting is out of range.
    """

    def __init__(
        self,
        model_config: "str | Path | Mapping[str, Any] | PretrainedConfig",
        *,
        settings: TraceSettings,
        gpu: GpuMemory | None = None,
        train_samples: int | None = None,
        epochs: float = 1.0,
        eval_batch_size: int | None = None,
        num_kept_batches: int = 0,
        cache_folder: Path | None = None,
        progress: Callable[[str], None] | None = None,
        say: Callable[[str], None] | None = None,
        tracer: "Callable[[PretrainedConfig, TraceSettings], Tracer] | None" = None,
    ) -> None:
        from tradeoff.objectives.memory_estimator.tracing.model_config import load_config

        self._settings = settings
        self._gpu = gpu or GpuMemory()
        self._train_samples = train_samples
        self._epochs = epochs
        self._eval_batch_size = eval_batch_size
        self._num_kept_batches = num_kept_batches
        self._progress = progress or (lambda _: None)
        self._config = load_config(model_config)
        self._store = TraceStore(self._config.to_dict(), settings, cache_folder, say or self._progress)
        self._make_tracer = tracer
        self._tracer: Tracer | None = None
        self._linear: dict[StepClass, LinearSegments | None] = {}
        self._recent: dict[tuple[StepClass, int], Segments] = {}
        self._replays = Replays()
        self._margins: dict[tuple[Any, ...], float] = {}
        self._largest: dict[StepClass, int] = {}

    def estimate(self, configurations: Iterable[TrialParameters]) -> list[RunEstimate]:
        """Return the estimate of each configuration, in the order given.

        Raises:
            ValueError: The model can't be traced.
        """
        configurations = list(configurations)
        largest: dict[StepClass, int] = {}
        for parameters in configurations:
            step_class = _step_class(parameters)
            largest[step_class] = max(largest.get(step_class, 0), self._batch_size(parameters), self._eval_batch_size or 0)
        # Neighbours share their segments, which are then made once. The largest batch of a class comes first, for its margin,
        # and the most accumulation, whose replay is often that of less.
        ordered = sorted(
            dict.fromkeys(configurations),
            key=lambda each: (str(_step_class(each)), -self._batch_size(each), -each.gradient_accumulation_steps),
        )
        estimates = {parameters: self._estimate(parameters, largest[_step_class(parameters)]) for parameters in ordered}
        return [estimates[parameters] for parameters in configurations]

    def largest_fitting(self, estimates: Iterable[RunEstimate]) -> dict[TrialParameters, RunEstimate | None]:
        """Find the largest micro-batch that fits for each combination of the other parameters.

        Args:
            estimates: Those that are there already, made for a GPU whose memory is known.

        Returns:
            The estimate of that batch by the parameters with a batch of 1; None if not even that fits.
        """
        known: dict[TrialParameters, list[int]] = {}
        for each in estimates:
            batches = known.setdefault(each.parameters.replace(per_device_train_batch_size=1), [])
            batches.append(each.parameters.per_device_train_batch_size)
        return {one: self._largest_fitting(one, batches) for one, batches in known.items()}

    def _largest_fitting(self, one: TrialParameters, known: list[int]) -> RunEstimate | None:
        step_class, capacity = _step_class(one), self._gpu.allocator_bytes
        assert capacity is not None

        def at(batch: int) -> TrialParameters:
            return one.replace(per_device_train_batch_size=batch)

        best = largest_batch(
            lambda batch: self._holds(at(batch), max(known), capacity),
            known,
            most=self._train_samples or _MOST_SEARCHED,
            guess=self._guess(at, sorted(known), capacity),
            between=lambda low, high: self._where_full(at, low, high, capacity),
        )
        linear = self._linear.get(step_class)
        if best is not None and linear is not None and best > max(known) and linear.at(best) != self._traced(step_class, best):
            # Beyond the batches at which sizes were checked they are no lines any more.
            self._linear[step_class] = None
            self._recent.clear()
            self._replays = Replays()
            return self._largest_fitting(one, [best])
        if best is None:
            return None
        self._largest[step_class] = best
        return self._estimate(at(best), max(known))

    def _guess(self, at: Callable[[int], TrialParameters], known: list[int], capacity: int) -> int | None:
        """Return a batch that may be the largest that fits: that of other accumulation, or where a line reaches the limit."""
        best = self._largest.get(_step_class(at(1)))
        if best is not None or len(known) < 2:
            return best
        return max(1, self._where_full(at, known[-2], known[-1], capacity))

    def _where_full(self, at: Callable[[int], TrialParameters], small: int, large: int, capacity: int) -> int:
        """Return the batch at which a line through two others reaches the capacity."""
        small_bytes, large_bytes = (self._free_peak(at(batch), large).reserved_bytes for batch in (small, large))
        return small + int((capacity - small_bytes) * (large - small) / max(1, large_bytes - small_bytes))

    def _estimate(self, parameters: TrialParameters, largest: int) -> RunEstimate:
        capacity = self._gpu.allocator_bytes
        limited = None if capacity is None else self._peak(parameters, largest, capacity)
        free = self._free_peak(parameters, largest)
        margin_of = _step_class(parameters), parameters.gradient_accumulation_steps > 1
        if margin_of not in self._margins:
            self._margins[margin_of] = self._margin(free, parameters, largest)
        fits = self._fits(parameters, largest)
        return estimate_run(parameters, free, limited, self._gpu, fits=fits, order_margin=self._margins[margin_of])

    def _fits(self, parameters: TrialParameters, largest: int) -> bool | None:
        bounds = self._gpu.allocator_bounds_bytes
        if bounds is None:
            return None
        # It may fit beside a small context alone.
        verdicts = {self._holds(parameters, largest, capacity) for capacity in bounds}
        return verdicts.pop() if len(verdicts) == 1 else None

    def _holds(self, parameters: TrialParameters, largest: int, capacity: int) -> bool:
        """Return whether a run stays within what the allocator may reserve."""
        return self._peak(parameters, largest, capacity).failed_at is None

    def _free_peak(self, parameters: TrialParameters, largest: int) -> RunPeak:
        """Return the peak of a run without a limit, which one that never felt its limit is as well."""
        if (capacity := self._gpu.allocator_bytes) is not None:
            limited = self._peak(parameters, largest, capacity)
            if not limited.felt_limit:
                return limited
        return self._peak(parameters, largest)

    def _peak(
        self, parameters: TrialParameters, largest: int, capacity: int | None = None, *, seed: int | None = None
    ) -> RunPeak:
        """Replay a run, or know its peak from one that is the same.

        Args:
            parameters: The run.
            largest: The largest batch for which sizes are checked to be lines.
            capacity: The bytes that the allocator may reserve; None for no limit.
            seed: That of another order of releases; None for the order that was traced.
        """
        step_class, batch = _step_class(parameters), self._batch_size(parameters)
        length = None
        if self._train_samples is not None:
            length = RunLength(micro_batches_per_epoch=-(-self._train_samples // batch), epochs=self._epochs)

        def replay() -> RunPeak:
            segments = self._segments(step_class, batch, largest)
            evaluation = None
            if self._eval_batch_size is not None:
                evaluation = self._segments(step_class, self._eval_batch_size, largest)
            return replay_run(
                segments if seed is None else with_late_releases(segments, seed),
                accumulation_steps=parameters.gradient_accumulation_steps,
                length=length,
                capacity_bytes=capacity,
                evaluation=evaluation,
                num_kept_batches=self._num_kept_batches,
                expandable_segments=self._gpu.expandable_segments,
            )

        groups = accumulation_groups(parameters.gradient_accumulation_steps, length)
        return self._replays.peak((step_class, batch, capacity, seed), groups, replay)

    def _margin(self, peak: RunPeak, parameters: TrialParameters, largest: int) -> float:
        """Return the share by which other orders of releases raise what the allocator retains beside what is in use."""
        late = [self._peak(parameters, largest, seed=seed) for seed in range(_NUM_ORDERS)]
        retained = max(each.reserved_bytes - each.allocated_bytes for each in late)
        more_bytes = retained - (peak.reserved_bytes - peak.allocated_bytes)
        return max(MIN_ORDER_MARGIN, more_bytes / peak.reserved_bytes)

    def _batch_size(self, parameters: TrialParameters) -> int:
        batch = parameters.per_device_train_batch_size
        return batch if self._train_samples is None else min(batch, self._train_samples)

    def _segments(self, step_class: StepClass, batch: int, largest_batch: int) -> Segments:
        key = (step_class, batch)
        if key not in self._recent:
            # A run needs the segments of two batch sizes, for training and for evaluation.
            while len(self._recent) >= 2:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = self._make_segments(step_class, batch, largest_batch)
        return self._recent[key]

    def _make_segments(self, step_class: StepClass, batch: int, largest_batch: int) -> Segments:
        # A batch of one is a special case: dimensions of size 1 are laid out differently, which saves copies.
        if batch < 2:
            return self._traced(step_class, batch)
        if step_class not in self._linear:
            self._linear[step_class] = self._fit(step_class, max(largest_batch, 4))
        linear = self._linear[step_class]
        return self._traced(step_class, batch) if linear is None else linear.at(batch)

    def _fit(self, step_class: StepClass, largest_batch: int) -> LinearSegments | None:
        """Return sizes as functions of the batch, checked at the largest one; None if they are not linear."""
        try:
            linear = LinearSegments(
                small=self._traced(step_class, 2), small_batch=2, large=self._traced(step_class, 3), large_batch=3
            )
        except NotAligned:
            return None
        return linear if linear.at(largest_batch) == self._traced(step_class, largest_batch) else None

    def _traced(self, step_class: StepClass, batch: int) -> Segments:
        checkpointing = "checkpointing" if step_class.gradient_checkpointing else "plain"
        key = f"{step_class.precision.value}-{checkpointing}-{batch}"
        segments = self._store.get(key)
        if segments is None:
            if self._tracer is None:
                self._progress(f"building {self._config.model_type} on fake tensors")
                self._tracer = (self._make_tracer or _tracer_class(self._settings))(self._config, self._settings)
            self._progress(f"tracing {step_class.precision.value}, {checkpointing}, batch {batch}")
            segments = self._tracer.trace(step_class, batch)
            self._store.put(key, segments)
        return segments


def _step_class(parameters: TrialParameters) -> StepClass:
    return StepClass(gradient_checkpointing=parameters.gradient_checkpointing, precision=parameters.precision)


def _tracer_class(settings: TraceSettings) -> "type[Tracer]":
    if settings.sharding is not None:
        try:
            from tradeoff.objectives.memory_estimator.tracing.sharded_trace import ShardedTracer
        except ImportError as error:
            raise ValueError(
                "sharding is planned as accelerate does it with FSDP2, which this release can't (pip install -U accelerate)"
            ) from error
        return ShardedTracer
    from tradeoff.objectives.memory_estimator.tracing.trace import Tracer

    return Tracer

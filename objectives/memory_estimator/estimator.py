"""Predicts the peak memory of every configuration of a space, with no GPU: the entry point of the package.

Each class of configurations (checkpointing and precision) is traced at a few batch sizes; every batch in between follows
exactly. Each configuration's whole run is then replayed through the allocator, once without a limit and once within the card's
memory.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.memory_estimator.events import LinearSegments, NotAligned, Segments
from tradeoff.objectives.memory_estimator.replay import MAX_MICRO_BATCHES, RunLength, RunPeak, accumulation_groups, replay_run
from tradeoff.objectives.memory_estimator.run_estimate import (
    DEFAULT_CONTEXT_MEMORY_MIB,
    LOADED_CODE_MEMORY_MIB,
    Device,
    MemoryPrediction,
    predict_run,
)
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.store import TraceStore
from tradeoff.searchspace import TrialParameters

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tradeoff.objectives.memory_estimator.tracing.trace import Tracer


class Planner:
    """Predicts the configurations of one model, and keeps what it traced.

    Args:
        model_config: A hub name, a folder with a `config.json`, such a file, its contents, or a transformers configuration.
        settings: How training runs.
        device: The card.
        train_samples: Samples in a pass over the data; None for a run long enough to repeat itself. A run of few steps can
            take less: before the first one there is no optimizer state.
        epochs: Passes over the data.
        eval_batch_size: The batch with which the run evaluates before and after training; None for no evaluation.
        cache_folder: Where traces are kept; None for memory alone.
        progress: Called with a sentence before each trace.

    Raises:
        ValueError: There is no such configuration, or a setting is out of range.
    """

    def __init__(
        self,
        model_config: "str | Path | Mapping[str, Any] | PretrainedConfig",
        *,
        settings: TraceSettings,
        device: Device | None = None,
        train_samples: int | None = None,
        epochs: float = 1.0,
        eval_batch_size: int | None = None,
        cache_folder: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        from tradeoff.objectives.memory_estimator.tracing.model_config import load_config

        self._settings = settings
        self._device = device or Device()
        self._train_samples = train_samples
        self._epochs = epochs
        self._eval_batch_size = eval_batch_size
        self._progress = progress or (lambda _: None)
        self._config = load_config(model_config)
        self._store = TraceStore(self._config.to_dict(), settings, cache_folder)
        self._tracer: Tracer | None = None
        self._linear: dict[StepClass, LinearSegments | None] = {}
        self._recent: dict[tuple[StepClass, int], Segments] = {}
        self._replays: dict[tuple[Any, ...], tuple[RunPeak, RunPeak | None]] = {}

    def predict(self, configurations: Iterable[TrialParameters]) -> list[MemoryPrediction]:
        """The prediction of each configuration, in the order given.

        Raises:
            ValueError: The model can't be traced.
        """
        configurations = list(configurations)
        largest: dict[StepClass, int] = {}
        for parameters in configurations:
            step_class = _step_class(parameters)
            largest[step_class] = max(largest.get(step_class, 0), self._batch_size(parameters), self._eval_batch_size or 0)
        # Neighbours share their segments, so they are made once.
        order = sorted(
            range(len(configurations)),
            key=lambda index: (str(_step_class(configurations[index])), self._batch_size(configurations[index])),
        )
        predictions = {
            index: self._predict(configurations[index], largest[_step_class(configurations[index])]) for index in order
        }
        return [predictions[index] for index in range(len(configurations))]

    def _predict(self, parameters: TrialParameters, largest_batch: int) -> MemoryPrediction:
        step_class = _step_class(parameters)
        batch = self._batch_size(parameters)
        length = None
        if self._train_samples is not None:
            length = RunLength(micro_batches_per_epoch=-(-self._train_samples // batch), epochs=self._epochs)
        # Equal groups of micro-batches are equal runs: 16 and 32 steps of accumulation need the same replay.
        groups = tuple(
            min(group, MAX_MICRO_BATCHES + 1) for group in accumulation_groups(parameters.gradient_accumulation_steps, length)
        )
        key = (step_class, batch, groups)
        if key not in self._replays:
            segments = self._segments(step_class, batch, largest_batch)
            evaluation = None
            if self._eval_batch_size is not None:
                evaluation = self._segments(step_class, self._eval_batch_size, largest_batch)
            self._replays[key] = self._replay(segments, evaluation, parameters.gradient_accumulation_steps, length)
        free, limited = self._replays[key]
        return predict_run(parameters, free, limited, self._device)

    def _replay(
        self, segments: Segments, evaluation: Segments | None, accumulation_steps: int, length: RunLength | None
    ) -> tuple[RunPeak, RunPeak | None]:
        capacity = self._device.allocator_bytes
        free = replay_run(segments, accumulation_steps=accumulation_steps, length=length, evaluation=evaluation)
        if capacity is None:
            return free, None
        if free.reserved_bytes <= capacity:
            return free, free
        return free, replay_run(
            segments, accumulation_steps=accumulation_steps, length=length, capacity_bytes=capacity, evaluation=evaluation
        )

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
        # A batch of one is its own case: dimensions of size 1 are laid out otherwise, and copies fall away.
        if batch < 2:
            return self._traced(step_class, batch)
        if step_class not in self._linear:
            self._linear[step_class] = self._fit(step_class, max(largest_batch, 4))
        linear = self._linear[step_class]
        return self._traced(step_class, batch) if linear is None else linear.at(batch)

    def _fit(self, step_class: StepClass, largest_batch: int) -> LinearSegments | None:
        """Sizes as functions of the batch, checked at the largest one; None where they are not linear."""
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
                from tradeoff.objectives.memory_estimator.tracing.trace import Tracer

                self._progress(f"building {self._config.model_type} on fake tensors")
                self._tracer = Tracer(self._config, self._settings)
            self._progress(f"tracing {step_class.precision.value}, {checkpointing}, batch {batch}")
            segments = self._tracer.trace(step_class, batch)
            self._store.put(key, segments)
        return segments


def plan(
    model_config: "str | Path | Mapping[str, Any] | PretrainedConfig",
    configurations: Iterable[TrialParameters],
    *,
    settings: TraceSettings,
    device_memory_mib: float | None = None,
    context_memory_mib: float = DEFAULT_CONTEXT_MEMORY_MIB,
    loaded_code_memory_mib: float = LOADED_CODE_MEMORY_MIB,
    train_samples: int | None = None,
    epochs: float = 1.0,
    eval_batch_size: int | None = None,
    cache_folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[MemoryPrediction]:
    """Predicts the peak memory of configurations, in the order given; see `Planner` and `Device` for the arguments.

    Examples:
        >>> from transformers import BertConfig
        >>> small = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=100)
        >>> [prediction] = plan(
        ...     small,
        ...     [TrialParameters(per_device_train_batch_size=4)],
        ...     settings=TraceSettings(sequence_length=16, num_labels=5),
        ...     device_memory_mib=1000,
        ... )
        >>> prediction.fits
        True

    Raises:
        ValueError: There is no such configuration, it can't be traced, or a setting is out of range.
    """
    planner = Planner(
        model_config,
        settings=settings,
        device=Device(
            memory_mib=device_memory_mib,
            context_memory_mib=context_memory_mib,
            loaded_code_memory_mib=loaded_code_memory_mib,
        ),
        train_samples=train_samples,
        epochs=epochs,
        eval_batch_size=eval_batch_size,
        cache_folder=cache_folder,
        progress=progress,
    )
    return planner.predict(configurations)


def _step_class(parameters: TrialParameters) -> StepClass:
    return StepClass(gradient_checkpointing=parameters.gradient_checkpointing, precision=parameters.precision)

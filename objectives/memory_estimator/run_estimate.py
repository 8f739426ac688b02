"""What is predicted of a configuration, and what of the card decides it besides the allocator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.replay import RunPeak
from tradeoff.searchspace import Precision, TrialParameters

MIB = 1024 * 1024

# What a CUDA context takes after `torch.ones(1).to("cuda")`, beside what the allocator reserves. It depends on card, driver and
# build: 417 MiB were measured with torch 2.0 on a card of 7,611 MiB, 274 MiB in https://github.com/pytorch/pytorch/pull/86509,
# and 1,343 MiB on a V100 before CUDA 11.7 (transformers' guide to training on one GPU of 2022). Measure your own and give it.
DEFAULT_CONTEXT_MEMORY_MIB = 417.0

# Since CUDA 11.7 a kernel's code is loaded when it first runs, so that the context grows after it was measured: by 110 to 130
# MiB where the 417 above are from. The prediction leaves it out; the upper bound and the verdict count it.
LOADED_CODE_MEMORY_MIB = 128.0

# The order of small blocks differs a little between releases, and with it what can't be reused.
_ORDER_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPrediction:
    """What a configuration will take on a card.

    Attributes:
        parameters: The configuration.
        predicted_peak_memory_mib: The CUDA context and what the allocator holds at its peak.
        predicted_low_mib: The context and what tensors and kernels ask for at the peak: nothing retained, nothing rounded.
        predicted_high_mib: With the code of kernels that are loaded while training runs, and a margin for the order of blocks.
        fits: Whether training runs to its end within the card's memory; None where no memory was given.
        fails_at: The stage that runs out of memory, where it doesn't fit.
        parts: What the predicted peak is made of, in MiB: `context`, `weights`, `gradients`, `optimizer`, `activations`,
            `workspace`, and `retained`, what the allocator holds and nothing uses.
    """

    parameters: TrialParameters
    predicted_peak_memory_mib: float
    predicted_low_mib: float
    predicted_high_mib: float
    fits: bool | None
    fails_at: str | None
    parts: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "params": self.parameters.as_dict(),
            "predicted_peak_memory_mib": round(self.predicted_peak_memory_mib, 1),
            "predicted_low_mib": round(self.predicted_low_mib, 1),
            "predicted_high_mib": round(self.predicted_high_mib, 1),
            "fits": self.fits,
            "parts": {name: round(value, 1) for name, value in self.parts.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A card as far as a prediction needs it.

    Attributes:
        memory_mib: Its memory; None to predict without a verdict.
        context_memory_mib: What the CUDA context takes after initialisation.
        loaded_code_memory_mib: What the context grows by while training runs; 0 where it was measured afterwards, or where all
            code is loaded at once (before CUDA 11.7, or with CUDA_MODULE_LOADING=EAGER).

    Raises:
        ValueError: A value is out of range.
    """

    memory_mib: float | None = None
    context_memory_mib: float = DEFAULT_CONTEXT_MEMORY_MIB
    loaded_code_memory_mib: float = LOADED_CODE_MEMORY_MIB

    def __post_init__(self) -> None:
        for name in ("context_memory_mib", "loaded_code_memory_mib"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.memory_mib is not None and self.memory_mib <= self.context_memory_mib:
            raise ValueError(
                f"the device's memory must exceed its CUDA context, got {self.memory_mib:g} and {self.context_memory_mib:g} MiB"
            )

    @property
    def allocator_bytes(self) -> int | None:
        """What torch's allocator may reserve."""
        if self.memory_mib is None:
            return None
        return max(0, int((self.memory_mib - self.context_memory_mib - self.loaded_code_memory_mib) * MIB))


def largest_fitting(predictions: Iterable[MemoryPrediction]) -> dict[tuple[bool, Precision, int], MemoryPrediction | None]:
    """The prediction with the largest batch that fits, by checkpointing, precision and accumulation; None where none does."""
    best: dict[tuple[bool, Precision, int], MemoryPrediction | None] = {}
    for prediction in predictions:
        parameters = prediction.parameters
        key = (parameters.gradient_checkpointing, parameters.precision, parameters.gradient_accumulation_steps)
        current = best.setdefault(key, None)
        size = parameters.per_device_train_batch_size
        if prediction.fits and (current is None or size > current.parameters.per_device_train_batch_size):
            best[key] = prediction
    return best


def predict_run(parameters: TrialParameters, free: RunPeak, limited: RunPeak | None, device: Device) -> MemoryPrediction:
    """The prediction for a run from its replay without a limit, and within the card\'s memory where that is known."""
    context, code = device.context_memory_mib, device.loaded_code_memory_mib
    fits = None if limited is None else limited.failed_at is None
    # A run that fits only because the allocator gave blocks back stays within the card.
    peak = limited if limited is not None and fits else free
    parts = {category.value: peak.parts[category] / MIB for category in Category}
    return MemoryPrediction(
        parameters=parameters,
        predicted_peak_memory_mib=context + peak.reserved_bytes / MIB,
        predicted_low_mib=context + peak.requested_bytes / MIB,
        predicted_high_mib=context + code + free.reserved_bytes * (1 + _ORDER_MARGIN) / MIB,
        fits=fits,
        fails_at=limited.failed_at if limited is not None else None,
        parts={
            "context": context,
            **parts,
            "retained": peak.reserved_bytes / MIB - sum(parts.values()),
        },
    )

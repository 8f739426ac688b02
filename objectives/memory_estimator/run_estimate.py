"""The estimate for one run, and the memory of the GPU that it is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.replay import RunPeak
from tradeoff.searchspace import TrialParameters

MIB = 1024 * 1024

# The memory of a CUDA context after `torch.ones(1).to("cuda")`, apart from what the allocator reserves. It depends on GPU,
# driver and build: 417 MiB with torch 2.0 on a GPU of 7,611 MiB, 274 MiB in https://github.com/pytorch/pytorch/pull/86509, and
# 1,343 MiB on a V100 before CUDA 11.7 (transformers' guide to training on one GPU, 2022). Better to measure your own.
DEFAULT_CONTEXT_MEMORY_MIB = 417.0
# The least and the most of these. The most holds the code of all kernels.
_CONTEXTS_MIB = (274.0, 1343.0)

# Since CUDA 11.7 a kernel's code is loaded when it first runs, so the context grows after it was measured: by 110 to 130 MiB on
# the GPU of the 417 above. The peak leaves it out; the upper bound and the verdict include it.
LOADED_CODE_MEMORY_MIB = 128.0

# The order of blocks differs between releases of torch, and with it what can't be reused: at least by this share.
MIN_ORDER_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEstimate:
    """The estimated memory of a configuration's run on a GPU.

    Attributes:
        parameters: The configuration.
        peak_memory_mib: The CUDA context, and what the allocator reserves at its peak.
        lower_bound_mib: The context, and what tensors and kernels request at the peak: nothing retained, nothing rounded.
        upper_bound_mib: The peak, with the code of kernels loaded while training runs, and a margin for the order of blocks.
            Where nobody has measured the context, both bounds allow for any that is known of.
        fits: Whether training completes within the GPU's memory; None if that is not known, or depends on a context that
            nobody has measured.
        fails_at: The stage that runs out of memory; None if none does.
        parts: What the peak consists of, in MiB: `context`, `weights`, `gradients`, `optimizer`, `activations`, `workspace`,
            and `retained`, which the allocator holds and nothing uses.
    """

    parameters: TrialParameters
    peak_memory_mib: float
    lower_bound_mib: float
    upper_bound_mib: float
    fits: bool | None
    fails_at: str | None
    parts: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "params": self.parameters.as_dict(),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "lower_bound_mib": round(self.lower_bound_mib, 1),
            "upper_bound_mib": round(self.upper_bound_mib, 1),
            "fits": self.fits,
            "parts": {name: round(value, 1) for name, value in self.parts.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuMemory:
    """The memory of a GPU, and what of it is not the allocator's.

    Attributes:
        total_mib: All of it; None to estimate without a verdict.
        context_mib: The CUDA context after initialisation; None if nobody has measured it.
        loaded_code_mib: How much the context grows while training runs; 0 if it was measured afterwards, or if all code is
            loaded at once (before CUDA 11.7, or with CUDA_MODULE_LOADING=EAGER).
        expandable_segments: Whether torch's allocator is set to grow its segments (`PYTORCH_CUDA_ALLOC_CONF`).

    Raises:
        ValueError: A value is out of range.
    """

    total_mib: float | None = None
    context_mib: float | None = None
    loaded_code_mib: float = LOADED_CODE_MEMORY_MIB
    expandable_segments: bool = False

    def __post_init__(self) -> None:
        for name in ("context_mib", "loaded_code_mib"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.total_mib is not None and self.total_mib <= self.likely_context_mib:
            raise ValueError(
                f"the GPU's memory must exceed its CUDA context, got {self.total_mib:g} and {self.likely_context_mib:g} MiB"
            )

    @property
    def likely_context_mib(self) -> float:
        """The context that an estimate includes."""
        return DEFAULT_CONTEXT_MEMORY_MIB if self.context_mib is None else self.context_mib

    @property
    def context_bounds_mib(self) -> tuple[float, float]:
        """The least and the most that is not the allocator's, the code of kernels included."""
        if self.context_mib is None:
            return _CONTEXTS_MIB
        return self.context_mib, self.context_mib + self.loaded_code_mib

    @property
    def allocator_bytes(self) -> int | None:
        """The most that torch's allocator may reserve; None if the total is not known."""
        return self._allocator_bytes(self.likely_context_mib + self.loaded_code_mib)

    @property
    def allocator_bounds_bytes(self) -> tuple[int, int] | None:
        """The least and the most that this can be: another than that if nobody has measured the context."""
        if self.context_mib is not None:
            known = self.allocator_bytes
            return None if known is None else (known, known)
        least_mib, most_mib = _CONTEXTS_MIB
        least, most = self._allocator_bytes(most_mib), self._allocator_bytes(least_mib)
        return None if least is None or most is None else (least, most)

    def _allocator_bytes(self, others_mib: float) -> int | None:
        return None if self.total_mib is None else max(0, int((self.total_mib - others_mib) * MIB))


def estimate_run(
    parameters: TrialParameters,
    free: RunPeak,
    limited: RunPeak | None,
    gpu: GpuMemory,
    *,
    fits: bool | None,
    order_margin: float,
) -> RunEstimate:
    """Return the estimate for a run, from its replay without a limit and, where that is known, within the GPU's memory.

    Args:
        parameters: The configuration.
        free: The replay without a limit.
        limited: The one within the GPU's memory; None if that is not known.
        gpu: The GPU's memory.
        fits: Whether it fits, as in `RunEstimate`.
        order_margin: The share by which another order of releases may raise what is reserved.
    """
    # A run that fits only because the allocator returned free segments stays within the GPU's memory.
    peak = limited if limited is not None and limited.failed_at is None else free
    parts = {category.value: peak.parts[category] / MIB for category in Category}
    reserved_mib = peak.reserved_bytes / MIB
    least_mib, most_mib = gpu.context_bounds_mib
    return RunEstimate(
        parameters=parameters,
        peak_memory_mib=gpu.likely_context_mib + reserved_mib,
        lower_bound_mib=least_mib + peak.requested_bytes / MIB,
        upper_bound_mib=most_mib + free.reserved_bytes * (1 + order_margin) / MIB,
        fits=fits,
        fails_at=limited.failed_at if limited is not None else None,
        parts={"context": gpu.likely_context_mib, **parts, "retained": reserved_mib - sum(parts.values())},
    )

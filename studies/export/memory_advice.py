"""The memory that should be free before a run starts, from the measured peak."""

import math
from collections.abc import Mapping
from typing import Any

from tradeoff.objectives.device.base import Device

# The same configuration peaks within 1% of itself from run to run; drivers, library versions and the allocator's luck move it
# further. The advice is for a GPU that is shared with something else, so it errs on the safe side.
MARGIN = 0.05


def memory_to_leave_free_mib(measurements: Mapping[str, Any], device: type[Device]) -> int | None:
    """Return the memory that should be free before a run starts, in MiB; None where its peak is not known.

    Args:
        measurements: A trial's measurements by name, of which `peak_memory_mib` and `context_mib` are read.
        device: The kind of device, which says whether the peak includes the memory of the loaded libraries.
    """
    peak_mib = measurements.get("peak_memory_mib")
    if peak_mib is None:
        return None
    base_mib = 0.0 if device.peak_includes_context else measurements.get("context_mib") or 0.0
    return math.ceil((float(peak_mib) + float(base_mib)) * (1 + MARGIN))

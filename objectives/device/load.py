"""What other processes take of the processors while something is timed: times mean less on a machine that is shared."""

import os

import psutil

# With more of the processors idle than this, whatever else runs is not in the way.
IDLE_SHARE = 0.2


class ProcessorLoad:
    """Measures the load from when it is made, on the processors that this process may use."""

    def __init__(self) -> None:
        self._begin = self._read()

    def busy_share(self) -> float:
        """Return the share of the processors that other processes took since then, 0 to 1; 0 if enough was left idle."""
        total_s, idle_s, own_s = (now - before for now, before in zip(self._read(), self._begin, strict=True))
        if total_s <= 0 or idle_s > IDLE_SHARE * total_s:
            return 0.0
        return min(1.0, max(0.0, (total_s - idle_s - own_s) / total_s))

    def _read(self) -> tuple[float, float, float]:
        """Return the processors' time in seconds: all of it, what was idle, and what this process and its children took."""
        everyone = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity"):
            ours = os.sched_getaffinity(0)
            everyone = [times for number, times in enumerate(everyone) if number in ours] or everyone
        # Linux counts a guest's time in the user's as well.
        total_s = sum(sum(times) - sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice")) for times in everyone)
        idle_s = sum(times.idle + getattr(times, "iowait", 0.0) for times in everyone)
        process = psutil.Process()
        own_s = sum(process.cpu_times()[:4])
        for child in process.children(recursive=True):
            try:
                own_s += sum(child.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue  # it has ended since: its parent's figures have it
        return total_s, idle_s, own_s

"""Two figures of this process's memory that psutil does not have: its peak and its data, from Linux's /proc/self/status."""

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def status_mib(name: str, status: Path = STATUS) -> float | None:
    """Return a memory figure of this process by the kernel's name (proc_pid_status(5)); None on a system without /proc.

    Args:
        name: `VmData`, private writable memory, which is what RLIMIT_DATA limits (psutil's `data` counts the stack too), or
            `VmHWM`, the peak resident memory, which can be reset (`ru_maxrss` includes earlier programs of the process).
        status: The file to read.
    """
    if not status.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else int(found[1]) / 1024

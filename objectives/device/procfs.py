"""What Linux says of this process's own memory, in /proc/self/status."""

from pathlib import Path

STATUS = Path("/proc/self/status")


def own_memory_mib(status: Path = STATUS) -> dict[str, float]:
    """The memory figures of this process in MiB, by the kernel's names (proc_pid_status(5)).

    Returns:
        Among others `VmData` (private writable memory, what RLIMIT_DATA limits), `VmHWM` (peak resident), and what is resident
        now, `VmRSS`, in its parts `RssAnon`, `RssFile` and `RssShmem`; empty on a system without /proc.
    """
    if not status.exists():
        return {}
    figures = {}
    for line in status.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        amount, _, unit = value.strip().partition(" ")
        if unit == "kB":
            figures[name] = int(amount) / 1024
    return figures

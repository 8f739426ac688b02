"""The kernel's kills for lack of memory: their number, and the limit at which they happen."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

# Files of a control group, in cgroup v2 and v1.
_COUNTERS = ("memory.events", "memory.oom_control")
_LIMITS = ("memory.max", "memory.limit_in_bytes")


class KernelKillWatch:
    """Counts the processes that the kernel kills for lack of memory, from now on.

    The counter is that of the process's own control group if there is one, which counts the kills of trials started from here
    and of little else. Otherwise it is the whole machine's, which also counts kills of unrelated processes.
    """

    def __init__(self, *, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._membership, self._cgroup = proc / "self" / "cgroup", cgroup
        counters = (*_own_files(self._membership, cgroup, _COUNTERS), proc / "vmstat")
        self._counter = next((path for path in counters if num_kills(path) is not None), None)
        self._before = self._read()

    def kills_since(self) -> int | None:
        """Return the number of kills since the watch began; None if the kernel does not count them."""
        now = self._read()
        return None if now is None or self._before is None else now - self._before

    def limit_mib(self) -> float:
        """Return the memory beyond which the kernel kills: that of the process's control group, or of the machine."""
        limits = [limit for path in _own_files(self._membership, self._cgroup, _LIMITS) if (limit := _limit_mib(path))]
        return min([psutil.virtual_memory().total / 2**20, *limits])

    def _read(self) -> int | None:
        return None if self._counter is None else num_kills(self._counter)


def _own_files(membership: Path, cgroup: Path, names: tuple[str, str]) -> Iterator[Path]:
    """Yield the places where the process's own group may have a file; in a container its group can be mounted as the root."""
    if not membership.exists():
        return
    name, older_name = names
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            places = [(cgroup, name), (cgroup / "unified", name)]
        elif "memory" in controllers.split(","):
            places = [(cgroup / "memory", older_name)]
        else:
            continue
        for mount, file in places:
            yield mount / group.lstrip("/") / file
            yield mount / file


def num_kills(path: Path) -> int | None:
    """Return the number of kills that a file of the kernel counts, such as /proc/vmstat; None if it does not."""
    if not path.is_file():
        return None
    found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else int(found[1])


def _limit_mib(path: Path) -> float | None:
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8").strip()  # "max" if there is none
    return int(text) / 2**20 if text.isdecimal() else None

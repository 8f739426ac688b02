"""The process that runs a trial, and whether it is alive: other workers on its machine know at once that it died.

A process id alone is not enough: it is used again after a while, a container counts its own, and a machine that was started
again counts anew. So the kernel's boot, the namespace and the moment the process began go with it (proc(5), namespaces(7)).
Of a process on another machine nothing can be known from here; there a heartbeat has to do.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tradeoff.objectives.device.kernel_kills import num_kills

# A trial's system attributes: the `Owner` that runs it, as plain data; the mark of the call that created it; and what its
# worker writes again and again while it is alive.
OWNER_ATTRIBUTE = "tradeoff:owner"
MARK_ATTRIBUTE = "tradeoff:mark"
HEARTBEAT_ATTRIBUTE = "tradeoff:heartbeat"
_PROC = Path("/proc")
# Beside an owner's attributes: how many processes the machine's kernel had killed for lack of memory.
_KILLS = "memory_kills"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process, told apart from every other one.

    Attributes:
        host: The name of its machine, for a person.
        boot: The kernel's run that it belongs to; empty where the system does not say.
        namespace: Where its process id counts.
        pid: Its process id.
        began: When it began, in the kernel's ticks since the machine was started.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    began: int | None

    @classmethod
    def here(cls) -> Self:
        """This process."""
        return cls(host=socket.gethostname(), boot=_boot(), namespace=_namespace(), pid=os.getpid(), began=_began(os.getpid()))

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The owner that `as_dict` wrote; further keys are left out."""
        return cls(**{name: plain[name] for name in ("host", "boot", "namespace", "pid", "began")})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to store, with the kernel's kills so far."""
        return asdict(self) | {_KILLS: _memory_kills()}

    def is_gone(self, *, one_machine: bool = False) -> bool | None:
        """Return True if the process has ended; None if that is unknown here.

        Args:
            one_machine: Whether it can only have run on this machine, as with a database in a local file. What ran before the
                machine was started again is gone then.
        """
        boot = _boot()
        if not boot or not self.boot:
            return None
        if self.boot != boot:
            return True if one_machine else None
        if self.namespace != _namespace():
            return None
        return _began(self.pid) != self.began

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def was_killed_for_memory(plain: Mapping[str, Any]) -> bool:
    """Return True if the kernel has killed for lack of memory since an owner was stored, as far as that is known here.

    Args:
        plain: What `Owner.as_dict` wrote.
    """
    before, now = plain.get(_KILLS), _memory_kills()
    return before is not None and now is not None and plain["boot"] == _boot() != "" and now > before


def _memory_kills() -> int | None:
    """Return the machine's count, which the terminal or the container that asks does not change."""
    return num_kills(_PROC / "vmstat")


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """Return when a process began; None if there is none, or none that still runs."""
    try:
        # The name, in brackets, may hold anything, blanks and brackets too.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])

"""A trial on several devices, seen from one of its processes: which rank it is, and what the ranks exchange.

A rank has the environment that torchrun or `accelerate launch` would give it, so the Trainer does data parallel training by
itself. The process group exists before the Trainer asks for one, so that nothing but the loopback address is bound, and so
that the memory of the connections is counted.

Measurements are exchanged through the group's store as JSON: torch's object collectives unpickle what they receive, and would
take memory on the device.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tradeoff.objectives.device.base import Device
from tradeoff.objectives.measurements.outcome import Memory

LOOPBACK = "127.0.0.1"


@dataclass(kw_only=True)
class Ranks:
    """This process among those that train a configuration together; by default the only one.

    Attributes:
        rank: This process's number, from 0; also the number of its device.
        world_size: The number of processes.
        port: The store's port on the loopback address.
        listener: The socket that is bound to it, if this process holds the store.
    """

    rank: int = 0
    world_size: int = 1
    port: int = 0
    listener: socket.socket | None = None
    _store: Any = None

    @classmethod
    def of(cls, request: Mapping[str, Any], listener: socket.socket | None) -> "Ranks":
        """Return the rank that a request gives this process, and set the environment variables that torchrun would set."""
        ranks = cls(rank=request.get("rank", 0), world_size=request.get("num_ranks", 1), listener=listener)
        if ranks.world_size > 1:
            ranks.port = request["port"]
            os.environ.update(
                RANK=str(ranks.rank),
                LOCAL_RANK=str(ranks.rank),
                WORLD_SIZE=str(ranks.world_size),
                LOCAL_WORLD_SIZE=str(ranks.world_size),
                MASTER_ADDR=LOOPBACK,
                MASTER_PORT=str(ranks.port),
            )
        return ranks

    def connect(self, device: type[Device]) -> None:
        """Start the process group of a kind of device and its connections; do nothing if this is the only process."""
        if self.world_size == 1:
            return
        import torch
        import torch.distributed as distributed
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported without saying so

        loopback = "lo0" if sys.platform == "darwin" else "lo"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
        device.prepare_rank(self.world_size)
        # The store closes the socket that it is given.
        descriptor = None if self.listener is None else self.listener.detach()
        self._store = TCPStore(LOOPBACK, self.port, self.world_size, is_master=self.rank == 0, master_listen_fd=descriptor)
        distributed.init_process_group(
            device.process_group_backend,
            store=PrefixStore("torch", self._store),
            rank=self.rank,
            world_size=self.world_size,
        )
        # The first exchange makes the connections, and NCCL's buffers with them.
        distributed.all_reduce(torch.ones(1, device=device.kind))
        device.synchronize()

    def gather(self, name: str, value: Any) -> list[Any]:
        """Return every rank's value, by rank. All ranks must call it, once for each name, with JSON types."""
        if self._store is None:
            return [value]
        self._store.set(f"{name}/{self.rank}", json.dumps(value))
        return [json.loads(self._store.get(f"{name}/{rank}")) for rank in range(self.world_size)]

    def leave(self) -> None:
        """Wait until every rank has come here; rank 0, which holds the store, leaves last."""
        if self._store is None:
            return
        self.gather("end", None)
        if self.rank > 0:
            # Rank 0 may be gone as soon as this has arrived.
            with contextlib.suppress(RuntimeError):
                self._store.set(f"left/{self.rank}", "")
        else:
            for rank in range(1, self.world_size):
                self._store.get(f"left/{rank}")


def highest(memories: Sequence[Memory]) -> Memory:
    """Return the highest peak of each kind over all ranks, since the fullest device decides whether the trial fits."""
    combined = memories[0]
    for memory in memories[1:]:
        for name in Memory.__slots__:
            ours, theirs = getattr(combined, name), getattr(memory, name)
            if ours is None or (theirs is not None and theirs > ours):
                combined = replace(combined, **{name: theirs})
    return combined

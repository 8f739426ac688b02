"""The output of a trial's processes, of which the beginning and the end are kept, however much they print.

It goes through a pipe and never to a disk, so a trial that prints without end fills neither that nor the memory.
"""

import os
import threading
from multiprocessing.connection import wait
from typing import Self

# Bytes that are kept of the beginning, and of the end.
KEPT = 2**20
# More than a pipe holds, so that a single read empties it.
_CHUNK = 2**20


class Output:
    """Receives the output of processes until it is closed.

    Attributes:
        writing: The descriptor that processes write to.
    """

    def __init__(self) -> None:
        self._head, self._tail, self._left_out = bytearray(), bytearray(), 0
        self._reading, self.writing = os.pipe()
        self._told, self._tell = os.pipe()
        self._thread = threading.Thread(target=self._read, name="output", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for descriptor in (self._reading, self.writing, self._told, self._tell):
            os.close(descriptor)

    def end(self) -> str:
        """Return what was printed, with a line in place of what was left out; whoever still prints is not heard."""
        if self._thread.is_alive():
            os.write(self._tell, b".")
            self._thread.join()
        parts = [bytes(part).decode(errors="replace") for part in (self._head, self._tail)]
        note = f"\n[tradeoff: {self._left_out:,} bytes are left out here; the first and the last {KEPT:,} are kept]\n"
        return (note if self._left_out else "").join(parts)

    def _read(self) -> None:
        is_last = False
        while not is_last:
            ready = wait([self._reading, self._told])
            # A process that has outlived its trial may hold the pipe open and go on: what is in it now is all.
            is_last = self._told in ready
            if self._reading in ready:
                self._keep(os.read(self._reading, _CHUNK))

    def _keep(self, chunk: bytes) -> None:
        room = KEPT - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if (excess := len(self._tail) - KEPT) > 0:
            del self._tail[:excess]
            self._left_out += excess

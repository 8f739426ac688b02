"""Ctrl-C, without losing what was measured: the first ends the study in order, a second one at once.

Python's own handling raises KeyboardInterrupt wherever the program happens to be, in the middle of a write to the storage too.
Here it is raised only where a trial is being waited for; everywhere else it is noted and honoured at the next such place.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 130


class Interrupts:
    """Notes SIGINT and SIGTERM (what Slurm and Kubernetes send before they kill).

    Attributes:
        requested: Whether the user asked to end.
        at_once: Called before this process ends at once, to end others with it.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once: Callable[[], None] | None = None
        self._waiting = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Takes over the signals; outside the main thread, where Python allows no handlers, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Where KeyboardInterrupt may be raised.

        Raises:
            KeyboardInterrupt: The user asked to end, now or before.
        """
        if self.requested:
            raise KeyboardInterrupt
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            # The trial's process ends with us: its server sees the closed socket. The storage is transactional.
            if self.at_once is not None:
                self.at_once()
            os._exit(EXIT_STATUS)
        self.requested = True
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

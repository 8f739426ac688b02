"""A task that runs beside the trials, in a process of its own: its answer is fetched once it is there."""

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any


class BackgroundTask:
    """A process forked from the warm server that sends one answer.

    Args:
        channel: Our end of the socket to it.
        pid: Its process, which leads a group of its own.
    """

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self.pid = pid
        self._received = b""
        self._closed = False

    def answer(self, *, timeout_s: float | None = 0.0) -> dict[str, Any] | None:
        """Waits for the end of the process.

        Args:
            timeout_s: How long; None for as long as it takes.

        Returns:
            Its last message, `{"answer": ...}` or `{"error": sentence}`, empty where it ended without one; None while it runs.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._closed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                return None
            try:
                data = self._channel.recv(1 << 16)
            except ConnectionError:
                data = b""
            self._received += data
            if not data:
                self._channel.close()
                self._closed = True
        lines = self._received.splitlines()
        with contextlib.suppress(ValueError):  # cut short: the process was killed while it wrote
            return dict(json.loads(lines[-1])) if lines else {}
        return {}

    def cancel(self) -> None:
        """Ends the process if it still runs."""
        # A process that has ended by itself is gone, and its number may be another's.
        if self.answer() is None:
            for kill in (os.killpg, os.kill):  # before it has called setsid there is no group of its own
                with contextlib.suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)
            self._channel.close()
            self._closed = True

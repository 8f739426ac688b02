"""How a trial's process tells its parent what happens, as it happens."""

import json
import socket
import time
from dataclasses import asdict
from typing import Any

from tradeoff.objectives.measurements.outcome import Measurements, Stage


class Reporter:
    """Sends what happens in the trial to the parent, a line of JSON each.

    Attributes:
        stage: The stage that the trial is in.
    """

    _PROGRESS_INTERVAL_S = 0.2

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._last_progress_s = 0.0
        self.stage: Stage = "start"

    def enter(self, stage: Stage) -> None:
        """Notes and sends that a stage begins."""
        self.stage = stage
        self._send({"progress": {"stage": stage}})

    def step(self, done: int, total: int) -> None:
        """Sends how far the stage is, a few times a second at most."""
        now = time.perf_counter()
        if now - self._last_progress_s >= self._PROGRESS_INTERVAL_S:
            self._last_progress_s = now
            self._send({"progress": {"stage": self.stage, "step": done, "total": total}})

    def measured(self, measurements: Measurements) -> None:
        """Sends everything measured so far, so that it is kept if the process ends without an outcome."""
        self._send({"measurements": asdict(measurements)})

    def finish(self, message: dict[str, Any]) -> None:
        """Sends the answer."""
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

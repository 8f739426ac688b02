"""Reports from a trial's process to its parent as the trial goes."""

import time
from typing import Any

from tradeoff.objectives.measurements.outcome import Measurements, Stage
from tradeoff.objectives.trial.messages import Channel, Measured, Progress, Reply


class Reporter:
    """Sends the events of a trial to the parent.

    Attributes:
        stage: The stage that the trial is in.
    """

    _PROGRESS_INTERVAL_S = 0.2

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel
        self._last_progress_s = 0.0
        self.stage: Stage = "start"

    def enter(self, stage: Stage) -> None:
        """Record and send that a stage begins."""
        self.stage = stage
        self._channel.send(Progress(stage=stage))

    def step(self, done: int, total: int) -> None:
        """Send how far the stage is, a few times a second at most."""
        now_s = time.perf_counter()
        if now_s - self._last_progress_s >= self._PROGRESS_INTERVAL_S:
            self._last_progress_s = now_s
            self._channel.send(Progress(stage=self.stage, step=done, total=total))

    def measured(self, measurements: Measurements) -> None:
        """Send everything measured so far, so that it is kept if the process ends without an outcome."""
        self._channel.send(Measured(measurements=measurements))

    def finish(self, reply: Reply) -> None:
        """Send the reply."""
        self._channel.send(reply)

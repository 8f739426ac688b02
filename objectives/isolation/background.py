"""A task that runs beside the trials, in a process of its own: its reply is fetched once it is there."""

from tradeoff.objectives.isolation.endings import kill
from tradeoff.objectives.trial.messages import Answer, Channel, Measured, Progress, Refusal, Reply


class BackgroundTask:
    """A process forked from the warm server that sends one reply.

    Args:
        channel: The channel to it.
        pid: Its process, which leads a group of its own.
    """

    def __init__(self, channel: Channel[Progress | Measured | Reply], pid: int) -> None:
        self._channel = channel
        self.pid = pid
        self._reply: Answer | Refusal | None = None

    def reply(self, *, timeout_s: float | None = 0.0) -> Answer | Refusal | None:
        """Wait for the reply.

        Args:
            timeout_s: How long; None for as long as it takes.

        Returns:
            The reply, a refusal if the process ended without one; None while it runs.
        """
        while self._reply is None and self._channel.poll(timeout_s):
            try:
                message = self._channel.receive()
            except EOFError:
                message = Refusal(error="the process has ended without an answer")
            if isinstance(message, Answer | Refusal):
                self._reply = message
                self._channel.close()
        return self._reply

    def cancel(self) -> None:
        """End the process if it still runs."""
        # A process that has ended by itself is gone, and its number may be another's.
        if self.reply() is None:
            kill(self.pid)
            self._reply = Refusal(error="it was cancelled")
            self._channel.close()

"""Ctrl-C without losing what was measured: the first one stops the study after cleaning up, a second one immediately.

SIGTERM, which Slurm and Kubernetes send before they kill, is as good as Ctrl-C. So is SIGHUP, which says that the terminal is
gone, but never as the second one: the kernel and the shell both send it. Where `nohup` has it ignored it stays so.

Python's own handling raises KeyboardInterrupt wherever the program happens to be, in the middle of a write to the storage too.
Here it is raised only where a trial is being waited for; everywhere else it is noted, and raised at the next such place.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tradeoff.studies.errors import StudyFailed

EXIT_STATUS = 130


class Interrupts:
    """Handles SIGINT, SIGTERM and SIGHUP.

    Args:
        exits: True if the second one exits this process immediately; False raises KeyboardInterrupt wherever that is, in a
            program or a notebook of the user's own.

    Attributes:
        requested: Whether the user asked to stop.
        at_once: Called before the second one takes effect, to end other processes with it.
    """

    def __init__(self, *, exits: bool = True) -> None:
        self.requested = False
        self._exits = exits
        self.at_once: Callable[[], None] | None = None
        self._waiting = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take over the signals; outside the main thread, where Python allows no handlers, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Allow KeyboardInterrupt in the block.

        Raises:
            KeyboardInterrupt: The user asked to stop, now or before.
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
            if number == signal.SIGHUP:
                return
            # The trial's process ends with this one: its server sees the closed socket. The storage is transactional.
            if self.at_once is not None:
                self.at_once()
            if not self._exits:
                raise KeyboardInterrupt
            os._exit(EXIT_STATUS)
        self.requested = True
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt


def take_signals_for_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, where no `Interrupts` handles them."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_to_end(
    work: Callable[[], object],
    say: Callable[[str], None],
    *,
    interrupted: str = "stopped; rerun the same command to resume",
) -> int:
    """Do a command's work, and say what has ended it early.

    Args:
        work: What the command does.
        say: Shows a line to the user.
        interrupted: The line to show after Ctrl-C.

    Returns:
        The exit status: 0, 1 if the study failed, 130 if the user stopped it.
    """
    import optuna  # takes most of a second, and not every command needs it

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        work()
    except StudyFailed as error:
        say(f"tradeoff: {error}")
        return 1
    except KeyboardInterrupt:
        say(interrupted)
        return EXIT_STATUS
    return 0

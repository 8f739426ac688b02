"""The wait for an absent database, and the errors that announce one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from tradeoff.studies.errors import TradeoffError

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 5.0
# How soon a wait notices that the user wants to stop.
_POLL_S = 0.1

T = TypeVar("T")


class StorageError(TradeoffError):
    """The storage can't be used now; the sentence has the database's own words and the remedy."""


class StorageAwayError(StorageError):
    """The storage does not answer; it may later."""


class StudyGoneError(StorageError, KeyError):
    """The study, or a trial of it, is no longer in the storage; Optuna says KeyError, and so may whoever expects it."""

    __str__ = Exception.__str__

    def __init__(self, place: str) -> None:
        super().__init__(
            f"the study is no longer in the storage {place}: it was deleted, and what it had recorded with it; rerun"
            " `tradeoff run` to begin it anew"
        )


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Repeat what a database did not answer until it does, or the user wants to stop.

    Attributes:
        say: Shows a line to the user.
        stop: Returns True once the user has asked to stop.
    """

    say: Callable[[str], None]
    stop: Callable[[], bool] = lambda: False

    def call(self, operation: Callable[[int], T]) -> T:
        """Return what an operation returns, repeating it for as long as it raises StorageAwayError.

        Args:
            operation: Called with the number of times that it was attempted before.

        Raises:
            KeyboardInterrupt: The user ended the wait.
        """
        begin_s = time.monotonic()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageAwayError),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=self._announce,
            sleep=self._pause,
        )
        for attempt in retrying:
            num_before = attempt.retry_state.attempt_number - 1
            with attempt:
                result = operation(num_before)
        if num_before:
            self.say(f"the storage answers again after {time.monotonic() - begin_s:.0f} s")
        return result

    def _announce(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            self.say(f"{state.outcome.exception()}: waiting for it, nothing measured is lost")

    def _pause(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if self.stop():
                raise KeyboardInterrupt
            time.sleep(min(_POLL_S, left_s))

"""The exceptions that a command turns into a sentence.

A `TradeoffError` ends it with exit code 2, a `StudyFailed` with 1. Anything else that reaches the top is a bug and keeps its
traceback. So a `ValueError` from a validation is turned into a `TradeoffError` where the validation is called, and never at the
top, where that would hide a bug.
"""


class TradeoffError(ValueError):
    """A request of the user can't be fulfilled; the message states the rule, the value and the remedy in one sentence."""


class OtherDeviceError(TradeoffError):
    """The study was measured on a device that this machine does not have."""


class StudyFailed(RuntimeError):
    """A study ended early because failures repeated; the message holds the last one."""

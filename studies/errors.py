"""The one exception that means "you can fix this": the command prints its sentence and ends with exit code 2.

Anything else that reaches the top is a bug of ours and keeps its traceback. So a `ValueError` from a validation is turned into
a `TradeoffError` where the validation is called, and never at the top, where that would hide a bug.
"""


class TradeoffError(ValueError):
    """What a user asked for can't be done; the message states the rule, the value and the remedy in one sentence."""

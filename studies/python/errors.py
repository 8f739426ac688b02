"""Sentences that name a command's options, as a program reads them: `trial=N` for `--trial N`."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tradeoff.studies.errors import TradeoffError

_OPTION = re.compile(r"--([a-z][a-z-]*)(?: ([A-Z]+)\b)?")

P = ParamSpec("P")
T = TypeVar("T")


def in_python(sentence: str) -> str:
    """Return a sentence with the names of arguments in the place of options.

    Example:
        >>> in_python("leave --within out; --trial N chooses one nevertheless")
        'leave within out; trial=N chooses one nevertheless'
    """

    def argument(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return name if option[2] is None else f"{name}={option[2]}"

    return _OPTION.sub(argument, sentence)


def speaking_python(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function whose errors name arguments and no options."""

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except TradeoffError as error:
            error.args = (in_python(str(error)),)
            raise

    return wrapper

"""A function that is called in a fork of this process."""

import os
import signal

import psutil
import pytest

from tradeoff.objectives.isolation.forked import forked


def doubled(numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers]


def refused(why: str) -> None:
    raise LookupError(why)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_answer_is_the_functions_and_nothing_it_changed_is_changed_here() -> None:
    def change() -> int:
        os.environ["TRADEOFF_FORKED"] = "there"
        return os.getpid()

    assert forked(doubled, [1, 2], refusal=ValueError) == [2, 4]
    assert forked(change, refusal=ValueError) != os.getpid()
    assert "TRADEOFF_FORKED" not in os.environ


def test_a_refusal_reaches_the_caller() -> None:
    with pytest.raises(LookupError, match="no such data"):
        forked(refused, "no such data", refusal=LookupError)


def test_any_other_end_is_an_error_that_names_the_function(capfd: pytest.CaptureFixture[str]) -> None:
    others = set(psutil.Process().children())  # a trial server that other tests share, for one
    with pytest.raises(RuntimeError, match=r"return refused\(\) ended with 1"):
        forked(refused, "no such data", refusal=ValueError)
    assert "LookupError: no such data" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match=r"return kill\(\) ended with -9"):
        forked(kill, refusal=ValueError)
    assert set(psutil.Process().children()) <= others

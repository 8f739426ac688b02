"""How a user's function is named, and sent to a trial."""

import functools
import threading
from pathlib import Path
from typing import Any

import line_trainer
import pytest

from tradeoff.objectives.job import sent_function
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.python.functions import job_of


def received(packed: bytes | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    assert packed is not None
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.argv", [])
    sent_function.receive(packed)
    function = sent_function.received()
    assert function is not None
    monkeypatch.undo()
    return sent_function.load(function)


def test_a_function_of_a_module_is_named_and_not_sent() -> None:
    folder = str(Path(line_trainer.__file__).parent)
    assert job_of(line_trainer.build) == ({"build": "line_trainer:build", "python_path": folder}, None)


def test_a_closure_is_sent_with_what_it_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slope, weights = 3.0, [1, 2]

    def build(args: Any, factor: int = 2) -> Any:
        weights.append(args)
        return slope * factor, weights

    job, packed = job_of(build)
    assert job == {"build": "__main__:build", "python_path": str(Path(__file__).parent)}
    loaded = received(packed, monkeypatch)
    assert loaded(7) == (6.0, [1, 2, 7])
    assert weights == [1, 2]


def test_each_call_has_a_copy_of_its_own_of_what_a_function_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    state: list[int] = []

    def build(args: Any) -> list[int]:
        state.append(args)
        return state

    received(job_of(build)[1], monkeypatch)(1)
    function = sent_function.received()
    assert function is not None
    assert sent_function.load(function)(2) == [2]


def test_a_cached_function_is_sent_with_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    @functools.cache
    def read(number: int) -> int:
        calls.append(number)
        return len(calls)

    def build(args: int) -> tuple[int, int]:
        return read(args), read(args)

    build(1)
    assert received(job_of(build)[1], monkeypatch)(1) == (2, 2)


@pytest.mark.parametrize("build", [lambda args: args, functools.partial(divmod, 7)], ids=["lambda", "partial"])
def test_what_has_no_name_of_python_is_called_build(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, packed = job_of(build)
    assert job["build"] in ("__main__:build", "__main__:partial")
    assert received(packed, monkeypatch)(2) == build(2)


def test_the_fingerprint_changes_with_the_source_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(value: int) -> Any:
        def build(args: Any) -> int:
            return value

        return build

    def other(args: Any) -> int:
        return 2

    prints = []
    for build in (made(1), made(2), other):
        received(job_of(build)[1], monkeypatch)
        function = sent_function.received()
        assert function is not None
        prints.append(function.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_what_can_not_be_sent_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(TradeoffError, match=r"^build must be a function that can be sent .* and lock, to which it refers,"):
        job_of(lambda args: lock)
    with pytest.raises(TradeoffError, match=r"^build must be a function that takes TrainingArguments .* got str$"):
        job_of("stars:build")  # type: ignore[arg-type]

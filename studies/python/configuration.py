"""A study as it is written in Python: the keys of a study file as arguments, a function in the place of `job.build`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tradeoff.searchspace import KNOBS
from tradeoff.searchspace.kinds import Numbers
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import config_of
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.python.functions import job_of

Build = Callable[..., Any]


def configured(
    build: Build | None,
    *,
    job: Mapping[str, Any] | None,
    space: Mapping[str, Any] | None,
    where: str,
    source: Callable[..., Any] | None = None,
    **keys: Any,
) -> tuple[StudyConfig, bytes | None]:
    """Return a study, and its function if that must be sent.

    Args:
        build: The function that returns a Trainer; None for what `job` says.
        job: The section `job` of a study file, or what it says beside a function.
        space: The section `space`, in which a parameter may also be one of Optuna's distributions.
        where: What the user has called, for errors.
        source: The function of the user's own that `build` stands for; by default `build` itself.
        keys: Other keys of a study file; None leaves one out.

    Raises:
        TradeoffError: It is no study; the sentence names the first problem.
    """
    for argument, given in (("job", job), ("space", space)):
        if given is not None and not isinstance(given, Mapping):
            raise TradeoffError(f"{where}: {argument} must be a dictionary, got {given!r}; write what a study file has there")
    function, named = None, dict(job or {})
    if build is not None:
        if "build" in named:
            raise TradeoffError(f"{where} takes a function or job['build'], got both; leave one of them out")
        own, function = job_of(build, source=source)
        named |= own
    data = {"job": named, **{name: value for name, value in keys.items() if value is not None}}
    if space is not None:
        data["space"] = {name: _plain(name, values) for name, values in space.items()}
    return config_of(_as_in_a_file(data), where=where, folder=Path() if build is None else None), function


def storage_text(storage: str | Path) -> str:
    """Return a storage as text: a database URL, or the path of a SQLite file.

    Raises:
        TradeoffError: It is neither.
    """
    if not isinstance(storage, str | Path):
        raise TradeoffError(
            f"storage must be a URL or the path of a SQLite file, got {storage!r}; leave it out for tradeoff.db"
        )
    return str(storage)


def _plain(name: str, values: Any) -> Any:
    """Return the values of a parameter as a study file writes them."""
    match values:
        case CategoricalDistribution():
            return list(values.choices)
        case IntDistribution(log=False) if isinstance(KNOBS[name].kind, Numbers):
            return list(range(values.low, values.high + 1, values.step))
        case IntDistribution(log=False):
            return {"low": values.low, "high": values.high, "step": values.step}
        case FloatDistribution(step=None):
            return {"low": values.low, "high": values.high, "log": values.log}
        case BaseDistribution():
            raise TradeoffError(
                f"space.{name}: a range is of whole numbers with a step, or of any numbers, linear or logarithmic, got"
                f" {values}; name the values in a list"
            )
        case range():
            return list(values)
    return values


def _as_in_a_file(value: Any) -> Any:
    """Return plain data: numpy's numbers and arrays as Python's, other sequences and mappings as lists and dictionaries."""
    if isinstance(value, Mapping):
        return {str(key): _as_in_a_file(part) for key, part in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_as_in_a_file(part) for part in value]
    return value

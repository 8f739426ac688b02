"""How a study file writes the values of a parameter, and how they are read.

8                              always this value
[1, 2, 4, 8]                   one of these
{powers_of_two: [1, 64]}       1, 2, 4, ... 64
{low: 1, high: 12}             whole numbers, with an optional step
{low: 1e-5, high: 1e-3, log: true}    any number between, for a parameter that is not whole
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tradeoff.searchspace.choices import CHOICES, check_choice
from tradeoff.searchspace.domains import Categorical, Domain, FloatRange, IntRange, PowersOfTwo
from tradeoff.searchspace.parameters import Precision

# Every configuration of a space is looked at, many times: a slip of the hand must not make a space that takes forever.
MAX_VALUES = 1000
MAX_INTEGER = 2**31 - 1


def integers(spec: Any) -> Domain:
    """Reads the values of a whole-number parameter.

    Raises:
        ValueError: The values are not written in one of the forms above.
    """
    if isinstance(spec, dict):
        if set(spec) == {"powers_of_two"}:
            ends = spec["powers_of_two"]
            if not isinstance(ends, list) or len(ends) != 2:
                raise ValueError(f"powers_of_two must be two numbers, [low, high], got {ends!r}")
            return PowersOfTwo(low=_integer(ends[0]), high=_integer(ends[1]))
        low, high, rest = _ends(spec, _integer, {"step"})
        step = _integer(rest.get("step", 1))
        if step > 0 and (count := (high - low) // step + 1) > MAX_VALUES:
            raise ValueError(f"a parameter may have at most {MAX_VALUES:,} values, got {count:,}; use a step or powers_of_two")
        return IntRange(low, high, step)
    return Categorical(tuple(_integer(value) for value in _listed(spec)))


def numbers(spec: Any) -> Domain:
    """Reads the values of a parameter that is any number.

    Raises:
        ValueError: The values are not written in one of the forms above.
    """
    if isinstance(spec, dict):
        low, high, rest = _ends(spec, _number, {"log"})
        return FloatRange(low, high, **{name: _boolean(value) for name, value in rest.items()})
    return Categorical(tuple(_number(value) for value in _listed(spec)))


def booleans(spec: Any) -> Domain:
    """Reads the values of a switch.

    Raises:
        ValueError: A value is neither true nor false.
    """
    return Categorical(tuple(_boolean(value) for value in _listed(spec)))


def precisions(spec: Any) -> Domain:
    """Reads precisions.

    Raises:
        ValueError: A value is not the name of a precision.
    """
    names = [precision.value for precision in Precision]
    for value in _listed(spec):
        if value not in names:
            raise ValueError(f"a precision must be one of {', '.join(names)}, got {value!r}")
    return Categorical(tuple(_listed(spec)))


def names(parameter: str, spec: Any) -> Domain:
    """Reads the values of a parameter that takes names, such as the optimizer.

    Raises:
        ValueError: A value is not a name that the parameter takes.
    """
    for value in _listed(spec):
        check_choice(parameter, value)
    return Categorical(tuple(_listed(spec)))


READERS: dict[str, Callable[[Any], Domain]] = {
    "per_device_train_batch_size": integers,
    "gradient_accumulation_steps": integers,
    "gradient_checkpointing": booleans,
    "precision": precisions,
    "learning_rate": numbers,
    "dataloader_num_workers": integers,
    "dataloader_pin_memory": booleans,
    **{name: partial(names, name) for name in CHOICES},
    "torch_compile": booleans,
}


def _listed(spec: Any) -> list[Any]:
    if isinstance(spec, dict):
        raise ValueError(f"must be a value or a list of values, got {spec!r}")
    values = list(spec) if isinstance(spec, list | tuple) else [spec]
    if len(values) > MAX_VALUES:
        raise ValueError(f"a parameter may have at most {MAX_VALUES:,} values, got {len(values):,}")
    return values


def _ends(spec: dict[str, Any], read: Callable[[Any], Any], optional: set[str]) -> tuple[Any, Any, dict[str, Any]]:
    if not {"low", "high"} <= set(spec) <= {"low", "high"} | optional:
        forms = "low, high" + "".join(f", {name}" for name in sorted(optional))
        raise ValueError(f"a range has the keys {forms}, got {', '.join(map(str, spec)) or 'none'}")
    return read(spec["low"]), read(spec["high"]), {name: spec[name] for name in optional if name in spec}


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, got {value!r}")
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"must be a whole number of at most {MAX_INTEGER:,}, got {value:,}")
    return value


def _number(value: Any) -> float:
    # YAML 1.1 reads 5e-5, without a point, as text.
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be a number, got {value!r}") from None


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, got {value!r}")
    return value

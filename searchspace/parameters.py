"""The parameters of one trial, and what makes two trials equal in what they learn, in memory or in speed.

A trial's outcomes do not depend on the same parameters. Accuracy depends on the learning class: how the effective batch is
split does not matter. Within a memory class and a speed class, peak memory and the time of a micro-step depend on the
micro-batch alone. The classes derive from the knobs' declarations.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from tradeoff.searchspace.choices import Precision
from tradeoff.searchspace.knob import Learning
from tradeoff.searchspace.knobs import ACCUMULATION, KNOBS, MICRO_BATCH, Knobs


class Reuse(StrEnum):
    """The configurations that share the accuracy of one training."""

    OFF = "off"
    CHECKPOINTING = "checkpointing"
    EFFECTIVE_BATCH = "effective-batch"


# How much the trials of a learning class may differ in what they learn.
_SHARED = {
    Reuse.OFF: Learning.NOTHING,
    Reuse.CHECKPOINTING: Learning.RECOMPUTED,
    Reuse.EFFECTIVE_BATCH: Learning.ROUNDING,
}
# What a knob is set to that is not searched.
_DEFAULTS = {name: knob.default for name, knob in KNOBS.items() if knob.default is not None}


class Values(Mapping[str, Any]):
    """An immutable mapping that can be a key of others."""

    def __init__(self, /, **values: Any) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values == self._values

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __getstate__(self) -> dict[str, Any]:
        # Not the hash, which is another in every process.
        return {"_values": self._values}

    def replace(self, /, **values: Any) -> Self:
        """Return these values with some others."""
        return self._like({**self._values, **values})

    def without(self, names: Iterable[str]) -> Self:
        """Return these values without some of them."""
        taken = set(names)
        return self._like({name: value for name, value in self._values.items() if name not in taken})

    def _like(self, values: Mapping[str, Any]) -> Self:
        return type(self)(**values)

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self._values.items()))


class LearningClass(Values):
    """Trials that learn the same: within a class, accuracy differs by no more than a change of seed makes it differ."""

    @property
    def effective_batch_size(self) -> int:
        """Samples per optimizer step."""
        size: int = self["effective_batch_size"]
        return size


class MemoryClass(Values):
    """Trials whose peak memory is ordered by, and close to linear in, the micro-batch."""

    @cached_property
    def other_accumulation(self) -> "MemoryClass":
        """The class that differs from this one only in whether gradients are accumulated."""
        return self.replace(accumulates=not self["accumulates"])


class SpeedClass(Values):
    """Trials whose micro-step time depends on the micro-batch alone, and is close to linear in it."""


class TrialParameters(Values):
    """The settings of one training run: values of knobs, by name.

    A knob that is left out has its default; where that is None, it is not in here, and the job's own value or transformers'
    default holds. None is a value only of a knob that takes it.

    Raises:
        ValueError: A value is not legal.

    Example:
        >>> parameters = TrialParameters(per_device_train_batch_size=8, optim="adafactor")
        >>> parameters.gradient_accumulation_steps, parameters.get("optim"), parameters.get("learning_rate")
        (1, 'adafactor', None)
    """

    def __init__(self, knobs: Knobs = KNOBS, /, **values: Any) -> None:
        given = {name: value for name, value in values.items() if value is not None or knobs[name].kind.takes_none}
        held = {}
        for name in knobs.in_order({**_DEFAULTS, **given}):
            if name in given:
                value = given[name]
                knobs[name].kind.check(name, value)
            else:
                value = _DEFAULTS[name]
            held[name] = value.value if isinstance(value, Precision) else value
        if MICRO_BATCH not in held:
            raise ValueError(f"{MICRO_BATCH} must have a value")
        super().__init__(**held)
        self.knobs = knobs

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the parameters that somebody else's data holds: the type of each value is checked as in a study file.

        Raises:
            ValueError: A value is of another type or not legal.
        """
        known = {name: value for name, value in values.items() if value is not None or KNOBS[name].kind.takes_none}
        return cls(**{name: KNOBS[name].kind.read_value(value) for name, value in known.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "knobs": self.knobs}

    def _like(self, values: Mapping[str, Any]) -> Self:
        return type(self)(self.knobs, **values)

    @property
    def per_device_train_batch_size(self) -> int:
        """The micro-batch: samples in one forward pass of a device."""
        size: int = self._values[MICRO_BATCH]
        return size

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches in one optimizer step."""
        steps: int = self._values[ACCUMULATION]
        return steps

    @property
    def gradient_checkpointing(self) -> bool:
        """True if activations are recomputed in the backward pass."""
        value: bool = self._values["gradient_checkpointing"]
        return value

    @cached_property
    def precision(self) -> Precision:
        """The arithmetic."""
        return Precision(self._values["precision"])

    def effective_batch_size(self, num_devices: int = 1) -> int:
        """Return the samples that one optimizer step learns from: micro-batch x accumulation x devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * num_devices

    def learning_class(self, num_devices: int = 1, reuse: Reuse = Reuse.EFFECTIVE_BATCH) -> LearningClass:
        """Return the class of trials that reach this one's accuracy.

        Args:
            num_devices: Devices that share an optimizer step.
            reuse: How much is shared: all splits of an effective batch, one split with and without checkpointing, or nothing.
        """
        shared, learned = _SHARED[reuse], {}
        for name, value in self._values.items():
            if (knob := self.knobs[name]).learning > shared:
                # Names of one algorithm differ by rounding alone.
                learned[name] = knob.same.get(value, value) if shared >= Learning.ROUNDING else value
        return LearningClass(effective_batch_size=self.effective_batch_size(num_devices), **learned)

    def memory_class(self) -> MemoryClass:
        """Return the class of trials whose peak memory this one's micro-batch is compared with."""
        return self._memory_class

    def speed_class(self) -> SpeedClass:
        """Return the class of trials whose micro-steps this one's are compared with."""
        return self._speed_class

    def needs_at_least_the_memory_of(self, other: "TrialParameters") -> bool:
        """Return True if this configuration can't need less memory than `other`, by the order that holds on every device.

        Memory grows with the micro-batch, from checkpointing on to off, and from no accumulation to any. Between other settings
        there is no order.
        """
        ours, theirs = self._memory_ranks, other._memory_ranks
        if self.memory_kind != other.memory_kind or ours.keys() != theirs.keys():
            return False
        return all(ours[name] >= rank for name, rank in theirs.items())

    @cached_property
    def learning_only(self) -> Mapping[str, Any]:
        """The values on which neither memory nor time depends, such as the learning rate."""
        return {name: value for name, value in self._values.items() if self.knobs[name].changes_learning_only}

    @cached_property
    def structure(self) -> "TrialParameters":
        """The configuration without them: what memory and time depend on."""
        return self.without(self.learning_only) if self.learning_only else self

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name: what is stored, exported and sent to a trial's process."""
        return dict(self._values)

    @cached_property
    def _memory_class(self) -> MemoryClass:
        return MemoryClass(
            **{
                memory.name or name: memory.seen_as(value)
                for name, value in self._values.items()
                if name != MICRO_BATCH and (memory := self.knobs[name].memory) is not None
            }
        )

    @cached_property
    def _speed_class(self) -> SpeedClass:
        return SpeedClass(
            **{name: value for name, value in self._values.items() if name != MICRO_BATCH and self.knobs[name].changes_time}
        )

    @cached_property
    def memory_kind(self) -> Values:
        """The values that change memory in no known order: only where they are equal it is known who needs more."""
        seen = {
            name: (memory, value) for name, value in self._values.items() if (memory := self.knobs[name].memory) is not None
        }
        return Values(**{name: memory.seen_as(value) for name, (memory, value) in seen.items() if not memory.order})

    @cached_property
    def _memory_ranks(self) -> dict[str, float]:
        """The ranks of those that change it in a known order."""
        seen = {
            name: (memory, value) for name, value in self._values.items() if (memory := self.knobs[name].memory) is not None
        }
        return {name: memory.order * memory.seen_as(value) for name, (memory, value) in seen.items() if memory.order}

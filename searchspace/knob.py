"""The parts of a knob's declaration; `tradeoff.searchspace.knobs` holds the declarations themselves."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any, Literal

from tradeoff.searchspace.kinds import Kind

# What a knob may change, as a study file tells it.
CHANGES = ("memory", "time", "learning")


class Learning(IntEnum):
    """The effect of a knob on what a training learns, from none to another method."""

    NOTHING = 0
    """The same numbers are computed."""
    RECOMPUTED = 1
    """The same numbers are computed, some of them twice."""
    ROUNDING = 2
    """The same arithmetic is carried out in another order: rounding differs, and dropout may draw other numbers."""
    PRECISION = 3
    """The same method is carried out in another arithmetic."""
    METHOD = 4
    """Another method."""


class Target(Enum):
    """The receiver of a knob's value."""

    ARGUMENTS = "TrainingArguments"
    MODEL = "from_pretrained"
    DATA = "data collator"
    JOB = "job"
    KEYWORD = "job.build"
    DEVICE = "device"


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The effect of a knob on the peak memory of a step.

    Attributes:
        order: 1 if a larger value never needs less memory on any device, -1 if it never needs more, 0 if neither holds.
        seen_as: What memory depends on, by value of the knob.
        name: A name for that; by default the knob's.
    """

    order: Literal[-1, 0, 1] = 0
    seen_as: Callable[[Any], Any] = _itself
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A requirement of a value that not every device or installation meets.

    Attributes:
        ability: The name under which the description of a device says that it is there.
        reason: What is missing, as the rest of a sentence; `{device}` is the device's name, and `{them}` is "it" or "them".
        package: The module that must be installed, or None.
        on: The kind of device that is needed, or None.
        compiler: Whether torch must find a compiler.
    """

    ability: str
    reason: str
    package: str | None = None
    on: str | None = None
    compiler: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A rule between a knob and others.

    Attributes:
        name: The rule's key among the constraints of a trial.
        reason: Called with the values of a configuration by name; returns in a sentence how they break the rule, or None.
    """

    name: str
    reason: Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, kw_only=True)
class Knob:
    """Everything that is particular to one setting that can be searched.

    Attributes:
        name: Its name in study files and in stored trials.
        kind: The values that it takes, and how a study file writes them.
        description: One line for the study file's reference.
        label: Its name in tables.
        searched: What a study file searches by default, as it would write it; None for nothing.
        default: Its value where it is not searched; None for the job's own value, or transformers' default.
        memory: How it changes peak memory; None if it does not.
        changes_time: Whether it changes the time of a micro-step.
        changes_length: Whether it changes how many steps a training takes.
        learning: How much it changes of what is learned.
        same: Values that are other names for one algorithm: what they learn differs by `Learning.ROUNDING` alone.
        target: What takes the value.
        arguments: The `TrainingArguments` that a value sets; by default the one of the knob's name.
        needs: What a value needs that may not be there, or None.
        conflict: A rule between this and other knobs.
        only_with: Another knob without which (where it is None, 0 or false) this one means nothing, or None.
        is_open: Whether nothing is known of it but its name.
        names_itself: Whether its values say what they are of without a label.
        usual: A value that is left out where a configuration is described in words.
    """

    name: str
    kind: Kind
    description: str
    label: str = ""
    searched: Any = None
    default: Any = None
    memory: Memory | None = None
    changes_time: bool = False
    changes_length: bool = False
    learning: Learning = Learning.NOTHING
    same: Mapping[Any, Any] = field(default_factory=dict)
    target: Target = Target.ARGUMENTS
    arguments: Callable[[Any], dict[str, Any]] | None = None
    needs: Callable[[Any], Need | None] = lambda _: None
    conflict: Conflict | None = None
    only_with: str | None = None
    is_open: bool = False
    names_itself: bool = False
    usual: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def is_beside_arguments(self) -> bool:
        """True if what builds the Trainer takes the value, and `TrainingArguments` do not."""
        return self.target not in (Target.ARGUMENTS, Target.DEVICE)

    @property
    def changes_learning_only(self) -> bool:
        """True if neither memory nor time depends on it."""
        is_free = self.memory is None and not self.changes_time and not self.changes_length
        return self.learning > Learning.NOTHING and is_free

    def told(self, changes: Collection[str]) -> "Knob":
        """Return the knob with what it changes, of `CHANGES`, as somebody tells or has found out."""
        method = self.learning if self.learning > Learning.NOTHING else Learning.METHOD
        return replace(
            self,
            memory=(self.memory or Memory()) if "memory" in changes else None,
            changes_time="time" in changes,
            learning=method if "learning" in changes else Learning.NOTHING,
        )

    def as_arguments(self, value: Any) -> dict[str, Any]:
        """Return the `TrainingArguments` that a value sets, by name."""
        if self.target is not Target.ARGUMENTS:
            return {}
        return {self.name: value} if self.arguments is None else self.arguments(value)

    def missing(self, value: Any, abilities: Collection[str]) -> Need | None:
        """Return what a value needs that is not among the abilities of a device, or None."""
        need = self.needs(value)
        return None if need is None or need.ability in abilities else need

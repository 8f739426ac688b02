"""The parameters of one trial, and what makes two trials equal in what they learn or in the memory they need.

A trial has three outcomes that do not depend on the same parameters. Accuracy depends on the learning class (how the
effective batch is split does not matter); peak memory, within a memory class, depends on the micro-batch alone.
"""

from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from tradeoff.searchspace.choices import CHOICES, SAME_ALGORITHM, check_choice


class Reuse(StrEnum):
    """How far one training's accuracy speaks for other configurations."""

    OFF = "off"
    CHECKPOINTING = "checkpointing"
    EFFECTIVE_BATCH = "effective-batch"


class Precision(StrEnum):
    """The arithmetic of a training step: full precision, or mixed precision with 16-bit activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningClass:
    """Trials that learn the same: within a class, accuracy differs by no more than a change of seed makes it differ.

    Attributes:
        effective_batch_size: Samples per optimizer step.
        precision: The arithmetic.
        learning_rate: None where the job's holds.
        optimizer: The algorithm, by one of its names; None where the job's holds.
        train_sampling_strategy: None where samples are shuffled without regard to their length.
        split: What else must be equal where less is shared: micro-batch, steps, and how the same arithmetic is carried out;
            empty by default.
    """

    effective_batch_size: int
    precision: Precision
    learning_rate: float | None
    optimizer: str | None = None
    train_sampling_strategy: str | None = None
    split: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryClass:
    """Trials whose peak memory is ordered by, and close to linear in, the micro-batch.

    Accumulation counts only as "one step or more": with more than one, the gradients of earlier micro-batches stay
    allocated during the forward pass. Padding counts because samples need not be as long as `max_length`. How samples are put
    together does not: the peak is that of the longest ones.
    """

    gradient_checkpointing: bool
    precision: Precision
    accumulates: bool
    optim: str | None = None
    attn_implementation: str | None = None
    torch_compile: bool | None = None
    padding: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedClass:
    """Trials whose micro-step time depends on the micro-batch alone, and is close to linear in it.

    The optimizer counts though a micro-step does not use it: an update's time does depend on it, and so each optimizer is
    probed.
    """

    gradient_checkpointing: bool
    precision: Precision
    dataloader_num_workers: int | None
    dataloader_pin_memory: bool | None
    optim: str | None = None
    attn_implementation: str | None = None
    torch_compile: bool | None = None
    padding: str | None = None
    train_sampling_strategy: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialParameters:
    """The settings of one training run, under the names that transformers gives them.

    A field that is None is not searched: the job's own value holds, or transformers' default.

    Raises:
        ValueError: A batch size or a number of accumulation steps is below 1, a learning rate is not positive, or a name is not
            one that transformers has.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    precision: Precision = Precision.FP32
    learning_rate: float | None = None
    dataloader_num_workers: int | None = None
    dataloader_pin_memory: bool | None = None
    optim: str | None = None
    padding: str | None = None
    train_sampling_strategy: str | None = None
    attn_implementation: str | None = None
    torch_compile: bool | None = None

    def __post_init__(self) -> None:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.dataloader_num_workers is not None and self.dataloader_num_workers < 0:
            raise ValueError(f"dataloader_num_workers must be at least 0, got {self.dataloader_num_workers}")
        for name in CHOICES:
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name))
        object.__setattr__(self, "precision", Precision(self.precision))

    def effective_batch_size(self, num_devices: int = 1) -> int:
        """Samples that one optimizer step learns from: micro-batch x accumulation x devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * num_devices

    def learning_class(self, num_devices: int = 1, reuse: Reuse = Reuse.EFFECTIVE_BATCH) -> LearningClass:
        """The class of trials that reach this one's accuracy.

        Padding is masked, and attention implementations and compiled code compute the same: they change what rounding, or a
        dropout that draws in another order, changes. So does the fused form of an optimizer.

        Args:
            num_devices: Devices that share an optimizer step.
            reuse: How much is shared: all splits of an effective batch, one split with and without checkpointing, or nothing.
        """
        split: tuple[Any, ...] = ()
        if reuse != Reuse.EFFECTIVE_BATCH:
            split = (self.per_device_train_batch_size, self.gradient_accumulation_steps)
            split = (*split, self.optim, self.padding, self.attn_implementation, self.torch_compile)
        if reuse == Reuse.OFF:
            split = (*split, int(self.gradient_checkpointing))
        return LearningClass(
            effective_batch_size=self.effective_batch_size(num_devices),
            precision=self.precision,
            learning_rate=self.learning_rate,
            optimizer=None if self.optim is None else SAME_ALGORITHM.get(self.optim, self.optim),
            train_sampling_strategy=self.train_sampling_strategy,
            split=split,
        )

    def memory_class(self) -> MemoryClass:
        """The class of trials whose peak memory this one's micro-batch is compared with."""
        return MemoryClass(
            gradient_checkpointing=self.gradient_checkpointing,
            precision=self.precision,
            accumulates=self.gradient_accumulation_steps > 1,
            optim=self.optim,
            attn_implementation=self.attn_implementation,
            torch_compile=self.torch_compile,
            padding=self.padding,
        )

    def with_learning_rate(self, learning_rate: float | None) -> "TrialParameters":
        """The same configuration with another learning rate."""
        return self if learning_rate == self.learning_rate else replace(self, learning_rate=learning_rate)

    def speed_class(self) -> SpeedClass:
        """The class of trials whose micro-steps this one's are compared with."""
        return SpeedClass(
            gradient_checkpointing=self.gradient_checkpointing,
            precision=self.precision,
            dataloader_num_workers=self.dataloader_num_workers,
            dataloader_pin_memory=self.dataloader_pin_memory,
            optim=self.optim,
            attn_implementation=self.attn_implementation,
            torch_compile=self.torch_compile,
            padding=self.padding,
            train_sampling_strategy=self.train_sampling_strategy,
        )

    def needs_at_least_the_memory_of(self, other: "TrialParameters") -> bool:
        """Whether this configuration can't need less memory than `other`, by the order that holds on every device.

        Memory grows with the micro-batch, from checkpointing on to off, and from no accumulation to any. There is no order
        between precisions: mixed precision keeps a second copy of the weights, and at a small batch needs more than fp32. Nor
        is there one between optimizers, attention implementations, compiled and other code, whose workspaces differ, or
        between paddings: batches of many lengths leave a caching allocator's memory in pieces.
        """
        return (
            self.precision == other.precision
            and self._machinery == other._machinery
            and self.per_device_train_batch_size >= other.per_device_train_batch_size
            and self.gradient_checkpointing <= other.gradient_checkpointing
            and (self.gradient_accumulation_steps > 1) >= (other.gradient_accumulation_steps > 1)
        )

    @property
    def _machinery(self) -> tuple[Any, ...]:
        """What changes memory in no known order."""
        return self.optim, self.attn_implementation, self.torch_compile, self.padding

    def as_dict(self) -> dict[str, Any]:
        """The searched fields as plain values, by name: what is stored, exported and sent to a trial's process."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {"precision": self.precision.value}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every parameter that a search space may hold, in the order in which they are shown."""
        return tuple(field.name for field in fields(cls))

"""The knobs: one declaration for everything that a study can search and of which something is known.

Whatever else depends on a knob derives from its declaration here: the study file's keys and their reference page, the classes
of trials that share a measurement (`tradeoff.searchspace.parameters`), the `TrainingArguments` of a trial, what is left out on
a device that lacks something, the features of the sampler's model, and the names in tables. The order is that in which knobs
are shown.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tradeoff.searchspace.choices import (
    ATTENTION_IMPLEMENTATIONS,
    FLASH_ATTENTION,
    OPTIMIZERS,
    PADDINGS,
    REFUSED_OPTIMIZERS,
    SAME_ALGORITHM,
    SAMPLING_STRATEGIES,
    Precision,
)
from tradeoff.searchspace.job_knobs import JOB_KNOBS
from tradeoff.searchspace.kinds import Anything, Names, Numbers, OrNone, Switch, WholeNumbers
from tradeoff.searchspace.knob import Conflict, Knob, Learning, Memory, Need, Target
from tradeoff.searchspace.training_arguments import FIELDS, OPEN_FIELDS

# What the classes of memory and speed leave open: both are close to linear in the micro-batch.
MICRO_BATCH = "per_device_train_batch_size"
ACCUMULATION = "gradient_accumulation_steps"


def _checkpointing(value: bool) -> dict[str, Any]:
    # The re-entrant variant needs inputs that require gradients, and torch advises against it:
    # https://docs.pytorch.org/docs/stable/checkpoint.html
    # Newer versions of transformers have a second name for the switch and warn of this one, which all of version 5 reads.
    # Off is the default of both.
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}} if value else {}


def _precision_need(value: str) -> Need | None:
    return None if value == Precision.FP32 else Need(ability=value, reason="{device} does not train in {them}")


def _optimizer_need(value: str) -> Need | None:
    if (package := OPTIMIZERS.get(value)) is None:
        return None
    return Need(ability=package, package=package, reason=f"needs the package {package}, which is not installed")


def _attention_need(value: str) -> Need | None:
    if value != FLASH_ATTENTION:
        return None
    return Need(ability=value, package="flash_attn", on="cuda", reason="needs a GPU and the package flash_attn")


def _flash_attention_in_full_precision(values: Mapping[str, Any]) -> str | None:
    if values.get("attn_implementation") != FLASH_ATTENTION or values["precision"] != Precision.FP32:
        return None
    return f"{FLASH_ATTENTION} computes in 16 bits only, and precision is fp32"


def _compiler_need(value: bool) -> Need | None:
    reason = "needs a compiler: g++ (clang++ on macOS) on a CPU, triton and gcc or clang on a GPU"
    return Need(ability="torch_compile", compiler=True, reason=reason) if value else None


_DECLARED = (
    Knob(
        name=MICRO_BATCH,
        kind=WholeNumbers(must="be at least 1", allows=lambda size: size >= 1),
        description="micro-batch: samples in one forward pass",
        label="batch",
        searched=[4, 8, 16, 32],
        memory=Memory(order=1),
        changes_time=True,
        # How an effective batch is split; its size, which is another method, counts by itself.
        learning=Learning.ROUNDING,
    ),
    Knob(
        name=ACCUMULATION,
        kind=WholeNumbers(must="be at least 1", allows=lambda steps: steps >= 1),
        description="micro-batches in one optimizer step",
        label="accumulation",
        searched=[1, 2, 4],
        default=1,
        # With more than one step, the gradients of earlier micro-batches stay allocated during the forward pass.
        memory=Memory(name="accumulates", seen_as=lambda steps: steps > 1, order=1),
        learning=Learning.ROUNDING,
    ),
    Knob(
        name="gradient_checkpointing",
        kind=Switch(),
        description="recompute activations in the backward pass",
        label="checkpointing",
        searched=[False, True],
        default=False,
        memory=Memory(order=-1),
        changes_time=True,
        learning=Learning.RECOMPUTED,
        arguments=_checkpointing,
    ),
    Knob(
        name="precision",
        kind=Names(names=tuple(precision.value for precision in Precision)),
        description="full precision, or mixed precision",
        searched=["fp32", "fp16", "bf16"],
        default="fp32",
        # In no order: mixed precision keeps a second copy of the weights, and at a small batch needs more than fp32.
        memory=Memory(),
        changes_time=True,
        learning=Learning.PRECISION,
        arguments=lambda value: {"fp16": value == Precision.FP16, "bf16": value == Precision.BF16},
        needs=_precision_need,
        names_itself=True,
    ),
    Knob(
        name="learning_rate",
        kind=Numbers(must="be positive", allows=lambda rate: rate > 0),
        description="peak learning rate; default: the job's",
        label="learning rate",
        learning=Learning.METHOD,
    ),
    Knob(
        name="warmup_ratio",
        kind=Numbers(must="be at least 0 and below 1", allows=lambda ratio: 0 <= ratio < 1),
        description="share of the steps in which the learning rate rises to its peak; default: the job's warmup_steps",
        label="warm-up",
        learning=Learning.METHOD,
        # transformers 5 has one argument for both: below 1 it is a share.
        arguments=lambda ratio: {"warmup_steps": ratio},
    ),
    Knob(
        name="num_train_epochs",
        kind=Numbers(must="be above 0", allows=lambda epochs: epochs > 0),
        description="passes over the training samples; default: the job's epochs",
        label="epochs",
        changes_length=True,
        learning=Learning.METHOD,
    ),
    Knob(
        name="dataloader_num_workers",
        kind=WholeNumbers(must="be at least 0", allows=lambda workers: workers >= 0, most=1000),
        description="processes that load data",
        label="workers",
        changes_time=True,
    ),
    Knob(
        name="dataloader_pin_memory",
        kind=Switch(),
        description="load into page-locked memory",
        label="pinned memory",
        changes_time=True,
    ),
    Knob(
        name="optim",
        kind=Names(names=tuple(OPTIMIZERS), refused=REFUSED_OPTIMIZERS),
        description="optimizer, by transformers' name; default: the job's",
        label="optimizer",
        memory=Memory(),
        # A micro-step does not use the optimizer, but an update does: so each optimizer is probed.
        changes_time=True,
        learning=Learning.METHOD,
        same=SAME_ALGORITHM,
        needs=_optimizer_need,
        names_itself=True,
    ),
    Knob(
        name="padding",
        kind=Names(names=PADDINGS),
        description="pad to max_length, or to the longest of a batch; default: the job's",
        # Samples need not be as long as `max_length`; but batches of many lengths fragment the allocator's memory.
        memory=Memory(),
        changes_time=True,
        # Padding is masked.
        learning=Learning.ROUNDING,
        target=Target.DATA,
    ),
    Knob(
        name="train_sampling_strategy",
        kind=Names(names=SAMPLING_STRATEGIES),
        description="random, or group_by_length: samples of similar length together",
        label="sampling",
        # The peak is that of the longest samples, however they are put together.
        changes_time=True,
        learning=Learning.METHOD,
        names_itself=True,
        usual="random",
    ),
    Knob(
        name="attn_implementation",
        kind=Names(names=ATTENTION_IMPLEMENTATIONS),
        description="eager, sdpa or flash_attention_2; default: transformers' choice",
        label="attention",
        memory=Memory(),
        changes_time=True,
        learning=Learning.ROUNDING,
        target=Target.MODEL,
        needs=_attention_need,
        conflict=Conflict(name="attention_needs_16_bits", reason=_flash_attention_in_full_precision),
    ),
    Knob(
        name="torch_compile",
        kind=Switch(),
        description="compile the model with torch.compile",
        label="compiled",
        memory=Memory(),
        changes_time=True,
        learning=Learning.ROUNDING,
        needs=_compiler_need,
    ),
    Knob(
        name="power_limit_w",
        kind=OrNone(kind=Numbers(must="be positive", allows=lambda limit_w: limit_w > 0)),
        description="power limit of the GPU while a trial runs, in watts, which root alone can set; null: as it is",
        label="power limit",
        # The GPU computes the same, with a slower clock.
        changes_time=True,
        target=Target.DEVICE,
    ),
    *JOB_KNOBS,
    *FIELDS,
)


class Knobs(Mapping[str, Knob]):
    """All knobs by name. As a mapping it holds those that are declared; any other name gives an open knob.

    Of an open knob nothing is known: it is a field of `TrainingArguments` or a keyword of the user's own function, takes any
    value, and is taken to change everything.

    Args:
        changes: What some knobs change, of `tradeoff.searchspace.knob.CHANGES`, as their user tells or as was found out.

    Example:
        >>> knobs = Knobs({"head_size": ["learning"]})
        >>> knobs["head_size"].changes_learning_only, "head_size" in knobs, KNOBS["head_size"].changes_time
        (True, False, True)
    """

    def __init__(self, changes: Mapping[str, Collection[str]] | None = None) -> None:
        self.changes = {name: frozenset(changed) for name, changed in (changes or {}).items()}
        self._declared = {knob.name: self._told(knob) for knob in _DECLARED}
        self._open: dict[str, Knob] = {}

    def __getitem__(self, name: str) -> Knob:
        if (knob := self._declared.get(name) or self._open.get(name)) is None:
            knob = self._open[name] = self._told(_open_knob(name))
        return knob

    def __contains__(self, name: object) -> bool:
        return name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Knobs) and other.changes == self.changes

    def __hash__(self) -> int:
        return hash(frozenset(self.changes.items()))

    def __reduce__(self) -> tuple[type["Knobs"], tuple[Mapping[str, Collection[str]]]]:
        # Declarations hold functions, which can't be pickled.
        return Knobs, (self.changes,)

    def in_order(self, names: Collection[str]) -> list[str]:
        """Return names in the order in which knobs are shown: those that are declared first."""
        return [*(name for name in self if name in names), *(name for name in names if name not in self)]

    def _told(self, knob: Knob) -> Knob:
        changes = self.changes.get(knob.name)
        return knob if changes is None else knob.told(changes)


def _open_knob(name: str) -> Knob:
    return Knob(
        name=name,
        kind=Anything(),
        description="",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.ARGUMENTS if name in OPEN_FIELDS else Target.KEYWORD,
        is_open=True,
    )


KNOBS = Knobs()

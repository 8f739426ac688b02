"""The knobs that are fields of the built-in job: the model and how long its texts are, and the parts of it that are trained.

With a job of one's own they are keywords of its function, by the same names.
"""

from collections.abc import Mapping
from typing import Any

from tradeoff.searchspace.choices import Precision
from tradeoff.searchspace.kinds import Numbers, OrNone, Switch, WholeNumbers, Words
from tradeoff.searchspace.knob import Conflict, Knob, Learning, Memory, Need, Target


def _lora_need(value: int | None) -> Need | None:
    reason = "needs the package peft, which is not installed (pip install 'tradeoff[lora]')"
    return None if value is None else Need(ability="peft", package="peft", reason=reason)


def _4_bit_need(value: bool) -> Need | None:
    reason = "needs the package bitsandbytes, which is not installed"
    return Need(ability="bitsandbytes", package="bitsandbytes", reason=reason) if value else None


def _4_bit_in_fp16(values: Mapping[str, Any]) -> str | None:
    if not values.get("load_in_4bit") or values["precision"] != Precision.FP16:
        return None
    return "the adapters of 4-bit weights are kept in bf16, which fp16 can't scale, and precision is fp16"


def _offloading_need(value: bool) -> Need | None:
    return Need(ability="activation_offloading", on="cuda", reason="needs a GPU with a memory of its own") if value else None


JOB_KNOBS: tuple[Knob, ...] = (
    Knob(
        name="model",
        kind=Words(),
        description="as job.model; default: the job's",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
        names_itself=True,
    ),
    Knob(
        name="max_length",
        kind=WholeNumbers(must="be at least 4", allows=lambda tokens: tokens >= 4, most=1_000_000),
        description="tokens per text; longer texts are cut; default: the job's",
        label="length",
        memory=Memory(order=1),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
    ),
    Knob(
        name="packing",
        kind=Switch(),
        description="of a language model: put several texts into one sequence of max_length tokens; default: the job's",
        label="packed",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
    ),
    Knob(
        name="dropout",
        kind=Numbers(must="be at least 0 and below 1", allows=lambda share: 0 <= share < 1),
        description="share of values that the model's dropouts leave out; default: the job's",
        # A mask is kept for the backward pass.
        memory=Memory(seen_as=lambda share: share > 0),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
    ),
    Knob(
        name="frozen_layers",
        kind=WholeNumbers(must="be at least 0", allows=lambda layers: layers >= 0, most=1000),
        description="layers of the model, from the first one, that are not trained; default: the job's",
        label="frozen layers",
        memory=Memory(order=-1),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
    ),
    Knob(
        name="lora_rank",
        kind=OrNone(kind=WholeNumbers(must="be at least 1", allows=lambda rank: rank >= 1, most=100_000), example=8),
        description="rank of LoRA's adapters; null trains all weights; default: the job's",
        label="LoRA rank",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
        needs=_lora_need,
    ),
    Knob(
        name="lora_alpha",
        kind=Numbers(must="be positive", allows=lambda alpha: alpha > 0),
        description="scale of LoRA's adapters; default: the job's, or twice the rank",
        label="LoRA alpha",
        learning=Learning.METHOD,
        target=Target.JOB,
        only_with="lora_rank",
    ),
    Knob(
        name="lora_target_modules",
        kind=Words(),
        description="layers that get adapters, as peft names them, such as all-linear; default: the job's",
        label="LoRA targets",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
        only_with="lora_rank",
    ),
    Knob(
        name="load_in_4bit",
        kind=Switch(),
        description="of a language model with adapters: weights of 4 bits (bitsandbytes); default: the job's",
        label="4 bits",
        memory=Memory(),
        changes_time=True,
        learning=Learning.METHOD,
        target=Target.JOB,
        needs=_4_bit_need,
        only_with="lora_rank",
        conflict=Conflict(name="4_bits_need_another_precision", reason=_4_bit_in_fp16),
    ),
    Knob(
        name="activation_offloading",
        kind=Switch(),
        description="of a language model: keep a GPU's activations in the host's memory; default: the job's",
        label="offloading",
        memory=Memory(),
        changes_time=True,
        learning=Learning.RECOMPUTED,
        target=Target.JOB,
        needs=_offloading_need,
    ),
)

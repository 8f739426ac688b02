"""Estimated against published and measured peak memory: `benchmarks/memory_estimate.py [lecture] [guide] [kernels]`.

- lecture: BERT-base, fp32, eager attention, on a GPU of 7,611 MiB; torch 2.0's foreach AdamW.
- guide: BERT-large on a V100, from transformers' guide "Efficient Training on a Single GPU" of 2022
  (https://huggingface.co/docs/transformers/v4.21.0/perf_train_gpu_one); torch 1.10.
- kernels: BERT-base as a language model in float16 on an A100, forward and backward passes with eager attention and with SDPA;
  allocated, in MB (https://gist.github.com/hackyon/2bfcfb59666fab23655f6e62bc0752ba, for transformers' pull request 28802).

`benchmarks/memory_on_cpu.py` tests the trace alone, on real runs.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from old_torch import Torch20Tracer, Torch110LoopAdamWTracer, Torch110Tracer
from transformers import BertConfig

from tradeoff.objectives.memory_estimator.caching_allocator import CachingAllocator
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.events import Category, Event
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory, RunEstimate
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.objectives.memory_estimator.tracing.fake_model import fake_batch
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision, TrialParameters

BERT_BASE = BertConfig()
BERT_LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case, its estimate, and what was measured; None if it ran out of memory."""

    case: str
    estimate: RunEstimate
    measured_mib: float | None

    @property
    def error(self) -> float | None:
        return None if self.measured_mib is None else self.estimate.peak_memory_mib / self.measured_mib - 1

    @property
    def within_bounds(self) -> bool | None:
        if self.measured_mib is None:
            return None
        return self.estimate.lower_bound_mib <= self.measured_mib <= self.estimate.upper_bound_mib


def parameters(batch: int, accumulation: int = 1, checkpointing: bool = False, precision: str = "fp32") -> TrialParameters:
    return TrialParameters(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        precision=Precision(precision),
    )


def lecture() -> list[Row]:
    settings = TraceSettings(sequence_length=512, num_labels=5, attention="eager")
    random_data = {(1, 1): 3281, (2, 1): 3391, (4, 1): 4613, (8, 1): 7069, (9, 1): None} | {
        (8, accumulation): 7509 if accumulation < 64 else 6637 for accumulation in (2, 4, 8, 16, 32, 128, 1024, 4096)
    }
    reviews = {(8, 1): 7069, (8, 8): 7509, (8, 32): 7509, (8, 1024): 7509}
    rows = []
    for name, measured, samples, epochs in (("random", random_data, 512, 1), ("reviews", reviews, 1000, 3)):
        estimator = MemoryEstimator(
            BERT_BASE,
            settings=settings,
            gpu=GpuMemory(total_mib=7611, context_mib=417),
            train_samples=samples,
            epochs=epochs,
            eval_batch_size=8 if name == "reviews" else None,
            tracer=Torch20Tracer,
        )
        estimates = estimator.estimate([parameters(batch, accumulation) for batch, accumulation in measured])
        for ((batch, accumulation), value), estimate in zip(measured.items(), estimates, strict=True):
            rows.append(Row(case=f"{name}, batch {batch} x {accumulation}", estimate=estimate, measured_mib=value))
    return rows


def guide() -> list[Row]:
    cases = [
        ("adamw_hf", parameters(4), 14949),
        ("adamw_hf", parameters(1, 4), 8681),
        ("adamw_hf", parameters(1, 4, checkpointing=True), 6775),
        ("adamw_hf", parameters(4, precision="fp16"), 13939),
        ("adamw_hf", parameters(1, 4, checkpointing=True, precision="fp16"), 7275),
        ("adafactor", parameters(4), 12295),
        ("adafactor", parameters(1, 4, checkpointing=True, precision="fp16"), 4847),
    ]
    rows = []
    for optimizer, tracer in (("adamw_hf", Torch110LoopAdamWTracer), ("adafactor", Torch110Tracer)):
        chosen = [(configuration, measured) for name, configuration, measured in cases if name == optimizer]
        estimator = MemoryEstimator(
            BERT_LARGE,
            settings=TraceSettings(
                sequence_length=512,
                num_labels=2,
                attention="eager",
                optimizer="adafactor" if optimizer == "adafactor" else "adamw_torch",
                foreach=False,
                flash_attention=False,
            ),
            gpu=GpuMemory(total_mib=16160, context_mib=1343, loaded_code_mib=0),
            train_samples=512,
            tracer=tracer,
        )
        estimates = estimator.estimate(configuration for configuration, _ in chosen)
        for (configuration, measured), estimate in zip(chosen, estimates, strict=True):
            rows.append(Row(case=f"{optimizer} {describe(configuration)}", estimate=estimate, measured_mib=measured))
    return rows


class LogitsTracer(Tracer):
    """The loop of that benchmark: no optimizer, the sum of the logits for a loss, the last outputs alive until the next."""

    def loop(self, batch: int) -> list[Event]:
        """Every event of two steps."""
        outputs: Any = None
        with self._tracing():
            self._recorder.start("loop", Category.ACTIVATIONS)
            for _ in range(2):
                self._model.zero_grad()
                inputs = fake_batch(self._model, batch, self._settings)
                del inputs["labels"]
                outputs = self._model(**inputs)
                self._recorder.in_backward = True
                # The gradient of a sum is one number in every place, and cuBLAS takes a copy with the places filled.
                outputs.logits.backward(torch.ones_like(outputs.logits))
                self._recorder.in_backward = False
            del outputs
        return [*self._build, *self._recorder.events]


def kernels() -> list[Row]:
    measured = {
        "sdpa": {(4, 256): 764.834, (4, 512): 1227.162, (8, 256): 1226.114, (8, 512): 2134.262, (16, 512): 3961.013},
        "eager": {(4, 256): 939.213, (4, 512): 1970.447, (8, 256): 1594.295, (8, 512): 3629.401, (16, 512): 6964.659},
    }
    rows = []
    for attention, by_shape in measured.items():
        for (batch, length), value in by_shape.items():
            settings = TraceSettings(
                sequence_length=length, task="causal-lm", attention=attention, weights_dtype="float16", padded=False
            )
            events = LogitsTracer(BertConfig(is_decoder=True), settings).loop(batch)
            allocator = CachingAllocator()
            for event in events:
                if event.num_bytes is None:
                    allocator.release(event.key)
                else:
                    allocator.allocate(event.key, event.num_bytes)
            estimate = RunEstimate(
                parameters=parameters(batch),
                peak_memory_mib=allocator.peak_allocated_bytes / 1e6,
                lower_bound_mib=0.0,
                upper_bound_mib=0.0,
                fits=None,
                fails_at=None,
                parts={},
            )
            rows.append(Row(case=f"{attention}, {batch} x {length}", estimate=estimate, measured_mib=value))
    return rows


def describe(configuration: TrialParameters) -> str:
    text = f"{configuration.per_device_train_batch_size} x {configuration.gradient_accumulation_steps}"
    text += f" {configuration.precision.value}"
    return text + (" checkpointing" if configuration.gradient_checkpointing else "")


def report(title: str, rows: list[Row], *, bounded: bool) -> None:
    """Prints a table; the bounds are those of a GPU's allocator, and mean nothing on a CPU."""
    print(
        f"\n{title}\n{'case':44}{'measured':>10}{'estimated':>11}{'error':>8}"
        + (f"{'low':>9}{'high':>9}  fits" if bounded else "")
    )
    for row in rows:
        estimate = row.estimate
        measured = "OOM" if row.measured_mib is None else f"{row.measured_mib:,.0f}"
        error = "" if row.error is None else f"{row.error:+.1%}"
        outside = "  outside its bounds" if bounded and row.within_bounds is False else ""
        line = f"{row.case:44}{measured:>10}{estimate.peak_memory_mib:>11,.0f}{error:>8}"
        if bounded:
            line += f"{estimate.lower_bound_mib:>9,.0f}{estimate.upper_bound_mib:>9,.0f}  {estimate.fits}{outside}"
        print(line)
    errors = [abs(row.error) for row in rows if row.error is not None]
    outside = sum(row.within_bounds is False for row in rows)
    print(f"largest error {max(errors):.1%}" + (f", outside the bounds {outside} of {len(errors)}" if bounded else ""))


def main() -> None:
    chosen = sys.argv[1:] or ["lecture", "guide", "kernels"]
    for name, title, make in (
        ("lecture", "BERT-base on a GPU of 7,611 MiB", lecture),
        ("guide", "BERT-large on a V100", guide),
        ("kernels", "BERT-base in float16 on an A100, allocated, in MB", kernels),
    ):
        if name in chosen:
            started = time.perf_counter()
            report(title, make(), bounded=name in ("lecture", "guide"))
            print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

"""Estimated against counted memory on a CPU: real runs of the Trainer and of TRL's, each allocation counted by a profiler.

On a CPU nothing is retained and nothing is rounded, so the trace is tested apart from the allocator: the estimate is what is
requested at the peak.
"""

import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.run_estimate import MIB, GpuMemory
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.objectives.trainers.embedded import embedded_chat_tokenizer
from tradeoff.objectives.trainers.language_trainer import LanguageTrainer
from tradeoff.objectives.trainers.trained_parts import adapted, freeze
from tradeoff.searchspace import Precision, TrialParameters

LENGTH = 128
WORDS = 4000
STEPS = 3
BERT = BertConfig(
    hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=1024, vocab_size=WORDS, num_labels=5
)
LLAMA = LlamaConfig(
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=768,
    vocab_size=WORDS,
    num_labels=5,
    pad_token_id=0,
)
# As google/electra-small-discriminator, with fewer words.
ELECTRA = ElectraConfig(vocab_size=WORDS, num_labels=5)
GPT2 = GPT2Config(n_embd=256, n_layer=3, n_head=4, vocab_size=WORDS, bos_token_id=1, eos_token_id=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training; a language model's is TRL's."""

    config: PretrainedConfig
    batch: int
    accumulation: int = 1
    checkpointing: bool = False
    precision: str = "fp32"
    writes: bool = False
    packed: bool = False
    lora: Lora | None = None
    frozen_layers: int = 0

    def __str__(self) -> str:
        words = [self.config.model_type, f"{self.batch} x {self.accumulation}", self.precision]
        words += [word for word, said in (("checkpointing", self.checkpointing), ("TRL", self.writes)) if said]
        words += [word for word, said in (("packed", self.packed), ("LoRA", self.lora), ("frozen", self.frozen_layers)) if said]
        return " ".join(words)

    @property
    def parameters(self) -> TrialParameters:
        return TrialParameters(
            per_device_train_batch_size=self.batch,
            gradient_accumulation_steps=self.accumulation,
            gradient_checkpointing=self.checkpointing,
            precision=Precision(self.precision),
        )


def classifiers() -> list[Case]:
    settings = ((4, 1, False, "fp32"), (16, 1, False, "fp32"), (16, 2, False, "fp32"), (16, 1, True, "fp32"),
                (8, 2, True, "fp32"), (16, 1, False, "bf16"), (16, 1, True, "bf16"))  # fmt: skip
    return [
        Case(config=config, batch=batch, accumulation=steps, checkpointing=checkpointing, precision=precision)
        for config in (BERT, LLAMA)
        for batch, steps, checkpointing, precision in settings
    ] + [Case(config=ELECTRA, batch=8, precision=precision) for precision in ("fp32", "bf16")]


def partly_trained() -> list[Case]:
    return [
        Case(config=BERT, batch=8, lora=Lora()),
        Case(config=BERT, batch=8, frozen_layers=2),
        Case(config=LLAMA, batch=8, writes=True),
        Case(config=LLAMA, batch=8, writes=True, packed=True),
        Case(config=LLAMA, batch=8, writes=True, lora=Lora()),
        Case(config=LLAMA, batch=8, writes=True, lora=Lora(), checkpointing=True),
        Case(config=LLAMA, batch=8, writes=True, lora=Lora(), checkpointing=True, precision="bf16"),
        Case(config=GPT2, batch=8, writes=True, lora=Lora(dropout=0.1), frozen_layers=1, accumulation=2),
        Case(config=GPT2, batch=8, writes=True, frozen_layers=2, precision="bf16"),
    ]


def estimated_mib(case: Case) -> float:
    settings = TraceSettings(
        sequence_length=LENGTH,
        task="sft" if case.writes else "sequence-classification",
        attention="eager",
        packed=case.packed,
        lora=case.lora,
        frozen_layers=case.frozen_layers,
        foreach=False,
        target="cpu",
    )
    gpu = GpuMemory(context_mib=0, loaded_code_mib=0)
    [estimate] = MemoryEstimator(case.config, settings=settings, gpu=gpu).estimate([case.parameters])
    return estimate.lower_bound_mib


def counted_mib(case: Case) -> float:
    """The peak of torch's CPU allocator in a real run of a case."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": case.batch,
            "gradient_accumulation_steps": case.accumulation,
            "gradient_checkpointing": case.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "bf16": case.precision == "bf16",
            "num_train_epochs": 1,
            "optim": "adamw_torch",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return counted_peak_mib(lambda: train(build(case, arguments)))


def train(trainer: Trainer) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def counted_peak_mib(run: Callable[[], None]) -> float:
    """The peak of torch's CPU allocator during a run, which builds its model itself."""
    # Else the last case's model would be released within the profile and counted against this one.
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    current = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak / MIB


def build(case: Case, arguments: dict[str, Any]) -> Trainer:
    auto_class = AutoModelForCausalLM if case.writes else AutoModelForSequenceClassification
    model = auto_class.from_config(case.config, attn_implementation="eager", dtype=torch.float32)
    if case.lora is None:
        freeze(model, case.frozen_layers, name="model")
    else:
        adapters = case.lora.settings()
        model = adapted(model, **adapters, frozen_layers=case.frozen_layers, writes=case.writes, name="model")
    samples = Dataset.from_list([sample(case, number) for number in range(case.batch * case.accumulation * STEPS)])
    if not case.writes:
        return Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=samples)
    return LanguageTrainer(
        model=model,
        args=SFTConfig(packing=case.packed, **arguments),
        train_dataset=samples,
        processing_class=embedded_chat_tokenizer(["a text"]),
    )


def sample(case: Case, number: int) -> dict[str, Any]:
    """A sequence; of others than packed ones some end in padding."""
    tokens = torch.randint(1, WORDS, (LENGTH,)).tolist()
    if not case.writes:
        return {"input_ids": tokens, "attention_mask": [1] * (LENGTH - 8) + [0] * 8, "labels": number % 5}
    if case.packed:
        return {"input_ids": tokens, "labels": tokens, "seq_lengths": [LENGTH]}
    kept = tokens[: LENGTH - 8 * (number % 2)]
    return {"input_ids": kept, "labels": kept}


def main() -> None:
    errors = []
    print(f"{'case':52}{'counted':>10}{'estimated':>11}{'error':>8}")
    for case in [*classifiers(), *partly_trained()]:
        counted, estimated = counted_mib(case), estimated_mib(case)
        errors.append(estimated / counted - 1)
        print(f"{case!s:52}{counted:>10,.1f}{estimated:>11,.1f}{errors[-1]:>+8.2%}", flush=True)
    print(f"largest error {max(map(abs, errors)):.2%}")


if __name__ == "__main__":
    main()

"""Published memory figures, each with the run that it was measured in, for `memory_plan.py`.

A row is matched if its source tells model, shapes, precision, optimizer and software. What it does not tell of a GPU, a context
of CUDA or NCCL, leaves its estimate without an error: then only bounds and verdicts are compared. Nothing is fitted to rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from old_torch import Torch20Tracer, Torch110Adam8bitTracer, Torch110LoopAdamWTracer, Torch110Tracer
from transformers import BertConfig, DistilBertConfig, GPT2Config, PretrainedConfig

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.searchspace import Precision, TrialParameters

MB_PER_MIB = 1.048576
BERT_BASE = BertConfig()
BERT_LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
GPT2_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
GPT2_LARGE = GPT2Config(n_embd=1280, n_layer=36, n_head=20)
GPT2_XL = GPT2Config(n_embd=1600, n_layer=48, n_head=25)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure.

    Attributes:
        source: Where it is from.
        case: The run in words.
        measured_mib: The figure; None if the run ran out of memory, or only is known to fit.
        fits: Whether it fitted; None for a figure that says nothing of it.
    """

    source: str
    case: str
    measured_mib: float | None = None
    fits: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that share an estimator.

    Attributes:
        figure: What was measured: `device`, context included, `reserved` or `allocated`.
        arguments: Those of the estimator, besides the configuration.
        is_told: Whether the source tells everything that the figure depends on.
        runs: What was trained, and what was published about it.
    """

    config: PretrainedConfig
    runs: list[tuple[TrialParameters, Published]]
    arguments: dict[str, Any]
    figure: str = "device"
    is_told: bool = True


@dataclass(frozen=True, kw_only=True)
class Loops:
    """Loops of `logits_loop.py` under one release of transformers: the shape of each, and what was published about it."""

    model: str
    attention: str
    transformers: str
    device_mib: float
    runs: list[tuple[tuple[int, int], Published]] = field(default_factory=list)


_GUIDE_TRACERS = {"adamw_torch": Torch110LoopAdamWTracer, "adafactor": Torch110Tracer, "adamw_8bit": Torch110Adam8bitTracer}


def parameters(batch: int, accumulation: int = 1, checkpointing: bool = False, precision: str = "fp32") -> TrialParameters:
    return TrialParameters(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        precision=Precision(precision),
    )


def lecture() -> Iterator[Runs]:
    """BERT-base, 512 tokens, on a GPU of 7,611 MiB with torch 2.0 (a university lecture, 2023)."""
    random_data = {(1, 1): 3281, (2, 1): 3391, (4, 1): 4613, (8, 1): 7069, (9, 1): None} | {
        (8, accumulation): 7509 if accumulation < 64 else 6637 for accumulation in (2, 4, 8, 16, 32, 128, 1024, 4096)
    }
    reviews = {(8, 1): 7069, (8, 8): 7509, (8, 32): 7509, (8, 1024): 7509}
    for name, measured, samples, epochs in (("random", random_data, 512, 1), ("reviews", reviews, 1000, 3)):
        yield Runs(
            config=BERT_BASE,
            runs=[
                (parameters(*shape), Published(source="lecture", case=f"{name}, {shape[0]} x {shape[1]}", measured_mib=value,
                                               fits=value is not None))
                for shape, value in measured.items()
            ],
            arguments={
                "settings": TraceSettings(sequence_length=512, num_labels=5, attention="eager"),
                "gpu": GpuMemory(total_mib=7611, context_mib=417),
                "train_samples": samples,
                "epochs": epochs,
                "eval_batch_size": 8 if name == "reviews" else None,
                "tracer": Torch20Tracer,
            },
        )  # fmt: skip


def guide(rows: list[dict[str, Any]]) -> Iterator[Runs]:
    """BERT-large on a V100 with torch 1.10: transformers' guide to one GPU, 2022."""
    optimizers = {"adamw_hf (loop AdamW)": "adamw_torch", "adafactor": "adafactor", "bitsandbytes Adam8bit": "adamw_8bit"}
    for told, name in optimizers.items():
        chosen = [row for row in rows if row["optimizer"] == told]
        yield Runs(
            config=BERT_LARGE,
            runs=[(_parameters(row), _published(row, "guide", told.split()[0], fits=True)) for row in chosen],
            arguments={
                "settings": TraceSettings(
                    sequence_length=512,
                    num_labels=2,
                    attention="eager",
                    optimizer=name,
                    foreach=False,
                    flash_attention=False,
                ),
                "gpu": GpuMemory(total_mib=16160, context_mib=1343, loaded_code_mib=0),
                "train_samples": 512,
                "tracer": _GUIDE_TRACERS[name],
            },
        )


def two_gpus(rows: list[dict[str, Any]]) -> Iterator[Runs]:
    """BERT-base on MRPC, two GPUs: transformers' page on performance, 2021. Neither contexts nor NCCL are told."""
    yield Runs(
        config=BertConfig(vocab_size=28996),
        runs=[(_parameters(row), _published(row, "two GPUs")) for row in rows],
        arguments={
            "settings": _glue(num_devices=2),
            "gpu": GpuMemory(),
            "train_samples": 1834,
            "epochs": 3,
            "eval_batch_size": 8,
            "tracer": Torch110LoopAdamWTracer,
        },
        is_told=False,
    )


def deepspeed(rows: list[dict[str, Any]]) -> Iterator[Runs]:
    """The largest power of two that ran in fp32 on each of 16 V100 with 32 GB: DeepSpeed's autotuning examples, 2021."""
    configs = {
        "distilbert-base": DistilBertConfig(),
        "bert-base": BertConfig(vocab_size=28996),
        "bert-large": BERT_LARGE,
        "gpt2": GPT2Config(),
        "gpt2-medium": GPT2_MEDIUM,
        "gpt2-large": GPT2_LARGE,
        "gpt2-xl": GPT2_XL,
    }
    for row in rows:
        writes = row["model"].startswith("gpt2")
        settings = _glue(num_devices=16)
        if writes:
            settings = TraceSettings(
                sequence_length=1024, task="causal-lm", attention="eager", foreach=False, flash_attention=False, num_devices=16
            )
        batch = int(row["value"])
        case = f"{row['model']}, fp32, batch"
        known = [(batch, True)] if batch else []
        yield Runs(
            config=configs[row["model"]],
            runs=[
                (parameters(size), Published(source="DeepSpeed", case=f"{case} {size}", fits=fits))
                for size, fits in [*known, (2 * batch or 1, False)]
            ],
            arguments={
                "settings": settings,
                "gpu": GpuMemory(total_mib=32510, context_mib=1343, loaded_code_mib=0),
                "tracer": Torch110LoopAdamWTracer,
            },
            is_told=False,
        )


def rocm(rows: list[dict[str, Any]]) -> Iterator[Runs]:
    """Short trainings of optimum-benchmark on an AMD GPU with torch 2.2, whose hipBLAS holds its workspace itself."""
    for model, config in (("google-bert/bert-base-uncased", BERT_BASE), ("openai-community/gpt2", GPT2Config())):
        for figure in ("allocated", "reserved"):
            chosen = [row for row in rows if row["model"] == model and row["figure"].endswith(figure)]
            yield Runs(
                config=config,
                runs=[(parameters(2), _published(row, "optimum-benchmark", model.split("/")[1], figure)) for row in chosen],
                arguments={
                    "settings": TraceSettings(
                        sequence_length=16, task="causal-lm", flash_attention=False, blas=BlasWorkspace(cublas_bytes=0)
                    ),
                    "gpu": GpuMemory(context_mib=0, loaded_code_mib=0),
                },
                figure=figure,
            )


def loops(rows: list[dict[str, Any]], *, source: str, transformers: str, device_mib: float) -> Iterator[Loops]:
    """Loops without an optimizer, from transformers' documentation of a model."""
    for attention in ("eager", "sdpa"):
        chosen = [row for row in rows if row["attention"] == attention]
        # The page repeats the values of 1,024 tokens at 2,048 in some rows.
        chosen = [row for row in chosen if not _is_copied(row)]
        runs = [((row["batch"], row["seq_length"]), _published(row, source, attention)) for row in chosen]
        if runs:
            yield Loops(
                model=rows[0]["model"], attention=attention, transformers=transformers, device_mib=device_mib, runs=runs
            )


# Where a row's source begins, how its rows are matched, or why they are not.
_MATCHED: dict[str, Callable[[list[dict[str, Any]]], Iterator[Any]]] = {
    "https://huggingface.co/docs/transformers/v4.21.0/perf_train_gpu_one": guide,
    "https://github.com/huggingface/transformers/blob/04e9ffa9": two_gpus,
    "https://huggingface.co/docs/transformers/v4.42.0/model_doc/bert": lambda rows: loops(
        rows, source="BERT's attention", transformers="4.41.2", device_mib=81920
    ),
    "https://github.com/huggingface/transformers docs/source/en/model_doc/opt.md": lambda rows: loops(
        rows, source="OPT's attention", transformers="4.46.3", device_mib=46068
    ),
    "https://github.com/huggingface/transformers docs/source/en/model_doc/gpt_neox.md": lambda rows: loops(
        rows, source="Pythia's attention", transformers="4.43.4", device_mib=16384
    ),
    "https://github.com/huggingface/transformers docs/source/en/model_doc/gpt2.md": lambda rows: loops(
        rows, source="GPT-2's attention", transformers="4.43.4", device_mib=16384
    ),
    "https://github.com/microsoft/DeepSpeedExamples": deepspeed,
    "https://huggingface.co/datasets/optimum-benchmark": rocm,
}
_UNMATCHED = {
    "https://github.com/google-research/bert": "TensorFlow",
    "https://github.com/Lightning-AI/litgpt": "model code of another library, lengths not told",
    "https://github.com/pytorch/torchtune": "model code of another library, most of it compiled",
    "https://github.com/huggingface/peft": "batch and lengths not told",
    "https://github.com/huggingface/blog/blob/main/4bit-transformers-bitsandbytes.md": "rank of the adapters not told",
    "https://github.com/itu-rad/GPUMemNet": "precision, optimizer or lengths not told, cuDNN's workspaces",
    "https://github.com/deepspeedai/DeepSpeed/pull/260": "model code of another library",
    "https://github.com/axolotl-ai-cloud/axolotl": "model and settings not told",
}


def matched(rows: Iterable[dict[str, Any]]) -> tuple[list[Runs | Loops], Counter[str]]:
    """Return the runs of all rows that can be matched, and how many can't, by the reason."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["optimizer"] is None and row["task"] is None and row["source"].startswith(next(iter(_MATCHED))):
            reasons["no training: a context, or weights alone"] += 1
        elif _is_copied(row):
            reasons["the page repeats another row's value"] += 1
        elif (prefix := next((each for each in _MATCHED if row["source"].startswith(each)), None)) is not None:
            by_source.setdefault(prefix, []).append(row)
        else:
            reasons[next(reason for start, reason in _UNMATCHED.items() if row["source"].startswith(start))] += 1
    found = [group for prefix, chosen in by_source.items() for group in _MATCHED[prefix](chosen)]
    return [*lecture(), *found], reasons


def _is_copied(row: dict[str, Any]) -> bool:
    return (row["model"], row["attention"], row["seq_length"]) == ("facebook/opt-350m", "sdpa", 2048) and row["batch"] >= 4


def _glue(num_devices: int) -> TraceSettings:
    return TraceSettings(
        sequence_length=128,
        num_labels=2,
        attention="eager",
        foreach=False,
        flash_attention=False,
        num_devices=num_devices,
    )


def _parameters(row: dict[str, Any]) -> TrialParameters:
    precision = "fp16" if row["precision"].startswith("fp16") else "fp32"
    return parameters(row["batch"], row["accumulation"], row["checkpointing"], precision)


def _published(row: dict[str, Any], source: str, *words: str, fits: bool | None = None) -> Published:
    said = [*words, f"{row['batch']} x {row['accumulation']}" if row["accumulation"] > 1 else f"batch {row['batch']}"]
    said += [str(row["seq_length"])] * isinstance(row["seq_length"], int) + ["checkpointing"] * bool(row["checkpointing"])
    said += [row["precision"].split()[0]] * (row["precision"].split()[0] != "weights")
    case = " ".join(said)
    if row["value"] == "OOM":
        return Published(source=source, case=case, fits=False)
    value = float(row["value"])
    return Published(
        source=source, case=case, measured_mib=value / MB_PER_MIB if row["unit"].startswith("MB") else value, fits=fits
    )

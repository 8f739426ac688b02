"""Presets: each is a function that returns a complete study."""

from collections.abc import Callable

from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import EffectiveBatchSizeLimits, Limits, StudyConfig


def embedded() -> StudyConfig:
    """Return a small BERT with random weights on generated reviews, searched in minutes on two CPU cores without a network."""
    return StudyConfig(
        name="embedded",
        job=TextClassificationJob(
            model=EMBEDDED,
            dataset=EMBEDDED,
            train_samples=2400,
            eval_samples=300,
            max_length=64,
            padding="max_length",
            epochs=3,
            learning_rate=8e-3,
            warmup_steps=0.1,
            eval_batch_size=64,
        ),
        space=SpaceConfig(
            per_device_train_batch_size=[16, 32, 64, 128, 256, 384, 512],
            gradient_accumulation_steps=[1, 2, 4],
            gradient_checkpointing=[False, True],
            precision=["fp32", "fp16", "bf16"],
        ),
        limits=Limits(peak_memory_mib=75, trial_time_s=120),
        trials=24,
    )


def embedded_lm() -> StudyConfig:
    """Return a small Llama with random weights on generated conversations, searched in minutes on two CPU cores."""
    return StudyConfig(
        name="embedded-lm",
        job=CausalLMJob(
            model=EMBEDDED,
            dataset=EMBEDDED,
            train_samples=480,
            eval_samples=120,
            max_length=128,
            epochs=3,
            warmup_steps=0.1,
            eval_batch_size=32,
        ),
        space=SpaceConfig(
            per_device_train_batch_size=[4, 8, 16, 32],
            gradient_accumulation_steps=[1, 2],
            gradient_checkpointing=[False, True],
            precision=["fp32"],
            packing=[False, True],
            learning_rate=[3e-3, 1e-2, 3e-2],
        ),
        objectives=("eval_loss", "train_time_s", "peak_memory_mib"),
        limits=Limits(trial_time_s=120),
        trials=12,
    )


def yelp_bert() -> StudyConfig:
    """Return BERT-base on Yelp reviews, as in the lecture: 1,000 to train and 1,000 to evaluate on, padded to 512, 3 epochs."""
    return StudyConfig(
        name="yelp-bert",
        job=TextClassificationJob(
            model="bert-base-uncased",
            dataset="Yelp/yelp_review_full",
            train_samples=1000,
            eval_samples=1000,
            data_seed=42,
            max_length=512,
            padding="max_length",
            epochs=3,
        ),
        space=SpaceConfig(
            per_device_train_batch_size=[1, 2, 4, 8, 16, 32, 64],
            gradient_accumulation_steps=[1, 2, 4, 8, 16, 32],
            gradient_checkpointing=[False, True],
            precision=["fp32", "fp16", "bf16"],
        ),
        limits=Limits(effective_batch_size=EffectiveBatchSizeLimits(max=1024)),
        trials=40,
    )


def dummy_bert() -> StudyConfig:
    """Return BERT-base on random tokens, as in the lecture: 512 sequences of 512, only for time and memory."""
    return StudyConfig(
        name="dummy-bert",
        job=TextClassificationJob(
            model="bert-base-uncased",
            dataset=RANDOM_TOKENS,
            num_labels=2,
            train_samples=512,
            eval_samples=0,
            max_length=512,
            padding="max_length",
            epochs=1,
        ),
        space=SpaceConfig(
            per_device_train_batch_size=[1, 2, 4, 8, 16, 32, 64],
            gradient_accumulation_steps=[1, 2, 4, 8, 16, 32],
            gradient_checkpointing=[False, True],
            precision=["fp32", "fp16", "bf16"],
        ),
        objectives=("train_time_s", "peak_memory_mib"),
        trials=40,
    )


PRESETS: dict[str, Callable[[], StudyConfig]] = {
    "embedded": embedded,
    "embedded-lm": embedded_lm,
    "yelp-bert": yelp_bert,
    "dummy-bert": dummy_bert,
}

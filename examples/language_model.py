"""A small causal language model with random weights, evaluated by its perplexity."""

import functools
import math

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer


class PerplexityTrainer(Trainer):
    """A Trainer whose evaluation returns the perplexity beside the loss."""

    def evaluate(self, *args, **kwargs):
        """Evaluate, and add the perplexity: the exponential of the loss."""
        metrics = super().evaluate(*args, **kwargs)
        return metrics | {"eval_perplexity": math.exp(metrics["eval_loss"])}


@functools.cache  # a trial builds two Trainers and should read its data once
def read(num_samples: int, seed: int) -> Dataset:
    """Return tokenized reviews, not padded."""
    tokenizer = reviews_tokenizer()
    texts = [review.text for review in generate_reviews(num_samples, seed=seed)]
    return Dataset.from_dict({"input_ids": tokenizer(texts, truncation=True, max_length=48)["input_ids"]})


def build(args: TrainingArguments, train_samples: int = 1024) -> Trainer:
    """Return a Trainer with a fresh model."""
    tokenizer = reviews_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=48,
        pad_token_id=tokenizer.pad_token_id,
    )
    return PerplexityTrainer(
        model=AutoModelForCausalLM.from_config(config, dtype=torch.float32),
        args=args,
        train_dataset=read(train_samples, seed=0),
        eval_dataset=read(100, seed=1),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )

"""A small causal language model with random weights that rates reviews, judged by how many of its answers are right."""

import functools

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.trainers.embedded import embedded_tokenizer

MAX_LENGTH = 48
# A label that is no part of the loss.
IGNORED = -100


@functools.cache
def tokenizer():
    """Return a tokenizer that knows the words of the reviews and the answers."""
    return embedded_tokenizer([*(review.text for review in generate_reviews(1000, seed=0)), *"12345"])


@functools.cache  # a trial builds two Trainers and should read its data once
def read(num_samples: int, seed: int) -> Dataset:
    """Return reviews with the number of their stars as the last token, not padded; the loss is that of the stars alone."""
    reviews = generate_reviews(num_samples, seed=seed)
    questions = tokenizer()([each.text for each in reviews], truncation=True, max_length=MAX_LENGTH - 1)["input_ids"]
    answers = tokenizer().convert_tokens_to_ids([str(each.stars) for each in reviews])
    pairs = list(zip(questions, answers, strict=True))
    return Dataset.from_dict(
        {
            "input_ids": [[*question, answer] for question, answer in pairs],
            "labels": [[IGNORED] * len(question) + [answer] for question, answer in pairs],
        }
    )


def likeliest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the likeliest next token at each place: an evaluation keeps these instead of all logits."""
    return logits.argmax(dim=-1)


def rated_right(evaluated: EvalPrediction) -> dict[str, float]:
    """Return the share of reviews whose stars were predicted right."""
    # What is predicted at one place is the token of the next.
    predicted, answers = evaluated.predictions[:, :-1], evaluated.label_ids[:, 1:]
    is_answer = answers != IGNORED
    return {"rated_right": float(np.mean(predicted[is_answer] == answers[is_answer]))}


def build(args: TrainingArguments, train_samples: int = 1024) -> Trainer:
    """Return a Trainer with a fresh model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=tokenizer().pad_token_id,
    )
    return Trainer(
        model=AutoModelForCausalLM.from_config(config, dtype=torch.float32),
        args=args,
        train_dataset=read(train_samples, seed=0),
        eval_dataset=read(500, seed=1),
        data_collator=DataCollatorForSeq2Seq(tokenizer()),
        processing_class=tokenizer(),
        preprocess_logits_for_metrics=likeliest,
        compute_metrics=rated_right,
    )

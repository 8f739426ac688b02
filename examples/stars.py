"""A small BERT with a regression head that predicts a review's stars, evaluated by its root mean squared error."""

import functools

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertConfig, Trainer, TrainingArguments

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer


@functools.cache  # a trial builds two Trainers and should read its data once
def read(num_samples: int, seed: int):
    """Return tokenized reviews with their stars as numbers, and the size of the vocabulary."""
    reviews = generate_reviews(num_samples, seed=seed)
    tokenizer = reviews_tokenizer()
    columns = dict(tokenizer([review.text for review in reviews], truncation=True, max_length=48, padding="max_length"))
    labels = [float(review.stars) for review in reviews]
    return Dataset.from_dict(columns | {"labels": labels}), len(tokenizer)


def rmse(prediction) -> dict[str, float]:
    """Return the root mean squared error of an evaluation."""
    return {"rmse": float(np.sqrt(np.mean((prediction.predictions.squeeze() - prediction.label_ids) ** 2)))}


def build(args: TrainingArguments, train_samples: int = 2048) -> Trainer:
    """Return a Trainer with a fresh model."""
    train, vocab_size = read(train_samples, seed=0)
    evaluation, _ = read(200, seed=1)
    config = BertConfig(
        vocab_size=vocab_size,
        num_labels=1,
        problem_type="regression",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    # Without this, accumulation multiplies the loss (huggingface/transformers#47688).
    model.accepts_loss_kwargs = False
    return Trainer(model=model, args=args, train_dataset=train, eval_dataset=evaluation, compute_metrics=rmse)

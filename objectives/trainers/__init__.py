"""Turns a job into a Trainer: model, tokenizer, prepared data, evaluation."""

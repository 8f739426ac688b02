"""How a job becomes a Trainer: model, tokenizer, prepared data, evaluation."""

"""A Trainer whose model is a line, which a trial trains in a moment."""

from typing import Any

import torch
from transformers import Trainer, TrainingArguments


class Line(torch.nn.Module):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Linear(width, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layers(x)
        return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}


def samples(count: int = 64, slope: float = 2.0) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.tensor([x / count]), "labels": torch.tensor([slope * x / count])} for x in range(count)]


def build(args: TrainingArguments, width: int = 1) -> Trainer:
    return Trainer(model=Line(width), args=args, train_dataset=samples(), eval_dataset=samples(16))


SPACE: dict[str, Any] = {
    "per_device_train_batch_size": [8, 16],
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "precision": "fp32",
}
JOB = {"epochs": 1, "learning_rate": 0.1}

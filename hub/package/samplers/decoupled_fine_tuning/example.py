"""A line is fitted by a Trainer; batch and accumulation are searched for its loss, its training time and its peak memory."""

import optuna
import optunahub
import torch
from transformers import Trainer, TrainingArguments


class Line(torch.nn.Module):
    """A line through the origin, and its error."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss and the values of a batch."""
        values = self.layer(x)
        return {"loss": torch.nn.functional.mse_loss(values, labels), "logits": values}


def build(args: TrainingArguments) -> Trainer:
    """Return a Trainer with a new model."""
    samples = [{"x": torch.tensor([i / 256]), "labels": torch.tensor([i / 128])} for i in range(256)]
    return Trainer(model=Line(), args=args, train_dataset=samples, eval_dataset=samples[::8])


if __name__ == "__main__":
    module = optunahub.load_module(package="samplers/decoupled_fine_tuning")
    objective = module.Objective(
        build,
        job={"epochs": 1, "learning_rate": 0.1},
        space={
            "per_device_train_batch_size": [8, 16],
            "gradient_accumulation_steps": [1, 2],
            "gradient_checkpointing": False,
            "precision": "fp32",
        },
    )
    study = optuna.create_study(directions=objective.directions, sampler=module.DecoupledSampler(objective, seed=0))
    study.optimize(objective, n_trials=20)
    objective.publish(study)
    for trial in study.best_trials:
        print(trial.params, dict(zip(objective.metric_names, trial.values, strict=True)))

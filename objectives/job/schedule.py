"""The number of steps of a training, by the same arithmetic as the Trainer's."""

import math
from dataclasses import dataclass

from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.searchspace import TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The steps of one training.

    Attributes:
        num_samples: Training samples processed over all epochs.
        num_micro_batches: Full micro-batches of a device over all epochs; a last, smaller one counts as its share.
        num_updates: Optimizer steps over all epochs.
    """

    num_samples: int
    num_micro_batches: float
    num_updates: int

    @classmethod
    def of(cls, job: TrainingSettings, parameters: TrialParameters, *, num_samples: int, num_devices: int = 1) -> "Schedule":
        """The schedule of a training over `num_samples` samples an epoch, as `transformers.Trainer` runs it."""
        batch = parameters.per_device_train_batch_size
        drops_last = parameters.get("dataloader_drop_last", False)
        batches = max(num_samples // batch, 1) if drops_last else math.ceil(num_samples / batch)
        micro_batches: float = batches if drops_last else num_samples / batch
        if num_devices > 1:
            # Accelerate deals whole micro-batches out and fills the last round up with samples from the beginning.
            batches = math.ceil(batches / num_devices)
            micro_batches = batches
        # The Trainer ends an epoch with an update, even where fewer micro-batches than asked have been accumulated.
        updates = math.ceil(batches / parameters.gradient_accumulation_steps)
        epochs = parameters.get("num_train_epochs", job.epochs)
        return cls(
            num_samples=round(num_samples * epochs),
            num_micro_batches=micro_batches * epochs,
            num_updates=math.ceil(updates * epochs),
        )

    def train_time_s(self, micro_step_time_s: float, optimizer_step_time_s: float) -> float:
        """Training time at these rates."""
        return self.num_micro_batches * micro_step_time_s + self.num_updates * optimizer_step_time_s

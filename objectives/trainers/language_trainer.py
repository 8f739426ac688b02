"""TRL's Trainer, with an evaluation that is the same for every configuration.

Texts are padded and never packed, whatever the training does, and every token counts the same: the Trainer itself averages the
means of batches. An export holds this file for its `train.py`, so nothing of ours is imported here.
"""

import math
from typing import Any

import torch
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

# A mean loss from which the perplexity would be no number that can be compared.
_MOST_NATS = 60.0


class LanguageTrainer(SFTTrainer):  # type: ignore[misc]
    """An `SFTTrainer` of samples that are tokenised, cut and packed already.

    Args:
        num_characters: Characters of the text on which the loss of an evaluation is taken, or None.
        kwargs: As for `SFTTrainer`.
    """

    def __init__(self, *, num_characters: int | None = None, **kwargs: Any) -> None:
        kwargs["args"].max_length = None
        kwargs["args"].dataset_kwargs = {"skip_prepare_dataset": True}
        super().__init__(**kwargs)
        self._num_characters = num_characters
        self._counted: list[tuple[torch.Tensor, ...]] = []

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return batches of padded texts."""
        of_training = self.data_collator  # type: ignore[has-type]
        self.data_collator = DataCollatorForLanguageModeling(pad_token_id=self.processing_class.pad_token_id)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = of_training

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Note a batch's loss, how many of its tokens are predicted right, and how many there are."""
        counted = (inputs["labels"][:, 1:] != -100).sum()
        result = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss = result[0].detach().float()
        right = torch.tensor(self._metrics["eval"]["mean_token_accuracy"][-1], device=loss.device)
        counted = counted.to(loss.device)
        self._counted.append((loss * counted, right * counted, counted))
        return result

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and return the loss of a token (in nats), the perplexity, token accuracy, and bits per character."""
        self._counted = []
        smoother = self.label_smoother  # type: ignore[has-type]
        self.label_smoother = None  # it belongs to the training: a smoothed loss is no perplexity
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.label_smoother = smoother
        sums = [torch.stack(values).sum() for values in zip(*self._counted, strict=True)]
        nats, right, tokens = (float(self.accelerator.reduce(each, "sum")) for each in sums)
        tokens = max(tokens, 1.0)
        loss = nats / tokens
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics |= {f"{prefix}_loss": loss, f"{prefix}_perplexity": math.exp(loss) if loss < _MOST_NATS else math.inf}
        metrics[f"{prefix}_token_accuracy"] = right / tokens  # TRL's is the mean of batches, whatever their number of tokens
        if self._num_characters:
            metrics[f"{prefix}_bits_per_character"] = nats / math.log(2) / self._num_characters
        return metrics

"""Finds out whether a model keeps texts apart that are packed into one sequence: not every one does."""

from typing import Any

import torch

from tradeoff.objectives.trainers.language_tokens import IGNORED

_NUM_TOKENS = 16
_ROUNDING = 1e-6


def texts_meet(trainer: Any, *, is_flash: bool = False) -> bool:
    """Return True if a text's loss depends on another one that stands before it in the same sequence.

    Attention is told where a text begins by its positions. OPT, Falcon, Bloom and models with convolutions or a state, such as
    LFM2 and Mamba, do not look at them.

    Args:
        trainer: TRL's, with packed samples.
        is_flash: Whether its attention needs half precision; all else is compared in full.
    """
    model = trainer.model
    tokens = max(trainer.train_dataset[:8]["input_ids"], key=len)[:_NUM_TOKENS]
    half = len(tokens) // 2
    before, text = tokens[:half], tokens[half:]
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    losses = []
    for other in (before, [text[-1]] * half):
        sample = {"input_ids": [*other, *text], "labels": [IGNORED] * half + text, "seq_lengths": [half, len(text)]}
        made = trainer.data_collator([sample]).items()
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in made}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=is_flash):
            losses.append(float(trainer.compute_loss(model, batch)))
    model.train(was_training)
    return abs(losses[0] - losses[1]) > _ROUNDING * abs(losses[0])

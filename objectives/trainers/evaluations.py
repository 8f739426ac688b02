"""Follows a Trainer's evaluations: their times, and the metrics that they return.

The user's own `evaluate` may add metrics after the Trainer's callbacks were called, so what counts is what it returns.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from transformers import Trainer

from tradeoff.objectives.measurements.goals import learned_value
from tradeoff.objectives.measurements.outcome import Evaluation
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.training_arguments import OF_EVALUATIONS


def watch_evaluations(
    trainer: Trainer, *, before: Callable[[], None] = lambda: None, after: Callable[[Mapping[str, float]], None]
) -> None:
    """Call `before` and `after` around each evaluation from now on, whatever part of the run asks for it.

    Args:
        trainer: The Trainer. If it has several evaluation data sets, for which it calls `evaluate` recursively, they count as
            one evaluation.
        before: Called when an evaluation begins.
        after: Called with the numbers that it returned.
    """
    original = trainer.evaluate
    depth = 0

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if depth == 0:
            before()
        depth += 1
        try:
            metrics = original(*args, **kwargs)
        finally:
            depth -= 1
        if depth == 0:
            after(numbers_of(metrics))
        return metrics

    trainer.evaluate = watched


def evaluate_alike(trainer: Trainer, parameters: TrialParameters) -> None:
    """Let a Trainer evaluate every sample, and by the loss itself, where what is searched would change that.

    Smoothed labels raise the loss of an evaluation too, and `dataloader_drop_last` leaves out its last samples. An exported
    script does the same (`alike.py.jinja`).
    """
    if OF_EVALUATIONS.isdisjoint(parameters):
        return
    original = trainer.evaluate

    @wraps(original)
    def alike(*args: Any, **kwargs: Any) -> Any:
        of_training = trainer.label_smoother, trainer.args.dataloader_drop_last
        trainer.label_smoother, trainer.args.dataloader_drop_last = None, False
        try:
            return original(*args, **kwargs)
        finally:
            trainer.label_smoother, trainer.args.dataloader_drop_last = of_training

    trainer.evaluate = alike


def numbers_of(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics that are numbers, including scalars of numpy and torch but not arrays."""
    plain = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in (metrics or {}).items()}
    return {name: _float(value) for name, value in plain.items() if isinstance(value, numbers.Real)}


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def evaluation(metrics: Mapping[str, float], *, epoch: float, num_train: int, train_time_s: float, **more: Any) -> Evaluation:
    """Return a point of the learning curve."""
    return Evaluation(
        epoch=epoch,
        num_samples=round(epoch * num_train),
        train_time_s=train_time_s,
        eval_loss=metrics.get("eval_loss"),
        accuracy=learned_value({"metrics": metrics}, "accuracy"),
        metrics=dict(metrics),
        **more,
    )

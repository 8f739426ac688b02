"""Accuracy as an `evaluate.Metric` that needs no network and leaves no file behind.

`evaluate.load("accuracy")` would fetch a script from the hub. A metric also keeps its inputs in a file with a lock, for which
concurrent trials would wait; this one keeps them in memory.
"""

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np

from tradeoff.objectives.data.labels import macro_f1


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """The share of predictions that equal their reference, 0 to 1.

    Args:
        cache_dir: Where directories are made that stay empty. Nobody else may have anything there.

    Example:
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Accuracy(directory).compute(predictions=[0, 1, 1, 4], references=[0, 1, 2, 4])
        {'accuracy': 0.75}
    """

    def __init__(self, cache_dir: str, **kwargs: Any) -> None:
        # A fixed seed keeps the metric from reading the global random state.
        super().__init__(cache_dir=cache_dir, **({"keep_in_memory": True, "seed": 0} | kwargs))

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions: class indices; references: class indices.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Compute accuracy and macro F1 of a `transformers.EvalPrediction`, for the Trainer.

    Args:
        prediction: Logits (the first array, if the model returns several) and labels.
    """
    logits = prediction.predictions
    if isinstance(logits, tuple):
        logits = logits[0]
    predicted = np.argmax(logits, axis=-1)
    # Not the home, which may not be writable, and no fixed name in a directory that other users write to.
    with tempfile.TemporaryDirectory(prefix="tradeoff-metric-") as directory:
        accuracy: dict[str, float] = Accuracy(directory).compute(predictions=predicted, references=prediction.label_ids)
    return accuracy | {"f1": macro_f1(predicted, prediction.label_ids)}

"""Predictions as tables for a person: every configuration, the largest batch that fits, and which card is enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from tradeoff.objectives.memory_estimator.gpus import CARDS, Card
from tradeoff.objectives.memory_estimator.run_estimate import MemoryPrediction, largest_fitting
from tradeoff.searchspace import Precision

_PARTS = ("context", "weights", "gradients", "optimizer", "activations", "workspace", "retained")
_VERDICTS = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFit:
    """What of a plan surely fits on a card.

    Attributes:
        card: The card.
        num_configurations: Configurations of a precision that the card has.
        num_fitting: Those of them whose upper bound is within its memory.
        largest_batch: The largest micro-batch among those; None where none fits.
    """

    card: Card
    num_configurations: int
    num_fitting: int
    largest_batch: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "device": self.card.name,
            "memory_mib": self.card.memory_mib,
            "configurations": self.num_configurations,
            "fitting": self.num_fitting,
            "largest_batch": self.largest_batch,
        }


def what_fits(predictions: Sequence[MemoryPrediction]) -> list[CardFit]:
    """For each known card, smallest first, what of a plan surely fits on it."""
    fits = []
    for card in sorted(CARDS, key=lambda card: card.memory_mib):
        able = [each for each in predictions if card.has_bf16 or each.parameters.precision is not Precision.BF16]
        fitting = [each for each in able if each.predicted_high_mib <= card.memory_mib]
        batches = [each.parameters.per_device_train_batch_size for each in fitting]
        fits.append(
            CardFit(
                card=card,
                num_configurations=len(able),
                num_fitting=len(fitting),
                largest_batch=max(batches, default=None),
            )
        )
    return fits


def frontier_of(predictions: Sequence[MemoryPrediction]) -> list[MemoryPrediction]:
    """The largest batch that fits per checkpointing, precision and accumulation."""
    return [prediction for prediction in largest_fitting(predictions).values() if prediction is not None]


def predictions_table(predictions: Sequence[MemoryPrediction]) -> Table:
    """A row for each configuration: the prediction, its bounds, the verdict, and what the memory is for."""
    table = Table(title="Predicted peak memory, MiB", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("batch", "accumulation"):
        table.add_column(name, justify="right")
    table.add_column("checkpointing")
    table.add_column("precision")
    for name in ("peak", "low", "high"):
        table.add_column(name, justify="right")
    table.add_column("fits")
    for name in _PARTS:
        table.add_column(name, justify="right")
    for prediction in predictions:
        parameters = prediction.parameters
        table.add_row(
            str(parameters.per_device_train_batch_size),
            str(parameters.gradient_accumulation_steps),
            "yes" if parameters.gradient_checkpointing else "no",
            parameters.precision.value,
            _mib(prediction.predicted_peak_memory_mib),
            _mib(prediction.predicted_low_mib),
            _mib(prediction.predicted_high_mib),
            _VERDICTS[prediction.fits],
            *(_mib(prediction.parts[name]) for name in _PARTS),
        )
    return table


def frontier_table(predictions: Sequence[MemoryPrediction], device_memory_mib: float) -> Table:
    """A row for each checkpointing, precision and accumulation with the largest batch that fits."""
    table = Table(
        title=f"The largest batch that fits in {device_memory_mib:,.0f} MiB", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("checkpointing")
    table.add_column("precision")
    for name in ("accumulation", "largest batch", "peak", "low", "high"):
        table.add_column(name, justify="right")
    for (checkpointing, precision, accumulation), prediction in largest_fitting(predictions).items():
        figures = ["none", "", "", ""]
        if prediction is not None:
            figures = [
                str(prediction.parameters.per_device_train_batch_size),
                _mib(prediction.predicted_peak_memory_mib),
                _mib(prediction.predicted_low_mib),
                _mib(prediction.predicted_high_mib),
            ]
        table.add_row("yes" if checkpointing else "no", precision.value, str(accumulation), *figures)
    return table


def cards_table(fits: Sequence[CardFit]) -> Table:
    """A row for each card with what surely fits on it."""
    table = Table(title="What surely fits on a card", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("card")
    for name in ("memory (MiB)", "configurations that fit", "largest batch"):
        table.add_column(name, justify="right")
    for fit in fits:
        table.add_row(
            fit.card.name,
            f"{fit.card.memory_mib:,}",
            f"{fit.num_fitting} of {fit.num_configurations}",
            "none" if fit.largest_batch is None else str(fit.largest_batch),
        )
    return table


def _mib(value: float) -> str:
    return f"{value:,.0f}"

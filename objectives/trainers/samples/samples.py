"""What a built-in task makes of its texts, before it is written to disk."""

from dataclasses import dataclass, field
from typing import Any

from tradeoff.objectives.trainers.models import ModelSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The samples of a job in a model's tokens.

    Attributes:
        model: The model.
        parts: The data sets `train`, `eval` if the job evaluates, and `packed` if a language model's texts are packed. Each has
            the model's inputs, `labels`, and `length`, the number of tokens without padding.
        contents: Fingerprints of the splits that were read from the hub.
        facts: Further attributes of `tradeoff.objectives.trainers.prepared_data.PreparedData`.
    """

    model: ModelSource
    parts: dict[str, Any]
    contents: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

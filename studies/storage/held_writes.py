"""What a worker writes of its trial, held back to be written together: each transaction waits for the disk once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tradeoff.studies.storage.trial_rows import write_attributes, write_params


@dataclass(kw_only=True)
class HeldWrites:
    """Writes to one trial, in the order of their kinds.

    Attributes:
        trial_id: The trial.
        params: Parameters, each with its name, its value as Optuna stores it, and its distribution.
        attributes: Attributes of the kinds "user" and "system".
    """

    trial_id: int
    params: list[tuple[str, float, BaseDistribution]] = field(default_factory=list)
    attributes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"user": {}, "system": {}})

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.params or any(self.attributes.values()))

    def add(self, kind: str, attributes: Mapping[str, Any]) -> None:
        """Holds attributes back; the latest of a name is written."""
        self.attributes[kind] |= attributes

    def write(self, connection: sqlalchemy.Connection) -> None:
        """Writes everything."""
        if self.params:
            write_params(connection, self.trial_id, self.params)
        for kind, attributes in self.attributes.items():
            write_attributes(connection, kind, self.trial_id, attributes)

    def show_in(self, trial: FrozenTrial) -> None:
        """Lets a trial that was read show what is not written yet."""
        trial.user_attrs |= self.attributes["user"]
        trial.system_attrs |= self.attributes["system"]

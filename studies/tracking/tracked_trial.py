"""A trial that has ended, in the terms of experiment trackers: a run with a configuration, a curve and a summary."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from optuna.trial import FrozenTrial

from tradeoff.objectives.measurements.goals import metric_name
from tradeoff.objectives.measurements.records import DERIVED_FROM, PUBLISHES, UNPUBLISHED, read_record
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.domains import is_number
from tradeoff.studies.config.study import StudyConfig

# The numbers of a point of a learning curve, besides what the evaluation returned.
_OF_THE_CURVE = ("epoch", "train_time_s", "loss", "eval_loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """One trial of a study.

    Attributes:
        study: The study's name.
        number: The trial's number.
        identifier: 32 hexadecimal digits, always the same for the same trial of the same study.
        started: When it began.
        ended: When it ended.
        outcome: How it ended: "completed", "trained", "probed", "out_of_memory", "failed", ...
        config: The parameters, and the study, its storage, its model and its device by name.
        curve: The learning curve: the number of training samples processed, and what was measured then.
        summary: The objectives, memory in MiB and times in seconds.
        notes: What is said of it: the reason of its end, and where its values come from.
        tags: Words to filter runs by.
    """

    study: str
    number: int
    identifier: str
    started: datetime
    ended: datetime
    outcome: str
    config: Mapping[str, Any]
    curve: tuple[tuple[int, Mapping[str, float]], ...]
    summary: Mapping[str, float]
    notes: Mapping[str, str]
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name among the runs of the study."""
        return f"trial {self.number}"

    @classmethod
    def of(cls, trial: FrozenTrial, config: StudyConfig, *, storage: str, device: str) -> Self | None:
        """Read a trial; None for one that runs or waits, or in which nothing was run.

        Args:
            trial: The trial.
            config: Its study.
            storage: Where the study is stored, without a password.
            device: The name of the device that it was measured on.
        """
        record = read_record(trial, config.objectives, num_devices=config.devices_per_trial)
        if record.outcome in (None, "skipped") or trial.datetime_complete is None:
            return None
        # Of a trial whose values are published as another one, that one is the completed trial.
        outcome = "trained" if record.reason == UNPUBLISHED else str(record.outcome)
        started, attributes = trial.datetime_start or trial.datetime_complete, record.attributes
        origin = {name: attributes[name] for name in (DERIVED_FROM, PUBLISHES) if name in attributes}
        job = {name: getattr(config.job, name, None) for name in ("model", "dataset", "build")}
        return cls(
            study=config.name,
            number=trial.number,
            identifier=uuid.uuid5(uuid.NAMESPACE_URL, f"tradeoff:{config.name}:{trial.number}:{started}").hex,
            started=started,
            ended=trial.datetime_complete,
            outcome=outcome,
            config={
                **record.told_params,
                "effective_batch_size": TrialParameters(**record.params).effective_batch_size(config.devices_per_trial),
                "study": config.name,
                "trial": trial.number,
                "storage": storage,
                "device": device,
                **{name: value for name, value in job.items() if value is not None},
                **origin,
            },
            curve=tuple(
                (point["num_samples"], _measured_at(point)) for point in attributes.get("training", {}).get("curve", ())
            ),
            summary={name: value for name, value in {**attributes, **record.values}.items() if is_number(value)},
            notes={
                "outcome": outcome,
                **({"reason": record.reason} if record.reason else {}),
                **{f"{name} from": source for name, source in record.sources.items()},
            },
            tags=("tradeoff", outcome, *(("published",) if origin else ())),
        )


def _measured_at(point: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a point of a learning curve, each by one name."""
    returned = {metric_name(key): value for key, value in point.get("metrics", {}).items()}
    numbers = {**returned, **{name: point.get(name) for name in _OF_THE_CURVE}}
    return {name: value for name, value in numbers.items() if is_number(value)}

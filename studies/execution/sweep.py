"""A sweep: every configuration of a grid, as a study of its own, and a line for each.

It has the same probes, processes and storage as a search, so it is resumed, exported and shown in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.config.published_tables import TABLES, Published, PublishedTable
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config, validated
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.results import StudyResults

# The columns of the published tables, in their order.
FIGURES = ("train_time_s", "samples_per_s", "peak_memory_mib", "memory_utilization_percent", "train_loss", "accuracy")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """A configuration of the grid and its results.

    Attributes:
        params: The configuration.
        outcome: As a trial's; None if it was not tried.
        reason: Why it has no measurements, in a sentence.
        figures: The measured columns, by name.
        published: The published line of this configuration, or None.
    """

    params: Mapping[str, Any]
    outcome: str | None
    reason: str
    figures: Mapping[str, float]
    published: Published | None


def sweep_config(
    study_file: Path | None, *, preset: str | None, embedded: bool, overrides: Sequence[str] = (), name: str | None = None
) -> StudyConfig:
    """Return the study of a sweep: a preset's table, or the grid of a user's own study file.

    Args:
        study_file: A study file, of which the whole grid is run; its number of trials and its sampler are not used.
        preset: A name of `tradeoff.studies.config.published_tables.TABLES`.
        embedded: Run the preset's grid on the embedded job.
        overrides: As `--set` gives them.
        name: The study's name; default: `sweep-` and the file's or the preset's.

    Raises:
        TradeoffError: Neither or both of file and preset are given, a key is wrong, or the space is not a grid.
    """
    if (study_file is None) == (preset is None):
        raise TradeoffError(f"give a study file or a --preset, one of {', '.join(TABLES)}")
    if embedded and preset is None:
        raise TradeoffError("--job embedded requires --preset; in a study file, write the job under job:")
    presets = {key: table.embedded_study if embedded else table.study for key, table in TABLES.items()}
    config = load_config(study_file, preset=preset, overrides=overrides, presets=presets)
    # Every line is a training of its own, to its end: nothing is taken over from another line.
    measured = {"sampler": "grid", "reuse": "off", "memory_estimate": "off"}
    plain = config.plain() | measured | {"name": name or f"sweep-{config.name}"}
    config = validated(plain, where=str(study_file or preset))
    return config.model_copy(update={"trials": sum(1 for _ in config.search_space().grid())})


def sweep_rows(results: StudyResults, config: StudyConfig, published: PublishedTable) -> list[SweepRow]:
    """Return a line for each configuration of the grid, in the grid's order.

    Args:
        results: The study.
        config: The study's configuration.
        published: The published lines by micro-batch and accumulation steps.
    """
    space = config.search_space()
    memory_limit_mib = config.limits.peak_memory_mib or results.device.get("total_memory_mib")
    rows = []
    for parameters in space.grid():
        params = space.stored(parameters)
        record = _record(results, params)
        rows.append(
            SweepRow(
                params=params,
                outcome=_outcome(record),
                reason="" if record is None else record.reason,
                figures={} if record is None else _figures(record, memory_limit_mib),
                published=published.get(
                    (parameters.per_device_train_batch_size, parameters.gradient_accumulation_steps)
                ),
            )
        )  # fmt: skip
    return rows


def measured_columns(rows: Sequence[SweepRow]) -> list[str]:
    """Return the columns of the published tables, and further objectives of the study."""
    return list(dict.fromkeys((*FIGURES, *(name for row in rows for name in row.figures))))


def published_columns(rows: Sequence[SweepRow]) -> list[str]:
    """Return the columns that any published line of the rows has."""
    lines = [asdict(row.published) for row in rows if row.published is not None]
    return [name for name in FIGURES if any(line[name] is not None for line in lines)]


def _record(results: StudyResults, params: Mapping[str, Any]) -> TrialRecord | None:
    """Return the trial of a configuration: a measured one before an interrupted one, else the latest; None if it has none."""
    same = [record for record in results.records if dict(record.params) == params]
    return max(same, key=lambda record: (record.counts, record.number), default=None)


def _outcome(record: TrialRecord | None) -> str | None:
    """Return a trial's outcome. A configuration of the grid is skipped only if a smaller one has run out of memory."""
    if record is None:
        return None
    return "out_of_memory" if record.outcome == "skipped" else record.outcome


def _figures(record: TrialRecord, memory_limit_mib: float | None) -> dict[str, float]:
    if record.outcome != "completed":
        return {}
    found = {name: numeric_value(record, name) for name in (*FIGURES, *record.values)}
    found["train_loss"] = record.attributes.get("training", {}).get("train_loss")
    memory_mib = found["peak_memory_mib"]
    if memory_mib is not None and memory_limit_mib:
        found["memory_utilization_percent"] = 100.0 * memory_mib / memory_limit_mib
    return {name: value for name, value in found.items() if value is not None}

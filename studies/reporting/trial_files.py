"""A trial's measurements over time as CSV, and its log."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tradeoff.objectives.measurements.records import TrialRecord


def trial_files(record: TrialRecord, *, log: str | None = None) -> dict[str, str]:
    """Return the text of a trial's files by name: its learning curve, its memory over time, its log."""
    training = record.attributes.get("training") or {}
    files = {}
    if curve := training.get("curve"):
        names = [name for name in curve[0] if name != "metrics"]
        files["curve.csv"] = _as_csv(names, ([point.get(name) for name in names] for point in curve))
    if samples := training.get("memory_samples"):
        files["memory.csv"] = _as_csv(["time_s", "memory_mib"], samples)
    if text := log or record.attributes.get("traceback"):
        files["log.txt"] = str(text)
    return files


def _as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()

"""A trial's measurements over time as CSV, and its log."""

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.tables import csv_text


def trial_files(record: TrialRecord, *, log: str | None = None) -> dict[str, str]:
    """Return the text of a trial's files by name: its learning curve, its memory over time, its log."""
    training = record.attributes.get("training") or {}
    files = {}
    if curve := training.get("curve"):
        names = [name for name in curve[0] if name != "metrics"]
        files["curve.csv"] = csv_text([names, *([point.get(name) for name in names] for point in curve)])
    if samples := training.get("memory_samples"):
        files["memory.csv"] = csv_text([["time_s", "memory_mib"], *samples])
    if text := log or record.attributes.get("traceback"):
        files["log.txt"] = str(text)
    return files

"""The notes of a study and of its trials, as Markdown: for optuna-dashboard, and for a pull request.

Pure functions over results and records. A name, a path or an error's words can't become Markdown or HTML in them.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.templating import render
from tradeoff.studies.reporting.text_tables import TextTable, front_text_table, trials_text_table
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults
from tradeoff.studies.results.tables import (
    SHORT_NAMES,
    capitalized,
    front_notes,
    short_configuration,
    show_parameter,
    with_spread,
)
from tradeoff.studies.storage.urls import DEFAULT_STORAGE
from tradeoff.studies.visible import visible

PACKAGE = "tradeoff.studies.reporting"
# The instruments that measure a trial's memory, and what each one sees.
MEMORY_INSTRUMENTS = {
    "peak_allocated_mib": "tensors in torch's CUDA allocator",
    "peak_reserved_mib": "what torch's CUDA allocator held, its cache included",
    "peak_process_mib": "what the process held",
    "peak_device_mib": "what all processes held on the GPU",
    "context_mib": "of it before the model was built",
}
_STAGES = {
    "start": "while starting",
    "data": "while loading the data",
    "model": "while building the model",
    "probe": "in the probe",
    "train": "in training",
    "end": "at the end",
}


def trial_note(record: TrialRecord) -> str:
    """Return how a trial ended and why, its values and where they come from, and its memory."""
    stage = _STAGES.get(record.stage or "", record.stage)
    return render(
        PACKAGE,
        "trial_note.md.jinja",
        record=record,
        configuration=short_configuration(record.told_params),
        outcome=OUTCOME_WORDS[record.outcome],
        # Most reasons begin with the stage.
        stage=stage if stage is not None and stage not in record.reason else None,
        memory_facts=_memory_facts(record) if record.outcome == "out_of_memory" else "",
        violated=record.attributes.get("violated"),
        values=_values_table(record),
        memory=_memory_table(record),
        times=_times(record),
        traceback=record.attributes.get("traceback"),
    )


def study_note(results: StudyResults) -> str:
    """Return what was searched and on what, the choice, how to read it, and the next steps."""
    return render(PACKAGE, "study_note.md.jinja", **study_values(results))


def study_values(results: StudyResults, front: JudgedFront | None = None) -> dict[str, Any]:
    """Return what the templates of notes and reports show of a study, by name; its front is judged here unless it is given."""
    front = judged_front(results) if front is None else front
    wanted = {"maximize": "more is better", "minimize": "less is better"}
    units = ", ".join(f"{GOALS[name].heading}: {wanted[GOALS[name].direction]}" for name in results.objectives)
    return {
        "name": results.name,
        "summary": capitalized(results.summary()),
        "device": str(results.device.get("name", "")),
        "num_devices": results.num_devices,
        "baseline_name": results.baseline_name,
        "objectives": capitalized(units),
        "warning": capitalized(front.warning or ""),
        "choices": _choices(front),
        "front_table": front_text_table(front),
        "front_notes": [*front_notes(front), *map(str, results.found)],
        "trials": trials_text_table([r for r in results.records if r.number >= 0], results.objectives),
        "facts": _study_facts(results),
        "commands": "\n".join(map(visible, _next_commands(results))) if front.recommended else "",
    }


def _choices(front: JudgedFront) -> list[tuple[str, str]]:
    """Return the knee and the extremes of a front: each one's name, and its configuration with its values."""
    named = [("Knee", front.knee), *((capitalized(GOALS[name].extreme), best) for name, best in front.extremes.items())]
    return [(name, _in_words(record, front.objectives)) for name, record in named if record is not None]


def _in_words(record: TrialRecord, objectives: Sequence[str]) -> str:
    values = ", ".join(f"{GOALS[name].label} {with_spread(record, name, unit=True)}" for name in objectives)
    return f"{record.title}, {short_configuration(record.params)}: {values}"


def _study_facts(results: StudyResults) -> list[tuple[str, str]]:
    """Return the space, the job, the device, the limits and the versions: each one's name, and its value in words."""
    config, device = results.config, results.device
    space = {name: spec for name, spec in config.get("space", {}).items() if spec is not None}
    facts = [(SHORT_NAMES.get(name, name), _domain(spec)) for name, spec in space.items()]
    job = config.get("job", {})
    named_by = (("model", "model"), ("data", "dataset"), ("Trainer", "build"))
    facts += [(title, str(job[name])) for title, name in named_by if job.get(name) and name not in space]
    if "name" in device:
        total = device.get("total_memory_mib")
        facts.append(("device", str(device["name"]) + (f", {total:,.0f} MiB" if total else "")))
    limit_mib = results.memory_limit_mib
    facts.append(("memory limit", "none" if limit_mib is None else f"{limit_mib:,.0f} MiB"))
    if "sampler" in config:
        facts.append(("sampler", f"{config['sampler']}, {config.get('trials', len(results.records))} trials"))
    versions = {"tradeoff": results.tradeoff_version} | dict(results.versions)
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts


def _domain(spec: Any) -> str:
    """Return in words what a study file says of a parameter."""
    if isinstance(spec, Mapping) and "values" in spec:
        parts = [_domain(spec["values"])]
        parts += [
            f"only with {SHORT_NAMES.get(name, name)} {_domain(values)}"
            for name, values in (spec.get("only_with") or {}).items()
        ]
        return "; ".join([*parts, *([f"changes {_domain(spec['changes'])}"] if spec.get("changes") else [])])
    if isinstance(spec, Mapping):
        return ", ".join(f"{name} {value}" for name, value in spec.items() if value is not None)
    values = spec if isinstance(spec, list | tuple) else [spec]
    return ", ".join(show_parameter(value) if isinstance(value, bool | None) else str(value) for value in values)


def _next_commands(results: StudyResults) -> list[str]:
    """Return the commands that use the study."""
    option = "" if results.storage == DEFAULT_STORAGE else f" --storage {shlex.quote(results.storage)}"
    name = shlex.quote(results.name)
    return [
        f"tradeoff export {name}{option} --knee --output best",
        f"tradeoff export {name}{option} --within {results.objectives[0]}:1% --output close-to-best",
        f"tradeoff front {name}{option}",
    ]


def _memory_facts(record: TrialRecord) -> str:
    """Return by how much memory was short, in a sentence's part; empty where that is not known."""
    words = {
        "memory_shortfall_mib": "it was short of at least",
        "requested_mib": "the allocation that failed asked for",
        "free_mib": "free was",
    }
    values = {name: value for name in words if (value := record.attributes.get(name)) is not None}
    return capitalized("; ".join(f"{words[name]} {value:,.0f} MiB" for name, value in values.items()))


def _values_table(record: TrialRecord) -> TextTable:
    """Return the objectives with their sources, and what was predicted beside the values."""
    predicted = {name: value for name in GOALS if (value := _predicted_value(record, name)) is not None}
    rows = []
    for name in dict.fromkeys([*record.values, *predicted]):
        # A probe measures what is no value of its trial; of a peak after memory ran out only a part is known.
        value = record.values.get(name)
        if value is None and record.outcome != "out_of_memory":
            value = numeric_value(record, name)
        if name in record.values:
            shown = with_spread(record, name, unit=True)
        else:
            shown = "" if value is None else GOALS[name].show_with_unit(value)
        row = [GOALS[name].label, shown, record.sources.get(name, "")]
        if predicted:
            by_estimate = record.attributes.get(f"predicted_{name}_source") == "estimate"
            prediction = _prediction(name, predicted.get(name), value)
            row.insert(2, f"{prediction} by the memory estimate" if by_estimate else prediction)
        rows.append(row)
    return TextTable(["", "value", *(["predicted"] if predicted else []), "where it comes from"], rows)


def _predicted_value(record: TrialRecord, name: str) -> float | None:
    """Return an objective's prediction from before it was measured: as stored with the trial, or by the trial's probe."""
    stored = record.attributes.get(f"predicted_{name}")
    if stored is None and name == "train_time_s" and record.sources.get(name) == "measured":
        stored = (record.attributes.get("probe") or {}).get("estimated_train_time_s")
    return None if stored is None else float(stored)


def _prediction(name: str, predicted: float | None, value: float | None) -> str:
    if predicted is None:
        return ""
    text = GOALS[name].show_with_unit(predicted)
    return f"{text} ({(predicted - value) / value:+.1%})" if value else text


def _memory_table(record: TrialRecord) -> TextTable:
    peaks = {words: numeric_value(record, name) for name, words in MEMORY_INSTRUMENTS.items()}
    return TextTable(
        ["instrument", "peak"], [[words, f"{peak:,.0f} MiB"] for words, peak in peaks.items() if peak is not None]
    )  # fmt: skip


def _times(record: TrialRecord) -> str:
    """Return what the trial itself took, in a sentence without its full stop."""
    words = {
        "trial_time_s": "the trial took {:,.1f} s",
        "first_step_time_s": "its first step ended after {:,.1f} s",
        "samples_per_s": "it trained {:,.1f} samples/s",
        "tokens_per_s": "{:,.0f} tokens/s",
    }
    found = {name: numeric_value(record, name) for name in words}
    found["tokens_per_s"] = (record.attributes.get("training") or {}).get("tokens_per_s")
    values = {name: value for name, value in found.items() if value is not None}
    return capitalized(", ".join(words[name].format(value) for name, value in values.items()))

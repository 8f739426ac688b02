"""The notes of a study and of its trials, as Markdown: for optuna-dashboard, and for a pull request.

Pure functions over results and records. What a person wrote (names, paths, an error's words) is set so that it can't be taken
for Markdown or HTML.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.reporting.markdown import code, code_block, markdown_table, plain
from tradeoff.studies.reporting.templating import capitalized
from tradeoff.studies.reporting.text_tables import front_text_table, has_values_from_elsewhere
from tradeoff.studies.reporting.trade_off_plots import memory_budget_mib
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.front import extremes, is_derived, knee, pareto_front
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults
from tradeoff.studies.results.tables import ELSEWHERE, SHORT_NAMES, short_configuration
from tradeoff.studies.storage.opening import DEFAULT_STORAGE

# The four instruments, and what each one sees.
MEMORY_FIGURES = {
    "peak_allocated_mib": "tensors in torch's CUDA allocator",
    "peak_reserved_mib": "what torch's CUDA allocator held, its cache included",
    "peak_process_mib": "what the process held",
    "peak_device_mib": "what all processes held on the card",
}
STAGE_WORDS = {
    "start": "while starting",
    "data": "while loading the data",
    "model": "while building the model",
    "probe": "in the probe",
    "train": "in training",
    "end": "at the end",
}


def trial_note(record: TrialRecord) -> str:
    """What became of a trial and why, its values and where they come from, and its memory."""
    parts = [f"### {short_configuration(record.params)}", outcome_sentence(record)]
    if values := _values_table(record):
        parts.append(values)
    if memory := _memory_table(record):
        parts += ["**Memory at its peak**", memory]
    if times := _times(record):
        parts.append(times)
    if traceback := record.attributes.get("traceback"):
        parts += ["**The error**", code_block(str(traceback))]
    return "\n\n".join(parts) + "\n"


def outcome_sentence(record: TrialRecord) -> str:
    """How a trial ended and why, in a sentence or two."""
    attributes = record.attributes
    if record.outcome is None:
        return "This trial runs or waits."
    words = OUTCOME_WORDS[record.outcome]
    if record.outcome == "completed":
        if violated := attributes.get("violated"):
            return f"**Completed**, but it breaks {' and '.join(code(name) for name in violated)}, so it is not on the front."
        if is_derived(record):
            return "**Completed without a training of its own**: its values come from other trials, as the table says."
        stopped = (attributes.get("training") or {}).get("stopped_early")
        return (
            f"**Completed**, stopped early: {plain(str(stopped))}" if stopped else "**Completed**: trained to its last epoch."
        )
    sentence = f"**{words[0].upper()}{words[1:]}**"
    where = STAGE_WORDS.get(record.stage or "", record.stage)
    # Most reasons begin with where it happened.
    if where is not None and where not in record.reason:
        sentence += f" {where}"
    if record.reason:
        sentence += f": {code(record.reason)}"
    if record.outcome != "out_of_memory":
        return sentence
    facts = [
        f"{words} {attributes[name]:,.0f} MiB"
        for name, words in (
            ("memory_shortfall_mib", "it was short of at least"),
            ("requested_mib", "the allocation that failed asked for"),
            ("free_mib", "free was"),
        )
        if attributes.get(name) is not None
    ]
    if not facts:
        return sentence
    return f"{sentence}\n\n{facts[0][0].upper()}{'; '.join(facts)[1:]}. A larger batch would not fit either."


def study_note(results: StudyResults) -> str:
    """What was searched and on what, what came out, how to read it, and how to go on."""
    front = pareto_front(results.records, results.objectives)
    parts = [f"## {plain(results.name)}", f"{results.summary()[0].upper()}{results.summary()[1:]}."]
    if front:
        parts += ["### The choice", choices(results, front), front_markdown(front, results.objectives)]
    parts += ["### What was searched", searched(results), "### How to read it", how_to_read(results)]
    if front:
        parts += ["### How to go on", code_block("\n".join(next_commands(results)))]
    return "\n\n".join(parts) + "\n"


def choices(results: StudyResults, front: Sequence[TrialRecord]) -> str:
    """The knee and the extremes of a front, as a list."""
    best = knee(front, results.objectives)
    lines = [f"- **Knee**, the nearest to the best of everything at once: {_in_words(best, results.objectives)}"]
    for name, record in extremes(front, results.objectives).items():
        lines.append(f"- **{capitalized(GOALS[name].extreme)}**: {_in_words(record, results.objectives)}")
    return "\n".join(lines)


def searched(results: StudyResults) -> str:
    """The space, the device and the limits, as a list."""
    return "\n".join(f"- {name}: {plain(text)}" for name, text in study_facts(results))


def study_facts(results: StudyResults) -> list[tuple[str, str]]:
    """The space, the job, the device, the limits and the versions: each one's name, and what it is."""
    config, device = results.config, results.device
    facts = [(SHORT_NAMES.get(name, name), _domain(spec)) for name, spec in config.get("space", {}).items() if spec is not None]
    job = config.get("job", {})
    named_by = (("model", "model"), ("data", "dataset"), ("Trainer", "build"))
    facts += [(title, str(job[name])) for title, name in named_by if job.get(name)]
    if "name" in device:
        total = device.get("total_memory_mib")
        facts.append(("device", str(device["name"]) + (f", {total:,.0f} MiB" if total else "")))
    budget = memory_budget_mib(results)
    facts.append(("memory budget", "none" if budget is None else f"{budget:,.0f} MiB"))
    if "sampler" in config:
        facts.append(("sampler", f"{config['sampler']}, {config.get('trials', len(results.records))} trials"))
    versions = {"tradeoff": results.tradeoff_version} | dict(results.versions)
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts


def how_to_read(results: StudyResults) -> str:
    """What the words and marks of the study mean, as a list."""
    wanted = {"maximize": "more is better", "minimize": "less is better"}
    units = ", ".join(f"{GOALS[name].heading}: {wanted[GOALS[name].direction]}" for name in results.objectives)
    return "\n".join(
        (
            f"- Objectives. {units[0].upper()}{units[1:]}.",
            "- A configuration is `batch x accumulation`, then what else is on. Its effective batch is their product"
            + (f", times the {results.num_devices} devices that train it together." if results.num_devices > 1 else "."),
            "- On the Pareto front no configuration dominates another; which one is right is a choice, not a result.",
            "- Trials that ran out of memory are pruned and infeasible: they say where the limit is, and are never best.",
            "- A value from elsewhere says so: trainings with the same effective batch share accuracy, a probe gives time and"
            " memory.",
        )
    )


def next_commands(results: StudyResults) -> list[str]:
    """The commands that use the study."""
    option = "" if results.storage == DEFAULT_STORAGE else f" --storage {shlex.quote(results.storage)}"
    name = shlex.quote(results.name)
    return [
        f"tradeoff export {name}{option} --knee --output best",
        f"tradeoff export {name}{option} --within {results.objectives[0]}:1% --output close-to-best",
        f"tradeoff front {name}{option}",
    ]


def front_markdown(front: Sequence[TrialRecord], objectives: Sequence[str]) -> str:
    """The front as a table, with the marks of knee and extremes."""
    header, rows = front_text_table(front, objectives)
    table = markdown_table(header, rows, num_left=2)
    return f"{table}\n\n{ELSEWHERE} from another trial or a probe" if has_values_from_elsewhere(front) else table


def _in_words(record: TrialRecord, objectives: Sequence[str]) -> str:
    values = ", ".join(f"{GOALS[name].label} {GOALS[name].show_with_unit(record.values[name])}" for name in objectives)
    return f"trial {record.number}, {short_configuration(record.params)}: {values}"


def _domain(spec: Any) -> str:
    if isinstance(spec, Mapping):
        return ", ".join(f"{name} {value}" for name, value in spec.items() if value is not None)
    values = spec if isinstance(spec, list | tuple) else [spec]
    return ", ".join(str(value) if not isinstance(value, bool) else "on" if value else "off" for value in values)


def _values_table(record: TrialRecord) -> str:
    """The objectives with their sources, and what was predicted beside what came out."""
    names = list(record.values)
    predicted = {name: value for name in GOALS if (value := predicted_value(record, name)) is not None}
    names += [name for name in predicted if name not in names]
    if not names:
        return ""
    rows = []
    for name in names:
        # A probe measures what is no value of its trial; of a peak after memory ran out only a part is known.
        value = record.values.get(name)
        if value is None and record.outcome != "out_of_memory":
            value = numeric_value(record, name)
        row = [GOALS[name].label, "" if value is None else GOALS[name].show_with_unit(value), record.sources.get(name, "")]
        if predicted:
            by_plan = record.attributes.get(f"predicted_{name}_source") == "plan"
            row.insert(2, _prediction(name, predicted.get(name), value) + (" by the memory plan" if by_plan else ""))
        rows.append(row)
    return markdown_table(["", "value", *(["predicted"] if predicted else []), "where it comes from"], rows)


def predicted_value(record: TrialRecord, name: str) -> float | None:
    """What was predicted of an objective before it was measured: stored as `predicted_<objective>`, or by the trial's probe."""
    stored = record.attributes.get(f"predicted_{name}")
    if stored is None and name == "train_time_s" and record.sources.get(name) == "measured":
        stored = (record.attributes.get("probe") or {}).get("estimated_train_time_s")
    return None if stored is None else float(stored)


def _prediction(name: str, predicted: float | None, value: float | None) -> str:
    if predicted is None:
        return ""
    text = GOALS[name].show_with_unit(predicted)
    return f"{text} ({(predicted - value) / value:+.1%})" if value else text


def _memory_table(record: TrialRecord) -> str:
    rows = [
        [words, f"{value:,.0f} MiB"]
        for name, words in MEMORY_FIGURES.items()
        if (value := numeric_value(record, name)) is not None
    ]  # fmt: skip
    if (context := numeric_value(record, "context_mib")) is not None:
        rows.append(["of it before the model was built", f"{context:,.0f} MiB"])
    return markdown_table(["instrument", "peak"], rows) if rows else ""


def _times(record: TrialRecord) -> str:
    """What the trial itself took, in a sentence."""
    parts = []
    if (taken := numeric_value(record, "trial_time_s")) is not None:
        parts.append(f"the trial took {taken:,.1f} s")
    if (first := numeric_value(record, "first_step_time_s")) is not None:
        parts.append(f"its first step ended after {first:,.1f} s")
    if (speed := numeric_value(record, "samples_per_s")) is not None:
        parts.append(f"it trained {speed:,.1f} samples/s")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""

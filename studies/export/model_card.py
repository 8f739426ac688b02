"""The exported `README.md`: a model card's text with the trade-offs of the study and the configuration that was taken."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.arguments import padding
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, AnyJob, CustomJob, TextClassificationJob, parse_job
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.export.memory_advice import MARGIN, memory_to_leave_free_mib
from tradeoff.studies.export.train_script import launch_command
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice
from tradeoff.studies.results.tables import ELSEWHERE, SHORT_NAMES, is_elsewhere, short_configuration, shown_value

# The flags of transformers' examples/pytorch/text-classification/run_classification.py for a job's data.
_SCRIPT = "run_classification.py"


def model_card(results: StudyResults, choice: Choice, arguments: Mapping[str, Any], files: Sequence[str]) -> str:
    """The text of `README.md`.

    Args:
        results: The study.
        choice: The configuration that was taken.
        arguments: Its TrainingArguments.
        files: The names of the other files of the export.
    """
    job = parse_job(results.config["job"])
    parameters = TrialParameters(**choice.record.params)
    shown = {name: value for name, value in arguments.items() if name != "output_dir"}
    sections = [
        _front_matter(job),
        f"# {_title(job)}\n\n{_summary(results, choice, job)}",
        f"## Trade-offs\n\n{_trade_offs(results, choice)}",
        f"## Memory\n\n{_memory(results, choice.record)}",
        f"## Training again\n\n{_training_again(job, parameters, files, results)}",
        f"## TrainingArguments\n\n```json\n{json.dumps(shown, indent=2)}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_text_columns: int = 0) -> str:
    """A table in Markdown, numbers to the right; the last `num_text_columns` columns hold text."""
    num_numbers = len(head) - num_text_columns
    rule = ["---:" if column < num_numbers else "---" for column in range(len(head))]
    lines = [[_escape(cell) for cell in head], rule, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(job: AnyJob) -> str:
    return job.build if isinstance(job, CustomJob) else f"{_model_name(job)} on {_data_name(job)}"


def _front_matter(job: AnyJob) -> str:
    """What the hub reads of a model card; names of the hub only."""
    if isinstance(job, CustomJob):
        return "---\nlibrary_name: transformers\n---"
    lines = ["library_name: transformers", "pipeline_tag: text-classification"]
    lines += ["metrics:", "- accuracy"] if job.evaluates else []
    if job.model != EMBEDDED and not Path(job.model).expanduser().exists():
        lines.append(f"base_model: {job.model}")
    if job.dataset not in (EMBEDDED, RANDOM_TOKENS) and not job.is_local_file:
        lines += ["datasets:", f"- {job.dataset}"]
    return "\n".join(["---", *lines, "---"])


def _summary(results: StudyResults, choice: Choice, job: AnyJob) -> str:
    elsewhere = [
        f"The {GOALS[name].label} was not measured by this trial itself: {choice.record.sources[name]}."
        for name in results.objectives
        if is_elsewhere(choice.record, name)
    ]
    return "\n\n".join([_sentences(results, choice, job), *elsewhere])


def _sentences(results: StudyResults, choice: Choice, job: AnyJob) -> str:
    values = ", ".join(_value(name, choice.record.values[name]) for name in results.objectives)
    device = results.device.get("name", "an unnamed device")
    trained = "all" if job.num_train_asked is None else f"{job.num_train_asked:,}"
    epochs = f"{job.epochs:g} {'epoch' if job.epochs == 1 else 'epochs'}"
    together = f", on each of {results.num_devices} devices" if results.num_devices > 1 else ""
    return (
        f"Trained as {short_configuration(choice.record.params)} (batch x accumulation steps{together}):"
        f" trial {choice.record.number} of the study {results.name}, {choice.why}.\n\n"
        f"Measured on {device}, with {trained} training samples, {epochs}, seed {job.seed}: {values}."
    )


def _trade_offs(results: StudyResults, choice: Choice) -> str:
    front = pareto_front(results.records, results.objectives)
    if choice.record.number not in {record.number for record in front}:
        front = [*front, choice.record]
    names = [name for name in TrialParameters.names() if any(name in record.params for record in front)]
    head = ["trial", *(SHORT_NAMES.get(name, name) for name in names)]
    head += [GOALS[name].label + (f" ({GOALS[name].unit})" if GOALS[name].unit else "") for name in results.objectives]
    rows = []
    for record in front:
        cells = [str(record.number), *(_parameter(record.params.get(name)) for name in names)]
        cells += [shown_value(record, name) for name in results.objectives]
        is_chosen = record.number == choice.record.number
        rows.append([*([f"**{cell}**" for cell in cells] if is_chosen else cells), "**chosen**" if is_chosen else ""])
    table = markdown_table([*head, ""], rows, num_text_columns=1)
    text = (
        f"No configuration that was tried ({results.summary()}) is better than one of these in one figure"
        f" without being worse in another.\n\n{table}"
    )
    if any(is_elsewhere(record, name) for record in front for name in results.objectives):
        text += f"\n\n{ELSEWHERE} measured by another trial, of the same effective batch, or by a probe of a few steps."
    return text


def _memory(results: StudyResults, record: TrialRecord) -> str:
    figures = {**record.attributes, **record.values}
    kind = str(results.device.get("kind", ""))
    free_mib = memory_to_leave_free_mib(figures, kind=kind)
    if free_mib is None:
        return "The peak memory of this configuration was not measured."
    peak = GOALS["peak_memory_mib"].show(figures["peak_memory_mib"])
    what = "above the loaded libraries" if kind == "cpu" else "with the CUDA context"
    return (
        f"Leave {free_mib:,} MiB free. The peak was {peak} MiB ({what}); {MARGIN:.0%} more covers"
        " other versions of driver and libraries. Longer sequences or a larger evaluation batch need more."
    )


def _training_again(job: AnyJob, parameters: TrialParameters, files: Sequence[str], results: StudyResults) -> str:
    lines = []
    if "train.py" in files:
        needs = f"what {job.build} needs" if isinstance(job, CustomJob) else "datasets alone"
        lines.append(f"With transformers and {needs}, on the samples of the study:")
        lines[-1] += f"\n\n    {launch_command(results.num_devices)}"
        if results.num_devices == 1 or results.device.get("kind") != "cpu":
            lines.append("The same through Accelerate:\n\n    accelerate launch --config_file accelerate_config.yaml train.py")
        if results.num_devices == 1:
            lines.append("On all of the data, with checkpoints that resume, from the folder above this one:")
            lines[-1] += "\n\n    tradeoff train THIS_FOLDER --output MODEL_FOLDER"
    else:
        lines.append("The study measured time and memory on random tokens: there is nothing to train here.")
    # The example script has no option for the attention.
    if isinstance(job, TextClassificationJob) and _is_on_the_hub(job) and parameters.attn_implementation is None:
        command = _script_command(job, padding(job, parameters), results.num_devices)
        lines.append(f"With an example script of transformers:\n\n    {command}")
    lines.append("In code of your own:")
    lines[-1] += '\n\n    (arguments,) = HfArgumentParser(TrainingArguments).parse_json_file("training_args.json")'
    if isinstance(job, CustomJob):
        return "\n\n".join(lines)
    if parameters.attn_implementation is not None:
        lines[-1] += f'\n    model = AutoModel...from_pretrained(..., attn_implementation="{parameters.attn_implementation}")'
    if parameters.padding is not None:
        kept = ', padding="max_length", max_length=' + str(job.max_length) if parameters.padding == "max_length" else ""
        lines[-1] += f"\n    data_collator = DataCollatorWithPadding(tokenizer{kept})"
    return "\n\n".join(lines)


def _is_on_the_hub(job: TextClassificationJob) -> bool:
    return not job.is_local_file and job.dataset not in (EMBEDDED, RANDOM_TOKENS) and job.model != EMBEDDED


def _script_command(job: TextClassificationJob, padded_to: str, num_processes: int) -> str:
    launcher = "python" if num_processes == 1 else f"torchrun --nproc_per_node {num_processes}"
    words = ["--model_name_or_path", job.model, "--dataset_name", job.dataset]
    words += ["--dataset_config_name", job.dataset_config] if job.dataset_config is not None else []
    words += ["--train_split_name", job.train_split, "--validation_split_name", job.eval_split]
    words += ["--text_column_names", job.text_column, "--label_column_name", job.label_column]
    words += ["--max_seq_length", str(job.max_length), "--pad_to_max_length", str(padded_to == "max_length")]
    words += ["--shuffle_train_dataset", "True", "--shuffle_seed", str(job.data_seed)]
    words += ["--max_train_samples", str(job.train_samples)] if job.train_samples is not None else []
    words += ["--do_train", *(["--do_eval"] if job.evaluates else [])]
    return f"{launcher} {_SCRIPT} $(cat flags.txt) {shlex.join(words)}"


def _model_name(job: TextClassificationJob) -> str:
    if job.model == EMBEDDED:
        return "A small BERT with random weights"
    return Path(job.model).name if Path(job.model).expanduser().is_dir() else job.model


def _data_name(job: TextClassificationJob) -> str:
    if job.is_local_file:
        return Path(job.dataset).name
    return {EMBEDDED: "generated reviews", RANDOM_TOKENS: "random tokens"}.get(job.dataset, job.dataset)


def _value(name: str, value: float) -> str:
    goal = GOALS[name]
    return f"{goal.label} {goal.show(value)}{' ' + goal.unit if goal.unit else ''}"


def _parameter(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")

"""Prepares what all trials of a study share, and finds out before them what can't be trained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tradeoff.objectives.data.contents import custom_contents, short_hash
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.job.arguments import jobs_of_data, name_of_data
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob
from tradeoff.objectives.job.sent_function import received
from tradeoff.objectives.job.settings import EMBEDDED
from tradeoff.objectives.trainers import prepared_data
from tradeoff.objectives.trainers.baselines import best_baselines, measured_baselines
from tradeoff.objectives.trainers.custom_trainer import check_keywords
from tradeoff.objectives.trainers.model_files import JobFault, LengthFault
from tradeoff.objectives.trainers.refused_values import arguments_to_try, check_arguments
from tradeoff.objectives.trainers.try_out import TryOut, failing_options, options
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import KNOBS, MICRO_BATCH, TrialParameters
from tradeoff.searchspace.conditions import Conditions

_TRIED = "tried-{}"
_LIBRARIES = ("accelerate", "torch", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """Values of knobs with which a job can't be trained.

    Attributes:
        values: The value of a knob, by its name; or the values of several that fail together.
        reason: Why, as the end of a line.
    """

    values: dict[str, Any]
    reason: str


def prepare_workload(
    job: AnyJob,
    cache_folder: Path,
    searched: Mapping[str, Sequence[Any]] | None = None,
    conditions: Conditions | None = None,
    *,
    measures_baselines: bool = False,
    on_attempt: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Prepare what all trials of a study share, and try the job out unless it was before and nothing has changed since.

    Where models or lengths are searched, data is prepared for each of them: of the same texts, but in other tokens.

    Args:
        job: The job.
        cache_folder: The directory for prepared data.
        searched: The values that each knob may take; None to try nothing out.
        conditions: The values that others must have for a knob to be set.
        measures_baselines: Evaluate a language model before training, which only a search compares with.
        on_attempt: Called when the job is loaded, and before each configuration that is tried out.

    Returns:
        JSON types: `folders` for `load_workload`, `num_train`, `num_eval`, `baselines`, the value that a constant answer
        reaches in each learned objective, if that is known, `contents`, what data and models are, whatever their names,
        `lacks`, the values that can't be trained with, each as `values` and `reason`, `notices`, lines for the user, and of
        texts `longest`, the tokens of the longest one, and `num_packed`, the sequences to train on where texts are packed,
        under the names of `folders`, `tokenizers`, the number of different ones, and `longest_cut`, the tokens of the longest
        evaluation text that is cut, or None.

    Raises:
        ValueError: The job can't be run as the user wrote it.
    """
    if isinstance(job, CustomJob):
        facts: dict[str, Any] = {"folders": {}, "baselines": job.baselines(), "notices": []}
        told, lacking = _tried(job, facts, cache_folder, searched, conditions or {}, on_attempt)
        # Now that the module was imported.
        return facts | told | {"contents": custom_contents(job), "lacks": [asdict(lack) for lack in lacking]}
    found: dict[str, dict[str, Any]] = {}
    notices: list[str] = []
    lacks: list[Lack] = []
    fault: LengthFault | None = None
    jobs = jobs_of_data(job, searched or {})
    tried_models: set[str] = set()
    for one in jobs:
        try:
            facts = prepared_data.prepare(one, cache_folder, notices.append).facts()
            facts["folders"] = {name_of_data(one): facts["folder"]}
            notices += facts["notices"]
            if one.model not in tried_models:
                lacks += _of_model(
                    _tried(one, facts, cache_folder, searched, conditions or {}, on_attempt)[1], one.model, searched
                )
                tried_models.add(one.model)
                if measures_baselines and isinstance(one, CausalLMJob) and one.evaluates:
                    facts["baselines"] = measured_baselines(one, facts["folders"], cache_folder, on_attempt)
                notices += [] if (notice := facts["model"]["notice"]) is None else [notice]
        except LengthFault as error:
            if len(jobs) == 1:
                raise
            fault = fault or error
            lacks.append(Lack(values={"model": one.model, "max_length": one.max_length}, reason=error.reason))
            continue
        found[name_of_data(one)] = facts
    if not found:
        assert fault is not None
        raise fault
    first = next(iter(found.values()))
    if any(each["num_train"] != first["num_train"] for each in found.values()):
        raise JobFault("the data changed while it was prepared; rerun the command")
    baselines = [each["baselines"] for each in found.values() if each["baselines"]]
    # Of several models each is compared by its own name.
    several = len({one.model for one in jobs}) > 1
    contents = dict(first["contents"])
    if several:
        contents.pop("model", None)
        contents |= {
            f"model {one.model}": found[name_of_data(one)]["contents"]["model"]
            for one in jobs
            if name_of_data(one) in found and one.model != EMBEDDED
        }
    return first | {
        "folders": {name: each["folder"] for name, each in found.items()},
        "longest": {name: each["longest"] for name, each in found.items()},
        "contents": contents,
        "baselines": best_baselines(baselines),
        "num_packed": {name: each["num_packed"] for name, each in found.items() if each["num_packed"] is not None},
        "tokenizers": len({each["tokenizer_content"] for each in found.values()}),
        "longest_cut": max(_longest_cut(one, found[name_of_data(one)]) for one in jobs if name_of_data(one) in found) or None,
        "notices": list(dict.fromkeys(notices)),
        "lacks": [asdict(lack) for lack in _summed_up(lacks, searched or {})],
    }


def _longest_cut(job: AnyJob, facts: Mapping[str, Any]) -> int:
    """Return the tokens of the longest evaluation text if a language model reads only a part of it, otherwise 0."""
    longest = facts["longest_eval"] or 0
    return longest if isinstance(job, CausalLMJob) and longest > (job.eval_max_length or job.max_length) else 0


def _of_model(lacks: Iterable[Lack], model: str, searched: Mapping[str, Sequence[Any]] | None) -> list[Lack]:
    """Return what one model lacks, where there are others."""
    if len((searched or {}).get("model", ())) < 2:
        return list(lacks)
    return [Lack(values={**lack.values, "model": model}, reason=lack.reason) for lack in lacks]


def _summed_up(lacks: Sequence[Lack], searched: Mapping[str, Sequence[Any]]) -> list[Lack]:
    """Return the same lacks, with those that hold for every value of a knob said without it."""
    reasons = {_items(lack.values): lack.reason for lack in lacks}
    for knob in ("model", "max_length"):
        by_rest: dict[Any, dict[Any, Any]] = {}
        for items in reasons:
            if len(items) > 1 and knob in (values := dict(items)):
                value = values.pop(knob)
                by_rest.setdefault(_items(values), {})[value] = items
        for rest, having in by_rest.items():
            if all(value in having or _items({knob: value}) in reasons for value in searched.get(knob, having)):
                reasons[rest] = "; ".join(dict.fromkeys(reasons.pop(items) for items in having.values()))
    return [Lack(values=dict(items), reason=reason) for items, reason in reasons.items()]


def _items(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items(), key=lambda item: item[0]))


def _tried(
    job: AnyJob,
    facts: Mapping[str, Any],
    cache_folder: Path,
    searched: Mapping[str, Sequence[Any]] | None,
    conditions: Conditions,
    on_attempt: Callable[[], None],
) -> tuple[dict[str, Any], list[Lack]]:
    """Try a job out, unless that was done, and return what its Trainer tells of it, and what it lacks.

    Raises:
        JobFault: It can't be trained.
    """
    if searched is None and not isinstance(job, CustomJob):
        return {}, []
    lacks = _known_lacks(job, facts, searched or {})
    marker = cache_folder / _TRIED.format(_key(job, facts["folders"], searched or {}, conditions))
    on_attempt()
    workload = load_workload(job, facts["folders"])
    if isinstance(job, CustomJob):
        keywords = [name for name in searched or {} if KNOBS[name].is_beside_arguments]
        try:
            check_keywords(job, keywords, [name for name, needed in conditions.items() if needed])
        except JobFault:
            raise
        except (Exception, SystemExit) as failure:  # whatever the user's module does when it is imported
            raise JobFault(workload.explain(failure)) from failure
    is_tried = searched is None or marker.exists()
    if is_tried and not isinstance(job, CustomJob):
        return {}, lacks
    tried = TryOut(job, facts["folders"], start_device(), steps=not is_tried)
    base, choices = _base(job, searched or {}), options(searched or {})
    use_cpu = tried.device.uses_host_processors
    check_arguments(job, searched or {}, conditions, base=base, use_cpu=use_cpu)
    taken = [lack.values for lack in lacks]
    choices = {name: tuple(value for value in values if {name: value} not in taken) for name, values in choices.items()}
    choices = {name: values for name, values in choices.items() if values}

    def attempt(parameters: TrialParameters) -> BaseException | None:
        on_attempt()
        return tried.attempt(parameters)

    failing, error = failing_options(base, choices, attempt, conditions)
    if error is not None:
        raise JobFault(workload.explain(error)) from error
    lacks += [
        Lack(values={name: value}, reason=workload.explain(why, is_of_an_option=True)) for (name, value), why in failing.items()
    ]
    if (layers := tried.facts.get("num_layers")) is not None:
        reason = f"the model has {layers} layers"
        too_many = [value for value in (searched or {}).get("frozen_layers", ()) if value > layers]
        lacks += [Lack(values={"frozen_layers": value}, reason=reason) for value in too_many]
    if len(lacks) == len(taken):
        cache_folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return tried.facts, lacks


def _known_lacks(job: AnyJob, facts: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]) -> list[Lack]:
    """Return what a built-in job's model class is known to lack."""
    if isinstance(job, CustomJob):
        return []
    source = facts["model"]
    lacks = []
    if source["has_checkpointing"] is False and True in searched.get("gradient_checkpointing", ()):
        reason = f"the model {job.model!r} can't compute its activations again"
        lacks.append(Lack(values={"gradient_checkpointing": True}, reason=reason))
    if source["attention"] is not None:
        reason = f"the model {job.model!r} does not have {{}}; it has {', '.join(source['attention'])}"
        for value in searched.get("attn_implementation", ()):
            if value not in source["attention"]:
                lacks.append(Lack(values={"attn_implementation": value}, reason=reason.format(value)))
    return lacks


def _base(job: AnyJob, searched: Mapping[str, Sequence[Any]]) -> TrialParameters:
    """Return the configuration whose options are varied: the smallest batch, of two samples where that may be.

    A function of the user's own is given the first value of each keyword: it may have no default.
    """
    batches = searched.get(MICRO_BATCH) or (1,)
    smallest = min(batches)
    # Batch normalization can't train on a single sample.
    batch = {MICRO_BATCH: max(smallest, 2) if searched else smallest}
    keywords = [name for name in searched if isinstance(job, CustomJob) and KNOBS[name].is_beside_arguments]
    return TrialParameters(**batch, **{name: searched[name][0] for name in keywords})


def _key(job: AnyJob, folders: Mapping[str, str], searched: Mapping[str, Sequence[Any]], conditions: Conditions) -> str:
    """Return a hash of all that the outcome of trying a job out depends on."""
    depends: dict[str, Any] = {
        "job": job.model_dump(),
        "data": folders,
        "searched": {name: list(values) for name, values in options(searched).items()},
        "arguments": arguments_to_try(searched),
        "conditions": {name: dict(needed) for name, needed in conditions.items()},
        "frozen_layers": list(searched.get("frozen_layers", ())),
        "base": _base(job, searched).as_dict(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    if isinstance(job, CustomJob):
        depends["code"] = _source(job)
    return short_hash(depends)


def _source(job: CustomJob) -> str:
    """Return the text of the user's module, empty where it is not a file; the fingerprint of a function that was sent."""
    if job.is_sent and (function := received()) is not None:
        return function.fingerprint
    name = job.build.partition(":")[0]
    path = Path(job.python_path or "", *name.split(".")).with_suffix(".py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""

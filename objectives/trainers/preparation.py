"""Prepares what all trials of a study share, and finds out before them what can't be trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tradeoff.objectives.data.contents import custom_contents, short_hash
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.job.settings import AnyJob, CustomJob
from tradeoff.objectives.trainers import prepared_data
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.objectives.trainers.try_out import TryOut, failing_options, options
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.knobs import MICRO_BATCH

_TRIED = "tried-{}"
_LIBRARIES = ("accelerate", "torch", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """A value of a knob with which a job can't be trained.

    Attributes:
        knob: The knob.
        value: The value.
        reason: Why, as the end of a line.
    """

    knob: str
    value: Any
    reason: str


def prepare_workload(
    job: AnyJob,
    cache_folder: Path,
    searched: Mapping[str, Sequence[Any]] | None = None,
    *,
    on_attempt: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Prepare what all trials of a study share, and try the job out unless it was before and nothing has changed since.

    Args:
        job: The job.
        cache_folder: The directory for prepared data.
        searched: The values that each knob may take; None to try nothing out.
        on_attempt: Called when the job is loaded, and before each configuration that is tried out.

    Returns:
        JSON types: `folder` for `load_workload`, `num_train`, `num_eval`, `baselines`, the value that a constant answer
        reaches in each learned objective, if that is known, `contents`, what data and model are, whatever their names,
        `lacks`, the values that can't be trained with, each as `knob`, `value` and `reason`, and `notices`, lines for the
        user.

    Raises:
        ValueError: The job can't be run as the user wrote it.
    """
    notices: list[str] = []
    if isinstance(job, CustomJob):
        facts: dict[str, Any] = {"folder": "", "baselines": job.baselines(), "notices": notices}
    else:
        facts = prepared_data.prepare(job, cache_folder, notices.append).facts()
        notices += [] if (notice := facts["model"]["notice"]) is None else [notice]
        facts |= {"notices": notices, "has_checkpointing": facts["model"]["has_checkpointing"]}
    if searched is None and not isinstance(job, CustomJob):
        return facts | {"lacks": []}
    lacks = _known_lacks(job, facts, searched or {})
    marker = cache_folder / _TRIED.format(_key(job, facts["folder"], searched or {}))
    on_attempt()
    workload = load_workload(job, facts["folder"])
    is_tried = searched is None or marker.exists()
    if is_tried and not isinstance(job, CustomJob):
        return facts | {"lacks": [asdict(lack) for lack in lacks]}
    tried = TryOut(job, workload, start_device(), steps=not is_tried)
    base, choices = _base(searched or {}), options(searched or {})
    taken = {(lack.knob, lack.value) for lack in lacks}
    choices = {name: tuple(value for value in values if (name, value) not in taken) for name, values in choices.items()}
    choices = {name: values for name, values in choices.items() if values}

    def attempt(parameters: TrialParameters) -> BaseException | None:
        on_attempt()
        return tried.attempt(parameters)

    failing, error = failing_options(base, choices, attempt)
    if error is not None:
        raise JobFault(workload.explain(error)) from error
    lacks += [
        Lack(knob=name, value=value, reason=workload.explain(why, is_of_an_option=True))
        for (name, value), why in failing.items()
    ]
    if not failing:
        cache_folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    if isinstance(job, CustomJob):
        facts["contents"] = custom_contents(job)  # now that the module was imported
    return facts | tried.facts | {"lacks": [asdict(lack) for lack in lacks]}


def _known_lacks(job: AnyJob, facts: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]) -> list[Lack]:
    """Return what a built-in job's model class is known to lack."""
    if isinstance(job, CustomJob):
        return []
    source = facts["model"]
    lacks = []
    if source["has_checkpointing"] is False and True in searched.get("gradient_checkpointing", ()):
        reason = f"the model {job.model!r} can't compute its activations again"
        lacks.append(Lack(knob="gradient_checkpointing", value=True, reason=reason))
    if source["attention"] is not None:
        reason = f"the model {job.model!r} does not have {{}}; it has {', '.join(source['attention'])}"
        for value in searched.get("attn_implementation", ()):
            if value not in source["attention"]:
                lacks.append(Lack(knob="attn_implementation", value=value, reason=reason.format(value)))
    return lacks


def _base(searched: Mapping[str, Sequence[Any]]) -> TrialParameters:
    """Return the configuration whose options are varied: the smallest batch, of two samples where that may be."""
    batches = searched.get(MICRO_BATCH) or (1,)
    smallest = min(batches)
    # Batch normalization can't train on a single sample.
    return TrialParameters(**{MICRO_BATCH: max(smallest, 2) if searched else smallest})


def _key(job: AnyJob, folder: str, searched: Mapping[str, Sequence[Any]]) -> str:
    """Return a hash of all that the outcome of trying a job out depends on."""
    depends: dict[str, Any] = {
        "job": job.model_dump(),
        "data": folder,
        "searched": {name: list(values) for name, values in options(searched).items()},
        "base": _base(searched).as_dict(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    if isinstance(job, CustomJob):
        depends["code"] = _source(job)
    return short_hash(depends)


def _source(job: CustomJob) -> str:
    """Return the text of the user's module; empty where it is not a file."""
    name = job.build.partition(":")[0]
    path = Path(job.python_path or "", *name.split(".")).with_suffix(".py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""

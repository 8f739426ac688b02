"""What a language model is worth before it is trained: what a training has to beat."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tradeoff.objectives.data.contents import short_hash
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.measurements.goals import GOALS, learned_value
from tradeoff.objectives.trainers.evaluations import numbers_of
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import MICRO_BATCH, TrialParameters

_LIBRARIES = ("torch", "transformers", "trl")


def measured_baselines(
    job: CausalLMJob, folders: Mapping[str, str], cache_folder: Path, on_attempt: Callable[[], None]
) -> dict[str, float]:
    """Evaluate a model before training, unless that was done before.

    Args:
        job: The job, with the model.
        folders: Its prepared data, as `prepare_workload` returns it.
        cache_folder: Where the outcome is kept.
        on_attempt: Called before the evaluation.

    Returns:
        The value of each objective that the job's evaluation returns; empty if its memory does not suffice even for that.
    """
    # Adapters begin at zero: they change nothing yet. Without them a Trainer does not take weights of 4 bits.
    plain = (job if job.load_in_4bit else job.with_whole_model()).model_copy(update={"packing": False})
    versions = {name: version(name) for name in _LIBRARIES}
    depends = {"data": dict(folders), "eval_batch_size": job.eval_batch_size, "seed": job.seed, "versions": versions}
    depends |= {"load_in_4bit": True} if plain.load_in_4bit else {}
    path = cache_folder / f"baseline-{short_hash(depends)}.json"
    if path.is_file():
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return found
    on_attempt()
    workload = load_workload(plain, folders)
    parameters = TrialParameters(**{MICRO_BATCH: 1})
    try:
        with temporary_folder() as folder:
            settings = training_arguments(plain, parameters, output_dir=str(folder)) | {
                "use_cpu": start_device().uses_host_processors,
                "disable_tqdm": True,
            }
            metrics = numbers_of(workload.trainer(workload.arguments_class(**settings), parameters).evaluate())
    except Exception as error:
        if out_of_memory_details(error) is None:
            raise
        return {}  # the trials will find that too
    found = {name: value for name in job.goals() if (value := learned_value({"metrics": metrics}, name)) is not None}
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def best_baselines(baselines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the best value of each objective: of several models, what the best of them is worth as it is."""
    best: dict[str, float] = {}
    for name, value in (item for each in baselines for item in each.items()):
        if name not in best or GOALS[name].better(value, best[name]):
            best[name] = value
    return best

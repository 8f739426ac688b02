"""`tradeoff.search`: what `tradeoff run` does, for a program or a notebook."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.searchspace.domains import is_number
from tradeoff.studies.config.stored import AllowedCode
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.python.configuration import Build, configured, storage_text
from tradeoff.studies.python.errors import speaking_python
from tradeoff.studies.python.progress import progress_display, quiet_optuna
from tradeoff.studies.python.result import Result, read
from tradeoff.studies.storage.urls import DEFAULT_STORAGE
from tradeoff.studies.workers.run import run_study


@speaking_python
def search(
    build: Build | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    objectives: Sequence[str] | None = None,
    trials: int = 24,
    job: Mapping[str, Any] | None = None,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    workers: int | None = None,
    timeout_s: float | None = None,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Search a job's settings jointly, and return what was found.

    It is what `tradeoff run` does: the study is stored, and the same call resumes it, after Ctrl-C or with more `trials`. It
    works in a script, a notebook, a thread and beside a running event loop; each trial runs in a process of its own.

    Example:
        >>> result = tradeoff.search(
        ...     stars.build,
        ...     job={"metric": "rmse", "direction": "minimize", "epochs": 1, "kwargs": {"train_samples": 128}},
        ...     space={"per_device_train_batch_size": [16, 32], "precision": "fp32", "gradient_checkpointing": False},
        ...     trials=2,
        ...     name="stars",
        ... )
        >>> result.objectives
        ('eval_rmse', 'train_time_s', 'peak_memory_mib')

    Args:
        build: A function that takes `TrainingArguments` and returns a `transformers.Trainer`, with the keywords that `space`
            names. It may be one of a notebook or a script, or a closure: then it is sent to the trials by value, with what it
            refers to. None for the job that `job` describes.
        space: The values of each parameter, as in a study file: a value, a list or a range; or a distribution of Optuna's.
        limits: `peak_memory_mib`, `effective_batch_size` and `trial_time_s`.
        objectives: Two or more; by default the job's metric, training time and peak memory.
        trials: The study's total number of trials.
        job: What a study file's `job` says. Beside `build`: `metric`, `direction`, `epochs`, `learning_rate`, `kwargs`, ...
        name: The study's name; default: `study`.
        storage: A database URL, or the path of a SQLite file.
        workers: Trials that run at a time; by default one on each visible GPU, one on a CPU.
        timeout_s: No trial is started after this many seconds.
        progress: Show progress, in a notebook's cell or on the error stream.
        settings: Any other key of a study file, such as `sampler`, `sampler_seed` or `stop_below_gain`.

    Returns:
        The result, also if nothing has completed.

    Raises:
        TradeoffError: The study can't run as it is written, or one of this name exists with other settings.
        StudyFailed: Five trials in a row failed.
        KeyboardInterrupt: The user stopped it; `tradeoff.load` has what was found until then.
    """
    storage = storage_text(storage)
    if timeout_s is not None and not (is_number(timeout_s) and timeout_s >= 0):
        raise TradeoffError(f"timeout_s must be a number of at least 0 seconds, got {timeout_s!r}; leave it out for no limit")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool)):
        raise TradeoffError(f"workers must be a whole number, got {workers!r}; leave it out for one on each visible GPU")
    config, function = configured(
        build,
        job=job,
        space=space,
        where="tradeoff.search",
        limits=limits,
        objectives=objectives,
        trials=trials,
        name=name,
        **settings,
    )
    with quiet_optuna():
        run_study(
            config,
            storage=storage,
            workers=workers,
            timeout_s=timeout_s,
            display=progress_display(progress),
            function=function,
            interrupts=Interrupts(exits=False),
        )
        return read(config.name, storage, AllowedCode(job=config.job, space=config.search_space()))

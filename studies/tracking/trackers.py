"""The trackers, a class for each; a further one is a class and its place in `TRACKERS`.

Where a run goes is the user's own setting of the tracker: its environment variables and its login. Without any, everything
stays on this machine, in the working directory or, with Trackio, in its own cache. What a killed process has begun to write is
written again in its place.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from tradeoff.studies.tracking.tracked_trial import TrackedTrial

# What MLflow takes in one call, and in the name of a metric or a parameter.
_MLFLOW_BATCH = 1000
_NOT_IN_MLFLOW_NAMES = re.compile(r"[^\w\-. :/]")


class Tracker(Protocol):
    """Writes trials as runs; what it raises is the tracker's own."""

    def write(self, trial: TrackedTrial) -> None:
        """Write a trial as a run that has ended; again in its place if it was begun before."""


class WandbTracker:
    """Weights & Biases, which is offline unless the user has logged in or set WANDB_MODE."""

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb
        is_told = "WANDB_MODE" in os.environ or wandb.setup().settings.mode != "online"
        self._mode: Literal["offline"] | None = None if is_told or wandb.login(prompt=False, verify=False) else "offline"

    def write(self, trial: TrackedTrial) -> None:
        """Write a run in the group of its study."""
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tradeoff"),
            group=trial.study,
            name=f"{trial.study}, {trial.name}",
            id=trial.identifier,
            resume="allow",
            config=dict(trial.config),
            tags=list(trial.tags),
            notes="\n".join(f"{name}: {text}" for name, text in trial.notes.items()),
            mode=self._mode,
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        for num_samples, measured in trial.curve:
            run.log(dict(measured), step=num_samples)
        run.summary.update({**trial.summary, "outcome": trial.outcome})
        run.finish(exit_code=int(trial.outcome == "failed"))


class MlflowTracker:
    """MLflow, by its tracking URI; by default a database in the working directory."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # its own lines would stand between those of the study
        import mlflow

        self._client = mlflow.MlflowClient()
        self._experiments: dict[str, str] = {}

    def write(self, trial: TrackedTrial) -> None:
        """Write a run of the experiment that has the study's name, unless MLFLOW_EXPERIMENT_NAME names another."""
        from mlflow.entities import Metric, Param, RunTag

        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or trial.study)
        for begun in self._client.search_runs([experiment], filter_string=f"tags.tradeoff_id = '{trial.identifier}'"):
            self._client.delete_run(begun.info.run_id)
        tags = {"tradeoff_id": trial.identifier, "tradeoff": trial.study} | dict(trial.notes)
        started_ms, ended_ms = _milliseconds(trial.started), _milliseconds(trial.ended)
        run_id = self._client.create_run(experiment, start_time=started_ms, run_name=trial.name).info.run_id
        metrics = [
            Metric(_mlflow_name(f"curve/{name}"), value, started_ms + int(1000 * measured.get("train_time_s", 0)), num_samples)
            for num_samples, measured in trial.curve
            for name, value in measured.items()
        ] + [Metric(_mlflow_name(name), value, ended_ms, 0) for name, value in trial.summary.items()]
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MLFLOW_BATCH])
        self._client.log_batch(
            run_id,
            params=[Param(_mlflow_name(name), str(value)) for name, value in trial.config.items()],
            tags=[RunTag(_mlflow_name(name), text) for name, text in tags.items()],
        )
        status = {"failed": "FAILED", "interrupted": "KILLED"}.get(trial.outcome, "FINISHED")
        self._client.set_terminated(run_id, status=status, end_time=ended_ms)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            if (found := self._client.get_experiment_by_name(name)) is None:
                self._experiments[name] = self._client.create_experiment(name)
            else:
                self._experiments[name] = found.experiment_id
        return self._experiments[name]


class TensorBoardTracker:
    """TensorBoard's event files, in TENSORBOARD_LOGGING_DIR; by default in `runs` in the working directory."""

    def write(self, trial: TrackedTrial) -> None:
        """Write a directory of the study's, with the curve, and with parameters and values for the tab HPARAMS."""
        from tensorboardX import SummaryWriter

        # A study may have any name, that of the directory above included; two studies may have the same.
        study = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", "runs")) / re.sub(r"^\.+", "_", trial.study)
        directory = study / f"trial-{trial.number:04}-{trial.identifier[:8]}"
        shutil.rmtree(directory, ignore_errors=True)
        with SummaryWriter(str(directory), filename_suffix=".trial") as writer:
            began_s = trial.started.timestamp()
            for num_samples, measured in trial.curve:
                for name, value in measured.items():
                    writer.add_scalar(name, value, num_samples, walltime=began_s + measured.get("train_time_s", 0.0))
            for name, text in trial.notes.items():
                writer.add_text(name, text)
            config = {name: value for name, value in trial.config.items() if value is not None}
            values = {f"trial/{name}": float(value) for name, value in trial.summary.items()}
            writer.add_hparams(config, values, name=os.curdir)


class TrackioTracker:
    """Trackio's local database, unless TRACKIO_SPACE_ID or its server's URL is set."""

    def __init__(self) -> None:
        with _quiet():
            import trackio

        self._trackio = trackio

    def write(self, trial: TrackedTrial) -> None:
        """Write a run of the project that has the study's name."""
        with _quiet():
            run = self._trackio.init(
                project=trial.study,
                name=f"{trial.name}, {trial.identifier[:8]}",
                config={**trial.config, **trial.notes},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            for num_samples, measured in trial.curve:
                run.log(dict(measured), step=num_samples)
            run.log(dict(trial.summary), step=max((step for step, _ in trial.curve), default=0))
            self._trackio.finish()


# By the name in a study file. Each has an extra of the same name.
TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
}
# What is imported of those whose package has another name.
MODULES = {"tensorboard": "tensorboardX"}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _mlflow_name(name: str) -> str:
    return _NOT_IN_MLFLOW_NAMES.sub("_", name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a library prints from the display of the study."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield

"""Trains a chosen configuration to a model that is kept: with checkpoints, after the same probe that a trial runs.

A checkpoint counts only once it is complete: a process that is killed while it writes one leaves a directory without our
marker, and the next start resumes from the one before.
"""

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.logging import disable_progress_bar

from tradeoff.objectives.device.base import Device
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.measurements.outcome import Evaluation, Measurements, Stage, TrainingResult
from tradeoff.objectives.trainers.workloads import Workload
from tradeoff.objectives.trial.probe import probe
from tradeoff.objectives.trial.reporter import Reporter
from tradeoff.objectives.trial.session import TrialSession
from tradeoff.objectives.trial.training import SHORTEST_S, LearningCurve, tokens_per_s
from tradeoff.searchspace import TrialParameters

# A kill loses at most a twentieth of the training.
CHECKPOINT_SHARE = 0.05
_MARKER = "tradeoff-complete.json"
CHECKPOINTS = "checkpoints"

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrained:
    """The measurements of a training whose model is kept.

    Attributes:
        measurements: The same as a trial's.
        resumed_from_step: The optimizer step of the checkpoint that it resumed from; None if it started from the beginning.
        checkpoint_time_s: Time spent on writing checkpoints, which is not part of the training time.
    """

    measurements: Measurements
    resumed_from_step: int | None
    checkpoint_time_s: float


def retrain(
    job: TrainingSettings,
    parameters: TrialParameters,
    workload: Workload,
    device: Device,
    *,
    output: Path,
    on_progress: Progress,
) -> Retrained:
    """Train, from the last complete checkpoint in `output` if there is one, and save model and tokenizer there.

    Args:
        job: The job.
        parameters: The configuration.
        workload: Builds its Trainers.
        device: The device, started in this process.
        output: The model's directory; it must exist.
        on_progress: Called with `stage`, or a `notice` for the user; within the training with `step` and `total`, or with an
            `evaluation`.

    Raises:
        Exception: Whatever the Trainer raises; most often that memory ran out.
    """
    folder = output / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    begin_s = time.perf_counter()
    session = TrialSession(
        job=job,
        parameters=parameters,
        workload=workload,
        device=device,
        reporter=_CallbackReporter(on_progress),
        folder=str(folder),
        begin_s=begin_s,
        memory_limit_mib=None,
    )
    disable_progress_bar()  # that of writing a checkpoint: the training has its own
    # A configuration that does not fit fails here, in seconds, and peak memory is measured as the study measured it. What the
    # probe's Trainer prints is not about the training.
    with redirect_stdout(io.StringIO()):
        probe(session)
    checkpoint, before = last_checkpoint(folder, lambda line: on_progress({"notice": line}))
    session.reporter.enter("train")
    session.meter.reset_peak()
    with session.trainer(
        eval_strategy="epoch" if job.evaluates else "no",
        save_strategy="steps",
        save_steps=CHECKPOINT_SHARE,
        save_total_limit=2,  # the one that is being written, and the complete one before it
    ) as trainer:
        trainer.remove_callback(PrinterCallback)
        keeper = _CheckpointKeeper(session, on_progress, before)
        keeper.attach(trainer)
        output_of_training = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if job.evaluates and keeper.last_epoch() != trainer.state.epoch:
            trainer.evaluate()  # a kill between the last checkpoint and the last evaluation has left that evaluation out
        train_time_s = max(keeper.train_time_s(), SHORTEST_S)
        keeper.evaluate_kept_model(trainer)
        memory = session.meter.read()
        if not device.training_shows_peak:
            memory = replace(memory, peak_memory_mib=None)
        epochs = trainer.state.epoch or 0.0
        num_samples = round(epochs * keeper.num_train)
        session.training_result = TrainingResult(
            memory=memory,
            train_time_s=train_time_s,
            eval_time_s=keeper.eval_time_s,
            num_steps=trainer.state.global_step,
            num_samples=num_samples,
            samples_per_s=num_samples / train_time_s,
            tokens_per_s=tokens_per_s(trainer, epochs, train_time_s),
            # After resuming, the Trainer's mean covers only the steps since.
            train_loss=output_of_training.training_loss if checkpoint is None else None,
            curve=keeper.evaluations,
        )
        trainer.save_model(str(output))
    workload.save_beside_model(output)
    return Retrained(
        measurements=session.finish(), resumed_from_step=before.get("step"), checkpoint_time_s=keeper.checkpoint_time_s
    )  # fmt: skip


def last_checkpoint(folder: Path, say: Callable[[str], None] = lambda _: None) -> tuple[Path | None, dict[str, Any]]:
    """Return the last complete checkpoint and the content of its marker; remove those that were never finished, or are damaged.

    Args:
        folder: The checkpoints' directory.
        say: Is given a line for the user about each damaged one.
    """
    complete = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            marker = json.loads((path / _MARKER).read_text(encoding="utf-8"))
            if marker["sizes"] != _sizes(path):
                raise ValueError("a file has another size")
            complete.append((int(marker["step"]), path, dict(marker)))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if not isinstance(error, FileNotFoundError):
                say(
                    f"the checkpoint {path} was damaged ({type(error).__name__}) and is removed; the training resumes before it"
                )
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, last, before = max(complete, default=(0, None, {}))
    return last, before


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Return the sizes of a checkpoint's files, in bytes."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(_MARKER)]
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def remove_checkpoints(output: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)


class _CallbackReporter(Reporter):
    """Reports to a function of this process instead of a socket."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self.stage: Stage = "start"

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self._on_progress({"stage": stage})

    def step(self, done: int, total: int) -> None:
        self._on_progress({"stage": self.stage, "step": done, "total": total})

    def measured(self, measurements: Measurements) -> None:
        """Send nothing: the caller gets the measurements."""


class _CheckpointKeeper(LearningCurve):
    """Marks checkpoints as complete, with the time that the training has taken, earlier processes included."""

    def __init__(self, session: TrialSession, on_progress: Progress, before: Mapping[str, Any]) -> None:
        super().__init__(session)
        self._on_progress = on_progress
        self._total_before_s = float(before.get("total_s", 0.0))
        self._begin_s = self._last_event_s = session.clock_s()
        self.checkpoint_time_s = float(before.get("checkpoint_time_s", 0.0))
        self.eval_time_s = float(before.get("eval_time_s", 0.0))
        self.evaluations = [Evaluation(**values) for values in before.get("curve", ())]

    def evaluated(self, point: Evaluation) -> None:
        self._on_progress({"stage": "train", "evaluation": point})
        self._last_event_s = self._session.clock_s()

    def total_s(self) -> float:
        """Return the time of everything so far."""
        return self._total_before_s + self._session.clock_s() - self._begin_s

    def train_time_s(self) -> float:
        """Return the time of the training so far, evaluations and checkpoints left out."""
        return self.total_s() - self.eval_time_s - self.checkpoint_time_s - self.keeping_time_s

    def last_epoch(self) -> float | None:
        """Return the epoch of the last evaluation."""
        return self.evaluations[-1].epoch if self.evaluations else None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        super().on_train_begin()
        self._last_event_s = self._begin_s

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_step_end(args, state, control)
        self._last_event_s = self._session.clock_s()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        super().on_log(args, state, control, logs)
        self._last_event_s = self._session.clock_s()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The time between the previous event and this one went into writing the checkpoint.
        self.checkpoint_time_s += self._session.clock_s() - self._last_event_s
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        marker = {
            "sizes": _sizes(folder),
            "step": state.global_step,
            "total_s": self.total_s(),
            "checkpoint_time_s": self.checkpoint_time_s,
            "eval_time_s": self.eval_time_s,
            "curve": [asdict(evaluation) for evaluation in self.evaluations],
        }
        unfinished = folder / f"{_MARKER}.tmp"
        unfinished.write_text(json.dumps(marker), encoding="utf-8")
        os.replace(unfinished, folder / _MARKER)
        self._last_event_s = self._last_evaluated_s = self._session.clock_s()

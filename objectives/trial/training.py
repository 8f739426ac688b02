"""The training: the Trainer with the trial's own arguments, evaluated at each epoch, and its measurements.

On several devices every rank runs it. Accuracy is that of all evaluation samples, which the Trainer gathers; time and
utilisation are rank 0's, peaks are the highest of all ranks, and energy is their sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import datasets
from transformers import Trainer, TrainerCallback

from tradeoff.objectives.data.samples import row_lengths
from tradeoff.objectives.device.load import ProcessorLoad
from tradeoff.objectives.device.sampler import DeviceSampler
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.measurements.outcome import Evaluation, Memory, TrainingResult
from tradeoff.objectives.trainers.evaluations import evaluation, watch_evaluations
from tradeoff.objectives.trial.ranks import highest
from tradeoff.objectives.trial.session import TrialSession

# What a training takes at least: one of a Trainer that does nothing may take none by the clock.
SHORTEST_S = 1e-6


def train(session: TrialSession) -> TrainingResult:
    """Train to the end and store the result in the session.

    Args:
        session: The trial.

    Raises:
        Exception: Whatever the Trainer raises; most often that memory ran out.
    """
    session.reporter.enter("train")
    session.meter.reset_peak()
    # Where the user's own Trainer keeps its best model, the weights alone, of the best and of the last evaluation.
    with session.trainer(
        eval_strategy="epoch" if session.job.evaluates else "no", save_only_model=True, save_total_limit=1
    ) as trainer:
        curve = LearningCurve(session)
        curve.attach(trainer)
        with DeviceSampler(session.device, held_mib=session.meter.held_mib) as sampler:
            curve.energy_j = sampler.total_energy_j
            load, begin_s = ProcessorLoad(), session.clock_s()
            output = trainer.train()
            total_s = session.clock_s() - begin_s
            busy_share = load.busy_share() if session.ranks.world_size == 1 else None
        session.note_memory("train")
        energy_j = None if sampler.energy_j is None else sampler.energy_j - curve.eval_energy_j
        curve.evaluate_kept_model(trainer)
        train_time_s = max(total_s - curve.eval_time_s - curve.keeping_time_s, SHORTEST_S)
        memory = session.meter.read()
        if not session.device.training_shows_peak:
            memory = replace(memory, peak_memory_mib=None)
        memory = replace(memory, peak_device_mib=sampler.peak_device_mib)
        if sampler.peak_process_mib is not None:
            memory = replace(memory, peak_process_mib=sampler.peak_process_mib)
        shares = session.ranks.gather("train", {"memory": asdict(memory), "energy_j": energy_j})
        energies_j = [share["energy_j"] for share in shares if share["energy_j"] is not None]
        epochs = trainer.state.epoch or 0.0
        num_samples = round(epochs * curve.num_train)
        session.training_result = TrainingResult(
            memory=highest([Memory(**share["memory"]) for share in shares]),
            train_time_s=train_time_s,
            eval_time_s=curve.eval_time_s,
            num_steps=trainer.state.global_step,
            num_samples=num_samples,
            samples_per_s=num_samples / train_time_s,
            tokens_per_s=tokens_per_s(trainer, epochs, train_time_s),
            train_loss=output.training_loss,
            curve=curve.evaluations,
            gpu_utilization_percent=sampler.gpu_utilization_percent,
            energy_j=sum(energies_j) if energies_j else None,
            memory_samples=sampler.memory_samples,
            busy_share=busy_share,
            num_other_processes=sampler.num_other_processes,
        )
    session.report()
    return session.training_result


def num_texts(job: TrainingSettings, trainer: Trainer) -> int:
    """Return the training samples of an epoch; of those that are packed into a sequence each one counts."""
    if isinstance(job, CausalLMJob) and job.packing:
        return sum(map(len, trainer.train_dataset["seq_lengths"]))
    return len(trainer.train_dataset)


def tokens_per_s(trainer: Trainer, epochs: float, train_time_s: float) -> float | None:
    """Return the speed of a training in tokens, without padding; None if the samples are no table of tokens.

    Args:
        trainer: The Trainer.
        epochs: How often it has trained on its samples.
        train_time_s: The time that it took.
    """
    # Items of another data set would have to be read one by one.
    lengths = row_lengths(trainer.train_dataset) if isinstance(trainer.train_dataset, datasets.Dataset) else None
    return None if lengths is None else sum(lengths) * epochs / train_time_s


class LearningCurve(TrainerCallback):  # type: ignore[misc]
    """Collects a training's evaluations, and keeps their time and energy apart from those of the training.

    Attributes:
        evaluations: The points of the curve.
        eval_time_s: Time of all evaluations.
        keeping_time_s: Time in which a Trainer that keeps its best model saved it and loaded it again.
        eval_energy_j: Energy of all evaluations; 0 if nothing counts it.
        energy_j: Returns the energy used so far, or None.
        num_train: The training samples of an epoch, once a Trainer is followed.
    """

    def __init__(self, session: TrialSession) -> None:
        self._session = session
        self._begin_s = 0.0
        self._loss: float | None = None
        self.evaluations: list[Evaluation] = []
        self.eval_time_s = 0.0
        self.keeping_time_s = 0.0
        self._last_evaluated_s: float | None = None
        self.eval_energy_j = 0.0
        self.energy_j: Callable[[], float | None] = lambda: None
        self.num_train = 0

    def attach(self, trainer: Trainer) -> None:
        """Follow the Trainer's evaluations, whatever part of the run calls them."""
        begin_s, begin_j = 0.0, None
        # Counted once, and not while the training is timed: packed texts are counted one sequence after the other.
        self.num_train = num_texts(self._session.job, trainer)

        def before() -> None:
            nonlocal begin_s, begin_j
            begin_s, begin_j = self._session.clock_s(), self.energy_j()

        def after(metrics: Mapping[str, float]) -> None:
            self.eval_time_s += self._session.clock_s() - begin_s
            if begin_j is not None and (end_j := self.energy_j()) is not None:
                self.eval_energy_j += end_j - begin_j
            point = evaluation(
                metrics,
                epoch=float(trainer.state.epoch),
                num_train=self.num_train,
                train_time_s=self.train_time_s(),
                loss=self._loss,
            )
            if self.evaluations and self.evaluations[-1].epoch == point.epoch:
                self.evaluations.pop()  # of the last weights, and this one is of those that are kept
            self.evaluations.append(point)
            self.evaluated(point)
            self._last_evaluated_s = self._session.clock_s()

        watch_evaluations(trainer, before=before, after=after)
        trainer.add_callback(self)

    def train_time_s(self) -> float:
        """Return the time of the training so far, evaluations left out."""
        return self._session.clock_s() - self._begin_s - self.eval_time_s - self.keeping_time_s

    def evaluated(self, point: Evaluation) -> None:
        """React to an evaluation."""

    def evaluate_kept_model(self, trainer: Trainer) -> None:
        """Evaluate the weights that the Trainer has kept, where they are not the last ones: they are what was learned."""
        best = trainer.state.best_global_step
        if trainer.args.load_best_model_at_end and best is not None and best != trainer.state.global_step:
            trainer.evaluate()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._begin_s = self._session.clock_s()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Count the time since the evaluation that told the Trainer to save."""
        self._count_keeping()

    def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
        """Count the time in which the best weights were loaded."""
        if args.load_best_model_at_end:
            self._count_keeping()

    def _count_keeping(self) -> None:
        if self._last_evaluated_s is not None:
            now_s = self._session.clock_s()
            self.keeping_time_s += now_s - self._last_evaluated_s
            self._last_evaluated_s = now_s

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report progress."""
        self._last_evaluated_s = None
        self._session.note_first_step()
        self._session.reporter.step(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Keep the training loss for the next evaluation."""
        self._loss = float(logs["loss"]) if logs and "loss" in logs else self._loss

"""A trial's process replaced by formulas: whole studies in milliseconds, at the `Runner` boundary.

Memory and time have the shape of BERT-base on a GPU with 7,611 MiB, accuracy that of reviews with five stars, with a noise like
a change of seed. The noise depends on the seed and the configuration alone, so a study that goes on repeats what it would have
measured.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import optuna
from memory_storage import in_memory

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Evaluation,
    Measurements,
    Memory,
    OutOfMemory,
    ProbeResult,
    TrainingResult,
)
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.objective import Objective, TrialFailed
from tradeoff.objectives.trial.messages import Answer, Refusal
from tradeoff.searchspace import Categorical, Precision, Reuse, SearchSpace, TrialParameters
from tradeoff.studies.samplers.decoupled import DecoupledSampler
from tradeoff.studies.samplers.publishing import publish
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_study import StoredStudy

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
BUDGET_MIB = 7611.0
NUM_TRAIN = 1000
JOB = TextClassificationJob(train_samples=NUM_TRAIN, epochs=3)
GRADIENTS_MIB = 420.0
UPDATE_S = 0.04
PROBE_S = 6.0
NOISE = 0.008
BASELINE_LOSS = math.log(5)
BEST_LEARNING_RATE = 1e-4
SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((1, 2, 4, 8, 16, 32, 64)),
        "gradient_accumulation_steps": Categorical((1, 2, 4, 8, 16, 32)),
        "gradient_checkpointing": Categorical((False, True)),
        "precision": Categorical(("fp32", "fp16")),
    }
)


def memory_mib(p: TrialParameters) -> float:
    half = p.precision != Precision.FP32
    activations = 611 * (0.55 if half else 1) * (0.12 if p.gradient_checkpointing else 1)
    weights = 417 + 1670 + (210 if half else 0) + (GRADIENTS_MIB if p.gradient_accumulation_steps > 1 else 0)
    return weights + activations * p.per_device_train_batch_size


def micro_step_s(p: TrialParameters) -> float:
    slower = (1.38 if p.gradient_checkpointing else 1) * (0.45 if p.precision != Precision.FP32 else 1)
    return (0.05 + 0.12 * p.per_device_train_batch_size) * slower


def train_time_s(p: TrialParameters) -> float:
    return Schedule.of(JOB, p, num_samples=NUM_TRAIN).train_time_s(micro_step_s(p), UPDATE_S)


def accuracy(p: TrialParameters) -> float:
    """What a class reaches in the mean of all seeds: best at a batch of 8, and at a learning rate that grows with the batch."""
    x = math.log2(p.effective_batch_size())
    away = 0.0
    if "learning_rate" in p:
        away = math.log(p["learning_rate"] / (BEST_LEARNING_RATE * 2 ** (x / 2 - 1.5)), 3)
        # A fitting rate makes up for half of what a large batch loses.
        x = 3 + (x - 3) / 2
    lost = (0.012 if x <= 3 else 0.0095) * (x - 3) ** 2 + 0.03 * away**2
    return max(0.2, 0.63 - lost) - (0.004 if p.precision != Precision.FP32 else 0)


def loss_at(accuracy: float) -> float:
    """An evaluation loss that falls as the accuracy rises, from that of five equally likely answers."""
    return BASELINE_LOSS - 2 * (accuracy - 0.2)


@dataclass
class SimulatedRunner:
    """Runs requests by formula, and notes them.

    Attributes:
        seed: Of the accuracies' noise.
        noise: Standard deviation of an accuracy.
        budget_mib: What fits.
        instead: Answers in the simulation's place where it returns an outcome: for trials that fail.
        probed, trained, out_of_memory: The configurations, in order.
        spent_s: Simulated seconds of everything that was run.
        slowness: Returns the factor by which what is timed at a simulated second is stretched.
    """

    seed: int = 0
    noise: float = NOISE
    budget_mib: float = BUDGET_MIB
    instead: Callable[[TrialParameters, tuple[str, ...]], Any] | None = None
    probed: list[TrialParameters] = field(default_factory=list)
    trained: list[TrialParameters] = field(default_factory=list)
    out_of_memory: list[TrialParameters] = field(default_factory=list)
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    spent_s: float = 0.0
    slowness: Callable[[float], float] = lambda _: 1.0

    def run_trial(
        self, request: Mapping[str, Any], *, time_limit_s: float | None, on_progress: Callable[[Mapping[str, Any]], None] | None
    ) -> Any:
        p = TrialParameters(**request["parameters"])
        stages = tuple(request["stages"])
        self.requests.append(request)
        if self.instead is not None and (outcome := self.instead(p, stages)) is not None:
            return outcome
        if memory_mib(p) > self.budget_mib:
            self.spent_s += PROBE_S / 2
            self.out_of_memory.append(p)
            shortfall = memory_mib(p) - self.budget_mib
            return OutOfMemory(stage="probe", reason=f"no room for {shortfall:.0f} MiB", shortfall_mib=shortfall)
        probe = training = None
        if "probe" in stages:
            self.probed.append(p)
            factor = self.slowness(self.spent_s)
            self.spent_s += PROBE_S
            probe = simulated_probe(p, factor)
        if "train" in stages:
            self.trained.append(p)
            training = self._train(p, request.get("job", {}).get("seed", JOB.seed))
            self.spent_s += training.train_time_s
        return Completed(measurements=Measurements(probe=probe, training=training, trial_time_s=1.0))

    def measured_accuracy(self, p: TrialParameters, job_seed: int = JOB.seed) -> float:
        """What a training of exactly this configuration reaches with this seed."""
        rate = round(p.get("learning_rate", 0) * 1e9)
        key = [
            self.seed, p.per_device_train_batch_size, p.gradient_accumulation_steps, list(Precision).index(p.precision), rate,
        ]  # fmt: skip
        if job_seed != JOB.seed:
            key.append(job_seed)
        return accuracy(p) + self.noise * float(np.random.default_rng(key).normal())

    def _train(self, p: TrialParameters, job_seed: int) -> TrainingResult:
        final, curve = self.measured_accuracy(p, job_seed), []
        total_s = train_time_s(p) * self.slowness(self.spent_s)
        for epoch, lacking in ((1, 0.10), (2, 0.03), (3, 0.0)):
            curve.append(
                Evaluation(
                    epoch=epoch,
                    num_samples=epoch * NUM_TRAIN,
                    train_time_s=total_s * epoch / 3,
                    accuracy=max(0.0, final - lacking),
                    eval_loss=loss_at(max(0.0, final - lacking)),
                )
            )
        return TrainingResult(
            memory=Memory(peak_memory_mib=memory_mib(p)),
            train_time_s=curve[-1].train_time_s,
            eval_time_s=0.0,
            num_steps=1,
            num_samples=curve[-1].num_samples,
            samples_per_s=NUM_TRAIN * 3 / total_s,
            train_loss=1.0,
            curve=curve,
        )


def drifting(*, seed: int, noise: float, drift: float, period_s: float = 300.0) -> Callable[[float], float]:
    """A machine on which what is timed varies from one time to the next, and slowly with the time of the day."""
    random = np.random.default_rng(seed)
    begin = random.random()
    return lambda now_s: math.exp(noise * random.normal() + drift * math.sin(2 * math.pi * (now_s / period_s + begin)))


def simulated_probe(p: TrialParameters, factor: float = 1.0) -> ProbeResult:
    return ProbeResult(
        memory=Memory(peak_memory_mib=memory_mib(p)),
        micro_step_time_s=micro_step_s(p) * factor,
        optimizer_step_time_s=UPDATE_S * factor,
        eval_batch_time_s=0.1,
        estimated_train_time_s=train_time_s(p),
        probe_time_s=PROBE_S,
        gradients_mib=GRADIENTS_MIB,
    )


@dataclass
class SimulatedEstimate:
    """`tradeoff.objectives.isolation.background.BackgroundTask` whose answer is made when it is asked for."""

    request: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Answer | Refusal | None]

    def reply(self, *, timeout_s: float | None = 0.0) -> Answer | Refusal | None:
        return self.make(self.request)

    def cancel(self) -> None: ...


@dataclass
class SimulatedServer:
    """`TrialServer` for `run_study`, over a simulated runner."""

    log: ClassVar = ""
    runner: SimulatedRunner
    estimate_answer: Callable[[Mapping[str, Any]], Answer | Refusal | None] = field(
        default=lambda request: Refusal(error="simulated")
    )

    def __enter__(self) -> "SimulatedServer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def describe_device(self) -> dict[str, Any]:
        return DEVICE

    def start_task(self, request: Mapping[str, Any]) -> "SimulatedEstimate":
        return SimulatedEstimate(request, self.estimate_answer)

    def prepare(self, *_: Any, **__: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {"folders": {}, "num_train": NUM_TRAIN, "num_eval": 500, "contents": {}}
        return facts | {"baselines": {"accuracy": 0.2}, "lacks": [], "notices": []}

    def run_trial(self, request: Mapping[str, Any], **arguments: Any) -> Any:
        return self.runner.run_trial(request, **arguments)


DEVICE = {
    "kind": "cuda",
    "name": "Simulated GPU",
    "uuid": None,
    "total_memory_mib": BUDGET_MIB,
    "num_cpus": 8,
    "precisions": ["fp32", "fp16", "bf16"],
}


def objective(
    runner: SimulatedRunner,
    *,
    space: SearchSpace = SPACE,
    objectives: tuple[str, ...] = OBJECTIVES,
    reuse: Reuse = Reuse.EFFECTIVE_BATCH,
    memory_limit_mib: float = BUDGET_MIB,
    publishes_at_end: bool = False,
    num_eval: int | None = None,
) -> Objective:
    """The objective; that of a decoupled search publishes at its end."""
    terms = setup(
        space,
        objectives=objectives,
        reuse=reuse,
        memory_limit_mib=memory_limit_mib,
        publishes_at_end=publishes_at_end,
        num_eval=num_eval,
    )
    return Objective(setup=terms, data_folders={}, runner=runner)


def setup(space: SearchSpace = SPACE, **terms: Any) -> StudySetup:
    given: dict[str, Any] = {"job": JOB, "objectives": OBJECTIVES, "num_train": NUM_TRAIN, "memory_limit_mib": BUDGET_MIB}
    return StudySetup(space=space, **(given | terms))


def learned(goal: Objective, study: optuna.Study) -> tuple[Sequence[TrialRecord], Knowledge]:
    """The study's trials in order, and what they settle."""
    snapshot = goal.snapshot(study)
    return snapshot.records, snapshot.knowledge


def decoupled(goal: Objective, *, seed: int = 0) -> DecoupledSampler:
    return DecoupledSampler(
        setup=goal.setup,
        snapshot=goal.snapshot,
        baselines={"accuracy": 0.2, "eval_loss": BASELINE_LOSS},
        seed=seed,
    )


def new_study(
    sampler: optuna.samplers.BaseSampler,
    *,
    storage: Any = None,
    name: str = "simulated",
    objectives: tuple[str, ...] = OBJECTIVES,
) -> StoredStudy:
    """Creates a study, or resumes it; the storage is a URL, an open one, or None for one in memory."""
    if not isinstance(storage, RetryingStorage):
        storage = in_memory() if storage is None else open_storage(storage)
    directions = [GOALS[objective].direction for objective in objectives]
    optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    return StoredStudy(name, storage, sampler)


def tell(study: optuna.Study, trial: optuna.Trial, goal: Objective) -> None:
    """Runs a trial that was asked for, and ends it as `study.optimize` would."""
    try:
        study.tell(trial, goal(trial))
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except TrialFailed:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def search(study: StoredStudy, goal: Objective, *, max_trials: int = 150) -> str | None:
    """Runs a decoupled study until it ends by itself, and says why; None if it was still going on after `max_trials`."""
    sampler = study.sampler
    assert isinstance(sampler, DecoupledSampler)
    for _ in range(max_trials):
        if (why := sampler.finished(study)) is not None:
            publish(study, goal.setup)
            return why
        trial = study.ask()
        with contextlib.suppress(KeyboardInterrupt):
            tell(study, trial, goal)
    return None


# The worst that still counts, of -accuracy, time and memory.
_REFERENCE = np.array([-0.15, 1500.0, 7700.0])


def hypervolume(configurations: list[TrialParameters]) -> float:
    """The hypervolume of configurations at their true accuracy."""
    import moocore

    points = np.array([[-accuracy(p), train_time_s(p), memory_mib(p)] for p in configurations]).reshape(-1, 3)
    points = points[(points < _REFERENCE).all(axis=1)]
    return float(moocore.hypervolume(points, ref=_REFERENCE)) if len(points) else 0.0


def true_hypervolume(space: SearchSpace = SPACE, *, budget_mib: float = BUDGET_MIB) -> float:
    """The hypervolume of everything that fits."""
    return hypervolume([p for p in space.grid() if memory_mib(p) <= budget_mib])

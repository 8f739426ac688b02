"""What a front costs in a space of eight knobs: multivariate TPE and the decoupled search, on a surrogate of real trainings.

    python benchmarks/wide_cost.py measure TABLE.json --trainings 120   # goes on where it was ended
    python benchmarks/wide_cost.py replay TABLE.json --seeds 5

The job is that of `examples/any_knob.yaml` with half of its training samples, and with the batches that learn something from
them. Such a space can't be measured configuration by
configuration, so both searches are replayed on a surrogate of real measurements:

- Memory and the times of a step are those of probes, one for each combination of batch, checkpointing, precision and whether
  gradients accumulate. Times are smoothed: linear in the batch.
- Accuracy comes from trainings at random points of the space. A random forest (K. Eggensperger et al., "Efficient benchmarking
  of hyperparameter optimizers via surrogates", AAAI 2015) predicts each epoch's accuracy; it is of another kind than the models
  of either search. `replay` prints its error on trainings that it did not see. To what it predicts comes the noise of an
  evaluation on so many samples, drawn once for each learning class and seed.

A search pays for each trial what that would cost by these measurements, and for its own decisions the processor time that they
take. It is judged by what the surrogate, without noise, says of the configurations on its own front. Both start from the same
seeds; ratios are taken seed by seed.
"""

import argparse
import json
import statistics
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from search_cost import ARMS, Point, ReplayRunner, Truth, key, replay_arm, report
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.measurements.outcome import to_json
from tradeoff.searchspace import SearchSpace, TrialParameters
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.execution.preparation import cache_folder

EXAMPLE = Path(__file__).parent.parent / "examples" / "any_knob.yaml"
SMALLER = (
    "job.train_samples=1200",
    "space.per_device_train_batch_size={powers_of_two: [8, 64]}",
    "space.gradient_accumulation_steps=[1, 2]",
)
COMPARED = ("(a) TPE, every trial trained", "(f) decoupled, with repeats")
NUM_REFERENCE = 20_000  # random configurations, whose front is the reference
Json = dict[str, Any]


def draw(space: SearchSpace, count: int, seed: int) -> Iterator[TrialParameters]:
    """Random configurations of a space."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        yield space.suggest(study.ask())


# ------------------------------------------------------------------------------------------------------------ measure


def measure(path: Path, num_trainings: int) -> None:
    """Probes every structure that differs in memory or time, and trains at random points."""
    table: Json = json.loads(path.read_text()) if path.exists() else {"probes": {}, "trainings": {}}
    config = load_config(EXAMPLE, overrides=SMALLER)
    with TrialServer() as server:
        device = server.describe_device()
        space, _ = available_space(config, device)
        prepared = server.prepare(job_of_data(config.job, space.domains).model_dump(), cache_folder())
        table |= {"device": device, "prepared": prepared, "config": config.plain()}

        def run(parameters: TrialParameters, stage: str) -> Json:
            request = {
                "job": config.job.model_dump(),
                "parameters": parameters.as_dict(),
                "data_folders": prepared["folders"],
                "stages": [stage],
                "memory_limit_mib": config.limits.peak_memory_mib,
            }
            outcome: Json = json.loads(to_json(server.run_trial(request)))
            assert outcome["kind"] in ("completed", "out_of_memory"), outcome
            return outcome

        for parameters in {cost_class(one): one for one in draw(space, 2000, seed=0)}.values():
            if (name := cost_class(parameters)) not in table["probes"]:
                table["probes"][name] = run(parameters, "probe")
                path.write_text(json.dumps(table))
                print(name, table["probes"][name]["kind"], flush=True)
        for number, drawn in enumerate(draw(space, num_trainings, seed=1)):
            # Checkpointing changes no accuracy.
            parameters = drawn.replace(gradient_checkpointing=False)
            name = key(parameters.as_dict())
            if table["probes"][cost_class(parameters)]["kind"] == "completed" and name not in table["trainings"]:
                table["trainings"][name] = run(parameters, "train")
                path.write_text(json.dumps(table))
                training = table["trainings"][name]["measurements"]["training"]
                print(f"[{number + 1}/{num_trainings}] {name} {training['curve'][-1]['accuracy']:.3f}", flush=True)


def cost_class(parameters: TrialParameters) -> str:
    """What memory and the time of a step depend on."""
    return key(
        {
            "batch": parameters.per_device_train_batch_size,
            "accumulates": parameters.gradient_accumulation_steps > 1,
            "checkpointing": parameters.gradient_checkpointing,
            "precision": str(parameters.precision),
        }
    )


# ---------------------------------------------------------------------------------------------------------- surrogate


@dataclass(frozen=True)
class Surrogate:
    """What any configuration costs and reaches, as the measurements tell."""

    table: Json

    @cached_property
    def config(self) -> StudyConfig:
        return StudyConfig.model_validate(self.table["config"])

    @cached_property
    def space(self) -> SearchSpace:
        return available_space(self.config, self.table["device"])[0]

    @cached_property
    def observations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, accuracies and the number of the training, for each evaluation of each training."""
        rows, accuracies, groups = [], [], []
        for number, (name, outcome) in enumerate(self.table["trainings"].items()):
            parameters = self.space.parameters(json.loads(name))
            for point in outcome["measurements"]["training"]["curve"]:
                rows.append(self.features(parameters, point["epoch"]))
                accuracies.append(point["accuracy"])
                groups.append(number)
        return np.array(rows), np.array(accuracies), np.array(groups)

    @cached_property
    def forest(self) -> Any:
        rows, accuracies, _ = self.observations
        return new_forest().fit(rows, accuracies)

    def features(self, parameters: TrialParameters, epoch: float) -> list[float]:
        epochs = float(parameters.get("num_train_epochs"))
        batch = parameters.effective_batch_size()
        return [
            np.log2(parameters.get("learning_rate")),
            np.log2(batch),
            np.log2(parameters.get("learning_rate") / batch**0.5),
            float(parameters.get("weight_decay")),
            float(parameters.get("warmup_ratio")),
            epochs,
            epoch,
            np.log2(epoch / batch),
            float(parameters.precision == "bf16"),
        ]

    def accuracies(self, configurations: list[TrialParameters]) -> np.ndarray:
        """The accuracy of each after its last epoch."""
        rows = [self.features(one, float(one.get("num_train_epochs"))) for one in configurations]
        return np.asarray(self.forest.predict(np.array(rows)))

    @cached_property
    def step_s(self) -> dict[str, float]:
        """The time of a micro-step by cost class: a line in the batch for each way to compute, through all of its probes."""
        probes: dict[str, list[tuple[str, int, float]]] = {}
        for name, outcome in self.table["probes"].items():
            if outcome["kind"] == "completed":
                values = json.loads(name)
                way = key({"checkpointing": values["checkpointing"], "precision": values["precision"]})
                step_s = outcome["measurements"]["probe"]["micro_step_time_s"]
                probes.setdefault(way, []).append((name, values["batch"], step_s))
        found = {}
        for way in probes.values():
            batches, times = np.array([batch for _, batch, _ in way]), np.array([step_s for _, _, step_s in way])
            # Relative errors count alike.
            line = np.polynomial.Polynomial.fit(batches, times, 1, w=1 / times)
            found |= {name: max(float(line(batch)), float(times.min())) for name, batch, _ in way}
        return found

    @cached_property
    def update_s(self) -> float:
        """The time of an optimizer's update: the same in all."""
        done = [outcome["measurements"]["probe"] for outcome in self.table["probes"].values() if outcome["kind"] == "completed"]
        return statistics.median(probe["optimizer_step_time_s"] for probe in done)

    @cached_property
    def start_s(self) -> float:
        """The time of a trial besides its training: the process, the data, the model."""
        spent = [outcome["measurements"] for outcome in self.table["trainings"].values()]
        return statistics.median(
            one["trial_time_s"] - one["training"]["train_time_s"] - one["training"]["eval_time_s"] for one in spent
        )

    def train_time_s(self, parameters: TrialParameters) -> float:
        schedule = Schedule.of(self.config.job, parameters, num_samples=self.table["prepared"]["num_train"])
        return schedule.train_time_s(self.step_s[cost_class(parameters)], self.update_s)

    def values(self, parameters: TrialParameters) -> tuple[float, float, float] | None:
        """The objectives of a configuration; None if it runs out of memory."""
        probe = self.table["probes"][cost_class(parameters)]
        if probe["kind"] != "completed":
            return None
        memory_mib = probe["measurements"]["probe"]["memory"]["peak_memory_mib"]
        return float(self.accuracies([parameters])[0]), self.train_time_s(parameters), memory_mib

    def outcome(self, name: str, seed: int) -> Json:
        """What a trial of a configuration measures with this seed."""
        parameters = self.space.parameters(json.loads(name))
        probed = self.table["probes"][cost_class(parameters)]
        if probed["kind"] != "completed":
            return dict(probed)
        measured = next(iter(self.table["trainings"].values()))["measurements"]["training"]
        train_s, probe = self.train_time_s(parameters), probed["measurements"]["probe"]
        schedule = Schedule.of(self.config.job, parameters, num_samples=self.table["prepared"]["num_train"])
        num_epochs = int(parameters.get("num_train_epochs"))
        num_eval = self.table["prepared"]["num_eval"]
        draw = np.random.default_rng(zlib.crc32(f"{seed} {parameters.learning_class()}".encode()))
        predicted = self.forest.predict(np.array([self.features(parameters, epoch) for epoch in range(1, num_epochs + 1)]))
        seen = np.clip(predicted + draw.normal(size=num_epochs) * np.sqrt(predicted * (1 - predicted) / num_eval), 0, 1)
        eval_s = num_epochs * probe["eval_batch_time_s"] * num_eval / self.config.job.eval_batch_size
        point = measured["curve"][0]
        curve = [
            point
            | {
                "epoch": float(epoch + 1),
                "num_samples": schedule.num_samples * (epoch + 1) // num_epochs,
                "train_time_s": train_s * (epoch + 1) / num_epochs,
                "accuracy": float(accuracy),
                "metrics": {"eval_accuracy": float(accuracy)},
            }
            for epoch, accuracy in enumerate(seen)
        ]
        training = measured | {
            "memory": probe["memory"],
            "train_time_s": train_s,
            "eval_time_s": eval_s,
            "num_steps": schedule.num_updates,
            "num_samples": schedule.num_samples,
            "samples_per_s": schedule.num_samples / train_s,
            "curve": curve,
            "busy_share": 0.0,
            "memory_samples": [],
        }
        step = {
            "micro_step_time_s": self.step_s[cost_class(parameters)],
            "optimizer_step_time_s": self.update_s,
            "estimated_train_time_s": train_s,
            "busy_share": 0.0,
        }
        trial_s = self.start_s + probe["probe_time_s"] + train_s + eval_s
        measurements = probed["measurements"] | {"probe": probe | step, "training": training, "trial_time_s": trial_s}
        return {"kind": "completed", "measurements": measurements}


def new_forest() -> Any:
    return RandomForestRegressor(n_estimators=100, min_samples_leaf=2, max_features=0.6, random_state=0)


class Outcomes(Mapping[str, Json]):
    """The outcome of every configuration there can be."""

    def __init__(self, surrogate: Surrogate, seed: int) -> None:
        self._surrogate, self._seed = surrogate, seed
        self._known: dict[str, Json] = {}

    def __getitem__(self, name: str) -> Json:
        if name not in self._known:
            self._known[name] = self._surrogate.outcome(name, self._seed)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class SurrogateRunner(ReplayRunner):
    """Answers a request with what the surrogate says, with any seed."""

    def __init__(self, table: Json, *, probes: bool) -> None:
        super().__init__(table, probes=probes)
        self._table = table
        self._of_seed: dict[int, Outcomes] = {self._seed: table["outcomes"]}

    def run_trial(self, request: Json, **settings: Any) -> Any:
        seed = request["job"]["seed"]
        self._outcomes = self._of_seed.setdefault(seed, Outcomes(self._table["surrogate"], seed))
        return super().run_trial(request, **settings)

    def _with_seed(self, training: Any, request: Json) -> Any:
        return training


class SurrogateValues(Mapping[str, tuple[float, float, float]]):
    """The true values of every configuration that fits."""

    def __init__(self, surrogate: Surrogate) -> None:
        self._surrogate = surrogate
        self._known: dict[str, tuple[float, float, float] | None] = {}

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        if name not in self._known:
            self._known[name] = self._surrogate.values(self._surrogate.space.parameters(json.loads(name)))
        return self._known[name] is not None

    def __getitem__(self, name: str) -> tuple[float, float, float]:
        if name in self and (values := self._known[name]) is not None:
            return values
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def reference(surrogate: Surrogate) -> Truth:
    """The truth, and the hypervolume of the best of many random configurations."""
    drawn = [one for one in draw(surrogate.space, NUM_REFERENCE, seed=2) if cost_class(one) in surrogate.step_s]
    values = SurrogateValues(surrogate)
    accuracies = surrogate.accuracies(drawn)
    table = surrogate.table
    memory_mib = {
        name: table["probes"][name]["measurements"]["probe"]["memory"]["peak_memory_mib"] for name in surrogate.step_s
    }
    points = {
        key(one.as_dict()): (float(accuracy), surrogate.train_time_s(one), memory_mib[cost_class(one)])
        for one, accuracy in zip(drawn, accuracies, strict=True)
    }
    slowest = max(time_s for _, time_s, _ in points.values())
    baseline = table["prepared"]["baselines"]["accuracy"]
    worst = np.array([-baseline, slowest * 1.01, table["config"]["limits"]["peak_memory_mib"] * 1.01])
    full = Truth(points, worst, 0.0).volume(points)
    return Truth(values, worst, full)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "replay"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--trainings", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.what == "measure":
        measure(options.table, options.trainings)
        return
    table = json.loads(options.table.read_text())
    surrogate = Surrogate(table)
    rows, accuracies, groups = surrogate.observations
    predicted = cross_val_predict(new_forest(), rows, accuracies, groups=groups, cv=GroupKFold(8))
    off = np.abs(predicted - accuracies)
    explained = 1 - np.mean((predicted - accuracies) ** 2) / np.var(accuracies)
    print(f"{len(table['trainings'])} trainings, {len(table['probes'])} probes; the best accuracy is {accuracies.max():.3f}")
    print(f"on trainings that it did not see, it is off by {np.median(off):.3f} in the median ({explained:.0%} explained)")
    truth = reference(surrogate)
    table |= {"surrogate": surrogate, "outcomes": Outcomes(surrogate, table["config"]["job"]["seed"]), "seeds": {}}
    curves: dict[str, list[list[Point]]] = {}
    for seed in range(options.seeds):
        for arm in (arm for arm in ARMS if arm.name in COMPARED):
            points, _ = replay_arm(arm, table, truth, seed, runner_type=SurrogateRunner, clock_s=time.process_time)
            curves.setdefault(arm.name, []).append(points)
            last = points[-1]
            print(f"seed {seed} {arm.name}: {last.volume:.1%} after {last.wall_s:.0f} s", file=sys.stderr, flush=True)
    report(curves, COMPARED[0])


if __name__ == "__main__":
    main()

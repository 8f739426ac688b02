"""Measure a table of a study's job: every configuration, several seeds and times of each.

    python benchmarks/fronts/measure.py embedded RAW.json times         # first, on an idle machine
    python benchmarks/fronts/measure.py embedded RAW.json trainings     # can share the machine: only what is learned is taken
    python benchmarks/fronts/measure.py embedded RAW.json table         # writes tables/embedded.json

The first argument names a study of `STUDIES`. Both measurements go on where they were ended. `times` probes every configuration
in rounds, one after another, so that whatever the machine does meanwhile spreads over all of them, and without the limit of
memory, so that the peak of what does not fit is known; what that costs within the limit is measured once. `trainings` trains
each learning class of which something fits by its fastest member, with several seeds.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.measurements.outcome import Completed, OutOfMemory, to_json
from tradeoff.searchspace import SearchSpace, TrialParameters
from tradeoff.studies.config.presets import embedded, embedded_lm
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import prepare

NUM_SEEDS, NUM_ROUNDS = 5, 5
Json = dict[str, Any]


def _changed(config: StudyConfig, name: str, job: Json, space: Json, limits: Json) -> StudyConfig:
    plain = config.plain()
    changes = {"job": plain["job"] | job, "space": plain["space"] | space, "limits": plain["limits"] | limits}
    return StudyConfig.model_validate(plain | {"name": name} | changes)


def rate() -> StudyConfig:
    """The embedded job with twice the samples and a learning rate: three times as many classes for the same structures."""
    space = {
        "per_device_train_batch_size": [16, 64, 256, 512],
        "gradient_accumulation_steps": [1, 4],
        "precision": ["fp32", "bf16"],
        "learning_rate": [2e-3, 8e-3, 3.2e-2],
    }
    return _changed(embedded(), "rate", {"train_samples": 4800}, space, {})


def language() -> StudyConfig:
    """The embedded language model, with a limit that the largest batches exceed."""
    return _changed(embedded_lm(), "embedded-lm", {}, {}, {"peak_memory_mib": 95})


STUDIES: dict[str, Callable[[], StudyConfig]] = {"embedded": embedded, "rate": rate, "embedded-lm": language}


class Measured:
    """A study's raw measurements, in a file."""

    def __init__(self, config: StudyConfig, path: Path, server: TrialServer) -> None:
        ready = prepare(config, server, Interrupts(), display=PlainDisplay(), measures_baselines=True)
        self.config, self.path = config, path
        self.space, self.data, self.device = ready.space, ready.data, ready.device
        self._objective, self._runner = ready.objective(PlainDisplay()), ready.runner
        self.raw: Json = json.loads(path.read_text()) if path.exists() else {"probes": {}, "limited": {}, "trainings": {}}

    def run(self, parameters: TrialParameters, stage: str, seed: int | None = None, *, limited: bool = False) -> Any:
        """Run a stage of a configuration in a process of its own."""
        request = self._objective.request(parameters, (stage,))
        if not limited:
            request["memory_limit_mib"] = None
        if seed is not None:
            request["job"] |= {"seed": seed}
        outcome = self._runner.run_trial(request, time_limit_s=None, on_progress=None)
        assert isinstance(outcome, Completed | OutOfMemory), outcome
        return json.loads(to_json(outcome)) | {"load": os.getloadavg()[0]}

    def save(self) -> None:
        """Write what there is; an end in the middle leaves the file as it was."""
        written = self.path.with_suffix(".part")
        written.write_text(json.dumps(self.raw))
        written.replace(self.path)


def key(parameters: TrialParameters) -> str:
    return json.dumps(parameters.as_dict(), sort_keys=True)


def measure_times(measured: Measured, num_rounds: int) -> None:
    """Probe every structure in rounds, and what does not fit within the limit once."""
    structures, limit_mib = measured.space.structures, measured.config.limits.peak_memory_mib
    for number in range(num_rounds):
        for structure in structures:
            probes = measured.raw["probes"].setdefault(key(structure), [])
            if len(probes) <= number:
                probes.append(measured.run(measured.space.complete(structure), "probe"))
                measured.save()
        print(f"round {number + 1} of {num_rounds}: {len(structures)} configurations", flush=True)
    for structure in structures:
        peak_mib = _peak_mib(measured.raw["probes"][key(structure)])
        if limit_mib is not None and peak_mib > limit_mib and key(structure) not in measured.raw["limited"]:
            measured.raw["limited"][key(structure)] = measured.run(measured.space.complete(structure), "probe", limited=True)
            measured.save()


def measure_trainings(measured: Measured, num_seeds: int) -> None:
    """Train every class with several seeds; the least seeds come first."""
    wanted = list(_fastest_members(measured))
    first = measured.config.job.seed
    begin_s = time.monotonic()
    for seed in range(first, first + num_seeds):
        for number, parameters in enumerate(wanted):
            trainings = measured.raw["trainings"].setdefault(key(parameters), {})
            if str(seed) in trainings or _is_too_large(measured, parameters):
                continue
            trainings[str(seed)] = measured.run(parameters, "train", seed, limited=True)
            measured.save()
            minutes = (time.monotonic() - begin_s) / 60
            print(f"seed {seed}, {number + 1} of {len(wanted)}, {minutes:.0f} min", flush=True)


def _is_too_large(measured: Measured, parameters: TrialParameters) -> bool:
    """Return True if a seed or a probe has shown that a configuration does not fit."""
    limit_mib = measured.config.limits.peak_memory_mib
    trainings = measured.raw["trainings"].get(key(parameters), {}).values()
    probes = measured.raw["probes"].get(key(parameters.structure), [])
    has_failed = any(each["kind"] == "out_of_memory" for each in trainings)
    return has_failed or (limit_mib is not None and bool(probes) and _peak_mib(probes) > limit_mib)


def _fastest_members(measured: Measured) -> Iterator[TrialParameters]:
    """Yield the fastest member of each class that fits; its times were measured before."""
    fastest: dict[Any, tuple[float, TrialParameters]] = {}
    for parameters in measured.space.grid():
        if not _is_too_large(measured, parameters):
            entry = _train_time_s(measured, parameters), parameters
            known = fastest.setdefault(parameters.learning_class(), entry)
            fastest[parameters.learning_class()] = min(known, entry, key=lambda each: each[0])
    return (parameters for _, parameters in fastest.values())


def _train_time_s(measured: Measured, parameters: TrialParameters) -> float:
    probes = measured.raw["probes"][key(parameters.structure)]
    schedule, steps = _schedule(measured, parameters, probes), [probe["measurements"]["probe"] for probe in probes]
    return schedule.train_time_s(*(statistics.median(step[name] for step in steps) for name in STEP_TIMES))


STEP_TIMES = ("micro_step_time_s", "optimizer_step_time_s")


def _schedule(measured: Measured, parameters: TrialParameters, probes: list[Json]) -> Schedule:
    num_rows = probes[0]["measurements"]["probe"]["num_rows"] or measured.data["num_train"]
    return Schedule.of(job_of(measured.config.job, parameters), parameters, num_samples=num_rows)


def _peak_mib(probes: list[Json]) -> float:
    return float(statistics.median(each["measurements"]["probe"]["memory"]["peak_memory_mib"] for each in probes))


# --------------------------------------------------------------------------------------------------------------- the table


def table(measured: Measured) -> Json:
    """Return the table of what was measured."""
    config, job = measured.config, measured.config.job
    learned = config.objectives[0]
    rows, curves = [], {}
    steps_of = _steps_by_micro_batch(measured)
    for parameters in measured.space.grid():
        probes = measured.raw["probes"][key(parameters.structure)]
        timed = steps_of[_without_accumulation(parameters)]
        peak_mib = _peak_mib(probes)
        steps = [probe["measurements"]["probe"] for probe in probes]
        limited = measured.raw["limited"].get(key(parameters.structure))
        name = _class_name(parameters, measured.space)
        trainings = [
            each["measurements"]["training"]
            for each in measured.raw["trainings"].get(key(parameters), {}).values()
            if each["kind"] == "completed"
        ]
        if trainings:
            curves[name] = [[round(point[learned], 5) for point in training["curve"]] for training in trainings]
        schedule = _schedule(measured, parameters, probes)
        start_s = statistics.median(
            probe["measurements"]["trial_time_s"] - step["probe_time_s"] for probe, step in zip(probes, steps, strict=True)
        )
        probe_s = statistics.median(step["probe_time_s"] for step in steps)
        if limited is not None:  # until it has run out
            probe_s = max(limited["measurements"]["trial_time_s"] - start_s, 0.0)
        num_epochs = round(parameters.get("num_train_epochs", job.epochs))
        num_batches = math.ceil(measured.data["num_eval"] / job.eval_batch_size)
        eval_batch_s = statistics.median(step["eval_batch_time_s"] for step in steps)
        rows.append(
            {
                "parameters": parameters.as_dict(),
                "learning_class": name,
                "num_epochs": num_epochs,
                "micro_step_s": [round(step["micro_step_time_s"], 6) for step in timed],
                "update_s": round(statistics.median(step["optimizer_step_time_s"] for step in timed), 6),
                "num_micro_steps": schedule.num_micro_batches,
                "num_updates": schedule.num_updates,
                "eval_s": round(eval_batch_s * num_batches * num_epochs, 3),
                "peak_memory_mib": round(peak_mib, 2),
                "start_s": round(start_s, 3),
                "probe_s": round(probe_s, 3),
                "num_rows": steps[0]["num_rows"],
            }
        )
    loads = [probe["load"] for probes in measured.raw["probes"].values() for probe in probes]
    return {
        "name": config.name,
        "about": f"the {config.name} study on a processor; load of the machine while times were measured: "
        f"{statistics.median(loads):.1f} (up to {max(loads):.1f})",
        "source": "measured by benchmarks/fronts/measure.py",
        "licence": "Apache-2.0",
        "knobs": {name: list(domain.values() or ()) for name, domain in measured.space.domains.items()},
        "learned": learned,
        "baseline": measured.data["baselines"][learned],
        "num_train": measured.data["num_train"],
        "num_eval": measured.data["num_eval"],
        "num_packed": measured.data.get("num_packed") or {},
        "memory_limit_mib": config.limits.peak_memory_mib or measured.device["total_memory_mib"],
        "gradients_mib": statistics.median(
            probe["measurements"]["probe"]["gradients_mib"] for probes in measured.raw["probes"].values() for probe in probes
        ),
        "time_noise": 0.0,
        "job": config.plain()["job"],
        "curves": curves,
        "rows": rows,
    }


def _steps_by_micro_batch(measured: Measured) -> dict[str, list[Json]]:
    """The timed steps of all configurations that differ in accumulation alone: they run the same steps, a few more or fewer."""
    found: dict[str, list[Json]] = {}
    for structure in measured.space.structures:
        steps = [probe["measurements"]["probe"] for probe in measured.raw["probes"][key(structure)]]
        found.setdefault(_without_accumulation(structure), []).extend(steps)
    return found


def _without_accumulation(parameters: TrialParameters) -> str:
    return key(parameters.structure.replace(gradient_accumulation_steps=1))


def _class_name(parameters: TrialParameters, space: SearchSpace) -> str:
    varied = {
        name: value
        for name, value in parameters.learning_class().items()
        if name not in space.domains or len(space.domains[name].values() or ()) != 1
    }
    return json.dumps(varied, sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("raw", type=Path)
    parser.add_argument("what", choices=("trainings", "times", "table"))
    options = parser.parse_args()
    config = STUDIES[options.study]()
    with TrialServer() as server:
        measured = Measured(config, options.raw, server)
        if options.what == "times":
            measure_times(measured, NUM_ROUNDS)
        elif options.what == "trainings":
            measure_trainings(measured, NUM_SEEDS)
        else:
            write(table(measured))


def write(content: Json) -> None:
    """Write a table, one row a line."""
    rows = ",\n".join(json.dumps(row) for row in content.pop("rows"))
    path = Path(__file__).parent / "tables" / f"{content['name']}.json"
    path.write_text(json.dumps(content, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    print(path.name, rows.count("\n") + 1, "configurations", path.stat().st_size // 1024, "KiB", file=sys.stderr)


if __name__ == "__main__":
    main()

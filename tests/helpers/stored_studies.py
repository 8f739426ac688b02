"""Studies as `tradeoff run` stores them, built trial by trial with no training."""

import math
import random
from typing import Any

import optuna
from memory_storage import in_memory
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord, stored_attributes
from tradeoff.studies.storage.opening import SCHEMA, SCHEMA_ATTRIBUTE
from tradeoff.studies.storage.stored_study import StoredStudy

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
DISTRIBUTIONS = {
    "per_device_train_batch_size": CategoricalDistribution((1, 2, 4, 8, 16, 32, 64)),
    "gradient_accumulation_steps": CategoricalDistribution((1, 2, 4)),
    "gradient_checkpointing": CategoricalDistribution((False, True)),
    "precision": CategoricalDistribution(("fp32", "fp16", "bf16")),
}


def params(batch: int, accumulation: int = 1, *, checkpointing: bool = False, precision: str = "fp32") -> dict[str, Any]:
    return {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": checkpointing,
        "precision": precision,
    }


def completed(values: tuple[float, ...], configuration: dict[str, Any], **attributes: Any) -> FrozenTrial:
    names = OBJECTIVES[: len(values)]
    stored = {"outcome": "completed", "samples_per_s": 100.0 / values[1]}
    stored |= {f"{name}_source": "measured" for name in names}
    if "training" in attributes:
        attributes["training"] = whole_training(**attributes["training"])
    attributes = stored_attributes(stored | attributes)
    return create_trial(values=list(values), params=configuration, distributions=DISTRIBUTIONS, user_attrs=attributes)


def whole_training(**measured: Any) -> dict[str, Any]:
    """A training as it is stored, with these measurements."""
    whole = {"memory": {"peak_memory_mib": None}, "train_time_s": 1.0, "eval_time_s": 0.0, "num_steps": 1, "num_samples": 100}
    curve = [{"epoch": 1.0, "train_time_s": 1.0} | point for point in measured.get("curve", ())]
    return whole | {"samples_per_s": 100.0, "train_loss": None} | measured | {"curve": curve}


def out_of_memory(configuration: dict[str, Any], shortfall_mib: float = 512.0) -> FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED,
        params=configuration,
        distributions=DISTRIBUTIONS,
        user_attrs=stored_attributes(
            {
                "outcome": "out_of_memory",
                "stage": "probe",
                "reason": "out of memory in the probe",
                "memory_shortfall_mib": shortfall_mib,
            }
        ),
        system_attrs={"constraints": [shortfall_mib]},
        constraints={"memory_shortfall_mib": shortfall_mib},
    )


# On the front: 0, 1, 2 and 4. Trial 3 is dominated by trial 1 in everything.
TRIALS = (
    completed((0.80, 40.0, 900.0), params(8)),
    completed((0.79, 20.0, 1000.0), params(16)),
    completed((0.70, 10.0, 2000.0), params(32)),
    completed((0.78, 21.0, 1100.0), params(16, checkpointing=True)),
    completed((0.60, 50.0, 500.0), params(4, 2, checkpointing=True)),
    out_of_memory(params(64)),
)


def make_study(
    storage: Any, trials: tuple[FrozenTrial, ...] = TRIALS, *, name: str = "stars", objectives: tuple[str, ...] = OBJECTIVES
) -> StoredStudy:
    """A study with these trials; None stores it in memory."""
    storage = in_memory() if storage is None else storage
    optuna.create_study(study_name=name, storage=storage, directions=[GOALS[objective].direction for objective in objectives])
    study = StoredStudy(name, storage)
    study.set_metric_names(list(objectives))
    job = TextClassificationJob(epochs=2, learning_rate=3e-4, seed=7)
    config = {
        "name": name,
        "job": job.model_dump(mode="json"),
        "objectives": list(objectives),
        "limits": {"peak_memory_mib": 2500},
    }
    study.set_user_attr(
        "device", {"kind": "cpu", "name": "Test CPU", "uuid": None, "total_memory_mib": 8192.0, "precisions": ["fp32"]}
    )
    study.set_user_attr("versions", {"torch": "2.13.0", "transformers": "5.23.0"})
    study.set_user_attr("tradeoff_version", "0.1.0")
    study.set_user_attr(SCHEMA_ATTRIBUTE, SCHEMA)
    study.set_user_attr("config", config)
    for trial in trials:
        study.add_trial(trial)
    return study


def record(
    number: int, values: tuple[float, ...], configuration: dict[str, Any] | None = None, **attributes: Any
) -> TrialRecord:
    """A completed record; each number is a configuration of its own unless one is given."""
    return TrialRecord(
        number=number,
        outcome="completed",
        params={"per_device_train_batch_size": number + 1} if configuration is None else configuration,
        values=dict(zip(OBJECTIVES, values, strict=False)),
        attributes=attributes,
    )


def large_study(count: int = 2000) -> StoredStudy:
    """A study of many configurations of ten parameters, with a front of a few dozen."""
    rates = FloatDistribution(1e-6, 1e-2, log=True)
    choices = {
        "optim": ("adamw_torch", "adafactor", "sgd"),
        "lora_rank": (4, 8, 16),
        "warmup_steps": (0.0, 0.02, 0.1),
        "max_grad_norm": (0.5, 1.0, 2.0),
        "lr_scheduler_type": ("linear", "cosine"),
    }
    domains = {
        **DISTRIBUTIONS,
        "learning_rate": rates,
        **{name: CategoricalDistribution(each) for name, each in choices.items()},
    }
    generator = random.Random(7)
    trials = []
    for number in range(count):
        chosen = {name: generator.choice(each.choices) for name, each in domains.items() if name != "learning_rate"}
        chosen["learning_rate"] = 10 ** generator.uniform(-5.5, -2.5)
        batch = chosen["per_device_train_batch_size"]
        accuracy = (
            0.9 - 0.05 * abs(math.log10(chosen["learning_rate"]) + 4) - 0.02 * math.log2(batch) + generator.gauss(0, 0.02)
        )
        time_s = 400 / batch**0.5 * (1.4 if chosen["gradient_checkpointing"] else 1.0) * generator.uniform(0.9, 1.1)
        memory_mib = 300 + 60 * batch * (0.4 if chosen["gradient_checkpointing"] else 1.0) * generator.uniform(0.95, 1.05)
        attributes = {"outcome": "completed"} | {f"{name}_source": "measured" for name in OBJECTIVES}
        if number % 3 == 1:
            attributes |= {"accuracy_source": "trained in trial 0", "train_time_s_source": ("probe", "model")[number % 2]}
        values = [round(accuracy, 4), time_s, memory_mib]
        trials.append(
            create_trial(values=values, params=chosen, distributions=domains, user_attrs=stored_attributes(attributes))
        )
    return make_study(in_memory(), tuple(trials), name="large")
